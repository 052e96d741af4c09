//! When leases expire: the leader's clock, and nobody else's. A plain data structure; the caller passes the time in.
//!
//! Leases are replicated, deadlines are not: they start when a member becomes leader and end when it resigns. A member
//! that does not lead answers nothing. The clock only says what is due; that a lease is gone is decided by the log.
//!
//! What it guarantees: never early. A deadline is at least the full time to live (or what a checkpoint left of it) after
//! the grant, the renewal or the start of the leadership; whole seconds that are answered are rounded down, those that a
//! checkpoint stores are rounded up. Once a lease is past its deadline it stays expired: it can not be renewed, because
//! its revocation may be under way.
//!
//! `now` is the time since any fixed moment, and never goes back within a leadership.

use quorate_core::{Lease, LeaseId};
use quorate_sabotage::sabotage;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Deadlines of the leases of one group. All operations are O(log leases), but for those that return a list.
#[derive(Debug)]
pub struct LeaseClock {
    retry_interval: Duration,
    /// `None` unless this member leads.
    leading: Option<Leading>,
}

#[derive(Debug, Default)]
struct Leading {
    leases: BTreeMap<LeaseId, Entry>,
    /// When each lease is due: its deadline, or after that the next time to report it again.
    due: BTreeSet<(Duration, LeaseId)>,
    /// Since when each lease has had no checkpoint.
    unchecked: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ttl_seconds: i64,
    deadline: Duration,
    /// Its key in `due`.
    due: Duration,
    /// Its key in `unchecked`.
    unchecked: Duration,
    /// The remaining seconds in the replicated lease; 0: none.
    checkpoint: i64,
    /// The last remaining seconds that were to be proposed, until they are applied.
    checkpoint_proposed: Option<i64>,
}

/// A lease was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Its time to live from now, in seconds.
    pub ttl_seconds: i64,
    /// The log holds, or may soon hold, a checkpoint from before the renewal. A new leader would go by it and be too
    /// early. So the renewal counts only when a checkpoint of 0 for this lease has been applied: propose it, then answer.
    pub clear_checkpoint: bool,
}

impl LeaseClock {
    /// A clock of a member that does not lead. A lease that is due and still there is reported again after
    /// `retry_interval`.
    pub fn new(retry_interval: Duration) -> Self {
        Self { retry_interval, leading: None }
    }

    /// Whether this member leads, as far as the clock was told.
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Starts all deadlines: each lease gets its full time again, or what its last checkpoint left. Best called when the
    /// entries of earlier leaders are applied; if not, deadlines may come later than need be, and what
    /// [`remaining`](Self::remaining) answers may be more than the next leader grants.
    pub fn become_leader(&mut self, now: Duration, leases: impl IntoIterator<Item = Lease>) {
        let mut leading = Leading::default();
        for lease in leases {
            leading.start(now, lease);
        }
        self.leading = Some(leading);
    }

    /// Forgets all deadlines.
    pub fn resign(&mut self) {
        self.leading = None;
    }

    /// The replicated lease is like this now. One that is not known was granted, and starts; one that is known had a
    /// checkpoint applied (no id is granted again before it is revoked): see [`checkpointed`](Self::checkpointed).
    pub fn grant(&mut self, now: Duration, lease: Lease) {
        let Some(leading) = &mut self.leading else { return };
        if leading.leases.contains_key(&lease.id) {
            self.checkpointed(now, lease.id, lease.remaining_ttl_seconds);
        } else {
            leading.start(now, lease);
        }
    }

    /// Renews a lease. `None` if it is unknown or expired, or this member does not lead.
    pub fn renew(&mut self, now: Duration, id: LeaseId) -> Option<Renewal> {
        let leading = self.leading.as_mut()?;
        let mut entry =
            leading.leases.get(&id).copied().filter(|entry| now < entry.deadline || sabotage!(LeaseRenewedAfterEnd))?;
        let clear_checkpoint = entry.checkpoint != 0 || entry.checkpoint_proposed.is_some();
        if clear_checkpoint {
            entry.checkpoint_proposed = Some(0);
        }
        entry.extend(now);
        leading.update(id, entry);
        Some(Renewal { ttl_seconds: entry.ttl_seconds, clear_checkpoint })
    }

    /// A lease was revoked: the log says so.
    pub fn revoke(&mut self, id: LeaseId) {
        if let Some(leading) = &mut self.leading {
            leading.stop(id);
        }
    }

    /// A checkpoint of `remaining_seconds` was applied; 0 is the trace of a renewal, perhaps by an earlier leader, and
    /// gives the lease its full time.
    pub fn checkpointed(&mut self, now: Duration, id: LeaseId, remaining_seconds: i64) {
        let Some(leading) = &mut self.leading else { return };
        let Some(mut entry) = leading.leases.get(&id).copied() else { return };
        entry.checkpoint = remaining_seconds;
        if entry.checkpoint_proposed == Some(remaining_seconds) {
            entry.checkpoint_proposed = None;
        }
        // One that expired meanwhile stays so.
        if remaining_seconds == 0 && now < entry.deadline {
            entry.extend(now);
        }
        leading.update(id, entry);
    }

