//! One segmented write-ahead log per node, for all its Raft groups. Knows groups and bytes, not Raft.
//!
//! A group's part of the log ([`GroupLog`]) takes five operations: append entries, save the vote, save the committed
//! position, truncate, purge. They go into one ordered stream for all groups. One [`Writer`] takes whatever waits,
//! writes it with one `pwrite` into space that is already allocated, makes it durable with one `fdatasync`, and then
//! completes everybody who waited, newest first. A [`Preparer`] has the next file ready and recycles freed ones.
//!
//! What it guarantees:
//! - What was completed with `Ok` is there after any kill or power cut, and so is everything queued before it.
//! - After a crash the log is in a state that it was in: operations of all groups in order up to some point, none torn.
//! - An entry can be read as soon as `append` returns. What is read from disk is checked against its checksum.
//! - After a failed write or fsync nothing is completed with `Ok`, and no fsync is tried again.
//! - Memory is bounded: the queue and the cached bodies in bytes, recycled files in number. Beside that, about 100 bytes
//!   per entry that is not purged.
//!
//! A full disk is no failure as long as nothing is lost by it: the writer keeps its batch, acknowledges nothing and
//! tries again (see [`Wal::retry_space`]). Only an fsync that runs out of space is fatal, since it loses what was
//! written.
//!
//! A group that is gone for good is purged to its end: it then holds no segment, and costs its last vote and position
//! per segment.
//!
//! # The format, version 1
//!
//! All numbers are little-endian; offsets and lengths are bytes.
//!
//! **Files.** A segment is called `<sequence>.wal`, a spare `spare-<number>.wal`, both with 16 lower-case hexadecimal
//! digits. Sequences begin at 1 and have no gaps, apart from those that were freed at the old end. The content of a
//! spare has no meaning. Other names that end in `.wal` are refused, names that do not are ignored. A segment is
//! written (header and first batch) and synced under the name of a spare, then renamed, then the directory is synced:
//! so every segment is complete, and every one but the last is sealed.
//!
//! **Segment header**, 64 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic, `QRTEWAL\n` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | CRC-32C of bytes 0 to 11 and 16 to 63 |
//! | 16 | 8 | sequence, as in the name |
//! | 24 | 8 | nonce: differs between all segments that a node ever writes |
//! | 32 | 8 | where the records of the segment before end; 0 in segment 1 |
//! | 40 | 8 | where the first batch of this segment ends |
//! | 48 | 16 | zero |
//!
//! **Record**: a header of 48 bytes, a body, and zeros up to a multiple of 8. The first one follows the segment header,
//! each other one the record before.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of everything from offset 4 to the end of the body |
//! | 4 | 4 | length of the body, at most 64 MiB |
//! | 8 | 8 | the segment's nonce |
//! | 16 | 4 | where the batch of this record begins in the segment: everything before that was durable when it was written |
//! | 20 | 4 | group |
//! | 24 | 1 | kind |
//! | 25 | 7 | zero |
//! | 32 | 8 | term, or 0 |
//! | 40 | 8 | index, or 0 |
//! | 48 | | body |
//!
//! | kind | name | meaning |
//! |---|---|---|
//! | 1 | append | the entry with this term, index and body; one more than the group's last index |
//! | 2 | vote | the body is the group's vote |
//! | 3 | committed | the body is the group's committed position |
//! | 4 | truncate | the group's entries from `index` on are gone |
//! | 5 | purge | the group's entries up to `index`, which has this term, are gone |
//! | 6 | floor | segments with a sequence below `index` are not needed; group is 0 |
//! | 7 | mark | nothing: written when the log is closed, so that all before it is known to be durable; group is 0 |
//!
//! **Batches.** What is written at once and synced at once is a batch. At most one batch is not durable at any time,
//! and it is the last. A batch does not reach over the end of a segment; a segment is longer than its nominal size only
//! if a single record is. The first batch of a segment restates what the older ones said: the floor, and for each group
//! its vote, purged position and committed position. Therefore old segments can go, oldest first, once no entry in them
//! is live: after a durable floor record, by renaming them to spares or removing them. A recycled segment is not erased:
//! its old records have another nonce.
//!
//! **Recovery** reads the segments in order and applies the records.
//! - In a segment that has a successor, the records must end where the successor says.
//! - In the last one they end at the first place where no valid record with the segment's nonce is. That place must not
//!   lie in the first batch, and no valid record further on may have a batch that begins behind that place: both would
//!   mean that something durable is damaged. Otherwise it is a torn tail. It is cut: valid records further on (of the
//!   torn batch) are overwritten with zeros.
//! - The oldest segment must not be newer than the last floor, and none may be missing in between.
//! - Before anything that was read is relied on, the last batch is written once more and synced, and so is the
//!   directory. A batch may be in the page cache only, because the program ended before its fsync, or after one that
//!   failed.
//!
//! Everything else refuses to open, with file, offset, and what to do. The limit of this: damage to the last batch of a
//! log that was *not* closed in good order looks like a torn tail.
//!
//! **Power cuts**: a sector of 512 bytes is taken to be written whole or not at all.

mod check;
mod disk;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
mod format;
mod log;
mod options;
mod prepare;
mod queue;
mod recover;
mod segment;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use check::{CheckVisitor, SealedSegment, WalCheck, WalFault, check};
pub use disk::{Disk, DiskFile, OsDisk, SyncTime};
pub use error::WalError;
pub use format::{FORMAT_VERSION, RECORD_BODY_BYTES_MAX};
pub use log::{GroupLog, Wal};
pub use options::{Clock, FsyncObserver, WalOptions};
pub use prepare::Preparer;
pub use queue::Completion;
pub use shared::{FatalHook, WalMetrics};
pub use state::{LogEntry, LogState};
pub use writer::Writer;
