//! `cargo xtask sabotage`: proves the simulation. Builds it with deliberate bugs (crate `quorate-sabotage`) and runs each
//! bug, seed after seed, until the simulation finds it. A seed counts only if the same program finds nothing in it without the bug.
//!
//! A run over all bugs writes the table in `docs/PROOF.md`. CI runs a few of them, others each day.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, target_dir, workspace_root};
use crate::step::{self, exec};

const USAGE: &str = "\
usage: cargo xtask sabotage [--bug NAME] [--seeds N] [--seed FIRST] [--sample K] [--day D] [--jobs N] [--dev] [--program PATH]

  --bug NAME     this bug only (may be repeated)
  --seeds N      give a bug up after so many seeds (60)
  --seed FIRST   begin with this seed (1)
  --sample K     K of the bugs, by the day; fails if one is not found that docs/PROOF.md says is found
  --day D        the day (since 1970) of which to take the sample
  --jobs N       bugs at a time (2)
  --dev          build without optimisation
  --program PATH a simulation that was built with bugs; builds none";

/// Bugs that must be found, in percent.
const FOUND_PERCENT_MIN: usize = 95;

/// A seed that takes longer hangs, which is a find, too.
const SEED_TIMEOUT: Duration = Duration::from_secs(180);

const BEGIN: &str = "<!-- sabotage: made by `cargo xtask sabotage` -->";
const END: &str = "<!-- sabotage: end -->";

struct Options {
    bugs: Vec<String>,
    seeds: u64,
    first: u64,
    sample: Option<usize>,
    day: u64,
    jobs: usize,
    dev: bool,
    program: Option<PathBuf>,
}

/// A deliberate bug, as the simulation lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bug {
    name: String,
    area: String,
    what: String,
    /// The mode that it is looked for in.
    mode: String,
}

/// The seed that found a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Find {
    seed: u64,
    /// How many seeds it took.
    seeds: u64,
    /// Which rule was broken.
    rule: String,
}

/// Runs the bugs that `args` name.
pub fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build(options.dev)?,
    };
    let all = list(&program)?;
    let chosen = choose(&all, &options)?;
    let begin = Instant::now();
    let sound = Sound::default();
    let finds = hunt(&program, &chosen, &options, &sound)?;
    let missed: Vec<&str> =
        chosen.iter().filter(|bug| !finds.contains_key(&bug.name)).map(|bug| bug.name.as_str()).collect();
    let took = begin.elapsed().as_secs();
    println!("{} of {} bugs found in {took} s; not found: {missed:?}", finds.len(), chosen.len());
    sound.check()?;
    if options.sample.is_some() || !options.bugs.is_empty() {
        let known = std::fs::read_to_string(document()).unwrap_or_default();
        let surprises: Vec<&&str> = missed.iter().filter(|name| !is_known_as_missed(&known, name)).collect();
        ensure!(surprises.is_empty(), "not found within {} seeds: {surprises:?}", options.seeds);
        return Ok(());
    }
    ensure!(options.first == 1, "the table counts seeds from 1");
    write_table(&table(&chosen, &finds, &options))?;
    ensure!(finds.len() * 100 >= chosen.len() * FOUND_PERCENT_MIN, "fewer than {FOUND_PERCENT_MIN} % were found");
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options {
        bugs: Vec::new(),
        seeds: 60,
        first: 1,
        sample: None,
        day: step::day(),
        jobs: 2,
        dev: false,
        program: None,
    };
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--bug" => options.bugs.push(value()?.clone()),
            "--seeds" => options.seeds = value()?.parse()?,
            "--seed" => options.first = value()?.parse()?,
            "--sample" => options.sample = Some(value()?.parse()?),
            "--day" => options.day = value()?.parse()?,
            "--jobs" => options.jobs = value()?.parse()?,
            "--dev" => options.dev = true,
            "--program" => options.program = Some(value()?.into()),
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    Ok(options)
}

/// Builds the simulation with bugs, and puts it where no other build replaces it.
pub fn build(dev: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--package", "quorate-sim", "--features", "sabotage"]);
    if !dev {
        command.arg("--release");
    }
    exec(&mut command)?;
    let built = target_dir().join(if dev { "debug" } else { "release" }).join("quorate-sim");
    let directory = target_dir().join("sabotage");
    std::fs::create_dir_all(&directory)?;
    let program = directory.join(if dev { "quorate-sim-dev" } else { "quorate-sim" });
    // Removed first, for a program that runs cannot be written.
    let _ = std::fs::remove_file(&program);
    std::fs::copy(&built, &program).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(program)
}

