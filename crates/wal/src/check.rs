//! Reading a log for its own sake: all of a log that nobody has open, to report everything that is wrong with it
//! ([`check`]), and one sealed segment after the other of a log that is in use ([`Wal::sealed_after`]).
//!
//! Changes nothing. Unlike opening it goes on behind a fault, at the next record that can be read.

use crate::disk::Disk;
use crate::error::WalError;
use crate::format::{Kind, RECORD_ALIGN, SEGMENT_HEADER_BYTES, SegmentHeader, record_bytes};
use crate::log::Wal;
use crate::recover::{Reader, damaged_when_made, read_header};
use crate::segment::{FileName, Segment};
use crate::state::LogEntry;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFault {
    /// The file.
    pub path: PathBuf,
    /// Byte offset of the header or record in it; `None` if the file as a whole is meant.
    pub offset: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

impl From<WalError> for WalFault {
    fn from(error: WalError) -> WalFault {
        let problem = error.to_string();
        match error {
            WalError::Corrupt { path, offset, problem } => WalFault { path, offset: Some(offset), problem },
            WalError::Missing { path } => WalFault { path, offset: None, problem: "the segment is missing".into() },
            WalError::Foreign { path } => {
                WalFault { path, offset: None, problem: "the file is not a segment of this log".into() }
            }
            WalError::NewerFormat { path, .. } | WalError::Io { path, .. } | WalError::NoSpace { path } => {
                WalFault { path, offset: None, problem }
            }
            WalError::RecordTooLarge { .. } | WalError::OutOfOrder { .. } | WalError::Closed | WalError::Stopped(_) => {
                WalFault { path: PathBuf::new(), offset: None, problem }
            }
        }
    }
}

/// What a check has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalCheck {
    /// Segments that were read.
    pub segments: u64,
    /// Files that are kept to become segments; their content means nothing.
    pub spares: u64,
    /// Records that are whole.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Where the last batch was torn by a crash, if it was: no fault, it is cut at the next start.
    pub torn_at: Option<u64>,
    /// Per group, the position up to which it was purged: term and index.
    pub purged: BTreeMap<u32, (u64, u64)>,
}

/// Who hears of what a check finds.
pub trait CheckVisitor {
    /// An entry that is whole. `Err`: its body is not what it should be.
    fn entry(&mut self, group: u32, entry: LogEntry) -> Result<(), String>;
    /// A fault.
    fn fault(&mut self, fault: WalFault);
}

/// Reads the log in `dir`, which nobody has open, and tells `visitor` what is wrong. Memory: one record, and what
/// `visitor` keeps.
///
/// # Errors
/// The directory cannot be listed.
pub fn check(disk: &dyn Disk, dir: &Path, visitor: &mut dyn CheckVisitor) -> Result<WalCheck, WalError> {
    let names = disk.list(dir).map_err(|error| WalError::io("list", dir, error))?;
    let mut seen = WalCheck::default();
    let mut sequences = Vec::new();
    for name in names {
        match FileName::parse(&name) {
            FileName::Segment(sequence) => sequences.push(sequence),
            FileName::Spare(_) => seen.spares += 1,
            FileName::Strange => visitor.fault(WalError::Foreign { path: dir.join(&name) }.into()),
            FileName::Other => {}
        }
    }
    sequences.sort_unstable();
    let mut log = LogCheck { visitor, seen, groups: BTreeMap::new(), floor: 0 };
    let mut next = sequences.first().map(|first| (*first, log.open(disk, dir, *first)));
    for following in sequences.iter().skip(1).map(Some).chain([None]) {
        let Some((sequence, opened)) = next.take() else { break };
        next = following.map(|following| (*following, log.open(disk, dir, *following)));
        let follows = next.as_ref().is_some_and(|(following, _)| sequence + 1 == *following);
        if next.is_some() && !follows {
            let path = dir.join(FileName::segment(sequence + 1));
            log.visitor.fault(WalError::Missing { path }.into());
        }
        let place = match &next {
            None => Place::Last,
            Some((_, Some((_, header)))) if follows => Place::Sealed(header.previous_end),
            Some(_) => Place::Unknown,
        };
        match opened {
            Some((segment, header)) => log.segment(&segment, &header, place),
            None => log.forget(),
        }
        if matches!(place, Place::Unknown) {
            log.forget();
        }
    }
    log.finish(dir, sequences.first().copied());
    Ok(log.seen)
}

