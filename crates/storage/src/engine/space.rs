//! Keeps an engine from running into a full disk. Engines take a failed write badly (redb refuses to work until it is
//! opened again, sled waits forever), so that a write is refused before it can fail: reads go on, and so do writes, once
//! there is space.

use super::{Batch, DiskSpace};
use crate::EngineError;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Free space that a write must leave.
const MARGIN_BYTES: u64 = 16 << 20;
/// The same for a batch that mostly deletes: what frees space may take the last of it.
const MARGIN_DELETE_BYTES: u64 = 4 << 20;
/// Bytes on disk that a byte of a batch may take until the next flush: pages are rewritten as a whole.
const WRITE_AMPLIFICATION: u64 = 2;

pub(super) struct Space {
    dir: PathBuf,
    /// Bytes that were written since the last flush, and may not have taken their space yet.
    unflushed_bytes: AtomicUsize,
}

impl Space {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), unflushed_bytes: AtomicUsize::new(0) }
    }

    /// How large the file system is, and how much of it is free.
    pub fn disk(&self) -> Result<DiskSpace, EngineError> {
        let stats = fs4::statvfs(&self.dir).map_err(|source| EngineError::Io { path: self.dir.clone(), source })?;
        Ok(DiskSpace { total_bytes: stats.total_space(), free_bytes: stats.available_space() })
    }

    /// Whether there is space for `batch`; if so, it counts as written.
    pub fn admit(&self, batch: &Batch) -> Result<(), EngineError> {
        let error = |source| EngineError::Io { path: self.dir.clone(), source };
        let available = fs4::available_space(&self.dir).map_err(error)?;
        let pending = (self.unflushed_bytes.load(Ordering::Relaxed) + batch.bytes()) as u64;
        let margin = if batch.mostly_deletes() { MARGIN_DELETE_BYTES } else { MARGIN_BYTES };
        if available < pending * WRITE_AMPLIFICATION + margin {
            return Err(EngineError::NoSpace { path: self.dir.clone() });
        }
        self.unflushed_bytes.fetch_add(batch.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// What was written before has taken its space.
    pub fn flushed(&self) {
        self.unflushed_bytes.store(0, Ordering::Relaxed);
    }
}
