//! `cargo xtask fuzz`: the tests that mutate what is read from disk, with many more rounds than CI has time for.

use anyhow::{Result, bail};

use crate::cargo::cargo;
use crate::step::exec;

/// Rounds for each format, unless it is said otherwise: some minutes.
const ROUNDS: u64 = 50_000;

/// Runs them.
pub fn run(args: &[String]) -> Result<()> {
    let (mut rounds, mut seed) = (ROUNDS, 1_000);
    for pair in args.chunks(2) {
        match pair {
            [name, value] if name == "--rounds" => rounds = value.parse()?,
            [name, value] if name == "--seed" => seed = value.parse()?,
            _ => bail!("usage: cargo xtask fuzz [--rounds N] [--seed FIRST]"),
        }
    }
    println!("{rounds} rounds from seed {seed}");
    exec(
        cargo()
            .args(["test", "--locked", "--package", "quorate-tests", "--test", "formats", "--", "--nocapture"])
            .env("QUORATE_FUZZ_ROUNDS", rounds.to_string())
            .env("QUORATE_FUZZ_SEED", seed.to_string()),
    )
}
