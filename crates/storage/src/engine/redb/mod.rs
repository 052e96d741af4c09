//! `redb`: one table in one file. Writes commit without a sync; a flush is an empty durable commit behind them, with
//! quick repair, so that a database that was killed opens at once instead of being read through.
//!
//! It checks its pages only when asked. Content is checked by the rows' own checksums, and reachability by the index,
//! which knows what must exist.

mod copy;

use self::copy::Copy;
use super::overlay::Overlay;
use super::space::Space;
use super::{Batch, DiskSpace, Engine, EngineConfig, EngineUsage, Tell, Visit};
use crate::EngineError;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use redb::{
    Builder, CompactionError, CursorError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable,
    StorageBackend, Table, TableDefinition, TableError,
};
use std::fs;
use std::io;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) const FILE_NAME: &str = "engine.redb";
/// A new file, or a copy without the free space, until it is whole.
const COPY_NAME: &str = "engine.redb.new";
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Bytes of all rows, kept beside them: redb's own count would read the whole file.
const BYTES_TABLE: TableDefinition<'_, (), u64> = TableDefinition::new("bytes");

/// A file of which at least this share is rows is not worth a compaction: a new one would be little smaller, for pages are
/// never quite full.
const COMPACT_USED_SHARE_MAX: f64 = 0.7;
/// Of the blocks that a file's metadata counts.
const BLOCK_BYTES: u64 = 512;

/// A check reads everything once.
const CHECK_CONFIG: EngineConfig = EngineConfig { cache_bytes: 64 << 20 };
/// Bytes of rows that are copied while writes wait.
const COPY_BYTES: usize = 1 << 20;
/// So many of these portions are made durable together.
const COPIES_PER_SYNC: usize = 32;

/// The default engine.
pub struct RedbEngine {
    path: PathBuf,
    config: EngineConfig,
    /// Written only when another file takes the place of this one; everything else shares it.
    database: RwLock<Database>,
    /// The copy that [`Engine::compact`] is making. Held by every write, so that none comes between two portions unseen, and
    /// taken before `database`.
    copy: Mutex<Option<Copy>>,
    /// One compaction at a time.
    compacting: Mutex<()>,
    /// Whether the file's name is yet to be made durable.
    name_is_new: AtomicBool,
    /// `None` if the backend is not a file.
    space: Option<Space>,
}

impl RedbEngine {
    /// Opens `engine.redb` in `dir`, or creates it.
    pub fn open(dir: &Path, config: EngineConfig) -> Result<Self, EngineError> {
        let path = dir.join(FILE_NAME);
        copy::remove(&dir.join(COPY_NAME))?;
        let database = if path.exists() {
            builder(config).open(&path).map_err(|error| open_error(&path, error))?
        } else {
            // It gets its name when it is whole: a power cut while redb creates a file leaves one that it cannot open.
            let (new, database) = Copy::create(dir.join(COPY_NAME))?.finish(config)?;
            fs::rename(&new, &path).map_err(|source| EngineError::Io { path: new, source })?;
            sync_dir(dir)?;
            database
        };
        Self::start(path, config, database, Some(Space::new(dir)))
    }

    /// Opens a database in `backend`, or creates it if that is empty. `name` stands for the path in error texts.
    pub fn with_backend(name: &str, backend: impl StorageBackend, config: EngineConfig) -> Result<Self, EngineError> {
        let path = PathBuf::from(name);
        let database = builder(config).create_with_backend(backend).map_err(|error| open_error(&path, error))?;
        Self::start(path, config, database, None)
    }

    /// Opens `engine.redb` in `dir` without writing to it. If redb finds pages that are not what it wrote, it says so beside,
    /// and the database is opened all the same: rows that can be read can be checked.
    pub(super) fn open_for_check(dir: &Path) -> Result<(Self, Option<EngineError>), EngineError> {
        let path = dir.join(FILE_NAME);
        let open = |check: bool| {
            let overlay = Overlay::open(&path).map_err(|source| EngineError::Io { path: path.clone(), source })?;
            let mut builder = builder(CHECK_CONFIG);
            let opened = builder.set_check_integrity_on_open(check).create_with_backend(overlay);
            opened.map_err(|error| open_error(&path, error))
        };
        match open(true) {
            Ok(database) => Ok((Self::new(path.clone(), CHECK_CONFIG, database, None), None)),
            Err(damage @ EngineError::Corrupt { .. }) => match open(false) {
                Ok(database) => Ok((Self::new(path.clone(), CHECK_CONFIG, database, None), Some(damage))),
                Err(_) => Err(damage),
            },
            Err(error) => Err(error),
        }
    }

    fn new(path: PathBuf, config: EngineConfig, database: Database, space: Option<Space>) -> Self {
        Self {
            path,
            config,
            database: RwLock::new(database),
            copy: Mutex::default(),
            compacting: Mutex::default(),
            name_is_new: AtomicBool::new(false),
            space,
        }
    }

