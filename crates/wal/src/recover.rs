//! Opening: reads all segments in order, rebuilds the state of the groups, and finds the end of the log.
//!
//! A bad record is a torn tail only in the last segment, only behind what is known to be durable, and only if no record
//! of a later batch follows it. The tail is cut, and nothing of it can come back: what is left of it is zeroed, durably,
//! before anything is written in its place. Everything else refuses to open, with file and offset.
//!
//! Unless the caller says what the groups' states have ([`WalOptions::state_has`](crate::WalOptions::state_has)). Then a damaged
//! segment that is sealed is given up, and all before it, if the states have what they lost. The next segment begins with each
//! group's vote and with what it has purged; where its entries begin tells what was lost.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;
use crate::format::{
    BadRecord, Frame, Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
    decode_record, peek_frame, record_bytes, u64_at,
};
use crate::segment::{FileName, Segment, Spare, Yard, write_zeros};
use crate::shared::Shared;
use crate::state::{Entry, GroupState, Place, Whereabouts, Written};
use crate::writer::{Tip, restate};
use bytes::Bytes;
use quorate_sabotage::sabotage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads ahead by this much.
const WINDOW_BYTES: usize = 1 << 20;

/// The files of the log's directory: sequences in order and without gaps, and spares.
pub(crate) struct Listing {
    pub sequences: Vec<u64>,
    pub yard: Yard,
}

/// Looks at the names only, apart from the spares' lengths. Removes spares past the maximum.
pub(crate) fn list(disk: &dyn Disk, dir: &Path, spares_max: usize) -> Result<Listing, WalError> {
    let names = disk.list(dir).map_err(|error| WalError::io("list", dir, error))?;
    let (mut sequences, mut spares, mut next_spare) = (Vec::new(), Vec::new(), 0);
    for name in names {
        let path = dir.join(&name);
        match FileName::parse(&name) {
            FileName::Segment(sequence) => sequences.push(sequence),
            FileName::Spare(_) if spares.len() >= spares_max.max(1) => {
                disk.remove(&path).map_err(|error| WalError::io("remove", &path, error))?;
            }
            FileName::Spare(number) => {
                let file = disk.open(&path).map_err(|error| WalError::io("open", &path, error))?;
                let allocated_to = file.len().map_err(|error| WalError::io("read the length of", &path, error))?;
                spares.push(Spare { path, file, allocated_to });
                next_spare = next_spare.max(number);
            }
            FileName::Strange => return Err(WalError::Foreign { path }),
            FileName::Other => {}
        }
    }
    sequences.sort_unstable();
    if let Some(gap) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(WalError::Missing { path: dir.join(FileName::segment(gap[0] + 1)) });
    }
    Ok(Listing { sequences, yard: Yard::new(spares, next_spare) })
}

/// Reads the segments into `shared` and returns the end of the log; begins a new log if there are none.
pub(crate) fn recover(shared: &Shared, sequences: &[u64]) -> Result<Tip, WalError> {
    let Some(&last_sequence) = sequences.last() else {
        return begin(shared);
    };
    let (given_up, read) = read_what_can_be(shared, sequences)?;
    let Read { replay, mut segments, segment, header, end } = read;
    settle_tail(shared, &segment, &end)?;

    let file_bytes = file_len(&segment.path, &*segment.file)?;
    let segment = Arc::new(segment);
    segments.insert(last_sequence, Arc::clone(&segment));
    for &sequence in given_up {
        // Nothing in it is read any more: it is there to be freed, when the purge of its entries is written.
        let path = shared.segment_path(sequence);
        let file = shared.disk.open(&path).map_err(|error| WalError::io("open", &path, error))?;
        segments.insert(sequence, Arc::new(Segment { path, file, sequence, nonce: 0 }));
    }
    // A power cut may have kept freed segments that the log has already given up.
    let needed = segments.split_off(&replay.floor);
    shared.yard.free(segments.into_values());
    *shared.segments.lock() = needed;
    let written = replay.groups.iter().map(|(&id, state)| (id, Written::of(state))).collect();
    for (id, mut state) in replay.groups {
        if sabotage!(WalLastRecordLost) {
            state.truncate(state.end_index().saturating_sub(1));
        }
        *shared.group(id).state.lock() = state;
    }
    Ok(Tip {
        segment,
        position: end.position,
        restated_end: header.restated_end,
        allocated_to: file_bytes.max(end.position),
        floor: replay.floor,
        written,
        has_given_up: !given_up.is_empty(),
    })
}

/// What segments hold.
struct Read {
    replay: Replay,
    /// All but the last.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// The last, its header, and its end.
    segment: Segment,
    header: SegmentHeader,
    end: End,
}

