//! Content of stored rows: what each kind of row looks like, byte by byte, and its checksum.
//!
//! Every row is `crc u32 LE | content`, the CRC-32C over the row's whole engine key and the content: a row that was
//! written for one place is never taken for another.
//!
//! - format (one per engine): `version u32`
//! - state (one per group): see [`GroupState`]
//! - record: `last u8 | record`, the record as [`quorate_core::codec`] has it; `last` is 1 on the last record of its
//!   revision, so that a hole in the history is seen
//! - index: versions, oldest first, each `kind u8 | main i64 | sub u32 | create i64 | version i64 | lease i64`
//! - system: see [`crate::system`]

use crate::codec::{Decoder, Encoder};
use crate::index::{History, Kind, Version};
use crate::waiting::Row;
use crate::{Applied, Result, StorageError};
use bytes::Bytes;
use quorate_core::{Record, Rev, Revision, codec};
use quorate_sabotage::sabotage;

/// Version of the rows described here.
pub(crate) const FORMAT_VERSION: u32 = 1;

const KIND_DELETE: u8 = 0;
const KIND_PUT: u8 = 1;

/// A version in a row of the index.
const VERSION_BYTES: usize = 37;

/// The row `checksum | content` for the place `key`.
pub(crate) fn seal(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(4 + content.len());
    row.extend_from_slice(&checksum(key, content).to_le_bytes());
    row.extend_from_slice(content);
    row
}

/// The content of a row, if its checksum holds.
pub(crate) fn open<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8]> {
    let Some((crc, content)) = row.split_first_chunk::<4>() else {
        return Err(corrupt(key, "the row is shorter than its checksum"));
    };
    if u32::from_le_bytes(*crc) != checksum(key, content) && !sabotage!(RowChecksumIgnored) {
        return Err(corrupt(key, "the checksum does not match"));
    }
    Ok(content)
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), content)
}

/// The error for a row that is not what was written.
pub(crate) fn corrupt(key: &[u8], what: &str) -> StorageError {
    let place = format!("storage row {}", key.escape_ascii());
    StorageError::Corrupt { place, what: what.to_owned() }
}

/// Content of a record's row.
pub(crate) fn encode_record(record: &Record, last: bool) -> Vec<u8> {
    let mut row = Vec::with_capacity(64 + record.payload_bytes());
    row.push(last.into());
    codec::encode_record(record, &mut row);
    row
}

/// A record, and whether it is the last one of its revision. Key and value share the buffer of the row.
pub(crate) fn decode_record(key: &[u8], rev: Rev, row: &Bytes) -> Result<(Record, bool)> {
    let content = open(key, row)?;
    let bad = |what: &str| corrupt(key, &format!("the record cannot be decoded: {what}"));
    let (last, encoded) = content.split_first().ok_or_else(|| bad("it is empty"))?;
    let record = codec::decode_record(row.slice_ref(encoded)).map_err(|error| bad(&error.to_string()))?;
    if record.rev != rev {
        return Err(bad("it is that of another revision"));
    }
    Ok((record, *last != 0))
}

/// Content of a key's row in the index checkpoint.
pub(crate) fn encode_history(versions: &[Version]) -> Vec<u8> {
    let mut row = Encoder(Vec::with_capacity(versions.len() * VERSION_BYTES));
    for version in versions {
        row.u8(match version.kind {
            Kind::Put => KIND_PUT,
            Kind::Delete => KIND_DELETE,
        });
        row.i64(version.main);
        row.u32(version.sub);
        row.i64(version.create);
        row.i64(version.version);
        row.i64(version.lease);
    }
    row.0
}

/// A key's history from the index checkpoint.
pub(crate) fn decode_history(key: &[u8], row: &[u8]) -> Result<History> {
    let content = open(key, row)?;
    let bad = || corrupt(key, "the history cannot be decoded");
    if content.len() == VERSION_BYTES {
        return Ok(History::One(parse_version(content).ok_or_else(bad)?, Row::Clean));
    }
    let mut versions = Vec::with_capacity(content.len() / VERSION_BYTES);
    let mut rest = content;
    while let Some((version, tail)) = rest.split_at_checked(VERSION_BYTES) {
        versions.push(parse_version(version).ok_or_else(bad)?);
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    if !rest.is_empty() || !versions.is_sorted_by(|a: &Version, b: &Version| a.rev() < b.rev()) {
        return Err(bad());
    }
    History::from_versions(versions).ok_or_else(bad)
}

fn parse_version(bytes: &[u8]) -> Option<Version> {
    let mut row = Decoder::new(bytes);
    let kind = match row.u8()? {
        KIND_PUT => Kind::Put,
        KIND_DELETE => Kind::Delete,
        _ => return None,
    };
    let (main, sub, create, version, lease) = (row.i64()?, row.u32()?, row.i64()?, row.i64()?, row.i64()?);
    row.end()?;
    Some(Version { main, create, version, lease, sub, kind })
}

/// Tells whether a set of rows is complete, without an order: how many, and the wrapping sum of their digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub rows: u64,
    pub digest: u64,
}

