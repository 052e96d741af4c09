//! One segmented write-ahead log per node, for all its Raft groups. Knows groups and bytes, not Raft.
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

pub use disk::{Disk, DiskFile, OsDisk};
pub use error::WalError;
pub use format::{FORMAT_VERSION, RECORD_BODY_BYTES_MAX};
pub use log::{GroupLog, Wal};
pub use options::{Clock, FsyncObserver, WalOptions};
pub use prepare::Preparer;
pub use queue::Completion;
pub use shared::{FatalHook, WalMetrics};
pub use state::{LogEntry, LogState};
pub use writer::Writer;
