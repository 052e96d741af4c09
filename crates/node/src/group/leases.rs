//! Leases of a group. TTLs and keys are replicated state; deadlines live here, on the leader only.
//!
//! INVARIANT(lease-early): a lease never expires early. The leader renews only after a quorum has confirmed that it leads;
//! an expiry is proposed for the leader's own term and for no other; a new leader gives every lease its full time again.

use super::{Group, GroupState};
use crate::Error;
use crate::raft::Role;
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::{Command, LeaseId};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Leases that one proposal revokes, and how often at most: 1000 a second, as etcd.
const REVOKES_MAX: usize = 500;
const REVOKE_PAUSE: Duration = Duration::from_millis(500);

/// How often the remaining time of long leases is replicated, so that a new leader does not start them afresh.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// Leases in one checkpoint command.
const CHECKPOINTS_MAX: usize = 1000;

/// Longest sleep of the driver.
const TICK: Duration = Duration::from_secs(10);

impl Group {
    /// Renews a lease at the leader. Returns its TTL in seconds, 0 if there is no such lease.
    pub(crate) async fn lease_renew(&self, id: LeaseId) -> Result<i64, Error> {
        let Answer::LeaseRenew(reply) = self.ask_leader(Ask::LeaseRenew(pb::LeaseRenew { id: id.get() })).await? else {
            return Err(Error::LeaderChanged);
        };
        Ok(reply.ttl_seconds)
    }

    /// Time left of a lease, in whole seconds; -1 if there is no such lease.
    pub(crate) async fn lease_remaining_seconds(&self, id: LeaseId) -> Result<i64, Error> {
        let Answer::LeaseRemaining(reply) =
            self.ask_leader(Ask::LeaseRemaining(pb::LeaseRemaining { id: id.get() })).await?
        else {
            return Err(Error::LeaderChanged);
        };
        Ok(reply.remaining_seconds)
    }

    /// All leases, the one that expires first in front.
    pub(crate) async fn lease_list(&self) -> Result<Vec<LeaseId>, Error> {
        let Answer::LeaseList(reply) = self.ask_leader(Ask::LeaseList(pb::LeaseList {})).await? else {
            return Err(Error::LeaderChanged);
        };
        Ok(reply.ids.into_iter().map(LeaseId::new).collect())
    }

    /// Answers a lease request as leader; `None`: this member does not lead, or its clock does not run yet.
    pub(crate) async fn lease_as_leader(&self, ask: &Ask) -> Option<Answer> {
        if !self.role().is_leader {
            return None;
        }
        // A deposed leader that does not know it yet must neither renew nor tell of time that is left.
        if !sabotage!(LeaseRenewedByOldLeader) {
            self.linearize().await.ok()?;
        }
        let mut renewed_checkpoint = None;
        let answer = {
            let now = self.state.now();
            let mut clock = self.state.leases.lock();
            if !clock.is_leading() {
                return None;
            }
            match ask {
                Ask::LeaseRenew(renew) => {
                    let id = LeaseId::new(renew.id);
                    let renewal = clock.renew(now, id);
                    self.state.figures.lease_renewed.fetch_add(1, Ordering::Relaxed);
                    renewed_checkpoint = renewal.filter(|r| r.clear_checkpoint).map(|_| id);
                    let ttl_seconds = renewal.map_or(0, |r| r.ttl_seconds);
                    Answer::LeaseRenew(pb::LeaseRenewReply { ttl_seconds })
                }
                Ask::LeaseRemaining(remaining) => {
                    let remaining_seconds = clock.remaining(now, LeaseId::new(remaining.id)).unwrap_or(-1);
                    Answer::LeaseRemaining(pb::LeaseRemainingReply { remaining_seconds })
                }
                Ask::LeaseList(_) => {
                    let ids = clock.by_expiry().into_iter().map(LeaseId::get).collect();
                    Answer::LeaseList(pb::LeaseListReply { ids })
                }
                Ask::Append(_)
                | Ask::Vote(_)
                | Ask::PreVote(_)
                | Ask::TransferLeader(_)
                | Ask::ReadIndex(_)
                | Ask::Forward(_)
                | Ask::MemberChange(_)
                | Ask::ClusterInfo(_)
                | Ask::SnapshotBegin(_)
                | Ask::SnapshotChunk(_)
                | Ask::SnapshotEnd(_)
                | Ask::Status(_)
                | Ask::Rebuild(_)
                | Ask::PullBegin(_)
                | Ask::PullNext(_)
                | Ask::Hash(_) => return None,
            }
        };
        if let Some(id) = renewed_checkpoint {
            // The next leader must not take the old checkpoint for what is left: answer only when it is gone.
            let term = self.role().term;
            if !self.propose_as_leader(term, &[Command::LeaseCheckpoint { remaining: vec![(id, 0)] }]).await {
                return None;
            }
        }
        Some(answer)
    }

