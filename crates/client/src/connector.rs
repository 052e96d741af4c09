//! Opens connections: over TCP, or over a socket in the file system, with TLS for `https` and `unixs`.
//!
//! Knows hosts and ports, not what is said. Guarantees that a server which speaks TLS where this side does not, or the
//! other way round, is told of in so many words.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use quorate_tls::ClientStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use crate::endpoints::Address;
use crate::error::is_refusal;
use crate::{Error, TlsOptions};

/// How texts begin that tell of a server which speaks TLS to a client that does not.
pub(crate) const SPEAKS_TLS: &str = "the server speaks TLS";

/// The first byte of an alert, which is all that a TLS server says to somebody who does not speak TLS.
const ALERT: u8 = 0x15;

/// TLS for all endpoints of a client.
#[derive(Debug)]
pub(crate) struct Tls {
    options: Option<TlsOptions>,
    client: OnceLock<quorate_tls::Client>,
}

impl Tls {
    /// Reads the files, if there are options: whoever names a file that cannot be used wants to know, also if no endpoint
    /// needs it. Without options, what this machine trusts is read when the first endpoint needs it.
    pub(crate) fn new(options: Option<TlsOptions>) -> Result<Self, Error> {
        let tls = Tls { options, client: OnceLock::new() };
        if tls.is_wanted() {
            tls.client()?;
        }
        Ok(tls)
    }

    /// Whether endpoints without a scheme are meant to use it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.options.is_some()
    }

    fn client(&self) -> Result<quorate_tls::Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let options = self.options.clone().unwrap_or_default().into_inner();
        let client = quorate_tls::Client::new("servers", options)
            .map_err(|error| Error::InvalidArgument(format!("TLS cannot be set up: {error}")))?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// What opens connections to an endpoint, and notes there why the server refuses them.
    pub(crate) fn connector(&self, address: &Address, refusal: Refusal) -> Result<Connector, Error> {
        let tls = address.tls.then(|| self.client()).transpose()?;
        Ok(Connector { tls, socket: address.socket.clone(), refusal })
    }
}

/// Why a server last refused a connection that seemed to be open. The calls on it only see that it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.lock().clone()
    }

    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }

    fn note(&self, error: &io::Error) {
        let text = error.to_string();
        if is_refusal(&text) {
            *self.0.lock() = Some(text);
        }
    }
}

/// Opens the connections of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: Option<quorate_tls::Client>,
    /// A socket in the file system, in place of host and port.
    socket: Option<PathBuf>,
    refusal: Refusal,
}

impl Connector {
    async fn open(self, uri: Uri) -> io::Result<Stream> {
        let Self { tls, socket, refusal } = self;
        let host = uri.host().ok_or_else(|| io::Error::other("the endpoint names no host"))?;
        let wire: Box<dyn Wire> = match socket {
            Some(path) => Box::new(UnixStream::connect(path).await?),
            None => {
                let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
                let address = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((address, port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        let socket = match tls {
            Some(tls) => Socket::Tls(Box::new(tls.connect(wire, host).await?)),
            None => Socket::Plain { wire, host: host.into(), is_read: false },
        };
        Ok(Stream { socket, refusal })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await.map(TokioIo::new) })
    }
}

/// What bytes go over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl Wire for TcpStream {}
impl Wire for UnixStream {}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    refusal: Refusal,
}

#[derive(Debug)]
enum Socket {
    Plain { wire: Box<dyn Wire>, host: Arc<str>, is_read: bool },
    Tls(Box<ClientStream<Box<dyn Wire>>>),
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(self.socket.poll_read(context, buf));
        Poll::Ready(read.inspect_err(|error| self.refusal.note(error)))
    }
}

impl Socket {
    fn poll_read(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain { wire, host, is_read } => {
                let before = buf.filled().len();
                ready!(Pin::new(wire).poll_read(context, buf))?;
                let first = buf.filled().get(before);
                if !std::mem::replace(is_read, true) && first == Some(&ALERT) {
                    let words = format!("{SPEAKS_TLS}: use https://{host}, or give --cacert");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
                }
                Poll::Ready(Ok(()))
            }
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain { wire, .. } => Pin::new(wire).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain { wire, .. } => Pin::new(wire).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain { wire, .. } => Pin::new(wire).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain { wire, .. } => Pin::new(wire).poll_write_vectored(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain { wire, .. } => wire.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
