//! `sled` 1.0 alpha: a directory of its own. Compresses, and checks what it reads.
//!
//! What its author has left open, and what is done about it here:
//! - A leaf that was written since the database was opened stays in memory, whatever the cache size. So the handle is
//!   closed and opened again after a bounded number of written bytes. Callers wait meanwhile (tens of milliseconds).
//! - Reading one value unpacks its whole leaf: leaves are small.
//! - An iterator with an upper bound walks on behind it to the end of the tree: the range is open, and ended by hand.
//! - Handles are not `Sync`: each call borrows one from a pool.
//! - After a write has failed, the next flush waits forever, and closing flushes: a handle that failed is not used again,
//!   and never closed.
//! - With no flush interval every dropped handle flushes, and iterators hold one: the interval is "never" instead.

use super::space::Space;
use super::{Batch, DiskSpace, Engine, EngineConfig, EngineUsage, Tell, Visit};
use crate::EngineError;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub(super) const DIR_NAME: &str = "engine.sled";
/// Rows per leaf.
const LEAF_FANOUT: usize = 16;
/// A row of the engine's own behind all others: bytes of all rows, u64 LE. sled does not tell what is in use.
const BYTES_KEY: &[u8] = &[0xff];
/// Long enough never to come: flushes are asked for.
const FLUSH_EVERY_MS: usize = 1 << 40;
/// Bytes written before the handle is recycled, whatever the cache size.
const RECYCLE_BYTES_MIN: usize = 32 << 20;
/// What a delete counts for: it is small, but the leaf that it touches stays in memory, and it is seldom the same one.
const DELETE_BYTES: usize = 1 << 10;
/// A copy is read once, by a check.
const COPY_CACHE_BYTES: usize = 64 << 20;
/// How often, and how long apart, a recycled database is tried again: threads that sled leaves behind may hold the lock a
/// little longer.
const REOPEN_TRIES: u32 = 200;
const REOPEN_PAUSE: Duration = Duration::from_millis(10);

type Tree = sled::Tree<LEAF_FANOUT>;
type Db = sled::Db<LEAF_FANOUT>;

/// The second engine.
pub struct SledEngine {
    path: PathBuf,
    config: EngineConfig,
    /// Shared by every call; exclusive while the handle is recycled. `None` if reopening failed.
    handle: RwLock<Option<Handle>>,
    /// Bytes written through the present handle, and what deletes count for.
    written_bytes: AtomicUsize,
    /// Whether a write or flush has failed.
    failed: AtomicBool,
    space: Space,
    /// Bytes of all rows. Held while a batch is written, so that the row beside them is right.
    used_bytes: Mutex<u64>,
    /// The files are a copy that goes with the engine. Behind the handle, which is dropped first.
    copy: Option<Scratch>,
}

