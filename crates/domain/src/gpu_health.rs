//! How the GPUs of this machine are, and what follows for the endpoints that run on them.
//!
//! Too hot, and nothing is sent until it is five degrees cooler. Full memory alone means nothing, because nearly every
//! engine fills the GPU when it loads; who wants it to count says so for an engine. What is not known holds nobody back,
//! except for a moment: a GPU that was too hot and falls silent is not taken for cool at once.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::limits::GPU_FORGOTTEN_AFTER;
use crate::time::UnixTime;

/// What one look at a GPU has shown. What it does not tell is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GpuFacts {
    /// From 0: NVIDIA's in the order of the PCI bus, then AMD's.
    pub index: u32,
    pub name: Option<String>,
    pub uuid: Option<String>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub temperature_c: Option<u32>,
    pub power_watts: Option<f64>,
    pub utilization_percent: Option<u32>,
    pub processes: Option<Vec<GpuProcess>>,
    /// What it could not be asked, and why.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuProcess {
    pub pid: u32,
    pub memory_bytes: Option<u64>,
}

impl GpuFacts {
    /// In hundredths of a per cent.
    fn memory_share(&self) -> Option<u64> {
        let (used, total) = (self.memory_used_bytes?, self.memory_total_bytes?);
        (total > 0).then(|| (u128::from(used) * 10_000 / u128::from(total)).min(10_000) as u64)
    }

    pub fn memory_percent(&self) -> Option<f64> {
        self.memory_share().map(|share| share as f64 / 100.0)
    }
}

impl fmt::Display for GpuFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "GPU {} ({name})", self.index),
            None => write!(f, "GPU {}", self.index),
        }
    }
}

/// Degrees from which something follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeatLimits {
    pub warn_at: u32,
    pub unhealthy_at: u32,
}

impl HeatLimits {
    /// Work goes on from here on down.
    pub const fn resume_at(self) -> u32 {
        self.unhealthy_at.saturating_sub(SLACK as u32)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heat {
    #[default]
    Unknown,
    Fine,
    Warm,
    /// Nothing more may be sent to what runs on it.
    TooHot,
}

/// What a limit is undercut by before it is taken back: degrees, or per cent of the memory.
const SLACK: u64 = 5;
/// From which share of the memory on the window's ceiling falls, and to how many per cent of the setting: the rule of
/// 5,000, 3,000, 1,000 and 500 requests that people know from servers of this kind.
const MEMORY_STEPS: [(u64, u32); 3] = [(7_000, 60), (8_000, 20), (9_000, 10)];
/// Over 95 per cent is unhealthy.
const MEMORY_UNHEALTHY: u64 = 9_501;

/// How many of the rising limits hold. One that held before is kept until it is undercut by `slack`.
fn level(before: usize, value: u64, limits: &[u64], slack: u64) -> usize {
    let holds = |(at, limit): (usize, &u64)| value >= *limit || (at < before && value + slack > *limit);
    limits.iter().enumerate().take_while(|step| holds(*step)).count()
}

/// What is held of one GPU from look to look.
#[derive(Debug, Clone)]
struct Watched {
    facts: GpuFacts,
    heat: usize,
    memory: usize,
    temperature_at: Option<UnixTime>,
    memory_at: Option<UnixTime>,
    /// Why nothing is sent, in the words of the moment in which it began: a reason that changed with each degree would
    /// be news each time.
    too_hot: Option<String>,
    too_full: Option<String>,
}

impl Watched {
    fn new(facts: &GpuFacts) -> Self {
        Self {
            facts: facts.clone(),
            heat: 0,
            memory: 0,
            temperature_at: None,
            memory_at: None,
            too_hot: None,
            too_full: None,
        }
    }

    fn is_too_hot(&self) -> bool {
        self.heat > 1
    }

    fn is_too_full(&self) -> bool {
        self.memory > MEMORY_STEPS.len()
    }

    /// Finds the words for what has begun, and drops those of what is over.
    fn find_words(&mut self, limits: HeatLimits) {
        let device = &self.facts;
        let HeatLimits { unhealthy_at, .. } = limits;
        let resume_at = limits.resume_at();
        let too_hot = self.too_hot.take().or_else(|| {
            let degrees = device.temperature_c?;
            Some(format!(
                "{device} got to {degrees} °C: from {unhealthy_at} °C on nothing is sent to it (gpu.unhealthy_at) until \
                 it has cooled to {resume_at} °C"
            ))
        });
        let too_full = self.too_full.take().or_else(|| {
            let percent = device.memory_percent()?;
            Some(format!(
                "the memory of {device} got {percent:.1} % full: over 95 % nothing is sent to it (engine.memory_rule) \
                 until it is at 90 %"
            ))
        });
        self.too_hot = too_hot.filter(|_| self.is_too_hot());
        self.too_full = too_full.filter(|_| self.is_too_full());
    }
}

/// The GPUs of this machine, over time.
#[derive(Debug, Clone)]
pub struct GpuHealth {
    limits: HeatLimits,
    watched: BTreeMap<u32, Watched>,
}

/// How an endpoint runs on the GPUs of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuUse {
    /// None: any of them, as far as anybody knows.
    pub gpu: Option<u32>,
    /// Whether full memory counts.
    pub memory_rule: bool,
}

/// What follows for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuReins {
    /// Why nothing may be sent to it.
    pub hold: Option<String>,
    /// Per cent of its window's setting.
    pub ceiling_percent: Option<u32>,
}

