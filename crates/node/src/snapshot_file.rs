//! Reads a snapshot file from front to back, and believes nothing of it before it is checked. Every refusal names the file and
//! the offset. Format: see [`crate::snapshot`] and `docs/STORAGE-FORMAT.md`.
//!
//! Memory is that of one block, which [`BLOCK_BYTES_MAX`] bounds.

use crate::Error;
use crate::snapshot::{PADDING, SNAPSHOT_MAGIC, decode_record};
use bytes::{Buf, Bytes};
use quorate_core::{Record, Revision};
use quorate_storage::SnapshotMeta;
use quorate_wal::{Disk, DiskFile};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of the hash at the end.
const HASH_BYTES: u64 = 32;

/// Larger than any block that is written: the header has all leases in it, and a block of records is closed by the record that
/// fills it.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// Bytes that are read at once where nothing is decoded.
const CHUNK_BYTES: u64 = 1 << 16;

/// Where etcd's own snapshots have the number that tells a bbolt file, and the number as it is in the file.
const BBOLT_MAGIC_OFFSET: usize = 16;
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// What a snapshot file says of itself, once all of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC-32C of everything but the SHA-256 at the end.
    pub hash: u32,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Records and rows of the small tables. Like etcd's, it counts every version of a key that is kept.
    pub total_keys: u64,
    /// Bytes without the SHA-256 at the end.
    pub total_bytes: u64,
}

/// Checks a whole snapshot file, and says what is in it. `progress` is told how many bytes are done, and how many there are.
/// Blocks on the disk.
///
/// # Errors
/// [`Error::Fatal`] with file, offset and what is wrong there; with what to do, if it is a snapshot of etcd.
pub fn snapshot_status(
    disk: &dyn Disk,
    path: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<SnapshotStatus, Error> {
    let mut file = SnapshotFile::open(disk, path, true)?;
    let meta = file.meta().clone();
    let mut records = 0;
    loop {
        let block = file.next_records()?;
        if block.is_empty() {
            break;
        }
        records += block.len() as u64;
        let (done, total) = file.progress();
        progress(done, total);
    }
    file.check_count(records)?;
    let (_, total) = file.progress();
    let (hash, total_bytes) = file.finish()?;
    progress(total, total);
    Ok(SnapshotStatus {
        hash,
        revision: meta.revision,
        compacted: meta.compacted,
        total_keys: meta.records + meta.table_rows(),
        total_bytes,
    })
}

/// A snapshot file that is being read.
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    length: u64,
    /// Where the hash at the end begins, or the file ends if it has none.
    body_end: u64,
    has_hash: bool,
    check_hash: bool,
    offset: u64,
    sha: Sha256,
    crc: u32,
    meta: SnapshotMeta,
}

