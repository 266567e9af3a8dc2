//! An endpoint as the dispatcher sees it: its window, its health, what it serves, and who was lost with it.

use std::collections::HashMap;
use std::time::Duration;

use crate::fault::Fault;
use crate::limits::{
    BACKOFF_FIRST, DOUBT_FOR, MISCONFIGURED_RETRY, PACKS_BUSY_MAX, PROBE_FIRST, PROBE_MAX,
    RETRY_AFTER_MAX,
};
use crate::pack::PackLimits;
use crate::patience::{Deadline, backoff};
use crate::window::Window;

use super::Pack;
use super::packing::Packing;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointNumber(pub u16);

impl EndpointNumber {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Clone)]
pub struct EndpointSettings {
    pub window: u32,
    /// What it serves. None: not known, so it may serve anything.
    pub models: Option<Vec<String>>,
    /// How much one call may carry, until more is known.
    pub pack_limits: PackLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Connections were lost; a probe tells whether the engine is gone.
    Doubted {
        detail: String,
    },
    Down {
        detail: String,
    },
    /// It refuses us as a whole; one request at a time tries whether that has changed.
    Misconfigured {
        detail: String,
        trial_at: Duration,
    },
}

/// A call whose connection was lost.
#[derive(Debug)]
pub(super) struct LostCall {
    pub(super) pack: Pack,
    pub(super) sent_at: Duration,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) window: Window,
    pub(super) deadline: Deadline,
    pub(super) health: Health,
    /// How much one call to it may carry.
    pub(super) packing: Packing,
    pub(super) in_flight: u32,
    models: Option<Vec<String>>,
    /// Why nothing may be sent to it, whatever its health.
    withheld: Option<String>,
    /// Models that it said it does not know, until it is asked again.
    blocked: HashMap<String, Duration>,
    paused_until: Duration,
    busy_in_a_row: u32,
    /// Those of them that came while it had no other call of ours.
    busy_alone_in_a_row: u32,
    probe_at: Duration,
    failed_probes: u32,
    is_probing: bool,
    /// Calls whose connections were lost since the last probe.
    lost: Vec<LostCall>,
    /// How many calls were in flight when the first of them was lost.
    in_flight_at_loss: u32,
}

impl Endpoint {
    pub(super) fn new(settings: EndpointSettings) -> Self {
        Self {
            window: Window::new(settings.window),
            deadline: Deadline::default(),
            health: Health::Up,
            packing: Packing::new(settings.pack_limits),
            in_flight: 0,
            models: settings.models,
            withheld: None,
            blocked: HashMap::new(),
            paused_until: Duration::ZERO,
            busy_in_a_row: 0,
            busy_alone_in_a_row: 0,
            probe_at: Duration::ZERO,
            failed_probes: 0,
            is_probing: false,
            lost: Vec::new(),
            in_flight_at_loss: 0,
        }
    }

    pub(super) fn set_models(&mut self, models: Option<Vec<String>>) {
        self.models = models;
    }

    pub(super) fn set_withheld(&mut self, reason: Option<String>) {
        if self.withheld.is_some() && reason.is_none() {
            // Whoever let it go knows that it is well: what earlier probes found says nothing any more.
            self.failed_probes = 0;
            self.probe_at = Duration::ZERO;
        }
        self.withheld = reason;
    }

    pub(super) fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    /// May it take a call now, as far as it alone is concerned?
    pub(super) fn has_room(&self, now: Duration) -> bool {
        if self.withheld.is_some() {
            return false;
        }
        let limit = match self.health {
            Health::Up => self.window.limit(),
            Health::Misconfigured { trial_at, .. } if trial_at <= now => 1,
            _ => 0,
        };
        self.in_flight < limit && self.paused_until <= now
    }

    pub(super) const fn is_on_trial(&self) -> bool {
        matches!(self.health, Health::Misconfigured { .. })
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.withheld.is_none() && matches!(self.health, Health::Up | Health::Doubted { .. })
    }

    /// In use, or to be tried now and then by one request.
    pub(super) fn may_be_tried(&self) -> bool {
        self.is_in_use() || (self.withheld.is_none() && self.is_on_trial())
    }

