//! The health of this machine's GPUs: looked at every few seconds, published, and obeyed.
//!
//! Guaranteed: nothing that a driver or its library does holds up anything else here. What cannot be watched is said once
//! and tried again; the server works without.

mod amd;
mod nvidia;
mod sampler;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use overnight_domain::gpu_health::{GpuFacts, GpuHealth, GpuReins, GpuUse, Heat, HeatLimits};
use overnight_domain::limits::GPU_SILENT_AFTER;
use overnight_domain::time::UnixTime;
use serde::Serialize;

use crate::clock;
use crate::config::EngineConfig;
use crate::context::Context;
use crate::holds::Holder;
use crate::pulse::Pulse;
use sampler::{Look, Sampler, Unknown};

const SYSFS: &str = "/sys";
/// Between two beats, whatever the driver does.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What is known of the GPUs now, for everybody to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gpus(Arc<Mutex<Published>>);

#[derive(Debug, Clone, Default)]
struct Published {
    view: GpuView,
    refusal: Option<String>,
}

/// The GPUs as people see them. What is not known is null.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct GpuView {
    pub(crate) healthy: Option<bool>,
    /// Of the fullest.
    pub(crate) memory_percent: Option<f64>,
    /// Of the hottest.
    pub(crate) temperature_c: Option<u32>,
    /// Why it is not healthy, or why nothing is known.
    pub(crate) reason: Option<String>,
    pub(crate) devices: Vec<DeviceView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceView {
    #[serde(flatten)]
    pub(crate) facts: GpuFacts,
    pub(crate) memory_percent: Option<f64>,
    pub(crate) heat: Heat,
}

impl Gpus {
    pub(crate) fn view(&self) -> GpuView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).view.clone()
    }

    /// Why no batch is taken: the GPU of every endpoint is unhealthy.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refusal.clone()
    }

    fn publish(&self, view: GpuView, refusal: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Published { view, refusal };
    }

    #[cfg(test)]
    pub(crate) fn publish_refusal(&self, refusal: Option<&str>) {
        self.publish(GpuView::default(), refusal.map(str::to_owned));
    }
}

/// Watches until the server stops.
pub(crate) async fn run(ctx: Arc<Context>, pulse: Pulse) -> anyhow::Result<()> {
    let mut sampler = Sampler::start(ctx.config.gpu.library.clone(), Path::new(SYSFS).to_owned())?;
    let mut watch = Watch::new(&ctx);
    let mut looked_at = Instant::now();
    let mut tick = tokio::time::interval(BEAT_EVERY);
    loop {
        pulse.beat();
        let look = tokio::select! {
            () = ctx.stop.cancelled() => return Ok(()),
            look = sampler.next() => Some(look?),
            _ = tick.tick() => None,
        };
        match look {
            Some(look) => {
                looked_at = Instant::now();
                watch.on_look(look, clock::now());
            }
            None if looked_at.elapsed() >= GPU_SILENT_AFTER => {
                watch.on_silence(looked_at.elapsed(), clock::now());
            }
            None => {}
        }
    }
}

/// What follows from each look.
struct Watch<'a> {
    ctx: &'a Context,
    health: GpuHealth,
    /// The endpoints that run on GPUs of this machine.
    uses: Vec<(&'a EngineConfig, GpuUse)>,
    /// What was logged last, so that it is logged once.
    said: Option<Unknown>,
    heats: BTreeMap<u32, Heat>,
    /// What was logged last, in per cent.
    ceilings: BTreeMap<&'a str, Option<u32>>,
}

impl<'a> Watch<'a> {
    fn new(ctx: &'a Context) -> Self {
        let config = &ctx.config;
        let limits = HeatLimits { warn_at: config.gpu.warn_at, unhealthy_at: config.gpu.unhealthy_at };
        let uses = config.engines.iter().filter_map(|engine| Some((engine, usage(engine)?)));
        Self {
            ctx,
            health: GpuHealth::new(limits),
            uses: uses.collect(),
            said: None,
            heats: BTreeMap::new(),
            ceilings: BTreeMap::new(),
        }
    }

    fn on_look(&mut self, mut look: Look, now: UnixTime) {
        self.health.observe(&look.devices, now);
        look.unknown = look.unknown.take().or_else(|| self.misplaced(&look.devices));
        self.say(look.unknown.as_ref());
        self.say_heats(&look.devices);
        self.follow(look);
    }

    fn on_silence(&mut self, silence: Duration, now: UnixTime) {
        self.health.observe(&[], now);
        let unknown = Unknown::trouble("the driver of the GPU does not answer");
        self.say(Some(&unknown));
        self.say_heats(&[]);
        let text = format!("{}: it has been silent for {} s", unknown.text, silence.as_secs());
        let unknown = Unknown::trouble(text);
        self.follow(Look { devices: Vec::new(), unknown: Some(unknown) });
    }

    /// An engine on a GPU that is not there: its owner has miscounted, and nobody watches for it.
    fn misplaced(&self, devices: &[GpuFacts]) -> Option<Unknown> {
        let is_there = |gpu: u32| devices.iter().any(|facts| facts.index == gpu);
        let wrong = self.uses.iter().find_map(|(engine, usage)| {
            usage.gpu.filter(|gpu| !is_there(*gpu)).map(|gpu| (&engine.name, gpu))
        });
        let (name, gpu) = wrong.filter(|_| !devices.is_empty())?;
        let known: Vec<String> = devices.iter().map(ToString::to_string).collect();
        Some(Unknown::trouble(format!(
            "engine `{name}` is on GPU {gpu} (engine.gpu), and there is only {}",
            known.join(", ")
        )))
    }

