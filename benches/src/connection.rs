//! One HTTP/2 connection that the generated gRPC clients can use, at the lowest cost per call.
//!
//! tonic's own channel adds a queue, a worker task and reconnection around the same hyper connection. The load generator
//! shares its cores with the servers, so what it does not spend shows in the result; and a connection that breaks under
//! load is something to report, not to mend.

use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A shared connection; clones use the same one.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<tonic::body::Body>,
    origin: http::Uri,
}

impl Connection {
    /// Connects to a port of 127.0.0.1. The connection's task runs on the current runtime.
    ///
    /// # Errors
    /// When nothing listens there or the HTTP/2 handshake fails.
    pub async fn open(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with the connection; the callers see the error of their own request.
        tokio::spawn(connection);
        Ok(Connection { sender, origin: format!("http://127.0.0.1:{port}").parse()? })
    }

    /// The scheme and authority that requests on this connection carry.
    pub fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    /// A key-value client on this connection.
    pub fn kv(&self) -> KvClient<Connection> {
        KvClient::with_origin(self.clone(), self.origin())
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// Waits until every member answers a linearizable read.
///
/// # Errors
/// When one of them does not within `patience`; carries what it said last.
pub async fn wait_until_serving(ports: &[u16], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    for port in ports {
        loop {
            let probe = tokio::time::timeout(Duration::from_secs(2), probe(*port)).await;
            let error = match probe {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer within 2 s"),
            };
            if Instant::now() >= deadline {
                return Err(error.context(format!("the member on port {port} does not serve after {patience:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn probe(port: u16) -> Result<()> {
    let connection = Connection::open(port).await?;
    connection.kv().range(RangeRequest { key: "probe".into(), ..Default::default() }).await?;
    Ok(())
}
