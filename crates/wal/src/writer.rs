//! The write loop: takes everything that is queued, writes it with one `pwrite`, makes it durable with one fsync, and
//! only then says so. One writer for all groups, so that they share the fsync.
//!
//! At any moment at most one batch is written and not yet durable, and it is the last: recovery relies on it to tell a
//! torn tail from damage. An error stops the log for good, except a full disk before the fsync, when nothing is lost
//! yet: then the writer waits for space with the batch in its hands.

use crate::error::WalError;
use crate::format::{Kind, Record, encode_record, record_bytes};
use crate::queue::{Completion, Op};
use crate::segment::Segment;
use crate::shared::Shared;
use crate::state::{Group, LogEntry, Place, Whereabouts, Written};
use quorate_sabotage::{rarely, sabotage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The one task that writes. Made by [`Wal::open`](crate::Wal::open); does blocking IO inline, spawns nothing and needs
/// no timer.
pub struct Writer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// Where the next batch begins.
    position: u64,
    /// Where the records that restate all groups end: with nothing behind it, the segment counts as empty.
    restated_end: u64,
    /// Up to where the file has blocks.
    allocated_to: u64,
    spare_wanted: bool,
    written: BTreeMap<u32, Written>,
    /// The oldest segment that is needed, as the log itself says.
    floor: u64,
    batch: Batch,
}

/// What is encoded and not yet written.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    appended: Vec<Appended>,
    done: Vec<Completion>,
    room: u32,
}

struct Appended {
    group: Arc<Group>,
    index: u64,
    ticket: u64,
    offset: u64,
}

