//! Reads a snapshot file, of whichever form, and believes nothing of it before it is checked. Every refusal names the file and
//! the offset.

use super::blocks::BlockFile;
use super::database::{DatabaseFile, Scan};
use crate::error::storage_error;
use crate::{Error, snapshot::SNAPSHOT_MAGIC};
use quorate_core::{Record, Revision};
use quorate_storage::{Installer, SnapshotMeta};
use quorate_wal::{Disk, DiskFile};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The SHA-256 at the end.
pub(super) const HASH_BYTES: u64 = 32;
/// All else comes in sectors: so the length of a file tells whether the hash is there.
pub(super) const SECTOR_BYTES: u64 = 512;
/// How much of a file is read at a time to hash it.
const HASHED_AT_ONCE: usize = 1 << 20;
/// Where a bbolt database has its magic number.
const BOLT_MAGIC_OFFSET: usize = 16;
const BOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// What a snapshot file says of itself, once all of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// As etcd computes it: CRC-32C of all buckets, each with its name and its elements in order. Of a file of the form that
    /// was written before: of everything but the SHA-256 at the end.
    pub hash: u32,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Elements of all buckets: every version of a key that is kept, and rows of the small tables.
    pub total_keys: u64,
    /// Bytes without the SHA-256 at the end.
    pub total_bytes: u64,
    /// Version of etcd's storage that the file has; empty if it does not say so, as before etcd 3.6.
    pub version: String,
}

/// What is asked of the SHA-256 at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashCheck {
    /// It is there, and right.
    Required,
    /// If it is there it is right. A copy of the file that an etcd works on has none.
    IfThere,
    /// Nothing.
    Skipped,
}

/// Checks a whole snapshot file, and says what is in it. `progress` is told how many bytes are done, and how many there are.
/// Blocks on the disk.
///
/// # Errors
/// [`Error::Fatal`] with file, offset and what is wrong there.
pub fn snapshot_status(
    disk: &dyn Disk,
    path: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<SnapshotStatus, Error> {
    let mut opened = Opened::open(disk, path, HashCheck::IfThere)?;
    while opened.scan_some()? {
        let (done, total) = opened.progress();
        progress(done, total);
    }
    match opened.checked()? {
        SnapshotFile::Blocks(file) => file.status(progress),
        SnapshotFile::Database(file) => file.status(progress),
    }
}

/// A file, and how to refuse it.
pub(super) struct Place {
    path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub length: u64,
    /// Where the hash at the end begins, or the file ends if it has none.
    pub body_end: u64,
    pub hash: HashCheck,
}

impl Place {
    pub fn has_hash(&self) -> bool {
        self.body_end < self.length
    }

    pub fn refuse(&self, offset: u64, what: &str) -> Error {
        Error::Fatal(format!("{}: at offset {offset}: {what}", self.path.display()))
    }

    /// Refuses a file that has no hash, and should.
    pub fn missing_hash(&self) -> Error {
        self.refuse(
            self.length,
            "snapshot missing hash but --skip-hash-check=false: the file was cut off, or is not from `snapshot save`",
        )
    }

    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_at(offset, bytes).map_err(|error| self.refuse(offset, &error.to_string()))?;
        if read < bytes.len() {
            return Err(self.refuse(offset + read as u64, "the file ends too early: it was cut off"));
        }
        Ok(())
    }

    fn hash_of_body(&self) -> Result<[u8; HASH_BYTES as usize], Error> {
        let (mut sha, mut offset) = (Sha256::new(), 0);
        let mut bytes = vec![0; HASHED_AT_ONCE];
        while offset < self.body_end {
            let left = usize::try_from(self.body_end - offset).unwrap_or(usize::MAX);
            let bytes = &mut bytes[..left.min(HASHED_AT_ONCE)];
            self.read(offset, bytes)?;
            sha.update(&*bytes);
            offset += bytes.len() as u64;
        }
        Ok(sha.finalize().into())
    }

    /// Compares the hash at the end with what was found, if that is asked for.
    pub fn check_hash(&self, found: [u8; HASH_BYTES as usize]) -> Result<(), Error> {
        if !self.has_hash() || self.hash == HashCheck::Skipped {
            return Ok(());
        }
        let mut expected = [0; HASH_BYTES as usize];
        self.read(self.body_end, &mut expected)?;
        if expected == found {
            return Ok(());
        }
        Err(self.refuse(self.body_end, &format!("expected sha256 {expected:?}, got {found:?}")))
    }
}

