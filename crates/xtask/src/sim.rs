//! `cargo xtask sim`: builds the simulation with optimisation and runs it.

use anyhow::Result;

use crate::cargo::{cargo, target_dir};
use crate::step::exec;

/// Passes `args` on to `quorate-sim`.
pub fn run(args: &[String]) -> Result<()> {
    exec(cargo().args(["build", "--locked", "--release", "--package", "quorate-sim"]))?;
    exec(std::process::Command::new(target_dir().join("release").join("quorate-sim")).args(args))
}
