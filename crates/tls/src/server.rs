//! The accepting side.
//!
//! Guarantees: a handshake takes a bounded time, and a bounded number is under way; stalled ones are never in the way of
//! others. A name is told only of a certificate that was verified. Sessions are never resumed, so that each connection is
//! held to the files of its time. Connections that are open already stay open when files change.

use crate::certificate::Certificate;
use crate::handshake::{Counts, HandshakeError, Reason};
use crate::log_limit::LogLimit;
use crate::pending::Pending;
use crate::reload::Reloading;
use crate::verify::{self, Allowed};
use crate::{Error, KeyPair, Policy, address, files};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes under way.
const HANDSHAKES_MAX: usize = 1024;

/// How long, and for how many bytes, a refused side is listened to, so that it can read why it was refused.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: usize = 64 << 10;

/// How connections are accepted.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Who dials, for the log: `clients`, `peers`.
    pub subject: &'static str,
    /// Certificate and key of this side.
    pub key_pair: KeyPair,
    /// Whose certificates the other side must show.
    pub clients: ClientCertificates,
    /// Versions and cipher suites.
    pub policy: Policy,
    /// The protocols to agree on inside of TLS, best first; none if there is nothing to agree on.
    pub protocols: &'static [&'static str],
    /// How long a handshake may take.
    pub timeout: Duration,
}

/// Whose certificates the other side must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None are asked for.
    NotAsked,
    /// One that is signed by a trusted authority.
    Required {
        /// The file with the authorities' certificates; this machine's if there is none.
        trusted: Option<PathBuf>,
        /// A file with revoked certificates.
        crl: Option<PathBuf>,
        /// Whose are accepted.
        allowed: Allowed,
        /// Whether the certificate must stand for the address it comes from.
        check_address: bool,
    },
}

/// Accepts connections.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    options: ServerOptions,
    config: Reloading<Loaded>,
    pending: Pending,
    counts: Counts,
    log_limit: LogLimit,
}

struct Loaded {
    config: Arc<rustls::ServerConfig>,
    not_after: i64,
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn new(options: ServerOptions) -> Result<Self, Error> {
        let mut watched = vec![options.key_pair.cert.clone(), options.key_pair.key.clone()];
        if let ClientCertificates::Required { trusted, crl, .. } = &options.clients {
            watched.extend(trusted.iter().chain(crl).cloned());
        }
        let loading = options.clone();
        let config = Reloading::new(options.subject, watched, move || load(&loading))?;
        let inner = Inner {
            options,
            config,
            pending: Pending::new(HANDSHAKES_MAX),
            counts: Counts::default(),
            log_limit: LogLimit::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Shakes hands with whoever dialled, from `remote` (if that is an address). Returns the encrypted stream, and the
    /// certificate that the other side showed, if it was asked to.
    ///
    /// # Errors
    /// Why not; it is counted. The connection is closed.
    pub async fn accept<I>(
        &self,
        io: I,
        remote: Option<SocketAddr>,
    ) -> Result<(TlsStream<I>, Option<Certificate>), HandshakeError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let mut place = self.inner.pending.enter();
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(self.inner.options.timeout, self.shake_hands(io, remote)) => {
                outcome.unwrap_or_else(|_| {
                    let words = format!("the handshake was not finished within {:?}", self.inner.options.timeout);
                    Err(HandshakeError::new(Reason::Stalled, words))
                })
            }
            () = place.lost() => {
                Err(HandshakeError::new(Reason::Stalled, "more handshakes came than can be under way, and this one is the oldest"))
            }
        };
        match &outcome {
            Ok(_) => self.inner.counts.succeed(),
            Err(error) => self.refused(error, remote),
        }
        outcome
    }

    async fn shake_hands<I>(
        &self,
        io: I,
        remote: Option<SocketAddr>,
    ) -> Result<(TlsStream<I>, Option<Certificate>), HandshakeError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let inner = Arc::clone(&self.inner);
        // The disk may hang; the other connections of this thread must not.
        let config = tokio::task::spawn_blocking(move || Arc::clone(&inner.config.current().config))
            .await
            .map_err(|_| HandshakeError::new(Reason::Closed, "the process ends"))?;
        let mut stream = match TlsAcceptor::from(config).accept(io).into_fallible().await {
            Ok(stream) => stream,
            Err((error, io)) => {
                say_farewell(io).await;
                return Err(HandshakeError::of_accepting(&error));
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown
            .map(|der| Certificate::parse(der))
            .transpose()
            .map_err(|error| HandshakeError::new(Reason::BadCertificate, error))?;
        if let (Some(certificate), Some(remote)) = (&certificate, remote)
            && self.checks_address()
            && let Err(words) = address::check(certificate, remote.ip()).await
        {
            // The refused side will see the end of the connection, whether or not this arrives.
            let _ = stream.shutdown().await;
            return Err(HandshakeError::new(Reason::WrongAddress, words));
        }
        Ok((stream, certificate))
    }

    fn refused(&self, error: &HandshakeError, remote: Option<SocketAddr>) {
        let (subject, reason) = (self.inner.options.subject, error.reason.label());
        let from = remote.map_or_else(|| "a Unix socket".to_owned(), |remote| remote.to_string());
        self.inner.counts.fail(error.reason);
        if error.reason == Reason::Closed {
            // Balancers look whether a port is open, and say nothing.
            tracing::debug!(subject, from, reason, %error, "rejected a connection");
        } else if let Some(unsaid) = self.inner.log_limit.take(remote.map(|remote| remote.ip()), error, Instant::now())
        {
            tracing::warn!(subject, from, reason, %error, unsaid, "rejected a connection");
        }
    }

    fn checks_address(&self) -> bool {
        match &self.inner.options.clients {
            ClientCertificates::Required { check_address, .. } => *check_address,
            ClientCertificates::NotAsked => false,
        }
    }

    /// How handshakes ended.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// How often new files were taken, and how often changed files could not be used.
    pub fn reloads(&self) -> (u64, u64) {
        (self.inner.config.reloads(), self.inner.config.failures())
    }

    /// The last second in which the certificate in use is valid, since 1970.
    pub fn not_after(&self) -> i64 {
        self.inner.config.last().not_after
    }

    /// Whether the other side must show a certificate.
    pub fn requires_certificates(&self) -> bool {
        self.inner.options.clients != ClientCertificates::NotAsked
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

fn load(options: &ServerOptions) -> Result<Loaded, Error> {
    let provider = options.policy.provider();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(options.policy.versions())
        .map_err(Error::setting)?;
    let verifier = match &options.clients {
        ClientCertificates::NotAsked => WebPkiClientVerifier::no_client_auth(),
        ClientCertificates::Required { trusted, crl, allowed, .. } => {
            let trusted = trusted.as_deref().map_or_else(files::trusted_by_system, files::trusted)?;
            verify::of_clients(trusted, crl.as_deref(), allowed, &provider)?
        }
    };
    let certified = options.key_pair.load(&provider)?;
    let not_after =
        certified.cert.first().and_then(|der| Certificate::parse(der).ok()).map_or(0, |cert| cert.not_after);
    let mut config =
        builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = options.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), not_after })
}

/// Lets the other side read the alert. Closing a socket with unread bytes in it makes the system drop what was sent.
async fn say_farewell<I: AsyncRead + AsyncWrite + Unpin>(mut io: I) {
    let farewell = async {
        io.shutdown().await?;
        let (mut buffer, mut left) = ([0; 4096], FAREWELL_BYTES_MAX);
        while left > 0 {
            match io.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Whoever does not want to know why need not.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}
