//! What happened in a seed, for people: faults, leaders and calls in order of time.

use crate::history::{Condition, Entry, Field, History, Op, Outcome, Seen, Span, Step, StepAnswer, Transaction};
use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

/// Characters of a value that are shown.
const VALUE_MAX: usize = 40;

/// Calls of a story. Of many, most are beside the point.
const CALLS_MAX: usize = 30;

/// A line with the time at which it belongs.
pub type Line = (Duration, String);

/// A line of what happened at `at`.
pub fn line(at: Duration, text: &str) -> String {
    format!("{:9.3} {text}", at.as_secs_f64())
}

/// All calls, each at the time at which it began.
pub fn calls(history: &History) -> Vec<Line> {
    history.entries.iter().map(|entry| (entry.start, line(entry.start, &entry.to_string()))).collect()
}

/// The last of `calls` that speak of a key or a value which is named in `violations`, up to where the first of these ends. What
/// stands there between quotation marks is named, and times are in brackets, as in [`crate::oracle::show`].
pub fn named(calls: &[Line], violations: &[String]) -> Vec<Line> {
    let names: Vec<&str> = violations
        .iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2))
        .filter(|name| !name.is_empty() && name.len() <= VALUE_MAX)
        .collect();
    let words = |text: &str, name: &str| text.split([' ', ',', '(', ')', ':']).any(|word| word == name);
    let is_named = |text: &str| names.iter().any(|name| words(text, name));
    let end = violations.iter().find_map(|text| text.split_once("..")?.1.split(']').next()?.parse().ok());
    let end = Duration::from_secs_f64(end.unwrap_or(f64::from(u32::MAX)));
    let named: Vec<&Line> = calls.iter().filter(|(at, text)| *at <= end && is_named(text)).collect();
    named.iter().rev().take(CALLS_MAX).rev().map(|line| (*line).clone()).collect()
}

/// Lines of both in order of time.
pub fn merged(one: &[Line], other: &[Line]) -> Vec<String> {
    let mut all: Vec<&Line> = one.iter().chain(other).collect();
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, text)| text.clone()).collect()
}

struct Short<'a>(&'a str);

impl Display for Short<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0.char_indices().nth(VALUE_MAX) {
            Some((end, _)) => write!(f, "{}.. ({} bytes)", &self.0[..end], self.0.len()),
            None => f.write_str(self.0),
        }
    }
}

