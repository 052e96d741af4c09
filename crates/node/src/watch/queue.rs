//! The queue of one live watcher. Bounded in events and in bytes; what it hands out is whole revisions.

use super::{WatchFigures, WatchOptions};
use quorate_core::{Record, Revision};
use quorate_sabotage::{rarely, sabotage};
use std::collections::VecDeque;
use std::sync::Arc;

/// What an event costs beside its key and value.
const EVENT_BYTES: usize = size_of::<Record>();

/// Room that an empty queue keeps: most watchers are idle most of the time, and there are many.
const IDLE_EVENTS_ROOM: usize = 16;

/// What one event counts for in every bound on bytes.
pub(super) fn event_bytes(record: &Record) -> usize {
    EVENT_BYTES + record.payload_bytes()
}

/// Events that wait for one watcher, in order. Whole revisions go in and come out, so the front is always the start of
/// one.
pub(super) struct Queue {
    events: VecDeque<Arc<Record>>,
    bytes: usize,
    figures: Arc<WatchFigures>,
}

impl Queue {
    pub(super) fn new(figures: &Arc<WatchFigures>) -> Self {
        Self { events: VecDeque::new(), bytes: 0, figures: figures.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Adds whole revisions. If they do not fit, nothing is added, and the first revision that the watcher has not got
    /// is returned: from there it has to read history.
    pub(super) fn push(&mut self, batch: &[Arc<Record>], options: &WatchOptions) -> Result<(), Revision> {
        let bytes: usize = batch.iter().map(|record| event_bytes(record)).sum();
        let fits = self.events.len() + batch.len() <= options.queue_events_max
            && self.bytes + bytes <= options.queue_bytes_max
            && self.figures.pending_bytes() + bytes as u64 <= options.hub_queue_bytes_max as u64;
        if !fits || rarely!(WatchOverflow) {
            let first = self.events.front().filter(|_| !sabotage!(WatchOverflowLoses)).or(batch.first());
            return first.map_or(Ok(()), |record| Err(record.rev.main));
        }
        self.events.extend(batch.iter().cloned());
        self.bytes += bytes;
        self.figures.pending_add(batch.len(), bytes);
        Ok(())
    }

    /// The first revision that waits.
    pub(super) fn front_revision(&self) -> Option<Revision> {
        self.events.front().map(|record| record.rev.main)
    }

    /// Takes what one message may carry: whole revisions, at least one if there is one.
    pub(super) fn take(&mut self, options: &WatchOptions) -> Vec<Arc<Record>> {
        let mut size = MessageSize::new(options);
        let count = self.events.iter().take_while(|record| size.add(record)).count();
        let taken: Vec<_> = self.events.drain(..count).collect();
        if self.events.is_empty() {
            self.events.shrink_to(IDLE_EVENTS_ROOM);
        }
        let bytes = taken.iter().map(|record| event_bytes(record)).sum();
        self.bytes -= bytes;
        self.figures.pending_sub(taken.len(), bytes);
        taken
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.figures.pending_sub(self.events.len(), self.bytes);
    }
}

/// Decides where a message ends: before the first revision that begins when the message is full.
pub(super) struct MessageSize<'a> {
    options: &'a WatchOptions,
    revision: Revision,
    revisions: usize,
    bytes: usize,
}

impl<'a> MessageSize<'a> {
    pub(super) fn new(options: &'a WatchOptions) -> Self {
        Self { options, revision: Revision::ZERO, revisions: 0, bytes: 0 }
    }

    /// Counts the next record, unless it begins a revision and the message is full.
    pub(super) fn add(&mut self, record: &Record) -> bool {
        if sabotage!(WatchRevisionSplit) && record.rev.main == self.revision {
            return false;
        }
        if record.rev.main != self.revision {
            let full =
                self.revisions >= self.options.message_revisions_max || self.bytes >= self.options.message_bytes_max;
            if self.revisions > 0 && (full || rarely!(SmallWatchMessage)) {
                return false;
            }
            self.revision = record.rev.main;
            self.revisions += 1;
        }
        self.bytes += event_bytes(record);
        true
    }

    /// Counts bytes that a record costs beyond its own, because several watchers want it.
    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The last revision that was counted.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }
}