/// What is known of the end of a segment.
#[derive(Clone, Copy)]
enum Place {
    /// The next segment says where it is.
    Sealed(u64),
    /// The end of the log.
    Last,
    /// The segment that would say it cannot be read.
    Unknown,
}

/// Entries of a group that are not gone: `first..next`.
#[derive(Default)]
struct GroupCheck {
    first: u64,
    next: u64,
    purged: Option<(u64, u64)>,
}

struct LogCheck<'a> {
    visitor: &'a mut dyn CheckVisitor,
    seen: WalCheck,
    groups: BTreeMap<u32, GroupCheck>,
    floor: u64,
}

impl LogCheck<'_> {
    fn open(&mut self, disk: &dyn Disk, dir: &Path, sequence: u64) -> Option<(Segment, SegmentHeader)> {
        let path = dir.join(FileName::segment(sequence));
        let opened = disk.open_read(&path).map_err(|error| WalError::io("open", &path, error));
        match opened.and_then(|file| read_header(path, file, sequence)) {
            Ok(opened) => Some(opened),
            Err(error) => {
                self.visitor.fault(error.into());
                None
            }
        }
    }

    fn segment(&mut self, segment: &Segment, header: &SegmentHeader, place: Place) {
        self.seen.segments += 1;
        if let Err(error) = self.records(segment, header, place) {
            self.visitor.fault(error.into());
            self.forget();
        }
    }

    /// Reads all records. An error ends the segment.
    fn records(&mut self, segment: &Segment, header: &SegmentHeader, place: Place) -> Result<(), WalError> {
        let mut reader = Reader::new(segment)?;
        let mut at = SEGMENT_HEADER_BYTES;
        loop {
            if let Place::Sealed(end) = place
                && at >= end
            {
                if at != end || header.restated_end > end {
                    let problem = format!("the records end at {at}, the next segment says {end}");
                    self.visitor.fault(WalError::corrupt(&segment.path, at, problem).into());
                }
                return Ok(());
            }
            let problem = match reader.record(at)? {
                Ok((record, frame)) => {
                    let bytes = record_bytes(frame.body_bytes) as u64;
                    self.seen.records += 1;
                    self.seen.bytes += bytes;
                    let applied = self.apply(record.group, record.kind, record.term, record.index, record.body);
                    if let Err(problem) = applied {
                        self.visitor.fault(WalError::corrupt(&segment.path, at, problem).into());
                    }
                    at += bytes;
                    continue;
                }
                Err(problem) => problem,
            };
            let restated = at < header.restated_end;
            let mut next = reader.find_record(at + RECORD_ALIGN as u64)?;
            if matches!(place, Place::Last) && !restated {
                // Records of the torn batch itself are part of the tail; one of a later batch says that this was durable.
                while let Some(found) = next.take_if(|found| found.batch_start <= at) {
                    self.seen.torn_at = Some(at);
                    next = reader.find_record(found.at + RECORD_ALIGN as u64)?;
                }
            }
            let Some(next) = next else { return Self::end(segment, at, problem, place, restated) };
            self.seen.torn_at = None;
            self.visitor.fault(WalError::corrupt(&segment.path, at, problem).into());
            self.forget();
            at = next.at;
        }
    }

    /// There is no record at `at` or behind it.
    fn end(segment: &Segment, at: u64, problem: &str, place: Place, restated: bool) -> Result<(), WalError> {
        match place {
            Place::Sealed(_) => Err(WalError::corrupt(&segment.path, at, problem)),
            Place::Last | Place::Unknown if restated => Err(damaged_when_made(segment, at, problem)),
            Place::Last | Place::Unknown => Ok(()),
        }
    }

    fn apply(&mut self, group: u32, kind: Kind, term: u64, index: u64, body: &[u8]) -> Result<(), String> {
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
                let is_empty = state.first == state.next;
                let purged = state.purged.is_some_and(|(_, purged)| index <= purged);
                let follows = (is_empty || index == state.next) && !purged;
                if is_empty || !follows {
                    state.first = index;
                }
                state.next = index + 1;
                if !follows {
                    return Err(format!("group {group}: entry {index} does not follow the one before"));
                }
                self.visitor.entry(group, LogEntry { term, index, body: Bytes::copy_from_slice(body) })
            }
            Kind::Truncate => {
                state.next = state.next.min(index).max(state.first);
                Ok(())
            }
            Kind::Purge => {
                state.purged = Some((term, index));
                state.first = state.first.max(index + 1).min(state.next.max(index + 1));
                state.next = state.next.max(state.first);
                Ok(())
            }
            Kind::Vote | Kind::Committed | Kind::Floor | Kind::Mark => Ok(()),
        }
    }

    /// Something could not be read: what follows need not fit what was before.
    fn forget(&mut self) {
        for state in self.groups.values_mut() {
            state.first = 0;
            state.next = 0;
        }
    }

    fn finish(&mut self, dir: &Path, oldest: Option<u64>) {
        let Some(oldest) = oldest else {
            let problem = "there is no segment".to_owned();
            return self.visitor.fault(WalFault { path: dir.to_owned(), offset: None, problem });
        };
        if oldest > self.floor && self.floor > 0 {
            let path = dir.join(FileName::segment(oldest - 1));
            self.visitor.fault(WalError::Missing { path }.into());
        }
        for (group, state) in &self.groups {
            let Some((term, purged)) = state.purged else { continue };
            self.seen.purged.insert(*group, (term, purged));
            if state.first < state.next && state.first > 0 && state.first != purged + 1 {
                let problem =
                    format!("group {group}: purged up to entry {purged}, but the first entry is {}", state.first);
                let path = dir.join(FileName::segment(oldest));
                self.visitor.fault(WalFault { path, offset: None, problem });
            }
        }
    }
}

