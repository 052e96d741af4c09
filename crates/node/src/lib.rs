//! The embeddable node: `Node::start(config, env)`, then typed reads, writes, watches and leases, with or without network
//! listeners. Knows Raft, storage and peers; does not know gRPC services, HTTP or command lines.

mod config;
mod error;
mod node;
mod watch_api;

pub use config::*;
pub use error::*;
pub use node::*;
pub use quorate_core as core;
pub use watch_api::*;
