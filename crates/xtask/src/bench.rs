//! `cargo xtask bench`: builds the server and the load generator with optimisation, then runs the one on the other.

use anyhow::Result;

use crate::cargo::{cargo, target_dir};
use crate::step::exec;

/// Passes `args` on to `quorate-bench`.
pub fn run(args: &[String]) -> Result<()> {
    exec(cargo().args(["build", "--locked", "--release", "--package", "quorate", "--package", "quorate-benches"]))?;
    let bin = target_dir().join("release");
    exec(std::process::Command::new(bin.join("quorate-bench")).args(args).env("QUORATE_BIN", bin.join("quorate")))
}
