//! The scrubber: reads again what is on disk, slowly, so that damage is found before the data are needed. Sealed segments of
//! the write-ahead log, then all rows of the engine; then it rests until the next round is due.
//!
//! Knows checksums, not meaning. What the operating system or the engine has in its cache is read from there.

use crate::env::Env;
use crate::group::Group;
use quorate_storage::{Scrubber, StorageError};
use quorate_wal::{SealedSegment, Wal, WalError};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that are read in one go.
const STEP_BYTES: u64 = 128 << 10;

/// Pause while there is nothing to do.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// The task that reads what one group has on disk. Ends with the group.
pub(crate) struct Scrub {
    group: Weak<Group>,
    wal: Wal,
    env: Arc<dyn Env>,
    bytes_per_second: u64,
    interval: Duration,
    next_round: Instant,
    place: Place,
}

/// Where a round is.
enum Place {
    Resting,
    /// Behind this segment of the log.
    BehindSegment(u64),
    InSegment(SealedSegment),
    InEngine(Scrubber),
}

impl Scrub {
    /// A task that was not started. The first round begins after a tenth of the interval.
    pub(crate) fn new(
        group: &Arc<Group>,
        wal: Wal,
        env: Arc<dyn Env>,
        bytes_per_second: u64,
        interval: Duration,
    ) -> Self {
        let next_round = Instant::now() + interval / 10;
        let group = Arc::downgrade(group);
        Self { group, wal, env, bytes_per_second, interval, next_round, place: Place::Resting }
    }

    /// Reads until the group is gone; nothing at all at a rate of 0. Blocks on the disk.
    pub(crate) async fn run(mut self) {
        while self.bytes_per_second > 0 {
            let Some(group) = self.group.upgrade() else { return };
            if group.state.failure().is_some() {
                return;
            }
            let bytes = self.step(&group);
            drop(group);
            let pause = match bytes {
                None => IDLE_PAUSE.min(self.interval),
                Some(bytes) => Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The next portion; `None`: it is not time for another round.
    fn step(&mut self, group: &Group) -> Option<u64> {
        let figures = &group.state.figures;
        let (next, bytes) = match std::mem::replace(&mut self.place, Place::Resting) {
            Place::Resting => {
                if Instant::now() < self.next_round {
                    return None;
                }
                self.next_round = Instant::now() + self.interval;
                (Place::BehindSegment(0), 0)
            }
            Place::BehindSegment(before) => match self.wal.sealed_after(before) {
                Ok(Some(segment)) => (Place::InSegment(segment), 0),
                Ok(None) => (Place::InEngine(Scrubber::default()), 0),
                Err(error) => {
                    log_fault(group, &error);
                    (Place::BehindSegment(before + 1), 0)
                }
            },
            Place::InSegment(mut segment) => match segment.step(STEP_BYTES) {
                Ok(0) => (Place::BehindSegment(segment.sequence()), 0),
                Ok(bytes) => (Place::InSegment(segment), bytes),
                Err(error) => {
                    log_fault(group, &error);
                    (Place::BehindSegment(segment.sequence()), 0)
                }
            },
            Place::InEngine(mut scrubber) => match group.state.store.scrub(&mut scrubber, STEP_BYTES as usize) {
                Ok(scrubbed) => {
                    for fault in &scrubbed.faults {
                        engine_fault(group, format!("{}: {}", fault.row, fault.problem));
                    }
                    if scrubbed.round_done {
                        figures.scrub_rounds.fetch_add(1, Relaxed);
                        figures.scrub_completed_s.store(self.env.wall_clock_ms() / 1000, Relaxed);
                        (Place::Resting, scrubbed.bytes)
                    } else {
                        (Place::InEngine(scrubber), scrubbed.bytes)
                    }
                }
                Err(error) => {
                    read_error(group, &error);
                    (Place::Resting, 0)
                }
            },
        };
        self.place = next;
        figures.scrub_bytes.fetch_add(bytes, Relaxed);
        Some(bytes)
    }
}

/// A damaged segment: this member has applied what is in it, and needs it no more.
fn log_fault(group: &Group, error: &WalError) {
    group.state.figures.scrub_faults.fetch_add(1, Relaxed);
    tracing::error!(
        %error,
        "the write-ahead log is damaged in a part that is written. A restart gives that part up if the storage engine has what \
         was in it, and is refused otherwise: check the disk of this member, or replace it (`quorate member replace`)"
    );
}

fn engine_fault(group: &Group, what: String) {
    group.state.figures.scrub_faults.fetch_add(1, Relaxed);
    tracing::error!(what, "the storage engine is damaged");
    group.state.store.note_damage(what);
}

fn read_error(group: &Group, error: &StorageError) {
    if error.is_corruption() {
        engine_fault(group, error.to_string());
    } else {
        tracing::warn!(%error, "cannot read the storage engine again");
    }
}
