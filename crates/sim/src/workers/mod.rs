//! The load: clients that read and write, clients that hold leases, one that compacts; and what is in the modules: accounts,
//! lists, sets, locks and objects as Kubernetes has them (`records`), elections (`election`), random transactions (`steps`), users
//! and roles (`auth`; over gRPC `users`), copies of the data (`backup`), watchers (`watch`), and such as have little to do
//! (`seldom`); locks and elections over gRPC (`recipes`).
//!
//! Each is a loop until the world says stop. They keep to a member while it answers, and go to the next when it does not,
//! as real clients do.

mod auth;
mod backup;
mod election;
mod recipes;
mod records;
mod seldom;
mod steps;
mod users;
mod watch;

pub use backup::Backup;
pub use election::{candidates, written_by};
pub use records::{ACCOUNTS, SUM, account_balance};
pub use seldom::QUIET_KEY;
pub use users::ROOT;
pub use watch::Gaze;

use crate::client::Rpc;
use crate::history::{Op, Outcome, Span, Watched};
use crate::library::{Habits, Library};
use crate::plan::Load;
use crate::random::Random;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Until a client that could not connect tries again.
pub const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Tells the workers to stop.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on no new calls.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What every worker needs.
pub struct Worker {
    /// Calls.
    pub rpc: Rpc,
    /// Its number, in reports and in values.
    pub number: usize,
    /// Members that it can ask.
    pub members: usize,
    /// Those and the learners, which it can watch.
    pub machines: usize,
    /// The load that it is part of.
    pub load: Load,
    /// Draws what it does.
    pub random: Random,
    /// When to stop.
    pub stop: Stop,
}

impl Worker {
    fn any_member(&mut self) -> usize {
        self.random.below(self.members as u64) as usize
    }

    /// The first member that says of itself that it leads.
    fn leader(&self) -> Option<usize> {
        let leads = |member: &usize| self.rpc.doors[*member].node().is_some_and(|node| node.leads());
        (0..self.members).find(leads)
    }

    async fn pause(&mut self) {
        let pause = self.random.millis(0, self.load.pause_ms);
        tokio::time::sleep(pause).await;
    }

    /// Now and then a client leaves, whatever is under way on its connections, and another goes on.
    async fn come_anew(&mut self) {
        if self.load.leaving > 0
            && let Some(library) = &mut self.rpc.library
            && self.random.chance(self.load.leaving)
            && let Ok(new) = library.anew().await
        {
            *library = new;
        }
    }