struct List<'a, T>(&'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (place, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let took_ms = (self.end - self.start).as_millis();
        write!(f, "c{} asks m{}: {} => {} after {took_ms} ms", self.client, self.member, self.op, self.outcome)
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.until {
            None => f.write_str(&self.from),
            Some(until) => write!(f, "{} to {until}", self.from),
        }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Op::Put { key, value, lease: 0 } => write!(f, "put {key} = {}", Short(value)),
            Op::Put { key, value, lease } => write!(f, "put {key} = {} lease {lease:x}", Short(value)),
            Op::Delete { span } => write!(f, "delete {span}"),
            Op::Get { span, serializable, revision } => {
                let how = if *serializable { "get here" } else { "get" };
                write!(f, "{how} {span}")?;
                if *revision > 0 { write!(f, " at {revision}") } else { Ok(()) }
            }
            Op::Swap { parts } => {
                f.write_str("swap")?;
                parts.iter().try_for_each(|(key, at, value)| write!(f, " {key} if at {at} = {}", Short(value)))
            }
            Op::Revoke { lease } => write!(f, "revoke lease {lease:x}"),
            Op::Txn(transaction) => write!(f, "txn {transaction}"),
            Op::Page { span, count_only: true, .. } => write!(f, "count {span}"),
            Op::Page { span, limit, revision, .. } => write!(f, "page of {limit} of {span} at {revision}"),
            Op::Compact { revision } => write!(f, "compact {revision}"),
        }
    }
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Transaction { conditions, success, failure } = self;
        write!(f, "if ({}) then ({}) else ({})", List(conditions), List(success), List(failure))
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let key = &self.key;
        match &self.field {
            Field::Value(value) => write!(f, "{key} is {}", Short(value)),
            Field::Version(version) => write!(f, "{key} has version {version}"),
            Field::Create(0) => write!(f, "{key} is not there"),
            Field::Create(revision) => write!(f, "{key} is since {revision}"),
            Field::Mod(revision) => write!(f, "{key} is at {revision}"),
            Field::Lease(lease) => write!(f, "{key} has lease {lease:x}"),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Step::Put { key, value, lease } => {
                let value = value.as_deref().unwrap_or("as it is");
                write!(f, "put {key} = {}", Short(value))?;
                match lease {
                    Some(0) => Ok(()),
                    Some(lease) => write!(f, " lease {lease:x}"),
                    None => f.write_str(" lease as it is"),
                }
            }
            Step::Delete(span) => write!(f, "delete {span}"),
            Step::Get(span) => write!(f, "get {span}"),
            Step::Nested(transaction) => write!(f, "txn {transaction}"),
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Outcome::Done { revision, deleted: 0 } => write!(f, "done at {revision}"),
            Outcome::Done { revision, deleted } => write!(f, "{deleted} deleted at {revision}"),
            Outcome::Read { revision, kvs } => write!(f, "({}) at {revision}", List(kvs)),
            Outcome::Txn { revision, succeeded, answers } => {
                write!(f, "{} ({}) at {revision}", if *succeeded { "then" } else { "else" }, List(answers))
            }
            Outcome::Page { revision, kvs, more, count } => {
                let more = if *more { ", more" } else { "" };
                write!(f, "({}{more}) of {count} at {revision}", List(kvs))
            }
            Outcome::Refused(text) => write!(f, "refused: {text}"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

impl Display for StepAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            StepAnswer::Put(None) => f.write_str("new"),
            StepAnswer::Put(Some(before)) => write!(f, "was {before}"),
            StepAnswer::Deleted(kvs) => write!(f, "deleted ({})", List(kvs)),
            StepAnswer::Got(kvs) => write!(f, "({})", List(kvs)),
            StepAnswer::Nested(true, answers) => write!(f, "then ({})", List(answers)),
            StepAnswer::Nested(false, answers) => write!(f, "else ({})", List(answers)),
        }
    }
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} = {} at {}", self.key, Short(&self.value), self.mod_revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_a_violation_names_are_told_with_what_they_saw() {
        let seen = Seen { key: "k1".into(), value: "c2.7".into(), mod_revision: 5, ..Seen::default() };
        let entry = |op: Op, outcome: Outcome, ms: u64| Entry {
            client: 3,
            member: 1,
            start: Duration::from_millis(ms),
            end: Duration::from_millis(ms + 12),
            op,
            outcome,
        };
        let put = Op::Put { key: "k1".into(), value: "x".repeat(50), lease: 0 };
        let get = Op::Get { span: Span::key("k1"), serializable: false, revision: 0 };
        let other = Op::Delete { span: Span::key("k11") };
        let history = History {
            entries: vec![
                entry(put, Outcome::Unknown, 1500),
                entry(other, Outcome::Done { revision: 4, deleted: 1 }, 1600),
                entry(get, Outcome::Read { revision: 6, kvs: vec![seen] }, 1700),
            ],
            ..History::default()
        };
        let calls = calls(&history);
        assert_eq!(calls.len(), 3);
        let named = named(&calls, &["call: \"k1\" was lost".to_owned()]);
        let leads = vec![(Duration::from_millis(1650), line(Duration::from_millis(1650), "m0 leads in term 2"))];
        let expected = [
            format!("    1.500 c3 asks m1: put k1 = {}.. (50 bytes) => unknown after 12 ms", "x".repeat(40)),
            "    1.650 m0 leads in term 2".to_owned(),
            "    1.700 c3 asks m1: get k1 => (k1 = c2.7 at 5) at 6 after 12 ms".to_owned(),
        ];
        assert_eq!(merged(&leads, &named), expected);
    }
}
