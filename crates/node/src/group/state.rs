//! What a group shares between its tasks: store, waiters, watch hub, lease clock, how far it has applied. Implements the
//! apply hooks: this is where log order becomes answers and events.

use super::space::LeaderRoom;
use super::tokens::Tokens;
use super::waiters::{Ready, Waiters};
use crate::Error;
use crate::env::Env;
use crate::lease_clock::LeaseClock;
use crate::raft::{AppliedBatch, ApplyHooks, ApplyTimes, StoredMembership};
use crate::watch::WatchHub;
use parking_lot::Mutex;
use quorate_core::{GroupId, MemberId, Record, Revision, SystemChange};
use quorate_storage::Store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// When a revocation that was proposed and is not seen is proposed again.
const LEASE_RETRY: Duration = Duration::from_secs(3);

/// How far a group has applied its log. Readers may rely on it: everything up to here is visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub term: u64,
    pub index: u64,
}

/// The shared state of one group.
pub(crate) struct GroupState {
    pub(crate) group: GroupId,
    pub(crate) member: MemberId,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) store: Arc<Store>,
    pub(crate) hub: WatchHub,
    pub(crate) tokens: Tokens,
    pub(super) waiters: Waiters,
    pub(super) leader_room: LeaderRoom,
    pub(super) leases: Mutex<LeaseClock>,
    /// The lease clock has something new to wait for.
    pub(super) lease_news: Notify,
    /// Rises with every applied entry.
    applied: watch::Sender<Position>,
    /// The same index, for those who only look.
    applied_index: AtomicU64,
    /// A membership was applied.
    membership_news: watch::Sender<u64>,
    /// The tail has shrunk.
    pub(super) room: Notify,
    /// There is something to drain.
    pub(super) drain_news: Notify,
    again: mpsc::UnboundedSender<Ready>,
    /// Log index -> how many snapshot transfers need the log after it.
    log_holds: Arc<Mutex<BTreeMap<u64, usize>>>,
    /// Why the group cannot go on; set once.
    failure: watch::Sender<Option<Error>>,
    /// Why this member serves nobody until it has rebuilt itself; set once.
    doubt: OnceLock<String>,
    start: Instant,
    /// Entries that take longer to apply are logged.
    slow_apply: Duration,
    pub(crate) figures: Figures,
}

/// Keeps a part of the log while it lives.
struct LogHold {
    index: u64,
    holds: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl Drop for LogHold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock();
        if let Some(count) = holds.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.index);
            }
        }
    }
}

/// Counters of one group.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) proposals_failed: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) slow_read_indexes: AtomicU64,
    pub(crate) read_indexes_failed: AtomicU64,
    pub(crate) lease_granted: AtomicU64,
    pub(crate) lease_revoked: AtomicU64,
    pub(crate) lease_renewed: AtomicU64,
    pub(crate) lease_expired: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) deletes: AtomicU64,
    pub(crate) tail_full_waits: AtomicU64,
    pub(crate) slow_applies: AtomicU64,
    /// A gauge: snapshots that are being received and applied.
    pub(crate) snapshots_under_way: AtomicU64,
    pub(crate) corruption_checks: AtomicU64,
    pub(crate) corruption_found: AtomicU64,
    pub(crate) scrub_bytes: AtomicU64,
    pub(crate) scrub_rounds: AtomicU64,
    pub(crate) scrub_faults: AtomicU64,
    /// Seconds since 1970; 0: none was completed.
    pub(crate) scrub_completed_s: AtomicU64,
}

