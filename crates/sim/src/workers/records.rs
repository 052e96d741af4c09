//! Clients that keep to something by transactions: accounts of one sum, lists that grow, sets, locks, and objects as
//! Kubernetes reads and writes them.

use super::Worker;
use crate::history::{Condition, Field, Op, Outcome, Seen, Span, Step, StepAnswer, Transaction};
use std::collections::BTreeMap;

/// How many accounts there are: the keys `b0`, `b1`, ...
pub const ACCOUNTS: usize = 5;

/// What they hold together.
pub const SUM: i64 = 100 * ACCOUNTS as i64;

/// The balance that an account's value says. It goes on with who wrote it, since no value is written twice.
pub fn account_balance(seen: &Seen) -> Option<i64> {
    let balance = seen.key.strip_prefix('b').and(seen.value.split_once(' '))?.0;
    balance.parse().ok()
}

impl Worker {
    /// A value that nobody else writes.
    pub(super) fn mark(&self, counter: u64) -> String {
        format!("c{}.{counter}", self.number)
    }

    /// What a key holds now, if it is answered.
    async fn look(&mut self, member: usize, span: Span) -> Option<BTreeMap<String, Seen>> {
        let get = Op::Get { span, serializable: false, revision: 0 };
        match self.rpc.run(self.number, member, get).await {
            Outcome::Read { kvs, .. } => Some(kvs.into_iter().map(|seen| (seen.key.clone(), seen)).collect()),
            Outcome::Done { .. }
            | Outcome::Txn { .. }
            | Outcome::Page { .. }
            | Outcome::Refused(_)
            | Outcome::Unknown => None,
        }
    }

