//! The command line of the binary under test.

use std::process::{Command, Output, Stdio};

use anyhow::{Result, bail};

use crate::server::Server;
use crate::tools::program;

/// `quorate` with arguments: a command line client, or a tool on files.
#[derive(Clone, Debug)]
pub struct Quorate {
    server: Server,
}

impl Quorate {
    /// The one of the server under test; `None` if that is etcd.
    ///
    /// # Panics
    /// When there is no server.
    pub fn find() -> Option<Quorate> {
        let server = Server::find().expect("a server binary");
        server.is_quorate().then_some(Quorate { server })
    }

    /// Runs it, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(args).output().expect("quorate")
    }

    /// The program without arguments yet, with the inputs and outputs of a script.
    pub fn command(&self) -> Command {
        let mut command = program(self.server.binary());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    /// When it ends with anything but success; carries what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("quorate {}: {}\n{stdout}{stderr}", args.join(" "), output.status);
        }
        Ok(stdout.into_owned())
    }

    /// Runs what has to fail, and gives exit code and error text.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.output(args);
        assert!(!output.status.success(), "quorate {} should be refused", args.join(" "));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
