//! Development tasks, run as `cargo xtask <command>`.
//!
//! Everything that guards the repository is a command here, so that a developer and CI run the same thing. Knows the
//! workspace's files and cargo; links none of the crates it guards, so that it builds in seconds and still runs when
//! they do not compile.

mod audit;
mod bench;
mod boundary;
mod cargo;
mod chaos;
mod ci;
mod fuzz;
mod layers;
mod rust_source;
mod sabotage;
mod sim;
mod step;
mod tools;
mod upgrade;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask <command>

  ci [--no-tests]       everything CI checks, in order, with the time of each step
  test [ARGS...]        the whole test suite by cargo-nextest, then doctests; ARGS select tests as for nextest
  layers                which crate of ours may depend on which
  boundary              no clock, socket, file or random source below crates/server
  audit                 licences, banned crates, sources, duplicate versions (offline, by deny.toml)
  examples              run every example of the workspace
  bench [ARGS...]       load test, Quorate beside etcd; ARGS go to `quorate-bench`
  sim [ARGS...]         simulated clusters and disasters by seed; --rare builds it with rare
                        paths; ARGS go to `quorate-sim` (--help lists them)
  chaos [--dev] [ARGS...]
                        real processes and real faults by seed; ARGS go to `quorate-chaos` (--help lists them)
  fuzz [--rounds N] [--seed FIRST]
                        mutate every file that is read, for longer than CI does
  upgrade [--from REV]  a rolling upgrade under load from an earlier commit's build (HEAD~1) to this one's
  sabotage [ARGS...]    deliberate bugs that the simulation must find (--help lists the ARGS)
  install-tools         find or install the external programs that the tests drive, and say where they are
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args),
    };
    match command {
        "ci" => ci::run(rest),
        "test" => ci::test(rest),
        "examples" => ci::examples(),
        "layers" => layers::run(),
        "boundary" => boundary::run(),
        "audit" => audit::run(),
        "bench" => bench::run(rest),
        "sim" => sim::run(rest),
        "chaos" => chaos::run(rest),
        "fuzz" => fuzz::run(rest),
        "upgrade" => upgrade::run(rest),
        "sabotage" => sabotage::run(rest),
        "install-tools" => tools::run(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => {
            eprint!("{USAGE}");
            bail!("unknown command `{other}`")
        }
    }
}
