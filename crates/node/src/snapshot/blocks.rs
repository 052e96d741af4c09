//! Reads a snapshot file of the form that Quorate wrote before it wrote etcd's: from front to back, each block checked before it is used.
//! Nothing writes it any more.
//!
//! ```text
//! "QRTSNAP1"                                  8 bytes
//! block*   length u32 LE, CRC-32C u32 LE of the body, body
//!          first block: the tables (storage's SnapshotMeta), then blocks of records, last block: empty
//! padding  zeros up to a multiple of 512
//! SHA-256  of all before, 32 bytes
//! ```
//!
//! A block of records is a sequence of: length u32 LE, record as `quorate_core::codec::encode_record` makes it. Memory is that of one
//! block, which [`BLOCK_BYTES_MAX`] bounds.

use super::file::{HashCheck, Place, SECTOR_BYTES, SnapshotStatus};
use super::{decode_record, etcd};
use crate::Error;
use bytes::{Buf, Bytes};
use quorate_core::Record;
use quorate_storage::SnapshotMeta;
use sha2::{Digest, Sha256};

/// First bytes of the file.
pub const SNAPSHOT_MAGIC: &[u8; 8] = b"QRTSNAP1";

/// Larger than any block that was written: the header has all leases in it, and a block of records is closed by the record that
/// fills it.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// Bytes that are read at once where nothing is decoded.
const CHUNK_BYTES: u64 = 1 << 16;

/// A file that is being read.
pub(crate) struct BlockFile {
    place: Place,
    offset: u64,
    records: u64,
    sha: Sha256,
    crc: u32,
    meta: SnapshotMeta,
}

impl BlockFile {
    /// Reads the header.
    pub(super) fn open(place: Place) -> Result<Self, Error> {
        let mut reader =
            Self { place, offset: 0, records: 0, sha: Sha256::new(), crc: 0, meta: SnapshotMeta::default() };
        if !reader.place.has_hash() && reader.place.hash != HashCheck::Skipped {
            return Err(reader.place.missing_hash());
        }
        reader.read(SNAPSHOT_MAGIC.len() as u64)?;
        let at = reader.offset;
        let header = reader.read_block()?;
        reader.meta = SnapshotMeta::decode(&header).map_err(|error| reader.place.refuse(at, &error.to_string()))?;
        Ok(reader)
    }

    /// Where it was read last.
    pub(super) fn place(&self) -> (u64, &Place) {
        (self.offset, &self.place)
    }

    /// Bytes that were read, and bytes that the file has.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.offset, self.place.length)
    }

    /// Reads all of it.
    pub(super) fn status(mut self, mut progress: impl FnMut(u64, u64)) -> Result<SnapshotStatus, Error> {
        while !self.next_records()?.is_empty() {
            let (done, total) = self.progress();
            progress(done, total);
        }
        let total = self.place.length;
        let total_bytes = self.place.body_end;
        let (meta, hash) = self.finish()?;
        progress(total, total);
        Ok(SnapshotStatus {
            hash,
            revision: meta.revision,
            compacted: meta.compacted,
            total_keys: meta.records + meta.table_rows(),
            total_bytes,
            version: etcd::storage_version(),
        })
    }

    /// The next records; none when all were returned.
    pub(super) fn next_records(&mut self) -> Result<Vec<Record>, Error> {
        let at = self.offset;
        let mut block = self.read_block()?;
        let mut records = Vec::new();
        while !block.is_empty() {
            let cut = || self.place.refuse(at, "a record is cut off");
            let length = block.try_get_u32_le().map_err(|_| cut())? as usize;
            if length > block.len() {
                return Err(cut());
            }
            let record =
                decode_record(block.split_to(length)).map_err(|error| self.place.refuse(at, &error.to_string()))?;
            records.push(record);
        }
        self.records += records.len() as u64;
        Ok(records)
    }

    /// Checks what comes after the records: their number, the padding and the hash. Returns the header, and the CRC-32C of all
    /// but the hash.
    pub(super) fn finish(mut self) -> Result<(SnapshotMeta, u32), Error> {
        if self.records != self.meta.records {
            let what = format!("the snapshot has {} records, its header says {}", self.records, self.meta.records);
            return Err(self.place.refuse(self.offset, &what));
        }
        let body_end = self.place.body_end;
        let padding_end = self.offset.next_multiple_of(SECTOR_BYTES);
        while self.offset < body_end {
            let at = self.offset;
            let bytes = self.read(CHUNK_BYTES.min(body_end - at))?;
            if let Some(stray) = bytes.iter().position(|byte| *byte != 0) {
                return Err(self.place.refuse(at + stray as u64, "there is something behind the end"));
            }
        }
        if self.place.hash != HashCheck::Skipped && padding_end != body_end {
            return Err(self.place.refuse(body_end, &format!("the padding should end at {padding_end}")));
        }
        self.place.check_hash(self.sha.finalize().into())?;
        Ok((self.meta, self.crc))
    }

    /// A block whose checksum holds.
    fn read_block(&mut self) -> Result<Bytes, Error> {
        let at = self.offset;
        let mut head = self.read(8)?;
        let (length, crc) = (u64::from(head.get_u32_le()), head.get_u32_le());
        if length > BLOCK_BYTES_MAX.min(self.place.body_end - self.offset) {
            return Err(self
                .place
                .refuse(at, &format!("a block of {length} bytes does not fit into the file: it was cut off")));
        }
        let body = self.read(length)?;
        if crc32c::crc32c(&body) != crc {
            return Err(self.place.refuse(at, "the checksum of the block does not match"));
        }
        Ok(body)
    }

    fn read(&mut self, length: u64) -> Result<Bytes, Error> {
        if length > self.place.body_end - self.offset {
            return Err(self.place.refuse(self.place.length, "the file ends too early: it was cut off"));
        }
        let mut bytes = vec![0; length as usize];
        self.place.read(self.offset, &mut bytes)?;
        self.offset += length;
        self.sha.update(&bytes);
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes.into())
    }
}