    /// Sets the reins of the endpoints, and shows everything.
    fn follow(&mut self, look: Look) {
        let mut reasons: Vec<String> = Vec::new();
        let mut held = 0;
        for (engine, usage) in &self.uses {
            let GpuReins { hold, ceiling_percent } = self.health.reins(*usage);
            held += usize::from(hold.is_some());
            reasons.extend(hold.clone());
            self.ctx.holds.set(&engine.name, Holder::Gpu, hold);
            if usage.memory_rule {
                self.ctx.holds.set_ceiling(&engine.name, ceiling_percent);
                let before = self.ceilings.insert(&engine.name, ceiling_percent).flatten();
                if before != ceiling_percent {
                    let endpoint = &engine.name;
                    tracing::info!(
                        endpoint,
                        ceiling_percent,
                        "the memory of the GPU sets the window's ceiling"
                    );
                }
            }
        }
        reasons.sort_unstable();
        reasons.dedup();
        let is_full_stop = held > 0 && held == self.ctx.config.engines.len();
        let refusal = is_full_stop.then(|| reasons.join("; "));
        self.ctx.gpus.publish(self.view(look, &reasons), refusal);
    }

    fn view(&self, look: Look, reasons: &[String]) -> GpuView {
        let heats = look.devices.iter().map(|facts| self.health.heat(facts.index));
        let worst = heats.max().filter(|heat| *heat != Heat::Unknown);
        let is_ill = !reasons.is_empty() || worst == Some(Heat::TooHot);
        let device = |facts: GpuFacts| DeviceView {
            memory_percent: facts.memory_percent().map(|percent| (percent * 10.0).round() / 10.0),
            heat: self.health.heat(facts.index),
            facts,
        };
        let unknown = look.unknown.map(|unknown| unknown.text);
        let devices: Vec<DeviceView> = look.devices.into_iter().map(device).collect();
        GpuView {
            healthy: if is_ill { Some(false) } else { worst.map(|_| true) },
            memory_percent: devices
                .iter()
                .filter_map(|device| device.memory_percent)
                .max_by(f64::total_cmp),
            temperature_c: devices.iter().filter_map(|device| device.facts.temperature_c).max(),
            reason: if reasons.is_empty() { unknown } else { Some(reasons.join("; ")) },
            devices,
        }
    }

    fn say(&mut self, unknown: Option<&Unknown>) {
        if self.said.as_ref() == unknown {
            return;
        }
        match unknown {
            Some(Unknown { text, is_trouble: true }) => tracing::warn!("{text}; work goes on unwatched"),
            Some(Unknown { text, .. }) => tracing::info!("{text}"),
            None => tracing::info!("the GPU is watched"),
        }
        self.said = unknown.cloned();
    }

    fn say_heats(&mut self, devices: &[GpuFacts]) {
        let known: Vec<u32> = self.heats.keys().copied().collect();
        let seen = devices.iter().map(|facts| facts.index).filter(|index| !known.contains(index));
        for index in seen.chain(known.clone()).collect::<Vec<_>>() {
            let heat = self.health.heat(index);
            let before = self.heats.insert(index, heat).unwrap_or_default();
            let degrees = devices.iter().find(|facts| facts.index == index);
            let degrees = degrees.and_then(|facts| facts.temperature_c);
            match (before, heat) {
                (before, heat) if before == heat => {}
                (_, Heat::TooHot) => {
                    tracing::warn!(gpu = index, degrees, "the GPU is too hot; nothing is sent to it");
                }
                (Heat::TooHot, Heat::Unknown) => {
                    tracing::warn!(gpu = index, "the GPU was too hot and tells nothing; work goes on");
                }
                (Heat::TooHot, _) => {
                    tracing::info!(gpu = index, degrees, "the GPU has cooled; work goes on");
                }
                (_, Heat::Warm) => tracing::warn!(gpu = index, degrees, "the GPU is nearly too hot"),
                _ => {}
            }
        }
    }
}

/// How the endpoint runs on the GPUs of this machine. None: on none of them.
fn usage(engine: &EngineConfig) -> Option<GpuUse> {
    engine.is_on_this_machine().then_some(GpuUse { gpu: engine.gpu, memory_rule: engine.memory_rule })
}

#[cfg(test)]
mod tests {
    use overnight_engine::EngineKind;

    use super::*;

    #[test]
    fn what_runs_elsewhere_has_no_gpu_here() {
        for (url, is_here) in [
            ("http://127.0.0.1:8000/v1", true),
            ("http://localhost:11434", true),
            ("http://[::1]:8000/v1", true),
            ("http://0.0.0.0:8000/v1", true),
            ("http://gpu1:8000/v1", false),
            ("http://10.0.0.7:8000/v1", false),
            ("https://localhost.example/v1", false),
        ] {
            assert_eq!(
                usage(&EngineConfig::at("a", EngineKind::OpenAi, url)).is_some(),
                is_here,
                "{url}"
            );
        }
        let mut tunnelled = EngineConfig::at("a", EngineKind::OpenAi, "http://10.0.0.7:8000/v1");
        tunnelled.gpu = Some(1);
        assert_eq!(usage(&tunnelled), Some(GpuUse { gpu: Some(1), memory_rule: false }));
    }
}
