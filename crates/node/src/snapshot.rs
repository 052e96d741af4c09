//! Snapshots as bytes: records on the way to a peer, and the snapshot file that an operator saves. Format of the file:
//!
//! ```text
//! "QRTSNAP1"                                  8 bytes
//! block*   length u32 LE, CRC-32C u32 LE of the body, body
//!          first block: the tables (storage's SnapshotMeta), then blocks of records, last block: empty
//! padding  zeros up to a multiple of 512
//! ```
//!
//! A block of records is a sequence of: length u32 LE, record as `quorate_core::codec::encode_record` makes it. The gRPC front adds the
//! SHA-256 of all of it, as etcd's tools expect.

use crate::Error;
use bytes::{BufMut, Bytes, BytesMut};
use quorate_core::Record;
use quorate_sabotage::rarely;
use quorate_storage::Exporter;

/// First bytes of a snapshot file.
pub const SNAPSHOT_MAGIC: &[u8; 8] = b"QRTSNAP1";

/// Record bytes in one block.
const BLOCK_BYTES: usize = 256 << 10;

/// The file's size is a multiple of this.
pub(crate) const PADDING: usize = 512;

pub(crate) fn encode_record(record: &Record) -> Bytes {
    let mut out = Vec::with_capacity(64 + record.payload_bytes());
    quorate_core::codec::encode_record(record, &mut out);
    out.into()
}

pub(crate) fn decode_record(bytes: Bytes) -> Result<Record, Error> {
    quorate_core::codec::decode_record(bytes)
        .map_err(|e| Error::Fatal(format!("a record of the snapshot does not decode: {e}")))
}

/// Reads a snapshot of the keyspace as a file, in chunks of bounded memory. Keeps compaction from removing what it needs.
pub struct SnapshotReader {
    exporter: Exporter,
    stage: Stage,
    sent_bytes: usize,
    expected_bytes: u64,
}

enum Stage {
    Head,
    Records,
    End,
}

impl SnapshotReader {
    pub(crate) fn new(exporter: Exporter, expected_bytes: u64) -> Self {
        Self { exporter, stage: Stage::Head, sent_bytes: 0, expected_bytes }
    }

    /// Bytes that are still to come: an estimate until the end, and then 0.
    pub fn remaining_bytes(&self) -> u64 {
        match self.stage {
            Stage::Head | Stage::Records => self.expected_bytes.saturating_sub(self.sent_bytes as u64).max(1),
            Stage::End => 0,
        }
    }

    /// The next chunk; `None` at the end. Yields to other tasks between chunks.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the disk fails.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        tokio::task::yield_now().await;
        let mut out = BytesMut::new();
        match self.stage {
            Stage::Head => {
                out.extend_from_slice(SNAPSHOT_MAGIC);
                put_block(&self.exporter.meta().encode(), &mut out);
                self.stage = Stage::Records;
            }
            Stage::Records => {
                let bytes_max = if rarely!(SmallCopyBlock) { 1 } else { BLOCK_BYTES };
                let records = self.exporter.next(bytes_max).map_err(|e| Error::Fatal(e.to_string()))?;
                let mut body = Vec::with_capacity(BLOCK_BYTES);
                for record in &records {
                    let start = body.len();
                    body.put_u32_le(0);
                    quorate_core::codec::encode_record(record, &mut body);
                    let length = (body.len() - start - 4) as u32;
                    body[start..start + 4].copy_from_slice(&length.to_le_bytes());
                }
                put_block(&body, &mut out);
                if records.is_empty() {
                    let rest = (self.sent_bytes + out.len()) % PADDING;
                    out.put_bytes(0, (PADDING - rest) % PADDING);
                    self.stage = Stage::End;
                }
            }
            Stage::End => return Ok(None),
        }
        self.sent_bytes += out.len();
        Ok(Some(out.freeze()))
    }
}

fn put_block(body: &[u8], out: &mut BytesMut) {
    out.put_u32_le(body.len() as u32);
    out.put_u32_le(crc32c::crc32c(body));
    out.extend_from_slice(body);
}
