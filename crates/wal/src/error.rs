//! What can go wrong, each with the file and what an operator can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the log. Cheap to clone, because one failed write answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// The file system failed. After a failed write or fsync the process must stop: what is on disk is unknown, and an
    /// fsync that is tried again may succeed without having written anything.
    #[error("write-ahead log: cannot {action} {}: {source}; check the disk and the kernel log, then start again", path.display())]
    Io {
        /// What was tried, as a verb: "sync", "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The disk is full (or a quota is).
    #[error("write-ahead log: no space left for {}: free space on this file system", path.display())]
    NoSpace {
        /// The file that could not grow or be created.
        path: PathBuf,
    },
    /// What is on disk is not what was written.
    #[error(
        "write-ahead log: {} is damaged at offset {offset}: {problem}; do not edit it: check the disk, then restore \
         this member from a copy of its data directory, or remove it and add it again as a new member",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Byte offset of the first record (or header) that is wrong.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A segment that the log still needs is not there.
    #[error(
        "write-ahead log: {} is missing; put it back, or restore this member from a copy of its data directory, or \
         remove it and add it again as a new member",
        path.display()
    )]
    Missing {
        /// Where the segment should be.
        path: PathBuf,
    },
    /// A file in the log's directory that the log did not write.
    #[error("write-ahead log: {} is not a segment of this log: move it out of the directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The segment was written by a newer version of the program.
    #[error(
        "write-ahead log: {} has format version {version}, and this program reads up to {supported}: start it with \
         the version that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// The segment.
        path: PathBuf,
        /// Its format version.
        version: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// A body is larger than a record may be.
    #[error("write-ahead log: a record of {bytes} bytes exceeds the limit of {bytes_max}")]
    RecordTooLarge {
        /// Size of the body.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Entries were appended that do not follow the last one: a bug of the caller, nothing was written.
    #[error("write-ahead log: group {group} expects entry {expected} next, not {got}")]
    OutOfOrder {
        /// The group.
        group: u32,
        /// The index that must come next.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// The log was closed.
    #[error("write-ahead log: closed")]
    Closed,
    /// The log stopped at an earlier fatal error. Whether the operation is on disk is unknown.
    #[error("write-ahead log: stopped by an earlier error: {0}")]
    Stopped(Arc<WalError>),
}

impl WalError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> WalError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::NoSpace { path: path.to_owned() },
            _ => WalError::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    /// For a failed fsync, where even "no space" means that written data is lost: never the retryable error.
    pub(crate) fn sync(path: &Path, source: io::Error) -> WalError {
        WalError::Io { action: "sync", path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, problem: impl Into<String>) -> WalError {
        WalError::Corrupt { path: path.to_owned(), offset, problem: problem.into() }
    }
}
