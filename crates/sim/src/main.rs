//! `quorate-sim`: runs seeds of the simulation. See `quorate-sim --help`.

mod sabotage;
mod shrink;

use anyhow::{Context, Result, bail};
use clap::Parser;
use quorate_sim::{Less, Mode, Plan, Report, World, determinism, story};
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
    fn less(&self) -> Less {
        Less {
            without: self.without.clone(),
            clients_max: self.clients_max,
            members: self.members,
            length_ms: self.length_ms,
        }
    }

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
    /// Prints at the end what happened with all calls, and what each was answered.
    #[arg(long)]
    calls: bool,
    /// Leaves out these faults of the plan, by their place in it.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// At most so many clients of each kind.
    #[arg(long)]
    clients_max: Option<usize>,
    /// Only so many voting members, no learner, and no faults of others.
    #[arg(long)]
    members: Option<usize>,
    /// Faults and load for at most so many milliseconds.
    #[arg(long)]
    length_ms: Option<u64>,
    /// Of a seed that fails, does not look for fewer faults, clients and members, and a shorter time, that fail in the same way.
    #[arg(long)]
    no_shrink: bool,
    /// Runs with this deliberate bug. Only in a program that was built to have them (`cargo xtask sabotage`).
    #[arg(long)]
    bug: Option<String>,
    /// Lists the deliberate bugs: name, part of the system, what is wrong.
    #[arg(long)]
    list_bugs: bool,
    /// Runs this one seed in this process.
    #[arg(long, hide = true)]
    here: bool,
    /// Likewise, and tells at the end what happened, with the calls that violations name.
    #[arg(long, hide = true)]
    story: bool,
}

/// Failures of one run for which something smaller is looked for: if everything fails, a few tell enough.
const SHRINKS_MAX: usize = 3;

/// Lines of a story that are printed: of a longer one its begin and its end.
const STORY_BEGIN: usize = 60;
const STORY_END: usize = 140;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list_bugs {
        sabotage::list();
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.here || arguments.verbose || arguments.calls || arguments.story {
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
    if arguments.verbose && std::env::var_os("RUST_LOG").is_some() {
        // What the nodes log, on demand: RUST_LOG=quorate_node=debug. Made on a thread of its own, and before the seed is set: it
        // takes random numbers, too, and with those the history would be another.
        let logging = std::thread::spawn(|| {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stdout).init();
        });
        logging.join().map_err(|_| anyhow::anyhow!("the log cannot be set up"))?;
    }
    sabotage::arm(arguments.seed, arguments.bug.as_deref())?;
    determinism::seed_process(arguments.seed);
    let (plan, less) = (Plan::new(arguments.seed, arguments.mode()), arguments.less());
    if arguments.verbose || arguments.calls || arguments.story {
        print_plan(&plan, &less);
    }
    let mut world = World::new(plan.reduced(&less));
    world.verbose = arguments.verbose;
    let report = world.run();
    if arguments.calls {
        story::merged(&report.timeline, &report.story).iter().for_each(|line| println!("{line}"));
    } else if arguments.story {
        print_story(&story::merged(&report.timeline, &story::named(&report.story, &report.violations)));
    }
    print_report(arguments.seed, &report);
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the plan has, in a few lines.
fn print_plan(plan: &Plan, less: &Less) {
    for (place, (at, fault)) in plan.faults.iter().enumerate().filter(|(place, _)| !less.without.contains(place)) {
        println!("fault {place} at {:.3} s: {fault:?}", at.as_secs_f64());
    }
    let Plan { members, learners, length, load, .. } = plan.clone().reduced(less);
    println!("{members} members, {learners} learners, for {:.1} s\n{load:?}", length.as_secs_f64());
}

fn print_story(lines: &[String]) {
    let left_out = lines.len().saturating_sub(STORY_BEGIN + STORY_END);
    for (place, line) in lines.iter().enumerate() {
        if left_out == 0 || place < STORY_BEGIN || place >= STORY_BEGIN + left_out {
            println!("{}", shortened(line, 250));
        } else if place == STORY_BEGIN {
            println!("          ... {left_out} more lines");
        }
    }
}

/// Values and lists may be long.
fn shortened(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

fn print_report(seed: u64, report: &Report) {
    for violation in report.violations.iter().take(20) {
        println!("violation: {}", shortened(violation, 2000));
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
                            let so_far = {
                                let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                                failed.push(seed);
                                failed.len()
                            };
                            let may_shrink = !arguments.no_shrink && so_far <= SHRINKS_MAX;
                            println!("{}", tell_failure(seed, arguments, &error, may_shrink));
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
    let fixed: Vec<String> = fixed_words(arguments).into_iter().chain(arguments.less().words()).collect();
    let first = run_process(seed, &fixed)?;
    if arguments.twice {
        let second = run_process(seed, &fixed)?;
        if field(&first, "hash") != field(&second, "hash") {
            bail!("two runs differ:\n{first}\n{second}");
        }
    }
    field(&first, "simulated").and_then(|text| text.parse().ok()).context("the run printed no report")
}

/// All that is to be said of a seed that fails.
fn tell_failure(seed: u64, arguments: &Arguments, error: &anyhow::Error, may_shrink: bool) -> String {
    let fixed = fixed_words(arguments);
    let said = arguments.less().words();
    let command = |less: &[String]| {
        let words: String = fixed.iter().chain(less).map(|word| format!(" {word}")).collect();
        format!("cargo xtask sim{} --seed {seed}{words}", sabotage::BUILD)
    };
    let mut text = format!("seed {seed}: {error:#}\nreplay: {} --verbose\n", command(&said));
    let rule = broken_rule(&format!("{error:#}"));
    if !may_shrink || rule.is_none() {
        return text;
    }
    let words = |less: &Less| fixed.iter().cloned().chain(less.words()).collect::<Vec<_>>();
    let fails =
        |less: &Less| run_process(seed, &words(less)).is_err_and(|error| broken_rule(&error.to_string()) == rule);
    let plan = Plan::new(seed, arguments.mode());
    let less = shrink::shrink(&plan, fails);
    let mut story = words(&less);
    story.push("--story".to_owned());
    // It fails again, and says how.
    if let Err(error) = run_process(seed, &story) {
        text.push_str(&format!("seed {seed} with less of everything, which breaks the same rule: {error:#}\n"));
    }
    text.push_str(&format!("replay with less: {} --verbose\n", command(&less.words())));
    text.push_str("with --calls in place of --verbose, all calls are told, too\n");
    text
}

/// The rule that the first violation names, or `assertion` if the process has aborted. Two runs that differ break none.
fn broken_rule(text: &str) -> Option<String> {
    let first = text.lines().find_map(|line| line.strip_prefix("violation: "));
    match first {
        Some(line) => line.split_once(':').map(|(rule, _)| rule.to_owned()),
        None => (!text.starts_with("two runs differ")).then(|| "assertion".to_owned()),
    }
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
