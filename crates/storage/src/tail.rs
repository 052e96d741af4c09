//! The tail: what was committed and is not yet in the engine, in order. A drain takes whole entries off its front.

use crate::Applied;
use bytes::Bytes;
use quorate_core::{Record, Rev, Revision, SystemChange};
use std::collections::VecDeque;

/// What a record costs beside key and value, about.
const RECORD_BYTES: usize = size_of::<TailRecord>() + 32;
/// What an entry costs, about.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

#[derive(Clone, Debug)]
pub(crate) struct TailRecord {
    pub record: Record,
    /// Whether this is the last record of its revision.
    pub last: bool,
}

/// One log entry's outcome, beside its records.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub applied: Applied,
    /// How many records the entry has.
    pub records: usize,
    /// Revision and compacted revision after the entry.
    pub revision: Revision,
    pub compacted: Revision,
    pub system: Vec<SystemChange>,
    pub membership: Option<Bytes>,
}

#[derive(Debug, Default)]
pub(crate) struct Tail {
    records: VecDeque<TailRecord>,
    entries: VecDeque<Entry>,
    /// Entries that are complete: a log entry with several commands is committed command by command, and must not come
    /// apart in a drain, or a crash between its halves would lose the second one.
    sealed: usize,
    bytes: usize,
}

/// The front of the tail, to be written to the engine. Still in the tail until [`Tail::pop`].
pub(crate) struct Front {
    pub records: Vec<TailRecord>,
    pub entries: Vec<Entry>,
}

fn record_bytes(record: &Record) -> usize {
    RECORD_BYTES + record.payload_bytes()
}

impl Tail {
    pub fn push(&mut self, entry: Entry, records: Vec<Record>) {
        debug_assert_eq!(entry.records, records.len());
        self.bytes += ENTRY_BYTES + records.iter().map(record_bytes).sum::<usize>();
        self.entries.push_back(entry);
        let count = records.len();
        self.records
            .extend(records.into_iter().enumerate().map(|(i, record)| TailRecord { record, last: i + 1 == count }));
    }

    /// Everything that was pushed is complete.
    pub fn seal(&mut self) {
        self.sealed = self.entries.len();
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is there to drain.
    pub fn is_empty(&self) -> bool {
        self.sealed == 0
    }

    pub fn get(&self, rev: Rev) -> Option<Record> {
        let i = self.records.binary_search_by_key(&rev, |entry| entry.record.rev).ok()?;
        Some(self.records[i].record.clone())
    }

    /// The oldest record.
    pub fn first_rev(&self) -> Option<Rev> {
        self.records.front().map(|entry| entry.record.rev)
    }

    /// Up to `count` records from `from` on, not newer than revision `to`.
    pub fn range(&self, from: Rev, to: Revision, count: usize) -> Vec<TailRecord> {
        let start = self.records.partition_point(|entry| entry.record.rev < from);
        self.records.range(start..).take_while(|entry| entry.record.rev.main <= to).take(count).cloned().collect()
    }

    /// Whole log entries from the front: at least one if there is any, and as many as fit in `bytes_max`.
    pub fn front(&self, bytes_max: usize) -> Front {
        let (mut records, mut entries, mut bytes) = (0, 0, 0);
        let mut previous = None;
        for entry in self.entries.range(..self.sealed) {
            bytes +=
                self.records.range(records..records + entry.records).map(|r| record_bytes(&r.record)).sum::<usize>();
            if entries > 0 && bytes > bytes_max && previous != Some(entry.applied) {
                break;
            }
            previous = Some(entry.applied);
            records += entry.records;
            entries += 1;
        }
        Front {
            records: self.records.range(..records).cloned().collect(),
            entries: self.entries.range(..entries).cloned().collect(),
        }
    }

    /// Removes what [`Tail::front`] returned.
    pub fn pop(&mut self, front: &Front) {
        let bytes = front.records.iter().map(|entry| record_bytes(&entry.record)).sum::<usize>();
        self.bytes -= bytes + front.entries.len() * ENTRY_BYTES;
        self.sealed -= front.entries.len();
        self.records.drain(..front.records.len());
        self.entries.drain(..front.entries.len());
    }
}
