//! What goes on behind the replies, on a thread that may block: bring the tail to the engine, make it durable, let go of
//! the log behind it, checkpoint the index, compact.

use super::space::Look;
use super::{Group, GroupState};
use crate::Error;
use crate::config::FsyncObserver;
use crate::raft::last_of;
use quorate_core::Command;
use quorate_storage::{Progress, StorageError, Store};
use quorate_wal::Wal;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of records in one engine batch.
pub(super) const DRAIN_BYTES: usize = 4 << 20;

/// Keys of the index that one checkpoint step writes.
const CHECKPOINT_KEYS: usize = 4096;

/// Checkpoint steps between two flushes.
const CHECKPOINT_STEPS_MAX: usize = 32;

/// Pause before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);

/// How often a tail that fills is looked at.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// How often the upkeep looks round when nothing calls it.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of the upkeep.
#[derive(Clone, Debug)]
pub(crate) struct UpkeepOptions {
    pub flush_interval: Duration,
    pub flush_bytes: usize,
    /// A flush also comes when nothing was applied for so long, and something is not durable yet.
    pub quiet: Duration,
    /// A tail with less than this waits for the next flush: large batches cost the engine less, and a record in the tail is
    /// read faster than one in the engine.
    pub drain_bytes_min: usize,
    pub wal_keep_bytes: u64,
    pub compaction_batch: usize,
    pub compaction_pause: Duration,
    pub flush_observer: Option<FsyncObserver>,
}

/// The upkeep of one group.
pub(crate) struct Upkeep {
    group: Weak<Group>,
    state: Arc<GroupState>,
    store: Arc<Store>,
    options: UpkeepOptions,
    last_flush: Instant,
    /// The log entry that was applied last, and since when it is the last.
    applied: (u64, Instant),
    last_sweep: Instant,
    unflushed_bytes: usize,
    dirty: bool,
    next_compaction: Instant,
    wal: Wal,
    /// Where tasks of the node run; the upkeep itself has a thread of its own.
    handle: tokio::runtime::Handle,
    /// Whether the engine had no room at the last attempt.
    engine_full: bool,
    /// Log entries up to here were there when the member started.
    recovery_index: u64,
    /// Whether they are not all applied yet.
    is_settling: bool,
    stop: Arc<Notify>,
}

impl Upkeep {
    pub(crate) fn new(group: &Arc<Group>, wal: Wal, options: UpkeepOptions, stop: Arc<Notify>) -> Self {
        let now = Instant::now();
        let recovery_index = group.log.state().last.map_or(0, |(_, index)| index);
        // What stands now, or will when the log is applied again, is of an earlier life of this member.
        group.space.note_alarm(group.state.store.alarms().contains(&group.no_space_alarm()), true);
        Self {
            group: Arc::downgrade(group),
            state: group.state.clone(),
            store: group.state.store.clone(),
            options,
            last_flush: now,
            applied: (group.state.applied().index, now),
            last_sweep: now,
            unflushed_bytes: 0,
            dirty: false,
            next_compaction: now,
            wal,
            handle: tokio::runtime::Handle::current(),
            engine_full: false,
            recovery_index,
            is_settling: group.state.applied().index < recovery_index,
            stop,
        }
    }

