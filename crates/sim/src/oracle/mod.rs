//! Decides whether a replicated store can have given a history.
//!
//! Every write has a revision, and the state holds all of them in order: the *ledger*, read from the members after the
//! last fault is healed. So nothing is searched for. A history is right if
//!
//! 1. the ledger has no hole, and each event follows from those before (creation, version),
//! 2. each acknowledged write is in the ledger at its revision, all of it and nothing else; each event was asked for; no
//!    call has happened twice; what was refused has not happened,
//! 3. a call that started after another had ended has not a lower revision, and a write a higher one,
//! 4. each read is the ledger's state at its revision, and none is answered from what is compacted,
//! 5. each transaction did and answered what the naive `model` does on the ledger's state at the revision
//!    before,
//! 6. each watcher saw the ledger's events, each once, in order, with what was there before, and no promise of progress ran
//!    ahead,
//! 7. no lease ended before its last acknowledged renewal plus its TTL, none lives for ever, all of its keys end with it, and
//!    nothing else deletes a key that nobody deleted,
//! 8. what clients keep by transactions holds at every revision: accounts have one sum, lists only grow, and what only the
//!    leader of an election may write was written by the one that stood for longest,
//! 9. nobody holds a lock or an office of the client library while somebody else does.

mod calls;
mod hash;
mod leases;
mod order;
mod watch;

pub use hash::hash_kv;

use crate::history::{Entry, Event, History, Op, Seen, Span};
use crate::model;
use crate::workers::{ACCOUNTS, SUM, account_balance, candidates, written_by};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// How keys begin that belong to locks and elections.
pub const RECIPES: &str = "recipe/";

/// All changes by revision. Those up to `compacted` may be missing.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Revision -> its events, in order.
    pub revisions: BTreeMap<i64, Vec<Event>>,
    /// Events of revisions up to here are not known to be complete.
    pub compacted: i64,
    /// The newest revision.
    pub newest: i64,
}

/// What is known of leases beside the history.
#[derive(Clone, Debug)]
pub struct LeaseTimes {
    /// The part of its TTL that a lease must live by the world's clock: less than 1 if clocks run fast.
    pub share_min: f64,
    /// The part that it may live: more than 1 if clocks run slow.
    pub share_max: f64,
    /// From here on there was a leader, and no fault.
    pub settled: Duration,
    /// When the end was read.
    pub read: Duration,
    /// The leases that there were then.
    pub left: Vec<i64>,
}

/// Everything in `history` that contradicts `ledger`, in words.
pub fn check(ledger: &Ledger, history: &History, leases: &LeaseTimes) -> Vec<String> {
    let mut oracle = Oracle::new(ledger, &history.entries);
    oracle.check_ledger();
    oracle.check_accounts();
    oracle.check_lists();
    oracle.check_elections();
    for (rule, text) in &history.seen_wrong {
        oracle.rule = *rule;
        oracle.violation(text.clone());
    }
    oracle.rule = Rule::Call;
    oracle.check_calls(&history.entries);
    oracle.check_origins(&history.entries);
    oracle.rule = Rule::Order;
    oracle.check_order(&history.entries);
    oracle.rule = Rule::Watch;
    let compacted = history.entries.iter().filter_map(|entry| match entry.op {
        Op::Compact { revision } => Some(revision),
        Op::Put { .. }
        | Op::Delete { .. }
        | Op::Get { .. }
        | Op::Swap { .. }
        | Op::Revoke { .. }
        | Op::Txn(_)
        | Op::Page { .. } => None,
    });
    let compacted = compacted.max().unwrap_or(0);
    for watched in &history.watched {
        oracle.check_watcher(&watched.lock(), compacted);
    }
    oracle.rule = Rule::Lease;
    oracle.check_leases(history, leases);
    oracle.check_deletes(&history.entries);
    oracle.check_holds(&history.holds, leases);
    oracle.violations
}

/// Everything that is there at a revision of the ledger.
pub fn state(ledger: &Ledger, revision: i64) -> Vec<Seen> {
    Oracle::new(ledger, &[]).state(&Span::all(), revision).into_iter().cloned().collect()
}

