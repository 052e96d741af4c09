//! `quorate server`.

use std::process::ExitCode;

/// Runs a member until it is told to stop.
pub fn run(_arguments: Vec<String>) -> ExitCode {
    eprintln!("Error: this binary was built without the server");
    ExitCode::FAILURE
}