    /// Runs until stopped, then flushes a last time.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = tokio::select! {
                biased;
                () = self.stop.notified() => true,
                () = self.state.drain_news.notified() => {
                    if !self.store.tail_is_full() {
                        tokio::time::sleep(DRAIN_PAUSE).await;
                    }
                    false
                }
                () = tokio::time::sleep(self.pause()) => false,
            };
            let result = if stopping { self.flush().map(|_| ()) } else { self.step().await };
            if let Err(error) = &result
                && disk_is_full(error)
                && !stopping
            {
                // Nothing is lost: what the engine did not take stays in the tail and in the log.
                if !self.engine_full {
                    tracing::error!(%error, "the disk is full");
                }
                self.set_engine_full(true);
                if let Err(error) = self.watch_space() {
                    tracing::warn!(%error, "cannot tell how full the disk is");
                }
                tokio::time::sleep(FULL_DISK_PAUSE).await;
                continue;
            }
            self.set_engine_full(false);
            if let Err(error) = result {
                if error.is_corruption() {
                    self.store.note_damage(error.to_string());
                }
                self.state.fail(Error::Fatal(error.to_string()));
                // Apply may wait for room that never comes: let it find the failure.
                self.state.room.notify_waiters();
                return;
            }
            if stopping || self.group.strong_count() == 0 {
                return;
            }
        }
    }

    fn set_engine_full(&mut self, full: bool) {
        if self.engine_full != full
            && let Some(group) = self.group.upgrade()
        {
            group.space.note_engine_full(full);
        }
        self.engine_full = full;
    }

    fn pause(&self) -> Duration {
        let now = Instant::now();
        let compaction = self.next_compaction.saturating_duration_since(now);
        compaction.clamp(Duration::from_millis(1), IDLE_PAUSE)
    }

    async fn step(&mut self) -> Result<(), StorageError> {
        let applied = self.state.applied().index;
        if applied != self.applied.0 {
            self.applied = (applied, Instant::now());
        }
        self.drain()?;
        if self.flush_is_due() && (self.dirty || self.checkpoint()?) {
            let durable = self.flush()?;
            if let Some(time) = self.state.env.disk().sync_time() {
                time.await;
            }
            self.purge_log(durable).await;
        }
        if self.last_sweep.elapsed() >= IDLE_PAUSE {
            self.last_sweep = Instant::now();
            self.state.waiters.sweep(self.last_sweep);
        }
        if Instant::now() >= self.next_compaction {
            self.compact()?;
        }
        self.watch_space()
    }

    /// Brings the tail to the engine if there is enough in it.
    fn drain(&mut self) -> Result<(), StorageError> {
        let tail_bytes = self.store.tail_bytes();
        if tail_bytes < self.options.drain_bytes_min && !self.store.tail_is_full() && !self.flush_is_due() {
            if tail_bytes > 0 {
                self.state.drain_news.notify_one();
            }
            return Ok(());
        }
        loop {
            let report = self.store.drain(DRAIN_BYTES)?;
            // At once: what has left the tail would count for nothing until the next look, which may wait for a flush.
            if let Some(group) = self.group.upgrade() {
                self.note_engine(&group)?;
            }
            self.state.room.notify_waiters();
            self.unflushed_bytes += report.bytes;
            self.dirty |= report.entries > 0;
            if report.empty {
                return Ok(());
            }
            // Under a load that fills the tail as fast as it is drained, the flush must have its turn: the log goes behind it.
            if self.flush_is_due() {
                self.state.drain_news.notify_one();
                return Ok(());
            }
        }
    }

    /// Tells the quota how much the engine holds.
    fn note_engine(&self, group: &Group) -> Result<u64, StorageError> {
        let used = self.store.engine_usage()?.used_bytes;
        group.space.note_engine(used);
        Ok(used)
    }

    /// Looks at the space of this member, and raises or clears its NOSPACE alarm. A full disk raises it before the log itself
    /// has no room left.
    fn watch_space(&mut self) -> Result<(), StorageError> {
        let log_full = self.wal.metrics().short_of_space;
        if log_full {
            self.wal.retry_space();
        }
        let Some(group) = self.group.upgrade() else { return Ok(()) };
        let used = self.note_engine(&group)?;
        let Some(changing) = group.space.try_change() else { return Ok(()) };
        let alarm = group.no_space_alarm();
        let raised = self.store.alarms().contains(&alarm);
        group.space.note_alarm(raised, self.is_settling);
        self.is_settling &= self.state.applied().index < self.recovery_index;
        let look = Look {
            disk_full: log_full || self.engine_full,
            disk_free: self.store.engine_disk()?.map(|disk| disk.free_bytes),
            used: used + self.store.tail_bytes() as u64,
            raised,
        };
        let Some(raise) = group.space.decide(look) else { return Ok(()) };
        let command = if raise { Command::AlarmActivate(alarm) } else { Command::AlarmDeactivate(alarm) };
        if raise {
            tracing::error!("a disk of this member is full: writes are refused (NOSPACE) until there is room");
            group.space.claim_alarm(None);
        } else {
            tracing::info!(used, "there is room again: clearing NOSPACE");
        }
        self.handle.spawn(async move {
            // The next step tries again.
            if let Err(error) = group.write(command).await {
                tracing::warn!(%error, "cannot tell the cluster about the space on this disk");
            }
            drop(changing);
        });
        Ok(())
    }

    /// While nothing is written, until a restart has nothing to read beside it. (Under a load, drains see to it that it does
    /// not fall behind too far. To keep it closer than that would cost a page per key.) Returns whether there was something
    /// to do.
    fn checkpoint(&self) -> Result<bool, StorageError> {
        let metrics = self.store.metrics();
        if metrics.checkpoint_keys == 0 && metrics.checkpoint_lag_records == 0 {
            return Ok(false);
        }
        for _ in 0..CHECKPOINT_STEPS_MAX {
            if self.store.checkpoint_step(CHECKPOINT_KEYS)? == Progress::Idle {
                break;
            }
        }
        Ok(true)
    }

    fn flush_is_due(&self) -> bool {
        let since = self.last_flush.elapsed();
        let is_quiet = self.applied.1.elapsed() >= self.options.quiet;
        since >= self.options.flush_interval
            || self.unflushed_bytes >= self.options.flush_bytes
            || is_quiet && since >= self.options.quiet
    }

    /// Returns the log index up to which everything is durable in the engine.
    fn flush(&mut self) -> Result<u64, StorageError> {
        let began = Instant::now();
        let durable = self.store.flush()?;
        self.last_flush = Instant::now();
        if let Some(FsyncObserver(observe)) = &self.options.flush_observer {
            observe(self.last_flush - began);
        }
        self.unflushed_bytes = 0;
        self.dirty = false;
        Ok(last_of(durable).map_or(0, |(_, index)| index))
    }

    /// The log goes only behind what the engine holds durably, and only as far as nobody is likely to need it any more.
    async fn purge_log(&self, durable_index: u64) {
        let Some(group) = self.group.upgrade() else { return };
        if let Some(upto) = group.purgeable(durable_index, self.options.wal_keep_bytes) {
            group.raft.purge(upto).await;
        }
    }

    fn compact(&mut self) -> Result<(), StorageError> {
        let cleaning = self.store.cleanup_step(self.options.compaction_batch)?;
        let progress = self.store.compaction_step(self.options.compaction_batch)?;
        let busy = cleaning == Progress::Working || progress == Progress::Working;
        let pause = if busy { self.options.compaction_pause } else { IDLE_PAUSE };
        self.dirty |= busy;
        self.next_compaction = Instant::now() + pause;
        Ok(())
    }
}

fn disk_is_full(error: &StorageError) -> bool {
    matches!(error, StorageError::Engine(error) if error.is_disk_full())
}