/// Where recovery found the end of the log.
pub(crate) struct Tip {
    pub segment: Arc<Segment>,
    pub position: u64,
    pub restated_end: u64,
    pub allocated_to: u64,
    pub floor: u64,
    pub written: BTreeMap<u32, Written>,
    /// Whether segments were left out, whose purge is yet to be written.
    pub has_given_up: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, tip: Tip) -> Writer {
        Writer {
            shared,
            segment: tip.segment,
            position: tip.position,
            restated_end: tip.restated_end,
            allocated_to: tip.allocated_to,
            spare_wanted: false,
            written: tip.written,
            floor: tip.floor,
            batch: Batch::default(),
        }
    }

    /// Writes until the log is closed (then everything queued is durable, and the end is marked) or stopped by an error.
    pub async fn run(mut self) {
        loop {
            let taken = self.shared.queue.take().await;
            if let Some(stopped) = self.shared.queue.stopped() {
                // The preparer met the error. What was queued is not written any more.
                return self.refuse(stopped, taken.unwrap_or_default().into_iter());
            }
            let Some(ops) = taken else { break };
            let mut ops = ops.into_iter();
            if let Err(error) = self.write(&mut ops).await {
                let stopped = self.stop(error);
                return self.refuse(stopped, ops);
            }
        }
        match self.write_mark().await {
            Ok(()) => self.shared.yard.close(),
            Err(error) => drop(self.stop(error)),
        }
    }

    fn stop(&self, error: WalError) -> WalError {
        match error {
            // The log was closed while it waited for space. Nothing that was acknowledged is at risk, so this is an
            // answer for those who wait, and no reason to end the process.
            WalError::NoSpace { .. } => {
                self.shared.yard.close();
                WalError::Stopped(Arc::new(error))
            }
            error => self.shared.stop(error),
        }
    }

    async fn write(&mut self, ops: &mut std::vec::IntoIter<Op>) -> Result<(), WalError> {
        for op in ops {
            self.encode(op).await?;
        }
        self.flush().await?;
        self.raise_floor().await
    }

    /// Answers everybody who waits with the error, newest first as ever.
    fn refuse(&mut self, stopped: WalError, rest: std::vec::IntoIter<Op>) {
        let rest = rest.filter_map(Op::into_completion);
        let mut done: Vec<Completion> = self.batch.done.drain(..).chain(rest).collect();
        for op in self.shared.queue.drain() {
            done.extend(op.into_completion());
        }
        for completion in done.into_iter().rev() {
            completion.complete(Err(stopped.clone()));
        }
    }

    async fn encode(&mut self, op: Op) -> Result<(), WalError> {
        match op {
            Op::Append { group, first_ticket, entries, room, done } => {
                // Before anything can fail, so that a failure answers this one too.
                self.batch.room += room;
                let mut outcome = Ok(());
                for (ticket, entry) in (first_ticket..).zip(&entries) {
                    outcome = self.encode_entry(&group, ticket, entry).await;
                    if outcome.is_err() {
                        break;
                    }
                }
                self.batch.done.push(done);
                outcome
            }
            Op::Vote { group, vote, done } => {
                let record = Record { group: group.id, kind: Kind::Vote, term: 0, index: 0, body: &vote };
                let outcome = self.encode_record(&record).await;
                self.written.entry(group.id).or_default().vote = Some(vote);
                self.batch.done.push(done);
                outcome.map(drop)
            }
            Op::Committed { group, committed } => {
                let record = Record { group: group.id, kind: Kind::Committed, term: 0, index: 0, body: &committed };
                self.encode_record(&record).await?;
                self.written.entry(group.id).or_default().committed = Some(committed);
                Ok(())
            }
            Op::Truncate { group, first_removed } => {
                let record = Record { group: group.id, kind: Kind::Truncate, term: 0, index: first_removed, body: &[] };
                if !sabotage!(WalTruncateNotLogged) {
                    self.encode_record(&record).await?;
                }
                self.written.entry(group.id).or_default().truncate(first_removed);
                Ok(())
            }
            Op::Purge { group, term, index } => {
                let record = Record { group: group.id, kind: Kind::Purge, term, index, body: &[] };
                self.encode_record(&record).await?;
                self.written.entry(group.id).or_default().purge(term, index);
                Ok(())
            }
        }
    }

    async fn encode_entry(&mut self, group: &Arc<Group>, ticket: u64, entry: &LogEntry) -> Result<(), WalError> {
        let LogEntry { term, index, ref body } = *entry;
        let offset = self.encode_record(&Record { group: group.id, kind: Kind::Append, term, index, body }).await?;
        self.written.entry(group.id).or_default().append(index, self.segment.sequence);
        self.batch.appended.push(Appended { group: Arc::clone(group), index, ticket, offset });
        Ok(())
    }

    /// Adds a record to the batch, in a new segment if this one has no room, and returns its offset.
    async fn encode_record(&mut self, record: &Record<'_>) -> Result<u64, WalError> {
        let bytes = record_bytes(record.body.len()) as u64;
        let empty = self.position == self.restated_end && self.batch.bytes.is_empty();
        let full = self.position + self.batch.bytes.len() as u64 + bytes > self.shared.options.segment_bytes;
        if !empty && (full || rarely!(WalRoll)) {
            self.flush().await?;
            self.roll().await?;
        }
        let offset = self.position + self.batch.bytes.len() as u64;
        encode_record(&mut self.batch.bytes, self.segment.nonce, offset_u32(self.position), record);
        Ok(offset)
    }

    /// Writes the batch, makes it durable, and completes what is whole in it.
    async fn flush(&mut self) -> Result<(), WalError> {
        if !self.batch.bytes.is_empty() {
            while let Err(error) = self.write_batch() {
                wait_for_space(&self.shared, error).await?;
            }
            if let Some(time) = self.shared.disk.sync_time() {
                time.await;
            }
            if !sabotage!(WalSyncSkipped) {
                let synced = self.shared.sync(&self.segment.path, &*self.segment.file);
                if !sabotage!(WalSyncErrorIgnored) {
                    synced?;
                }
            }
            if let Some(stopped) = self.shared.queue.stopped() {
                // The preparer met an error meanwhile. Nothing is acknowledged after that, durable or not.
                return Err(stopped);
            }
            self.shared.metrics.wrote(self.batch.bytes.len() as u64);
            self.position += self.batch.bytes.len() as u64;
            self.batch.bytes.clear();
            self.batch.bytes.shrink_to(BATCH_BYTES_KEPT);
            self.publish();
            self.shared.evict();
        }
        self.shared.queue.release(std::mem::take(&mut self.batch.room));
        // Newest first: openraft then sees one watermark that covers the older ones, and does not sleep for each.
        for completion in self.batch.done.drain(..).rev() {
            completion.complete(Ok(()));
        }
        if !self.spare_wanted && self.position * 2 >= self.shared.options.segment_bytes {
            self.spare_wanted = true;
            self.shared.yard.want_spare();
        }
        Ok(())
    }

    /// Writes the batch at its place. May be called again after a full disk: same bytes, same place.
    fn write_batch(&mut self) -> Result<(), WalError> {
        let (path, file) = (&self.segment.path, &*self.segment.file);
        file.write_at(self.position, &self.batch.bytes).map_err(|error| WalError::io("write", path, error))?;
        let end = self.position + self.batch.bytes.len() as u64;
        if end > self.allocated_to {
            // The file grew. The next step comes along, so that the following batches do not grow it; if there is no
            // room for that, this batch is whole all the same.
            let stepped = self.shared.zero_step(path, file, end);
            self.shared.metrics.set_short_of_space(matches!(stepped, Err(WalError::NoSpace { .. })));
            self.allocated_to = match stepped {
                Err(WalError::NoSpace { .. }) => end,
                other => other?,
            };
        }
        Ok(())
    }

    /// Tells the readers where the entries of the batch are.
    fn publish(&mut self) {
        let sequence = self.segment.sequence;
        for Appended { group, index, ticket, offset } in self.batch.appended.drain(..) {
            let mut state = group.state.lock();
            if let Some(entry) = state.entry_mut(index)
                && entry.whereabouts == Whereabouts::Queued(ticket)
            {
                entry.whereabouts = Whereabouts::At(Place { sequence, offset });
            }
        }
    }

    /// Goes on in a new segment, which begins with the state of all groups. The old one is durable to its end.
    async fn roll(&mut self) -> Result<(), WalError> {
        let sequence = self.segment.sequence + 1;
        let (segment, end, allocated_to) = loop {
            let restate = |out: &mut Vec<u8>, nonce| restate(out, nonce, &self.written, self.floor);
            match self.shared.create_segment(sequence, self.position, restate) {
                Ok(made) => break made,
                Err(error) => wait_for_space(&self.shared, error).await?,
            }
        };
        self.shared.segments.lock().insert(sequence, Arc::clone(&segment));
        self.segment = segment;
        self.position = end;
        self.restated_end = end;
        self.allocated_to = allocated_to;
        self.spare_wanted = false;
        Ok(())
    }

    /// Hands segments that no group needs any more to the preparer, once the log durably says that they may go missing.
    async fn raise_floor(&mut self) -> Result<(), WalError> {
        let oldest = self.written.values().filter_map(Written::oldest_segment).min();
        let needed = oldest.unwrap_or(self.segment.sequence);
        if needed <= self.floor {
            return Ok(());
        }
        if !sabotage!(WalPurgeNotLogged) {
            self.encode_record(&Record { group: 0, kind: Kind::Floor, term: 0, index: needed, body: &[] }).await?;
            self.flush().await?;
        }
        self.floor = needed;
        let freed = {
            let mut segments = self.shared.segments.lock();
            let kept = segments.split_off(&needed);
            std::mem::replace(&mut *segments, kept)
        };
        self.shared.yard.free(freed.into_values());
        Ok(())
    }

    /// The last record of a log that was closed in good order: damage to anything before it is then told from a torn
    /// tail.
    async fn write_mark(&mut self) -> Result<(), WalError> {
        self.encode_record(&Record { group: 0, kind: Kind::Mark, term: 0, index: 0, body: &[] }).await?;
        self.flush().await
    }
}

