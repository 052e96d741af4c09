//! Many clients that put, read and compare-and-set a few keys through all members, and write down what they saw.
//!
//! Few keys, so that clients get in each other's way. Every client keeps to its member while that answers, and goes to
//! the next when it does not, as real clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::client::Client;
use crate::history::{Entry, History, Op, Outcome, seen};

/// What the clients do.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// How many there are.
    pub clients: usize,
    /// How many keys they share.
    pub keys: usize,
    /// What the keys start with. No two loads of one cluster may share keys: a history has to know every write.
    pub prefix: &'static str,
    /// How long one waits for an answer.
    pub deadline: Duration,
    /// Between two calls of one client.
    pub pause: Duration,
    /// Draws the calls.
    pub seed: u64,
}

impl Default for LoadSpec {
    fn default() -> LoadSpec {
        LoadSpec {
            clients: 12,
            keys: 4,
            prefix: "load",
            deadline: Duration::from_secs(2),
            pause: Duration::from_millis(3),
            seed: 1,
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    spec: LoadSpec,
    endpoints: Vec<String>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients.
    pub fn start(spec: LoadSpec, endpoints: &[String]) -> Load {
        Load::start_at(spec, endpoints, Instant::now())
    }

    /// As [`start`](Self::start), with a history whose times count from `epoch`.
    pub fn start_at(spec: LoadSpec, endpoints: &[String], epoch: Instant) -> Load {
        let history = Arc::new(History::since(epoch));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..spec.clients)
            .map(|number| {
                let clients = endpoints.iter().map(|endpoint| Client::new(endpoint, spec.deadline)).collect();
                let worker = Worker {
                    number,
                    clients,
                    at: number % endpoints.len(),
                    random: SmallRng::seed_from_u64(spec.seed.wrapping_mul(1_000_003) + number as u64),
                    last_seen: vec![0; spec.keys],
                    spec: spec.clone(),
                    history: history.clone(),
                };
                tokio::spawn(worker.run(stop.clone()))
            })
            .collect();
        Load { spec, endpoints: endpoints.to_vec(), history, stop, tasks }
    }

    /// Calls answered so far, errors not counted.
    pub fn answered(&self) -> usize {
        self.history.answered()
    }

    /// Stops the clients, waits for their last answers, reads every key once more from every member, and gives the
    /// whole history. The members must all serve again by now.
    ///
    /// # Panics
    /// When a client panicked, or a last read fails.
    pub async fn finish(self) -> Vec<Entry> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client of the load panicked");
        }
        for endpoint in &self.endpoints {
            let client = Client::new(endpoint, Duration::from_secs(10));
            for key in 0..self.spec.keys {
                let op = Op::Get { key: key_name(&self.spec, key), serializable: false };
                let start = self.history.now();
                let outcome = call(&client, &op).await;
                let outcome = outcome.unwrap_or_else(|status| panic!("last read from {endpoint}: {status}"));
                self.history.record(start, op, outcome);
            }
        }
        self.history.entries()
    }
}

fn key_name(spec: &LoadSpec, key: usize) -> String {
    format!("{}/{key}", spec.prefix)
}

struct Worker {
    number: usize,
    clients: Vec<Client>,
    /// The member that it uses now.
    at: usize,
    random: SmallRng,
    /// For each key, the revision of the last write that this client has seen.
    last_seen: Vec<i64>,
    spec: LoadSpec,
    history: Arc<History>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let key = self.random.random_range(0..self.spec.keys);
            let op = self.draw(key, count);
            let start = self.history.now();
            let outcome = match call(&self.clients[self.at], &op).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.at = (self.at + 1) % self.clients.len();
                    // A dead member refuses at once; without a pause this loop would fill the history with that.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Outcome::Unknown
                }
            };
            if let Some(modified) = outcome.modified() {
                self.last_seen[key] = modified;
            }
            self.history.record(start, op, outcome);
            tokio::time::sleep(self.spec.pause).await;
        }
    }

    fn draw(&mut self, key: usize, count: usize) -> Op {
        let name = key_name(&self.spec, key);
        let value = format!("{}-{count}", self.number);
        match self.random.random_range(0..10) {
            0..3 => Op::Put { key: name, value },
            3..5 => Op::Cas { key: name, expected: self.last_seen[key], value },
            5..9 => Op::Get { key: name, serializable: false },
            _ => Op::Get { key: name, serializable: true },
        }
    }
}

async fn call(client: &Client, op: &Op) -> Result<Outcome, Status> {
    match op {
        Op::Put { key, value } => Ok(Outcome::Wrote { revision: client.put(key, value).await? }),
        Op::Cas { key, expected, value } => {
            let reply = client.cas(key, *expected, value).await?;
            Ok(match reply.found {
                None => Outcome::Wrote { revision: reply.revision },
                Some(kv) => Outcome::Read { revision: reply.revision, seen: kv.map(seen) },
            })
        }
        Op::Get { key, serializable } => {
            let (revision, kv) = client.get(key, *serializable).await?;
            Ok(Outcome::Read { revision, seen: kv.map(seen) })
        }
    }
}
