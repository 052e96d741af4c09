//! `cargo xtask chaos`: builds the server and the program that torments it, and runs the one on the other.

use std::process::Command;

use anyhow::Result;

use crate::cargo::{cargo, target_dir};
use crate::step::{self, exec};

/// How long CI does it: most kinds of faults once.
const CI_MINUTES: &str = "1.2";

/// Passes `args` on to `quorate-chaos`, but for `--dev`: the builds of the tests instead of optimised ones.
pub fn run(args: &[String]) -> Result<()> {
    let is_dev = args.iter().any(|arg| arg == "--dev");
    let profile = if is_dev { "dev" } else { "release" };
    let packages = ["--package", "quorate", "--package", "quorate-tests", "--bins"];
    exec(cargo().args(["build", "--locked", "--profile", profile]).args(packages))?;
    let bin = target_dir().join(if is_dev { "debug" } else { "release" });
    let args = args.iter().filter(|arg| *arg != "--dev");
    exec(Command::new(bin.join("quorate-chaos")).args(args).env("QUORATE_BIN", bin.join("quorate")))
}

/// CI's part: another seed each day. The binaries are built.
pub fn sample() -> Result<()> {
    let day = step::day().to_string();
    let bin = target_dir().join("debug");
    let mut command = Command::new(bin.join("quorate-chaos"));
    command.args(["--seed", &day, "--minutes", CI_MINUTES, "--members", "3", "--engine", "mixed"]);
    exec(command.env("QUORATE_BIN", bin.join("quorate")))
}
