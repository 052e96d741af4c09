//! How a command fails: the message on standard error and the exit code.
//!
//! The codes are etcdctl's, so that scripts find what they test for.

use std::process::ExitCode;

use quorate_client::Error;

use crate::golang::Malformed;

/// Why the process ends with another code than 0. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The cluster refused or did not answer; also for unknown options and commands.
    Error,
    /// No connection for a stream: keep-alive, lease queries.
    BadConnection,
    /// Input of `txn` or `watch -i` that cannot be understood.
    InvalidInput,
    /// An option with a value that is not offered.
    BadFeature,
    /// A watch or snapshot that ended before its time.
    Interrupted,
    /// Arguments that are missing, too many, or malformed.
    BadArguments,
    /// The command that `lock` ran ended with this code.
    Command(u8),
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Error => 1,
            Exit::BadConnection => 2,
            Exit::InvalidInput => 3,
            Exit::BadFeature => 4,
            Exit::Interrupted => 5,
            Exit::BadArguments => 128,
            Exit::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The end of a command that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: Exit,
    /// Printed after `Error: `. `None` when everything is said already.
    pub message: Option<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: Some(message.into()) }
    }

    /// A failure whose cause has been printed.
    pub fn silent(exit: Exit) -> Self {
        Failure { exit, message: None }
    }

    /// Wrong arguments.
    pub fn arguments(message: impl Into<String>) -> Self {
        Failure::new(Exit::BadArguments, message)
    }

    /// A call that failed.
    pub fn call(error: &Error) -> Self {
        Failure::new(Exit::Error, describe(error))
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Failure::arguments(error.to_string())
    }
}

/// An error in the words of etcdctl, where it has some.
pub fn describe(error: &Error) -> String {
    match error.code() {
        Some(quorate_client::Code::DeadlineExceeded) => "context deadline exceeded".to_owned(),
        _ => error.to_string(),
    }
}
