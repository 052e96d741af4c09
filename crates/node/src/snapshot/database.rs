//! Reads a bbolt database: one that Quorate wrote, or one of etcd.
//!
//! Beside etcd's buckets ours has one of its own, with what those cannot say and with checksums of all pages before it, so that
//! damage is refused with its place, whether or not the SHA-256 at the end is looked at. Once an etcd has worked on the file it
//! is one of etcd's: the bucket counts only while nothing was written since.

use super::etcd::{self, Elements, Entry, Imported};
use super::file::{HashCheck, Place, SnapshotStatus};
use super::{REGION_BYTES, RegionSums};
use crate::Error;
use bytes::{Buf, BufMut, Bytes};
use quorate_bolt::{Bucket, Cursor, Database, ReadError, Source};
use quorate_core::{Record, Rev, Revision};
use quorate_storage::SnapshotMeta;
use quorate_wal::DiskFile;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The bucket that etcd does not have. By its name it is the last one.
pub(super) const OWN: &[u8] = b"quorate";

/// [`SnapshotMeta`], as storage encodes it.
const STATE: &[u8] = b"state";
/// `crc u32 LE | bytes that they are over u64 LE | CRC-32C of each region u32 LE`; the first one is over all that follows.
const CHECKSUMS: &[u8] = b"checksums";

/// Bytes that are read at once where nothing is decoded.
const CHUNK_BYTES: u64 = 1 << 18;

/// The bucket [`OWN`] of a file of which `before` bytes are before it.
pub(super) fn own_elements(meta: &SnapshotMeta, before: u64, sums: &RegionSums) -> Elements {
    let mut content = Vec::new();
    content.put_u64_le(before);
    sums.sums.iter().for_each(|sum| content.put_u32_le(*sum));
    let crc = crc32c::crc32c(&content).to_le_bytes();
    [(STATE.to_vec(), meta.encode().to_vec()), (CHECKSUMS.to_vec(), [&crc, content.as_slice()].concat())].into()
}

struct File(Arc<dyn DiskFile>);

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
}

/// The first reading of the file: from front to back, for its hashes.
pub(crate) struct Scan {
    place: Place,
    offset: u64,
    sha: Sha256,
    sums: RegionSums,
}

impl Scan {
    pub(super) fn new(place: Place) -> Result<Self, Error> {
        if !place.has_hash() && place.hash == HashCheck::Required {
            return Err(place.missing_hash());
        }
        Ok(Self { place, offset: 0, sha: Sha256::new(), sums: RegionSums::default() })
    }

    /// The file is read twice.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.offset, self.place.length * 2)
    }

    pub(super) fn some(&mut self) -> Result<bool, Error> {
        let mut bytes = vec![0; CHUNK_BYTES.min(self.place.body_end - self.offset) as usize];
        self.place.read(self.offset, &mut bytes)?;
        self.sha.update(&bytes);
        self.sums.update(&bytes);
        self.offset += bytes.len() as u64;
        Ok(!bytes.is_empty())
    }

    /// Checks the hashes and opens the database.
    pub(super) fn finish(self) -> Result<DatabaseFile, Error> {
        let Self { place, sha, sums, .. } = self;
        let refused = |error| refused(&place, error);
        let database = Database::open(File(place.file.clone())).map_err(refused)?;
        let buckets = database.buckets().map_err(refused)?;
        let own = buckets.iter().find(|bucket| bucket.name() == OWN).filter(|_| database.is_as_written());
        let Some(own) = own else {
            if database.is_as_written() && !buckets.is_empty() {
                return Err(place.refuse(0, "the bucket with the checksums is missing"));
            }
            place.check_hash(sha.finalize().into())?;
            return DatabaseFile::foreign(place, database, buckets);
        };
        if !place.has_hash() && place.hash != HashCheck::Skipped {
            return Err(place.missing_hash());
        }
        let meta = check_own(&place, &database, own, &sums)?;
        place.check_hash(sha.finalize().into())?;
        if place.hash != HashCheck::Skipped && place.body_end != database.size() {
            return Err(place.refuse(database.size(), "there is something behind the end"));
        }
        Ok(DatabaseFile::new(place, database, buckets, Content::Own(Box::new(meta))))
    }
}

