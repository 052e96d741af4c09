//! The embeddable node: [`Node::start`], then typed reads, writes, watches and leases, with or without a listener for
//! peers. Knows Raft, storage and peers; does not know gRPC services, HTTP or command lines.
//!
//! # Data paths
//!
//! A write goes [`Node::txn`] -> group -> proposer -> Raft -> write-ahead log -> apply -> reply. A linearizable read asks
//! for a read index, waits until it is applied here, and reads this member's own state. See `docs/ARCHITECTURE.md`.

mod auth;
mod bootstrap;
mod config;
mod corruption;
mod disaster;
pub mod env;
mod error;
mod error_code;
mod group;
mod health;
mod inquiry;
pub mod lease_clock;
mod membership;
mod metrics;
mod node;
mod peer;
mod raft;
mod rebuild;
mod restore;
mod scrub;
mod service;
mod snapshot;
pub mod stages;
mod start;
mod start_stage;
pub mod urls;
mod verify;
mod versions;
pub mod watch;

pub use config::*;
pub use error::*;
pub use health::{MemberHealth, MemberState};
pub use node::*;
pub use quorate_core as core;
pub use quorate_storage::HashKv;
pub use quorate_storage::engine::is_shielded as is_engine_panic;
pub use restore::{Defragmented, Restore, Restored, defragment, restore};
pub use snapshot::{SNAPSHOT_MAGIC, SnapshotReader, SnapshotStatus, snapshot_status};
pub use start_stage::{StartProgress, StartStage};
pub use verify::{DiskFault, Verified, Verify, verify};
pub use versions::{API_VERSION, Downgrade};
pub use watch::{WatchControl, WatchCreate, WatchEvent, WatchMessage, WatchStream};