/// Reads the segments, without those at the beginning that are damaged and not needed: they come first.
fn read_what_can_be<'a>(shared: &Shared, sequences: &'a [u64]) -> Result<(&'a [u64], Read), WalError> {
    let state_has = &shared.options.state_has;
    let (mut first, mut damage) = (0, None);
    loop {
        let error = match read(shared, &sequences[first..]) {
            Ok(mut read) => {
                if let Some(damage) = damage
                    && !read.replay.do_without_the_rest(state_has)
                {
                    return Err(damage);
                }
                read.replay.check(shared, sequences[0])?;
                return Ok((&sequences[..first], read));
            }
            Err(error) => error,
        };
        let is_in = |sequence: &u64| matches!(&error, WalError::Corrupt { path, .. } if *path == shared.segment_path(*sequence));
        let sealed = &sequences[..sequences.len() - 1];
        let Some(at) = sealed.iter().position(is_in).filter(|at| *at >= first && !state_has.is_empty()) else {
            return Err(damage.unwrap_or(error));
        };
        first = at + 1;
        damage.get_or_insert(error);
    }
}

/// Reads segments that follow one another, the last of the log among them.
fn read(shared: &Shared, sequences: &[u64]) -> Result<Read, WalError> {
    let mut replay = Replay::default();
    let mut segments = BTreeMap::new();
    let (mut segment, mut header) = open_segment(shared, sequences[0])?;
    for &next in &sequences[1..] {
        let (next, next_header) = open_segment(shared, next)?;
        replay.sealed_segment(&segment, &header, next_header.previous_end)?;
        segments.insert(segment.sequence, Arc::new(segment));
        (segment, header) = (next, next_header);
    }
    let end = replay.last_segment(&segment, &header)?;
    Ok(Read { replay, segments, segment, header, end })
}

/// What a segment begins with was synced before anything was written behind it: a torn write cannot be what is wrong.
pub(super) fn damaged_when_made(segment: &Segment, at: u64, problem: &str) -> WalError {
    let problem = format!("{problem}, in the part that was synced when the segment was made");
    WalError::corrupt(&segment.path, at, problem)
}

fn begin(shared: &Shared) -> Result<Tip, WalError> {
    const FIRST: u64 = 1;
    let written = BTreeMap::new();
    let (segment, end, allocated_to) =
        shared.create_segment(FIRST, 0, |out, nonce| restate(out, nonce, &written, FIRST))?;
    shared.segments.lock().insert(FIRST, Arc::clone(&segment));
    Ok(Tip { segment, position: end, restated_end: end, allocated_to, floor: FIRST, written, has_given_up: false })
}

fn open_segment(shared: &Shared, sequence: u64) -> Result<(Segment, SegmentHeader), WalError> {
    let path = shared.segment_path(sequence);
    let file = shared.disk.open(&path).map_err(|error| WalError::io("open", &path, error))?;
    read_header(path, file, sequence)
}

/// The segment that `file` is, if it is the one of this sequence.
pub(crate) fn read_header(
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    sequence: u64,
) -> Result<(Segment, SegmentHeader), WalError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    let n = file.read_at(0, &mut bytes).map_err(|error| WalError::io("read", &path, error))?;
    let header = SegmentHeader::decode(&path, &bytes[..n])?;
    if header.sequence != sequence {
        let problem = format!("the header says that this is segment {:016x}: the file was renamed", header.sequence);
        return Err(WalError::corrupt(&path, 16, problem));
    }
    Ok((Segment { path, file, sequence, nonce: header.nonce }, header))
}

fn file_len(path: &Path, file: &dyn DiskFile) -> Result<u64, WalError> {
    file.len().map_err(|error| WalError::io("read the length of", path, error))
}

/// Where the last segment ends.
struct End {
    position: u64,
    /// Where the last whole batch begins, or the last torn one if something of it was kept.
    batch_start: u64,
    /// Where the last record of the torn batch ends, beyond the cut; `position` if there is none.
    leftover_end: u64,
}

/// Makes the end of the log solid, before anybody relies on what was read.
///
/// What is left behind the cut is zeroed, so that a new record can never make an old one reachable again. And the last
/// batch is written once more and synced: it may be in the page cache only, and if an fsync failed before a restart, the
/// cache calls pages clean that the disk never got.
fn settle_tail(shared: &Shared, segment: &Segment, end: &End) -> Result<(), WalError> {
    let (path, file) = (&segment.path, &*segment.file);
    write_zeros(path, file, end.position, end.leftover_end)?;
    if sabotage!(WalTailNotSynced) {
        return Ok(());
    }
    let mut chunk = vec![0; WINDOW_BYTES];
    let mut at = end.batch_start;
    while at < end.position {
        let n = (end.position - at).min(WINDOW_BYTES as u64) as usize;
        let got = file.read_at(at, &mut chunk[..n]).map_err(|error| WalError::io("read", path, error))?;
        if got < n {
            return Err(WalError::corrupt(path, at, "the file became shorter while it was read"));
        }
        file.write_at(at, &chunk[..n]).map_err(|error| WalError::io("write", path, error))?;
        at += n as u64;
    }
    shared.sync(path, file)?;
    // The same for the names: the program may have ended between a rename and its sync.
    shared.sync_dir()
}

