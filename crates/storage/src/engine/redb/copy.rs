//! A second file with the same rows, made beside reads and writes, to take the place of a file that is mostly free space.
//!
//! Rows are copied in key order. What is written meanwhile goes to both files, as far as the copy has come; the rest is
//! copied later with everything else. Knows nothing of the file that it will replace.

use super::{apply, builder, engine_error, open_error};
use crate::EngineError;
use crate::engine::{Batch, EngineConfig};
use redb::{Database, Durability};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Memory for the pages of a file that is only written. Those of the file that is read keep theirs.
const CACHE_BYTES: usize = 16 << 20;

pub(super) struct Copy {
    path: PathBuf,
    database: Database,
    /// The last key that was copied. What is written up to here must be followed.
    copied: Option<Vec<u8>>,
    /// The first thing that went wrong. The file is of no use then.
    failure: Option<EngineError>,
}

impl Copy {
    /// An empty file at `path`, in place of what is there.
    pub fn create(path: PathBuf) -> Result<Self, EngineError> {
        remove(&path)?;
        let config = EngineConfig { cache_bytes: CACHE_BYTES };
        let database = builder(config).create(&path).map_err(|error| open_error(&path, error))?;
        let copy = Self { path, database, copied: None, failure: None };
        // Creates the tables, so that a file without rows has them.
        copy.apply(Durability::Immediate, &Batch::default(), |_| true)?;
        Ok(copy)
    }

    /// The last key that was copied.
    pub fn copied(&self) -> Option<&[u8]> {
        self.copied.as_deref()
    }

    /// Takes the rows that come next, in key order.
    pub fn take(&mut self, rows: &Batch, durability: Durability) -> Result<(), EngineError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.apply(durability, rows, |_| true)?;
        if let Some((last, _)) = rows.operations().last() {
            self.copied = Some(last.to_vec());
        }
        Ok(())
    }

    /// Does what was done to the other file. A failure is told to whoever copies: the write itself has succeeded.
    pub fn follow(&mut self, batch: &Batch) {
        let (Some(copied), None) = (&self.copied, &self.failure) else { return };
        self.failure = self.apply(Durability::None, batch, |key| key <= copied.as_slice()).err();
    }

    /// Ends the copy, all of it durable, and opens it as a database for everything.
    pub fn finish(mut self, config: EngineConfig) -> Result<(PathBuf, Database), EngineError> {
        self.take(&Batch::default(), Durability::Immediate)?;
        let Self { path, database, .. } = self;
        drop(database);
        let database = builder(config).open(&path).map_err(|error| open_error(&path, error))?;
        Ok((path, database))
    }

    fn apply(
        &self,
        durability: Durability,
        batch: &Batch,
        concerns: impl Fn(&[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let operations = batch.operations().filter(|(key, _)| concerns(key));
        apply(&self.database, durability, operations).map_err(|error| engine_error(&self.path, error))
    }
}

/// Removes a copy that was given up, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), EngineError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(EngineError::Io { path: path.to_path_buf(), source }),
    }
}
