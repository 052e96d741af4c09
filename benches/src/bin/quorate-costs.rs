//! `quorate-costs`: what one watcher, lease, renewal and audited request cost a member. The figures of `docs/OPERATIONS.md` are
//! made with it; they are rough, and those of another machine differ.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use quorate_benches::cluster::System;
use quorate_benches::costs::{Amounts, measure};

/// Measure what watchers, leases and the audit log cost.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The server binary; `quorate` beside this program if not given
    #[arg(long, env = "QUORATE_BIN", value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Data and logs of the servers, which stay; a new directory below the present one if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Idle watchers
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// Leases
    #[arg(long, default_value_t = 100_000)]
    leases: usize,
    /// Puts in each of three rounds, with and without the audit log
    #[arg(long, default_value_t = 50_000)]
    puts: usize,
    /// Seconds for which idle clusters are looked at
    #[arg(long, default_value_t = 10.0)]
    idle_seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("quorate"));
    let binary = args.bin.or_else(beside).context("no server binary: give --bin")?;
    let system = System::new(&binary, &[]);
    println!("{} ({})", system.version(), binary.display());
    let dir = args.dir.unwrap_or_else(|| PathBuf::from(format!("quorate-costs-{}", std::process::id())));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let idle = Duration::from_secs_f64(args.idle_seconds);
    let amounts = Amounts { watchers: args.watchers, leases: args.leases, puts: args.puts, idle };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&system, amounts, &dir, |line| println!("{line}")))
}