    /// Whole seconds that a lease has left; 0 when it is expired but still there. `None` if it is unknown, or this member
    /// does not lead.
    pub fn remaining(&self, now: Duration, id: LeaseId) -> Option<i64> {
        let entry = self.leading.as_ref()?.leases.get(&id)?;
        Some(seconds_floor(entry.deadline.saturating_sub(now)))
    }

    /// At most `max` leases that are due, those that are longest due first. Propose to revoke them. A lease is returned
    /// again only when the retry interval has passed and it is still there.
    pub fn expired(&mut self, now: Duration, max: usize) -> Vec<LeaseId> {
        let Some(leading) = &mut self.leading else { return Vec::new() };
        if sabotage!(LeaseNeverExpires) {
            return Vec::new();
        }
        let due: Vec<LeaseId> =
            leading.due.iter().take_while(|(due, _)| *due <= now).take(max).map(|(_, id)| *id).collect();
        for id in &due {
            if let Some(mut entry) = leading.leases.get(id).copied() {
                entry.due = now + self.retry_interval;
                leading.update(*id, entry);
            }
        }
        due
    }

    /// When [`expired`](Self::expired) has something to return next, if nothing changes; `None` if never.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.leading.as_ref()?.due.first().map(|(due, _)| *due)
    }

    /// All leases, the one that expires first in front.
    pub fn by_expiry(&self) -> Vec<LeaseId> {
        let Some(leading) = &self.leading else { return Vec::new() };
        let mut leases: Vec<_> = leading.leases.iter().map(|(id, entry)| (entry.deadline, *id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// At most `max` leases, with their remaining seconds, for which the log should remember how much time is left: those
    /// with more than `every` left, whose grant, renewal or last checkpoint is at least `every` ago. Propose them in one
    /// command. What is returned is not returned again before `every` has passed.
    pub fn checkpoints(&mut self, now: Duration, every: Duration, max: usize) -> Vec<(LeaseId, i64)> {
        let Some(leading) = &mut self.leading else { return Vec::new() };
        let visited: Vec<LeaseId> = leading
            .unchecked
            .iter()
            .take_while(|(since, _)| *since + every <= now)
            .take(max)
            .map(|(_, id)| *id)
            .collect();
        let mut checkpoints = Vec::new();
        for id in visited {
            let Some(mut entry) = leading.leases.get(&id).copied() else { continue };
            let remaining = entry.deadline.saturating_sub(now);
            let remaining_seconds = seconds_ceil(remaining);
            // INVARIANT(lease-early): none is proposed while the trace of a renewal is under way. Two checkpoints of the
            // same seconds, one before the renewal and one after, could not be told apart when they are applied: with the
            // first, the second would count as applied, and the next renewal as safe from it.
            let clearing = entry.checkpoint_proposed == Some(0);
            if remaining > every && remaining_seconds < entry.ttl_seconds && !clearing {
                entry.checkpoint_proposed = Some(remaining_seconds);
                checkpoints.push((id, remaining_seconds));
            }
            // Those that need none are put off, too, or they would be looked at in every call.
            entry.unchecked = now;
            leading.update(id, entry);
        }
        checkpoints
    }
}

impl Leading {
    fn start(&mut self, now: Duration, lease: Lease) {
        let left = if lease.remaining_ttl_seconds > 0 { lease.remaining_ttl_seconds } else { lease.ttl_seconds };
        let left = if sabotage!(LeaseShortAtNewLeader) { left / 2 } else { left };
        let deadline = now + seconds(left);
        self.leases.insert(
            lease.id,
            Entry {
                ttl_seconds: lease.ttl_seconds,
                deadline,
                due: deadline,
                unchecked: now,
                checkpoint: lease.remaining_ttl_seconds,
                checkpoint_proposed: None,
            },
        );
        self.due.insert((deadline, lease.id));
        self.unchecked.insert((now, lease.id));
    }

    fn stop(&mut self, id: LeaseId) {
        if let Some(entry) = self.leases.remove(&id) {
            self.due.remove(&(entry.due, id));
            self.unchecked.remove(&(entry.unchecked, id));
        }
    }

    /// Stores a changed entry, and moves its keys along.
    fn update(&mut self, id: LeaseId, entry: Entry) {
        let Some(old) = self.leases.insert(id, entry) else { return };
        if old.due != entry.due {
            self.due.remove(&(old.due, id));
            self.due.insert((entry.due, id));
        }
        if old.unchecked != entry.unchecked {
            self.unchecked.remove(&(old.unchecked, id));
            self.unchecked.insert((entry.unchecked, id));
        }
    }
}

impl Entry {
    /// Gives the full time from `now` on.
    fn extend(&mut self, now: Duration) {
        let short = i64::from(sabotage!(LeaseSecondShort));
        self.deadline = now + seconds(self.ttl_seconds - short);
        self.due = self.deadline;
        self.unchecked = now;
    }
}

/// A time to live as a duration. The state machine grants none below 1.
fn seconds(ttl_seconds: i64) -> Duration {
    Duration::from_secs(ttl_seconds.try_into().unwrap_or(0))
}

fn seconds_floor(time: Duration) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}

fn seconds_ceil(time: Duration) -> i64 {
    seconds_floor(time).saturating_add(i64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests;
