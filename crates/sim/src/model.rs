//! What a transaction does, told once more and naively: on the ledger's state at a revision, key by key. The code under test
//! has no part in it.

use crate::history::{Condition, Event, Field, Seen, Span, Step, StepAnswer, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// The state that a transaction begins with.
pub trait State {
    /// What a key holds.
    fn get(&self, key: &str) -> Option<Seen>;
    /// The keys of a span that hold something, in order.
    fn keys(&self, span: &Span) -> Vec<String>;
}

/// What a transaction comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Effect {
    /// Which list ran.
    pub succeeded: bool,
    /// What its operations answer.
    pub answers: Vec<StepAnswer>,
    /// What changes, in order.
    pub events: Vec<Event>,
}

/// What `transaction` does to `state` at `revision`. `None`: it is refused.
pub fn run(state: &dyn State, transaction: &Transaction, revision: i64) -> Option<Effect> {
    let mut run = Run { state, revision, changed: BTreeMap::new(), events: Vec::new() };
    let plan = run.plan(transaction);
    let answers = run.steps(transaction, &plan)?;
    Some(Effect { succeeded: plan.succeeded, answers, events: run.events })
}

/// Whether a condition holds in `state`.
pub fn holds(state: &dyn State, condition: &Condition) -> bool {
    let seen = state.get(&condition.key);
    let number = |of: fn(&Seen) -> i64| seen.as_ref().map_or(0, of);
    match &condition.field {
        Field::Value(value) => seen.as_ref().is_some_and(|seen| seen.value == *value),
        Field::Version(version) => number(|seen| seen.version) == *version,
        Field::Create(create) => number(|seen| seen.create_revision) == *create,
        Field::Mod(modified) => number(|seen| seen.mod_revision) == *modified,
        Field::Lease(lease) => number(|seen| seen.lease) == *lease,
    }
}

/// Which list runs, of the transaction and of those in that list.
struct Plan {
    succeeded: bool,
    nested: Vec<Plan>,
}

struct Run<'a> {
    state: &'a dyn State,
    revision: i64,
    /// What the transaction has changed so far.
    changed: BTreeMap<String, Option<Seen>>,
    events: Vec<Event>,
}

impl Run<'_> {
    fn plan(&self, transaction: &Transaction) -> Plan {
        let succeeded = transaction.conditions.iter().all(|condition| holds(self.state, condition));
        let nested = branch(transaction, succeeded).iter().filter_map(|step| match step {
            Step::Nested(nested) => Some(self.plan(nested)),
            Step::Put { .. } | Step::Delete(_) | Step::Get(_) => None,
        });
        Plan { succeeded, nested: nested.collect() }
    }

    fn steps(&mut self, transaction: &Transaction, plan: &Plan) -> Option<Vec<StepAnswer>> {
        let mut nested = plan.nested.iter();
        let steps = branch(transaction, plan.succeeded).iter();
        steps
            .map(|step| match step {
                Step::Put { key, value, lease } => self.put(key, value.as_deref(), *lease).map(StepAnswer::Put),
                Step::Delete(span) => Some(StepAnswer::Deleted(self.delete(span))),
                Step::Get(span) => {
                    Some(StepAnswer::Got(self.keys(span).iter().filter_map(|key| self.get(key)).collect()))
                }
                Step::Nested(transaction) => {
                    let plan = nested.next()?;
                    Some(StepAnswer::Nested(plan.succeeded, self.steps(transaction, plan)?))
                }
            })
            .collect()
    }

    fn get(&self, key: &str) -> Option<Seen> {
        self.changed.get(key).cloned().unwrap_or_else(|| self.state.get(key))
    }

    fn keys(&self, span: &Span) -> BTreeSet<String> {
        let mut keys: BTreeSet<String> = self.state.keys(span).into_iter().collect();
        for (key, now) in self.changed.iter().filter(|(key, _)| span.contains(key)) {
            if now.is_some() {
                keys.insert(key.clone())
            } else {
                keys.remove(key)
            };
        }
        keys
    }

    /// Returns what was there; `None` if it is refused.
    fn put(&mut self, key: &str, value: Option<&str>, lease: Option<i64>) -> Option<Option<Seen>> {
        let before = self.get(key);
        if before.is_none() && (value.is_none() || lease.is_none()) {
            return None;
        }
        let kept = before.clone().unwrap_or_default();
        let seen = Seen {
            key: key.to_owned(),
            value: value.map_or(kept.value, str::to_owned),
            create_revision: if before.is_some() { kept.create_revision } else { self.revision },
            mod_revision: self.revision,
            version: kept.version + 1,
            lease: lease.unwrap_or(kept.lease),
        };
        self.changed.insert(key.to_owned(), Some(seen.clone()));
        self.events.push(Event::Put(seen));
        Some(before)
    }

    fn delete(&mut self, span: &Span) -> Vec<Seen> {
        let keys = self.keys(span);
        let gone = keys.iter().filter_map(|key| self.get(key)).collect();
        for key in keys {
            self.events.push(Event::Delete { key: key.clone(), revision: self.revision });
            self.changed.insert(key, None);
        }
        gone
    }
}

fn branch(transaction: &Transaction, succeeded: bool) -> &[Step] {
    if succeeded { &transaction.success } else { &transaction.failure }
}

/// The values that a transaction may write.
pub fn written(transaction: &Transaction) -> Vec<&str> {
    let steps = transaction.success.iter().chain(&transaction.failure);
    steps
        .flat_map(|step| match step {
            Step::Put { value: Some(value), .. } => vec![value.as_str()],
            Step::Nested(nested) => written(nested),
            Step::Put { value: None, .. } | Step::Delete(_) | Step::Get(_) => Vec::new(),
        })
        .collect()
}

/// The spans in which a transaction may delete.
pub fn deleted(transaction: &Transaction) -> Vec<&Span> {
    let steps = transaction.success.iter().chain(&transaction.failure);
    steps
        .flat_map(|step| match step {
            Step::Delete(span) => vec![span],
            Step::Nested(nested) => deleted(nested),
            Step::Put { .. } | Step::Get(_) => Vec::new(),
        })
        .collect()
}

/// The keys of which a transaction may keep the value.
pub fn kept(transaction: &Transaction) -> Vec<&str> {
    let steps = transaction.success.iter().chain(&transaction.failure);
    steps
        .flat_map(|step| match step {
            Step::Put { key, value: None, .. } => vec![key.as_str()],
            Step::Nested(nested) => kept(nested),
            Step::Put { .. } | Step::Delete(_) | Step::Get(_) => Vec::new(),
        })
        .collect()
}
