//! The names of all settings: the one list that the file, the environment, the flags and the documentation share.

use super::environment::PREFIX;

/// Settings outside the repeated tables. The variable of each is `OVERNIGHT_` and the key in capitals, with `_` for
/// the dot.
pub(crate) const SETTINGS: &[&str] = &[
    "profile",
    "data",
    "store",
    "blobs",
    "log",
    "server.listen",
    "server.hosts",
    "server.insecure",
    "server.stuck_after",
    "server.inhibit_sleep",
    "limits.requests_per_batch",
    "limits.unfinished_batches",
    "limits.queued_requests",
    "limits.file_len",
    "queue.max_active_batches",
    "retention.files",
    "retention.outputs",
    "dispatch.memory_len",
    "dispatch.request_len_max",
    "dispatch.answer_len_max",
    "dispatch.attempts_max",
    "dispatch.hard_expiry",
    "dispatch.commit_after",
    "gpu.library",
    "gpu.warn_at",
    "gpu.unhealthy_at",
    "discovery.ports",
    "notify.command",
    "notify.url",
    "notify.headers",
    "notify.events",
    "notify.no_progress_after",
    "notify.no_endpoint_after",
];

/// Those whose value may be a secret itself, and not only the name of one.
pub(crate) const SECRET_SETTINGS: &[&str] = &["notify.url", "notify.headers"];

/// The tables that hold them.
pub(super) const TABLES: &[&str] =
    &["server", "limits", "queue", "retention", "dispatch", "gpu", "discovery", "notify"];

/// The variable that lists the addresses of engines, for those who have no file.
pub(super) const ENGINE_VARIABLE: &str = "OVERNIGHT_ENGINE";

/// Members of each `[[engine]]`.
pub(crate) const ENGINE: &[&str] = &[
    "name",
    "kind",
    "url",
    "concurrency",
    "inputs_per_call",
    "tokens_per_call",
    "api_key",
    "headers",
    "models",
    "aliases",
    "num_ctx",
    "gpu",
    "memory_rule",
    "command",
    "environment",
    "ready_within",
    "stall_after",
    "idle_after",
    "memory_max",
];

/// Members of each `[[key]]`.
pub(crate) const KEY: &[&str] = &["name", "tenant", "value", "admin"];

/// Members of each `[[model]]`.
pub(crate) const MODEL: &[&str] = &["name", "serves", "engines"];

/// What is meant well but cannot be honoured, and what to do about it.
const NOT_YET: [(&str, &str); 1] = [(
    "schedule",
    "this build cannot keep to hours of the day yet: leave it out, and pause and resume batches instead",
)];

pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

pub(super) fn setting_of_variable(name: &str) -> Option<&'static str> {
    SETTINGS.iter().copied().find(|key| variable(key) == name)
}

/// Why a key is not taken, with the known keys that look like it.
pub(super) fn refusal<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let not_yet = NOT_YET.iter().find(|(name, _)| {
        key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    if let Some((_, why)) = not_yet {
        return format!("`{key}` cannot be honoured: {why}");
    }
    let close = close_names(key, known);
    if close.is_empty() {
        return format!("unknown key `{key}`; `overnight config` lists the known ones");
    }
    let close: Vec<String> = close.iter().map(|name| format!("`{name}`")).collect();
    format!("unknown key `{key}`; did you mean {}?", close.join(" or "))
}

/// At most three, the closest first. The last part of a key counts for itself: people forget the table.
fn close_names<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const DISTANCE_MAX: usize = 2;
    let distance = |name: &str| {
        let last = |text: &'_ str| text.rsplit('.').next().map(str::to_owned).unwrap_or_default();
        let parts = strsim::damerau_levenshtein(&last(key), &last(name)) + 1;
        strsim::damerau_levenshtein(key, name).min(parts)
    };
    let mut close: Vec<(usize, &str)> = known
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= DISTANCE_MAX)
        .collect();
    close.sort_unstable();
    close.into_iter().take(3).map(|(_, name)| name).collect()
}