fn refused(place: &Place, error: ReadError) -> Error {
    match error {
        ReadError::Damaged { offset, what } => place.refuse(offset, &what),
        ReadError::Io(error) => place.refuse(0, &error.to_string()),
    }
}

/// Compares the file with the checksums in it, and returns the state.
fn check_own(
    place: &Place,
    database: &Database<File>,
    own: &Bucket,
    found: &RegionSums,
) -> Result<SnapshotMeta, Error> {
    let mut rows = BTreeMap::new();
    let mut at = 0;
    let mut cursor = own.cursor();
    while let Some((offset, leaf)) = cursor.next_leaf(database).map_err(|error| refused(place, error))? {
        at = offset;
        rows.extend(leaf);
    }
    let damaged = || place.refuse(at, "the checksums of the file are damaged");
    let mut sums = rows.get(CHECKSUMS).cloned().ok_or_else(damaged)?;
    let crc = sums.try_get_u32_le().map_err(|_| damaged())?;
    if crc32c::crc32c(&sums) != crc {
        return Err(damaged());
    }
    let before = sums.try_get_u64_le().map_err(|_| damaged())?;
    let regions = before.div_ceil(REGION_BYTES as u64);
    if before > place.body_end || sums.len() as u64 != regions * 4 {
        return Err(damaged());
    }
    for region in 0..regions {
        let start = region * REGION_BYTES as u64;
        let found = if start + REGION_BYTES as u64 <= before {
            found.sums.get(region as usize).copied()
        } else {
            // The one in which the checksums begin.
            let mut bytes = vec![0; (before - start) as usize];
            place.read(start, &mut bytes)?;
            Some(crc32c::crc32c(&bytes))
        };
        if found != Some(sums.get_u32_le()) {
            let end = before.min(start + REGION_BYTES as u64);
            return Err(place.refuse(start, &format!("the checksum of the bytes up to {end} does not match")));
        }
    }
    let state = rows.get(STATE).ok_or_else(|| place.refuse(at, "the state is missing"))?;
    SnapshotMeta::decode(state).map_err(|error| place.refuse(at, &error.to_string()))
}

/// A database whose hashes are checked.
pub(crate) struct DatabaseFile {
    place: Place,
    database: Database<File>,
    buckets: Vec<Bucket>,
    content: Content,
    keys: Option<Cursor>,
    /// Of the page that was read last.
    offset: u64,
    records: u64,
    /// The newest revision that was read, and the newest record above the compacted one.
    newest: Revision,
    last: Option<Rev>,
    read_bytes: u64,
}

enum Content {
    Own(Box<SnapshotMeta>),
    Etcd(Box<Imported>),
}

impl DatabaseFile {
    fn new(place: Place, database: Database<File>, buckets: Vec<Bucket>, content: Content) -> Self {
        let keys = buckets.iter().find(|bucket| bucket.name() == etcd::KEY).map(Bucket::cursor);
        Self {
            place,
            database,
            buckets,
            content,
            keys,
            offset: 0,
            records: 0,
            newest: Revision::ZERO,
            last: None,
            read_bytes: 0,
        }
    }

    /// Reads the small buckets of an etcd.
    fn foreign(place: Place, database: Database<File>, buckets: Vec<Bucket>) -> Result<Self, Error> {
        if !buckets.iter().any(|bucket| bucket.name() == etcd::KEY) {
            return Err(place.refuse(0, "this bbolt file is not one of etcd: it has no bucket `key`"));
        }
        let mut imported = Imported::default();
        for bucket in buckets.iter().filter(|bucket| Imported::knows(bucket.name())) {
            let mut cursor = bucket.cursor();
            while let Some((offset, leaf)) = cursor.next_leaf(&database).map_err(|error| refused(&place, error))? {
                for (key, value) in leaf {
                    let taken = imported.take(bucket.name(), &key, &value);
                    taken.map_err(|what| place.refuse(offset, &what))?;
                }
            }
        }
        imported.finish();
        Ok(Self::new(place, database, buckets, Content::Etcd(Box::new(imported))))
    }

