//! The real outside: the operating system.

use super::{Accepted, BoxFuture, ByteStream, Env, Listener};
use crate::urls;
use fs4::fs_std::FileExt;
use quorate_wal::{Disk, OsDisk};
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host};

/// TLS between members.
#[derive(Clone, Debug)]
pub struct PeerTls {
    /// Accepts members; none if there is no certificate for it.
    pub server: Option<quorate_tls::Server>,
    /// Dials members.
    pub client: quorate_tls::Client,
}

/// The operating system as an [`Env`].
pub struct OsEnv {
    start: Instant,
    disk: Arc<OsDisk>,
    peer_tls: Option<PeerTls>,
    reuse_port: bool,
}

impl OsEnv {
    /// The one of this process. Members speak plain TCP.
    pub fn new() -> Self {
        Self { start: Instant::now(), disk: Arc::new(OsDisk), peer_tls: None, reuse_port: false }
    }

    /// Likewise, with TLS for `https` URLs of members.
    pub fn with_peer_tls(self, tls: PeerTls) -> Self {
        Self { peer_tls: Some(tls), ..self }
    }

    /// Likewise, with `SO_REUSEPORT` on what listens, or without.
    pub fn with_reuse_port(self, reuse_port: bool) -> Self {
        Self { reuse_port, ..self }
    }
}

/// Listens at the first of the addresses that can be had. With `reuse_port` (`SO_REUSEPORT`), any number of processes of
/// one user that all set it listen at one address, and the kernel deals connections out among them.
///
/// # Errors
/// Why the last address could not be had, or that a name has none.
pub async fn bind(address: impl ToSocketAddrs, reuse_port: bool) -> io::Result<TcpListener> {
    if !reuse_port {
        return TcpListener::bind(address).await;
    }
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in lookup_host(address).await? {
        match bind_shared(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn bind_shared(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As `TcpListener::bind` does, with the same backlog.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

impl Default for OsEnv {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn random_u64() -> u64 {
    rand10::random()
}

impl Env for OsEnv {
    fn wall_clock_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn random_u64(&self) -> u64 {
        random_u64()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("LOCK"))?;
        if file.try_lock_exclusive()? { Ok(Box::new(file)) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn connect(&self, url: String) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        let tls = self.peer_tls.as_ref().map(|tls| tls.client.clone());
        Box::pin(async move {
            let address = urls::host_port(&url).map_err(io::Error::other)?;
            let tls = match (urls::is_tls(&url), tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls),
                (true, None) => return Err(no_tls()),
            };
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(match tls {
                None => Box::new(stream) as Box<dyn ByteStream>,
                Some(tls) => {
                    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                    Box::new(tls.connect(stream, host).await?)
                }
            })
        })
    }

    fn listen(&self, url: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let tls = self.peer_tls.as_ref().and_then(|tls| tls.server.clone());
        let reuse_port = self.reuse_port;
        Box::pin(async move {
            let address = urls::host_port(&url).map_err(io::Error::other)?;
            let tls = match (urls::is_tls(&url), tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls),
                (true, None) => return Err(no_tls()),
            };
            Ok(Box::new(Tcp { listener: bind(address, reuse_port).await?, tls }) as Box<dyn Listener>)
        })
    }

    fn spawn_dedicated(&self, name: &'static str, task: BoxFuture<()>) {
        // A runtime of its own for timers: the task may still have to write something down when the caller's is gone.
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.map(|runtime| runtime.block_on(task))
        };
        let spawned = std::thread::Builder::new().name(name.into()).spawn(move || {
            if let Err(error) = run() {
                tracing::error!(%error, name, "cannot run a task on a thread of its own");
            }
        });
        if let Err(error) = spawned {
            self.fatal(&format!("cannot start thread {name}: {error}; raise the limit of processes (ulimit -u)"));
        }
    }

    fn fatal(&self, reason: &str) {
        tracing::error!(reason, "fatal: the process stops now so that nothing that is not durable is acknowledged");
        eprintln!("quorate: fatal: {reason}");
        std::process::abort();
    }
}

fn no_tls() -> io::Error {
    io::Error::other("TLS between members is not set up (--peer-cert-file, --peer-key-file, --peer-trusted-ca-file)")
}

struct Tcp {
    listener: TcpListener,
    tls: Option<quorate_tls::Server>,
}

impl Listener for Tcp {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            let tls = self.tls.clone();
            let opening = Box::pin(async move {
                Ok(match tls {
                    None => Box::new(stream) as Box<dyn ByteStream>,
                    Some(tls) => {
                        let (stream, _) = tls.accept(stream, Some(from)).await.map_err(io::Error::other)?;
                        Box::new(stream)
                    }
                })
            });
            Ok(Accepted { opening, from: from.to_string() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_shared_by_those_who_all_ask_for_it() {
        let first = bind("127.0.0.1:0", true).await.unwrap();
        let address = first.local_addr().unwrap();
        let second = bind(address, true).await.unwrap();
        assert_eq!(second.local_addr().unwrap(), address);
        assert_eq!(bind(address, false).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_port_of_one_who_does_not_share_is_taken() {
        let first = bind("127.0.0.1:0", false).await.unwrap();
        let error = bind(first.local_addr().unwrap(), true).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
