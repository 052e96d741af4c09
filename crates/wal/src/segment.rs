//! Segments as files: their names, their creation, and the yard in which freed ones wait for reuse.
//!
//! A file gets a segment's name only when its header and its first batch are durable. So whatever has such a name is a
//! complete segment, every segment but the last is sealed, and a file that was half made at a power cut is a spare
//! whose content does not matter.

use crate::disk::DiskFile;
use crate::error::WalError;
use crate::format::{RECORD_ALIGN, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::shared::Shared;
use parking_lot::Mutex;
use quorate_sabotage::sabotage;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Files are filled with zeros in steps of this size, so that nobody waits for a whole segment.
const ZERO_STEP_BYTES: u64 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

const SUFFIX: &str = ".wal";
const SPARE_PREFIX: &str = "spare-";

/// What a name in the directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileName {
    Segment(u64),
    Spare(u64),
    /// Ends like ours, but we never write such a name.
    Strange,
    /// None of our business: `lost+found`, a note of the operator.
    Other,
}

impl FileName {
    pub fn parse(name: &str) -> FileName {
        let Some(stem) = name.strip_suffix(SUFFIX) else { return FileName::Other };
        let number = |digits: &str| {
            let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        match stem.strip_prefix(SPARE_PREFIX) {
            Some(digits) => number(digits).map_or(FileName::Strange, FileName::Spare),
            None => match number(stem) {
                Some(sequence) if sequence > 0 => FileName::Segment(sequence),
                Some(_) | None => FileName::Strange,
            },
        }
    }

    pub fn segment(sequence: u64) -> String {
        format!("{sequence:016x}{SUFFIX}")
    }

    pub fn spare(number: u64) -> String {
        format!("{SPARE_PREFIX}{number:016x}{SUFFIX}")
    }
}

/// A segment that holds records. Readers share it; a file is recycled only when nobody else holds it.
pub(crate) struct Segment {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub sequence: u64,
    pub nonce: u64,
}

/// A file for a segment to come: zeros, or the stale records of a freed segment.
pub(crate) struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Below this the file has blocks of its own, so that writing there changes no metadata.
    pub allocated_to: u64,
}

#[derive(Default)]
struct YardState {
    spares: Vec<Spare>,
    /// Segments that no group needs, oldest first: they go in this order, or a power cut could leave a gap.
    freed: VecDeque<Arc<Segment>>,
    /// A spare will soon be needed.
    spare_wanted: bool,
    next_spare: u64,
    closed: bool,
}

/// What the preparer should do next.
pub(crate) enum Chore {
    /// Recycle or remove this segment.
    Free(Arc<Segment>),
    /// Make a spare, or complete this one.
    Spare(Option<Spare>),
    Wait,
    Stop,
}

/// Where freed segments and spares are.
#[derive(Default)]
pub(crate) struct Yard {
    state: Mutex<YardState>,
    wake: Notify,
}

impl Yard {
    pub fn new(spares: Vec<Spare>, next_spare: u64) -> Yard {
        Yard { state: Mutex::new(YardState { spares, next_spare, ..YardState::default() }), wake: Notify::new() }
    }

    pub fn take_spare(&self) -> Option<Spare> {
        self.state.lock().spares.pop()
    }

    pub fn put_spare(&self, spare: Spare) {
        self.state.lock().spares.push(spare);
    }

    pub fn spares(&self) -> usize {
        self.state.lock().spares.len()
    }

    pub fn next_spare_path(&self, dir: &Path) -> PathBuf {
        let mut state = self.state.lock();
        state.next_spare += 1;
        dir.join(FileName::spare(state.next_spare))
    }

    pub fn want_spare(&self) {
        self.state.lock().spare_wanted = true;
        self.wake.notify_one();
    }

