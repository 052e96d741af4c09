//! Scripts that drive the clients of others, and how a test speaks with them: a line each way.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::secure::SecureCluster;

/// A running script. Dropping it ends it.
#[derive(Debug)]
pub struct Program {
    process: Child,
    /// `None` once it has ended.
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts a script.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Program {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a script's interpreter");
        let input = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Program { process, input, lines }
    }

    /// Starts a script on a cluster [`with_users`](SecureCluster::with_users): its files are in the script's environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_on(cluster: &SecureCluster, mut command: Command) -> Program {
        for (variable, file) in [("TLS_CA", "ca.pem"), ("TLS_CERT", "client.pem"), ("TLS_KEY", "client.key")] {
            command.env(variable, cluster.file(file));
        }
        command.env("SERVER", if cluster.is_quorate() { "quorate" } else { "etcd" });
        Program::start(command)
    }

    /// Waits for a line.
    ///
    /// # Panics
    /// When the script says something else, or ends.
    pub fn hear(&mut self, expected: &str) {
        let line = self.lines.next().map(|line| line.expect("a line"));
        assert_eq!(line.as_deref(), Some(expected), "what the script says");
    }

    /// Tells it something.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input has not ended");
        writeln!(input, "{line}").expect("the script listens");
    }

    /// As [`finish`](Self::finish), of a script that works until its input ends.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn finish_input(mut self) {
        drop(self.input.take());
        self.finish();
    }

    /// Waits until it has said `ok` and ended well.
    ///
    /// # Panics
    /// When it does not.
    pub fn finish(mut self) {
        self.hear("ok");
        let status = self.process.wait().expect("its end");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
