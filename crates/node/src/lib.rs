//! The embeddable node: `Node::start(config, env)`, then typed reads, writes, watches and leases, with or without network
//! listeners. Knows Raft, storage and peers; does not know gRPC services, HTTP or command lines.

mod config;
mod error;
pub mod lease_clock;
mod node;
pub mod watch;

pub use config::*;
pub use error::*;
pub use node::*;
pub use quorate_core as core;
pub use watch::{WatchCreate, WatchEvent, WatchMessage};
