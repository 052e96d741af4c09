//! Sockets: listeners, one task per connection, HTTP/1.1 and HTTP/2 on one port. Knows limits and shutdown, not methods.
//!
//! Guarantees: at most `connections_max` connections are held, more wait in the kernel; a connection that does not make a
//! request in time is closed; at shutdown each connection may finish what it has begun, for a bounded time.

use crate::StartError;
use crate::config::{Endpoint, Limits, ServerConfig};
use crate::connection::{Connection, Remote};
use crate::gateway;
use crate::grpc::{self, Body};
use crate::http as plain_http;
use crate::inherited::Inherited;
use crate::inline::{InlineExecutor, Requests};
use crate::shared::Shared;
use crate::starting::Front;
use crate::wire::Wire;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use quorate_node::env::{self, bind, bind_path};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// HTTP/2 flow control: what one stream may send ahead of us.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// HTTP/2 flow control: what one connection may send ahead of us.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Streams that a client opened and reset before we saw them; beyond it the connection is closed.
const PENDING_RESETS_MAX: usize = 256;
/// One connection gets at most this part of all requests.
const CONNECTION_SHARE: usize = 4;
/// Pause after a failed accept: without it, running out of files would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP.
    All,
    /// gRPC only.
    Grpc,
    /// HTTP only.
    Http,
    /// Metrics and health only.
    Metrics,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// Of an [`Env`](env::Env).
    Given(Box<dyn env::Listener>),
}

/// A connection before anything is known of it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<I: AsyncRead + AsyncWrite + Unpin + Send> Stream for I {}

/// An open listener.
pub struct Listener {
    socket: Socket,
    serves: Serves,
    address: String,
    tls: Option<quorate_tls::Server>,
}

impl Listener {
    /// Opens it. With `tls`, nothing else is spoken on it. With `reuse_port`, others that set it may listen there, too.
    ///
    /// # Errors
    /// [`StartError::Listen`]; `flag` is where the address came from.
    pub async fn open(
        endpoint: &Endpoint,
        serves: Serves,
        flag: &'static str,
        tls: Option<quorate_tls::Server>,
        reuse_port: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { flag, url: endpoint.to_string(), source };
        let (socket, address) = match endpoint {
            Endpoint::Tcp { host, port, .. } => {
                // As in Go: the name may lead to IPv6 alone, and most clients dial 127.0.0.1.
                let host = if host == "localhost" { "127.0.0.1" } else { host };
                let listener = match inherited.tcp(host, *port) {
                    Some(listener) => TcpListener::from_std(listener).map_err(failed)?,
                    None => bind((host, *port), reuse_port).await.map_err(failed)?,
                };
                let address = listener.local_addr().map_err(failed)?.to_string();
                (Socket::Tcp(listener), address)
            }
            Endpoint::Unix { path, .. } => {
                let listener = match inherited.unix(path) {
                    Some(listener) => UnixListener::from_std(listener).map_err(failed)?,
                    None => bind_path(path).map_err(failed)?,
                };
                (Socket::Unix(listener), path.display().to_string())
            }
        };
        Ok(Self { socket, serves, address, tls })
    }

    /// One that accepts what `listener` does. What is told of who dialled counts if it is an address.
    pub fn given(
        listener: Box<dyn env::Listener>,
        address: String,
        serves: Serves,
        tls: Option<quorate_tls::Server>,
    ) -> Self {
        Self { socket: Socket::Given(listener), serves, address, tls }
    }

    /// `ip:port`, or the path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it serves.
    pub fn serves(&self) -> Serves {
        self.serves
    }
}

/// Accepts and serves connections.
#[derive(Clone)]
pub struct Acceptor {
    front: Arc<Front>,
    limits: Limits,
    connections: Arc<Semaphore>,
    /// `--client-cert-auth`: the common name of a client's certificate says who the client is.
    names_are_users: bool,
    tasks: TaskTracker,
    /// Canceled: accept nothing more, finish what was begun.
    stop: CancellationToken,
    /// Canceled: drop what is still there.
    cut: CancellationToken,
}

