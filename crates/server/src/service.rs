//! Overnight as a service of the machine: its unit for systemd, and what its manager is told while we run.

mod announcer;
pub(crate) mod install;
pub(crate) mod unit;

pub(crate) use announcer::Announcer;
