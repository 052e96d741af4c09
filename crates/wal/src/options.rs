//! How a log is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A monotonic clock: time since some fixed moment.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Told how long each fsync of the write path took.
pub type FsyncObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// Settings of a log. Start from [`WalOptions::new`].
#[derive(Clone)]
pub struct WalOptions {
    /// The directory, the log's own; made if it is not there.
    pub dir: PathBuf,
    /// Nominal size of a segment, from 1 KiB to 1 GiB. A segment is larger only if a single record is.
    pub segment_bytes: u64,
    /// Bytes of bodies, of all groups together, that are kept in memory after they are durable; the oldest go first.
    pub cache_bytes: u64,
    /// Bytes of appends that may wait for the disk; past it, `append` waits. Up to 1 GiB.
    pub queue_bytes: u32,
    /// How many freed segments are kept for reuse. The rest is removed.
    pub recycled_segments_max: usize,
    /// Never fsync: for tests and throw-away data only. A power cut may then leave a log that refuses to open.
    pub no_fsync: bool,
    /// Anything that differs between nodes (the member id, say): it goes into the segments' nonces.
    pub node_nonce: u64,
    /// Of each group, term and index up to which its state has the entries, durably: with this a log whose sealed segments are
    /// damaged can be opened, if the state has all that they lost. Empty: no damage is opened.
    pub state_has: BTreeMap<u32, (u64, u64)>,
    /// Needed by `fsync_observer`, and by nothing else.
    pub clock: Option<Clock>,
    /// Told the latency of every fsync on the write path.
    pub fsync_observer: Option<FsyncObserver>,
}

impl WalOptions {
    /// 64 MiB segments, 4 of them kept for reuse, a cache of 64 MiB, a queue of 32 MiB.
    pub fn new(dir: impl Into<PathBuf>) -> WalOptions {
        WalOptions {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            queue_bytes: 32 << 20,
            recycled_segments_max: 4,
            no_fsync: false,
            node_nonce: 0,
            state_has: BTreeMap::new(),
            clock: None,
            fsync_observer: None,
        }
    }

    /// Brings sizes into the range that offsets of 32 bits and the queue's counter can express.
    pub(crate) fn clamped(mut self) -> WalOptions {
        self.segment_bytes = self.segment_bytes.clamp(1 << 10, 1 << 30);
        self.queue_bytes = self.queue_bytes.clamp(1, 1 << 30);
        self
    }
}

impl std::fmt::Debug for WalOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalOptions")
            .field("dir", &self.dir)
            .field("segment_bytes", &self.segment_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("recycled_segments_max", &self.recycled_segments_max)
            .field("no_fsync", &self.no_fsync)
            .finish_non_exhaustive()
    }
}