impl GpuHealth {
    pub fn new(limits: HeatLimits) -> Self {
        Self { limits, watched: BTreeMap::new() }
    }

    /// Takes in a look at all GPUs; an empty one when nobody answered.
    pub fn observe(&mut self, devices: &[GpuFacts], now: UnixTime) {
        let heats = [u64::from(self.limits.warn_at), u64::from(self.limits.unhealthy_at)];
        for facts in devices {
            let watched = self.watched.entry(facts.index).or_insert_with(|| Watched::new(facts));
            watched.facts = facts.clone();
            if let Some(degrees) = facts.temperature_c {
                watched.heat = level(watched.heat, u64::from(degrees), &heats, SLACK);
                watched.temperature_at = Some(now);
            }
            if let Some(share) = facts.memory_share() {
                let [(first, _), (second, _), (third, _)] = MEMORY_STEPS;
                let limits = [first, second, third, MEMORY_UNHEALTHY];
                watched.memory = level(watched.memory, share, &limits, SLACK * 100);
                watched.memory_at = Some(now);
            }
            watched.find_words(self.limits);
        }
        let is_old =
            |seen: Option<UnixTime>| seen.is_none_or(|seen| now.since(seen) >= GPU_FORGOTTEN_AFTER);
        for watched in self.watched.values_mut() {
            if is_old(watched.temperature_at) {
                (watched.heat, watched.temperature_at) = (0, None);
            }
            if is_old(watched.memory_at) {
                (watched.memory, watched.memory_at) = (0, None);
            }
            watched.find_words(self.limits);
        }
        self.watched.retain(|index, watched| {
            watched.temperature_at.is_some()
                || watched.memory_at.is_some()
                || devices.iter().any(|facts| facts.index == *index)
        });
    }

    pub fn heat(&self, index: u32) -> Heat {
        match self.watched.get(&index) {
            Some(watched) if watched.temperature_at.is_some() => match watched.heat {
                0 => Heat::Fine,
                1 => Heat::Warm,
                _ => Heat::TooHot,
            },
            _ => Heat::Unknown,
        }
    }

    /// What follows for an endpoint that runs here.
    pub fn reins(&self, usage: GpuUse) -> GpuReins {
        let mut reins = GpuReins::default();
        let mut reasons = Vec::new();
        let is_used = |index: u32| usage.gpu.is_none_or(|gpu| gpu == index);
        for (_, watched) in self.watched.iter().filter(|(index, _)| is_used(**index)) {
            reasons.extend(watched.too_hot.clone());
            if usage.memory_rule {
                reasons.extend(watched.too_full.clone());
                let step = watched.memory.min(MEMORY_STEPS.len());
                let ceiling = step.checked_sub(1).map(|step| MEMORY_STEPS[step].1);
                reins.ceiling_percent = [reins.ceiling_percent, ceiling].into_iter().flatten().min();
            }
        }
        reins.hold = (!reasons.is_empty()).then(|| reasons.join("; "));
        reins
    }
}

#[cfg(test)]
mod tests;
