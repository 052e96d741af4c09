//! What is known of one group: the state that callers see, ahead of the disk ([`GroupState`]), and the part of it that
//! is on disk, which decides what may be freed ([`Written`]).
//!
//! Both change by the same five operations. Indexes within a group are consecutive; positions in the log grow with the
//! index.

use crate::error::WalError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The term in which the entry was proposed.
    pub term: u64,
    /// The position in the group's log; one more than that of the entry before.
    pub index: u64,
    /// The payload, opaque, at most [`RECORD_BODY_BYTES_MAX`](crate::RECORD_BODY_BYTES_MAX) bytes. It is kept in memory
    /// for a while: a slice of a much larger buffer keeps that buffer.
    pub body: Bytes,
}

/// The state of a group's log, as of the last operation that was queued.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote that was saved.
    pub vote: Option<Bytes>,
    /// The last committed position that was saved; after a crash possibly an older one.
    pub committed: Option<Bytes>,
    /// Term and index up to which (inclusive) entries were purged.
    pub purged: Option<(u64, u64)>,
    /// Term and index of the last entry, or of the last purged one if there is none behind it.
    pub last: Option<(u64, u64)>,
}

/// Where a record is: the segment's sequence and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub sequence: u64,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Not durable yet. The ticket tells this entry from another one with the same index, queued before or after a
    /// truncation.
    Queued(u64),
    /// Durable.
    At(Place),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub term: u64,
    pub body_bytes: u32,
    pub whereabouts: Whereabouts,
    /// `None` once it has left the cache; only a durable entry does.
    pub body: Option<Bytes>,
}

impl Entry {
    fn record_bytes(&self) -> u64 {
        crate::format::record_bytes(self.body_bytes as usize) as u64
    }
}

/// A group: its number and its state behind a lock. Callers queue operations while they hold the lock, so that the
/// order in the queue is the order in memory.
#[derive(Debug)]
pub(crate) struct Group {
    pub id: u32,
    pub state: Mutex<GroupState>,
}

#[derive(Debug, Default)]
pub(crate) struct GroupState {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<(u64, u64)>,
    /// The index of `entries[0]`; without meaning when there are none.
    pub first_index: u64,
    pub entries: VecDeque<Entry>,
    /// Bytes that the records of `entries` take in segments.
    pub record_bytes: u64,
    pub next_ticket: u64,
}

impl GroupState {
    /// Term and index of the last entry, or of the last purged one.
    pub fn last(&self) -> Option<(u64, u64)> {
        match self.entries.back() {
            Some(entry) => Some((entry.term, self.end_index() - 1)),
            None => self.purged,
        }
    }

    /// One past the index of the last entry.
    pub fn end_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64
    }

    /// The index that the next entry must have; `None` if any will do (the group has never had one).
    pub fn expected_index(&self) -> Option<u64> {
        if self.entries.is_empty() { self.purged.map(|(_, index)| index + 1) } else { Some(self.end_index()) }
    }

    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first_index)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub fn entry_mut(&mut self, index: u64) -> Option<&mut Entry> {
        let at = index.checked_sub(self.first_index)?;
        self.entries.get_mut(usize::try_from(at).ok()?)
    }

    /// Adds an entry. The caller has checked its index.
    pub fn push(&mut self, index: u64, entry: Entry) {
        if self.entries.is_empty() {
            self.first_index = index;
        }
        self.record_bytes += entry.record_bytes();
        self.entries.push_back(entry);
    }

    /// Drops the entries from `first_removed` on; says whether there were any.
    pub fn truncate(&mut self, first_removed: u64) -> bool {
        let mut removed = false;
        while self.end_index() > first_removed
            && let Some(entry) = self.entries.pop_back()
        {
            self.record_bytes -= entry.record_bytes();
            removed = true;
        }
        removed
    }

    /// Drops the entries up to `index` and remembers it; says whether this is news.
    pub fn purge(&mut self, term: u64, index: u64) -> bool {
        if self.purged.is_some_and(|(_, purged)| purged >= index) {
            return false;
        }
        self.purged = Some((term, index));
        while self.first_index <= index
            && let Some(entry) = self.entries.pop_front()
        {
            self.record_bytes -= entry.record_bytes();
            self.first_index += 1;
        }
        true
    }

    /// Checks that these entries follow the last one and each other.
    pub fn check_follows(&self, group: u32, entries: &[LogEntry]) -> Result<(), WalError> {
        let mut expected = self.expected_index();
        for entry in entries {
            if let Some(expected) = expected.filter(|&expected| expected != entry.index) {
                return Err(WalError::OutOfOrder { group, expected, got: entry.index });
            }
            expected = Some(entry.index + 1);
        }
        Ok(())
    }
}

/// What of a group is on disk: what a new segment must restate, and which segments hold its entries.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<(u64, u64)>,
    /// Runs of entries by segment, ascending in both.
    spans: VecDeque<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    sequence: u64,
    first: u64,
    last: u64,
}

impl Written {
    /// The written view of a group that was just recovered, all of whose entries are on disk.
    pub fn of(state: &GroupState) -> Written {
        let mut written = Written {
            vote: state.vote.clone(),
            committed: state.committed.clone(),
            purged: state.purged,
            spans: VecDeque::new(),
        };
        for (index, entry) in (state.first_index..).zip(&state.entries) {
            if let Whereabouts::At(place) = entry.whereabouts {
                written.append(index, place.sequence);
            }
        }
        written
    }

    pub fn append(&mut self, index: u64, sequence: u64) {
        match self.spans.back_mut() {
            Some(span) if span.sequence == sequence => span.last = index,
            Some(_) | None => self.spans.push_back(Span { sequence, first: index, last: index }),
        }
    }

    pub fn truncate(&mut self, first_removed: u64) {
        while let Some(span) = self.spans.back_mut() {
            if span.first < first_removed {
                span.last = span.last.min(first_removed - 1);
                return;
            }
            self.spans.pop_back();
        }
    }

    pub fn purge(&mut self, term: u64, index: u64) {
        self.purged = Some((term, index));
        while let Some(span) = self.spans.front_mut() {
            if span.last > index {
                span.first = span.first.max(index + 1);
                return;
            }
            self.spans.pop_front();
        }
    }

    /// The oldest segment that holds an entry of this group.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.spans.front().map(|span| span.sequence)
    }
}