    /// Where it was read last.
    pub(super) fn place(&self) -> (u64, &Place) {
        (self.offset, &self.place)
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        let length = self.place.length;
        (length + self.read_bytes.min(length), length * 2)
    }

    pub(super) fn next_records(&mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        // A leaf can be without records: those of an empty bucket, and one with a mark alone.
        while records.is_empty() {
            let Some(keys) = &mut self.keys else { break };
            let leaf = keys.next_leaf(&self.database).map_err(|error| refused(&self.place, error))?;
            let Some((offset, leaf)) = leaf else { break };
            for (key, value) in leaf {
                records.extend(self.take(offset, &key, value)?);
            }
        }
        Ok(records)
    }

    /// What an element of the bucket of all keys is. Above the compacted revision none may be missing.
    fn take(&mut self, offset: u64, key: &[u8], value: Bytes) -> Result<Option<Record>, Error> {
        self.offset = offset;
        self.read_bytes += (key.len() + value.len()) as u64;
        let compacted = match &self.content {
            Content::Own(meta) => meta.compacted,
            Content::Etcd(imported) => imported.compacted(),
        };
        let entry = etcd::entry_of(key, value).map_err(|what| self.place.refuse(offset, &what))?;
        let record = match entry {
            Entry::Mark(revision) => {
                self.newest = revision;
                if revision > compacted {
                    return Err(self.place.refuse(offset, &format!("revision {revision} has no key")));
                }
                return Ok(None);
            }
            Entry::Record(record) => record,
        };
        let rev = record.rev;
        if rev.main > compacted {
            let first = Rev::new(compacted.max(Revision::INITIAL).next(), 0);
            let follows = match self.last {
                None => rev == first,
                Some(last) => rev == Rev::new(last.main, last.sub + 1) || rev == Rev::new(last.main.next(), 0),
            };
            if !follows {
                return Err(self.place.refuse(offset, &format!("a change before revision {rev} is missing")));
            }
            self.last = Some(rev);
        }
        self.newest = rev.main;
        self.records += 1;
        Ok(Some(record))
    }

    /// Everything but the records, all of which were read.
    pub(super) fn finish(self) -> Result<SnapshotMeta, Error> {
        match self.content {
            Content::Own(meta) if meta.records == self.records => Ok(*meta),
            Content::Own(meta) => {
                let what = format!("the snapshot has {} records, its state says {}", self.records, meta.records);
                Err(self.place.refuse(self.offset, &what))
            }
            Content::Etcd(imported) => {
                let compacted = imported.compacted();
                let revision = self.newest.max(compacted).max(Revision::INITIAL);
                let compacting = imported.scheduled > imported.finished;
                Ok(SnapshotMeta::foreign(revision, compacted, compacting, self.records, &imported.changes))
            }
        }
    }

    /// Reads all of it.
    pub(super) fn status(mut self, mut progress: impl FnMut(u64, u64)) -> Result<SnapshotStatus, Error> {
        let (mut hash, mut total_keys, mut version) = (0, 0, String::new());
        for bucket in std::mem::take(&mut self.buckets) {
            let name = bucket.name();
            hash = crc32c::crc32c_append(hash, name);
            let mut cursor = bucket.cursor();
            while let Some((offset, leaf)) =
                cursor.next_leaf(&self.database).map_err(|error| refused(&self.place, error))?
            {
                for (key, value) in leaf {
                    hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
                    total_keys += 1;
                    if name == etcd::KEY {
                        self.take(offset, &key, value)?;
                    } else if name == etcd::META && key == etcd::STORAGE_VERSION {
                        version = String::from_utf8_lossy(&value).into_owned();
                    }
                }
                let (done, total) = self.progress();
                progress(done, total);
            }
        }
        let (revision, total_bytes) = (self.newest, self.database.size());
        let total = self.place.length * 2;
        let meta = self.finish()?;
        progress(total, total);
        Ok(SnapshotStatus { hash, revision, compacted: meta.compacted, total_keys, total_bytes, version })
    }
}