    /// Moves money between accounts, and makes all of them if they are not there.
    pub async fn keep_accounts(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let member = self.any_member();
            let Some(accounts) = self.look(member, Span::prefix("b")).await else { continue };
            let transaction = match self.transfer(&accounts, counter) {
                Some(transfer) => transfer,
                None => Transaction {
                    conditions: (0..ACCOUNTS).map(|place| unwritten(&format!("b{place}"))).collect(),
                    success: (0..ACCOUNTS)
                        .map(|place| put(&format!("b{place}"), format!("100 {}/{place}", self.mark(counter))))
                        .collect(),
                    failure: vec![Step::Get(Span::prefix("b"))],
                },
            };
            self.rpc.run(self.number, member, Op::Txn(transaction)).await;
        }
    }

    fn transfer(&mut self, accounts: &BTreeMap<String, Seen>, counter: u64) -> Option<Transaction> {
        let from = self.random.below(ACCOUNTS as u64) as usize;
        let to = (from + 1 + self.random.below(ACCOUNTS as u64 - 1) as usize) % ACCOUNTS;
        let (from, to) = (accounts.get(&format!("b{from}"))?, accounts.get(&format!("b{to}"))?);
        let amount = self.random.between(1, 50) as i64;
        let mark = self.mark(counter);
        Some(Transaction {
            conditions: vec![unchanged(from), unchanged(to)],
            success: vec![
                put(&from.key, format!("{} {mark}-", account_balance(from)? - amount)),
                put(&to.key, format!("{} {mark}+", account_balance(to)? + amount)),
                // In the midst of the transaction both are seen as they will be.
                Step::Get(Span::prefix("b")),
            ],
            failure: vec![Step::Get(Span::key(&from.key)), Step::Get(Span::key(&to.key))],
        })
    }

    /// Appends to lists: the keys `n0`, `n1`. The condition is the value itself, or when it was written.
    pub async fn grow_lists(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let (member, key) = (self.any_member(), format!("n{}", self.random.below(2)));
            let Some(list) = self.look(member, Span::key(&key)).await else { continue };
            let (condition, value) = match list.get(&key) {
                None => (unwritten(&key), self.mark(counter)),
                Some(seen) => {
                    let by_value = self.random.chance(500);
                    let condition =
                        if by_value { equal(&key, Field::Value(seen.value.clone())) } else { unchanged(seen) };
                    (condition, format!("{},{}", seen.value, self.mark(counter)))
                }
            };
            let transaction = Transaction {
                conditions: vec![condition],
                success: vec![put(&key, value)],
                failure: vec![Step::Get(Span::key(&key))],
            };
            self.rpc.run(self.number, member, Op::Txn(transaction)).await;
        }
    }

    /// Adds to a set and takes from it: the keys `s/...`. Reads all of it now and then.
    pub async fn keep_set(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let member = self.any_member();
            let key = format!("s/{}.{}", self.number, self.random.below(12));
            let transaction = match self.random.below(4) {
                0 => Transaction {
                    conditions: vec![equal(&key, Field::Version(1))],
                    success: vec![Step::Delete(Span::key(&key)), Step::Get(Span::prefix("s/"))],
                    failure: vec![],
                },
                1 => Transaction { success: vec![Step::Get(Span::prefix("s/"))], ..Transaction::default() },
                _ => Transaction {
                    conditions: vec![unwritten(&key)],
                    success: vec![put(&key, self.mark(counter)), Step::Get(Span::prefix("s/"))],
                    failure: vec![Step::Get(Span::key(&key))],
                },
            };
            self.rpc.run(self.number, member, Op::Txn(transaction)).await;
        }
    }

    /// Takes a lock on a lease, or follows who has it: the keys `m0`, `m1`.
    pub async fn take_locks(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let (member, key, ttl) = (self.any_member(), format!("m{}", self.random.below(2)), 3);
            let lease = self.new_lease(counter);
            if !self.rpc.grant(member, lease, ttl).await {
                continue;
            }
            let value = self.mark(counter);
            let campaign = Transaction {
                conditions: vec![equal(&key, Field::Create(0))],
                success: vec![Step::Put { key: key.clone(), value: Some(value), lease: Some(lease) }],
                failure: vec![Step::Get(Span::key(&key))],
            };
            let outcome = self.rpc.run(self.number, member, Op::Txn(campaign)).await;
            if let Outcome::Txn { succeeded: true, revision, .. } = outcome {
                self.hold_lock(&key, lease, ttl, revision, counter).await;
            } else if self.random.chance(500) {
                let member = self.any_member();
                self.rpc.run(self.number, member, Op::Revoke { lease }).await;
            }
        }
    }

    /// Does something under the lock that only its holder may do, and gives it back or lets it go.
    async fn hold_lock(&mut self, key: &str, lease: i64, ttl: i64, revision: i64, counter: u64) {
        for round in 0..self.random.between(1, 4) {
            let pause = self.random.millis(50, 1500);
            tokio::time::sleep(pause).await;
            let member = self.any_member();
            if self.rpc.renew(member, lease, ttl).await == Some(false) {
                return;
            }
            let guarded = Transaction {
                conditions: vec![equal(key, Field::Create(revision)), equal(key, Field::Lease(lease))],
                // The holder tells something anew, and keeps the lease.
                success: vec![Step::Put {
                    key: key.to_owned(),
                    value: Some(format!("{}/{round}", self.mark(counter))),
                    lease: None,
                }],
                failure: vec![Step::Get(Span::key(key))],
            };
            self.rpc.run(self.number, member, Op::Txn(guarded)).await;
        }
        let member = self.any_member();
        let resign = Transaction {
            conditions: vec![equal(key, Field::Create(revision))],
            success: vec![Step::Delete(Span::key(key))],
            failure: vec![],
        };
        match self.random.below(3) {
            0 => drop(self.rpc.run(self.number, member, Op::Txn(resign)).await),
            1 => drop(self.rpc.run(self.number, member, Op::Revoke { lease }).await),
            _ => {}
        }
    }

    /// Lists objects page by page at one revision, and writes them if nobody has meanwhile: the keys `o/...`.
    pub async fn keep_objects(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let member = self.any_member();
            let Some(objects) = self.list(member).await else { continue };
            let key = format!("o/{}", self.random.below(10));
            let mark = self.mark(counter);
            let transaction = match objects.get(&key) {
                None => Transaction {
                    conditions: vec![equal(&key, Field::Mod(0))],
                    success: vec![put(&key, mark)],
                    failure: vec![Step::Get(Span::key(&key))],
                },
                Some(seen) if self.random.chance(250) => Transaction {
                    conditions: vec![unchanged(seen)],
                    success: vec![Step::Delete(Span::key(&key))],
                    failure: vec![Step::Get(Span::key(&key))],
                },
                Some(seen) => Transaction {
                    conditions: vec![unchanged(seen)],
                    success: vec![put(&key, mark)],
                    failure: vec![Step::Get(Span::key(&key))],
                },
            };
            self.rpc.run(self.number, member, Op::Txn(transaction)).await;
        }
    }

    /// All objects at one revision, as far as it is answered.
    async fn list(&mut self, member: usize) -> Option<BTreeMap<String, Seen>> {
        let (mut span, mut revision, mut found) = (Span::prefix("o/"), 0, BTreeMap::new());
        if self.random.chance(200) {
            let count = Op::Page { span: span.clone(), limit: 0, revision: 0, count_only: true };
            self.rpc.run(self.number, member, count).await;
        }
        loop {
            let page = Op::Page { span: span.clone(), limit: 3, revision, count_only: false };
            let Outcome::Page { revision: at, kvs, more, .. } = self.rpc.run(self.number, member, page).await else {
                return None;
            };
            revision = if revision == 0 { at } else { revision };
            // The key that follows directly.
            span.from = kvs.last().map_or(span.from, |seen| format!("{}\0", seen.key));
            found.extend(kvs.into_iter().map(|seen| (seen.key.clone(), seen)));
            if !more || self.stop.is_set() {
                return Some(found);
            }
        }
    }
}

fn equal(key: &str, field: Field) -> Condition {
    Condition { key: key.to_owned(), field }
}

fn unchanged(seen: &Seen) -> Condition {
    equal(&seen.key, Field::Mod(seen.mod_revision))
}

fn unwritten(key: &str) -> Condition {
    equal(key, Field::Mod(0))
}

fn put(key: &str, value: String) -> Step {
    Step::Put { key: key.to_owned(), value: Some(value), lease: Some(0) }
}

/// The answers of a transaction, with those of the ones within.
pub(super) fn reads(answers: &[StepAnswer]) -> Vec<Seen> {
    answers
        .iter()
        .flat_map(|answer| match answer {
            StepAnswer::Put(before) => before.iter().cloned().collect(),
            StepAnswer::Deleted(kvs) | StepAnswer::Got(kvs) => kvs.clone(),
            StepAnswer::Nested(_, answers) => reads(answers),
        })
        .collect()
}
