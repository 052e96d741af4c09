//! Client of Quorate and etcd.

mod auth;
mod client;
mod endpoints;
mod error;
mod options;
pub mod raw;
mod transport;

pub use client::Client;
pub use error::Error;
pub use options::ConnectOptions;
pub use tonic::Code;
