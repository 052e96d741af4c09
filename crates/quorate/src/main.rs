//! `quorate`: the server, the client and the demonstration cluster in one binary.
//!
//! `quorate server` hands its arguments on untouched; every other command is parsed here and talks to a cluster through
//! `quorate-client`.

mod auth;
mod check;
mod cli;
mod config;
mod context;
mod debug;
mod demo;
#[cfg(test)]
mod documents;
mod elect;
mod endpoint;
mod failure;
mod golang;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod member;
mod mirror;
mod print;
mod progress;
mod replace;
mod server_command;
mod signals;
mod snapshot;
mod txn;
mod watch;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use failure::Failure;

fn main() -> ExitCode {
    quorate_server::panics::install();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "server") {
        return serve(arguments);
    }
    let invocation = match cli::parse(&arguments) {
        Ok(invocation) => invocation,
        Err(exit) => return exit,
    };
    match cli::run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message }) => {
            if let Some(message) = message {
                eprintln!("Error: {message}");
            }
            exit.into()
        }
    }
}

fn serve(arguments: Vec<OsString>) -> ExitCode {
    if let Err(message) = demo::end_with_parent() {
        eprintln!("Error: {message}");
        return ExitCode::FAILURE;
    }
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().skip(2).map(OsString::into_string).collect();
    match arguments {
        Ok(arguments) => server_command::run(arguments),
        Err(argument) => {
            eprintln!("Error: the argument {argument:?} is not UTF-8");
            failure::Exit::BadArguments.into()
        }
    }
}