/// Which of the rules something breaks; in front of each violation, so that one can tell who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The ledger itself.
    Ledger,
    /// What an answer says.
    Call,
    /// The order of calls in real time.
    Order,
    /// What a watcher sees.
    Watch,
    /// How long a lease lives.
    Lease,
    /// That members are equal.
    Replicas,
    /// Who may do what.
    Auth,
    /// That a copy of the data is what it was made of.
    Backup,
    /// Who leads, and in which term.
    Leadership,
    /// That whoever does not belong to the cluster takes no part.
    Membership,
    /// That no process ends by itself, or goes on when it must end.
    Process,
    /// That service is back in time.
    Recovery,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Rule::Ledger => "ledger",
            Rule::Call => "call",
            Rule::Order => "order",
            Rule::Watch => "watch",
            Rule::Lease => "lease",
            Rule::Replicas => "replicas",
            Rule::Auth => "auth",
            Rule::Backup => "backup",
            Rule::Leadership => "leadership",
            Rule::Membership => "membership",
            Rule::Process => "process",
            Rule::Recovery => "recovery",
        })
    }
}

struct Oracle<'a> {
    ledger: &'a Ledger,
    /// Key -> revision -> what it held from then on.
    keys: BTreeMap<&'a str, BTreeMap<i64, Option<&'a Seen>>>,
    /// Value -> revision.
    values: BTreeMap<&'a str, i64>,
    /// What is being checked.
    rule: Rule,
    violations: Vec<String>,
}

impl<'a> Oracle<'a> {
    fn new(ledger: &'a Ledger, entries: &[Entry]) -> Oracle<'a> {
        let kept: BTreeSet<&str> = entries
            .iter()
            .flat_map(|entry| if let Op::Txn(transaction) = &entry.op { model::kept(transaction) } else { Vec::new() })
            .collect();
        let mut keys: BTreeMap<&str, BTreeMap<i64, Option<&Seen>>> = BTreeMap::new();
        let mut values = BTreeMap::new();
        let mut violations = Vec::new();
        for (&revision, events) in &ledger.revisions {
            for event in events {
                let seen = match event {
                    Event::Put(seen) => Some(seen),
                    Event::Delete { .. } => None,
                };
                keys.entry(event.key()).or_default().insert(revision, seen);
                let Some(seen) = seen else { continue };
                // What the client library writes for a lock or an election is no value of a call.
                if seen.key.starts_with(RECIPES) && seen.lease != 0 {
                    continue;
                }
                // A value that was kept is there again later; it was written when it first came.
                let first = *values.entry(seen.value.as_str()).or_insert(revision);
                if first != revision && !kept.contains(seen.key.as_str()) {
                    let (rule, value) = (Rule::Ledger, &seen.value);
                    violations.push(format!("{rule}: {value} was written at {first} and again at {revision}"));
                }
            }
        }
        Oracle { ledger, keys, values, rule: Rule::Ledger, violations }
    }

    fn violation(&mut self, text: String) {
        self.violations.push(format!("{}: {text}", self.rule));
    }

    /// What `key` holds at `revision`. Only asked where the ledger knows.
    fn at(&self, key: &str, revision: i64) -> Option<&'a Seen> {
        self.keys.get(key)?.range(..=revision).next_back().and_then(|(_, seen)| *seen)
    }