    /// Asks whoever leads, this member included, until somebody answers or the time is up.
    pub(crate) async fn ask_leader(&self, ask: Ask) -> Result<Answer, Error> {
        let attempt = async {
            let mut role = self.watch_role();
            loop {
                if let Some(error) = self.state.failure() {
                    return Err(error);
                }
                let now = role.borrow_and_update().clone();
                let answer = match now.leader {
                    Some(_) if now.is_leader => self.lease_as_leader(&ask).await,
                    Some(leader) => {
                        let timeout = self.options.read_timeout;
                        self.peers().call(leader, self.state.group, ask.clone(), timeout).await.ok()
                    }
                    None => None,
                };
                if let Some(answer) = answer {
                    return Ok(answer);
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), role.changed()).await;
            }
        };
        match tokio::time::timeout(self.options.read_timeout, attempt).await {
            Ok(result) => result,
            Err(_elapsed) => Err(if self.role().leader.is_some() { Error::Timeout } else { Error::NoLeader }),
        }
    }
}

/// Starts and stops the lease clock with leadership, and proposes the revocation of what has expired.
pub(super) struct Driver {
    group: Weak<Group>,
    state: Arc<GroupState>,
    role: watch::Receiver<Role>,
    /// The term for which the clock runs.
    running: Option<u64>,
}

impl Driver {
    pub(super) fn new(group: &Arc<Group>) -> Self {
        Self { group: Arc::downgrade(group), state: group.state.clone(), role: group.watch_role(), running: None }
    }

    /// Runs until the group is gone.
    pub(super) async fn run(mut self) {
        let mut leader_seen = None;
        let mut next_checkpoint = self.state.now() + CHECKPOINT_INTERVAL;
        while self.group.strong_count() > 0 {
            let role = self.role.borrow_and_update().clone();
            if role.stopped {
                return;
            }
            if role.leader.is_some() && role.leader != leader_seen {
                leader_seen = role.leader;
                self.state.figures.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            self.follow(&role);
            if let Some(term) = self.running {
                self.revoke_expired(term).await;
                if self.state.now() >= next_checkpoint {
                    next_checkpoint = self.state.now() + CHECKPOINT_INTERVAL;
                    self.checkpoint(term).await;
                }
            }
            self.sleep(&role).await;
        }
    }

    /// Starts the clock once everything that earlier leaders committed is applied here; stops it when leadership is lost.
    fn follow(&mut self, role: &Role) {
        let leads = role.is_leader && self.state.applied().term == role.term;
        if leads && self.running != Some(role.term) {
            let now = self.state.now();
            let mut clock = self.state.leases.lock();
            clock.become_leader(now, self.state.store.leases());
            self.running = Some(role.term);
        } else if !leads && self.running.is_some() {
            self.state.leases.lock().resign();
            self.running = None;
        }
    }

    async fn revoke_expired(&self, term: u64) {
        let expired = self.state.leases.lock().expired(self.state.now(), REVOKES_MAX);
        if expired.is_empty() {
            return;
        }
        self.state.figures.lease_expired.fetch_add(expired.len() as u64, Ordering::Relaxed);
        let commands: Vec<Command> = expired.iter().map(|id| Command::LeaseRevoke { id: *id }).collect();
        if let Some(group) = self.group.upgrade() {
            if sabotage!(LeaseRevokedByOldLeader) {
                for command in commands {
                    let _ = group.write(command).await;
                }
                return;
            }
            group.propose_as_leader(term, &commands).await;
        }
        if expired.len() == REVOKES_MAX {
            tokio::time::sleep(REVOKE_PAUSE).await;
        }
    }

    async fn checkpoint(&self, term: u64) {
        let remaining = self.state.leases.lock().checkpoints(self.state.now(), CHECKPOINT_INTERVAL, CHECKPOINTS_MAX);
        if remaining.is_empty() {
            return;
        }
        if let Some(group) = self.group.upgrade() {
            group.propose_as_leader(term, &[Command::LeaseCheckpoint { remaining }]).await;
        }
    }

    async fn sleep(&mut self, role: &Role) {
        let now = self.state.now();
        let mut pause = TICK;
        if self.running.is_some() {
            if let Some(deadline) = self.state.leases.lock().next_deadline() {
                pause = pause.min(deadline.saturating_sub(now).max(Duration::from_millis(1)));
            }
        } else if role.is_leader {
            // Waiting for the first entry of our term to be applied.
            pause = Duration::from_millis(10);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = self.role.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(TICK).await;
                }
            }
            () = self.state.lease_news.notified() => {}
        }
    }
}
