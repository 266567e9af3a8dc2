//! Overnight as a service of the machine: what its manager is told while we run.

mod announcer;

pub(crate) use announcer::Announcer;
