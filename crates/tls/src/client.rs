//! The dialling side.
//!
//! Guarantees: unless told otherwise it speaks only to a server whose certificate is signed by a trusted authority and
//! stands for the name that was dialled. Errors say what to do.

use crate::handshake::explain_dialling;
use crate::reload::Reloading;
use crate::verify::{self, Allowed};
use crate::{Error, KeyPair, Policy, files};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How connections are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// Certificate and key to show, if the server asks for them.
    pub key_pair: Option<KeyPair>,
    /// Whom to trust.
    pub trust: Trust,
    /// A file with revoked certificates.
    pub crl: Option<PathBuf>,
    /// Whose certificates are accepted.
    pub allowed: Allowed,
    /// The name that the server's certificate must stand for, if not the host that is dialled.
    pub server_name: Option<String>,
    /// Versions and cipher suites.
    pub policy: Policy,
    /// The protocols to agree on inside of TLS, best first; none if there is nothing to agree on.
    pub protocols: &'static [&'static str],
}

/// Which servers to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those with a certificate of an authority that this machine trusts.
    #[default]
    System,
    /// Those with a certificate of an authority in this file.
    File(PathBuf),
    /// All: this hides what is said from listeners, but not from whoever can put himself in between.
    Anybody,
}

/// Makes connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    config: Reloading<Arc<rustls::ClientConfig>>,
}

impl Client {
    /// Reads the files; `subject` says for the log who is dialled.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn new(subject: &'static str, options: ClientOptions) -> Result<Self, Error> {
        if let Some(name) = &options.server_name {
            server_name(name).map_err(Error::setting)?;
        }
        let mut watched = Vec::new();
        if let Some(pair) = &options.key_pair {
            watched.extend([pair.cert.clone(), pair.key.clone()]);
        }
        if let Trust::File(path) = &options.trust {
            watched.push(path.clone());
        }
        watched.extend(options.crl.clone());
        let loading = options.clone();
        let config = Reloading::new(subject, watched, move || load(&loading))?;
        Ok(Self { inner: Arc::new(Inner { options, config }) })
    }

    /// Shakes hands with the server at the other end of `io`. `host` is the name or address that was dialled. It takes as
    /// long as the server likes: set a time.
    ///
    /// # Errors
    /// Why not, in words for whoever dialled.
    pub async fn connect<I>(&self, io: I, host: &str) -> io::Result<ClientStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let inner = Arc::clone(&self.inner);
        // The disk may hang; the other connections of this thread must not.
        let config = tokio::task::spawn_blocking(move || inner.config.current()).await.map_err(io::Error::other)?;
        let name = server_name(self.inner.options.server_name.as_deref().unwrap_or(host)).map_err(io::Error::other)?;
        match TlsConnector::from(Arc::clone(&*config)).connect(name, io).await {
            Ok(stream) => Ok(ClientStream { stream, host: host.into() }),
            Err(error) => Err(explained(error, host)),
        }
    }

    /// How often new files were taken, and how often changed files could not be used.
    pub fn reloads(&self) -> (u64, u64) {
        (self.inner.config.reloads(), self.inner.config.failures())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is not a name that a certificate can stand for"))
}

fn load(options: &ClientOptions) -> Result<Arc<rustls::ClientConfig>, Error> {
    let provider = options.policy.provider();
    let crl = options.crl.as_deref();
    let verifier = match &options.trust {
        Trust::System => verify::of_servers(files::trusted_by_system()?, crl, &options.allowed, &provider)?,
        Trust::File(path) => verify::of_servers(files::trusted(path)?, crl, &options.allowed, &provider)?,
        Trust::Anybody => verify::of_nobody(&provider),
    };
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(options.policy.versions())
        .map_err(Error::setting)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &options.key_pair {
        Some(pair) => {
            let certified = pair.load(&provider)?;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = options.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn explained(error: io::Error, host: &str) -> io::Error {
    match explain_dialling(&error, host) {
        Some(words) => io::Error::new(error.kind(), words),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), format!("{host} ended the connection during the TLS handshake"))
        }
        None => error,
    }
}

/// An encrypted stream to a server. A server that refuses the certificate it was shown may say so only after the
/// handshake: then reading fails with the reason.
#[derive(Debug)]
pub struct ClientStream<I> {
    stream: TlsStream<I>,
    host: Arc<str>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buf));
        Poll::Ready(read.map_err(|error| explained_later(error, &self.host)))
    }
}

/// Once the handshake is over, an end is only an end.
fn explained_later(error: io::Error, host: &str) -> io::Error {
    match explain_dialling(&error, host) {
        Some(words) => io::Error::new(error.kind(), words),
        None => error,
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
