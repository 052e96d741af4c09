//! Decides whether a replicated store can have given a history.
//!
//! Every write has a revision, and the state holds all of them in order: the *ledger*, read from the members after the
//! last fault is healed. So nothing is searched for. A history is right if
//!
//! 1. the ledger has no hole, and each event follows from those before (creation, version),
//! 2. each acknowledged write is in the ledger at its revision, all of it and nothing else; each event was asked for; no
//!    call has happened twice; what was refused has not happened,
//! 3. a call that started after another had ended has not a lower revision, and a write a higher one,
//! 4. each read is the ledger's state at its revision,
//! 5. each conditional write wrote if and only if its condition held at the revision before,
//! 6. each watcher saw the ledger's events, each once, in order, and no promise of progress ran ahead,
//! 7. no lease ended before its last acknowledged renewal plus its TTL.

use crate::history::{Entry, Event, History, Op, Outcome, Seen, Span, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

/// Everything in `history` that contradicts `ledger`, in words.
///
/// `lease_share` is the part of its TTL that a lease must live by the world's clock: less than 1 if clocks run fast.
pub fn check(ledger: &Ledger, history: &History, lease_share: f64) -> Vec<String> {
    let mut oracle = Oracle::new(ledger);
    oracle.check_ledger();
    oracle.check_calls(&history.entries);
    oracle.check_order(&history.entries);
    oracle.check_origins(&history.entries);
    for watched in &history.watched {
        oracle.check_watcher(&watched.lock());
    }
    oracle.check_leases(history, lease_share);
    oracle.violations
}

struct Oracle<'a> {
    ledger: &'a Ledger,
    /// Key -> revision -> what it held from then on.
    keys: BTreeMap<&'a str, BTreeMap<i64, Option<&'a Seen>>>,
    /// Value -> revision.
    values: BTreeMap<&'a str, i64>,
    violations: Vec<String>,
}

