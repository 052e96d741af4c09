//! The handles: [`Wal`] for the node's log, [`GroupLog`] for one group's part of it.

use crate::disk::Disk;
use crate::error::WalError;
use crate::format::{Kind, RECORD_BODY_BYTES_MAX, RECORD_HEADER_BYTES, decode_record, peek_frame, record_bytes};
use crate::options::WalOptions;
use crate::prepare::Preparer;
use crate::queue::{Completion, Op};
use crate::recover;
use crate::segment::Segment;
use crate::shared::{FatalHook, Shared, WalMetrics};
use crate::state::{Entry, Group, LogEntry, LogState, Whereabouts};
use crate::writer::Writer;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Entries on disk that lie this close together are read in one go.
const READ_SPAN_BYTES: u64 = 1 << 20;

/// The node's log. Cheap to clone; when the last handle (of it or of a group) is gone, the log closes.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

/// Closes the log when nobody can use it any more.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.close(WalError::Closed);
    }
}

impl Wal {
    /// Opens the log in `options.dir`, or begins one. Reads all of it, cuts a torn tail, and syncs what it relies on.
    ///
    /// `fatal` is called once, on the task that met the error, when a write or an fsync fails: the state of the disk is
    /// then unknown, so production ends the process there. If it returns, whoever waits gets
    /// [`WalError::Stopped`], and so does everybody who comes later.
    ///
    /// The writer must run, or nothing becomes durable; the preparer should. One process at a time: a lock on the data
    /// directory is the caller's business.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] (but see [`WalOptions::state_has`]), [`Missing`](WalError::Missing), [`Foreign`](WalError::Foreign)
    /// and [`NewerFormat`](WalError::NewerFormat) for what should not be opened; `Io` and `NoSpace` from the file system.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        fatal: FatalHook,
    ) -> Result<(Wal, Writer, Preparer), WalError> {
        let options = options.clamped();
        disk.create_dir_all(&options.dir).map_err(|error| WalError::io("create", &options.dir, error))?;
        let listing = recover::list(&*disk, &options.dir, options.recycled_segments_max)?;
        let shared = Arc::new(Shared::new(options, disk, fatal, listing.yard));
        let tip = recover::recover(&shared, &listing.sequences)?;
        let wal = Wal { handle: Arc::new(Handle(Arc::clone(&shared))) };
        if tip.has_given_up {
            wal.write_purges()?;
        }
        Ok((wal, Writer::new(Arc::clone(&shared), tip), Preparer::new(shared)))
    }

    /// Queues the purge that recovery has found: until it is written, the segments that were given up stay.
    fn write_purges(&self) -> Result<(), WalError> {
        let groups: Vec<Arc<Group>> = self.handle.0.groups.lock().values().cloned().collect();
        for group in groups {
            let purged = group.state.lock().purged;
            if let Some((term, index)) = purged {
                self.handle.0.queue.push(Op::Purge { group, term, index })?;
            }
        }
        Ok(())
    }

    /// The part of one group, whether or not it has anything in the log.
    pub fn group(&self, group: u32) -> GroupLog {
        GroupLog { handle: Arc::clone(&self.handle), group: self.handle.0.group(group) }
    }

    /// Numbers of the groups that are known, ascending: those in the log, and those that were asked for.
    #[cfg(test)]
    pub(crate) fn groups(&self) -> Vec<u32> {
        self.handle.0.groups.lock().keys().copied().collect()
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> WalMetrics {
        self.handle.0.metrics()
    }

    /// Tries again after a full disk. When the disk is full, the writer keeps its batch, acknowledges nothing and goes
    /// on as soon as there is room; it has no timer, so somebody calls this now and then while
    /// [`WalMetrics::short_of_space`] is set. It is set early, when the next segment cannot be prepared: a node that
    /// then refuses new writes still has room for its own.
    pub fn retry_space(&self) {
        self.handle.0.yard.want_spare();
        self.handle.0.queue.nudge();
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.0
    }

    /// What a reader does for the time of its read.
    #[cfg(test)]
    pub(crate) fn hold_segment(&self, sequence: u64) -> Arc<Segment> {
        Arc::clone(&self.handle.0.segments.lock()[&sequence])
    }

    /// Accepts nothing more. The writer writes what is queued, marks the end and returns from `run`.
    pub fn close(&self) {
        self.handle.0.queue.close(WalError::Closed);
    }
}

/// One group's part of the log. Calls that change it must come one after another; reads may come at any time.
#[derive(Clone)]
pub struct GroupLog {
    handle: Arc<Handle>,
    group: Arc<Group>,
}

impl GroupLog {
    /// See [`WalMetrics::short_of_space`].
    pub fn is_short_of_space(&self) -> bool {
        self.handle.0.metrics.is_short_of_space()
    }

    /// The group's number.
    pub fn id(&self) -> u32 {
        self.group.id
    }