/// The state of the groups while the log is read.
#[derive(Default)]
struct Replay {
    groups: BTreeMap<u32, GroupState>,
    floor: u64,
}

impl Replay {
    /// Reads a segment whose end is known.
    fn sealed_segment(&mut self, segment: &Segment, header: &SegmentHeader, end: u64) -> Result<(), WalError> {
        let mut reader = Reader::new(segment)?;
        let mut at = SEGMENT_HEADER_BYTES;
        while at < end {
            match reader.record(at)? {
                Ok((record, frame)) => {
                    self.apply(segment, at, &record)?;
                    at += record_bytes(frame.body_bytes) as u64;
                }
                Err(problem) => return Err(WalError::corrupt(&segment.path, at, problem)),
            }
        }
        if at != end || header.restated_end > end {
            let problem = format!("the records end at {at}, the next segment says {end}");
            return Err(WalError::corrupt(&segment.path, at, problem));
        }
        Ok(())
    }

    /// Reads the last segment up to its end, which is where the first bad record is.
    fn last_segment(&mut self, segment: &Segment, header: &SegmentHeader) -> Result<End, WalError> {
        let mut reader = Reader::new(segment)?;
        let mut end = End {
            position: SEGMENT_HEADER_BYTES,
            batch_start: SEGMENT_HEADER_BYTES,
            leftover_end: SEGMENT_HEADER_BYTES,
        };
        let problem = loop {
            match reader.record(end.position)? {
                Ok((record, frame)) => {
                    self.apply(segment, end.position, &record)?;
                    end.batch_start = frame.batch_start;
                    end.position += record_bytes(frame.body_bytes) as u64;
                }
                Err(problem) => break problem,
            }
        };
        if end.position < header.restated_end {
            return Err(damaged_when_made(segment, end.position, problem));
        }
        end.leftover_end = end.position;
        let mut at = end.position + RECORD_ALIGN as u64;
        while let Some(found) = reader.find_record(at)? {
            if found.batch_start > end.position || sabotage!(WalTornTailIsDamage) {
                let problem = format!("{problem}, and a record of a later batch follows at {}", found.at);
                return Err(WalError::corrupt(&segment.path, end.position, problem));
            }
            end.leftover_end = found.at + record_bytes(found.body_bytes) as u64;
            at = found.at + RECORD_ALIGN as u64;
        }
        Ok(end)
    }

    fn apply(&mut self, segment: &Segment, offset: u64, record: &Record<'_>) -> Result<(), WalError> {
        let &Record { group, kind, term, index, body } = record;
        if kind == Kind::Floor {
            self.floor = index;
            return Ok(());
        }
        if kind == Kind::Mark {
            return Ok(());
        }
        let state = self.groups.entry(group).or_default();
        match kind {
            Kind::Append => {
                // What was purged since may be missing in front, with the segments that held it. So the first entry
                // may have any index here; `check` looks at it when all purges are known.
                let expected = if state.entries.is_empty() { index } else { state.end_index() };
                let purged = state.purged.is_some_and(|(_, purged)| index <= purged);
                if index != expected || purged {
                    let problem = format!("group {group}: entry {index} does not follow the one before");
                    return Err(WalError::corrupt(&segment.path, offset, problem));
                }
                let whereabouts = Whereabouts::At(Place { sequence: segment.sequence, offset });
                state.push(index, Entry { term, body_bytes: body.len() as u32, whereabouts, body: None });
            }
            Kind::Vote => state.vote = Some(Bytes::copy_from_slice(body)),
            Kind::Committed => state.committed = Some(Bytes::copy_from_slice(body)),
            Kind::Truncate => {
                state.truncate(index);
            }
            Kind::Purge => {
                state.purge(term, index);
            }
            Kind::Floor | Kind::Mark => {}
        }
        Ok(())
    }