/// A sealed segment of a log that is in use, being read again. While it lives the file is not recycled.
pub struct SealedSegment {
    segment: Arc<Segment>,
    end: u64,
    at: u64,
}

impl SealedSegment {
    /// Its place in the log.
    pub fn sequence(&self) -> u64 {
        self.segment.sequence
    }

    /// Reads on, whole records, about `bytes_max` of them. Returns how many bytes it has read; 0 at the end.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] with the place; `Io` if the file cannot be read.
    pub fn step(&mut self, bytes_max: u64) -> Result<u64, WalError> {
        let began = self.at;
        let mut reader = Reader::new(&self.segment)?;
        while self.at < self.end && self.at - began < bytes_max {
            match reader.record(self.at)? {
                Ok((_, frame)) => self.at += record_bytes(frame.body_bytes) as u64,
                Err(problem) => return Err(WalError::corrupt(&self.segment.path, self.at, problem)),
            }
        }
        Ok(self.at - began)
    }
}

impl Wal {
    /// The first segment with a sequence above `after` that is not written to any more; `None` if there is none. What
    /// it says of itself and of its end is checked at once.
    ///
    /// # Errors
    /// As [`SealedSegment::step`].
    pub fn sealed_after(&self, after: u64) -> Result<Option<SealedSegment>, WalError> {
        let (segment, next) = {
            let segments = self.shared().segments.lock();
            let mut newer = segments.range(after.saturating_add(1)..).map(|(_, segment)| Arc::clone(segment));
            let (Some(segment), Some(next)) = (newer.next(), newer.next()) else { return Ok(None) };
            (segment, next)
        };
        read_header(segment.path.clone(), Arc::clone(&segment.file), segment.sequence)?;
        let (_, header) = read_header(next.path.clone(), Arc::clone(&next.file), next.sequence)?;
        Ok(Some(SealedSegment { segment, end: header.previous_end, at: SEGMENT_HEADER_BYTES }))
    }
}
