//! Decides whether a linearizable store with revisions can have given a history, in O(n log n).
//!
//! Revisions make this easy: every acknowledged write says its place in the one order of writes, and every read says at
//! which place it read. So nothing is searched for; it is enough that
//!
//! 1. no two writes have one revision,
//! 2. a call that started after another had ended has not a lower revision, and a write a higher one (*real time*),
//! 3. a read returns the key's last write at or before its own revision (*latest*),
//! 4. a compare-and-set succeeded exactly if its condition held just before it,
//! 5. what a key says of itself (first write, number of writes) fits the writes that are known.
//!
//! A write without an answer may have happened. It counts as soon as somebody has seen its value, at the revision that
//! he saw. Histories hold puts and compare-and-sets of values that are all different, and no deletes.

use crate::history::{Entry, Op, Outcome, Seen};
use crate::real_time::{self, Call, Place};
use std::collections::BTreeMap;

/// Everything in `entries` that a linearizable store cannot have answered; empty if it can.
pub fn check(entries: &[Entry]) -> Vec<String> {
    let mut checker = Checker::default();
    checker.collect_writes(entries);
    checker.resolve_unknown_writes(entries);
    checker.check_real_time(entries);
    for (index, entry) in entries.iter().enumerate() {
        checker.check_entry(index, entry);
    }
    checker.check_versions(entries);
    checker.violations
}

/// # Panics
/// When `entries` is not linearizable, or holds too few answers to say anything: fewer than `writes_min` acknowledged
/// writes or `reads_min` answered reads.
pub fn assert_linearizable(entries: &[Entry], writes_min: usize, reads_min: usize) {
    let violations = check(entries);
    let shown = violations.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(violations.is_empty(), "{} violations in {} calls:\n{shown}", violations.len(), entries.len());
    let count = |matches: fn(&Outcome) -> bool| entries.iter().filter(|entry| matches(&entry.outcome)).count();
    let writes = count(|outcome| matches!(outcome, Outcome::Wrote { .. }));
    let reads = count(|outcome| matches!(outcome, Outcome::Read { .. }));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown));
    println!("linearizable: {writes} writes, {reads} reads, {unknown} without an answer");
    assert!(writes >= writes_min, "only {writes} writes were acknowledged: that checks nothing");
    assert!(reads >= reads_min, "only {reads} reads were answered: that checks nothing");
}

#[derive(Default)]
struct Checker {
    /// Key -> revision -> value.
    writes: BTreeMap<String, BTreeMap<i64, String>>,
    /// Revision -> key: all keys share one order.
    order: BTreeMap<i64, String>,
    /// Value -> call, for writes without an answer.
    unknown: BTreeMap<String, usize>,
    /// Unknown writes that somebody saw, with the revision.
    resolved: BTreeMap<usize, i64>,
    violations: Vec<String>,
}

impl Checker {
    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    fn collect_writes(&mut self, entries: &[Entry]) {
        for (index, entry) in entries.iter().enumerate() {
            let Some((key, value)) = written(&entry.op) else { continue };
            match entry.outcome {
                Outcome::Wrote { revision } => self.add_write(key, revision, value),
                Outcome::Unknown => {
                    self.unknown.insert(value.to_owned(), index);
                }
                Outcome::Read { .. } => {}
            }
        }
    }

    fn add_write(&mut self, key: &str, revision: i64, value: &str) {
        if let Some(other) = self.order.insert(revision, key.to_owned()) {
            self.violation(format!("revision {revision} was given to two writes, of {other} and of {key}={value}"));
        }
        self.writes.entry(key.to_owned()).or_default().insert(revision, value.to_owned());
    }

    /// Gives every write that was not answered, but whose value was seen, its revision.
    fn resolve_unknown_writes(&mut self, entries: &[Entry]) {
        for entry in entries {
            let Outcome::Read { seen: Some(seen), .. } = &entry.outcome else { continue };
            let Some(&index) = self.unknown.get(&seen.value) else { continue };
            match self.resolved.get(&index) {
                Some(&revision) if revision == seen.mod_revision => {}
                Some(&revision) => {
                    let (value, other) = (&seen.value, seen.mod_revision);
                    self.violation(format!("the one write of {value} was seen at revisions {revision} and {other}"));
                }
                None => {
                    self.resolved.insert(index, seen.mod_revision);
                    // The read itself is checked against the key that it asked for, later.
                    if let Some((key, value)) = written(&entries[index].op) {
                        self.add_write(key, seen.mod_revision, value);
                    }
                }
            }
        }
    }

