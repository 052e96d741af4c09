//! What the hub counts. Plain atomics: whoever serves metrics reads them without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gauges and counters of one hub. Each is exact by itself; two of them read together need not fit.
#[derive(Debug, Default)]
pub struct WatchFigures {
    watchers: AtomicU64,
    streams: AtomicU64,
    slow_watchers: AtomicU64,
    pending_events: AtomicU64,
    pending_bytes: AtomicU64,
    events_total: AtomicU64,
    overflows_total: AtomicU64,
}

impl WatchFigures {
    /// Watchers that exist.
    pub fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Streams that are open.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Watchers that read history, because they start in the past or were too slow.
    pub fn slow_watchers(&self) -> u64 {
        self.slow_watchers.load(Ordering::Relaxed)
    }

    /// Events that wait in the queues of live watchers.
    pub fn pending_events(&self) -> u64 {
        self.pending_events.load(Ordering::Relaxed)
    }

    /// Bytes of these events. An event that waits for two watchers counts twice.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// Events handed out so far.
    pub fn events_total(&self) -> u64 {
        self.events_total.load(Ordering::Relaxed)
    }

    /// How often a live watcher was too slow, so that its queue was dropped.
    pub fn overflows_total(&self) -> u64 {
        self.overflows_total.load(Ordering::Relaxed)
    }

    pub(super) fn pending_add(&self, events: usize, bytes: usize) {
        self.pending_events.fetch_add(events as u64, Ordering::Relaxed);
        self.pending_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn pending_sub(&self, events: usize, bytes: usize) {
        self.pending_events.fetch_sub(events as u64, Ordering::Relaxed);
        self.pending_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn delivered(&self, events: usize) {
        self.events_total.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn overflowed(&self) {
        self.overflows_total.fetch_add(1, Ordering::Relaxed);
    }
}

/// One unit of a gauge, given back when dropped: no path can forget to count down.
pub(super) struct Counted {
    figures: Arc<WatchFigures>,
    gauge: fn(&WatchFigures) -> &AtomicU64,
}

impl Counted {
    pub(super) fn watcher(figures: &Arc<WatchFigures>) -> Self {
        Self::new(figures, |figures| &figures.watchers)
    }

    pub(super) fn stream(figures: &Arc<WatchFigures>) -> Self {
        Self::new(figures, |figures| &figures.streams)
    }

    pub(super) fn slow_watcher(figures: &Arc<WatchFigures>) -> Self {
        Self::new(figures, |figures| &figures.slow_watchers)
    }

    fn new(figures: &Arc<WatchFigures>, gauge: fn(&WatchFigures) -> &AtomicU64) -> Self {
        gauge(figures).fetch_add(1, Ordering::Relaxed);
        Self { figures: figures.clone(), gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.figures).fetch_sub(1, Ordering::Relaxed);
    }
}