impl<'a> Oracle<'a> {
    fn new(ledger: &'a Ledger) -> Oracle<'a> {
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
                if let Some(seen) = seen
                    && let Some(before) = values.insert(seen.value.as_str(), revision)
                {
                    violations.push(format!("{} was written at {before} and again at {revision}", seen.value));
                }
            }
        }
        Oracle { ledger, keys, values, violations }
    }

    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// What `key` holds at `revision`. Only asked where the ledger knows.
    fn at(&self, key: &str, revision: i64) -> Option<&'a Seen> {
        self.keys.get(key)?.range(..=revision).next_back().and_then(|(_, seen)| *seen)
    }

    fn state(&self, span: &Span, revision: i64) -> Vec<&'a Seen> {
        self.keys.keys().filter(|key| span.contains(key)).filter_map(|key| self.at(key, revision)).collect()
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

    /// Rules 2, 4 and 5, call by call.
    fn check_calls(&mut self, entries: &[Entry]) {
        for entry in entries {
            match &entry.outcome {
                Outcome::Done { revision, deleted } => self.check_done(entry, *revision, *deleted),
                Outcome::Read { revision, kvs } => self.check_read(entry, *revision, kvs),
                Outcome::Refused(text) => self.check_nothing_of(entry, text),
                Outcome::Unknown => self.check_condition_if_done(entry),
            }
        }
    }

    fn is_known(&self, revision: i64) -> bool {
        revision > self.ledger.compacted
    }

    fn check_done(&mut self, entry: &Entry, revision: i64, deleted: i64) {
        if revision > self.ledger.newest {
            let newest = self.ledger.newest;
            return self
                .violation(format!("LOST: {} was acknowledged at {revision}, the end is {newest}", show(entry)));
        }
        if !self.is_known(revision) {
            return;
        }
        let ledger = self.ledger;
        let events = ledger.revisions.get(&revision).map_or(&[][..], Vec::as_slice);
        match &entry.op {
            Op::Put { key, value, lease } => {
                let put = |event: &Event| matches!(event, Event::Put(seen) if seen.key == *key && seen.value == *value && seen.lease == *lease);
                if !matches!(events, [event] if put(event)) {
                    self.violation(format!(
                        "LOST: {} was acknowledged at {revision}, where {events:?} is",
                        show(entry)
                    ));
                }
            }
            Op::Swap { parts } => {
                let same = events.len() == parts.len()
                    && parts.iter().zip(events).all(|((key, _, value), event)| {
                        matches!(event, Event::Put(seen) if seen.key == *key && seen.value == *value)
                    });
                if !same {
                    self.violation(format!(
                        "LOST: {} was acknowledged at {revision}, where {events:?} is",
                        show(entry)
                    ));
                }
                self.check_condition(entry, parts, revision);
            }
            Op::Delete { span } => {
                let before = if deleted == 0 { revision } else { revision - 1 };
                let there: Vec<&str> = self.state(span, before).iter().map(|seen| seen.key.as_str()).collect();
                if there.len() as i64 != deleted {
                    let text =
                        format!("{} deleted {deleted} keys at {revision}, but {there:?} were there", show(entry));
                    return self.violation(text);
                }
                if deleted > 0 {
                    let gone: Vec<&str> = events.iter().map(Event::key).collect();
                    if gone != there || events.iter().any(|event| matches!(event, Event::Put(_))) {
                        self.violation(format!(
                            "LOST: {} deleted {there:?}, but {revision} is {events:?}",
                            show(entry)
                        ));
                    }
                }
            }
            Op::Revoke { .. } => {}
            Op::Get { .. } => self.violation(format!("{} was answered as a write", show(entry))),
        }
    }

    fn condition_holds(&self, parts: &[(String, i64, String)], revision: i64) -> bool {
        parts.iter().all(|(key, expected, _)| self.at(key, revision).map_or(0, |seen| seen.mod_revision) == *expected)
    }

    fn check_condition(&mut self, entry: &Entry, parts: &[(String, i64, String)], revision: i64) {
        if self.is_known(revision - 1) && !self.condition_holds(parts, revision - 1) {
            self.violation(format!("{} wrote at {revision}, but its condition did not hold before", show(entry)));
        }
    }

    fn check_condition_if_done(&mut self, entry: &Entry) {
        let Op::Swap { parts } = &entry.op else { return };
        let revision = parts.first().and_then(|(_, _, value)| self.values.get(value.as_str()).copied());
        if let Some(revision) = revision {
            self.check_condition(entry, parts, revision);
            let together = parts.iter().all(|(_, _, value)| self.values.get(value.as_str()) == Some(&revision));
            if !together {
                self.violation(format!("{} happened in part", show(entry)));
            }
        }
    }

    fn check_read(&mut self, entry: &Entry, revision: i64, kvs: &[Seen]) {
        let (span, at) = match &entry.op {
            Op::Get { span, revision: asked, .. } => (span.clone(), if *asked > 0 { *asked } else { revision }),
            Op::Swap { parts } => {
                if self.is_known(revision) && self.condition_holds(parts, revision) {
                    self.violation(format!("{} did not write at {revision}, but its condition held", show(entry)));
                }
                (Span::key(parts.first().map_or("", |(key, _, _)| key)), revision)
            }
            Op::Put { .. } | Op::Delete { .. } | Op::Revoke { .. } => {
                return self.violation(format!("{} was answered as a read", show(entry)));
            }
        };
        if at > self.ledger.newest {
            return self.violation(format!(
                "LOST: {} read revision {at}, the end is {}",
                show(entry),
                self.ledger.newest
            ));
        }
        if !self.is_known(at) {
            return;
        }
        let expected = self.state(&span, at);
        if expected.len() != kvs.len() || expected.iter().zip(kvs).any(|(expected, found)| **expected != *found) {
            self.violation(format!("{} at {at} found {kvs:?}, but the state is {expected:?}", show(entry)));
        }
    }

    /// Rule 2: what was refused did not happen.
    fn check_nothing_of(&mut self, entry: &Entry, text: &str) {
        for value in written(&entry.op) {
            if let Some(revision) = self.values.get(value) {
                let revision = *revision;
                self.violation(format!("{} was refused ({text}), but happened at {revision}", show(entry)));
            }
        }
    }

    /// Rule 2: each value in the ledger was asked for.
    fn check_origins(&mut self, entries: &[Entry]) {
        let asked: BTreeSet<&str> = entries.iter().flat_map(|entry| written(&entry.op)).collect();
        let strange: Vec<String> = self
            .values
            .iter()
            .filter(|(value, _)| !asked.contains(**value))
            .map(|(value, revision)| format!("{value} at {revision} was never written by anybody"))
            .collect();
        self.violations.extend(strange);
    }

    /// Rule 3: a sweep over all starts and ends, with the highest revision that has been answered so far.
    fn check_order(&mut self, entries: &[Entry]) {
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Edge {
            // At one instant starts come first: only what ended strictly before is known to be before.
            Start,
            End,
        }
        let mut edges = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            edges.push((entry.start, Edge::Start, index));
            edges.push((entry.end, Edge::End, index));
        }
        edges.sort();
        let mut answered = 0;
        for (_, edge, index) in edges {
            let entry = &entries[index];
            match edge {
                Edge::End => answered = answered.max(known_revision(entry).unwrap_or(0)),
                Edge::Start => {
                    let Some((revision, writes)) = self.own_revision(entry) else { continue };
                    if revision < answered || (writes && revision == answered) {
                        self.violation(format!(
                            "{} is at revision {revision}, but {answered} had been answered before it started",
                            show(entry)
                        ));
                    }
                }
            }
        }
    }

    /// The revision at which a call took place, if it must keep to real time, and whether it wrote.
    fn own_revision(&self, entry: &Entry) -> Option<(i64, bool)> {
        match (&entry.op, &entry.outcome) {
            (Op::Get { serializable: true, .. }, _) | (_, Outcome::Refused(_)) => None,
            (Op::Delete { .. }, Outcome::Done { revision, deleted: 0 }) => Some((*revision, false)),
            (Op::Revoke { .. }, Outcome::Done { revision, .. }) => Some((*revision, false)),
            (_, Outcome::Done { revision, .. }) => Some((*revision, true)),
            (_, Outcome::Read { revision, .. }) => Some((*revision, false)),
            (op, Outcome::Unknown) => {
                written(op).first().and_then(|value| self.values.get(*value)).map(|revision| (*revision, true))
            }
        }
    }

    /// Rule 6.
    fn check_watcher(&mut self, watched: &Watched) {
        let name = &watched.name;
        self.violations.extend(watched.violations.iter().map(|text| format!("{name}: {text}")));
        let ledger = self.ledger;
        let known = |revision: i64| revision > ledger.compacted && !in_gap(watched, revision);
        let seen: Vec<&Event> = watched.events.iter().map(|(_, event)| event).collect();
        let last = seen.last().map_or(0, |event| event.revision());
        let promised = last.max(watched.complete_to);
        let expected: Vec<&Event> = ledger
            .revisions
            .range(watched.from..)
            .take_while(|(revision, _)| **revision <= promised)
            .filter(|(revision, _)| known(**revision))
            .flat_map(|(_, events)| events)
            .filter(|event| watched.span.contains(event.key()))
            .collect();
        let seen: Vec<&Event> = seen.into_iter().filter(|event| known(event.revision())).collect();
        if let Some(place) = (0..seen.len().max(expected.len())).find(|i| seen.get(*i) != expected.get(*i)) {
            self.violation(format!(
                "{name}: event {place} is {:?}, but must be {:?} (promised up to {promised})",
                seen.get(place),
                expected.get(place)
            ));
        }
    }

    /// Rule 7. A watcher saw the end of a lease at the earliest when it ended.
    fn check_leases(&mut self, history: &History, lease_share: f64) {
        let mut alive_until: BTreeMap<i64, Vec<(Duration, Duration)>> = BTreeMap::new();
        for renewal in &history.renewals {
            let ttl = Duration::from_secs(renewal.ttl_seconds.max(0) as u64);
            let until = renewal.start + ttl.mul_f64(lease_share);
            alive_until.entry(renewal.lease).or_default().push((renewal.start, until));
        }
        let revoked: BTreeSet<i64> = history
            .entries
            .iter()
            .filter_map(|entry| match entry.op {
                Op::Revoke { lease } => Some(lease),
                Op::Put { .. } | Op::Delete { .. } | Op::Get { .. } | Op::Swap { .. } => None,
            })
            .collect();
        let deleted_by_clients: BTreeSet<&str> = history
            .entries
            .iter()
            .filter_map(|entry| match &entry.op {
                Op::Delete { span } if span.until.is_none() => Some(span.from.as_str()),
                Op::Delete { .. } | Op::Put { .. } | Op::Get { .. } | Op::Swap { .. } | Op::Revoke { .. } => None,
            })
            .collect();
        let mut found = Vec::new();
        for watched in &history.watched {
            for (when, event) in &watched.lock().events {
                let Event::Delete { key, revision } = event else { continue };
                let Some(lease) = self.at(key, revision - 1).map(|seen| seen.lease) else { continue };
                if lease == 0 || revoked.contains(&lease) || deleted_by_clients.contains(key.as_str()) {
                    continue;
                }
                let early =
                    alive_until.get(&lease).into_iter().flatten().find(|(start, end)| start < when && when < end);
                if let Some((_, end)) = early {
                    found.push(format!("lease {lease:x} ended before {when:?}, but was renewed until {end:?} ({key})"));
                }
            }
        }
        self.violations.append(&mut found);
    }
}

fn in_gap(watched: &Watched, revision: i64) -> bool {
    watched.gaps.iter().any(|(from, to)| revision >= *from && revision <= *to)
}

/// The values that a call writes.
fn written(op: &Op) -> Vec<&str> {
    match op {
        Op::Put { value, .. } => vec![value],
        Op::Swap { parts } => parts.iter().map(|(_, _, value)| value.as_str()).collect(),
        Op::Delete { .. } | Op::Get { .. } | Op::Revoke { .. } => Vec::new(),
    }
}

/// What an answer said of the present revision. A serializable read says nothing of the present.
fn known_revision(entry: &Entry) -> Option<i64> {
    match (&entry.op, &entry.outcome) {
        (Op::Get { serializable: true, .. }, _) => None,
        (_, Outcome::Done { revision, .. } | Outcome::Read { revision, .. }) => Some(*revision),
        (_, Outcome::Refused(_) | Outcome::Unknown) => None,
    }
}

/// A call in one line.
pub fn show(entry: &Entry) -> String {
    let (start, end) = (entry.start.as_secs_f64(), entry.end.as_secs_f64());
    format!("c{} via m{} [{start:.4}..{end:.4}] {:?}", entry.client, entry.member, entry.op)
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
