//! The state as bytes: records on the way to a peer, and the snapshot file that an operator saves and restores.
//!
//! The file is a bbolt database with etcd's buckets, so that etcd's tools read it, and one more bucket for what those cannot say
//! ([`reader`] writes it, [`database`] reads it, [`etcd`] knows what is in it). Files of a form that was written before are still
//! read ([`blocks`]). Every byte is described in `docs/STORAGE-FORMAT.md`. Between members there is no file: they send records.

mod blocks;
mod database;
mod etcd;
mod file;
mod reader;
#[cfg(test)]
mod tests;

pub use blocks::SNAPSHOT_MAGIC;
pub(crate) use file::{HashCheck, Opened};
pub use file::{SnapshotStatus, snapshot_status};
pub use reader::SnapshotReader;

use crate::Error;
use bytes::Bytes;
use quorate_core::Record;

/// Bytes of the file that one checksum is over.
const REGION_BYTES: usize = 256 << 10;

pub(crate) fn encode_record(record: &Record) -> Bytes {
    let mut out = Vec::with_capacity(64 + record.payload_bytes());
    quorate_core::codec::encode_record(record, &mut out);
    out.into()
}

pub(crate) fn decode_record(bytes: Bytes) -> Result<Record, Error> {
    quorate_core::codec::decode_record(bytes)
        .map_err(|e| Error::Fatal(format!("a record of the snapshot does not decode: {e}")))
}

/// CRC-32C of each region of a file, the last one maybe shorter.
#[derive(Debug, Default)]
struct RegionSums {
    sums: Vec<u32>,
    /// Bytes of the last region.
    filled: usize,
}

impl RegionSums {
    /// As many as there are going to be for so many bytes.
    fn planned(bytes: u64) -> Self {
        Self { sums: vec![0; bytes.div_ceil(REGION_BYTES as u64) as usize], filled: 0 }
    }

    /// Takes the next bytes of the file.
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0 {
                self.sums.push(0);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(REGION_BYTES - self.filled));
            if let Some(sum) = self.sums.last_mut() {
                *sum = crc32c::crc32c_append(*sum, now);
            }
            self.filled = (self.filled + now.len()) % REGION_BYTES;
            bytes = rest;
        }
    }
}
