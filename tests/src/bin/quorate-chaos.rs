//! `cargo xtask chaos`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_tests::chaos::count::{Blow, Count};
use quorate_tests::chaos::fault::Fault;
use quorate_tests::chaos::{self, Options, count};
use quorate_tests::engines::Engines;

/// Clusters of real processes under real faults, judged by what their clients saw.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos")]
struct Args {
    /// Draws what happens.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the faults go on.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The same in hours.
    #[arg(long, conflicts_with = "minutes")]
    hours: Option<f64>,
    /// Kinds of faults, with commas between them; all that the machine permits, if none is named.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Members: 1, 3 or 5; drawn from the seed otherwise.
    #[arg(long, value_parser = ["1", "3", "5"])]
    members: Option<String>,
    /// Storage engines: redb, sled or mixed; drawn from the seed otherwise.
    #[arg(long)]
    engine: Option<Engines>,
    /// Kill so many processes, and look after each for every acknowledged write, instead of all the rest.
    #[arg(long, value_name = "N", conflicts_with_all = ["count_power_cuts", "minutes", "hours", "faults"])]
    count_kills: Option<usize>,
    /// Cut the power so often, and look after each time for every acknowledged write, instead of all the rest.
    #[arg(long, value_name = "N", conflicts_with_all = ["minutes", "hours", "faults"])]
    count_power_cuts: Option<usize>,
    /// Let no member wait for its disk, so that a power cut loses what was acknowledged. A run that does not fail then is blind.
    #[arg(long)]
    unsafe_no_fsync: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let members = args.members.map(|members| members.parse()).transpose()?;
    let flags = if args.unsafe_no_fsync { vec!["--unsafe-no-fsync".to_owned()] } else { Vec::new() };
    let counted = match (args.count_kills, args.count_power_cuts) {
        (Some(target), _) => Some((Blow::Kill, target)),
        (None, Some(target)) => Some((Blow::PowerCut, target)),
        (None, None) => None,
    };
    if let Some((blow, target)) = counted {
        let engines = args.engine.unwrap_or(Engines::Redb);
        let members = members.unwrap_or(1);
        return count::run(&Count { blow, target, members, engines, seed: args.seed, flags }).await;
    }
    let faults = if args.faults.is_empty() { Fault::all().collect() } else { args.faults };
    let length = Duration::try_from_secs_f64(args.hours.map_or(args.minutes * 60.0, |hours| hours * 3600.0))?;
    chaos::run(&Options { seed: args.seed, length, faults, members, engines: args.engine, flags }).await
}
