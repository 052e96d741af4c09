//! Storage of one member: an [`Engine`] that keeps ordered bytes, and per Raft group a [`Store`] over it.
//!
//! Knows keys, revisions and records; knows neither Raft (only the applied position, as two numbers), nor tasks, nor
//! clocks. It starts no threads of its own: the owner calls [`Store::drain`], [`Store::flush`],
//! [`Store::checkpoint_step`], [`Store::compaction_step`] and [`Store::cleanup_step`] from threads that may block.
//!
//! What it guarantees:
//! - The engine always holds the state of some log entry, whole: records, small tables, applied position and membership
//!   go into one atomic batch.
//! - A [`ReadView`] never changes: revisions name immutable records, so a revision is a snapshot.
//! - Everything that is read back is checksummed, and a row that must exist but does not is found: the error is
//!   [`StorageError::Corrupt`], with its place, never wrong data.
#![deny(unsafe_code)]

mod cache;
mod check;
mod checkpoint;
mod codec;
pub mod engine;
mod error;
mod hash;
mod index;
mod keys;
mod maintenance;
mod open;
mod rows;
mod snapshot;
mod store;
mod system;
mod tail;
mod view;
mod waiting;

pub use check::{EngineCheck, RowFault, Scrubbed, Scrubber, check_engine};
pub use engine::{
    Batch, DiskSpace, Engine, EngineConfig, EngineKind, EngineUsage, begin_replacement, finish_replacement,
    open_engine, open_for_check,
};
pub use error::{EngineError, StorageError};
pub use hash::{HashKv, Hasher};
pub use maintenance::{DrainReport, Progress};
pub use snapshot::{Exporter, Installer, NewCluster, SnapshotMeta};
pub use store::{Applied, Metrics, Store, StoreConfig, Writer};
pub use view::ReadView;

/// What most functions of this crate return.
pub type Result<T> = std::result::Result<T, StorageError>;
