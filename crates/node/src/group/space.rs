//! Space of this member: the quota, and when the NOSPACE alarm comes and goes.
//!
//! A write that would go beyond the quota is refused before it is proposed, by the member that took it, and the alarm is
//! raised through the log; from then on every member refuses what takes space when it applies it. INVARIANT(space-at-the-door):
//! what differs between members, their size, is asked here and never at apply.
//!
//! A leader whose disk is full refuses what other members send it as well, and they remember it for a moment ([`LeaderRoom`]).
//! The alarm of a full disk is raised and cleared by the same hand, see [`Upkeep`](super::Upkeep).

use super::Group;
use crate::Error;
use bytes::Bytes;
use quorate_core::codec::decode_batch;
use quorate_core::{Alarm, AlarmKind, Command, Op, Rejection, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

/// What a put costs besides key and value, as in etcd.
const PUT_BYTES: usize = 256;

/// What a lease costs, as in etcd.
pub(crate) const LEASE_BYTES: usize = 64;

/// Part of the quota that must be free again before the alarm goes, in percent; and that much less must be in use than when it
/// was raised, so that it does not come and go with every large write.
const HYSTERESIS_PERCENT: u64 = 5;

/// Free space on a disk that was full before the alarm goes: half as much again as the engine needs to write at all.
const FREE_BYTES_MIN: u64 = 24 << 20;

/// How long a write that a full disk refuses waits for the alarm to be raised.
const FULL_DISK_ALARM_WAIT: Duration = Duration::from_millis(500);

/// How long a member that heard from the leader that it has no room refuses without asking it again.
const LEADER_FULL_FOR: Duration = Duration::from_millis(500);

/// What this member knows of the room that a leader has: that it had none in a term, and until when that counts.
#[derive(Default)]
pub(crate) struct LeaderRoom(parking_lot::Mutex<Option<(u64, Instant)>>);

impl LeaderRoom {
    /// The leader of `term` says that it has no room.
    pub(super) fn note_none(&self, term: u64) {
        *self.0.lock() = Some((term, Instant::now() + LEADER_FULL_FOR));
    }

    /// Whether the leader of `term` had no room a moment ago.
    fn is_used_up(&self, term: u64) -> bool {
        self.0.lock().is_some_and(|(full, until)| full == term && Instant::now() < until)
    }
}

/// The quota and what is in use.
pub(crate) struct Space {
    quota_bytes: Option<u64>,
    sticky: bool,
    /// Bytes of rows in the engine, when the upkeep looked last.
    engine_bytes: AtomicU64,
    /// Whether the engine had no room when it was written to last.
    engine_full: AtomicBool,
    /// In use, when a write went beyond the quota the last time.
    exceeded_at: AtomicU64,
    /// Whether this member raised its alarm, in this life or before: it does not clear one that somebody asked for.
    ours: AtomicBool,
    /// Whether the alarm stood when the upkeep looked last.
    was_raised: AtomicBool,
    /// Held by whoever raises or clears the alarm.
    changing: Arc<Mutex<()>>,
}

/// What the upkeep sees of this member's space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whether a disk has no room.
    pub disk_full: bool,
    /// Free bytes on the engine's disk; `None`: it has none.
    pub disk_free: Option<u64>,
    /// Bytes in use.
    pub used: u64,
    /// Whether this member's alarm is raised.
    pub raised: bool,
}

impl Space {
    /// `quota_bytes`: most bytes of rows; `None`: what the disk holds. `sticky`: the alarm goes by request only.
    pub(super) fn new(quota_bytes: Option<u64>, sticky: bool) -> Self {
        Self {
            quota_bytes,
            sticky,
            engine_bytes: AtomicU64::new(0),
            engine_full: AtomicBool::new(false),
            exceeded_at: AtomicU64::new(u64::MAX),
            ours: AtomicBool::new(false),
            was_raised: AtomicBool::new(false),
            changing: Arc::default(),
        }
    }

