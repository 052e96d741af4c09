//! Members are stopped and started one after another, with the same program or a newer one, while clients of several kinds
//! work: no client notices more than what it tries again by itself.
//!
//! The upgrade needs a build of an earlier commit: `cargo xtask upgrade` makes one and runs this test with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_checker::register::assert_linearizable;
use quorate_client::{
    Client, Compare, ConnectOptions, Error, GetOptions, Is, KeyValue, Op as TxnOp, OpResponse, PutOptions, Txn,
    WatchOptions,
};
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engines::Engines;
use quorate_tests::history::{History, Op, Outcome, seen};
use quorate_tests::server::Server;
use quorate_tests::tools::{Etcdctl, skip};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

/// Keys that the workers share.
const KEYS: usize = 4;
/// Tasks that write and read through one client.
const WORKERS: usize = 16;
/// What the workers do between two faults.
const CALLS_BETWEEN: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_request() {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(Engines::Mixed)).await else { return };
    let clients = Clients::start(&cluster).await;
    // The leader's turn is the one that costs, so the second round begins with it whoever it is by then.
    for member in [0, 1, 2, cluster.wait_leader().await] {
        replace(&mut cluster, &clients, member, None).await;
    }
    clients.finish(&cluster).await;
}

/// From an earlier commit's build to this one's, and with both at a time in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a build of an earlier commit: cargo xtask upgrade"]
async fn a_rolling_upgrade_costs_no_request() {
    let Some(old) = std::env::var_os("QUORATE_OLD_BIN") else {
        return skip("QUORATE_OLD_BIN, a build of an earlier commit (cargo xtask upgrade makes one)");
    };
    let old = Server::at(Path::new(&old));
    let new = Server::find().expect("a server binary");
    let spec = ClusterSpec::new(3).on(Engines::Mixed);
    let Some(mut cluster) = Cluster::start_with(old, spec).await else { return };
    let clients = Clients::start(&cluster).await;
    for member in 0..3 {
        replace(&mut cluster, &clients, member, Some(&new)).await;
    }
    clients.finish(&cluster).await;
}

/// Stops a member in good order, and starts it again, with another program if there is one.
async fn replace(cluster: &mut Cluster, clients: &Clients, member: usize, program: Option<&Server>) {
    clients.wait_progress(CALLS_BETWEEN).await;
    let began = Instant::now();
    let status = cluster.terminate(member).await;
    // etcd ends itself by the signal once it has stopped.
    assert!(status.success() || !cluster.is_quorate(), "m{member} ended with {status}");
    println!("m{member} took {:?} to stop", began.elapsed());
    clients.wait_progress(CALLS_BETWEEN).await;
    if let Some(program) = program {
        cluster.run_from_now_on(member, program.clone());
    }
    cluster.restart(member);
    cluster.wait_member_serving(member).await;
}

/// Clients of several kinds, all at work.
struct Clients {
    client: Client,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Vec<String>>>,
    watcher: JoinHandle<BTreeMap<i64, String>>,
    tools: Vec<JoinHandle<usize>>,
    lease: quorate_client::KeepAlive,
}

impl Clients {
    async fn start(cluster: &Cluster) -> Clients {
        let client = Client::connect(cluster.endpoints(), ConnectOptions::new()).await.expect("endpoints");
        let history = Arc::new(History::default());
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let granted = client.lease_grant(5).await.expect("a lease");
        client.put("held", "", PutOptions::new().lease(granted.id)).await.expect("a key with a lease");
        let lease = client.lease_keep_alive(granted.id).await.expect("the lease is kept alive");
        // Confirmed before the first write, so that it has to see all of them.
        let watch = client.watch("rolling/", WatchOptions::new().prefix()).await.expect("a watch");
        let watcher = tokio::spawn(collect(watch));
        let workers = (0..WORKERS).map(|number| {
            let worker = Worker { number, client: client.clone(), history: history.clone(), last_seen: [0; KEYS] };
            tokio::spawn(worker.run(stop.clone(), calls.clone()))
        });
        let tools = Etcdctl::all().into_iter().map(|etcdctl| {
            let etcdctl = etcdctl.with_endpoints(&cluster.endpoints());
            let stop = stop.clone();
            tokio::task::spawn_blocking(move || run_etcdctl(&etcdctl, &stop))
        });
        Clients { workers: workers.collect(), tools: tools.collect(), client, history, stop, calls, watcher, lease }
    }