impl SnapshotFile {
    /// Opens the file and reads its header. Without `check_hash` the SHA-256 at the end may be absent or wrong.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, check_hash: bool) -> Result<Self, Error> {
        let cannot = |error: io::Error| Error::Fatal(format!("{}: cannot read the snapshot: {error}", path.display()));
        let file = disk.open_read(path).map_err(cannot)?;
        let length = file.len().map_err(cannot)?;
        // As etcd's tools tell: all else comes in sectors.
        let has_hash = length % PADDING as u64 == HASH_BYTES;
        let body_end = if has_hash { length - HASH_BYTES } else { length };
        let mut reader = Self {
            path: path.to_owned(),
            file,
            length,
            body_end,
            has_hash,
            check_hash,
            offset: 0,
            sha: Sha256::new(),
            crc: 0,
            meta: SnapshotMeta::default(),
        };
        reader.read_magic()?;
        if !has_hash && check_hash {
            return Err(reader.refuse(
                length,
                "snapshot missing hash but --skip-hash-check=false: the file was cut off, or is not from `snapshot save`",
            ));
        }
        let at = reader.offset;
        let header = reader.read_block()?;
        reader.meta = SnapshotMeta::decode(&header).map_err(|error| reader.refuse(at, &error.to_string()))?;
        Ok(reader)
    }

    /// The header.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Bytes that were read, and bytes that the file has.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.offset, self.length)
    }

    /// The next records; none when all were returned.
    pub(crate) fn next_records(&mut self) -> Result<Vec<Record>, Error> {
        let at = self.offset;
        let mut block = self.read_block()?;
        let mut records = Vec::new();
        while !block.is_empty() {
            let cut = || self.refuse(at, "a record is cut off");
            let length = block.try_get_u32_le().map_err(|_| cut())? as usize;
            if length > block.len() {
                return Err(cut());
            }
            let record = decode_record(block.split_to(length)).map_err(|error| self.refuse(at, &error.to_string()))?;
            records.push(record);
        }
        Ok(records)
    }

    /// Refuses a file that does not have the records that its header says.
    pub(crate) fn check_count(&self, records: u64) -> Result<(), Error> {
        if records == self.meta.records {
            return Ok(());
        }
        Err(self
            .refuse(self.offset, &format!("the snapshot has {records} records, its header says {}", self.meta.records)))
    }

    /// Checks what comes after the records: the padding and the hash. Returns the CRC-32C and the length of all but the hash.
    pub(crate) fn finish(mut self) -> Result<(u32, u64), Error> {
        let padding_end = self.offset.next_multiple_of(PADDING as u64);
        while self.offset < self.body_end {
            let at = self.offset;
            let bytes = self.read(CHUNK_BYTES.min(self.body_end - at))?;
            if let Some(stray) = bytes.iter().position(|byte| *byte != 0) {
                return Err(self.refuse(at + stray as u64, "there is something behind the end"));
            }
        }
        if self.check_hash && padding_end != self.body_end {
            return Err(self.refuse(self.body_end, &format!("the padding should end at {padding_end}")));
        }
        if self.check_hash && self.has_hash {
            let (at, found) = (self.offset, self.sha.clone().finalize());
            let mut expected = [0; HASH_BYTES as usize];
            self.read_into(&mut expected)?;
            if expected != *found {
                return Err(
                    self.refuse(at, &format!("expected sha256 {expected:?}, got {:?}", <[u8; 32]>::from(found)))
                );
            }
        }
        Ok((self.crc, self.body_end))
    }

    fn read_magic(&mut self) -> Result<(), Error> {
        let head = self.read((BBOLT_MAGIC_OFFSET as u64 + 4).min(self.body_end))?;
        if head.get(BBOLT_MAGIC_OFFSET..) == Some(&BBOLT_MAGIC) {
            return Err(self.refuse(
                0,
                "this is a snapshot of etcd, which Quorate cannot read: start etcd on it (`etcdutl snapshot restore`, then \
                 `etcd`), start a Quorate cluster, and copy the keys from the one to the other with `etcdctl make-mirror`",
            ));
        }
        if !head.starts_with(SNAPSHOT_MAGIC) {
            return Err(
                self.refuse(0, "this is not a snapshot that `quorate snapshot save` or `etcdctl snapshot save` made")
            );
        }
        // The rest of what was looked at belongs to the header.
        self.offset = 0;
        (self.sha, self.crc) = (Sha256::new(), 0);
        self.read(SNAPSHOT_MAGIC.len() as u64).map(drop)
    }

    /// A block whose checksum holds.
    fn read_block(&mut self) -> Result<Bytes, Error> {
        let at = self.offset;
        let mut head = self.read(8)?;
        let (length, crc) = (u64::from(head.get_u32_le()), head.get_u32_le());
        if length > BLOCK_BYTES_MAX.min(self.body_end - self.offset) {
            return Err(
                self.refuse(at, &format!("a block of {length} bytes does not fit into the file: it was cut off"))
            );
        }
        let body = self.read(length)?;
        if crc32c::crc32c(&body) != crc {
            return Err(self.refuse(at, "the checksum of the block does not match"));
        }
        Ok(body)
    }

    fn read(&mut self, length: u64) -> Result<Bytes, Error> {
        if length > self.body_end - self.offset {
            return Err(self.refuse(self.length, "the file ends too early: it was cut off"));
        }
        let mut bytes = vec![0; length as usize];
        self.read_into(&mut bytes)?;
        self.sha.update(&bytes);
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes.into())
    }

    fn read_into(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let read =
            self.file.read_at(self.offset, bytes).map_err(|error| self.refuse(self.offset, &error.to_string()))?;
        if read < bytes.len() {
            return Err(self.refuse(self.offset + read as u64, "the file ends too early: it was cut off"));
        }
        self.offset += read as u64;
        Ok(())
    }

    pub(crate) fn refuse(&self, offset: u64, what: &str) -> Error {
        Error::Fatal(format!("{}: at offset {offset}: {what}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotReader;
    use expect_test::expect;
    use quorate_core::{Change, Delta, GroupId, Lease, LeaseId, Rev, SystemChange};
    use quorate_storage::{Applied, EngineConfig, EngineKind, Store, StoreConfig, open_engine};
    use quorate_wal::OsDisk;
    use std::fmt::Write as _;

    fn store() -> Store {
        let engine = open_engine(EngineKind::Memory, Path::new(""), EngineConfig::default()).unwrap();
        Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).unwrap()
    }

    fn put(main: i64, key: &'static str, value: &'static str) -> Record {
        let rev = Rev::new(Revision::new(main), 0);
        let value = Bytes::from_static(value.as_bytes());
        let change = Change::Put { create_revision: rev.main, version: 1, lease: LeaseId::new(7), value };
        Record { rev, key: Bytes::from_static(key.as_bytes()), change, replaces: None }
    }

    /// What the server sends of a store with two keys and a lease.
    async fn file() -> Vec<u8> {
        let store = store();
        let lease = Lease { id: LeaseId::new(7), ttl_seconds: 60, remaining_ttl_seconds: 0 };
        for (index, record) in [put(2, "a", "one"), put(3, "b", "two")].into_iter().enumerate() {
            let system = if index == 0 { vec![SystemChange::LeaseSet(lease)] } else { vec![] };
            let mut writer = store.writer();
            let applied = Applied { term: 5, index: index as u64 + 1 };
            writer.commit(Delta { records: vec![record], system, ..Delta::default() }, applied);
            writer.publish();
        }
        let mut reader = SnapshotReader::new(store.export(), 0);
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }

    fn status_of(bytes: &[u8]) -> Result<SnapshotStatus, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, bytes).unwrap();
        snapshot_status(&OsDisk, &path, |_, _| ())
            .map_err(|error| error.to_string().rsplit_once("/s: ").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn the_file_has_these_bytes() {
        let bytes = file().await;
        let mut text = String::new();
        for (at, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
            write!(text, "{:04x} ", at * 16).unwrap();
            line.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
            text.push('\n');
        }
        expect![[r#"
            0000  51 52 54 53 4e 41 50 31 51 00 00 00 87 77 1e ee
            0010  a0 86 71 22 01 00 00 00 05 00 00 00 00 00 00 00
            0020  02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
            0030  00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00
            0040  00 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00
            0050  01 00 00 00 00 00 00 00 07 04 00 00 00 01 07 3c
            0060  00 20 00 00 00 4b ec f2 a4 0c 00 00 00 01 02 00
            0070  01 61 02 01 07 03 6f 6e 65 0c 00 00 00 01 03 00
            0080  01 62 03 01 07 03 74 77 6f 00 00 00 00 00 00 00
            0200  56 e7 4b ae 24 70 de 8c 81 8e a6 2a 16 19 07 3b
            0210  d9 4e 6d 65 10 9c 3b c6 6f 3e 57 9c 21 c6 de 03
        "#]]
        .assert_eq(&text);
        let status = status_of(&bytes).unwrap();
        assert_eq!((status.revision.get(), status.total_keys, status.total_bytes), (3, 3, 512));
    }

    #[tokio::test]
    async fn a_change_anywhere_is_refused_with_its_place() {
        let bytes = file().await;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let error = status_of(&changed).unwrap_err();
            assert!(error.starts_with("at offset "), "byte {at}: {error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_cut_off_or_has_more_is_refused() {
        let bytes = file().await;
        for length in 0..bytes.len() {
            assert!(status_of(&bytes[..length]).is_err(), "{length} bytes");
        }
        for more in [1, 480, 512] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + more, 0);
            assert!(status_of(&longer).is_err(), "{more} bytes more");
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_said_in_words() {
        let bytes = file().await;
        let refused = |bytes: &[u8]| status_of(bytes).unwrap_err();
        let changed = |at: usize| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            changed
        };
        expect!["at offset 480: snapshot missing hash but --skip-hash-check=false: the file was cut off, or is not from `snapshot save`"]
            .assert_eq(&refused(&bytes[..480]));
        expect!["at offset 0: this is not a snapshot that `quorate snapshot save` or `etcdctl snapshot save` made"]
            .assert_eq(&refused(&changed(0)));
        expect!["at offset 8: the checksum of the block does not match"].assert_eq(&refused(&changed(20)));
        expect!["at offset 500: there is something behind the end"].assert_eq(&refused(&changed(500)));
        let mut etcd = vec![0; 512 + 32];
        etcd[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
        assert!(refused(&etcd).contains("this is a snapshot of etcd"));
    }
}
