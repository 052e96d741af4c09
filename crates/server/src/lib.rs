//! The gRPC and HTTP front of a node: etcd's v3 API on one port, its flags, its metrics, and the life of the process.
//!
//! What this crate does not know: Raft, storage, revisions. It converts, limits and counts, and asks [`quorate_node::Node`].
//! It guarantees that what a client does costs at most that client: sizes, numbers and times are bounded.

mod access;
mod audit;
mod auth;
mod authority;
mod client;
mod compactor;
mod config;
mod connection;
mod convert;
mod debug;
mod discovery;
mod dns;
mod error;
mod gateway;
mod grpc;
mod http;
mod inherited;
mod inline;
mod leaderless;
mod limits;
mod listen;
mod log;
mod memory;
mod metrics;
mod notify;
pub mod offline;
pub mod panics;
mod pings;
mod rotate;
mod run;
mod service;
mod shared;
mod starting;
mod status;
mod tls;
mod utc;
pub mod version;
mod wire;

pub use access::{Access, Allowed};
pub use audit::{AuditOptions, WhenFull};
pub use compactor::AutoCompaction;
pub use config::flags::command;
pub use config::{
    CertificateSource, DumpFormat, Endpoint, Limits, LogFormat, LogOutput, ServerConfig, TlsConfig, check, dump,
};
pub use discovery::Discovery;
pub use error::StartError;
pub use listen::Serves;
pub use rotate::Rotation;
pub use run::{Server, run};
