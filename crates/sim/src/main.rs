//! `quorate-sim`: runs seeds of the simulation. See `quorate-sim --help`.

mod sabotage;

use anyhow::{Context, Result, bail};
use clap::Parser;
use quorate_sim::{Mode, Plan, Report, World, determinism};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// How clients reach the members.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ModeName {
    /// They call the nodes.
    Fast,
    /// The client library calls the members over gRPC.
    Full,
}

impl Arguments {
    fn mode(&self) -> Mode {
        match self.mode {
            Some(ModeName::Fast) => Mode::Fast,
            Some(ModeName::Full) => Mode::Full,
            None if self.bug.as_deref().is_some_and(sabotage::needs_full) => Mode::Full,
            None => Mode::Fast,
        }
    }
}

/// Runs seeded disasters against simulated clusters and judges what clients saw.
#[derive(Parser)]
struct Arguments {
    /// How clients reach the members. `fast`, unless a deliberate bug is where only `full` comes.
    #[arg(long, value_enum)]
    mode: Option<ModeName>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs each seed twice and compares the hash of everything that happened.
    #[arg(long)]
    twice: bool,
    /// Prints what happens while it happens.
    #[arg(long)]
    verbose: bool,
    /// Leaves out these faults of the plan, by their place in it.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// On a failure, tries to find fewer faults and fewer clients that still fail.
    #[arg(long)]
    shrink: bool,
    /// At most so many clients of each kind.
    #[arg(long)]
    clients_max: Option<usize>,
    /// Runs with this deliberate bug. Only in a program that was built to have them (`cargo xtask sabotage`).
    #[arg(long)]
    bug: Option<String>,
    /// Lists the deliberate bugs: name, part of the system, what is wrong.
    #[arg(long)]
    list_bugs: bool,
    /// Runs this one seed in this process.
    #[arg(long, hide = true)]
    here: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list_bugs {
        sabotage::list();
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.here || arguments.verbose {
        return here(&arguments);
    }
    many(&arguments)
}

fn here(arguments: &Arguments) -> Result<ExitCode> {
    // An assertion that fails ends a process of production, too: there a panic aborts.
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report_panic(panic);
        std::process::abort();
    }));
    sabotage::arm(arguments.seed, arguments.bug.as_deref())?;
    determinism::seed_process(arguments.seed);
    if arguments.verbose && std::env::var_os("RUST_LOG").is_some() {
        // What the nodes log, on demand: RUST_LOG=quorate_node=debug. Not without being asked: it takes random numbers, too,
        // and if any code let the order of a hash map decide, the history would be another.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stdout).init();
    }
    let mut plan = Plan::new(arguments.seed, arguments.mode());
    let mut place = 0;
    plan.faults.retain(|_| {
        place += 1;
        !arguments.without.contains(&(place - 1))
    });
    if let Some(most) = arguments.clients_max {
        let load = &mut plan.load;
        for count in [
            &mut load.clients,
            &mut load.lease_clients,
            &mut load.watchers,
            &mut load.account_clients,
            &mut load.list_clients,
            &mut load.set_clients,
            &mut load.lock_clients,
            &mut load.object_clients,
            &mut load.step_clients,
            &mut load.election_clients,
            &mut load.slow_readers,
            &mut load.quiet_watchers,
            &mut load.recipe_clients,
        ] {
            *count = most.min(*count);
        }
    }
    if arguments.verbose {
        println!("{plan:#?}");
    }
    let mut world = World::new(plan);
    world.verbose = arguments.verbose;
    let report = world.run();
    print_report(arguments.seed, &report);
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_report(seed: u64, report: &Report) {
    for violation in report.violations.iter().take(20) {
        // Values may be long.
        let end = violation.char_indices().nth(2000).map_or(violation.len(), |(end, _)| end);
        println!("violation: {}", &violation[..end]);
    }
    let (calls, answered) = report.calls;
    println!(
        "seed {seed} hash {:016x} calls {calls} answered {answered} holds {} revision {} simulated {:.1} s violations {}",
        report.hash,
        report.holds,
        report.revision,
        report.simulated.as_secs_f64(),
        report.violations.len()
    );
}