/// A directory with a copy of a database in it. Removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// Copies the directory `from` into a new directory below `scratch`.
    fn make(from: &Path, scratch: &Path) -> io::Result<Self> {
        let copy = Self(scratch.join(format!("quorate-check-{}", std::process::id())));
        std::fs::create_dir(&copy.0)?;
        copy_dir(from, &copy.0.join(DIR_NAME))?;
        Ok(copy)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in a directory for what need not stay.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

struct Handle {
    db: Mutex<Db>,
    /// Clones that are not in use. At most as many as there ever were calls at once.
    idle: Mutex<Vec<Tree>>,
}

impl SledEngine {
    /// Opens `engine.sled` in `dir`, or creates it.
    pub fn open(dir: &Path, config: EngineConfig) -> Result<Self, EngineError> {
        let path = dir.join(DIR_NAME);
        let handle = Handle::open(&path, config)?;
        let used_bytes = handle.used_bytes().map_err(|source| error(&path, source))?;
        Ok(Self {
            config,
            handle: RwLock::new(Some(handle)),
            written_bytes: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            space: Space::new(dir),
            used_bytes: Mutex::new(used_bytes),
            path,
            copy: None,
        })
    }

    /// Opens a copy of `engine.sled` in `dir`, made below `scratch`; the copy goes with the engine.
    pub(super) fn open_copy(dir: &Path, scratch: &Path) -> Result<Self, EngineError> {
        let io_error = |path: &Path, source| EngineError::Io { path: path.to_path_buf(), source };
        let copy = Scratch::make(&dir.join(DIR_NAME), scratch).map_err(|source| io_error(scratch, source))?;
        let mut engine = Self::open(&copy.0, EngineConfig { cache_bytes: COPY_CACHE_BYTES })?;
        engine.copy = Some(copy);
        Ok(engine)
    }

    /// A call that changes the database or its files.
    fn change(&self, call: impl FnOnce(&Tree) -> io::Result<()>) -> Result<(), EngineError> {
        let outcome = self.with(call);
        if outcome.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn with<T>(&self, call: impl FnOnce(&Tree) -> io::Result<T>) -> Result<T, EngineError> {
        let guard = self.handle.read();
        let Some(handle) = guard.as_ref().filter(|_| !self.failed.load(Ordering::Relaxed)) else {
            let source = io::Error::other("an earlier write failed, and the database must be opened again");
            return Err(EngineError::Io { path: self.path.clone(), source });
        };
        let idle = handle.idle.lock().pop();
        let tree = idle.unwrap_or_else(|| Tree::clone(&handle.db.lock()));
        let outcome = call(&tree);
        handle.idle.lock().push(tree);
        outcome.map_err(|source| error(&self.path, source))
    }

    /// Gives the memory back that sled holds on to.
    fn recycle(&self) -> Result<(), EngineError> {
        self.flush()?;
        let mut guard = self.handle.write();
        *guard = None;
        let mut tries = 0;
        let handle = loop {
            match Handle::open(&self.path, self.config) {
                Err(EngineError::InUse { .. }) if tries < REOPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(REOPEN_PAUSE);
                }
                outcome => break outcome?,
            }
        };
        *guard = Some(handle);
        self.written_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn recycle_bytes(&self) -> usize {
        self.config.cache_bytes.max(RECYCLE_BYTES_MIN)
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        if self.failed.load(Ordering::Relaxed) {
            std::mem::forget(self.handle.get_mut().take());
        }
    }
}

impl Handle {
    fn open(path: &Path, config: EngineConfig) -> Result<Self, EngineError> {
        let db = sled::Config::new()
            .path(path)
            .cache_capacity_bytes(config.cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open::<LEAF_FANOUT>()
            .map_err(|source| error(path, source))?;
        Ok(Self { db: Mutex::new(db), idle: Mutex::new(Vec::new()) })
    }

    /// Bytes of all rows. A database from before they were counted is read through, once.
    fn used_bytes(&self) -> io::Result<u64> {
        let tree = Tree::clone(&self.db.lock());
        if let Some(row) = tree.get(BYTES_KEY)? {
            let bytes = row.as_ref().try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            return Ok(u64::from_le_bytes(bytes));
        }
        let mut bytes = 0;
        for row in tree.iter() {
            let (key, value) = row?;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok(bytes)
    }
}

/// Bytes of all rows after `batch`, if they are `before` now.
fn used_after(tree: &Tree, before: u64, batch: &Batch) -> io::Result<u64> {
    let mut used = before;
    let mut written: HashMap<&[u8], usize> = HashMap::new();
    for (key, value) in batch.operations() {
        let new = value.map_or(0, |value| key.len() + value.len());
        let old = match written.insert(key, new) {
            Some(old) => old,
            None => tree.get(key)?.map_or(0, |value| key.len() + value.len()),
        };
        used = (used + new as u64).saturating_sub(old as u64);
    }
    Ok(used)
}

fn error(path: &Path, source: io::Error) -> EngineError {
    match source.kind() {
        io::ErrorKind::WouldBlock => EngineError::InUse { path: path.to_path_buf() },
        io::ErrorKind::Unsupported => EngineError::Format { path: path.to_path_buf(), found: source.to_string() },
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            EngineError::Corrupt { place: path.display().to_string(), what: source.to_string() }
        }
        _ => EngineError::Io { path: path.to_path_buf(), source },
    }
}

impl Engine for SledEngine {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.with(|tree| Ok(tree.get(key)?.map(|value| Bytes::copy_from_slice(&value))))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError> {
        if from >= until {
            return Ok(());
        }
        self.with(|tree| {
            for row in tree.range::<&[u8], _>(from..) {
                let (key, value) = row?;
                if key.as_ref() >= until || visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.space.admit(batch)?;
        let mut used_bytes = self.used_bytes.lock();
        let after = self.with(|tree| used_after(tree, *used_bytes, batch))?;
        let mut writes = sled::Batch::default();
        for (key, value) in batch.operations() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        writes.insert(BYTES_KEY, after.to_le_bytes().as_slice());
        self.change(|tree| tree.apply_batch(writes))?;
        *used_bytes = after;
        drop(used_bytes);
        let held = batch.bytes() + batch.deletes() * DELETE_BYTES;
        let written = self.written_bytes.fetch_add(held, Ordering::Relaxed) + held;
        if written >= self.recycle_bytes() { self.recycle() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.change(|tree| tree.flush().map(drop))?;
        self.space.flushed();
        Ok(())
    }

    fn usage(&self) -> Result<EngineUsage, EngineError> {
        // Before the handle: who writes takes them in this order.
        let used_bytes = *self.used_bytes.lock();
        let guard = self.handle.read();
        let Some(handle) = guard.as_ref() else { return Ok(EngineUsage::default()) };
        let file_bytes = handle.db.lock().size_on_disk().map_err(|source| error(&self.path, source))?;
        Ok(EngineUsage { file_bytes, used_bytes })
    }

    fn disk(&self) -> Result<Option<DiskSpace>, EngineError> {
        self.space.disk().map(Some)
    }

    fn compact(&self, progress: Tell<'_>) -> Result<(), EngineError> {
        // Flushing rewrites sparse parts of the files; there is nothing else to ask sled for, nor how far it is.
        let total = self.usage()?.used_bytes;
        progress(0, total);
        self.flush()?;
        progress(total, total);
        Ok(())
    }
}
