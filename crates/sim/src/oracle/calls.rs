//! Rules 2, 4 and 5: each call by itself, against the ledger.

use super::{Oracle, show, written};
use crate::history::{Entry, Event, Op, Outcome, Seen, Span, StepAnswer, Transaction};
use crate::model;
use std::collections::BTreeSet;

impl Oracle<'_> {
    /// All calls, one by one.
    pub(super) fn check_calls(&mut self, entries: &[Entry]) {
        for entry in entries {
            match &entry.outcome {
                Outcome::Done { revision, deleted } => self.check_done(entry, *revision, *deleted),
                Outcome::Read { revision, kvs } => self.check_read(entry, *revision, kvs),
                Outcome::Txn { revision, succeeded, answers } => {
                    self.check_txn(entry, *revision, *succeeded, answers);
                }
                Outcome::Page { revision, kvs, more, count } => self.check_page(entry, *revision, kvs, *more, *count),
                Outcome::Refused(text) => self.check_nothing_of(entry, text),
                Outcome::Unknown => {
                    self.check_condition_if_done(entry);
                    self.check_txn_if_done(entry);
                }
            }
        }
        self.check_compacted(entries);
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
            Op::Revoke { .. } | Op::Compact { .. } => {}
            Op::Get { .. } | Op::Txn(_) | Op::Page { .. } => {
                self.violation(format!("{} was answered as something else", show(entry)))
            }
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
            Op::Put { .. }
            | Op::Delete { .. }
            | Op::Revoke { .. }
            | Op::Txn(_)
            | Op::Page { .. }
            | Op::Compact { .. } => {
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

    /// What was refused did not happen.
    fn check_nothing_of(&mut self, entry: &Entry, text: &str) {
        for value in written(&entry.op) {
            if let Some(revision) = self.values.get(value) {
                let revision = *revision;
                self.violation(format!("{} was refused ({text}), but happened at {revision}", show(entry)));
            }
        }
    }

    /// Each value in the ledger was asked for.
    pub(super) fn check_origins(&mut self, entries: &[Entry]) {
        let asked: BTreeSet<&str> = entries.iter().flat_map(|entry| written(&entry.op)).collect();
        let strange: Vec<String> = self
            .values
            .iter()
            .filter(|(value, _)| !asked.contains(**value))
            .map(|(value, revision)| format!("{value} at {revision} was never written by anybody"))
            .collect();
        strange.into_iter().for_each(|text| self.violation(text));
    }

    /// Rule 5. What it changed is at its revision, so it ran on the state before that; if it changed nothing, on that of its
    /// revision.
    fn check_txn(&mut self, entry: &Entry, revision: i64, succeeded: bool, answers: &[StepAnswer]) {
        let Op::Txn(transaction) = &entry.op else {
            return self.violation(format!("{} was answered as a transaction", show(entry)));
        };
        if revision > self.ledger.newest {
            let newest = self.ledger.newest;
            return self
                .violation(format!("LOST: {} was acknowledged at {revision}, the end is {newest}", show(entry)));
        }
        let before = if wrote(answers) { revision - 1 } else { revision };
        if !self.is_known(before) {
            return;
        }
        let Some(effect) = model::run(&(&*self, before), transaction, before + 1) else {
            return self.violation(format!("{} was carried out, but must be refused", show(entry)));
        };
        if effect.succeeded != succeeded || effect.answers != answers {
            self.violation(format!(
                "{} at {revision} answered {succeeded} {answers:?}, but must answer {} {:?}",
                show(entry),
                effect.succeeded,
                effect.answers
            ));
        }
        if wrote(answers) && effect.events != self.events(revision) {
            let events = self.events(revision);
            self.violation(format!(
                "LOST: {} must be {:?} at {revision}, where {events:?} is",
                show(entry),
                effect.events
            ));
        }
    }

    /// A transaction without an answer, if it happened: at the revision of one of its values.
    fn check_txn_if_done(&mut self, entry: &Entry) {
        let Op::Txn(transaction) = &entry.op else { return };
        let Some(revision) = self.revision_of(transaction).filter(|revision| self.is_known(revision - 1)) else {
            return;
        };
        let effect = model::run(&(&*self, revision - 1), transaction, revision);
        let events = self.events(revision);
        if effect.as_ref().is_none_or(|effect| effect.events != events) {
            self.violation(format!("{} happened at {revision} as {events:?}, but must be {effect:?}", show(entry)));
        }
    }

    /// Where something of the transaction is in the ledger.
    pub(super) fn revision_of(&self, transaction: &Transaction) -> Option<i64> {
        model::written(transaction).into_iter().find_map(|value| self.values.get(value)).copied()
    }

    /// Rule 4, for a part of a list.
    fn check_page(&mut self, entry: &Entry, revision: i64, kvs: &[Seen], more: bool, count: i64) {
        let Op::Page { span, limit, revision: asked, count_only } = &entry.op else {
            return self.violation(format!("{} was answered as a page", show(entry)));
        };
        let at = if *asked > 0 { *asked } else { revision };
        if !self.is_known(at) || at > self.ledger.newest {
            return;
        }
        let all = self.state(span, at);
        let limit = if *limit > 0 { *limit as usize } else { usize::MAX };
        let page: Vec<Seen> =
            all.iter().take(if *count_only { 0 } else { limit }).map(|seen| (*seen).clone()).collect();
        let rest = !count_only && all.len() > limit;
        if page != kvs || rest != more || all.len() as i64 != count {
            let total = all.len();
            self.violation(format!(
                "{} at {at} found {kvs:?}, more {more}, of {count}, but it is {page:?}, more {rest}, of {total}",
                show(entry)
            ));
        }
    }

    /// Rule 4: what an acknowledged compaction has taken is not read any more, and nothing else is refused for it.
    fn check_compacted(&mut self, entries: &[Entry]) {
        let compactions: Vec<&Entry> = entries.iter().filter(|entry| matches!(entry.op, Op::Compact { .. })).collect();
        let compacted_to = |entry: &Entry| if let Op::Compact { revision } = entry.op { revision } else { 0 };
        let asked = compactions.iter().map(|entry| compacted_to(entry)).max().unwrap_or(0);
        for entry in entries {
            let (Op::Get { revision, serializable: false, .. } | Op::Page { revision, .. }) = entry.op else {
                continue;
            };
            if revision == 0 {
                continue;
            }
            let done = compactions
                .iter()
                .filter(|done| matches!(done.outcome, Outcome::Done { .. }) && done.end < entry.start)
                .map(|done| compacted_to(done))
                .max();
            match &entry.outcome {
                Outcome::Read { .. } | Outcome::Page { .. } if done.is_some_and(|done| revision < done) => {
                    self.violation(format!("{} was answered, but {done:?} was compacted before", show(entry)));
                }
                Outcome::Refused(text) if text.contains("compacted") && revision >= asked => {
                    self.violation(format!("{} was refused ({text}), but only {asked} was compacted", show(entry)));
                }
                Outcome::Read { .. }
                | Outcome::Page { .. }
                | Outcome::Refused(_)
                | Outcome::Done { .. }
                | Outcome::Txn { .. }
                | Outcome::Unknown => {}
            }
        }
    }
}

/// Whether a transaction with these answers changed something.
pub(super) fn wrote(answers: &[StepAnswer]) -> bool {
    answers.iter().any(|answer| match answer {
        StepAnswer::Put(_) => true,
        StepAnswer::Deleted(gone) => !gone.is_empty(),
        StepAnswer::Got(_) => false,
        StepAnswer::Nested(_, answers) => wrote(answers),
    })
}