/// One process a seed.
fn many(arguments: &Arguments) -> Result<ExitCode> {
    let begin = Instant::now();
    let next = std::sync::atomic::AtomicU64::new(arguments.seed);
    let end = arguments.seed + arguments.seeds;
    let failed = std::sync::Mutex::new(Vec::new());
    let simulated = std::sync::Mutex::new(0.0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    match one(seed, arguments) {
                        Ok(seconds) => *simulated.lock().unwrap_or_else(|e| e.into_inner()) += seconds,
                        Err(error) => {
                            let fixed = fixed_words(arguments);
                            let kept = if arguments.shrink { shrink(seed, arguments.mode(), &fixed) } else { fixed };
                            let words: String = kept.iter().map(|word| format!(" {word}")).collect();
                            let build = sabotage::BUILD;
                            println!(
                                "seed {seed}: {error:#}\nreplay: cargo xtask sim{build} --seed {seed}{words} --verbose"
                            );
                            failed.lock().unwrap_or_else(|e| e.into_inner()).push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
    let simulated = simulated.into_inner().unwrap_or_else(|e| e.into_inner());
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{} seeds from {}: {} failed {failed:?}; {simulated:.0} s simulated in {took:.0} s, {:.0} times real time",
        arguments.seeds,
        arguments.seed,
        failed.len(),
        simulated / took
    );
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a seed in a process of its own. Returns the seconds simulated.
fn one(seed: u64, arguments: &Arguments) -> Result<f64> {
    let fixed = fixed_words(arguments);
    let first = run_process(seed, &fixed)?;
    if arguments.twice {
        let second = run_process(seed, &fixed)?;
        if field(&first, "hash") != field(&second, "hash") {
            bail!("two runs differ:\n{first}\n{second}");
        }
    }
    field(&first, "simulated").and_then(|text| text.parse().ok()).context("the run printed no report")
}

/// What is the same for each run of a seed.
fn fixed_words(arguments: &Arguments) -> Vec<String> {
    let mode = match arguments.mode() {
        Mode::Fast => None,
        Mode::Full => Some(["--mode".to_owned(), "full".to_owned()]),
    };
    let bug = arguments.bug.iter().map(|bug| ["--bug".to_owned(), bug.clone()]);
    mode.into_iter().chain(bug).flatten().collect()
}

/// The arguments with which a seed that fails still fails, with as few faults and clients as this search finds.
fn shrink(seed: u64, mode: Mode, fixed: &[String]) -> Vec<String> {
    let fails = |arguments: &[String]| run_process(seed, arguments).is_err();
    let mut kept: Vec<String> = fixed.to_vec();
    for most in [0, 1, 2, 4] {
        let mut fewer = fixed.to_vec();
        fewer.extend(["--clients-max".to_owned(), most.to_string()]);
        if fails(&fewer) {
            kept = fewer;
            break;
        }
    }
    let faults = Plan::new(seed, mode).faults.len();
    let with = |without: &[usize]| {
        let list: Vec<String> = without.iter().map(usize::to_string).collect();
        let mut all = kept.clone();
        if !list.is_empty() {
            all.extend(["--without".to_owned(), list.join(",")]);
        }
        all
    };
    // Half of them, a quarter, and so on down to each single one.
    let mut without: Vec<usize> = Vec::new();
    let mut size = faults.div_ceil(2);
    while size > 0 {
        for start in (0..faults).step_by(size) {
            let mut more = without.clone();
            more.extend((start..faults.min(start + size)).filter(|place| !without.contains(place)));
            if more.len() > without.len() && fails(&with(&more)) {
                without = more;
            }
        }
        size /= 2;
    }
    without.sort_unstable();
    with(&without)
}

fn run_process(seed: u64, arguments: &[String]) -> Result<String> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).args(["--here", "--seed", &seed.to_string()]).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(20).collect();
        bail!("{}\n{text}{}", output.status, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    text.lines().last().map(str::to_owned).context("the run printed nothing")
}

fn field<'a>(report: &'a str, name: &str) -> Option<&'a str> {
    let mut words = report.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()
}