    /// The same worker with a client of these habits, as soon as that is connected; `None` if the end comes before.
    pub async fn with_library(mut self, habits: Habits) -> Option<Worker> {
        while !self.stop.is_set() {
            if let Ok(library) = Library::new(&self.rpc, habits.clone()).await {
                self.rpc.library = Some(library);
                return Some(self);
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        None
    }

    /// Reads and writes.
    pub async fn read_and_write(mut self) {
        let mut member = self.any_member();
        let mut counter = 0;
        let mut seen: Vec<i64> = vec![0; self.load.keys as usize];
        while !self.stop.is_set() {
            self.pause().await;
            self.come_anew().await;
            let place = self.random.below(self.load.keys) as usize;
            counter += 1;
            let op = self.draw(place, counter, &seen);
            let outcome = self.rpc.run(self.number, member, op.clone()).await;
            match (&op, &outcome) {
                (_, Outcome::Unknown) => member = self.any_member(),
                (Op::Put { .. }, Outcome::Done { revision, .. }) => seen[place] = *revision,
                (Op::Swap { parts }, Outcome::Done { revision, .. }) => {
                    for (key, _, _) in parts {
                        seen[place_of(key)] = *revision;
                    }
                }
                (_, Outcome::Read { kvs, .. }) => {
                    for kv in kvs.iter().filter(|kv| kv.key.starts_with('k')) {
                        seen[place_of(&kv.key)] = kv.mod_revision;
                    }
                }
                (Op::Delete { .. }, Outcome::Done { .. }) => seen[place] = 0,
                (_, Outcome::Done { .. } | Outcome::Txn { .. } | Outcome::Page { .. } | Outcome::Refused(_)) => {}
            }
        }
    }

    fn draw(&mut self, place: usize, counter: u64, seen: &[i64]) -> Op {
        let key = key(place);
        let value = self.value(counter, "");
        match self.random.below(100) {
            0..30 => Op::Put { key, value, lease: 0 },
            30..50 => Op::Swap { parts: vec![(key, seen[place], value)] },
            50..58 => {
                let other = self.random.below(self.load.keys) as usize;
                let mut parts = vec![(key, seen[place], value)];
                if other != place {
                    let value = self.value(counter, "'");
                    parts.push((self::key(other), seen[other], value));
                }
                Op::Swap { parts }
            }
            58..62 => Op::Delete { span: Span::key(&key) },
            62 if self.load.wipes && self.random.chance(200) => Op::Delete { span: Span::all() },
            62 => Op::Delete { span: Span::prefix("k") },
            63..85 => Op::Get { span: Span::key(&key), serializable: false, revision: 0 },
            85..91 => Op::Get { span: Span::prefix("k"), serializable: false, revision: 0 },
            91..97 => Op::Get { span: Span::key(&key), serializable: true, revision: 0 },
            _ => Op::Get { span: Span::prefix("k"), serializable: false, revision: seen[place] },
        }
    }

    fn value(&mut self, counter: u64, mark: &str) -> String {
        let mut value = format!("c{}.{counter}{mark}", self.number);
        if self.load.large_value_bytes > 0 && self.random.chance(100) {
            value.push_str(&".".repeat(self.load.large_value_bytes));
        }
        value
    }

    /// An id that no other lease has.
    fn new_lease(&mut self, counter: u64) -> i64 {
        (self.number as i64 + 1) << 32 | counter as i64
    }

    /// Grants leases, hangs keys on them, takes one off again, renews them for a while and then lets them go.
    pub async fn hold_leases(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            let member = self.any_member();
            // Some keep to one member as long as it answers, some to the leader whatever it does, and ask it again soon: it may
            // have been deposed, and not know it for longer than a lease lives.
            let faithful = self.random.chance(400);
            let stubborn = faithful && self.random.chance(700);
            let member = if stubborn { self.leader().unwrap_or(member) } else { member };
            let ttl = if stubborn { 2 } else { self.random.between(2, 5) as i64 };
            counter += 1;
            let lease = self.new_lease(counter);
            if !self.rpc.grant(member, lease, ttl).await {
                continue;
            }
            for _ in 0..self.random.between(1, 3) {
                counter += 1;
                let (key, value) = (format!("l{}.{counter}", self.number), self.value(counter, "l"));
                self.rpc.run(self.number, member, Op::Put { key: key.clone(), value, lease }).await;
                if self.random.chance(300) {
                    let value = self.value(counter, "f");
                    self.rpc.run(self.number, member, Op::Put { key, value, lease: 0 }).await;
                }
            }
            let mut home = member;
            let patience = self.random.millis(200, 800);
            let renewals = match (stubborn, faithful) {
                (true, _) => 60,
                (false, true) => self.random.below(40),
                (false, false) => self.random.below(8),
            };
            for _ in 0..renewals {
                let ttl_ms = ttl as u64 * 1000;
                // Some renew at the last moment, or just after it.
                let late = self.random.chance(300);
                let pause = match (faithful, late) {
                    (true, _) => self.random.millis(20, 400),
                    (false, true) => self.random.millis(ttl_ms - 50, ttl_ms + 150),
                    (false, false) => self.random.millis(100, ttl_ms),
                };
                tokio::time::sleep(pause).await;
                if !faithful {
                    home = self.any_member();
                }
                let deadline = if stubborn { patience } else { self.rpc.deadline };
                match (Rpc { deadline, ..self.rpc.clone() }).renew(home, lease, ttl).await {
                    Some(true) => {}
                    Some(false) => break,
                    None if stubborn => {}
                    None => home = self.any_member(),
                }
                if self.stop.is_set() {
                    break;
                }
            }
            if self.random.chance(300) {
                let member = self.any_member();
                self.rpc.run(self.number, member, Op::Revoke { lease }).await;
            }
        }
    }

    /// Compacts to somewhere that `recorder` has seen, so that the ledger is complete.
    pub async fn compact(mut self, recorder: Arc<Mutex<Watched>>) {
        if self.load.compaction.is_zero() {
            return;
        }
        while !self.stop.is_set() {
            tokio::time::sleep(self.load.compaction).await;
            let newest = recorder.lock().complete_to;
            let revision = newest - self.random.below(20) as i64;
            if revision <= 1 {
                continue;
            }
            let member = self.any_member();
            let outcome = self.rpc.run(self.number, member, Op::Compact { revision }).await;
            // The bound itself can be read, what is before it cannot.
            if matches!(outcome, Outcome::Done { .. }) {
                for revision in [revision, revision - 1] {
                    let member = self.any_member();
                    let get = Op::Get { span: Span::prefix("k"), serializable: false, revision };
                    self.rpc.run(self.number, member, get).await;
                }
            }
        }
    }
}

fn key(place: usize) -> String {
    format!("k{place}")
}

fn place_of(key: &str) -> usize {
    key[1..].parse().unwrap_or(0)
}