    fn start(
        path: PathBuf,
        config: EngineConfig,
        database: Database,
        space: Option<Space>,
    ) -> Result<Self, EngineError> {
        let engine = Self::new(path, config, database, space);
        if engine.tables_missing()? {
            engine.commit(Durability::Immediate, &Batch::default())?;
        }
        Ok(engine)
    }

    fn tables_missing(&self) -> Result<bool, EngineError> {
        let read = self.database.read().begin_read().map_err(|error| self.error(error.into()))?;
        match read.open_table(BYTES_TABLE) {
            Ok(_) => Ok(false),
            Err(TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(self.error(error.into())),
        }
    }

    fn commit(&self, durability: Durability, batch: &Batch) -> Result<(), EngineError> {
        let mut copy = self.copy.lock();
        apply(&self.database.read(), durability, batch.operations()).map_err(|error| self.error(error))?;
        if let Some(copy) = copy.as_mut() {
            copy.follow(batch);
        }
        Ok(())
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, redb::StorageError>,
    ) -> Result<T, EngineError> {
        let database = self.database.read();
        let run = || -> Result<T, redb::Error> {
            let read = database.begin_read()?;
            let table = read.open_table(TABLE)?;
            Ok(look(&table)?)
        };
        run().map_err(|error| self.error(error))
    }

    fn error(&self, error: redb::Error) -> EngineError {
        engine_error(&self.path, error)
    }
}

fn sync_dir(dir: &Path) -> Result<(), EngineError> {
    super::sync_dir(dir).map_err(|source| EngineError::Io { path: dir.to_path_buf(), source })
}

/// Writes all of `operations` to `database`, or nothing.
fn apply<'a>(
    database: &Database,
    durability: Durability,
    operations: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(durability)?;
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    {
        let mut table = write.open_table(TABLE)?;
        let mut bytes_table = write.open_table(BYTES_TABLE)?;
        let mut bytes = bytes_table.get(())?.map_or(0, |bytes| bytes.value());
        let mut operations = operations.peekable();
        // Where a row was there already, so are most likely those behind it.
        let mut expects_new = true;
        loop {
            if expects_new {
                bytes += insert_run(&mut table, &mut operations)?;
            }
            let Some((key, value)) = operations.next() else { break };
            let old = match value {
                Some(value) => {
                    bytes += (key.len() + value.len()) as u64;
                    let old = table.insert(key, value)?;
                    expects_new = old.is_none();
                    old
                }
                None => table.remove(key)?,
            };
            bytes = bytes.saturating_sub(old.map_or(0, |old| key.len() + old.value().len()) as u64);
        }
        bytes_table.insert((), bytes)?;
    }
    write.commit()?;
    Ok(())
}

/// Puts rows for as long as they are new and in ascending order, as records are; gives their bytes. Through a cursor, pages are
/// packed full, where single inserts in the middle of the table leave them half empty and take more than twice the processor time.
fn insert_run<'a>(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    operations: &mut Peekable<impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>>,
) -> Result<u64, redb::Error> {
    let Some((first, Some(_))) = operations.peek() else { return Ok(0) };
    let mut cursor = table.lower_bound_mut(Bound::Included(*first))?;
    let mut bytes = 0;
    while let Some((key, Some(value))) = operations.peek() {
        match cursor.insert_before(*key, *value) {
            Ok(()) => bytes += (key.len() + value.len()) as u64,
            // It is there already, or sorts elsewhere.
            Err(CursorError::UnorderedKey) => break,
            Err(error) => return Err(error.into()),
        }
        operations.next();
    }
    cursor.close()?;
    Ok(bytes)
}

fn builder(config: EngineConfig) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(config.cache_bytes);
    builder
}

fn open_error(path: &Path, error: DatabaseError) -> EngineError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            EngineError::InUse { path: path.to_path_buf() }
        }
        DatabaseError::UpgradeRequired(version) => {
            EngineError::Format { path: path.to_path_buf(), found: format!("redb file format {version}") }
        }
        other => engine_error(path, other.into()),
    }
}

fn engine_error(path: &Path, error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            EngineError::Corrupt { place: path.display().to_string(), what: source.to_string() }
        }
        redb::Error::Io(source) => EngineError::Io { path: path.to_path_buf(), source },
        redb::Error::PreviousIo => {
            EngineError::Io { path: path.to_path_buf(), source: io::Error::other(error.to_string()) }
        }
        redb::Error::Corrupted(what) => EngineError::Corrupt { place: path.display().to_string(), what },
        // What is left are misuses that this module rules out (types, names, transactions), so that they, too, mean that
        // the file does not hold what this module wrote.
        other => EngineError::Corrupt { place: path.display().to_string(), what: other.to_string() },
    }
}

