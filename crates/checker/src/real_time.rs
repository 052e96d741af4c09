//! Whether calls took place between their start and their end, in O(n log n).
//!
//! Revisions make this easy: an answer says where in the one order of writes its call took place. So nothing is searched
//! for: a call that started after another had ended has not a lower revision, and a write a higher one.

use std::time::Duration;

/// A call, as far as its order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent.
    pub start: Duration,
    /// When the answer came.
    pub end: Duration,
    /// The revision that the answer said was there; `None` if it said nothing of the present.
    pub told: Option<i64>,
    /// Where it took place; `None` if it need not keep to real time, or if nobody knows.
    pub place: Option<Place>,
}

/// Where a call took place in the order of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It made this revision.
    At(i64),
    /// It changed nothing, and saw this revision.
    After(i64),
}

/// A call that took place before it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Its place among the calls.
    pub call: usize,
    /// The revision at which it took place.
    pub revision: i64,
    /// What had been answered before it started.
    pub answered: i64,
}

/// The calls that did not keep to real time: a sweep over all starts and ends, with the highest revision answered so far.
pub fn check(calls: &[Call]) -> Vec<Late> {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum Edge {
        // At one instant starts come first: only what ended strictly before is known to be before.
        Start,
        End,
    }
    let mut edges: Vec<(Duration, Edge, usize)> = Vec::with_capacity(calls.len() * 2);
    for (index, call) in calls.iter().enumerate() {
        edges.push((call.start, Edge::Start, index));
        edges.push((call.end, Edge::End, index));
    }
    edges.sort();
    let (mut answered, mut late) = (0, Vec::new());
    for (_, edge, call) in edges {
        match edge {
            Edge::End => answered = answered.max(calls[call].told.unwrap_or(0)),
            Edge::Start => match calls[call].place {
                Some(Place::At(revision)) if revision <= answered => late.push(Late { call, revision, answered }),
                Some(Place::After(revision)) if revision < answered => late.push(Late { call, revision, answered }),
                Some(Place::At(_) | Place::After(_)) | None => {}
            },
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(start: u64, end: u64, told: i64, place: Place) -> Call {
        let at = Duration::from_millis;
        Call { start: at(start), end: at(end), told: Some(told), place: Some(place) }
    }

    #[test]
    fn what_overlaps_may_take_either_order() {
        let calls = [call(0, 10, 3, Place::At(3)), call(5, 15, 2, Place::At(2)), call(15, 20, 3, Place::After(3))];
        assert_eq!(check(&calls), []);
    }

    #[test]
    fn what_follows_is_later() {
        let write = call(0, 1, 2, Place::At(2));
        assert_eq!(check(&[write, call(2, 3, 1, Place::After(1))]), [Late { call: 1, revision: 1, answered: 2 }]);
        assert_eq!(check(&[write, call(2, 3, 2, Place::After(2))]), []);
        assert_eq!(check(&[write, call(2, 3, 2, Place::At(2))]), [Late { call: 1, revision: 2, answered: 2 }]);
    }

    #[test]
    fn a_call_that_says_nothing_binds_nobody() {
        let silent = Call { told: None, place: None, ..call(0, 1, 9, Place::At(9)) };
        assert_eq!(check(&[silent, call(2, 3, 1, Place::After(1))]), []);
        let late = Call { place: None, ..call(2, 3, 1, Place::After(1)) };
        assert_eq!(check(&[call(0, 1, 2, Place::At(2)), late]), []);
    }
}
