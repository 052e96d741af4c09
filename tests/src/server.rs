//! Which server binary the tests run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::tools::{program, target_dir};

/// A server binary and how it is called.
#[derive(Clone, Debug)]
pub struct Server {
    binary: PathBuf,
    quorate: bool,
}

impl Server {
    /// `QUORATE_BIN`, else this workspace's own binary, built now if it is not up to date.
    ///
    /// # Errors
    /// When it does not build.
    pub fn find() -> Result<Server> {
        static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| match std::env::var_os("QUORATE_BIN") {
            Some(path) => Ok(path.into()),
            None => build().map_err(|error| format!("{error:#}")),
        });
        match found {
            Ok(binary) => Ok(Server::at(binary)),
            Err(error) => bail!("{error}"),
        }
    }

    /// The server at a path. A name that starts with `quorate` is this project's, any other is etcd's.
    pub fn at(binary: &Path) -> Server {
        let quorate = binary.file_name().is_some_and(|name| name.to_string_lossy().starts_with("quorate"));
        Server { binary: binary.to_owned(), quorate }
    }

    /// Whether this is Quorate, which takes more flags than etcd's.
    pub fn is_quorate(&self) -> bool {
        self.quorate
    }

    /// The binary itself.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command that runs a server, without flags yet.
    pub fn command(&self) -> Command {
        let mut command = program(&self.binary);
        if self.quorate {
            command.arg("server");
        }
        command
    }

    /// Whether the server's help names a flag.
    pub fn knows(&self, flag: &str) -> bool {
        let output = self.command().arg("--help").stdin(Stdio::null()).output();
        output.is_ok_and(|output| {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).contains(flag)
        })
    }
}

/// Builds the binary in the profile of the running test; cargo does nothing if it is up to date.
fn build() -> Result<PathBuf> {
    let target = target_dir();
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--locked", "--package", "quorate", "--profile", profile, "--target-dir"])
        .arg(&target)
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("`cargo build --package quorate` failed: {status}");
    }
    Ok(target.join(if cfg!(debug_assertions) { "debug" } else { "release" }).join("quorate"))
}

/// `outer`, which runs `command`, with its arguments and environment.
pub(crate) fn run_by(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}
