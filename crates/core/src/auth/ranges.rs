//! The union of ranges of keys, and whether it covers a range.

use crate::KeyRange;
use alloc::vec::Vec;
use bytes::Bytes;
use quorate_sabotage::sabotage;

/// Disjoint intervals that do not touch, in order. Whatever is added must be followed by [`Ranges::merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Interval>);

/// `start <= key < end`; without `end` there is no upper bound.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    end: Option<Bytes>,
}

impl Ranges {
    pub fn add(&mut self, range: &KeyRange) {
        if !range.is_empty() {
            self.0.push(Interval::of(range));
        }
    }

    /// Brings what was added into order.
    pub fn merge(&mut self) {
        self.0.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Interval> = Vec::with_capacity(self.0.len());
        for next in self.0.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| next.start <= *end) => {
                    last.end = match (last.end.take(), next.end) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        (None, _) | (_, None) => None,
                    };
                }
                Some(_) | None => merged.push(next),
            }
        }
        self.0 = merged;
    }

    /// Whether every key of `range` is in the union. Of an empty range its first key must be.
    pub fn cover(&self, range: &KeyRange) -> bool {
        let wanted =
            if range.is_empty() { Interval::of(&KeyRange::Single(range.start().clone())) } else { Interval::of(range) };
        let after = self.0.partition_point(|interval| interval.start <= wanted.start);
        let Some(interval) = after.checked_sub(1).and_then(|place| self.0.get(place)) else { return false };
        match (&interval.end, &wanted.end) {
            (None, _) => true,
            (Some(_), _) if sabotage!(AuthRangeStartOnly) => true,
            (Some(_), None) => false,
            (Some(end), Some(wanted)) => wanted <= end,
        }
    }
}

impl Interval {
    fn of(range: &KeyRange) -> Self {
        match range {
            KeyRange::Single(key) => {
                // The key that follows directly has one more zero byte.
                let mut end = Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Self { start: key.clone(), end: Some(end.into()) }
            }
            KeyRange::Interval { start, end } => Self { start: start.clone(), end: Some(end.clone()) },
            KeyRange::From { start } => Self { start: start.clone(), end: None },
        }
    }
}