    /// The state as of the last operation, durable or not.
    pub fn state(&self) -> LogState {
        let state = self.group.state.lock();
        LogState {
            vote: state.vote.clone(),
            committed: state.committed.clone(),
            purged: state.purged,
            last: state.last(),
        }
    }

    /// Adds entries. They can be read as soon as this returns; `done` is called when they are durable. Waits while the
    /// queue is full, and adds nothing if it is dropped meanwhile.
    ///
    /// # Errors
    /// [`WalError::OutOfOrder`] if the entries do not follow the last one (any index may be the first of a group that
    /// never purged), [`WalError::RecordTooLarge`], [`WalError::Closed`], [`WalError::Stopped`]. With an error nothing
    /// was added, and `done` is dropped without a call.
    pub async fn append(&self, entries: Vec<LogEntry>, done: Completion) -> Result<(), WalError> {
        entries.iter().try_for_each(|entry| check_body(&entry.body))?;
        let shared = self.shared();
        let room = shared.queue.reserve(&entries).await?;
        let mut state = self.group.state.lock();
        if let Err(error) = state.check_follows(self.group.id, &entries) {
            shared.queue.release(room);
            return Err(error);
        }
        let first_ticket = state.next_ticket;
        let added = entries.clone();
        shared.queue.push(Op::Append { group: Arc::clone(&self.group), first_ticket, entries, room, done })?;
        shared.cached(&self.group, first_ticket, &added);
        for entry in added {
            let whereabouts = Whereabouts::Queued(state.next_ticket);
            state.next_ticket += 1;
            let body_bytes = entry.body.len() as u32;
            state.push(entry.index, Entry { term: entry.term, body_bytes, whereabouts, body: Some(entry.body) });
        }
        Ok(())
    }

    /// Saves the vote; `done` is called when it is durable.
    ///
    /// # Errors
    /// As for [`append`](GroupLog::append); never waits.
    pub fn save_vote(&self, vote: Bytes, done: Completion) -> Result<(), WalError> {
        check_body(&vote)?;
        let mut state = self.group.state.lock();
        self.shared().queue.push(Op::Vote { group: Arc::clone(&self.group), vote: vote.clone(), done })?;
        state.vote = Some(vote);
        Ok(())
    }

    /// Saves the committed position, with the next batch that is written for another reason or when the log closes. A
    /// crash may bring back an older one.
    ///
    /// # Errors
    /// As for [`append`](GroupLog::append); never waits.
    pub fn save_committed(&self, committed: Bytes) -> Result<(), WalError> {
        check_body(&committed)?;
        let mut state = self.group.state.lock();
        self.shared().queue.set_committed(&self.group, committed.clone())?;
        state.committed = Some(committed);
        Ok(())
    }

    /// Removes the entries after `last` (all of them for `None`). Only queues; durable at the latest with the next
    /// operation that is. Purged entries stay purged.
    ///
    /// # Errors
    /// [`WalError::Closed`], [`WalError::Stopped`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), WalError> {
        let first_removed = last.map_or(0, |last| last.saturating_add(1));
        let mut state = self.group.state.lock();
        if state.entries.is_empty() || state.end_index() <= first_removed {
            return Ok(());
        }
        self.shared().queue.push(Op::Truncate { group: Arc::clone(&self.group), first_removed })?;
        state.truncate(first_removed);
        Ok(())
    }

    /// Removes the entries up to `index`, inclusive, which has this term; it may lie beyond the last entry, which is
    /// how a snapshot replaces the log. Only queues.
    ///
    /// # Errors
    /// [`WalError::Closed`], [`WalError::Stopped`].
    pub fn purge(&self, term: u64, index: u64) -> Result<(), WalError> {
        let mut state = self.group.state.lock();
        if state.purged.is_some_and(|(_, purged)| purged >= index) {
            return Ok(());
        }
        self.shared().queue.push(Op::Purge { group: Arc::clone(&self.group), term, index })?;
        state.purge(term, index);
        Ok(())
    }

    /// The entries of `range` that there are, in order; no more than `bytes_max` bytes of bodies, but at least one
    /// entry if there is one. Those that have left memory are read from disk, blocking, and checked.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] with file and offset if the disk gives back something else than was written, and
    /// [`WalError::Io`].
    pub fn read(&self, range: Range<u64>, bytes_max: u64) -> Result<Vec<LogEntry>, WalError> {
        let planned = self.plan_read(range, bytes_max);
        let mut entries = Vec::with_capacity(planned.len());
        let mut rest = planned.as_slice();
        while let Some(first) = rest.first() {
            let span = match &first.source {
                Source::Memory(body) => {
                    entries.push(LogEntry { term: first.term, index: first.index, body: body.clone() });
                    1
                }
                Source::Disk(segment, from) => {
                    let near = rest.iter().take_while(|planned| planned.is_near(segment, *from)).count().max(1);
                    let to = rest[near - 1].end().max(first.end());
                    let bytes = read_exactly(segment, *from, (to - from) as usize)?;
                    for planned in &rest[..near] {
                        entries.push(planned.decode(segment, self.group.id, &bytes, *from)?);
                    }
                    near
                }
            };
            rest = &rest[span..];
        }
        Ok(entries)
    }

    /// The term of the entry at `index`, or of the last purged one; `None` for others.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let state = self.group.state.lock();
        match state.purged {
            Some((term, purged)) if purged == index => Some(term),
            Some(_) | None => state.entry(index).map(|entry| entry.term),
        }
    }

    /// Bytes that the entries after the purged ones take in segments: what a purge could give back.
    pub fn bytes_after_purge(&self) -> u64 {
        self.group.state.lock().record_bytes
    }

    fn shared(&self) -> &Shared {
        &self.handle.0
    }

    /// Under the lock only what must be: which entries, and where they are. The segments are held, so that they are not
    /// recycled while they are read.
    fn plan_read(&self, range: Range<u64>, bytes_max: u64) -> Vec<Planned> {
        let state = self.group.state.lock();
        let from = range.start.max(state.first_index);
        let to = range.end.min(state.end_index());
        let mut planned: Vec<Planned> = Vec::new();
        let mut bytes = 0;
        let mut held: Option<Arc<Segment>> = None;
        for index in from..to {
            let Some(entry) = state.entry(index) else { break };
            bytes += u64::from(entry.body_bytes);
            if bytes > bytes_max && !planned.is_empty() {
                break;
            }
            let source = match (&entry.body, entry.whereabouts) {
                (Some(body), _) => Source::Memory(body.clone()),
                (None, Whereabouts::At(place)) => {
                    let same = held.take().filter(|segment| segment.sequence == place.sequence);
                    let segment = same.or_else(|| self.shared().segments.lock().get(&place.sequence).cloned());
                    // INVARIANT(wal-live-entry): a segment is freed only after the purge of all its entries was written.
                    let segment = segment.expect("a segment with a live entry is there");
                    held = Some(Arc::clone(&segment));
                    Source::Disk(segment, place.offset)
                }
                (None, Whereabouts::Queued(_)) => unreachable!("only durable entries leave the cache"),
            };
            planned.push(Planned { index, term: entry.term, body_bytes: entry.body_bytes, source });
        }
        planned
    }
}