    /// Purges what the states have, after segments before these could not be read; `false`, if something else may have been in
    /// them.
    ///
    /// INVARIANT(log-given-up): what is lost are entries before the first that is left, for a later segment begins with all else (a
    /// group has a vote before it has entries, so every one is named there).
    /// A group of which none is left may have had more than its state, and acknowledged it: that cannot be told.
    fn do_without_the_rest(&mut self, state_has: &BTreeMap<u32, (u64, u64)>) -> bool {
        let are_known = self.groups.keys().all(|group| state_has.contains_key(group));
        let are_there = state_has.keys().all(|group| self.groups.contains_key(group));
        are_known
            && are_there
            && self.groups.iter_mut().all(|(group, state)| {
                let (term, index) = state_has[group];
                let fits = state.entry(index).is_none_or(|entry| entry.term == term);
                let has_the_rest = !state.entries.is_empty() && state.first_index <= index + 1;
                state.purge(term, index);
                fits && has_the_rest
            })
    }

    /// Checks that nothing is missing at the old end.
    fn check(&self, shared: &Shared, oldest: u64) -> Result<(), WalError> {
        if oldest > self.floor {
            return Err(WalError::Missing { path: shared.segment_path(oldest - 1) });
        }
        for (group, state) in &self.groups {
            let Some((_, purged)) = state.purged else { continue };
            if !state.entries.is_empty() && state.first_index != purged + 1 {
                let problem =
                    format!("group {group}: purged up to entry {purged}, but the first entry is {}", state.first_index);
                return Err(WalError::corrupt(&shared.segment_path(oldest), SEGMENT_HEADER_BYTES, problem));
            }
        }
        Ok(())
    }
}

pub(crate) struct Found {
    pub at: u64,
    pub batch_start: u64,
    pub body_bytes: usize,
}

/// Reads one segment front to back through a window.
pub(crate) struct Reader<'a> {
    segment: &'a Segment,
    file_bytes: u64,
    window_start: u64,
    window: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(segment: &'a Segment) -> Result<Reader<'a>, WalError> {
        let file_bytes = file_len(&segment.path, &*segment.file)?;
        Ok(Reader { segment, file_bytes, window_start: 0, window: Vec::new() })
    }

    /// `n` bytes at `at`, or `None` if the file ends before. `n` is a record's size at most.
    fn bytes(&mut self, at: u64, n: usize) -> Result<Option<&[u8]>, WalError> {
        if at + n as u64 > self.file_bytes {
            return Ok(None);
        }
        if at < self.window_start || at + n as u64 > self.window_start + self.window.len() as u64 {
            let wanted = (n.max(WINDOW_BYTES) as u64).min(self.file_bytes - at) as usize;
            self.window.resize(wanted, 0);
            self.window_start = at;
            let path = &self.segment.path;
            let got = self.segment.file.read_at(at, &mut self.window);
            self.window.truncate(got.map_err(|error| WalError::io("read", path, error))?);
            if self.window.len() < n {
                return Err(WalError::corrupt(path, at, "the file became shorter while it was read"));
            }
        }
        let from = (at - self.window_start) as usize;
        Ok(Some(&self.window[from..from + n]))
    }

    /// The record at `at`, or what is wrong there. Errors are those of reading, and of a record from the future.
    pub fn record(&mut self, at: u64) -> Result<Result<(Record<'_>, Frame), &'static str>, WalError> {
        let (nonce, path) = (self.segment.nonce, &self.segment.path);
        let Some(header) = self.bytes(at, RECORD_HEADER_BYTES)? else {
            return Ok(Err("the file ends where a record should be"));
        };
        let Some(frame) = peek_frame(header, nonce, at) else {
            return Ok(Err("there is no record of this segment"));
        };
        let Some(bytes) = self.bytes(at, record_bytes(frame.body_bytes))? else {
            return Ok(Err("the file ends within a record"));
        };
        match decode_record(bytes, &frame) {
            Ok(record) => Ok(Ok((record, frame))),
            Err(BadRecord::Checksum) => Ok(Err("the record does not match its checksum")),
            Err(BadRecord::Kind(kind)) => {
                Err(WalError::corrupt(path, at, format!("kind {kind} of a record is unknown to this program")))
            }
        }
    }

    /// The next whole record of this segment at `at` or later, whatever lies before it.
    pub fn find_record(&mut self, mut at: u64) -> Result<Option<Found>, WalError> {
        const NONCE_AT: usize = 8;
        let nonce = self.segment.nonce;
        while let Some(header) = self.bytes(at, RECORD_HEADER_BYTES)? {
            if u64_at(header, NONCE_AT) == nonce
                && let Ok((_, Frame { body_bytes, batch_start })) = self.record(at)?
            {
                return Ok(Some(Found { at, batch_start, body_bytes }));
            }
            at += RECORD_ALIGN as u64;
        }
        Ok(None)
    }
}
