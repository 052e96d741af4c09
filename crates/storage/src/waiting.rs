//! The keys that wait for the index checkpoint, in the order of their oldest change that it does not have. So it comes
//! forward with each portion of them that is written, whatever else changes meanwhile.
//!
//! Knows keys and revisions, not rows. How a key stands to the checkpoint is noted with the key itself, in the index; a
//! key may be in a queue more often than once, and is passed over where there is nothing left to write.

use quorate_core::Revision;
use std::collections::{BTreeSet, VecDeque};

/// How a key of the index stands to its row in the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Row {
    /// The row is as the key is.
    #[default]
    Clean,
    /// The row lacks nothing, and still has versions that compaction took.
    Loose,
    /// There is a row, and it lacks versions.
    Behind,
    /// There is no row.
    Missing,
}

impl Row {
    pub fn exists(self) -> bool {
        match self {
            Self::Clean | Self::Loose | Self::Behind => true,
            Self::Missing => false,
        }
    }
}

/// A key, and a revision that is not newer than the oldest of its changes that the checkpoint lacks.
struct Changed {
    since: Revision,
    key: Box<[u8]>,
}

/// The queues.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Keys that changed, and what they waited for was in the checkpoint before. In the order of `since`.
    changed: VecDeque<Changed>,
    /// Keys that were written, and of which a part was still in the tail. In the order of `since`.
    again: VecDeque<Changed>,
    /// Keys whose row has too much. They keep nothing from coming forward, and wait until nothing else does.
    loose: VecDeque<Box<[u8]>>,
    /// Keys that have a row and are in the index no more. Each is in `loose` or in a portion as well.
    orphans: BTreeSet<Box<[u8]>>,
    /// How many were taken, and are not written yet.
    pub taken: usize,
}

impl Waiting {
    /// How many keys wait, about.
    pub fn len(&self) -> usize {
        self.changed.len() + self.again.len() + self.loose.len() + self.taken
    }

    /// `key`, which was clean or loose or new, changed at `since`, which never goes back.
    pub fn push_changed(&mut self, since: Revision, key: Box<[u8]>) {
        self.changed.push_back(Changed { since, key });
    }

    /// `key` was written as it was at the revision before `since`, which never goes back, and has changed again.
    pub fn push_again(&mut self, since: Revision, key: &[u8]) {
        self.again.push_back(Changed { since, key: key.into() });
    }

    /// The row of `key` has too much.
    pub fn push_loose(&mut self, key: &[u8]) {
        self.loose.push_back(key.into());
    }

    /// The row of `key` is to be deleted.
    pub fn push_orphan(&mut self, key: &[u8]) {
        self.orphans.insert(key.into());
        self.push_loose(key);
    }

    /// Whether a key that is not in the index has a row.
    pub fn is_orphan(&self, key: &[u8]) -> bool {
        self.orphans.contains(key)
    }

    /// Returns whether `key`, which is in the index from now on or has lost its row, was an orphan.
    pub fn adopt(&mut self, key: &[u8]) -> bool {
        self.orphans.remove(key)
    }

    /// Moves up to `count` keys to `keys`: those that changed at `upto` or before, the oldest first, then, `with_loose`, loose ones.
    pub fn take(&mut self, upto: Revision, count: usize, with_loose: bool, keys: &mut Vec<Box<[u8]>>) {
        let before = keys.len();
        while keys.len() - before < count {
            let key = match self.oldest() {
                Some(queue) if queue.front().is_some_and(|changed| changed.since <= upto) => {
                    queue.pop_front().map(|changed| changed.key)
                }
                Some(_) | None if with_loose => self.loose.pop_front(),
                Some(_) | None => None,
            };
            let Some(key) = key else { break };
            keys.push(key);
        }
        self.taken = keys.len();
    }

    /// How far the checkpoint comes, at most to `upto`, once everything that was taken is written.
    pub fn through(&mut self, upto: Revision) -> Revision {
        let oldest = self.oldest().and_then(|queue| queue.front()).map(|changed| changed.since);
        oldest.map_or(upto, |since| upto.min(Revision::new(since.get() - 1)))
    }

    /// Whether [`Waiting::take`] would find something.
    pub fn has_work(&mut self, upto: Revision) -> bool {
        let oldest = self.oldest().and_then(|queue| queue.front()).map(|changed| changed.since);
        !self.loose.is_empty() || oldest.is_some_and(|since| since <= upto)
    }

    /// The queue with the oldest change in front.
    fn oldest(&mut self) -> Option<&mut VecDeque<Changed>> {
        let front = |queue: &VecDeque<Changed>| queue.front().map(|changed| changed.since);
        match (front(&self.changed), front(&self.again)) {
            (None, None) => None,
            (Some(_), None) => Some(&mut self.changed),
            (None, Some(_)) => Some(&mut self.again),
            (Some(changed), Some(again)) => Some(if changed <= again { &mut self.changed } else { &mut self.again }),
        }
    }
}