fn list(program: &Path) -> Result<Vec<Bug>> {
    let output = Command::new(program).arg("--list-bugs").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let bugs: Vec<Bug> = text.lines().filter_map(parse_bug).collect();
    ensure!(!bugs.is_empty(), "{} lists no bugs", program.display());
    Ok(bugs)
}

fn parse_bug(line: &str) -> Option<Bug> {
    let mut fields = line.split('\t').map(str::to_owned);
    Some(Bug { name: fields.next()?, area: fields.next()?, what: fields.next()?, mode: fields.next()? })
}

fn choose(all: &[Bug], options: &Options) -> Result<Vec<Bug>> {
    for name in &options.bugs {
        ensure!(all.iter().any(|bug| bug.name == *name), "there is no bug {name}");
    }
    if !options.bugs.is_empty() {
        return Ok(all.iter().filter(|bug| options.bugs.contains(&bug.name)).cloned().collect());
    }
    let Some(count) = options.sample else { return Ok(all.to_vec()) };
    // Of what is known not to be found there is nothing to be learnt.
    let known = std::fs::read_to_string(document()).unwrap_or_default();
    let all: Vec<&Bug> = all.iter().filter(|bug| !is_known_as_missed(&known, &bug.name)).collect();
    let places = sample(all.len(), count, options.day);
    let chosen: Vec<Bug> = places.into_iter().map(|place| all[place].clone()).collect();
    let names: Vec<&str> = chosen.iter().map(|bug| bug.name.as_str()).collect();
    println!("the sample of day {}: {names:?}", options.day);
    Ok(chosen)
}

/// Places of `count` of `all`, spread over all parts; day after day others, until all have had their turn.
fn sample(all: usize, count: usize, day: u64) -> Vec<usize> {
    let count = count.clamp(1, all);
    let stride = all.div_ceil(count);
    let offset = (day % stride as u64) as usize;
    (0..count).map(|step| offset + step * stride).filter(|place| *place < all).collect()
}

/// Runs all `bugs`, a few at a time. Bug -> what found it.
fn hunt(program: &Path, bugs: &[Bug], options: &Options, sound: &Sound) -> Result<BTreeMap<String, Find>> {
    let next = AtomicUsize::new(0);
    let finds = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match find(program, bug, options, sound) {
                        Ok(Some(find)) => {
                            println!("{}: seed {} ({})", bug.name, find.seed, find.rule);
                            lock(&finds).insert(bug.name.clone(), find);
                        }
                        Ok(None) => println!("{}: NOT FOUND in {} seeds", bug.name, options.seeds),
                        Err(error) => *lock(&failure) = Some(error),
                    }
                }
            });
        }
    });
    match lock(&failure).take() {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut *lock(&finds))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn find(program: &Path, bug: &Bug, options: &Options, sound: &Sound) -> Result<Option<Find>> {
    // In a sample, first the seed that has found it before: what is asked then is whether it still does.
    let known = match options.sample {
        Some(_) => known_seed(&std::fs::read_to_string(document()).unwrap_or_default(), &bug.name),
        None => None,
    };
    let others = options.first..options.first + options.seeds;
    for (seeds, seed) in (1..).zip(known.into_iter().chain(others)) {
        if let Some(rule) = run_seed(program, &["--bug", &bug.name], seed)?
            && sound.is_sound(program, &bug.mode, seed)?
        {
            return Ok(Some(Find { seed, seeds, rule }));
        }
    }
    Ok(None)
}

/// What seeds are without a bug, by mode and seed: what is wrong then is no find, but a fault of Quorate or of the simulation.
#[derive(Default)]
struct Sound(Mutex<BTreeMap<(String, u64), Option<String>>>);

impl Sound {
    fn is_sound(&self, program: &Path, mode: &str, seed: u64) -> Result<bool> {
        let key = (mode.to_owned(), seed);
        if let Some(known) = lock(&self.0).get(&key) {
            return Ok(known.is_none());
        }
        let rule = run_seed(program, &["--mode", mode], seed)?;
        Ok(lock(&self.0).entry(key).or_insert(rule).is_none())
    }

    fn check(&self) -> Result<()> {
        let wrong: Vec<String> = lock(&self.0)
            .iter()
            .filter_map(|((mode, seed), rule)| {
                let rule = rule.as_ref()?;
                Some(format!("{rule}: cargo xtask sim --rare --mode {mode} --seed {seed} --verbose"))
            })
            .collect();
        ensure!(wrong.is_empty(), "seeds that find something though there is no bug:\n{}", wrong.join("\n"));
        Ok(())
    }
}