    pub(super) fn may_serve(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|known| known == model))
    }

    pub(super) fn serves(&self, model: &str, now: Duration) -> bool {
        self.may_serve(model)
            && (self.blocked.is_empty() || self.blocked.get(model).is_none_or(|until| *until <= now))
    }

    pub(super) fn on_answer(&mut self, now: Duration, latency: Duration) {
        self.window.on_answer();
        self.deadline.on_answer(latency);
        self.busy_in_a_row = 0;
        self.busy_alone_in_a_row = 0;
        if self.is_on_trial() {
            self.health = Health::Up;
        }
        if !self.blocked.is_empty() {
            self.blocked.retain(|_, until| *until > now);
        }
    }

    pub(super) fn on_busy(&mut self, now: Duration, retry_after: Option<Duration>, seed: u64) {
        self.busy_in_a_row += 1;
        self.busy_alone_in_a_row += u32::from(self.in_flight == 0);
        self.window.on_busy(self.in_flight);
        let pause = retry_after.map_or_else(
            || backoff(BACKOFF_FIRST, PROBE_MAX, self.busy_in_a_row, seed),
            |asked| asked.min(RETRY_AFTER_MAX),
        );
        self.paused_until = self.paused_until.max(now + pause);
    }

    /// It is busy with the one call that it has, again and again.
    pub(super) const fn is_busy_with_one(&self) -> bool {
        self.in_flight == 0 && self.busy_alone_in_a_row >= PACKS_BUSY_MAX
    }

    pub(super) fn on_timeout(&mut self, waited: Duration) {
        self.deadline.on_timeout(waited);
    }

    pub(super) fn on_down(&mut self, now: Duration, detail: String) {
        if matches!(self.health, Health::Doubted { .. }) {
            // The probe under way, or the next one, says whether it is gone.
            return;
        }
        if !matches!(self.health, Health::Down { .. }) {
            self.failed_probes = 0;
            self.probe_at = now + PROBE_FIRST;
        }
        self.health = Health::Down { detail };
    }

    /// Out of use as a whole, or for one model only when that is all that it does not know.
    pub(super) fn on_misconfigured(
        &mut self,
        now: Duration,
        status: u16,
        detail: String,
        model: Option<&str>,
    ) {
        match model {
            Some(model) if status == 404 => {
                self.blocked.insert(model.to_owned(), now + MISCONFIGURED_RETRY);
            }
            _ => self.health = Health::Misconfigured { detail, trial_at: now + MISCONFIGURED_RETRY },
        }
    }

    pub(super) fn on_lost(&mut self, now: Duration, call: LostCall, detail: String) {
        if self.lost.is_empty() {
            self.in_flight_at_loss = self.in_flight + 1;
        }
        self.lost.push(call);
        if matches!(self.health, Health::Up | Health::Misconfigured { .. }) {
            self.health = Health::Doubted { detail };
            self.failed_probes = 0;
            self.probe_at = now + DOUBT_FOR;
        }
    }

    /// True when a probe is due; it is then under way.
    pub(super) fn begin_probe(&mut self, now: Duration) -> bool {
        let wants = matches!(self.health, Health::Down { .. } | Health::Doubted { .. });
        let is_due = wants && !self.is_probing && self.probe_at <= now;
        self.is_probing |= is_due;
        is_due
    }

    /// Returns whether it is up.
    pub(super) fn on_probe(&mut self, now: Duration, result: Result<(), Fault>) -> bool {
        self.is_probing = false;
        match result {
            Ok(()) => {
                self.health = Health::Up;
                self.failed_probes = 0;
                true
            }
            Err(Fault::Misconfigured { detail, .. }) => {
                self.health = Health::Misconfigured { detail, trial_at: now };
                true
            }
            Err(fault) => {
                self.failed_probes += 1;
                self.probe_at = now
                    + backoff(PROBE_FIRST, PROBE_MAX, self.failed_probes, u64::from(self.failed_probes));
                let why = match fault {
                    Fault::Down { detail } | Fault::Lost { detail } | Fault::Timeout { detail } => {
                        detail
                    }
                    other => format!("{}: no answer to a probe", other.kind()),
                };
                self.health = Health::Down { detail: why };
                false
            }
        }
    }

    /// Who was lost, and whether with the engine: it is gone, or everybody who was with it was lost at once.
    pub(super) fn take_lost(&mut self, is_up: bool) -> (Vec<LostCall>, bool) {
        let all_at_once = self.lost.len() > 1 && self.lost.len() as u32 >= self.in_flight_at_loss;
        (std::mem::take(&mut self.lost), !is_up || all_at_once)
    }

    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        let probe = match self.health {
            Health::Down { .. } | Health::Doubted { .. } if !self.is_probing => Some(self.probe_at),
            Health::Misconfigured { trial_at, .. } => Some(trial_at),
            _ => None,
        };
        let pause = Some(self.paused_until);
        let blocked = self.blocked.values().min().copied();
        [probe.map(|at| at.max(now)), pause.filter(|at| *at > now), blocked.filter(|at| *at > now)]
            .into_iter()
            .flatten()
            .min()
    }
}