/// A file whose form is known.
pub(crate) enum Opened {
    Blocks(Box<BlockFile>),
    Database(Box<Scan>),
}

impl Opened {
    pub(crate) fn open(disk: &dyn Disk, path: &Path, hash: HashCheck) -> Result<Self, Error> {
        let cannot = |error: io::Error| Error::Fatal(format!("{}: cannot read the snapshot: {error}", path.display()));
        let file = disk.open_read(path).map_err(cannot)?;
        let length = file.len().map_err(cannot)?;
        let body_end = if length % SECTOR_BYTES == HASH_BYTES { length - HASH_BYTES } else { length };
        let place = Place { path: path.to_owned(), file, length, body_end, hash };
        let mut head = vec![0; (BOLT_MAGIC_OFFSET + BOLT_MAGIC.len()).min(body_end as usize)];
        place.read(0, &mut head)?;
        if head.get(BOLT_MAGIC_OFFSET..) == Some(&BOLT_MAGIC) {
            return Scan::new(place).map(Box::new).map(Self::Database);
        }
        if head.starts_with(SNAPSHOT_MAGIC) {
            return BlockFile::open(place).map(Box::new).map(Self::Blocks);
        }
        if place.has_hash() {
            // As it seems, it was one: say that it is damaged, in etcd's words.
            place.check_hash(place.hash_of_body()?)?;
        }
        Err(place.refuse(0, "this is not a snapshot that `quorate snapshot save` or `etcdctl snapshot save` made"))
    }

    /// Reads on, before anything of it is used. Whether there is more to read.
    pub(crate) fn scan_some(&mut self) -> Result<bool, Error> {
        match self {
            // Its blocks are checked one by one.
            Self::Blocks(_) => Ok(false),
            Self::Database(scan) => scan.some(),
        }
    }

    /// Bytes that were read, and bytes that there are to read.
    pub(crate) fn progress(&self) -> (u64, u64) {
        match self {
            Self::Blocks(file) => file.progress(),
            Self::Database(scan) => scan.progress(),
        }
    }

    /// When all is scanned.
    pub(crate) fn checked(self) -> Result<SnapshotFile, Error> {
        match self {
            Self::Blocks(file) => Ok(SnapshotFile::Blocks(file)),
            Self::Database(scan) => scan.finish().map(Box::new).map(SnapshotFile::Database),
        }
    }
}

/// A file from which records are read.
pub(crate) enum SnapshotFile {
    Blocks(Box<BlockFile>),
    Database(Box<DatabaseFile>),
}

impl SnapshotFile {
    /// The next records; none when all were returned.
    pub(crate) fn next_records(&mut self) -> Result<Vec<Record>, Error> {
        match self {
            Self::Blocks(file) => file.next_records(),
            Self::Database(file) => file.next_records(),
        }
    }

    /// Installs what [`SnapshotFile::next_records`] returned.
    pub(crate) fn install(&self, records: Vec<Record>, installer: &mut Installer) -> Result<(), Error> {
        let installed = records.into_iter().try_for_each(|record| match self {
            Self::Blocks(_) => installer.push(record),
            // etcd's buckets do not tell what a change replaced.
            Self::Database(_) => installer.push_foreign(record),
        });
        let (at, place) = match self {
            Self::Blocks(file) => file.place(),
            Self::Database(file) => file.place(),
        };
        installed.map_err(|error| place.refuse(at, &storage_error(error).to_string()))
    }

    /// Bytes that were read, and bytes that there are to read.
    pub(crate) fn progress(&self) -> (u64, u64) {
        match self {
            Self::Blocks(file) => file.progress(),
            Self::Database(file) => file.progress(),
        }
    }

    /// Everything but the records, when all of these were read.
    pub(crate) fn finish(self) -> Result<SnapshotMeta, Error> {
        match self {
            Self::Blocks(file) => file.finish().map(|(meta, _)| meta),
            Self::Database(file) => file.finish(),
        }
    }
}
