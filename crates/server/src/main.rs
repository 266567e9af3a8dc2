//! The binary `overnight`.

use std::process::ExitCode;

fn main() -> ExitCode {
    overnight_server::cli::main()
}
