//! `cargo xtask chaos`: real processes, real faults, clients of two languages, and the oracles that judge what they saw.
//!
//! A run is a sequence of episodes. Each has a cluster, and a [`plan`] drawn from its seed. While [`act`] carries that out, the load
//! of [`crate::load`] and a client in Python ([`second`]) work on the same few keys, [`watchers`] follow them, [`leases`] come and go,
//! compaction keeps behind the watchers, and [`resources`] are sampled. In the end everything must fit:
//!
//! - the history of all clients is linearizable (`quorate-checker`), every acknowledged write included;
//! - what the watchers saw is one ledger, which has every acknowledged write at its revision;
//! - no lease ended early or late; the members' data are equal at equal revision;
//! - after each fault all members served within ten seconds, and no process ended by itself without a reason;
//! - memory and descriptors stayed under their bounds.
//!
//! [`count`] does one thing only, very often: kill or cut the power, and look whether every acknowledged write is there.

pub mod act;
pub mod count;
pub mod fault;
pub mod leases;
pub mod plan;
pub mod resources;
pub mod second;
pub mod timeline;
pub mod watchers;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_checker::history::{Entry, Outcome};
use quorate_checker::register;
use quorate_proto::etcdserverpb::CompactionRequest;
use tokio::task::JoinHandle;

use act::Actor;
use fault::Fault;
use leases::Leases;
use plan::Plan;
use resources::Resources;
use second::SecondClient;
use timeline::Timeline;
use watchers::{Position, Watchers};

use crate::client::Client;
use crate::cluster::{Cluster, ClusterSpec};
use crate::engines::Engines;
use crate::load::{Load, LoadSpec};

/// How long one cluster lives: what is remembered of a history has to fit into memory.
const EPISODE_MAX: Duration = Duration::from_secs(20 * 60);
/// So many revisions stay behind the slowest watcher.
const HISTORY_KEPT: i64 = 2000;
const COMPACTION_INTERVAL: Duration = Duration::from_secs(3);
/// What the writes of both clients have in common.
const PREFIX: &str = "chaos";
/// The last events may take so long.
const WATCH_PATIENCE: Duration = Duration::from_secs(20);
/// A history with less says nothing.
const ANSWERS_MIN: usize = 100;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the first episode; each further one has the next.
    pub seed: u64,
    /// How long the faults go on, in all.
    pub length: Duration,
    /// The kinds of faults.
    pub faults: Vec<Fault>,
    /// Members; drawn from the seed if it is not said.
    pub members: Option<usize>,
    /// Engines; drawn from the seed if it is not said.
    pub engines: Option<Engines>,
    /// Flags of every member.
    pub flags: Vec<String>,
}

impl Options {
    /// The arguments that repeat one episode.
    fn arguments(&self, seed: u64, length: Duration) -> String {
        let mut text = format!("--seed {seed} --minutes {:.2}", length.as_secs_f64() / 60.0);
        if self.faults.len() < Fault::all().count() {
            let names: Vec<&str> = self.faults.iter().map(|fault| fault.name()).collect();
            let _ = write!(text, " --faults {}", names.join(","));
        }
        if let Some(members) = self.members {
            let _ = write!(text, " --members {members}");
        }
        if let Some(engines) = self.engines {
            let _ = write!(text, " --engine {}", engines.name());
        }
        for flag in &self.flags {
            let _ = write!(text, " {flag}");
        }
        text
    }
}

/// Runs all episodes.
///
/// # Errors
/// Says what was violated, where the data are, and what repeats the plan.
pub async fn run(options: &Options) -> Result<()> {
    let kinds = available(&options.faults)?;
    ensure!(!kinds.is_empty(), "no fault can be made here");
    let mut left = options.length;
    for seed in options.seed.. {
        let length = left.min(EPISODE_MAX);
        let repeat = format!("cargo xtask chaos {}", options.arguments(seed, length));
        println!("\n=== {repeat}");
        let plan = Plan::draw(seed, length, &kinds, options.members, options.engines);
        episode(seed, plan, &kinds, &options.flags).await.with_context(|| format!("to repeat it: {repeat}"))?;
        left -= length;
        if left.is_zero() {
            break;
        }
    }
    Ok(())
}

/// The kinds that can be made here; says what the others need.
fn available(faults: &[Fault]) -> Result<Vec<Fault>> {
    let scratch = crate::tools::scratch_dir()?;
    let mut kinds = Vec::new();
    for &fault in faults {
        match fault.lacks(scratch.path()) {
            None => kinds.push(fault),
            Some(lacks) => {
                println!("{} skipped: needs {}", fault.name(), lacks.needs);
                let in_ci = std::env::var("CI").as_deref() == Ok("true");
                ensure!(!(lacks.is_tool && in_ci), "CI must not skip {}: it needs {}", fault.name(), lacks.needs);
            }
        }
    }
    Ok(kinds)
}

