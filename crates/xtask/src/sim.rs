//! `cargo xtask sim`: builds the simulation with optimisation and runs it.

use anyhow::Result;

use crate::cargo::{cargo, target_dir};
use crate::sabotage;
use crate::step::exec;

/// Passes `args` on to `quorate-sim`; with `--rare` among them, to the one in which rare paths are taken more often.
pub fn run(args: &[String]) -> Result<()> {
    let (rare, args): (Vec<_>, Vec<_>) = args.iter().partition(|word| *word == "--rare");
    let program = if rare.is_empty() {
        exec(cargo().args(["build", "--locked", "--release", "--package", "quorate-sim"]))?;
        target_dir().join("release").join("quorate-sim")
    } else {
        sabotage::build(false)?
    };
    exec(std::process::Command::new(program).args(args))
}
