//! Kills and power cuts by the thousand, under writes, with every acknowledged write looked for after each.
//!
//! Every write has a key of its own, so none can hide another. After each round those of the last one are read, and in the
//! end all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::act::RECOVERY_MAX;
use crate::client::Client;
use crate::cluster::{Cluster, ClusterSpec};
use crate::engines::Engines;

const WRITERS: usize = 8;
/// Members that serve acknowledge a write within this time, however busy the machine is.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of one process.
    Kill,
    /// The power of all members at once, or of some: each time one.
    PowerCut,
}

/// How much.
#[derive(Clone, Debug)]
pub struct Count {
    /// Of what.
    pub blow: Blow,
    /// How many.
    pub target: usize,
    /// Members.
    pub members: usize,
    /// Their engines.
    pub engines: Engines,
    /// Draws the moments and the victims.
    pub seed: u64,
    /// Flags of every member.
    pub flags: Vec<String>,
}

/// Key to revision.
type Acknowledged = BTreeMap<String, i64>;

struct Writers {
    stop: AtomicBool,
    round: AtomicUsize,
    acknowledged: Mutex<Acknowledged>,
}

/// Counts.
///
/// # Errors
/// Names the acknowledged writes that are not there, or says what did not come back in time.
pub async fn run(count: &Count) -> Result<()> {
    let mut spec = ClusterSpec::new(count.members).on(count.engines);
    spec.flags.clone_from(&count.flags);
    if count.blow == Blow::PowerCut {
        spec = spec.on_disks();
    }
    let Some(mut cluster) = Cluster::start(spec).await else { bail!("no cluster can be started here") };
    if count.blow == Blow::PowerCut {
        // What a first cut can take away is what clients write, not the member itself.
        (0..cluster.len()).for_each(|member| cluster.sync_disk(member));
    }
    let start = Instant::now();
    let writers =
        Arc::new(Writers { stop: AtomicBool::new(false), round: AtomicUsize::new(0), acknowledged: Mutex::default() });
    let endpoints = cluster.endpoints();
    let tasks: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(write(writers.clone(), number, endpoints.clone()))).collect();
    let mut random = SmallRng::seed_from_u64(count.seed);
    let outcome = blows(count, &mut cluster, &writers, &mut random).await;
    writers.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    if let Err(error) = outcome {
        let kept = cluster.keep();
        bail!("{error:#}; data and logs are kept in {kept:?}");
    }
    let Done { count: done, longest, late, acknowledged: mut all } = outcome?;
    all.append(&mut writers.take());
    check(&cluster.client(0), &all).await?;
    let what = match count.blow {
        Blow::Kill => "kill -9",
        Blow::PowerCut => "power cuts",
    };
    println!(
        "{done} {what} of {} on {}: {} acknowledged writes, 0 lost; back within {:.2} s; {:.0} s in all",
        if count.members == 1 { "a single member".to_owned() } else { format!("{} members", count.members) },
        count.engines.name(),
        all.len(),
        longest.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    ensure!(late == 0, "{late} times not all members served within {RECOVERY_MAX:?}");
    Ok(())
}

/// What came of all blows.
#[derive(Debug, Default)]
struct Done {
    /// How many there were.
    count: usize,
    /// The longest time until all served again.
    longest: Duration,
    /// How often it was longer than [`RECOVERY_MAX`]: no reason to stop looking for lost writes.
    late: usize,
    /// What was acknowledged, and found after its round.
    acknowledged: Acknowledged,
}

/// All blows.
async fn blows(count: &Count, cluster: &mut Cluster, writers: &Writers, random: &mut SmallRng) -> Result<Done> {
    let mut done = Done::default();
    let mut said = 0;
    while done.count < count.target {
        writers.wait_for_one().await?;
        tokio::time::sleep(Duration::from_millis(random.random_range(20..250))).await;
        let victims = draw_victims(count.members, random);
        for &member in &victims {
            match count.blow {
                Blow::Kill => cluster.kill9(member),
                Blow::PowerCut => cluster.cut_power(member),
            }
        }
        let start = Instant::now();
        for &member in &victims {
            if count.blow == Blow::PowerCut {
                cluster.restore_power(member);
            }
            cluster.restart(member);
        }
        cluster.wait_serving().await;
        let took = start.elapsed();
        if took > RECOVERY_MAX {
            println!("not all members served within {RECOVERY_MAX:?}, but after {took:?}");
            done.late += 1;
        }
        done.longest = done.longest.max(took);
        // A kill is of a process. One cut of the power of several is one.
        done.count += match count.blow {
            Blow::Kill => victims.len(),
            Blow::PowerCut => 1,
        };
        writers.round.fetch_add(1, Ordering::Relaxed);
        let mut acknowledged = writers.take();
        let asked = random.random_range(0..count.members);
        check(&cluster.client(asked), &acknowledged).await?;
        done.acknowledged.append(&mut acknowledged);
        if done.count / 100 > said {
            said = done.count / 100;
            println!(
                "{} of {}, {} acknowledged writes, none lost; back within {:.2} s",
                done.count,
                count.target,
                done.acknowledged.len(),
                done.longest.as_secs_f64()
            );
        }
    }
    Ok(done)
}

/// One, or most of them, or all.
fn draw_victims(members: usize, random: &mut SmallRng) -> Vec<usize> {
    let first = random.random_range(0..members);
    let number = *[1, members / 2 + 1, members].get(random.random_range(0..3)).unwrap_or(&1);
    (0..number).map(|offset| (first + offset) % members).collect()
}

impl Writers {
    /// Waits until a write of this round was acknowledged: without one there is nothing that could be lost.
    async fn wait_for_one(&self) -> Result<()> {
        let start = Instant::now();
        while self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            ensure!(start.elapsed() < ACKNOWLEDGED_MAX, "no write was acknowledged in {ACKNOWLEDGED_MAX:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What was acknowledged since it was last asked.
    fn take(&self) -> Acknowledged {
        std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn write(writers: Arc<Writers>, number: usize, endpoints: Vec<String>) {
    let clients: Vec<Client> = endpoints.iter().map(|endpoint| Client::new(endpoint, Duration::from_secs(2))).collect();
    let (mut at, mut writes) = (number % clients.len(), 0);
    while !writers.stop.load(Ordering::Relaxed) {
        writes += 1;
        let key = format!("{}{number}/{writes:08}", prefix(writers.round.load(Ordering::Relaxed)));
        match clients[at].put(&key, &key).await {
            Ok(revision) => {
                writers.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(key, revision);
            }
            Err(_) => {
                at = (at + 1) % clients.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn prefix(round: usize) -> String {
    format!("count/{round:06}/")
}

/// Reads the rounds that the writes are of, and looks for each.
async fn check(client: &Client, acknowledged: &Acknowledged) -> Result<()> {
    let rounds: BTreeSet<&str> = acknowledged.keys().filter_map(|key| key.get(..prefix(0).len())).collect();
    let mut lost = Vec::new();
    for round in rounds {
        let answer = client.get_prefix(round).await?;
        let found: BTreeMap<_, _> = answer.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let of_round = acknowledged.range(round.to_owned()..).take_while(|(key, _)| key.starts_with(round));
        for (key, revision) in of_round {
            let kv = found.get(key.as_bytes());
            if !kv.is_some_and(|kv| kv.mod_revision == *revision && kv.value == key.as_bytes()) {
                lost.push(format!("{key} of revision {revision}: {kv:?}"));
            }
        }
    }
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged writes are lost: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(5)]
    );
    Ok(())
}
