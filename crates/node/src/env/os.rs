//! The real outside: the operating system.

use super::{Accepted, BoxFuture, ByteStream, Env, Listener};
use fs4::fs_std::FileExt;
use quorate_wal::{Disk, OsDisk};
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};

/// The operating system as an [`Env`].
pub struct OsEnv {
    start: Instant,
    disk: Arc<OsDisk>,
}

impl OsEnv {
    /// The one of this process.
    pub fn new() -> Self {
        Self { start: Instant::now(), disk: Arc::new(OsDisk) }
    }
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

    fn connect(&self, address: String) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn listen(&self, address: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(Tcp(TcpListener::bind(address).await?)) as Box<dyn Listener>) })
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

struct Tcp(TcpListener);

impl Listener for Tcp {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Accepted { stream: Box::new(stream), from: from.to_string() })
        })
    }
}
