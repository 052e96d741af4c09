//! Rule 3: calls take place between their start and their end.

use super::calls::wrote;
use super::{Oracle, show, written};
use crate::history::{Entry, Op, Outcome};
use quorate_checker::real_time::{Call, Place, check};

impl Oracle<'_> {
    pub(super) fn check_order(&mut self, entries: &[Entry]) {
        let calls: Vec<Call> = entries
            .iter()
            .map(|entry| Call { start: entry.start, end: entry.end, told: told(entry), place: self.place(entry) })
            .collect();
        for late in check(&calls) {
            self.violation(format!(
                "{} is at revision {}, but {} had been answered before it started",
                show(&entries[late.call]),
                late.revision,
                late.answered
            ));
        }
    }

    /// Where a call took place, if it must keep to real time.
    fn place(&self, entry: &Entry) -> Option<Place> {
        let read = |revision: i64| Some(Place::After(revision));
        let write = |revision: i64| Some(Place::At(revision));
        match (&entry.op, &entry.outcome) {
            (Op::Get { serializable: true, .. }, _) | (_, Outcome::Refused(_)) => None,
            (Op::Delete { .. }, Outcome::Done { revision, deleted: 0 }) => read(*revision),
            (Op::Revoke { .. } | Op::Compact { .. }, Outcome::Done { revision, .. }) => read(*revision),
            (_, Outcome::Done { revision, .. }) => write(*revision),
            (_, Outcome::Txn { revision, answers, .. }) => {
                if wrote(answers) {
                    write(*revision)
                } else {
                    read(*revision)
                }
            }
            (_, Outcome::Read { revision, .. } | Outcome::Page { revision, .. }) => read(*revision),
            (op, Outcome::Unknown) => {
                written(op).first().and_then(|value| self.values.get(*value)).and_then(|revision| write(*revision))
            }
        }
    }
}

/// What an answer said of the present revision. A serializable read says nothing of the present.
fn told(entry: &Entry) -> Option<i64> {
    match (&entry.op, &entry.outcome) {
        (Op::Get { serializable: true, .. }, _) => None,
        (
            _,
            Outcome::Done { revision, .. }
            | Outcome::Read { revision, .. }
            | Outcome::Txn { revision, .. }
            | Outcome::Page { revision, .. },
        ) => Some(*revision),
        (_, Outcome::Refused(_) | Outcome::Unknown) => None,
    }
}