/// The seed that found the bug when the table was made: the table counts from 1.
fn known_seed(document: &str, bug: &str) -> Option<u64> {
    let line = document.lines().find(|line| line.starts_with(&format!("| `{bug}` ")))?;
    line.trim_end_matches(" |").rsplit("| ").next()?.parse().ok()
}

/// Which rule the seed says is broken, if one is.
fn run_seed(program: &Path, words: &[&str], seed: u64) -> Result<Option<String>> {
    let mut child = Command::new(program)
        .args(["--here", "--seed", &seed.to_string()])
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut out = child.stdout.take().context("the output is piped")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = std::io::Read::read_to_string(&mut out, &mut text);
        read.map(|_| text)
    });
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > SEED_TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Ok(Some("no end".into()));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = reader.join().map_err(|_| anyhow::anyhow!("the reader of the output ended"))??;
    Ok(broken_rule(status, &text))
}

fn broken_rule(status: ExitStatus, text: &str) -> Option<String> {
    if status.success() {
        return None;
    }
    let first = text.lines().find_map(|line| line.strip_prefix("violation: "));
    let rule = first.and_then(|line| line.split_once(':')).map(|(rule, _)| rule.to_owned());
    // Without a word: it has aborted.
    Some(rule.unwrap_or_else(|| "assertion".into()))
}

fn document() -> PathBuf {
    workspace_root().join("docs").join("PROOF.md")
}

fn is_known_as_missed(document: &str, bug: &str) -> bool {
    document.lines().any(|line| line.starts_with(&format!("| `{bug}` ")) && line.contains("not found"))
}

fn table(bugs: &[Bug], finds: &BTreeMap<String, Find>, options: &Options) -> String {
    let mut out = format!(
        "{} of {} bugs are found, each within {} seeds, from 1 on.\n\n| bug | part | what is wrong | \
         found by | seeds |\n|---|---|---|---|---|\n",
        finds.len(),
        bugs.len(),
        options.seeds
    );
    for Bug { name, area, what, mode: _ } in bugs {
        let (rule, seeds) = match finds.get(name) {
            Some(find) => (find.rule.as_str(), find.seeds.to_string()),
            None => ("not found", format!("> {}", options.seeds)),
        };
        out.push_str(&format!("| `{name}` | {area} | {what} | {rule} | {seeds} |\n"));
    }
    out
}

fn write_table(table: &str) -> Result<()> {
    let path = document();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    std::fs::write(&path, replace_table(&text, table)?)?;
    println!("wrote the table in {}", path.display());
    Ok(())
}

fn replace_table(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("docs/PROOF.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("docs/PROOF.md does not end the table")?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_take_turns_until_all_bugs_have_been_run() {
        let (all, count) = (77, 8);
        let mut seen: Vec<usize> = (0..10).flat_map(|day| sample(all, count, day)).collect();
        assert!(sample(all, count, 3).len() <= count);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
        assert_eq!(sample(3, 8, 5), [0, 1, 2]);
    }

    #[test]
    fn the_table_replaces_the_old_one_and_nothing_else() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(replace_table(&text, "new\n").unwrap(), format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert!(replace_table("no place", "new").is_err());
    }

    #[test]
    fn a_seed_that_fails_without_a_bug_is_no_find_and_fails_the_run() {
        let sound = Sound::default();
        lock(&sound.0).insert(("fast".into(), 3), None);
        assert!(sound.check().is_ok());
        lock(&sound.0).insert(("full".into(), 7), Some("ledger".into()));
        let nowhere = Path::new("nothing runs what is known");
        assert!(sound.is_sound(nowhere, "fast", 3).unwrap());
        assert!(!sound.is_sound(nowhere, "full", 7).unwrap());
        let words = sound.check().unwrap_err().to_string();
        assert!(words.contains("ledger: cargo xtask sim --rare --mode full --seed 7 --verbose"), "{words}");
    }

    #[test]
    fn a_bug_that_is_not_found_is_known_by_its_line() {
        let document = "| `Hard` | wal | it hides | not found | > 100 |\n| `Easy` | wal | it shows | call | 1 |\n";
        assert!(is_known_as_missed(document, "Hard"));
        assert!(!is_known_as_missed(document, "Easy"));
        assert_eq!((known_seed(document, "Easy"), known_seed(document, "Hard")), (Some(1), None));
    }
}