impl Engine for RedbEngine {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.read(|table| Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value()))))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError> {
        if from >= until {
            return Ok(());
        }
        self.read(|table| {
            for row in table.range::<&[u8]>(from..until)? {
                let (key, value) = row?;
                if visit(key.value(), value.value()).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        if let Some(space) = &self.space {
            space.admit(batch)?;
        }
        self.commit(Durability::None, batch)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.commit(Durability::Immediate, &Batch::default())?;
        // What is durable in a file whose name is not, is not durable.
        if self.name_is_new.load(Ordering::Acquire) {
            sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
            self.name_is_new.store(false, Ordering::Release);
        }
        self.space.iter().for_each(Space::flushed);
        Ok(())
    }

    fn usage(&self) -> Result<EngineUsage, EngineError> {
        let database = self.database.read();
        let run = || -> Result<u64, redb::Error> {
            let table = database.begin_read()?.open_table(BYTES_TABLE)?;
            Ok(table.get(())?.map_or(0, |bytes| bytes.value()))
        };
        let used_bytes = run().map_err(|error| self.error(error))?;
        // What it takes of the disk: the file doubles when it grows, and what was never written to takes nothing. A backend that
        // is not a file has no size of its own to tell.
        let file_bytes = self.path.metadata().map_or(used_bytes, |file| file.len().min(file.blocks() * BLOCK_BYTES));
        Ok(EngineUsage { file_bytes, used_bytes })
    }

    fn disk(&self) -> Result<Option<DiskSpace>, EngineError> {
        self.space.as_ref().map(Space::disk).transpose()
    }

    fn compact(&self, progress: Tell<'_>) -> Result<(), EngineError> {
        let usage = self.usage()?;
        if usage.used_bytes as f64 > usage.file_bytes as f64 * COMPACT_USED_SHARE_MAX {
            return Ok(());
        }
        let _one = self.compacting.lock();
        let Some(space) = &self.space else { return self.compact_in_place() };
        if space.disk()?.free_bytes < usage.used_bytes * 2 {
            return Err(EngineError::NoSpace { path: self.path.clone() });
        }
        let copy_path = self.path.with_file_name(COPY_NAME);
        *self.copy.lock() = Some(Copy::create(copy_path.clone())?);
        let outcome = self.copy_rows(space, usage.used_bytes, progress).and_then(|()| self.switch());
        if outcome.is_err() {
            self.copy.lock().take();
            copy::remove(&copy_path)?;
        }
        outcome
    }
}

impl RedbEngine {
    /// Gives free space at the end of the file back. Everything else waits. For a backend that is not a file.
    fn compact_in_place(&self) -> Result<(), EngineError> {
        match self.database.write().compact() {
            Ok(_) => Ok(()),
            Err(CompactionError::Storage(error)) => Err(self.error(error.into())),
            // Transactions live no longer than a call, and calls hold the lock; savepoints are never made.
            Err(other) => Err(self.error(other.into())),
        }
    }

    /// Brings all rows to the copy. Writes wait for one portion at most, reads not at all.
    fn copy_rows(&self, space: &Space, total: u64, progress: Tell<'_>) -> Result<(), EngineError> {
        let mut copied_bytes = 0;
        for portion in 1.. {
            let mut guard = self.copy.lock();
            // Nobody else takes it away.
            let Some(copy) = guard.as_mut() else { break };
            let rows = self.rows_after(copy.copied())?;
            if rows.is_empty() {
                break;
            }
            space.admit(&rows)?;
            let is_due = portion % COPIES_PER_SYNC == 0;
            copy.take(&rows, if is_due { Durability::Immediate } else { Durability::None })?;
            MutexGuard::unlock_fair(guard);
            copied_bytes += rows.bytes() as u64;
            // Rows may be added while others are copied.
            progress(copied_bytes, total.max(copied_bytes));
        }
        Ok(())
    }

    fn rows_after(&self, copied: Option<&[u8]>) -> Result<Batch, EngineError> {
        let from = copied.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|table| {
            let mut rows = Batch::default();
            for row in table.range::<&[u8]>((from, Bound::Unbounded))? {
                let (key, value) = row?;
                rows.put(key.value().to_vec(), value.value().to_vec());
                if rows.bytes() >= COPY_BYTES {
                    break;
                }
            }
            Ok(rows)
        })
    }

    /// Puts the copy, which has all rows, in the file's place.
    fn switch(&self) -> Result<(), EngineError> {
        let mut guard = self.copy.lock();
        let Some(copy) = guard.take() else { return Ok(()) };
        let (path, database) = copy.finish(self.config)?;
        fs::rename(&path, &self.path).map_err(|source| EngineError::Io { path, source })?;
        self.name_is_new.store(true, Ordering::Release);
        let old = std::mem::replace(&mut *self.database.write(), database);
        drop(guard);
        // Its file has no name any more; to close it takes a while.
        drop(old);
        self.flush()
    }
}