impl GroupState {
    #[allow(clippy::too_many_arguments, reason = "called once, at start")]
    pub(super) fn new(
        group: GroupId,
        member: MemberId,
        env: Arc<dyn Env>,
        store: Arc<Store>,
        hub: WatchHub,
        tokens: Tokens,
        applied: Position,
        again: mpsc::UnboundedSender<Ready>,
        slow_apply: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            member,
            waiters: Waiters::new(env.random_u64()),
            leader_room: LeaderRoom::default(),
            env,
            store,
            hub,
            tokens,
            leases: Mutex::new(LeaseClock::new(LEASE_RETRY)),
            lease_news: Notify::new(),
            applied: watch::Sender::new(applied),
            applied_index: AtomicU64::new(applied.index),
            membership_news: watch::Sender::new(0),
            room: Notify::new(),
            drain_news: Notify::new(),
            again,
            log_holds: Arc::default(),
            failure: watch::Sender::new(None),
            doubt: OnceLock::new(),
            start: Instant::now(),
            slow_apply,
            figures: Figures::default(),
        })
    }

    /// Monotonic time for the lease clock.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// How far the log is applied.
    pub(crate) fn applied(&self) -> Position {
        *self.applied.borrow()
    }

    /// Follows how far the log is applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    /// Follows membership changes; the value is the log index.
    pub(crate) fn watch_membership(&self) -> watch::Receiver<u64> {
        self.membership_news.subscribe()
    }

    /// Waits until the log is applied up to `index`.
    pub(crate) async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        if self.applied_index.load(Ordering::Acquire) >= index {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let mut failure = self.failure.subscribe();
        tokio::select! {
            result = applied.wait_for(|position| position.index >= index) => match result {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::Stopped),
            },
            error = failure.wait_for(Option::is_some) => Err(match error {
                Ok(error) => error.clone().unwrap_or(Error::Stopped),
                Err(_) => Error::Stopped,
            }),
        }
    }

    /// Why the group cannot go on, if it cannot.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.borrow().clone()
    }

    /// Follows the failure.
    pub(crate) fn watch_failure(&self) -> watch::Receiver<Option<Error>> {
        self.failure.subscribe()
    }

    /// Why this member's state cannot be trusted, if that is so.
    pub(crate) fn doubt(&self) -> Option<&str> {
        self.doubt.get().map(String::as_str)
    }

    /// From here on this member serves no client: what it would say may be wrong. It goes on to vote and to keep the log.
    pub(crate) fn set_doubt(&self, reason: String) {
        tracing::error!(reason, "this member leaves service, to rebuild itself from the others");
        // It is set once, by one task.
        let _ = self.doubt.set(reason);
        self.hub.close();
    }

    /// Ends all work of the group with `error`.
    pub(crate) fn fail(&self, error: Error) {
        let first = self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            self.waiters.fail_all(&error);
            self.hub.close();
        }
    }

    /// The log after this index is needed by a snapshot transfer.
    pub(super) fn log_floor(&self) -> u64 {
        self.log_holds.lock().keys().next().copied().unwrap_or(u64::MAX)
    }

    /// Keeps the log after `index` while what is returned lives.
    pub(crate) fn keep_log(&self, index: u64) -> Box<dyn Send + Sync> {
        *self.log_holds.lock().entry(index).or_default() += 1;
        Box::new(LogHold { index, holds: self.log_holds.clone() })
    }

    fn note_applied(&self, position: Position) {
        self.applied_index.store(position.index, Ordering::Release);
        self.applied.send_replace(position);
    }

    fn warn_if_slow(&self, log_id: (u64, u64), batches: &[AppliedBatch], took: Duration) {
        if took > self.slow_apply {
            self.figures.slow_applies.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                term = log_id.0,
                index = log_id.1,
                commands = batches.iter().map(|batch| batch.commands.len()).sum::<usize>(),
                took_ms = took.as_secs_f64() * 1e3,
                expected_ms = self.slow_apply.as_secs_f64() * 1e3,
                "applying a log entry took too long"
            );
        }
    }

    fn settle_term(&self, term: u64) {
        for ready in self.waiters.term_applied(term) {
            // The proposer may have ended.
            let _ = self.again.send(ready);
        }
    }

    /// Keeps the lease clock in step, if it runs: after the change is in the store, so that a clock that starts at this
    /// very moment finds the lease in the one place or the other.
    fn apply_leases(&self, system: &[SystemChange]) {
        if system.is_empty() {
            return;
        }
        let now = self.now();
        let mut clock = self.leases.lock();
        for change in system {
            match change {
                // A checkpoint must not give the lease its full time again.
                SystemChange::LeaseSet(lease) if lease.remaining_ttl_seconds > 0 => {
                    clock.checkpointed(now, lease.id, lease.remaining_ttl_seconds);
                }
                SystemChange::LeaseSet(lease) => {
                    clock.grant(now, *lease);
                    self.figures.lease_granted.fetch_add(1, Ordering::Relaxed);
                }
                SystemChange::LeaseRemove(id) => {
                    clock.revoke(*id);
                    self.figures.lease_revoked.fetch_add(1, Ordering::Relaxed);
                }
                SystemChange::MemberSet(..)
                | SystemChange::MemberRemove(_)
                | SystemChange::AlarmSet(_)
                | SystemChange::AlarmRemove(_)
                | SystemChange::VersionsSet(_)
                | SystemChange::AuthSet { .. }
                | SystemChange::UserSet(..)
                | SystemChange::UserRemove(_)
                | SystemChange::RoleSet(..)
                | SystemChange::RoleRemove(_)
                | SystemChange::TokenAssign { .. } => {}
            }
        }
        drop(clock);
        self.lease_news.notify_one();
    }

    /// Takes new tokens in; ends all of them when authentication is turned off. (Those of a user whose password has changed
    /// end when they are looked at.)
    fn apply_tokens(&self, system: &[SystemChange]) {
        for change in system {
            match change {
                SystemChange::TokenAssign { user, token, credentials_revision } => {
                    self.tokens.assign(self.now(), *token, user, *credentials_revision);
                }
                SystemChange::AuthSet { enabled: false, .. } => self.tokens.clear(),
                SystemChange::AuthSet { enabled: true, .. }
                | SystemChange::UserSet(..)
                | SystemChange::UserRemove(_)
                | SystemChange::RoleSet(..)
                | SystemChange::RoleRemove(_)
                | SystemChange::LeaseSet(_)
                | SystemChange::LeaseRemove(_)
                | SystemChange::MemberSet(..)
                | SystemChange::MemberRemove(_)
                | SystemChange::AlarmSet(_)
                | SystemChange::AlarmRemove(_)
                | SystemChange::VersionsSet(_) => {}
            }
        }
    }

    fn count(&self, records: &[Record]) {
        let deletes = records.iter().filter(|r| r.meta().is_none()).count() as u64;
        self.figures.puts.fetch_add(records.len() as u64 - deletes, Ordering::Relaxed);
        self.figures.deletes.fetch_add(deletes, Ordering::Relaxed);
    }
}

