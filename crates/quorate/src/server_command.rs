//! `quorate server`: arguments in, exit code out. Flags and what they mean are in `quorate-server`.

use quorate_server::{ServerConfig, StartError};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs a member until it is told to stop.
pub fn run(arguments: Vec<String>) -> ExitCode {
    // A variable that is not Unicode names none of our flags.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match ServerConfig::parse(arguments.into_iter().map(OsString::from), env).and_then(quorate_server::run) {
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