/// An entry to be read, and where from.
struct Planned {
    index: u64,
    term: u64,
    body_bytes: u32,
    source: Source,
}

enum Source {
    Memory(Bytes),
    /// The segment and the record's offset in it.
    Disk(Arc<Segment>, u64),
}

impl Planned {
    fn offset(&self) -> u64 {
        match self.source {
            Source::Memory(_) => 0,
            Source::Disk(_, offset) => offset,
        }
    }

    /// Where the record ends in its segment.
    fn end(&self) -> u64 {
        self.offset() + record_bytes(self.body_bytes as usize) as u64
    }

    fn is_near(&self, segment: &Arc<Segment>, from: u64) -> bool {
        match &self.source {
            Source::Memory(_) => false,
            Source::Disk(own, _) => Arc::ptr_eq(own, segment) && self.end() - from <= READ_SPAN_BYTES,
        }
    }

    /// Takes the entry out of `bytes`, which were read at `from`, and checks that it is the one.
    fn decode(&self, segment: &Segment, group: u32, bytes: &Bytes, from: u64) -> Result<LogEntry, WalError> {
        let at = (self.offset() - from) as usize;
        let raw = &bytes[at..];
        let frame = peek_frame(raw, segment.nonce, self.offset());
        let frame = frame.filter(|frame| frame.body_bytes == self.body_bytes as usize);
        let record = frame.and_then(|frame| decode_record(raw, &frame).ok());
        let right = record.is_some_and(|record| {
            (record.kind, record.group, record.term, record.index) == (Kind::Append, group, self.term, self.index)
        });
        if !right {
            let problem = format!("entry {} of group {group} was written here and cannot be read back", self.index);
            return Err(WalError::corrupt(&segment.path, self.offset(), problem));
        }
        let body = at + RECORD_HEADER_BYTES;
        let body = bytes.slice(body..body + self.body_bytes as usize);
        Ok(LogEntry { term: self.term, index: self.index, body })
    }
}

fn read_exactly(segment: &Segment, at: u64, n: usize) -> Result<Bytes, WalError> {
    let mut bytes = vec![0; n];
    let got = segment.file.read_at(at, &mut bytes).map_err(|error| WalError::io("read", &segment.path, error))?;
    if got < n {
        return Err(WalError::corrupt(&segment.path, at, "the file ends within a record"));
    }
    Ok(Bytes::from(bytes))
}

fn check_body(body: &Bytes) -> Result<(), WalError> {
    let bytes = body.len() as u64;
    if bytes > RECORD_BODY_BYTES_MAX {
        return Err(WalError::RecordTooLarge { bytes, bytes_max: RECORD_BODY_BYTES_MAX });
    }
    Ok(())
}