impl ApplyHooks for GroupState {
    fn on_applied(
        &self,
        revision: Revision,
        records: &[Record],
        system: &[SystemChange],
        batches: Vec<AppliedBatch>,
        log_id: (u64, u64),
        times: ApplyTimes,
    ) {
        self.apply_leases(system);
        self.apply_tokens(system);
        self.note_applied(Position { term: log_id.0, index: log_id.1 });
        if !records.is_empty() {
            self.count(records);
            // Publish after commit: whoever reads on an event must find it.
            self.hub.publish(revision, records);
        }
        self.warn_if_slow(log_id, &batches, times.had_room.elapsed());
        for batch in batches {
            if batch.origin == self.member {
                self.waiters.resolve(batch.first_seq, batch.commands, times);
            }
        }
        self.settle_term(log_id.0);
        self.drain_news.notify_one();
    }

    fn on_membership(&self, _membership: &StoredMembership, log_id: (u64, u64)) {
        self.note_applied(Position { term: log_id.0, index: log_id.1 });
        self.membership_news.send_replace(log_id.1);
        self.settle_term(log_id.0);
        self.drain_news.notify_one();
    }

    fn on_snapshot(&self, _membership: &StoredMembership, log_id: (u64, u64)) {
        // Watchers read what they missed from the new state; what was compacted in it, they are told.
        self.hub.advance(self.store.revision());
        // Whatever happened to them in between is not known: their clients log in again.
        self.tokens.clear();
        self.note_applied(Position { term: log_id.0, index: log_id.1 });
        self.membership_news.send_replace(log_id.1);
        self.waiters.fail_sent(&Error::TimeoutLeaderFailure);
        self.settle_term(log_id.0);
    }

    fn hold_log(&self, index: u64) -> Box<dyn Send> {
        self.keep_log(index)
    }

    async fn wait_for_room(&self) {
        while self.store.tail_is_full() {
            self.figures.tail_full_waits.fetch_add(1, Ordering::Relaxed);
            let room = self.room.notified();
            self.drain_news.notify_one();
            if self.store.tail_is_full() && self.failure().is_none() {
                room.await;
            } else {
                return;
            }
        }
    }

    fn fatal(&self, reason: &str) {
        tracing::error!(group = self.group.get(), reason, "the group stops: its state cannot be read or trusted");
        self.fail(Error::Fatal(reason.to_owned()));
    }
}
