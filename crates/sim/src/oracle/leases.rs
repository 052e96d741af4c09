//! Rule 7: leases live as long as they were promised to, and no longer than that, and nothing else deletes keys.

use super::calls::wrote;
use super::{LeaseTimes, Oracle, RECIPES};
use crate::history::{Entry, Event, History, Hold, Op, Outcome};
use crate::model;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the end of a lease may take after it was due: an election, and a second.
const END_MAX: Duration = Duration::from_millis(2500);

/// What clients know of a lease.
#[derive(Default)]
struct Known {
    /// From when to when it must live: acknowledged grants and renewals.
    promised: Vec<(Duration, Duration)>,
    /// When it was last asked to live on, whatever came of it.
    asked: Duration,
    ttl: Duration,
    revoked: bool,
}

impl Oracle<'_> {
    pub(super) fn check_leases(&mut self, history: &History, times: &LeaseTimes) {
        let known = known_leases(history, times);
        for (lease, known) in &known {
            let due = known.asked.max(times.settled) + known.ttl.mul_f64(times.share_max) + END_MAX;
            if due < times.read && times.left.contains(lease) {
                self.violation(format!("lease {lease:x} was due at {due:?} and is there at {:?}", times.read));
            }
        }
        let deleted = Deleted::of(&history.entries);
        let mut found = Vec::new();
        for watched in &history.watched {
            for (when, event) in &watched.lock().events {
                let Event::Delete { key, revision } = event else { continue };
                let lease = self.at(key, revision - 1).map_or(0, |seen| seen.lease);
                let Some(known) = known.get(&lease).filter(|known| lease != 0 && !known.revoked) else { continue };
                if !self.is_known(revision - 1) || deleted.explains(key, *revision) {
                    continue;
                }
                // A watcher sees the end of a lease at the earliest when it ended.
                if let Some((_, end)) = known.promised.iter().find(|(start, end)| start < when && when < end) {
                    found.push(format!("lease {lease:x} ended before {when:?}, but was renewed until {end:?} ({key})"));
                }
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// Rule 9. Whoever holds a lock trusts in a lease, and so in clocks that run alike.
    pub(super) fn check_holds(&mut self, holds: &[Hold], times: &LeaseTimes) {
        if times.share_min < 1.0 {
            return;
        }
        let mut holds: Vec<&Hold> = holds.iter().collect();
        holds.sort_by(|one, other| (&one.name, one.token).cmp(&(&other.name, other.token)));
        let pairs = holds.windows(2).filter(|pair| pair[0].name == pair[1].name);
        let found: Vec<String> = pairs
            .filter(|pair| pair[1].start < pair[0].end)
            .map(|pair| format!("{:?} and {:?} were held at once", pair[0], pair[1]))
            .collect();
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// A key goes because somebody deletes it, or with its lease, and then with all others on that.
    pub(super) fn check_deletes(&mut self, entries: &[Entry]) {
        let deleted = Deleted::of(entries);
        let mut found = Vec::new();
        for (&revision, events) in self.ledger.revisions.range(self.ledger.compacted + 2..) {
            for event in events {
                let Event::Delete { key, .. } = event else { continue };
                // The client library deletes what it has written for a lock, and no call is noted for that.
                if deleted.explains(key, revision) || key.starts_with(RECIPES) {
                    continue;
                }
                let lease = self.at(key, revision - 1).map_or(0, |seen| seen.lease);
                if lease == 0 {
                    found.push(format!("{key} went at {revision}, but nobody deleted it, and it was on no lease"));
                    continue;
                }
                let left =
                    self.keys.keys().filter(|key| self.at(key, revision).is_some_and(|seen| seen.lease == lease));
                let left: Vec<&&str> = left.collect();
                if !left.is_empty() {
                    found.push(format!("{key} went with lease {lease:x} at {revision}, but {left:?} did not"));
                }
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }
}

fn known_leases(history: &History, times: &LeaseTimes) -> BTreeMap<i64, Known> {
    let mut leases: BTreeMap<i64, Known> = BTreeMap::new();
    for renewal in &history.renewals {
        let known = leases.entry(renewal.lease).or_default();
        known.asked = known.asked.max(renewal.end);
        known.ttl = Duration::from_secs(renewal.ttl_seconds.max(0) as u64);
        if renewal.acknowledged {
            known.promised.push((renewal.start, renewal.start + known.ttl.mul_f64(times.share_min)));
        }
    }
    for entry in &history.entries {
        if let Op::Revoke { lease } = entry.op {
            leases.entry(lease).or_default().revoked = true;
        }
    }
    leases
}

/// What clients deleted, or may have deleted.
struct Deleted<'a> {
    at: BTreeSet<i64>,
    perhaps: Vec<&'a crate::history::Span>,
}

impl<'a> Deleted<'a> {
    fn of(entries: &'a [Entry]) -> Deleted<'a> {
        let mut deleted = Deleted { at: BTreeSet::new(), perhaps: Vec::new() };
        for entry in entries {
            match (&entry.op, &entry.outcome) {
                (Op::Delete { .. }, Outcome::Done { revision, deleted: 1.. }) => drop(deleted.at.insert(*revision)),
                (Op::Txn(_), Outcome::Txn { revision, answers, .. }) if wrote(answers) => {
                    deleted.at.insert(*revision);
                }
                (Op::Delete { span }, Outcome::Unknown) => deleted.perhaps.push(span),
                (Op::Txn(transaction), Outcome::Unknown) => deleted.perhaps.extend(model::deleted(transaction)),
                _ => {}
            }
        }
        deleted
    }

    fn explains(&self, key: &str, revision: i64) -> bool {
        self.at.contains(&revision) || self.perhaps.iter().any(|span| span.contains(key))
    }
}