    fn state(&self, span: &Span, revision: i64) -> Vec<&'a Seen> {
        let keys = self
            .keys
            .range::<str, _>((Bound::Included(span.from.as_str()), Bound::Unbounded))
            .take_while(|(key, _)| span.contains(key));
        keys.filter_map(|(key, _)| self.at(key, revision)).collect()
    }

    fn is_known(&self, revision: i64) -> bool {
        revision > self.ledger.compacted
    }

    fn events(&self, revision: i64) -> &'a [Event] {
        self.ledger.revisions.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// Rule 1.
    fn check_ledger(&mut self) {
        let ledger = self.ledger;
        for revision in ledger.compacted + 1..=ledger.newest {
            if revision > 1 && !ledger.revisions.contains_key(&revision) {
                self.violation(format!("revision {revision} of {} has no events", ledger.newest));
            }
        }
        for (&revision, events) in ledger.revisions.range(ledger.compacted + 1..) {
            for event in events {
                let Event::Put(seen) = event else { continue };
                let before = self.at(&seen.key, revision - 1);
                let (create, version) = before.map_or((revision, 1), |b| (b.create_revision, b.version + 1));
                // What was before may be in the part that is not known.
                let known = before.is_some() || ledger.compacted == 0 || seen.create_revision > ledger.compacted;
                if known && (seen.create_revision, seen.version) != (create, version) {
                    self.violation(format!(
                        "{} at {revision} says create {} version {}, but it is create {create} version {version}",
                        seen.key, seen.create_revision, seen.version
                    ));
                }
            }
        }
    }

    /// Rule 8: money moves, and is neither made nor lost.
    fn check_accounts(&mut self) {
        let mut balances: BTreeMap<&str, i64> = BTreeMap::new();
        let mut found = Vec::new();
        for (revision, events) in &self.ledger.revisions {
            for event in events {
                match event {
                    Event::Put(seen) => {
                        if let Some(balance) = account_balance(seen) {
                            balances.insert(&seen.key, balance);
                        }
                    }
                    Event::Delete { key, .. } => drop(balances.remove(key.as_str())),
                }
            }
            let sum: i64 = balances.values().sum();
            if balances.len() == ACCOUNTS && sum != SUM && self.ledger.compacted == 0 {
                found.push(format!("at revision {revision} the accounts hold {sum}, not {SUM}: {balances:?}"));
            }
        }
        found.into_iter().take(1).for_each(|text| self.violation(text));
    }

    /// Rule 8: an element of a list stays where it is.
    fn check_lists(&mut self) {
        let mut found = Vec::new();
        for (key, history) in self.keys.range("n".."o") {
            for (before, after) in history.values().zip(history.values().skip(1)) {
                if let (Some(before), Some(after)) = (before, after)
                    && !after.value.starts_with(&before.value)
                {
                    found.push(format!("{key} was {}, and is {} after that", before.value, after.value));
                }
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }
}

impl Oracle<'_> {
    /// Rule 8: whoever writes what only the leader may write has the oldest key of all candidates.
    fn check_elections(&mut self) {
        let mut found = Vec::new();
        for (&revision, events) in self.ledger.revisions.range(self.ledger.compacted + 2..) {
            for event in events {
                let Event::Put(seen) = event else { continue };
                let Some(leader) = written_by(seen) else { continue };
                let standing = self.state(&candidates(), revision - 1);
                let oldest = standing.iter().min_by_key(|seen| seen.create_revision).map(|seen| seen.key.as_str());
                if oldest != Some(leader) {
                    found.push(format!("{leader} led at {revision}, but {oldest:?} stood for longest"));
                }
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }
}

impl model::State for (&Oracle<'_>, i64) {
    fn get(&self, key: &str) -> Option<Seen> {
        self.0.at(key, self.1).cloned()
    }

    fn keys(&self, span: &Span) -> Vec<String> {
        self.0.state(span, self.1).into_iter().map(|seen| seen.key.clone()).collect()
    }
}

/// The values that a call writes.
fn written(op: &Op) -> Vec<&str> {
    match op {
        Op::Put { value, .. } => vec![value],
        Op::Swap { parts } => parts.iter().map(|(_, _, value)| value.as_str()).collect(),
        Op::Txn(transaction) => model::written(transaction),
        Op::Delete { .. } | Op::Get { .. } | Op::Revoke { .. } | Op::Page { .. } | Op::Compact { .. } => Vec::new(),
    }
}

/// A call in one line.
pub fn show(entry: &Entry) -> String {
    let (start, end) = (entry.start.as_secs_f64(), entry.end.as_secs_f64());
    format!("c{} via m{} [{start:.4}..{end:.4}] {:?}", entry.client, entry.member, entry.op)
}

#[cfg(test)]
mod tests;
