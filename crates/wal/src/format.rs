//! The bytes on disk: segment headers and records. Knows layout and checksums, not files. The layout is told byte by
//! byte in the documentation of the crate, and pinned by golden bytes in the tests.

use crate::error::WalError;
use quorate_sabotage::sabotage;
use std::path::Path;

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"QRTEWAL\n";
/// The format version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Size of a segment's header; the first record follows it.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
/// Size of a record's header; the body follows it.
pub(crate) const RECORD_HEADER_BYTES: usize = 48;
/// The largest body of a record: 64 MiB.
pub const RECORD_BODY_BYTES_MAX: u64 = 64 << 20;
/// Records start at multiples of this, which makes the search for a record after a bad one cheap.
pub(crate) const RECORD_ALIGN: usize = 8;

/// Bytes that a record with such a body takes in a segment.
pub(crate) const fn record_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(RECORD_ALIGN)
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Position of the segment in the log, from 1, without gaps.
    pub sequence: u64,
    /// Never used by another segment, not even in the same (recycled) file: it tells this segment's records from stale ones.
    pub nonce: u64,
    /// Where the records of the segment before end; 0 in the first segment.
    pub previous_end: u64,
    /// Where the records end that restate all groups. They were durable before the segment got its name.
    pub restated_end: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.nonce.to_le_bytes());
        out[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        out[40..48].copy_from_slice(&self.restated_end.to_le_bytes());
        let crc = header_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of the segment at `path`; a file shorter than a header is foreign.
    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<SegmentHeader, WalError> {
        if bytes.len() < SEGMENT_HEADER_BYTES as usize {
            return Err(WalError::Foreign { path: path.to_owned() });
        }
        let (magic, version, crc) = (&bytes[0..8], u32_at(bytes, 8), u32_at(bytes, 12));
        if magic != MAGIC || version != FORMAT_VERSION || crc != header_crc(bytes) {
            // A checksum that fits this format's magic and version says that they were written here and then damaged.
            // Otherwise the version decides before the checksum: a newer format may lay out the rest in another way.
            let mut repaired = bytes[..SEGMENT_HEADER_BYTES as usize].to_vec();
            repaired[0..8].copy_from_slice(&MAGIC);
            repaired[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            let ours = crc == header_crc(&repaired);
            return Err(match (ours, magic == MAGIC) {
                (false, false) => WalError::Foreign { path: path.to_owned() },
                (false, true) if version > FORMAT_VERSION => {
                    WalError::NewerFormat { path: path.to_owned(), version, supported: FORMAT_VERSION }
                }
                (true, _) | (false, true) => {
                    WalError::corrupt(path, 0, "the segment header does not match its checksum")
                }
            });
        }
        Ok(SegmentHeader {
            sequence: u64_at(bytes, 16),
            nonce: u64_at(bytes, 24),
            previous_end: u64_at(bytes, 32),
            restated_end: u64_at(bytes, 40),
        })
    }
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[0..12]), &header[16..SEGMENT_HEADER_BYTES as usize])
}

/// What a record does to its group, or to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One entry: term, index, body.
    Append,
    /// The vote is the body.
    Vote,
    /// The committed position is the body.
    Committed,
    /// Entries from `index` on are gone.
    Truncate,
    /// Entries up to `index` (of `term`) are gone.
    Purge,
    /// Segments below the sequence `index` are not needed. Of no group.
    Floor,
    /// Everything before was synced: written when the log is closed. Of no group.
    Mark,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Kind::Append => 1,
            Kind::Vote => 2,
            Kind::Committed => 3,
            Kind::Truncate => 4,
            Kind::Purge => 5,
            Kind::Floor => 6,
            Kind::Mark => 7,
        }
    }

    const fn from_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Append),
            2 => Some(Kind::Vote),
            3 => Some(Kind::Committed),
            4 => Some(Kind::Truncate),
            5 => Some(Kind::Purge),
            6 => Some(Kind::Floor),
            7 => Some(Kind::Mark),
            _ => None,
        }
    }
}

/// A record without its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub group: u32,
    pub kind: Kind,
    pub term: u64,
    pub index: u64,
    pub body: &'a [u8],
}

/// Appends the record, its frame and its padding to `out`. `batch_start` is the offset in the segment at which the
/// batch of this record begins: everything before that offset was durable when the record was written.
pub(crate) fn encode_record(out: &mut Vec<u8>, nonce: u64, batch_start: u32, record: &Record<'_>) {
    let start = out.len();
    let body_bytes = u32::try_from(record.body.len()).expect("bodies are limited to 64 MiB when they are queued");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&body_bytes.to_le_bytes());
    out.extend_from_slice(&nonce.to_le_bytes());
    out.extend_from_slice(&batch_start.to_le_bytes());
    out.extend_from_slice(&record.group.to_le_bytes());
    out.extend_from_slice(&[record.kind.code(), 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&record.term.to_le_bytes());
    out.extend_from_slice(&record.index.to_le_bytes());
    out.extend_from_slice(record.body);
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + record_bytes(record.body.len()), 0);
}

/// The first fields of a record, enough to know how much to read. Nothing in it is checked but what is said here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub body_bytes: usize,
    pub batch_start: u64,
}

/// Looks at the [`RECORD_HEADER_BYTES`] at `offset`. `None` if they cannot be a record of the segment with this nonce:
/// the length is checked before anybody allocates for it.
pub(crate) fn peek_frame(header: &[u8], nonce: u64, offset: u64) -> Option<Frame> {
    let body_bytes = u64::from(u32_at(header, 4));
    let batch_start = u64::from(u32_at(header, 16));
    let plausible = u64_at(header, 8) == nonce
        && body_bytes <= RECORD_BODY_BYTES_MAX
        && (SEGMENT_HEADER_BYTES..=offset).contains(&batch_start);
    plausible.then_some(Frame { body_bytes: body_bytes as usize, batch_start })
}

/// Why bytes with the right nonce are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRecord {
    Checksum,
    /// The checksum holds, so this was written so: by a newer program that failed to raise the format version.
    Kind(u8),
}

/// Reads a whole record (`bytes` may go on behind it), whose frame was peeked at.
pub(crate) fn decode_record<'a>(bytes: &'a [u8], frame: &Frame) -> Result<Record<'a>, BadRecord> {
    let end = RECORD_HEADER_BYTES + frame.body_bytes;
    if u32_at(bytes, 0) != crc32c::crc32c(&bytes[4..end]) && !sabotage!(WalChecksumIgnored) {
        return Err(BadRecord::Checksum);
    }
    let kind = Kind::from_code(bytes[24]).ok_or(BadRecord::Kind(bytes[24]))?;
    Ok(Record {
        group: u32_at(bytes, 20),
        kind,
        term: u64_at(bytes, 32),
        index: u64_at(bytes, 40),
        body: &bytes[RECORD_HEADER_BYTES..end],
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