impl Census {
    pub fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(Self::digest(row));
    }

    pub fn remove(&mut self, row: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(Self::digest(row));
    }

    fn digest(row: &[u8]) -> u64 {
        // Spread, so that two rows that changed places in the sum are unlikely to cancel out.
        u64::from(crc32c::crc32c(row)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// How far the walk of a compaction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompactionState {
    /// Everything older is gone from the engine.
    pub done: Revision,
    /// Where the walk in progress goes; equal to `done` if there is none.
    pub target: Revision,
    /// The next record that the walk looks at.
    pub next: Rev,
}

/// The state row: what a group's rows in the engine stand for. Written with every batch of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// The generation in force.
    pub generation: u32,
    /// Generations from here on were never used.
    pub generation_next: u32,
    /// The log entry whose outcome the rows are.
    pub applied: Applied,
    pub revision: Revision,
    pub compacted: Revision,
    pub compaction: CompactionState,
    /// The index rows are at least as new as this revision. Records above it are all there, without a hole.
    pub checkpoint: Revision,
    /// Over the keys of the index rows.
    pub index: Census,
    /// Over keys and contents of the system rows.
    pub system: Census,
    /// What the owner keeps here: the Raft membership.
    pub membership: Bytes,
}

impl GroupState {
    /// Of a group that nothing was written to yet.
    pub fn new() -> Self {
        Self {
            generation: 1,
            generation_next: 2,
            revision: Revision::INITIAL,
            checkpoint: Revision::INITIAL,
            ..Self::default()
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut row = Encoder::default();
        row.u32(self.generation);
        row.u32(self.generation_next);
        row.u64(self.applied.term);
        row.u64(self.applied.index);
        row.i64(self.revision.get());
        row.i64(self.compacted.get());
        row.i64(self.compaction.done.get());
        row.i64(self.compaction.target.get());
        row.i64(self.compaction.next.main.get());
        row.u32(self.compaction.next.sub);
        row.i64(self.checkpoint.get());
        for census in [self.index, self.system] {
            row.u64(census.rows);
            row.u64(census.digest);
        }
        row.bytes(&self.membership);
        row.0
    }

    pub fn decode(key: &[u8], row: &[u8]) -> Result<Self> {
        Self::parse(open(key, row)?).ok_or_else(|| corrupt(key, "the state cannot be decoded"))
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let mut row = Decoder::new(content);
        let state = Self {
            generation: row.u32()?,
            generation_next: row.u32()?,
            applied: Applied { term: row.u64()?, index: row.u64()? },
            revision: Revision::new(row.i64()?),
            compacted: Revision::new(row.i64()?),
            compaction: CompactionState {
                done: Revision::new(row.i64()?),
                target: Revision::new(row.i64()?),
                next: Rev::new(Revision::new(row.i64()?), row.u32()?),
            },
            checkpoint: Revision::new(row.i64()?),
            index: Census { rows: row.u64()?, digest: row.u64()? },
            system: Census { rows: row.u64()?, digest: row.u64()? },
            membership: row.bytes()?,
        };
        row.end()?;
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Change, LeaseId};
    use std::fmt::Write;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes it");
            text
        })
    }

    fn record() -> Record {
        Record {
            rev: Rev::new(Revision::new(300), 1),
            key: "k".into(),
            change: Change::Put {
                create_revision: Revision::new(2),
                version: 3,
                lease: LeaseId::new(7),
                value: "v".into(),
            },
            replaces: Some(Rev::new(Revision::new(5), 0)),
        }
    }

    fn state() -> GroupState {
        GroupState {
            generation: 1,
            generation_next: 2,
            applied: Applied { term: 3, index: 4 },
            revision: Revision::new(5),
            compacted: Revision::new(6),
            compaction: CompactionState {
                done: Revision::new(7),
                target: Revision::new(8),
                next: Rev::new(Revision::new(9), 10),
            },
            checkpoint: Revision::new(11),
            index: Census { rows: 12, digest: 13 },
            system: Census { rows: 14, digest: 15 },
            membership: "m".into(),
        }
    }

    /// What was written must be read for ever: a change of these bytes needs a new [`FORMAT_VERSION`].
    #[test]
    fn rows_have_these_bytes() {
        assert_eq!(hex(&seal(b"key", b"content")), "d4455d8d636f6e74656e74");
        assert_eq!(hex(&encode_record(&record(), true)), "0102ac02010500016b0203070176");
        assert_eq!(
            hex(&encode_history(&[Version::of(&record())])),
            "012c0100000000000001000000020000000000000003000000000000000700000000000000"
        );
        assert_eq!(
            hex(&state().encode()),
            "010000000200000003000000000000000400000000000000050000000000000006000000000000000700000000000000080000000000000009000000000000000a0000000b000000000000000c000000000000000d000000000000000e000000000000000f00000000000000010000006d"
        );
        let mut census = Census::default();
        census.add(b"key");
        assert_eq!(census, Census { rows: 1, digest: 0xb1203f9e7a2aea06 });
    }

    #[test]
    fn rows_read_back_and_a_flip_anywhere_is_found() {
        let row = seal(b"key", &state().encode());
        assert_eq!(GroupState::decode(b"key", &row).expect("it decodes"), state());
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(GroupState::decode(b"key", &flipped).is_err());
        }
        let row = Bytes::from(seal(b"key", &encode_record(&record(), true)));
        assert_eq!(decode_record(b"key", record().rev, &row).expect("it decodes"), (record(), true));
        assert!(decode_record(b"another", record().rev, &row).is_err());
        assert!(decode_record(b"key", Rev::default(), &row).is_err());
    }
}
