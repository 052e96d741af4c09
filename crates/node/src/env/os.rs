//! The real outside: the operating system.

use super::{Accepted, BoxFuture, ByteStream, Env, Listener};
use crate::urls::{self, Place};
use fs4::fs_std::FileExt;
use parking_lot::Mutex;
use quorate_wal::{Disk, OsDisk};
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, UnixListener, UnixStream, lookup_host};
use tokio::runtime::{Builder, Handle, Runtime};

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
    runtime: OwnRuntime,
}

impl OsEnv {
    /// The one of this process. Members speak plain TCP.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            disk: Arc::new(OsDisk),
            peer_tls: None,
            reuse_port: false,
            runtime: OwnRuntime::default(),
        }
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

/// Threads of a node's runtime: half of the cores, and no more than that. Raft and apply are one task each, and tasks that wake each
/// other in turn are fastest on one thread.
const THREADS_MAX: usize = 4;

/// The runtime of the nodes of an [`OsEnv`]. Begins when it is first asked for; ends with the `OsEnv`, and whatever still runs on it
/// then ends where it waits.
#[derive(Default)]
struct OwnRuntime(Mutex<Option<Runtime>>);

impl OwnRuntime {
    fn handle(&self) -> io::Result<Handle> {
        let mut runtime = self.0.lock();
        let runtime = match &mut *runtime {
            Some(runtime) => runtime,
            none => {
                let threads =
                    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, THREADS_MAX));
                none.insert(
                    Builder::new_multi_thread()
                        .worker_threads(threads)
                        .thread_name("quorate-node")
                        .enable_all()
                        .build()?,
                )
            }
        };
        Ok(runtime.handle().clone())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // The last one to have it may be a task, of any runtime, where nothing may wait for threads.
        if let Some(runtime) = self.0.get_mut().take() {
            runtime.shutdown_background();
        }
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
            let place = urls::place(&url).map_err(io::Error::other)?;
            let tls = match (urls::is_tls(&url), tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls),
                (true, None) => return Err(no_tls()),
            };
            match place {
                Place::Tcp(address) => {
                    let stream = TcpStream::connect(&address).await?;
                    stream.set_nodelay(true)?;
                    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                    secure(stream, tls, host).await
                }
                Place::Unix(path) => secure(UnixStream::connect(path).await?, tls, HOST_OF_SOCKETS).await,
            }
        })
    }

    fn listen(&self, url: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let tls = self.peer_tls.as_ref().and_then(|tls| tls.server.clone());
        let reuse_port = self.reuse_port;
        Box::pin(async move {
            let place = urls::place(&url).map_err(io::Error::other)?;
            let tls = match (urls::is_tls(&url), tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls),
                (true, None) => return Err(no_tls()),
            };
            Ok(match place {
                Place::Tcp(address) => {
                    Box::new(Tcp { listener: bind(address, reuse_port).await?, tls }) as Box<dyn Listener>
                }
                Place::Unix(path) => Box::new(Unix::bind(path, tls)?),
            })
        })
    }

    fn runtime(&self) -> io::Result<Option<Handle>> {
        self.runtime.handle().map(Some)
    }

    fn spawn_dedicated(&self, name: &'static str, task: BoxFuture<()>) {
        // A runtime of its own for timers: the task may still have to write something down when the caller's is gone.
        let run = move || {
            let runtime = Builder::new_current_thread().enable_time().build();
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

/// Binds a listener to a path. A socket file stays behind when its process is killed: one that nobody answers on is removed.
///
/// # Errors
/// Somebody answers there, or the path cannot be had.
pub fn bind_path(path: &Path) -> io::Result<UnixListener> {
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

fn no_tls() -> io::Error {
    io::Error::other("TLS between members is not set up (--peer-cert-file, --peer-key-file, --peer-trusted-ca-file)")
}

/// What the certificate behind a socket in the file system must be for.
const HOST_OF_SOCKETS: &str = "localhost";

async fn secure<S: ByteStream + 'static>(
    stream: S,
    tls: Option<quorate_tls::Client>,
    host: &str,
) -> io::Result<Box<dyn ByteStream>> {
    Ok(match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.connect(stream, host).await?),
    })
}

/// Takes a stream that has been accepted, `from` an address if it has one.
fn opening<S: ByteStream + 'static>(
    stream: S,
    tls: Option<quorate_tls::Server>,
    from: Option<SocketAddr>,
) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
    Box::pin(async move {
        Ok(match tls {
            None => Box::new(stream) as Box<dyn ByteStream>,
            Some(tls) => Box::new(tls.accept(stream, from).await.map_err(io::Error::other)?.0),
        })
    })
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
            Ok(Accepted { opening: opening(stream, self.tls.clone(), Some(from)), from: from.to_string() })
        })
    }
}

/// A socket in the file system, which goes with it.
struct Unix {
    listener: UnixListener,
    path: PathBuf,
    tls: Option<quorate_tls::Server>,
}

impl Unix {
    fn bind(path: PathBuf, tls: Option<quorate_tls::Server>) -> io::Result<Self> {
        Ok(Self { listener: bind_path(&path)?, path, tls })
    }
}

impl Listener for Unix {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            let from = self.path.display().to_string();
            Ok(Accepted { opening: opening(stream, self.tls.clone(), None), from })
        })
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        // It may be gone already; whoever comes next removes what nobody answers on.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    #[tokio::test]
    async fn a_socket_in_the_file_system_is_taken_over_from_the_dead_and_not_from_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer.sock");
        let url = format!("unix://{}", path.display());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let env = OsEnv::new();
        let mut listener = env.listen(url.clone()).await.unwrap();
        let (accepted, mut dialled) =
            tokio::join!(listener.accept(), async { env.connect(url.clone()).await.unwrap() });
        let mut accepted = accepted.unwrap().opening.await.unwrap();
        accepted.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        dialled.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let error = env.listen(url.clone()).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
        assert!(env.connect(url).await.is_err());
    }
}
