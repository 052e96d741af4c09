//! `redb`: one table in one file. Writes commit without a sync; a flush is an empty durable commit behind them, with
//! quick repair, so that a database that was killed opens at once instead of being read through.
//!
//! It checks its pages only when asked. Content is checked by the rows' own checksums, and reachability by the index,
//! which knows what must exist.

use super::overlay::Overlay;
use super::space::Space;
use super::{Batch, DiskSpace, Engine, EngineConfig, EngineUsage, Visit};
use crate::EngineError;
use bytes::Bytes;
use parking_lot::RwLock;
use redb::{
    Builder, CompactionError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError,
};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(super) const FILE_NAME: &str = "engine.redb";
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Bytes of all rows, kept beside them: redb's own count would read the whole file.
const BYTES_TABLE: TableDefinition<'_, (), u64> = TableDefinition::new("bytes");

/// A file of which at least this share is rows is not worth a compaction: pages are not full, and the file doubles when it
/// grows, so that much of the rest is free for good reason.
const COMPACT_USED_SHARE_MAX: f64 = 0.4;

/// A check reads everything once.
const CHECK_CONFIG: EngineConfig = EngineConfig { cache_bytes: 64 << 20 };

/// The default engine.
pub struct RedbEngine {
    path: PathBuf,
    /// Written only by [`Engine::compact`], which redb does on an exclusive handle; everything else shares it.
    database: RwLock<Database>,
    /// `None` if the backend is not a file.
    space: Option<Space>,
}

impl RedbEngine {
    /// Opens `engine.redb` in `dir`, or creates it.
    pub fn open(dir: &Path, config: EngineConfig) -> Result<Self, EngineError> {
        let path = dir.join(FILE_NAME);
        let created = !path.exists();
        let database = builder(config).create(&path).map_err(|error| open_error(&path, error))?;
        if created {
            // The file's name must survive a power cut as well as its content.
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|source| EngineError::Io { path: dir.to_path_buf(), source })?;
        }
        Self::start(path, database, Some(Space::new(dir)))
    }

    /// Opens a database in `backend`, or creates it if that is empty. `name` stands for the path in error texts.
    pub fn with_backend(name: &str, backend: impl StorageBackend, config: EngineConfig) -> Result<Self, EngineError> {
        let path = PathBuf::from(name);
        let database = builder(config).create_with_backend(backend).map_err(|error| open_error(&path, error))?;
        Self::start(path, database, None)
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
            Ok(database) => Ok((Self { path: path.clone(), database: RwLock::new(database), space: None }, None)),
            Err(damage @ EngineError::Corrupt { .. }) => match open(false) {
                Ok(database) => {
                    Ok((Self { path: path.clone(), database: RwLock::new(database), space: None }, Some(damage)))
                }
                Err(_) => Err(damage),
            },
            Err(error) => Err(error),
        }
    }

    fn start(path: PathBuf, database: Database, space: Option<Space>) -> Result<Self, EngineError> {
        let engine = Self { path, database: RwLock::new(database), space };
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
        let database = self.database.read();
        let run = || -> Result<(), redb::Error> {
            let mut write = database.begin_write()?;
            write.set_durability(durability)?;
            write.set_quick_repair(matches!(durability, Durability::Immediate));
            {
                let mut table = write.open_table(TABLE)?;
                let mut bytes_table = write.open_table(BYTES_TABLE)?;
                let mut bytes = bytes_table.get(())?.map_or(0, |bytes| bytes.value());
                for (key, value) in batch.operations() {
                    let old = match value {
                        Some(value) => {
                            bytes += (key.len() + value.len()) as u64;
                            table.insert(key, value)?
                        }
                        None => table.remove(key)?,
                    };
                    bytes = bytes.saturating_sub(old.map_or(0, |old| key.len() + old.value().len()) as u64);
                }
                bytes_table.insert((), bytes)?;
            }
            write.commit()?;
            Ok(())
        };
        run().map_err(|error| self.error(error))
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
        // A backend that is not a file has no size of its own to tell.
        let file_bytes = self.path.metadata().map_or(used_bytes, |metadata| metadata.len());
        Ok(EngineUsage { file_bytes, used_bytes })
    }

    fn disk(&self) -> Result<Option<DiskSpace>, EngineError> {
        self.space.as_ref().map(Space::disk).transpose()
    }

    fn compact(&self) -> Result<(), EngineError> {
        let usage = self.usage()?;
        if usage.used_bytes as f64 > usage.file_bytes as f64 * COMPACT_USED_SHARE_MAX {
            return Ok(());
        }
        match self.database.write().compact() {
            Ok(_) => Ok(()),
            Err(CompactionError::Storage(error)) => Err(self.error(error.into())),
            // Transactions live no longer than a call, and calls hold the lock; savepoints are never made.
            Err(other) => Err(self.error(other.into())),
        }
    }
}
