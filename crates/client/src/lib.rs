//! Client of Quorate, and of any server that speaks etcd's v3 API.
//!
//! ```no_run
//! use quorate_client::{Client, ConnectOptions, GetOptions};
//!
//! # async fn example() -> Result<(), quorate_client::Error> {
//! let endpoints = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"];
//! let client = Client::connect(endpoints, ConnectOptions::new()).await?;
//!
//! client.put("config/mode", "fast", None).await?;
//! for kv in client.get("config/", GetOptions::new().prefix()).await?.kvs {
//!     println!("{:?} = {:?}", kv.key, kv.value);
//! }
//!
//! let mut watch = client.watch("config/mode", None).await?;
//! while let Some(batch) = watch.next().await {
//!     println!("{:?}", batch?.events);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What the client takes care of
//!
//! - **Balancing.** Calls take turns over the endpoints. One that fails is left out for a while, which grows with every
//!   further failure, and is then tried again.
//! - **Deadlines.** Every call ends within a time, 5 s by default: [`ConnectOptions::timeout`] for all,
//!   [`Client::with_timeout`] for some.
//! - **Retries that are safe.** Reads are tried at other endpoints until the deadline. A write is tried again only when
//!   it is certain that nobody took it up, since no connection could be opened or the server refused before doing
//!   anything. If a write was sent and its answer is missing, the call ends with [`Error::UnknownOutcome`].
//! - **Watches without gap or duplicate**, also when their server dies: see [`Client::watch`].
//! - **Leases that are kept alive**, and whose loss is told in time: see [`Client::lease_keep_alive`].
//! - **Locks and elections** on sessions that are kept alive: see [`Client::session`].
//! - **Login**, renewed when a token expires: see [`ConnectOptions::user`].
//! - **TLS** for endpoints with `https`, with certificates that may change while the client lives: see
//!   [`ConnectOptions::tls`]. [`ConnectOptions::connector`] takes any other way to make connections.
//!
//! The methods of [`Client`] cover what services need. Every call of the API, with its messages as they are on the wire,
//! is in [`raw`].

mod auth;
mod client;
mod cluster;
mod connector;
mod election;
mod endpoints;
mod error;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod options;
pub mod raw;
mod session;
mod span;
mod tls;
mod transport;
mod txn;
mod watch;

pub use client::Client;
pub use election::{Leadership, Observer};
pub use error::Error;
pub use kv::{DeleteOptions, DeleteResponse, GetOptions, GetResponse, PutOptions, PutResponse, SortBy};
pub use lease::{GrantedLease, KeepAlive, LeaseInfo};
pub use lock::LockGuard;
pub use maintenance::Snapshot;
pub use options::ConnectOptions;
pub use quorate_proto::etcdserverpb::{AlarmMember, AlarmType, HashKvResponse, Member, StatusResponse};
pub use quorate_proto::mvccpb::KeyValue;
pub use quorate_proto::v3electionpb::LeaderResponse;
pub use session::Session;
pub use tls::TlsOptions;
pub use tonic::Code;
pub use txn::{Compare, Is, Op, OpResponse, Txn, TxnResponse};
pub use watch::{Batch, Event, EventKind, Watch, WatchOptions};