async fn episode(seed: u64, plan: Plan, kinds: &[Fault], flags: &[String]) -> Result<()> {
    let mut spec = ClusterSpec::new(plan.members).on(plan.engines);
    spec.flags = flags.to_vec();
    if kinds.iter().any(|kind| kind.needs_namespaces()) {
        spec = spec.in_namespaces();
    }
    if kinds.iter().any(|kind| kind.needs_disks()) {
        spec = spec.on_disks();
    }
    if kinds.iter().any(|kind| kind.needs_clocks()) {
        spec = spec.with_clocks();
    }
    let timeline = Arc::new(Timeline::start());
    let Some(mut cluster) = Cluster::start(spec).await else { bail!("no cluster can be started here") };
    if plan.members > 1 && kinds.contains(&Fault::Learner) {
        cluster.prepare_member();
    }
    let dir = cluster.dir().to_owned();
    timeline.say(&format!("{} members on {} serve; {} faults", plan.members, plan.engines.name(), plan.steps.len()));
    // In a task of its own, so that a panic of the harness is told as everything else is; on this thread, which alone has the cluster.
    let tasks = tokio::task::LocalSet::new();
    let task = tasks.spawn_local({
        let timeline = timeline.clone();
        async move {
            let mut actor = Actor::new(cluster, plan.members, timeline.clone());
            let outcome = drive(seed, &plan, &mut actor, &timeline).await;
            if outcome.is_err() || !timeline.violations().is_empty() {
                actor.cluster.keep();
            }
            outcome
        }
    });
    let error = match tasks.run_until(task).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => Some(format!("{panic}")),
    };
    let mut failures = timeline.violations();
    failures.extend(error);
    if failures.is_empty() {
        return Ok(());
    }
    // The timeline has been printed as it came; this is for whoever looks at the data.
    let _ = std::fs::write(dir.join("timeline.txt"), timeline.text());
    let shown = failures.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n  ");
    bail!("{} failures; timeline, history, data and logs are kept in {}:\n  {shown}", failures.len(), dir.display())
}

/// Everything that works at the same time as the faults.
async fn drive(seed: u64, plan: &Plan, actor: &mut Actor, timeline: &Arc<Timeline>) -> Result<()> {
    let endpoints: Vec<String> = (0..plan.members).map(|member| actor.cluster.endpoint(member)).collect();
    let resources = Resources::start(actor.pids(), timeline);
    let watchers = Watchers::start(&format!("{PREFIX}/"), &endpoints);
    let spec = LoadSpec { keys: 8, prefix: PREFIX, pause: Duration::from_millis(10), seed, ..LoadSpec::default() };
    let load = Load::start_at(spec.clone(), &endpoints, timeline.epoch());
    let second = SecondClient::start(&spec, &endpoints, timeline.epoch(), &actor.cluster.dir().join("second.jsonl"));
    let leases = Leases::start(seed, &endpoints, timeline);
    let compactor = Compactor::start(watchers.position(), &endpoints);

    for step in &plan.steps {
        actor.step(step).await?;
    }

    // A moment without faults, so that the end is as the beginning.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut history = load.finish().await;
    if let Some(second) = second {
        let told = tokio::task::spawn_blocking(|| second.finish()).await??;
        timeline.say(&format!("{} calls of the client in Python, {} without an answer", told.len(), unknown(&told)));
        history.extend(told);
    }
    timeline.say(&format!("{} calls in all, {} without an answer", history.len(), unknown(&history)));
    save(&history, &actor.cluster.dir().join("history.txt"))?;
    leases.finish().await;
    compactor.finish().await;

    let end = actor.cluster.client(0).put(&format!("{PREFIX}/end"), "end").await?;
    history.push(end_entry(timeline.now(), end));
    let ledgers = watchers.finish(end, WATCH_PATIENCE).await?;
    judge(&history, &ledgers, end, timeline);
    actor.cluster.assert_replicas_equal().await;
    // Connections end a moment after their clients.
    tokio::time::sleep(Duration::from_secs(2)).await;
    resources.finish();
    summary(actor, timeline);
    Ok(())
}

