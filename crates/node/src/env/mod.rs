//! Everything that the node takes from the outside: random numbers, wall clock, files, network, and threads that may block.
//! Timers and tasks are tokio's: in production on a runtime of the node's own, in a simulation on a paused, single-threaded one.
//!
//! INVARIANT(env): nothing below `crates/server` reaches outside in any other way. An engine that owns its files is the one
//! exception. `cargo xtask boundary` checks it.

mod os;

pub use os::{OsEnv, PeerTls, bind, bind_path};

use quorate_storage::{Engine, EngineConfig, EngineError, EngineKind, open_engine};
use quorate_wal::Disk;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

/// A boxed future, as the traits here return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A byte stream between two members.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A stream that a peer opened.
pub struct Accepted {
    /// The stream, once both sides know who the other is. It may take long: nobody else must wait for it.
    pub opening: BoxFuture<io::Result<Box<dyn ByteStream>>>,
    /// Who dialled, for logs.
    pub from: String,
}

/// Accepts byte streams from peers.
pub trait Listener: Send {
    /// The next stream. Cancel-safe.
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>>;
}

/// The outside of a node.
pub trait Env: Send + Sync + 'static {
    /// Milliseconds since 1970, for time stamps that people read. Never used to decide anything.
    fn wall_clock_ms(&self) -> u64;

    /// A random number.
    fn random_u64(&self) -> u64;

    /// Monotonic time since some fixed point, also valid on threads without a tokio runtime. For measuring only.
    fn monotonic(&self) -> std::time::Duration;

    /// The file system.
    fn disk(&self) -> Arc<dyn Disk>;

    /// Takes the data directory for this process. Released when the guard is dropped, or with the process.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// Opens the storage engine in `dir`. An engine owns its files; a simulation puts one on its own disk.
    ///
    /// # Errors
    /// What is wrong with the engine's files.
    fn open_engine(&self, kind: EngineKind, dir: &Path, config: EngineConfig) -> Result<Arc<dyn Engine>, EngineError> {
        open_engine(kind, dir, config)
    }

    /// Where a replacement for the engine in `dir` is made: see [`quorate_storage::begin_replacement`].
    ///
    /// # Errors
    /// The file system fails.
    fn begin_replacement(&self, dir: &Path) -> io::Result<PathBuf> {
        quorate_storage::begin_replacement(dir)
    }

    /// Puts the replacement in its place: see [`quorate_storage::finish_replacement`].
    ///
    /// # Errors
    /// The file system fails.
    fn finish_replacement(&self, kind: EngineKind, dir: &Path) -> io::Result<()> {
        quorate_storage::finish_replacement(kind, dir)
    }

    /// Dials a member's URL: see [`crate::urls`].
    fn connect(&self, url: String) -> BoxFuture<io::Result<Box<dyn ByteStream>>>;

    /// Listens on a member's URL.
    fn listen(&self, url: String) -> BoxFuture<io::Result<Box<dyn Listener>>>;

    /// The runtime that the node's own tasks have to themselves: what its callers do on theirs must not keep Raft from its turn.
    /// `None`: they run where the node is started.
    ///
    /// # Errors
    /// The operating system does not give what a runtime needs.
    fn runtime(&self) -> io::Result<Option<Handle>> {
        Ok(None)
    }

    /// Runs a future that blocks for long, on the disk or for its computing: in production on a thread of its own.
    fn spawn_dedicated(&self, name: &'static str, task: BoxFuture<()>);

    /// The end of the process after a failure that must not be survived: an fsync error, corruption of what was
    /// acknowledged. In production it logs and aborts.
    fn fatal(&self, reason: &str);
}

thread_local! {
    static SIMULATED_SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes random numbers of this thread a function of `seed`: for simulations, which run on one thread.
pub fn seed_thread(seed: Option<u64>) {
    SIMULATED_SEED.with(|cell| cell.set(seed));
}

/// A random number: from the seed if this thread simulates, else from the operating system.
pub(crate) fn thread_random_u64() -> u64 {
    SIMULATED_SEED.with(|cell| match cell.get() {
        Some(seed) => {
            // SplitMix64 (Steele, Lea, Flood 2014).
            let state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            cell.set(Some(state));
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
        None => os::random_u64(),
    })
}
