//! The stand-in engine over real sockets.
#![expect(clippy::unwrap_used, reason = "the harness of the tests; a failure is the test's")]

mod answers;
mod client;
mod faults;
mod program;
mod scripts;

use std::time::Duration;

/// How long a test waits for something that must happen.
const SOON: Duration = Duration::from_secs(10);