fn judge(history: &[Entry], ledgers: &[watchers::Ledger], end: i64, timeline: &Timeline) {
    if history.len() - unknown(history) < ANSWERS_MIN {
        timeline
            .violation(format!("only {} calls were answered: that checks nothing", history.len() - unknown(history)));
    }
    for violation in register::check(history) {
        timeline.violation(violation);
    }
    for violation in watchers::check(ledgers, history, end) {
        timeline.violation(violation);
    }
    let events = ledgers.first().map_or(0, watchers::Ledger::len);
    timeline.say(&format!("judged: {} calls, {} watchers that saw {events} events each", history.len(), ledgers.len()));
}

fn summary(actor: &Actor, timeline: &Timeline) {
    let mut took = actor.recoveries().to_vec();
    took.sort();
    let (median, most) =
        (took.get(took.len() / 2).copied().unwrap_or_default(), took.last().copied().unwrap_or_default());
    timeline.say(&format!(
        "{} faults, recovery {:.2} s in the middle and {:.2} s at most; {} violations",
        took.len(),
        median.as_secs_f64(),
        most.as_secs_f64(),
        timeline.violations().len()
    ));
}

fn unknown(history: &[Entry]) -> usize {
    history.iter().filter(|entry| entry.outcome == Outcome::Unknown).count()
}

fn end_entry(at: Duration, revision: i64) -> Entry {
    let op = quorate_checker::history::Op::Put { key: format!("{PREFIX}/end"), value: "end".to_owned() };
    Entry { start: at, end: at, op, outcome: Outcome::Wrote { revision } }
}

fn save(history: &[Entry], path: &Path) -> Result<()> {
    let mut text = String::new();
    for Entry { start, end, op, outcome } in history {
        writeln!(text, "{start:?} to {end:?}  {op:?} -> {outcome:?}")?;
    }
    Ok(std::fs::write(path, text)?)
}

/// Compacts what all watchers have seen.
#[derive(Debug)]
struct Compactor {
    task: JoinHandle<()>,
}

impl Compactor {
    fn start(position: Position, endpoints: &[String]) -> Compactor {
        let clients = endpoints.iter().map(|endpoint| Client::new(endpoint, Duration::from_secs(2))).collect();
        Compactor { task: tokio::spawn(compact(position, clients)) }
    }

    async fn finish(self) {
        self.task.abort();
        // It was asked to end.
        let _ = self.task.await;
    }
}

async fn compact(position: Position, clients: Vec<Client>) {
    for client in clients.iter().cycle() {
        tokio::time::sleep(COMPACTION_INTERVAL).await;
        let revision = position.seen_by_all() - HISTORY_KEPT;
        if revision > 0 {
            let request = CompactionRequest { revision, physical: false };
            // While there are faults it may fail; the next one does more.
            let _ = client.within(client.kv().compact(request)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hundred writes in turn, and what two watchers saw of them.
    fn run_of_writes() -> (Vec<Entry>, Vec<watchers::Ledger>) {
        let mut history = Vec::new();
        let mut ledger = watchers::Ledger::new();
        for number in 1..=200_i64 {
            let (key, value) = (format!("{PREFIX}/0"), format!("0-{number}"));
            let at = Duration::from_millis(number.unsigned_abs() * 10);
            ledger.insert(number + 1, watchers::Written { key: key.clone(), value: value.clone(), version: number });
            let op = quorate_checker::history::Op::Put { key, value };
            history.push(Entry { start: at, end: at, op, outcome: Outcome::Wrote { revision: number + 1 } });
        }
        (history, vec![ledger.clone(), ledger])
    }

    fn violations(history: &[Entry], ledgers: &[watchers::Ledger]) -> usize {
        let timeline = Timeline::start();
        judge(history, ledgers, 201, &timeline);
        timeline.violations().len()
    }

    #[test]
    fn a_right_run_is_right_and_a_doctored_one_is_not() {
        let (history, ledgers) = run_of_writes();
        assert_eq!(violations(&history, &ledgers), 0);

        let mut doctored = history.clone();
        doctored[100].outcome = Outcome::Wrote { revision: 101 };
        assert_ne!(violations(&doctored, &ledgers), 0, "a revision is given twice");

        let mut doctored = ledgers.clone();
        doctored[1].remove(&77);
        assert_ne!(violations(&history, &doctored), 0, "a watcher has missed an acknowledged write");

        let mut doctored = history.clone();
        let last = doctored.last().expect("writes").clone();
        let op = quorate_checker::history::Op::Get { key: format!("{PREFIX}/0"), serializable: false };
        let (start, end) = (last.end + Duration::from_millis(1), last.end + Duration::from_millis(2));
        doctored.push(Entry { start, end, op, outcome: Outcome::Read { revision: 201, seen: None } });
        assert_ne!(violations(&doctored, &ledgers), 0, "an acknowledged write is not there");

        assert_ne!(violations(&history[..50], &ledgers), 0, "too little was answered to say anything");
    }
}