/// After a full disk: waits until somebody nudges or queues, for another attempt. Other errors pass through.
async fn wait_for_space(shared: &Shared, error: WalError) -> Result<(), WalError> {
    if !matches!(error, WalError::NoSpace { .. }) {
        return Err(error);
    }
    shared.metrics.set_waits_for_space(true);
    if shared.queue.is_closed() {
        return Err(error);
    }
    shared.queue.changed().await;
    shared.metrics.set_waits_for_space(false);
    Ok(())
}

/// The batch's buffer keeps this much memory between batches.
const BATCH_BYTES_KEPT: usize = 4 << 20;

/// The records at the start of a segment. They are a batch of their own, durable before the segment gets its name.
pub(crate) fn restate(out: &mut Vec<u8>, nonce: u64, groups: &BTreeMap<u32, Written>, floor: u64) {
    let start = offset_u32(out.len() as u64);
    let mut put = |group, kind, term, index, body: &[u8]| {
        encode_record(out, nonce, start, &Record { group, kind, term, index, body });
    };
    put(0, Kind::Floor, 0, floor, &[]);
    for (&group, written) in groups {
        if let Some(vote) = &written.vote
            && !sabotage!(WalVoteNotRestated)
        {
            put(group, Kind::Vote, 0, 0, vote);
        }
        if let Some((term, index)) = written.purged {
            put(group, Kind::Purge, term, index, &[]);
        }
        if let Some(committed) = &written.committed {
            put(group, Kind::Committed, 0, 0, committed);
        }
    }
}

fn offset_u32(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are limited to 1 GiB and one record")
}
