//! `quorate server`: arguments in, exit code out. Flags and what they mean are in `quorate-server`.

use crate::config::environment;
use quorate_server::{ServerConfig, StartError};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs a member until it is told to stop.
pub fn run(arguments: Vec<String>) -> ExitCode {
    match ServerConfig::parse(arguments.into_iter().map(OsString::from), environment()).and_then(quorate_server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Usage(error)) => {
            // Help and version go to stdout, errors to stderr: clap knows. A closed pipe is nobody's fault.
            let _ = error.print();
            ExitCode::from(StartError::Usage(error).exit_code())
        }
        Err(error) => {
            eprintln!("quorate server: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
