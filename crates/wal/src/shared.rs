//! What the handles, the writer and the preparer share: the queue, the groups, the segments that can be read, the
//! cache, and the counters.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;
use crate::options::WalOptions;
use crate::queue::Queue;
use crate::segment::{Segment, Yard};
use crate::state::{Group, GroupState, LogEntry, Whereabouts};
use parking_lot::Mutex;
use quorate_sabotage::sabotage;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Called once, at the error that stops the log. Production ends the process here.
pub type FatalHook = Arc<dyn Fn(&WalError) + Send + Sync>;

/// Counters of a log, since it was opened, and gauges, now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalMetrics {
    /// Number of fsyncs on the write path.
    pub fsyncs: u64,
    /// Bytes of records and headers written.
    pub bytes_written: u64,
    /// Segments that hold records.
    pub segments: u64,
    /// Files that wait to become a segment.
    pub spares: u64,
    /// Bytes of appends that are queued or being written.
    pub queued_bytes: u64,
    /// Bytes of bodies in memory that count against the cache's bound, queued ones included.
    pub cached_bytes: u64,
    /// The disk is full: see [`Wal::retry_space`](crate::Wal::retry_space).
    pub short_of_space: bool,
}

#[derive(Default)]
pub(crate) struct Counters {
    fsyncs: AtomicU64,
    bytes_written: AtomicU64,
    /// There was no room for more than what had to be written, or for the next segment.
    short_of_space: AtomicBool,
    /// The writer has a batch for which there is no room. A mark of its own: that the next segment could be prepared meanwhile
    /// does not help the writer, which goes on only when somebody nudges it.
    waits_for_space: AtomicBool,
}

impl Counters {
    pub fn wrote(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn is_short_of_space(&self) -> bool {
        self.short_of_space.load(Ordering::Relaxed) || self.waits_for_space.load(Ordering::Relaxed)
    }

    pub fn set_short_of_space(&self, short: bool) {
        self.short_of_space.store(short, Ordering::Relaxed);
    }

    pub fn set_waits_for_space(&self, waits: bool) {
        self.waits_for_space.store(waits, Ordering::Relaxed);
    }
}

/// Which bodies are in memory, in the order in which they came. An item whose entry is gone still counts until its
/// turn comes: that keeps the list itself bounded.
#[derive(Default)]
struct Cache {
    items: VecDeque<CacheItem>,
    bytes: u64,
}

struct CacheItem {
    group: Arc<Group>,
    index: u64,
    ticket: u64,
    cost: u64,
}

/// What an item costs beside its body.
const CACHE_ITEM_BYTES: u64 = 64;

pub(crate) struct Shared {
    pub options: WalOptions,
    pub disk: Arc<dyn Disk>,
    pub fatal: FatalHook,
    pub queue: Queue,
    pub yard: Yard,
    pub metrics: Counters,
    pub groups: Mutex<BTreeMap<u32, Arc<Group>>>,
    /// Taken inside a group's lock, never around it.
    pub segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
    /// Taken inside a group's lock, never around it.
    cache: Mutex<Cache>,
}

impl Shared {
    pub fn new(options: WalOptions, disk: Arc<dyn Disk>, fatal: FatalHook, yard: Yard) -> Shared {
        Shared {
            queue: Queue::new(options.queue_bytes),
            options,
            disk,
            fatal,
            yard,
            metrics: Counters::default(),
            groups: Mutex::default(),
            segments: Mutex::default(),
            cache: Mutex::default(),
        }
    }

    pub fn group(&self, id: u32) -> Arc<Group> {
        let mut groups = self.groups.lock();
        let group =
            groups.entry(id).or_insert_with(|| Arc::new(Group { id, state: Mutex::new(GroupState::default()) }));
        Arc::clone(group)
    }

    pub fn metrics(&self) -> WalMetrics {
        WalMetrics {
            fsyncs: self.metrics.fsyncs.load(Ordering::Relaxed),
            bytes_written: self.metrics.bytes_written.load(Ordering::Relaxed),
            segments: self.segments.lock().len() as u64,
            spares: self.yard.spares() as u64,
            queued_bytes: self.queue.bytes(),
            cached_bytes: self.cache.lock().bytes,
            short_of_space: self.metrics.is_short_of_space(),
        }
    }

    /// An fsync of the write path: counted, timed, never tried again.
    pub fn sync(&self, path: &Path, file: &dyn DiskFile) -> Result<(), WalError> {
        if self.options.no_fsync {
            return Ok(());
        }
        let started = self.options.clock.as_ref().map(|clock| clock());
        file.sync_data().map_err(|error| WalError::sync(path, error))?;
        self.metrics.fsyncs.fetch_add(1, Ordering::Relaxed);
        if let (Some(clock), Some(started), Some(observe)) =
            (&self.options.clock, started, &self.options.fsync_observer)
        {
            observe(clock().saturating_sub(started));
        }
        Ok(())
    }

    pub fn sync_dir(&self) -> Result<(), WalError> {
        if self.options.no_fsync || sabotage!(WalDirSyncSkipped) {
            return Ok(());
        }
        let dir = &self.options.dir;
        self.disk.sync_dir(dir).map_err(|error| WalError::sync(dir, error))
    }

    /// Notes that the bodies of these entries, which have the tickets from `first_ticket` on, are in memory now.
    pub fn cached(&self, group: &Arc<Group>, first_ticket: u64, entries: &[LogEntry]) {
        let mut cache = self.cache.lock();
        for (ticket, entry) in (first_ticket..).zip(entries) {
            let cost = entry.body.len() as u64 + CACHE_ITEM_BYTES;
            cache.bytes += cost;
            cache.items.push_back(CacheItem { group: Arc::clone(group), index: entry.index, ticket, cost });
        }
    }

    /// Drops bodies, oldest first, until the cache keeps its bound; stops at one that is not durable yet, since it can
    /// be read from nowhere else. Only the writer calls this.
    pub fn evict(&self) {
        loop {
            let item = {
                let mut cache = self.cache.lock();
                if cache.bytes <= self.options.cache_bytes {
                    return;
                }
                let Some(item) = cache.items.pop_front() else { return };
                cache.bytes -= item.cost;
                item
            };
            let mut state = item.group.state.lock();
            let Some(entry) = state.entry_mut(item.index) else { continue };
            match entry.whereabouts {
                Whereabouts::At(_) => entry.body = None,
                Whereabouts::Queued(ticket) if ticket == item.ticket => {
                    drop(state);
                    let mut cache = self.cache.lock();
                    cache.bytes += item.cost;
                    cache.items.push_front(item);
                    return;
                }
                // Another entry took this index after a truncation; it has an item of its own further back.
                Whereabouts::Queued(_) => {}
            }
        }
    }

    /// The end of the log: tells the hook, and refuses everything from here on. Nothing is completed with `Ok` after it.
    pub fn stop(&self, error: WalError) -> WalError {
        let stopped = WalError::Stopped(Arc::new(error.clone()));
        let first = self.queue.close(stopped.clone());
        self.yard.close();
        if first {
            (self.fatal)(&error);
        }
        self.queue.stopped().unwrap_or(stopped)
    }
}
