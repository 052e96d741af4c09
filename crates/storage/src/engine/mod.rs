//! What storage needs from an embedded engine: one ordered map of bytes, atomic batches, and a flush.
//!
//! Engines know nothing of groups, keys or revisions. They need no snapshots: rows that matter are immutable.

mod memory;
mod overlay;
mod redb;
mod shield;
mod sled;
mod space;

pub use self::memory::MemoryEngine;
pub use self::redb::RedbEngine;
pub use self::shield::is_shielded;
pub use self::sled::SledEngine;

use crate::EngineError;
use bytes::Bytes;
use shield::Shield;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an engine is made that is to replace another.
const REPLACEMENT_DIR: &str = "rebuild";

/// Is shown one row after the other: key and value.
pub type Visit<'a, T> = &'a mut dyn FnMut(&[u8], &[u8]) -> T;

/// Is told how far a piece of work is: what is done, and how much it is in all, which may be an estimate.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// One ordered map of bytes. Values are up to about 1.6 MiB.
pub trait Engine: Send + Sync {
    /// `redb`, `sled` or `memory`.
    fn name(&self) -> &'static str;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits the rows with `from <= key < until`, in order, until `visit` breaks. `visit` must not call the engine. What is
    /// written meanwhile may be seen or not.
    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError>;

    /// Writes all of `batch` or nothing. Visible on return; durable only after [`Engine::flush`]. Refused with
    /// [`EngineError::NoSpace`], and without harm, if there is too little space. After any other error, as after one of
    /// [`Engine::flush`], the engine has to be opened again.
    fn write(&self, batch: &Batch) -> Result<(), EngineError>;

    /// Makes everything durable that was written before the call.
    fn flush(&self) -> Result<(), EngineError>;

    /// Bytes that the engine's files take, and bytes of them in use.
    fn usage(&self) -> Result<EngineUsage, EngineError>;

    /// The file system that the engine's files are on; `None` if it has no files.
    fn disk(&self) -> Result<Option<DiskSpace>, EngineError> {
        Ok(None)
    }

    /// Gives unused file space back as far as the engine can. Reads go on; writes wait for small parts of it. Refused with
    /// [`EngineError::NoSpace`], and without harm, if it needs more disk space than there is. An engine that knows how far it is
    /// tells it in bytes of rows.
    fn compact(&self, progress: Tell<'_>) -> Result<(), EngineError>;
}

/// What an engine takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineUsage {
    /// Bytes that the files take.
    pub file_bytes: u64,
    /// Bytes of rows: keys and values, without what the engine needs around them. More than the files take where the engine
    /// compresses, or has not written all of them to its files yet.
    pub used_bytes: u64,
}

impl EngineUsage {
    /// Bytes of the files that are in use.
    pub fn in_use_bytes(&self) -> u64 {
        self.used_bytes.min(self.file_bytes)
    }
}

/// The size of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that it holds.
    pub total_bytes: u64,
    /// Bytes that are free for this process.
    pub free_bytes: u64,
}

/// Puts and deletes, to be written as one. Of two operations on one key the later counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
    deletes: usize,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.operations.push((key, Some(value)));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.deletes += 1;
        self.operations.push((key, None));
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Operations in it.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Deletes in it.
    fn deletes(&self) -> usize {
        self.deletes
    }

    /// Whether it is there to free space.
    fn mostly_deletes(&self) -> bool {
        self.deletes * 2 > self.operations.len()
    }

    /// The operations, in the order in which they were added; `None` deletes.
    pub fn operations(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.operations.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }
}

/// Which engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// `redb`: bounded memory, stable format.
    #[default]
    Redb,
    /// `sled`: compresses, takes less disk.
    Sled,
    /// In memory, for tests.
    Memory,
}

impl EngineKind {
    /// All engines.
    pub const ALL: [Self; 3] = [Self::Redb, Self::Sled, Self::Memory];

    /// The name, as operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }

    /// What the engine makes in its directory: a file or a directory. `None` for one that keeps nothing.
    pub fn path(self, dir: &Path) -> Option<PathBuf> {
        match self {
            Self::Redb => Some(dir.join(redb::FILE_NAME)),
            Self::Sled => Some(dir.join(sled::DIR_NAME)),
            Self::Memory => None,
        }
    }

    /// The engine of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How to open an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Bytes of memory for the engine's own cache of pages.
    pub cache_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20 }
    }
}

/// Opens the engine `kind` in `dir`, which exists. Creates its files if there are none. Where the engine would panic over files
/// that are not what it wrote, it answers [`EngineError::Corrupt`] (if the program unwinds).
pub fn open_engine(kind: EngineKind, dir: &Path, config: EngineConfig) -> Result<Arc<dyn Engine>, EngineError> {
    let path = kind.path(dir);
    Ok(match kind {
        EngineKind::Redb => Arc::new(Shield::open(path, || RedbEngine::open(dir, config))?),
        EngineKind::Sled => Arc::new(Shield::open(path, || SledEngine::open(dir, config))?),
        EngineKind::Memory => Arc::new(MemoryEngine::default()),
    })
}

/// Where a replacement for the engine in `dir` is made. What an earlier attempt left there is removed.
///
/// # Errors
/// The file system fails.
pub fn begin_replacement(dir: &Path) -> io::Result<PathBuf> {
    let new = dir.join(REPLACEMENT_DIR);
    remove_replacement(dir)?;
    std::fs::create_dir(&new)?;
    Ok(new)
}

/// Puts the engine that was made where [`begin_replacement`] said, and closed, in the place of the one in `dir`, durably, and
/// removes that. If it ends in between, there is the old engine, or none.
///
/// # Errors
/// The file system fails.
pub fn finish_replacement(kind: EngineKind, dir: &Path) -> io::Result<()> {
    let new = dir.join(REPLACEMENT_DIR);
    let (Some(from), Some(to)) = (kind.path(&new), kind.path(dir)) else { return Ok(()) };
    sync_dir(&new)?;
    match std::fs::rename(&to, new.join("old")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(from, to)?;
    sync_dir(dir)?;
    remove_replacement(dir)
}

/// Makes the names in `dir` durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_replacement(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir.join(REPLACEMENT_DIR)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Opens the engine `kind` in `dir`, which no process has open, for reading alone: not a byte of its files is changed, not even
/// where an open after a crash would repair something. sled cannot do that: it is given a copy, in a directory below `scratch`
/// that goes with the engine. What the engine itself finds wrong with its files, it tells at once.
pub fn open_for_check(
    kind: EngineKind,
    dir: &Path,
    scratch: &Path,
) -> Result<(Arc<dyn Engine>, Option<EngineError>), EngineError> {
    let path = kind.path(dir);
    Ok(match kind {
        EngineKind::Redb => {
            let mut damage = None;
            let open = || {
                let (engine, found) = RedbEngine::open_for_check(dir)?;
                damage = found;
                Ok(engine)
            };
            (Arc::new(Shield::open(path, open)?), damage)
        }
        EngineKind::Sled => (Arc::new(Shield::open(path, || SledEngine::open_copy(dir, scratch))?), None),
        EngineKind::Memory => (Arc::new(MemoryEngine::default()), None),
    })
}
