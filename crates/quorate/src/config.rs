//! `config check` and `config dump`: what a server would make of its options. Knows no option; `quorate-server` does.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};
use quorate_server::{DumpFormat, StartError};

use crate::failure::{Exit, Failure};
use crate::print::{line, write};

/// The commands about the configuration of a server.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a configuration file, or with options as for `quorate server`
    #[command(
        override_usage = "quorate config check [FILE | SERVER OPTIONS...]",
        after_help = "Reads variables as the server does, but for a file. Exit code 0 if a server would start with it, 1 if \
                      not.\n\nExamples:\n  quorate config check /etc/quorate.yaml\n  quorate config check --name n1 \
                      --data-dir /var/lib/quorate"
    )]
    Check(ServerArgs),

    /// Print every option with its value and where that comes from; secrets are masked
    #[command(
        override_usage = "quorate config dump [-o FORMAT] [FILE | SERVER OPTIONS...]",
        after_help = "As yaml, it is a configuration file.\n\nExamples:\n  quorate config dump /etc/quorate.yaml\n  quorate \
                      config dump -o json --name n1"
    )]
    Dump(DumpArgs),
}

/// A configuration file, or options.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// A configuration file, or options as for `quorate server`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILE | SERVER OPTIONS")]
    arguments: Vec<OsString>,
}

/// Arguments of `config dump`.
#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    /// Format of the output
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "yaml")]
    output: Output,

    #[command(flatten)]
    server: ServerArgs,
}

/// The formats of `config dump`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    /// A configuration file with comments.
    Yaml,
    /// An object: option to value and source.
    Json,
}

impl ConfigCommand {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            ConfigCommand::Check(args) => {
                let warnings = quorate_server::check(args.for_server(), environment()).map_err(refused)?;
                for warning in warnings {
                    eprintln!("Warning: {warning}");
                }
                line("OK")
            }
            ConfigCommand::Dump(args) => {
                let format = match args.output {
                    Output::Yaml => DumpFormat::Yaml,
                    Output::Json => DumpFormat::Json,
                };
                let text = quorate_server::dump(args.server.for_server(), environment(), format).map_err(refused)?;
                write(text.as_bytes(), std::io::stdout().lock())
            }
        }
    }
}

impl ServerArgs {
    /// A single word that is not an option is a file.
    fn for_server(self) -> Vec<OsString> {
        match self.arguments.as_slice() {
            [file] if !file.as_encoded_bytes().starts_with(b"-") => vec!["--config-file".into(), file.clone()],
            _ => self.arguments,
        }
    }
}

/// The variables of this process. One that is not Unicode names none of the server's options.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn refused(error: StartError) -> Failure {
    match error {
        StartError::Usage(usage) => {
            // clap's text has its own "error:" and hint.
            let _ = usage.print();
            Failure::silent(Exit::Error)
        }
        error => Failure::new(Exit::Error, error.to_string()),
    }
}