impl Acceptor {
    /// An acceptor that holds to the limits of `config` and ends with `stop`.
    pub fn new(front: Arc<Front>, config: &ServerConfig, stop: CancellationToken) -> Self {
        let limits = &config.limits;
        Self {
            front,
            names_are_users: config.client_tls.client_cert_auth,
            limits: limits.clone(),
            connections: Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS))),
            tasks: TaskTracker::new(),
            stop,
            cut: CancellationToken::new(),
        }
    }

    /// Starts to accept on `listener`.
    pub fn listen(&self, listener: Listener) {
        self.tasks.spawn(self.clone().accept(listener));
    }

    /// Waits until all connections are gone; after `timeout`, cuts them. Call it after the stop token was canceled.
    pub async fn drain(&self, timeout: Duration) {
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "connections did not finish in time and are cut");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }

    async fn accept(self, mut listener: Listener) {
        loop {
            // The permit comes first: connections beyond the bound wait in the kernel and cost nothing here.
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.accept_one(&mut listener, permit) => accepted,
            };
            if let Err(error) = accepted {
                tracing::warn!(address = listener.address, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }

    async fn accept_one(&self, listener: &mut Listener, permit: OwnedSemaphorePermit) -> io::Result<()> {
        let (serves, tls) = (listener.serves, listener.tls.clone());
        match &mut listener.socket {
            Socket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                // Small answers must not wait for more to come.
                stream.set_nodelay(true)?;
                self.begin(stream, Remote::Tcp(address), tls, serves, permit);
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                self.begin(stream, Remote::Unix, tls, serves, permit);
            }
            Socket::Given(given) => {
                let env::Accepted { opening, from } = given.accept().await?;
                let remote = from.parse().map_or(Remote::Unix, Remote::Tcp);
                let acceptor = self.clone();
                self.tasks.spawn(async move {
                    // Whoever dialled is gone again.
                    let Ok(stream) = opening.await else { return };
                    acceptor.begin(stream, remote, tls, serves, permit);
                });
            }
        }
        Ok(())
    }

    /// Starts the task of a connection.
    fn begin<I>(
        &self,
        stream: I,
        remote: Remote,
        tls: Option<quorate_tls::Server>,
        serves: Serves,
        permit: OwnedSemaphorePermit,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Connection { remote, encrypted: false, common_name: None };
        match tls {
            None => self.tasks.spawn(self.clone().connection(stream, peer, serves, permit)),
            Some(tls) => self.tasks.spawn(self.clone().secure(Box::new(stream), tls, peer, serves, permit)),
        };
    }

    /// A connection over TLS. The handshake is part of its task: a slow one is in nobody's way.
    async fn secure(
        self,
        stream: Box<dyn Stream>,
        tls: quorate_tls::Server,
        mut peer: Connection,
        serves: Serves,
        permit: OwnedSemaphorePermit,
    ) {
        let address = match peer.remote {
            Remote::Tcp(address) => Some(address),
            Remote::Unix => None,
        };
        let accepted = tokio::select! {
            accepted = tls.accept(stream, address) => accepted,
            () = self.stop.cancelled() => return,
        };
        // A failure is counted and logged there.
        let Ok((stream, certificate)) = accepted else { return };
        peer.encrypted = true;
        // INVARIANT(verified-name): what comes from `accept` was verified, and nothing else becomes a name.
        if self.names_are_users {
            let name = certificate.and_then(|certificate| certificate.common_name);
            peer.common_name = name.filter(|name| !name.is_empty()).map(Into::into);
        }
        self.connection(stream, peer, serves, permit).await;
    }

    async fn connection<I>(self, stream: I, peer: Connection, serves: Serves, _permit: OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.front.metrics.connections_accepted.increment();
        let active = Arc::new(AtomicBool::new(false));
        let peer = Arc::new(peer);
        let executor = InlineExecutor::default();
        let service = {
            let (front, active, peer) = (Arc::clone(&self.front), Arc::clone(&active), Arc::clone(&peer));
            let executor = executor.clone();
            service_fn(move |mut request: Request<Incoming>| {
                active.store(true, Relaxed);
                request.extensions_mut().insert(Arc::clone(&peer));
                request.extensions_mut().insert(executor.clone());
                answer(Arc::clone(&front), serves, request)
            })
        };
        let builder = builder(&self.limits, executor.clone());
        // A client of gRPC connects to all endpoints, and may leave one idle until it needs it: its greeting is enough.
        let stream = Wire::new(stream, self.limits.keepalive_min_time, Arc::clone(&active));
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut requests = Requests::new(executor);
        let first_request = tokio::time::sleep(self.limits.header_read_timeout);
        let result = tokio::select! {
            result = poll_fn(|context| requests.poll_with(connection.as_mut(), context)) => result,
            () = idle(first_request, &active) => Ok(()),
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = poll_fn(|context| requests.poll_with(connection.as_mut(), context)) => result,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        self.front.metrics.connections_closed.increment();
        if let Err(error) = result {
            let common_name = peer.common_name.as_deref();
            tracing::debug!(remote = %peer.remote, common_name, error, "a connection ended with an error");
        }
    }
}

/// Resolves if nothing was asked until `deadline`, nor HTTP/2 begun; never, once that was.
async fn idle(deadline: tokio::time::Sleep, active: &AtomicBool) {
    deadline.await;
    if active.load(Relaxed) {
        std::future::pending().await
    }
}

/// One connection must leave places for the others.
fn streams_max(limits: &Limits) -> u32 {
    let share = u32::try_from(limits.requests_max / CONNECTION_SHARE).unwrap_or(u32::MAX).max(1);
    limits.streams_per_connection_max.min(share)
}

fn builder(limits: &Limits, executor: InlineExecutor) -> auto::Builder<InlineExecutor> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        // hyper takes no less than 8 KiB.
        .max_buf_size((limits.header_bytes_max as usize).max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max(limits))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval((!limits.keepalive_interval.is_zero()).then_some(limits.keepalive_interval))
        .keep_alive_timeout(limits.keepalive_timeout)
        // gRPC does without, and it costs bytes in every answer.
        .auto_date_header(false);
    builder
}

