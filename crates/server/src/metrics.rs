//! What `/metrics` says, in the text format of Prometheus. Counters count what is durable.

use std::fmt::{Display, Write as _};

use overnight_domain::batch::{BatchState, BatchStatus};
use overnight_domain::gpu_health::Heat;
use overnight_store::QueueView;

use crate::context::Context;
use crate::counters::get;
use crate::endpoints::EndpointState;
use crate::gpu::DeviceView;

/// All series; those of the store only when it could be asked.
pub(crate) fn render(ctx: &Context, queue: Option<&QueueView>) -> String {
    let mut page = Page(String::new());
    process(ctx, &mut page);
    endpoints(ctx, &mut page);
    gpus(ctx, &mut page);
    if let Some(queue) = queue {
        store(queue, &mut page);
    }
    page.0
}

fn process(ctx: &Context, page: &mut Page) {
    let counters = &ctx.counters;
    page.head("overnight_build_info", "gauge", "The version that runs.");
    page.one("overnight_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.head("overnight_requests_total", "counter", "Requests with a durable result, by outcome.");
    for (outcome, counter) in
        [("completed", &counters.requests_completed), ("failed", &counters.requests_failed)]
    {
        page.one("overnight_requests_total", &[("outcome", outcome)], get(counter));
    }
    page.head("overnight_tokens_total", "counter", "Tokens as the engines reported them.");
    for (direction, counter) in [("input", &counters.input_tokens), ("output", &counters.output_tokens)]
    {
        page.one("overnight_tokens_total", &[("direction", direction)], get(counter));
    }
    for (name, help, value) in [
        ("overnight_attempts_total", "Calls of an engine.", get(&counters.attempts)),
        (
            "overnight_attempts_charged_total",
            "Attempts that used up one of their request.",
            get(&counters.attempts_charged),
        ),
        ("overnight_engine_busy_total", "Answers that said: no room now.", get(&counters.engine_busy)),
        (
            "overnight_late_results_dropped_total",
            "Results that came second or too late.",
            get(&counters.late_results_dropped),
        ),
        ("overnight_commits_total", "Group commits of the result log.", get(&counters.commits)),
        ("overnight_commit_failures_total", "Commits that failed.", get(&counters.commit_failures)),
    ] {
        page.head(name, "counter", help);
        page.one(name, &[], value);
    }
    page.head(
        "overnight_commit_lag_seconds",
        "gauge",
        "How long the oldest answer of the last commit waited.",
    );
    page.one("overnight_commit_lag_seconds", &[], get(&counters.commit_lag_micros) as f64 / 1e6);
    page.head("overnight_memory_used_bytes", "gauge", "Bodies and answers in memory.");
    page.one("overnight_memory_used_bytes", &[], get(&counters.memory_used));
    page.head(
        "overnight_dispatcher_seen_seconds",
        "gauge",
        "When the dispatcher last turned, since 1970.",
    );
    page.one("overnight_dispatcher_seen_seconds", &[], get(&counters.dispatcher_seen_at) as f64 / 1e3);
    page.head("overnight_disk_free_bytes", "gauge", "Free bytes of the data directory's disk.");
    page.one("overnight_disk_free_bytes", &[], ctx.disk.free());
    page.head(
        "overnight_disk_full",
        "gauge",
        "1 while nothing is accepted or dispatched for want of disk.",
    );
    page.one("overnight_disk_full", &[], u8::from(ctx.disk.is_full()));
}

fn endpoints(ctx: &Context, page: &mut Page) {
    let views = ctx.endpoints.view();
    page.head("overnight_endpoint_up", "gauge", "Whether the endpoint can be used.");
    for view in &views {
        let is_up = view.state == EndpointState::Up;
        page.one("overnight_endpoint_up", &[("endpoint", &view.name)], u8::from(is_up));
    }
    page.head("overnight_inflight_requests", "gauge", "Calls in flight at the endpoint.");
    for view in &views {
        page.one("overnight_inflight_requests", &[("endpoint", &view.name)], view.in_flight);
    }
    page.head("overnight_window_requests", "gauge", "How many may be in flight at the endpoint.");
    for view in &views {
        page.one("overnight_window_requests", &[("endpoint", &view.name)], view.window);
    }
}

/// What a GPU does not tell has no line.
fn gpus(ctx: &Context, page: &mut Page) {
    let devices = ctx.gpus.view().devices;
    let mut series = |name: &str, help: &str, value: fn(&DeviceView) -> Option<f64>| {
        page.head(name, "gauge", help);
        for device in &devices {
            if let Some(value) = value(device) {
                page.one(name, &[("gpu", &device.facts.index.to_string())], value);
            }
        }
    };
    series("overnight_gpu_healthy", "0 while the GPU is too hot to be sent anything.", |device| {
        (device.heat != Heat::Unknown).then(|| f64::from(u8::from(device.heat != Heat::TooHot)))
    });
    series("overnight_gpu_temperature_celsius", "Temperature of the GPU.", |device| {
        device.facts.temperature_c.map(f64::from)
    });
    series("overnight_gpu_memory_used_bytes", "Memory of the GPU in use, whoever uses it.", |device| {
        device.facts.memory_used_bytes.map(|len| len as f64)
    });
    series("overnight_gpu_memory_bytes", "Memory of the GPU.", |device| {
        device.facts.memory_total_bytes.map(|len| len as f64)
    });
    series("overnight_gpu_power_watts", "Power that the GPU draws.", |device| device.facts.power_watts);
    series("overnight_gpu_utilization_ratio", "Share of the time in which the GPU worked.", |device| {
        device.facts.utilization_percent.map(|percent| f64::from(percent) / 100.0)
    });
}

fn store(queue: &QueueView, page: &mut Page) {
    page.head("overnight_batches", "gauge", "Batches by status.");
    for status in BatchStatus::ALL {
        let states = BatchState::ALL.into_iter().filter(|state| state.status() == status);
        let count: u64 = states.filter_map(|state| queue.batches.get(&state)).sum();
        page.one("overnight_batches", &[("status", status.as_str())], count);
    }
    page.head(
        "overnight_backlog_requests",
        "gauge",
        "Requests of unfinished batches without a committed result.",
    );
    let backlog: u64 = queue.backlog.iter().map(|(_, count)| count).sum();
    page.one("overnight_backlog_requests", &[], backlog);
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes any text");
    }

    fn one(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("a string takes any text");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_endpoints_cannot_break_the_format() {
        let mut page = Page(String::new());
        page.one("a", &[("endpoint", "x\"} 1\ny\\")], 2);
        assert_eq!(page.0, "a{endpoint=\"x\\\"} 1\\ny\\\\\"} 2\n");
    }
}