    pub fn free(&self, segments: impl IntoIterator<Item = Arc<Segment>>) {
        self.state.lock().freed.extend(segments);
        self.wake.notify_one();
    }

    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Frees before it fills: what is freed may be the spare.
    pub fn next_chore(&self, segment_bytes: u64) -> Chore {
        let mut state = self.state.lock();
        if state.closed {
            return Chore::Stop;
        }
        if let Some(segment) = state.freed.pop_front() {
            return Chore::Free(segment);
        }
        if !std::mem::take(&mut state.spare_wanted) {
            return Chore::Wait;
        }
        match state.spares.pop() {
            Some(full) if full.allocated_to >= segment_bytes => {
                state.spares.push(full);
                Chore::Wait
            }
            spare => Chore::Spare(spare),
        }
    }
}

impl Shared {
    pub fn segment_path(&self, sequence: u64) -> PathBuf {
        self.options.dir.join(FileName::segment(sequence))
    }

    /// Creates an empty spare.
    pub fn create_spare(&self) -> Result<Spare, WalError> {
        let path = self.yard.next_spare_path(&self.options.dir);
        let file = self.disk.create(&path).map_err(|error| WalError::io("create", &path, error))?;
        Ok(Spare { path, file, allocated_to: 0 })
    }

    /// Writes zeros from `allocated_to` to the next step, but not past the nominal size of a segment; returns up to
    /// where the file is allocated then.
    pub fn zero_step(&self, path: &Path, file: &dyn DiskFile, allocated_to: u64) -> Result<u64, WalError> {
        let step = (allocated_to + 1).next_multiple_of(ZERO_STEP_BYTES);
        let end = step.min(self.options.segment_bytes).max(allocated_to);
        write_zeros(path, file, allocated_to, end)?;
        Ok(end)
    }

    /// Makes the segment that follows `previous_end`: takes a spare, writes header and first batch, syncs, and only
    /// then gives it its name, durably. On an error before that, the spare is back in the yard and nothing has changed.
    /// Returns the segment, where its records end, and up to where the file is allocated.
    pub fn create_segment(
        &self,
        sequence: u64,
        previous_end: u64,
        first_batch: impl FnOnce(&mut Vec<u8>, u64),
    ) -> Result<(Arc<Segment>, u64, u64), WalError> {
        let nonce = segment_nonce(self.options.node_nonce, if sabotage!(WalNonceReused) { 0 } else { sequence });
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
        first_batch(&mut bytes, nonce);
        debug_assert_eq!(bytes.len() % RECORD_ALIGN, 0);
        let end = bytes.len() as u64;
        let header = SegmentHeader { sequence, nonce, previous_end, restated_end: end };
        bytes[..SEGMENT_HEADER_BYTES as usize].copy_from_slice(&header.encode());

        let mut spare = match self.yard.take_spare() {
            Some(spare) => spare,
            None => self.create_spare()?,
        };
        let written = spare.file.write_at(0, &bytes).map_err(|error| WalError::io("write", &spare.path, error));
        let allocated = written.and_then(|()| match spare.allocated_to.max(end) {
            // A fresh file: its first step comes along under the same fsync.
            to if spare.allocated_to < end => self.zero_step(&spare.path, &*spare.file, to),
            to => Ok(to),
        });
        match allocated {
            Ok(to) => spare.allocated_to = to,
            Err(error) => {
                self.yard.put_spare(spare);
                return Err(error);
            }
        }
        self.sync(&spare.path, &*spare.file)?;
        let path = self.segment_path(sequence);
        self.disk.rename(&spare.path, &path).map_err(|error| WalError::io("rename", &spare.path, error))?;
        self.sync_dir()?;
        self.metrics.wrote(end);
        self.metrics.set_short_of_space(false);
        Ok((Arc::new(Segment { path, file: spare.file, sequence, nonce }), end, spare.allocated_to))
    }
}

pub(crate) fn write_zeros(path: &Path, file: &dyn DiskFile, from: u64, to: u64) -> Result<(), WalError> {
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZEROS.len() as u64);
        file.write_at(at, &ZEROS[..n as usize]).map_err(|error| WalError::io("write", path, error))?;
        at += n;
    }
    Ok(())
}

/// A nonce that no other segment of this node has: a bijection of the sequence (the finalizer of splitmix64), moved by
/// the node's own nonce.
fn segment_nonce(node_nonce: u64, sequence: u64) -> u64 {
    let mut z = node_nonce.wrapping_add(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