/// Answers by the node, or by what there is before it.
async fn answer(front: Arc<Front>, serves: Serves, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if let Some(shared) = front.shared() {
        return serve(Arc::clone(shared), serves, request).await;
    }
    let mut response = front.answer(request.method(), request.uri());
    front.access.allow_origin(request.headers().get(http::header::ORIGIN), &mut response);
    Ok(response)
}

async fn serve(shared: Arc<Shared>, serves: Serves, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
    Ok(match (is_grpc, serves) {
        (true, Serves::All | Serves::Grpc) => grpc::serve(shared, request.map(grpc::Source::Client)).await,
        (false, Serves::All | Serves::Http) => {
            // Over TLS the certificate says who this is.
            let refusal = match request.extensions().get::<Arc<Connection>>() {
                Some(peer) if !peer.encrypted => shared.access.refuse_host(request.uri(), request.headers()).err(),
                Some(_) | None => None,
            };
            let gateway = shared.gateway && gateway::owns(request.uri().path());
            let origin = request.headers().get(http::header::ORIGIN).cloned();
            let mut response = match refusal {
                Some((code, text)) => plain_http::failure(code, &text),
                None => Box::pin(plain_http::serve(&shared, request, gateway)).await,
            };
            shared.access.allow_origin(origin.as_ref(), &mut response);
            response
        }
        (false, Serves::Metrics) => {
            // As in etcd, names are not looked at here: there is nothing that a page could use.
            let origin = request.headers().get(http::header::ORIGIN).cloned();
            let mut response = Box::pin(plain_http::serve(&shared, request, false)).await;
            shared.access.allow_origin(origin.as_ref(), &mut response);
            response
        }
        (true, Serves::Http | Serves::Metrics) | (false, Serves::Grpc) => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            response
        }
    })
}
