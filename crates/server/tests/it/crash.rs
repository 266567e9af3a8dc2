//! `kill -9`: nothing answered is lost, nothing is answered twice without need, and nobody can tell afterwards.
//!
//! Each test compares with a run that was never interrupted. The kills are real: of the process, at a chosen operation
//! on the disk (`tests/crash/shim.c`) or at a random moment. What a power cut adds, the tests of the segment crate model.
//! `CRASH_FULL=1` runs all of it; without it a part that fits a check (docs/testing.md).

mod every_write;
pub(crate) mod failpoint;
mod follow;
pub(crate) mod outcome;
mod random;
mod restart;

/// Whether all of it is to run, however long it takes.
#[expect(
    clippy::disallowed_methods,
    reason = "the one switch of these tests; the server does not read it"
)]
pub(crate) fn is_full() -> bool {
    std::env::var_os("CRASH_FULL").is_some()
}
