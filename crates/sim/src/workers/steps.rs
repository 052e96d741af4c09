//! Random transactions: every kind of condition and operation, within one another.

use super::Worker;
use super::records::reads;
use crate::history::{Condition, Field, Op, Outcome, Seen, Span, Step, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that random transactions use: `t0`, `t1`, ...
const KEYS: u64 = 6;

impl Worker {
    /// Runs random transactions over few keys.
    pub async fn run_steps(mut self) {
        let mut counter = 0;
        let mut known: BTreeMap<String, Seen> = BTreeMap::new();
        let mut lease = 0;
        while !self.stop.is_set() {
            self.pause().await;
            let member = self.any_member();
            if self.random.chance(30) {
                counter += 1;
                let new = self.new_lease(counter);
                if self.rpc.grant(member, new, 4).await {
                    lease = new;
                }
            }
            let mut used = BTreeSet::new();
            let transaction = self.draw_transaction(&mut counter, &known, lease, &mut used, 0);
            match self.rpc.run(self.number, member, Op::Txn(transaction)).await {
                Outcome::Txn { answers, .. } => {
                    for seen in reads(&answers) {
                        known.insert(seen.key.clone(), seen);
                    }
                }
                // Most likely the lease is gone.
                Outcome::Refused(_) => lease = 0,
                Outcome::Done { .. } | Outcome::Read { .. } | Outcome::Page { .. } | Outcome::Unknown => {}
            }
        }
    }

    /// `used` are keys that it writes already: no transaction may write a key twice.
    fn draw_transaction(
        &mut self,
        counter: &mut u64,
        known: &BTreeMap<String, Seen>,
        lease: i64,
        used: &mut BTreeSet<String>,
        depth: usize,
    ) -> Transaction {
        let conditions = (0..self.random.below(3)).map(|_| self.draw_condition(known)).collect();
        // Both lists may run, and each may use what the other does.
        let (mut in_success, mut in_failure) = (used.clone(), used.clone());
        let success = self.draw_steps(counter, known, lease, &mut in_success, depth);
        let failure = self.draw_steps(counter, known, lease, &mut in_failure, depth);
        used.extend(in_success);
        used.extend(in_failure);
        Transaction { conditions, success, failure }
    }

    fn draw_condition(&mut self, known: &BTreeMap<String, Seen>) -> Condition {
        let key = format!("t{}", self.random.below(KEYS));
        let seen = known.get(&key).cloned().unwrap_or_default();
        let field = match self.random.below(5) {
            0 => Field::Value(seen.value),
            1 => Field::Version(seen.version),
            2 => Field::Create(seen.create_revision),
            3 => Field::Lease(seen.lease),
            _ => Field::Mod(seen.mod_revision),
        };
        Condition { key, field }
    }

    fn draw_steps(
        &mut self,
        counter: &mut u64,
        known: &BTreeMap<String, Seen>,
        lease: i64,
        used: &mut BTreeSet<String>,
        depth: usize,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            let key = format!("t{}", self.random.below(KEYS));
            let step = match self.random.below(10) {
                0 | 1 => Step::Get(Span::prefix("t")),
                2 => Step::Get(Span::key(&key)),
                3 if depth < 2 => Step::Nested(self.draw_transaction(counter, known, lease, used, depth + 1)),
                4 if used.insert(key.clone()) => Step::Delete(Span::key(&key)),
                5 if known.contains_key(&key) && used.insert(key.clone()) => {
                    let lease = if self.random.chance(500) { None } else { Some(lease) };
                    Step::Put { key, value: None, lease }
                }
                _ if used.insert(key.clone()) => {
                    *counter += 1;
                    let lease = if self.random.chance(300) { lease } else { 0 };
                    Step::Put { key, value: Some(self.mark(*counter)), lease: Some(lease) }
                }
                _ => Step::Get(Span::key(&key)),
            };
            steps.push(step);
        }
        steps
    }
}
