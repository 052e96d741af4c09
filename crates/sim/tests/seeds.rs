//! Seeds by the built program: those that once found something, and some that differ from day to day.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Fresh seeds in a test run, of mode `fast` and of mode `full`. `QUORATE_SIM_SEEDS` asks for more.
const FRESH: u64 = 3;
const FRESH_FULL: u64 = 1;

fn run(arguments: &[String]) {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-sim")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{arguments:?}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn seeds_that_once_found_something_find_nothing_any_more() {
    run_known("fast");
}

#[test]
fn seeds_over_grpc_that_once_found_something_find_nothing_any_more() {
    run_known("full");
}

fn run_known(mode: &str) {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let seeds: Vec<&str> = words.filter(|words| words[0] == mode).map(|words| words[1]).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        run(&["--mode", mode, "--seed", seed].map(str::to_owned));
    }
}

#[test]
fn fresh_seeds_find_nothing_and_are_the_same_twice() {
    run_fresh("fast", FRESH);
}

#[test]
fn fresh_seeds_over_grpc_find_nothing_and_are_the_same_twice() {
    run_fresh("full", FRESH_FULL);
}

fn run_fresh(mode: &str, count: u64) {
    let asked = std::env::var("QUORATE_SIM_SEEDS").ok().and_then(|count| count.parse().ok());
    // By the day, so that the days add up, and a failure can be repeated as long as its report is there.
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let (seed, seeds) = ((day * 1000).to_string(), asked.unwrap_or(count).to_string());
    run(&["--mode", mode, "--seed", &seed, "--seeds", &seeds, "--twice"].map(str::to_owned));
}