    /// Takes note of the engine's size.
    pub(super) fn note_engine(&self, bytes: u64) {
        self.engine_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes note of whether the engine has room.
    pub(super) fn note_engine_full(&self, full: bool) {
        self.engine_full.store(full, Ordering::Relaxed);
    }

    /// Takes note of whether the alarm stands. One that stood before the start was raised by this member, for all it knows.
    pub(super) fn note_alarm(&self, raised: bool, before_start: bool) {
        if self.was_raised.swap(raised, Ordering::Relaxed) && !raised {
            self.ours.store(false, Ordering::Relaxed);
            self.exceeded_at.store(u64::MAX, Ordering::Relaxed);
        }
        if raised && before_start {
            self.ours.store(true, Ordering::Relaxed);
        }
    }

    /// This member is about to raise the alarm; because of the quota, if it says what is in use.
    pub(super) fn claim_alarm(&self, exceeded_at: Option<u64>) {
        self.ours.store(true, Ordering::Relaxed);
        self.exceeded_at.store(exceeded_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The right to raise or clear the alarm, if nobody has it.
    pub(super) fn try_change(&self) -> Option<OwnedMutexGuard<()>> {
        self.changing.clone().try_lock_owned().ok()
    }

    /// What is to be done about the alarm: `true` raises it, `false` clears it.
    pub(super) fn decide(&self, look: Look) -> Option<bool> {
        if look.disk_full {
            return (!look.raised).then_some(true);
        }
        let room = look.disk_free.is_none_or(|free| free >= FREE_BYTES_MIN);
        let ours = self.ours.load(Ordering::Relaxed);
        let clear = look.raised && ours && !self.sticky && room && look.used < self.clear_below();
        clear.then_some(false)
    }

    fn clear_below(&self) -> u64 {
        let Some(quota) = self.quota_bytes else { return u64::MAX };
        let part = quota / 100 * HYSTERESIS_PERCENT;
        (quota - part).min(self.exceeded_at.load(Ordering::Relaxed).saturating_sub(part))
    }

    /// Whether `cost` more goes beyond the quota, as etcd computes it. `tail_bytes` wait for the engine.
    fn exceeds(&self, tail_bytes: usize, cost: usize) -> Option<u64> {
        let quota = self.quota_bytes?;
        let used = self.engine_bytes.load(Ordering::Relaxed) + tail_bytes as u64;
        (cost > 0 && used + cost as u64 >= quota).then_some(used)
    }
}

impl Group {
    /// Refuses what costs `cost` bytes if that goes beyond the quota, and raises the alarm then. A leader whose disk is full
    /// refuses it whether or not the alarm could be raised: there may be no room to log that.
    pub(crate) async fn admit_space(self: &Arc<Self>, cost: usize) -> Result<(), Error> {
        if cost > 0 && self.is_full_leader() {
            self.raise_full_disk().await;
            return Err(Error::Rejected(Rejection::NoSpace));
        }
        if cost > 0 && self.leader_is_full() {
            return Err(Error::Rejected(Rejection::NoSpace));
        }
        let Some(used) = self.space.exceeds(self.state.store.tail_bytes(), cost) else { return Ok(()) };
        self.raise_no_space(Some(used)).await;
        Err(Error::Rejected(Rejection::NoSpace))
    }

    /// Whether this member leads, its disk is full, and a batch of another member takes space. Raises the alarm then.
    ///
    /// If the batch goes beyond the leader's quota, and the disk has room, the alarm is raised and the batch is taken: it comes
    /// behind the alarm in the log, so that every member refuses what takes space in it, and carries out the rest.
    pub(crate) async fn has_no_room_for(self: &Arc<Self>, batch: &Bytes) -> bool {
        let (is_leader, is_full) = (self.role.borrow().is_leader, self.is_full_leader());
        // No put costs more than that for each of its bytes in the batch: far from the quota nobody has to look into it.
        let cost_max = batch.len().saturating_mul(PUT_BYTES);
        if !is_leader || !is_full && self.space.exceeds(self.state.store.tail_bytes(), cost_max).is_none() {
            return false;
        }
        // (Bytes that are no batch are refused by whoever applies them, with or without room.)
        let cost = decode_batch(batch.clone())
            .map_or(0, |batch| batch.requests.iter().map(|request| command_cost(&request.command)).sum());
        if cost > 0 && is_full {
            self.raise_full_disk().await;
            return true;
        }
        if let Some(used) = self.space.exceeds(self.state.store.tail_bytes(), cost) {
            self.raise_no_space(Some(used)).await;
        }
        false
    }

    fn is_full_leader(&self) -> bool {
        let disk_full = self.log.is_short_of_space() || self.space.engine_full.load(Ordering::Relaxed);
        disk_full && self.role.borrow().is_leader
    }

    fn leader_is_full(&self) -> bool {
        let role = self.role.borrow();
        !role.is_leader && self.state.leader_room.is_used_up(role.term)
    }

    /// Raises the alarm of a full disk. If it does not come through in time, it does when there is room.
    async fn raise_full_disk(self: &Arc<Self>) {
        let _ = tokio::time::timeout(FULL_DISK_ALARM_WAIT, self.raise_no_space(None)).await;
    }

    /// Raises the alarm if it does not stand; `exceeded_at` is what is in use, if the quota is why. Goes on if nobody waits.
    async fn raise_no_space(self: &Arc<Self>, exceeded_at: Option<u64>) {
        let changing = self.space.changing.clone().lock_owned().await;
        let alarm = self.no_space_alarm();
        if self.state.store.alarms().contains(&alarm) {
            return;
        }
        match exceeded_at {
            Some(used) => {
                tracing::error!(used, quota = self.space.quota_bytes, "the quota is used up: raising NOSPACE")
            }
            None => tracing::error!("a disk of this member is full: raising NOSPACE"),
        }
        self.space.claim_alarm(exceeded_at);
        let group = self.clone();
        let raised = tokio::spawn(async move {
            let _changing = changing;
            group.write(Command::AlarmActivate(alarm)).await
        });
        if let Ok(Err(error)) = raised.await {
            tracing::warn!(%error, "cannot tell the cluster that there is no space");
        }
    }

    /// The alarm about this member's space.
    pub(crate) fn no_space_alarm(&self) -> Alarm {
        Alarm { member: self.state.member, kind: AlarmKind::NoSpace }
    }
}

/// What a command costs: 0 if it takes no space, so that it is never refused for want of it.
pub(super) fn command_cost(command: &Command) -> usize {
    match command {
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => LEASE_BYTES,
        Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::MemberPublish { .. }
        | Command::MemberForget { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::ClusterVersionSet(_)
        | Command::DowngradeEnable(_)
        | Command::DowngradeCancel
        | Command::Auth(_) => 0,
    }
}

/// What a transaction costs: the branch with the more of puts. As in etcd, but that puts of nested transactions count.
pub(crate) fn txn_cost(txn: &Txn) -> usize {
    let branch = |ops: &[Op]| ops.iter().map(op_cost).sum::<usize>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost(op: &Op) -> usize {
    match op {
        Op::Put(put) => PUT_BYTES + put.key.len() + put.value.len(),
        Op::Txn(txn) => txn_cost(txn),
        Op::Range(_) | Op::DeleteRange(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{DeleteRange, KeyRange, Put};

    fn look(used: u64) -> Look {
        Look { disk_full: false, disk_free: Some(1 << 30), used, raised: true }
    }

    #[test]
    fn a_put_costs_what_it_costs_in_etcd_and_a_transaction_its_dearer_branch() {
        let put = |size: usize| Op::Put(Put { key: "key".into(), value: vec![0; size].into(), ..Put::default() });
        let delete = Op::DeleteRange(DeleteRange { range: KeyRange::Single("key".into()), prev_kv: false });
        assert_eq!(txn_cost(&Txn::of(put(10))), 269);
        assert_eq!(txn_cost(&Txn::of(delete.clone())), 0);
        let nested = Op::Txn(Txn { failure: vec![put(1)], ..Txn::default() });
        let txn = Txn { success: vec![put(0), delete], failure: vec![put(1), nested], ..Txn::default() };
        assert_eq!(txn_cost(&txn), 2 * 260);
    }

    #[test]
    fn the_quota_is_used_up_when_a_cost_reaches_it() {
        let space = Space::new(Some(1000), false);
        space.note_engine(600);
        assert_eq!(space.exceeds(100, 299), None);
        assert_eq!(space.exceeds(100, 300), Some(700));
        assert_eq!(space.exceeds(900, 0), None, "what costs nothing is never refused");
        assert_eq!(Space::new(None, false).exceeds(usize::MAX >> 1, 1), None);
    }

    #[test]
    fn the_alarm_goes_when_a_part_of_the_quota_is_free_again() {
        let space = Space::new(Some(1000), false);
        space.note_alarm(true, false);
        assert_eq!(space.decide(look(0)), None, "raised by request");
        space.note_alarm(true, true);
        assert_eq!(space.decide(look(950)), None);
        assert_eq!(space.decide(look(949)), Some(false));
        assert_eq!(space.decide(Look { raised: false, ..look(949) }), None);
        assert_eq!(space.decide(Look { disk_free: Some(1 << 20), ..look(0) }), None, "the disk is as good as full");
        let sticky = Space::new(Some(1000), true);
        sticky.note_alarm(true, true);
        assert_eq!(sticky.decide(look(0)), None);
    }

    #[test]
    fn a_large_write_that_found_no_room_does_not_clear_the_alarm_that_it_has_raised() {
        let space = Space::new(Some(1000), false);
        space.claim_alarm(Some(900));
        space.note_alarm(true, false);
        assert_eq!(space.decide(look(850)), None);
        assert_eq!(space.decide(look(849)), Some(false));
        // Cleared, then raised by request.
        space.note_alarm(false, false);
        space.note_alarm(true, false);
        assert_eq!(space.decide(look(0)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_leader_has_no_room_counts_for_a_moment_and_for_its_term() {
        let room = LeaderRoom::default();
        assert!(!room.is_used_up(3));
        room.note_none(3);
        assert!(room.is_used_up(3));
        assert!(!room.is_used_up(4), "another leader may have room");
        tokio::time::advance(LEADER_FULL_FOR).await;
        assert!(!room.is_used_up(3));
    }

    #[test]
    fn a_full_disk_raises_the_alarm_whatever_the_quota() {
        let space = Space::new(None, true);
        let full = Look { disk_full: true, raised: false, ..look(0) };
        assert_eq!(space.decide(full), Some(true));
        assert_eq!(space.decide(Look { raised: true, ..full }), None);
    }
}
