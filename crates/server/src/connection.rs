//! Who is at the other end of a connection. Known once it is accepted, and the same for all its requests.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who is at the other end of a connection. Every request carries it as an extension, `Arc<Connection>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where the client is.
    pub remote: Remote,
    /// Whether it is over TLS.
    pub encrypted: bool,
    /// The common name in the client's certificate. There only if the certificate was verified, and only with
    /// `--client-cert-auth`: without it, etcd takes no names from certificates either.
    pub common_name: Option<Arc<str>>,
}

/// The address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a socket in the file system, whose clients have no address.
    Unix,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
