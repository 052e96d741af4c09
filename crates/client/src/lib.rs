//! Client of Quorate and etcd.

mod auth;
mod client;
mod cluster;
mod endpoints;
mod error;
mod kv;
mod lease;
mod maintenance;
mod options;
pub mod raw;
mod span;
mod transport;
mod txn;
mod watch;

pub use client::Client;
pub use error::Error;
pub use kv::{DeleteOptions, DeleteResponse, GetOptions, GetResponse, PutOptions, PutResponse, SortBy};
pub use lease::{GrantedLease, KeepAlive, LeaseInfo};
pub use maintenance::Snapshot;
pub use options::ConnectOptions;
pub use quorate_proto::etcdserverpb::{AlarmMember, AlarmType, HashKvResponse, Member, StatusResponse};
pub use quorate_proto::mvccpb::KeyValue;
pub use tonic::Code;
pub use txn::{Compare, Is, Op, OpResponse, Txn, TxnResponse};
pub use watch::{Batch, Event, EventKind, Watch, WatchOptions};
