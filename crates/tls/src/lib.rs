//! TLS as etcd has it: certificates from files that may change, client certificates, revocation lists, names that are
//! allowed, versions and cipher suites, and the texts that say what went wrong.
//!
//! Knows certificates and byte streams; does not know flags, HTTP or members. The cryptography is aws-lc-rs behind rustls.

mod address;
mod certificate;
mod client;
mod error;
mod files;
mod handshake;
mod log_limit;
mod pending;
mod policy;
mod reload;
mod self_signed;
mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use certificate::Certificate;
pub use client::{Client, ClientOptions, ClientStream, Trust};
pub use error::Error;
pub use files::KeyPair;
pub use handshake::{Counts, HandshakeError, REFUSED, Reason};
pub use policy::Policy;
pub use self_signed::self_signed;
pub use server::{ClientCertificates, Server, ServerOptions};
pub use tokio_rustls::server::TlsStream as ServerStream;
pub use verify::Allowed;