    /// Waits until so many more calls were answered: nothing that the test does may stop them.
    async fn wait_progress(&self, calls: usize) {
        let (before, deadline) = (self.calls.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.calls.load(Ordering::Relaxed) < before + calls {
            assert!(Instant::now() < deadline, "no progress within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends all clients and looks at what they saw.
    async fn finish(self, cluster: &Cluster) {
        self.wait_progress(CALLS_BETWEEN).await;
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for worker in self.workers {
            failures.extend(worker.await.expect("a worker panicked"));
        }
        // All of them end before anything is said, for the members go with the first panic.
        for tool in self.tools {
            let rounds = tool.await.expect("etcdctl failed");
            assert!(rounds > 0, "etcdctl did nothing");
            println!("etcdctl: {rounds} rounds");
        }
        let entries = self.history.entries();
        // etcd's writes under way are cut when it stops: their outcome is unknown.
        let spotless = failures.is_empty() || !cluster.is_quorate();
        assert!(spotless, "{} of {} calls failed:\n{}", failures.len(), entries.len(), failures.join("\n"));
        assert_linearizable(&entries, 100, 100);

        assert!(self.lease.is_alive(), "the lease was lost");
        assert_eq!(self.client.get("held", None).await.expect("a read").kvs.len(), 1, "the lease's key is gone");

        self.client.put(END, "", None).await.expect("the last put");
        let seen = tokio::time::timeout(PATIENCE, self.watcher).await.expect("the watch sees the end");
        let seen = seen.expect("the watch saw every event once and in order");
        for entry in &entries {
            let (Op::Put { value, .. } | Op::Cas { value, .. }) = &entry.op else { continue };
            let Outcome::Wrote { revision } = entry.outcome else { continue };
            assert_eq!(seen.get(&revision), Some(value), "the event of revision {revision}");
        }
        cluster.assert_replicas_equal().await;
    }
}

/// The key whose put ends the watch.
const END: &str = "rolling/end";

/// Every event by its revision, until the last key is written.
async fn collect(mut watch: quorate_client::Watch) -> BTreeMap<i64, String> {
    let mut seen = BTreeMap::new();
    loop {
        let batch = watch.next().await.expect("a watch lasts").expect("events");
        for event in batch.events {
            let (revision, value) = (event.kv.mod_revision, text(&event.kv.value));
            let last = seen.last_key_value().map_or(0, |(revision, _)| *revision);
            assert!(revision > last, "an event of revision {revision} after one of {last}");
            if event.kv.key == END.as_bytes() {
                return seen;
            }
            seen.insert(revision, value);
        }
    }
}

/// Writes and reads back with one process per call, as scripts do; gives how often.
fn run_etcdctl(etcdctl: &Etcdctl, stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    let key = format!("etcdctl-{}", etcdctl.version);
    while !stop.load(Ordering::Relaxed) {
        rounds += 1;
        let value = rounds.to_string();
        etcdctl.run(&["put", &key, &value]).unwrap_or_else(|error| panic!("{error:#}"));
        let read = etcdctl.run(&["get", &key, "--print-value-only"]).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(read.trim(), value, "etcdctl {} reads what it has written", etcdctl.version);
    }
    rounds
}

/// One task with calls of its own.
struct Worker {
    number: usize,
    client: Client,
    history: Arc<History>,
    /// For each key, the revision of the last write that it has seen.
    last_seen: [i64; KEYS],
}

impl Worker {
    /// Calls until it is stopped; gives what failed. The client has then tried all that it may.
    async fn run(mut self, stop: Arc<AtomicBool>, calls: Arc<AtomicUsize>) -> Vec<String> {
        let mut random = SmallRng::seed_from_u64(self.number as u64);
        let mut failures = Vec::new();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let key = random.random_range(0..KEYS);
            let op = self.draw(&mut random, key, count);
            let start = self.history.now();
            let outcome = match self.call(&op).await {
                Ok(outcome) => {
                    calls.fetch_add(1, Ordering::Relaxed);
                    outcome
                }
                Err(error) => {
                    let took = self.history.now() - start;
                    failures.push(format!("at {start:?}, after {took:?}: {op:?}: {error}"));
                    Outcome::Unknown
                }
            };
            if let Some(modified) = outcome.modified() {
                self.last_seen[key] = modified;
            }
            self.history.record(start, op, outcome);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        failures
    }

    fn draw(&self, random: &mut SmallRng, key: usize, count: usize) -> Op {
        let (name, value) = (format!("rolling/{key}"), format!("{}-{count}", self.number));
        match random.random_range(0..10) {
            0..4 => Op::Put { key: name, value },
            4..6 => Op::Cas { key: name, expected: self.last_seen[key], value },
            6..9 => Op::Get { key: name, serializable: false },
            _ => Op::Get { key: name, serializable: true },
        }
    }

    async fn call(&self, op: &Op) -> Result<Outcome, Error> {
        match op {
            Op::Put { key, value } => {
                Ok(Outcome::Wrote { revision: self.client.put(&key[..], &value[..], None).await?.revision })
            }
            Op::Cas { key, expected, value } => {
                let txn = Txn::new()
                    .when([Compare::mod_revision(&key[..], Is::Equal, *expected)])
                    .then([TxnOp::put(&key[..], &value[..], None)])
                    .or_else([TxnOp::get(&key[..], None)]);
                let answer = self.client.txn(txn).await?;
                let revision = answer.revision;
                Ok(match answer.responses.into_iter().next() {
                    Some(OpResponse::Get(get)) => read(revision, get.kvs),
                    _ => Outcome::Wrote { revision },
                })
            }
            Op::Get { key, serializable } => {
                let options = if *serializable { GetOptions::new().serializable() } else { GetOptions::new() };
                let answer = self.client.get(&key[..], options).await?;
                Ok(read(answer.revision, answer.kvs))
            }
        }
    }
}

fn read(revision: i64, kvs: Vec<KeyValue>) -> Outcome {
    Outcome::Read { revision, seen: kvs.into_iter().next().map(seen) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
