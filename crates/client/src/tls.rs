//! How a client secures its connections.

use std::path::PathBuf;

use quorate_tls::{ClientOptions, KeyPair, Trust};

/// How a client secures its connections: see [`ConnectOptions::tls`](crate::ConnectOptions::tls).
///
/// Files are PEM. They are read when the client connects, and again when they have changed: new connections use the new
/// ones.
///
/// ```
/// use quorate_client::{ConnectOptions, TlsOptions};
///
/// let tls = TlsOptions::new().ca_file("ca.pem").identity("app.pem", "app.key");
/// let options = ConnectOptions::new().tls(tls);
/// ```
#[derive(Debug, Clone)]
pub struct TlsOptions {
    inner: ClientOptions,
}

impl TlsOptions {
    /// Trusts the authorities that this machine trusts, and shows no certificate.
    pub fn new() -> Self {
        TlsOptions { inner: ClientOptions { protocols: &["h2"], ..ClientOptions::default() } }
    }

    /// Trusts the authorities whose certificates are in a file, and no others.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.inner.trust = Trust::File(path.into());
        self
    }

    /// Shows a certificate to servers that ask for one.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.inner.key_pair = Some(KeyPair { cert: certificate.into(), key: key.into() });
        self
    }

    /// The name that servers' certificates must be for, if it is not the host of the endpoint.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.inner.server_name = Some(name.into());
        self
    }

    /// Accepts any certificate of a server. What is said is encrypted, but whoever can put himself between client and
    /// server reads and changes it all the same.
    pub fn dangerously_accept_any_certificate(mut self) -> Self {
        self.inner.trust = Trust::Anybody;
        self
    }

    pub(crate) fn into_inner(self) -> ClientOptions {
        self.inner
    }
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self::new()
    }
}