    /// Rule 2.
    fn check_real_time(&mut self, entries: &[Entry]) {
        let calls: Vec<Call> = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let stale = is_serializable(&entry.op);
                let told = answered_revision(&entry.outcome).filter(|_| !stale);
                let place = match entry.outcome {
                    Outcome::Wrote { revision } => Some(Place::At(revision)),
                    Outcome::Read { revision, .. } if !stale => Some(Place::After(revision)),
                    Outcome::Unknown => self.resolved.get(&index).copied().map(Place::At),
                    Outcome::Read { .. } => None,
                };
                Call { start: entry.start, end: entry.end, told, place }
            })
            .collect();
        for late in real_time::check(&calls) {
            self.violation(format!(
                "{} is at revision {}, but revision {} had been answered before it started",
                describe(&entries[late.call]),
                late.revision,
                late.answered
            ));
        }
    }

    fn check_entry(&mut self, index: usize, entry: &Entry) {
        match (&entry.op, &entry.outcome) {
            (Op::Cas { expected, .. }, Outcome::Wrote { revision }) => {
                self.check_condition(entry, *expected, *revision)
            }
            (Op::Cas { expected, .. }, Outcome::Unknown) => {
                if let Some(&revision) = self.resolved.get(&index) {
                    self.check_condition(entry, *expected, revision);
                }
            }
            (Op::Cas { expected, .. }, Outcome::Read { revision, seen }) => {
                if seen.as_ref().map_or(0, |seen| seen.mod_revision) == *expected {
                    self.violation(format!("{} failed although its condition held", describe(entry)));
                }
                self.check_read(entry, *revision, seen.as_ref());
            }
            (Op::Get { .. }, Outcome::Read { revision, seen }) => self.check_read(entry, *revision, seen.as_ref()),
            (Op::Put { .. }, Outcome::Wrote { .. }) | (_, Outcome::Unknown) => {}
            (Op::Put { .. }, Outcome::Read { .. }) | (Op::Get { .. }, Outcome::Wrote { .. }) => {
                self.violation(format!("{} has an outcome that is not its own", describe(entry)));
            }
        }
    }

    /// Rule 4, for one that wrote.
    fn check_condition(&mut self, entry: &Entry, expected: i64, revision: i64) {
        let before = self.last_write(key_of(&entry.op), revision - 1);
        if before != expected {
            self.violation(format!(
                "{} wrote at revision {revision}, but the write before it was at {before}",
                describe(entry)
            ));
        }
    }

    /// Rule 3.
    fn check_read(&mut self, entry: &Entry, revision: i64, seen: Option<&Seen>) {
        let key = key_of(&entry.op);
        let latest = self.last_write(key, revision);
        let Some(seen) = seen else {
            if latest != 0 {
                self.violation(format!(
                    "{} found nothing at revision {revision}: it lost the write at {latest}",
                    describe(entry)
                ));
            }
            return;
        };
        let at = seen.mod_revision;
        if at > revision {
            self.violation(format!("{} at revision {revision} found the later revision {at}", describe(entry)));
        }
        match self.writes.get(key).and_then(|writes| writes.get(&at)) {
            None => self.violation(format!("{} found {} at {at}, which nobody wrote", describe(entry), seen.value)),
            Some(written) if *written != seen.value => {
                let text = format!("{} found {} at {at}, where {written} was written", describe(entry), seen.value);
                self.violation(text);
            }
            Some(_) if at < latest => self.violation(format!(
                "{} at revision {revision} is stale: it found {at}, the latest write is {latest}",
                describe(entry)
            )),
            Some(_) => {}
        }
    }

    /// Rule 5.
    fn check_versions(&mut self, entries: &[Entry]) {
        // Key -> mod revision -> (version, create revision), from all reads.
        let mut seen_by_key: BTreeMap<&str, BTreeMap<i64, (i64, i64)>> = BTreeMap::new();
        let mut found = Vec::new();
        for entry in entries {
            let Outcome::Read { seen: Some(seen), .. } = &entry.outcome else { continue };
            let now = (seen.version, seen.create_revision);
            let before = seen_by_key.entry(key_of(&entry.op)).or_default().insert(seen.mod_revision, now);
            if before.is_some_and(|before| before != now) {
                found.push(format!("{} found another version or creation than a read before", describe(entry)));
            }
        }
        for (key, versions) in seen_by_key {
            let known = self.writes.get(key);
            let mut before = (0, 0, None);
            for (&revision, &(version, create)) in &versions {
                let writes = known.map_or(0, |writes| writes.range(before.0 + 1..=revision).count() as i64);
                if version - before.1 < writes {
                    found.push(format!(
                        "{key} counts {} writes from revision {} to {revision}, but {writes} are known",
                        version - before.1,
                        before.0
                    ));
                }
                if before.2.is_some_and(|before| before != create) || create > revision {
                    found.push(format!("{key} at revision {revision} says it was created at {create}"));
                }
                before = (revision, version, Some(create));
            }
        }
        self.violations.append(&mut found);
    }

    /// The revision of the key's last known write at or before `revision`; 0 if there is none.
    fn last_write(&self, key: &str, revision: i64) -> i64 {
        let writes = self.writes.get(key);
        writes.and_then(|writes| writes.range(..=revision).next_back()).map_or(0, |(&revision, _)| revision)
    }
}

fn written(op: &Op) -> Option<(&str, &str)> {
    match op {
        Op::Put { key, value } | Op::Cas { key, value, .. } => Some((key, value)),
        Op::Get { .. } => None,
    }
}

fn key_of(op: &Op) -> &str {
    match op {
        Op::Put { key, .. } | Op::Cas { key, .. } | Op::Get { key, .. } => key,
    }
}

fn is_serializable(op: &Op) -> bool {
    match op {
        Op::Get { serializable, .. } => *serializable,
        Op::Put { .. } | Op::Cas { .. } => false,
    }
}

fn answered_revision(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Wrote { revision } | Outcome::Read { revision, .. } => Some(*revision),
        Outcome::Unknown => None,
    }
}

fn describe(entry: &Entry) -> String {
    let (start, end) = (entry.start.as_secs_f64(), entry.end.as_secs_f64());
    match &entry.op {
        Op::Put { key, value } => format!("put {key}={value} [{start:.4}..{end:.4} s]"),
        Op::Cas { key, expected, value } => format!("cas {key}@{expected}={value} [{start:.4}..{end:.4} s]"),
        Op::Get { key, serializable: false } => format!("get {key} [{start:.4}..{end:.4} s]"),
        Op::Get { key, serializable: true } => format!("serializable get {key} [{start:.4}..{end:.4} s]"),
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
