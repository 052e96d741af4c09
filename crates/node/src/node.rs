//! [`Node`]: the public face of this crate.

use crate::env::{Env, OsEnv};
use crate::error::storage_error;
use crate::group::{Group, LEASE_BYTES, Written, txn_cost};
use crate::peer::PeerError;
use crate::snapshot::SnapshotReader;
use crate::stages::{self, Stage};
use crate::start::{self, Running};
use crate::watch::{WatchControl, WatchStream};
use crate::{Config, Error, error_code, membership};
use bytes::Bytes;
use pb::member_change::Change;
use pb::request::Kind as Ask;
use pb::response::Kind as PeerAnswer;

use quorate_core::{
    Alarm, Caller, ClusterId, ClusterVersions, Command, GroupId, KeyRange, LEASE_TTL_SECONDS_MAX, LeaseId, LogIndex,
    MemberId, Op, OpReply, RangeCursor, RangeReply, RangeRequest, Rejection, Reply, Revision, Term, Txn, TxnReply,
    View,
};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use quorate_storage::{HashKv, ReadView};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Bytes and keys of a range that are read before other requests get their turn.
const RANGE_CHUNK_BYTES: usize = 1 << 20;
const RANGE_CHUNK_KEYS: usize = 1000;

/// Reads of long ranges at a time. Each has its whole answer in memory; more of them would not make any of them faster.
pub(crate) const LONG_READS_MAX: usize = 4;

/// How often a physical compaction is looked at. It ends when the caller goes away, or when the old data is gone.
const COMPACTION_POLL: Duration = Duration::from_millis(10);

/// How long a leader transfer may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// What every answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member that answered.
    pub member_id: MemberId,
    /// Revision of the store when the answer was made; after a write, its revision.
    pub revision: Revision,
    /// The member's Raft term.
    pub raft_term: Term,
}

/// An answer with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The header.
    pub header: Header,
    /// The answer.
    pub body: T,
}

/// Time to live of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    /// The lease.
    pub id: LeaseId,
    /// Whole seconds that are left; -1: no such lease.
    pub ttl_seconds: i64,
    /// As granted; 0: no such lease.
    pub granted_ttl_seconds: i64,
    /// The keys on it, if asked for.
    pub keys: Vec<Bytes>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id.
    pub id: MemberId,
    /// Empty until it has started.
    pub name: String,
    /// Where the others reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Gets the log, has no vote.
    pub is_learner: bool,
}

/// State of this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The leader, if one is known.
    pub leader: Option<MemberId>,
    /// Raft term.
    pub term: Term,
    /// Last log index that is committed.
    pub committed_index: LogIndex,
    /// Last log index that is applied.
    pub applied_index: LogIndex,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// Bytes that the engine's files take.
    pub db_size_bytes: i64,
    /// Bytes of them that hold rows: what the quota bounds.
    pub db_size_in_use_bytes: i64,
    /// The quota in force: as configured; by default the size of the disk, 0 if the engine has none; negative is none.
    pub db_quota_bytes: i64,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Alarms.
    pub alarms: Vec<Alarm>,
    /// Live keys.
    pub keys: u64,
    /// What the members have agreed on about versions.
    pub versions: ClusterVersions,
}

/// How far a long piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What is done.
    pub done: u64,
    /// How much it is in all; may grow while it is done.
    pub total: u64,
}

/// Long work on this member's storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceProgress {
    /// The defragmentation that is under way, in bytes of rows; `None` if there is none, or the engine does not tell.
    pub defragmentation: Option<Work>,
    /// The removal of what a compaction has made unreadable, in revisions; `None` if nothing is due.
    pub compaction: Option<Work>,
}

/// A running node. A cheap handle: clones share the node, and it stops with [`Node::shutdown`].
///
/// A handle acts for one [`Caller`]. The one that [`Node::start`] gives acts for the program that embeds it, and may do
/// everything; [`Node::on_behalf_of`] gives one that may do what its caller may. It fails with [`Rejection::PermissionDenied`]
/// and its like where the caller may not.
#[derive(Clone)]
pub struct Node {
    running: Arc<Running>,
    caller: Caller,
}

impl Node {
    /// Opens the data directory, joins the cluster, and returns when the node serves peers. (A leader may not be known yet:
    /// see [`Node::wait_ready`].) Needs a tokio runtime with timers. Raft, the streams between members and all other tasks of the
    /// node run on one of their own, however busy the caller's is.
    ///
    /// # Errors
    /// [`Error::Fatal`] with what is wrong and what to do: directory in use, damaged or of another format, engine or
    /// cluster that does not match, port in use, identity that the cluster refuses.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_in(config, Arc::new(OsEnv::new())).await
    }

    /// Likewise, with an outside of the caller's: for simulations.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_in(config: Config, env: Arc<dyn Env>) -> Result<Self, Error> {
        Ok(Self { running: start::start(config, env).await?, caller: Caller::System })
    }

    /// The same node, for a caller.
    #[must_use]
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        Self { running: self.running.clone(), caller }
    }

    /// For whom this handle acts.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Waits until this member knows a leader, has applied what was committed before it started, and the cluster knows its
    /// name and client URLs.
    ///
    /// # Errors
    /// Why the node stopped, if it did meanwhile.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        let state = &self.running.group.state;
        let ready = async {
            // Until then even a serializable read could show a state older than one that was read here before.
            while !self.running.group.raft.wait_for_recovery(Duration::from_secs(10)).await {
                if state.failure().is_some() {
                    // `stopped` tells why.
                    return std::future::pending().await;
                }
                tracing::info!("waiting for a leader");
            }
            let mut applied = state.watch_applied();
            let me = MemberId::new(self.running.identity.member_id);
            while !membership::told(&state.store).contains_key(&me) {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            error = self.stopped() => Err(error),
        }
    }

    /// The configuration that the node runs with.
    pub fn config(&self) -> &Config {
        &self.running.config
    }

    /// This member.
    pub fn member_id(&self) -> MemberId {
        MemberId::new(self.running.identity.member_id)
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId::new(self.running.identity.cluster_id)
    }

    pub(crate) fn group(&self) -> &Group {
        &self.running.group
    }

    /// The header of an answer that is made now.
    pub fn header(&self) -> Header {
        self.header_at(self.running.group.state.store.revision())
    }

    pub(crate) fn header_at(&self, revision: Revision) -> Header {
        Header {
            cluster_id: self.cluster_id(),
            member_id: self.member_id(),
            revision,
            raft_term: Term::new(self.running.group.role().term),
        }
    }

    fn answer<T>(&self, body: T) -> Answer<T> {
        Answer { header: self.header(), body }
    }

    pub(crate) fn refuse_on_learner(&self) -> Result<(), Error> {
        let me = self.member_id().get();
        // A member that is about to become a voter serves as one: its reads go to the leader like everybody's.
        let learner = self.running.group.role().is_learner
            && membership::members(&self.running.group)?.iter().any(|m| m.id.get() == me && m.is_learner);
        if learner { Err(Error::NotSupportedForLearner) } else { Ok(()) }
    }

    /// Reads a range: linearizable, unless `request.serializable`. A large range is read in steps, so that it holds nothing
    /// up; all of it is from one revision. Of such large ones a few are read at a time, and the others wait.
    ///
    /// # Errors
    /// Rejections of [`quorate_core::range`]; [`Error::NotSupportedForLearner`]; no leader or no quorum in time.
    pub async fn range(&self, request: RangeRequest) -> Result<Answer<RangeReply>, Error> {
        let before = sabotage!(HeaderBeforeRead).then(|| self.header());
        if !request.serializable {
            self.refuse_on_learner()?;
            self.running.group.linearize().await?;
        }
        let turns = &self.running.long_reads;
        let mut turn = None;
        loop {
            self.check_running()?;
            let view = self.running.group.state.store.view();
            view.auth().check_read(&self.caller, &request.range)?;
            let header = before.unwrap_or_else(|| self.header_at(view.revision()));
            let began = Instant::now();
            let body = read_range(&view, &request, turns, turn).await;
            stages::note(Stage::Engine, began.elapsed());
            if let Some(body) = body? {
                return Ok(Answer { header, body });
            }
            // Nothing is kept while it waits: what was read is read again, maybe from a later revision.
            drop(view);
            turn = Some(turns.acquire().await.map_err(|_| Error::Stopped)?);
        }
    }

    /// Opens a range for reading in chunks, all from one revision. For ranges that do not fit in memory.
    ///
    /// # Errors
    /// As [`Node::range`].
    pub async fn range_chunks(&self, request: RangeRequest) -> Result<RangeReader, Error> {
        if !request.serializable {
            self.refuse_on_learner()?;
            self.running.group.linearize().await?;
        }
        self.check_running()?;
        let view = self.running.group.state.store.view();
        view.auth().check_read(&self.caller, &request.range)?;
        let header = self.header_at(view.revision());
        let cursor = RangeCursor::new(&view, &request)?;
        Ok(RangeReader { header, view, cursor })
    }

    fn check_running(&self) -> Result<(), Error> {
        if let Some(error) = self.running.group.state.failure() {
            return Err(error);
        }
        self.out_of_service().map_or(Ok(()), |why| Err(Error::Rebuild(why)))
    }

    /// Why this member serves no client until it has rebuilt itself from the others, if that is so.
    pub fn out_of_service(&self) -> Option<String> {
        let why = self.running.group.state.doubt()?;
        Some(format!("etcdserver: the member is out of service until it has rebuilt itself: {why}"))
    }

    /// Runs a transaction. One that only reads does not go through the log. The caller has checked it with
    /// [`quorate_core::check_txn`].
    ///
    /// # Errors
    /// Rejections of [`quorate_core::apply`]. Errors of which [`Error`] says so leave the outcome unknown.
    pub async fn txn(&self, txn: Txn) -> Result<Answer<TxnReply>, Error> {
        self.refuse_on_learner()?;
        if txn.is_read_only() {
            return self.read_txn(txn).await;
        }
        self.running.group.admit_space(txn_cost(&txn)).await?;
        let Written { reply, revision, .. } = self.write(Command::Txn(txn)).await?;
        match reply {
            Reply::Txn(body) => Ok(Answer { header: self.header_at(revision), body }),
            other => Err(wrong_reply(&other)),
        }
    }

    pub(crate) async fn write(&self, command: Command) -> Result<Written, Error> {
        self.check_running()?;
        self.running.group.write_as(&self.caller, command).await
    }

    async fn read_txn(&self, txn: Txn) -> Result<Answer<TxnReply>, Error> {
        if !txn.is_serializable() {
            self.running.group.linearize().await?;
        }
        self.check_running()?;
        let view = self.running.group.state.store.view();
        let began = Instant::now();
        let effects = quorate_core::apply(&view, &self.caller, &Command::Txn(txn)).map_err(storage_error);
        stages::note(Stage::Engine, began.elapsed());
        let effects = effects?;
        match effects.reply? {
            Reply::Txn(body) => Ok(Answer { header: self.header_at(view.revision()), body }),
            other => Err(wrong_reply(&other)),
        }
    }

    /// Writes one key.
    ///
    /// # Errors
    /// As [`Node::txn`].
    pub async fn put(&self, put: quorate_core::Put) -> Result<Answer<Option<quorate_core::KeyValue>>, Error> {
        let answer = self.txn(Txn::of(Op::Put(put))).await?;
        match answer.body.responses.into_iter().next() {
            Some(OpReply::Put { prev_kv, .. }) => Ok(Answer { header: answer.header, body: prev_kv }),
            Some(OpReply::Range { .. } | OpReply::DeleteRange { .. } | OpReply::Txn(_)) | None => {
                Err(Error::Fatal("a put was answered with something else".into()))
            }
        }
    }

    /// Deletes the keys of a range. Returns how many, and what was there if asked for.
    ///
    /// # Errors
    /// As [`Node::txn`].
    pub async fn delete_range(
        &self,
        delete: quorate_core::DeleteRange,
    ) -> Result<Answer<(i64, Vec<quorate_core::KeyValue>)>, Error> {
        let answer = self.txn(Txn::of(Op::DeleteRange(delete))).await?;
        match answer.body.responses.into_iter().next() {
            Some(OpReply::DeleteRange { deleted, prev_kvs, .. }) => {
                Ok(Answer { header: answer.header, body: (deleted, prev_kvs) })
            }
            Some(OpReply::Range { .. } | OpReply::Put { .. } | OpReply::Txn(_)) | None => {
                Err(Error::Fatal("a delete was answered with something else".into()))
            }
        }
    }

    /// Forgets history older than `revision`. With `physical`, returns when the old data is gone from this member.
    ///
    /// # Errors
    /// [`Rejection::Compacted`], [`Rejection::FutureRevision`]; as [`Node::txn`].
    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<Answer<()>, Error> {
        self.refuse_on_learner()?;
        let written = self.write(Command::Compact { revision }).await?;
        while physical && !self.running.group.state.store.compaction_done(revision) {
            self.check_running()?;
            tokio::time::sleep(COMPACTION_POLL).await;
        }
        Ok(Answer { header: self.header_at(written.revision), body: () })
    }

    /// Opens a watch stream: many watchers, one order.
    pub fn watch_stream(&self) -> (WatchControl, WatchStream) {
        self.running.group.state.hub.stream()
    }

    /// Grants a lease; id 0 lets the node choose. Returns id and TTL as granted: at least one and a half election timeouts.
    ///
    /// # Errors
    /// [`Rejection::LeaseExists`], [`Rejection::LeaseTtlTooLarge`]; as [`Node::txn`].
    pub async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Answer<(LeaseId, i64)>, Error> {
        self.refuse_on_learner()?;
        if ttl_seconds > LEASE_TTL_SECONDS_MAX {
            return Err(Error::Rejected(Rejection::LeaseTtlTooLarge));
        }
        self.running.group.admit_space(LEASE_BYTES).await?;
        let election_ms = self.config().election_timeout.as_millis() as i64;
        let ttl_seconds = ttl_seconds.max((election_ms * 3 / 2 + 999) / 1000);
        loop {
            let chosen = if id.is_some() { id } else { LeaseId::new(self.random_id()) };
            let result = self.write(Command::LeaseGrant { id: chosen, ttl_seconds }).await;
            match result {
                // By chance the number was taken: take another.
                Err(Error::Rejected(Rejection::LeaseExists)) if !id.is_some() => {}
                Err(error) => return Err(error),
                Ok(Written { reply: Reply::LeaseGrant { id, ttl_seconds }, revision, .. }) => {
                    return Ok(Answer { header: self.header_at(revision), body: (id, ttl_seconds) });
                }
                Ok(Written { reply, .. }) => return Err(wrong_reply(&reply)),
            }
        }
    }

    fn random_id(&self) -> i64 {
        ((self.running.env.random_u64() >> 1) as i64).max(1)
    }

    /// Revokes a lease and deletes its keys, in one revision.
    ///
    /// # Errors
    /// [`Rejection::LeaseNotFound`]; as [`Node::txn`].
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Answer<()>, Error> {
        self.refuse_on_learner()?;
        let written = self.write(Command::LeaseRevoke { id }).await?;
        Ok(Answer { header: self.header_at(written.revision), body: () })
    }

    /// Renews a lease. Returns its TTL in seconds, 0 if there is no such lease. The header is from before the renewal.
    ///
    /// # Errors
    /// No leader, or no answer in time.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Answer<i64>, Error> {
        self.refuse_on_learner()?;
        self.auth().check_user(&self.caller)?;
        let header = self.header();
        let body = self.running.group.lease_renew(id).await?;
        Ok(Answer { header, body })
    }

    /// Time left, and the keys if asked for.
    ///
    /// # Errors
    /// No leader, or no answer in time.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Answer<LeaseTimeToLive>, Error> {
        self.refuse_on_learner()?;
        let ttl_seconds = self.running.group.lease_remaining_seconds(id).await?;
        self.running.group.linearize().await?;
        let view = self.running.group.state.store.view();
        let auth = view.auth();
        auth.check_user(&self.caller)?;
        let keys = if keys { view.lease_keys(id) } else { Vec::new() };
        for key in &keys {
            auth.check_read(&self.caller, &KeyRange::Single(key.clone()))?;
        }
        let header = self.header_at(view.revision());
        let body = match view.lease(id) {
            Some(lease) if ttl_seconds >= 0 => {
                LeaseTimeToLive { id, ttl_seconds, granted_ttl_seconds: lease.ttl_seconds, keys }
            }
            Some(_) | None => LeaseTimeToLive { id, ttl_seconds: -1, granted_ttl_seconds: 0, keys: Vec::new() },
        };
        Ok(Answer { header, body })
    }

    /// How many leases there are, as far as this member has applied the log.
    pub fn lease_count(&self) -> usize {
        self.running.group.state.store.lease_count()
    }

    /// All leases, the one that expires first in front.
    ///
    /// # Errors
    /// No leader, or no answer in time.
    pub async fn leases(&self) -> Result<Answer<Vec<LeaseId>>, Error> {
        self.refuse_on_learner()?;
        self.auth().check_user(&self.caller)?;
        let leases = self.running.group.lease_list().await?;
        Ok(self.answer(leases))
    }

    /// The members, sorted by id.
    ///
    /// # Errors
    /// No leader, or no answer in time.
    pub async fn members(&self, linearizable: bool) -> Result<Answer<Vec<Member>>, Error> {
        if linearizable {
            self.refuse_on_learner()?;
            self.running.group.linearize().await?;
        }
        Ok(self.answer(membership::members(&self.running.group)?))
    }

    /// Adds a member; returns it and all members. A voter takes part in decisions as soon as it has caught up.
    ///
    /// # Errors
    /// [`Error::MemberBadUrls`], [`Error::PeerUrlExists`], [`Error::TooManyLearners`],
    /// [`Error::NotEnoughStartedMembers`]; no leader in time.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
    ) -> Result<Answer<(Member, Vec<Member>)>, Error> {
        let (added, answer) = self.member_change(Change::Add(pb::MemberAdd { peer_urls, learner })).await?;
        let member = answer.body.iter().find(|m| m.id.get() == added).cloned().ok_or(Error::MemberNotFound)?;
        Ok(Answer { header: answer.header, body: (member, answer.body) })
    }

    /// Removes a member; returns those that are left. The removed one stops by itself when it hears of it.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`], [`Error::NotEnoughStartedMembers`]; no leader in time.
    pub async fn member_remove(&self, id: MemberId) -> Result<Answer<Vec<Member>>, Error> {
        Ok(self.member_change(Change::Remove(id.get())).await?.1)
    }

    /// Changes a member's peer URLs.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`], [`Error::MemberBadUrls`], [`Error::PeerUrlExists`]; no leader in time.
    pub async fn member_update(&self, id: MemberId, peer_urls: Vec<String>) -> Result<Answer<Vec<Member>>, Error> {
        let update = pb::MemberUpdate { id: id.get(), peer_urls };
        Ok(self.member_change(Change::Update(update)).await?.1)
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`], [`Error::MemberNotLearner`], [`Error::LearnerNotReady`]; no leader in time.
    pub async fn member_promote(&self, id: MemberId) -> Result<Answer<Vec<Member>>, Error> {
        Ok(self.member_change(Change::Promote(id.get())).await?.1)
    }

    /// Has the leader change the membership, and waits until this member sees it.
    async fn member_change(&self, change: Change) -> Result<(u64, Answer<Vec<Member>>), Error> {
        self.refuse_on_learner()?;
        self.check_root()?;
        let group = &self.running.group;
        let timeout = group.options.write_timeout;
        let removes_me = matches!(change, Change::Remove(id) if id == self.member_id().get());
        let see_through = async {
            let (added, index) = match tokio::time::timeout(timeout, self.ask_for_change(change)).await {
                Ok(result) => result?,
                Err(_elapsed) => return Err(if group.has_leader() { Error::Timeout } else { Error::NoLeader }),
            };
            match tokio::time::timeout(timeout, group.state.wait_applied(index)).await {
                Ok(result) => result.map(|()| added),
                Err(_elapsed) => Err(Error::TimeoutWaitAppliedIndex),
            }
        };
        let result = tokio::select! {
            result = see_through => result,
            reason = self.stopped() => Err(reason),
        };
        let added = match result {
            // A member that asked for its own removal may hear of it from the others before it sees it in its log.
            Err(Error::Removed(_)) if removes_me => 0,
            result => result?,
        };
        let mut members = membership::members(group)?;
        if removes_me {
            members.retain(|m| m.id != self.member_id());
        }
        Ok((added, self.answer(members)))
    }

    /// Asks whoever leads, until somebody who does takes the change up. Where it may have been taken up, it is not asked for
    /// again.
    async fn ask_for_change(&self, change: Change) -> Result<(u64, u64), Error> {
        let group = &self.running.group;
        let mut role = group.watch_role();
        loop {
            self.check_running()?;
            let now = role.borrow_and_update().clone();
            let result = match now.leader {
                Some(_) if now.is_leader => membership::change(group, &self.running.config, change.clone()).await,
                Some(leader) => {
                    let ask = Ask::MemberChange(pb::MemberChange { change: Some(change.clone()) });
                    match group.peers().call(leader, GroupId::DEFAULT, ask, group.options.write_timeout).await {
                        Ok(PeerAnswer::MemberChange(reply)) => Ok((reply.added, reply.index)),
                        Err(PeerError::Failed(f)) => Err(error_code::from_code(f.code).unwrap_or(Error::LeaderChanged)),
                        Err(PeerError::NotConnected(_) | PeerError::Refused(_) | PeerError::Overloaded) => {
                            Err(Error::NotLeader)
                        }
                        Ok(_) | Err(PeerError::Lost | PeerError::Timeout) => Err(Error::TimeoutConnectionLost),
                    }
                }
                None => Err(Error::NotLeader),
            };
            match result {
                Err(Error::NotLeader) => {
                    let _ = tokio::time::timeout(Duration::from_millis(100), role.changed()).await;
                }
                result => return result,
            }
        }
    }

    /// Hands leadership to `target`. Only the leader can.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`], [`Error::LeaderTransferTimeout`].
    pub async fn move_leader(&self, target: MemberId) -> Result<(), Error> {
        self.check_root()?;
        let group = &self.running.group;
        if !group.role().is_leader {
            return Err(Error::NotLeader);
        }
        if target == self.member_id() {
            return Ok(());
        }
        let members = membership::members(group)?;
        if !members.iter().any(|m| m.id == target && !m.is_learner) {
            return Err(Error::BadLeaderTransferee);
        }
        if group.hand_over(target.get(), TRANSFER_TIMEOUT).await { Ok(()) } else { Err(Error::LeaderTransferTimeout) }
    }

    /// State of this member; never waits for others.
    pub fn status(&self) -> Status {
        let group = &self.running.group;
        let role = group.role();
        let (_, committed) = group.raft.log_position();
        let store = &group.state.store;
        let metrics = store.metrics();
        let usage = store.engine_usage().unwrap_or_default();
        let quota = self.config().quota_bytes;
        let disk_bytes = store.engine_disk().ok().flatten().map_or(0, |disk| disk.total_bytes);
        let disk_bytes = i64::try_from(disk_bytes).unwrap_or(i64::MAX);
        let me = self.member_id().get();
        let is_learner = membership::members(group).is_ok_and(|m| m.iter().any(|m| m.id.get() == me && m.is_learner));
        Status {
            leader: role.leader.map(MemberId::new),
            term: Term::new(role.term),
            committed_index: LogIndex::new(committed),
            applied_index: LogIndex::new(group.state.applied().index),
            is_learner,
            db_size_bytes: i64::try_from(usage.file_bytes).unwrap_or(i64::MAX),
            db_size_in_use_bytes: i64::try_from(usage.in_use_bytes()).unwrap_or(i64::MAX),
            db_quota_bytes: if quota == 0 { disk_bytes } else { quota },
            revision: metrics.revision,
            compacted: metrics.compacted,
            alarms: store.alarms(),
            keys: metrics.keys,
            versions: store.versions(),
        }
    }

    /// Alarms that are raised.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.running.group.state.store.alarms()
    }

    /// Likewise, with everything in it that was acknowledged anywhere before.
    ///
    /// # Errors
    /// [`Error::NotSupportedForLearner`]; no leader or no quorum in time.
    pub async fn alarms_linearizable(&self) -> Result<Answer<Vec<Alarm>>, Error> {
        self.refuse_on_learner()?;
        self.running.group.linearize().await?;
        Ok(self.answer(self.alarms()))
    }

    /// Raises or clears an alarm; returns the alarms that it changed.
    ///
    /// # Errors
    /// As [`Node::txn`].
    pub async fn alarm_set(&self, alarm: Alarm, active: bool) -> Result<Answer<Vec<Alarm>>, Error> {
        self.refuse_on_learner()?;
        let command = if active { Command::AlarmActivate(alarm) } else { Command::AlarmDeactivate(alarm) };
        let Written { reply, revision, .. } = self.write(command).await?;
        match reply {
            Reply::Alarm(body) => Ok(Answer { header: self.header_at(revision), body }),
            other => Err(wrong_reply(&other)),
        }
    }

    /// Hash of the history up to `revision` (0: the newest), of this member's own state.
    ///
    /// # Errors
    /// [`Rejection::Compacted`], [`Rejection::FutureRevision`].
    pub async fn hash_kv(&self, revision: Revision) -> Result<Answer<HashKv>, Error> {
        self.check_running()?;
        self.check_root()?;
        let body = self.running.hashing.at_once(revision).await?;
        Ok(self.answer(body))
    }

    /// Gives space of the engine that is not used back to the file system. Requests go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the disk fails.
    pub async fn defragment(&self) -> Result<Answer<()>, Error> {
        self.check_running()?;
        self.check_root()?;
        let store = self.running.group.state.store.clone();
        let shown = self.running.defragmentation.clone();
        let work = move |_: &dyn Fn() -> bool| {
            let outcome = store.defragment(&mut |done, total| *shown.lock() = Some(Work { done, total }));
            *shown.lock() = None;
            outcome
        };
        self.on_thread("quorate-defragment", work).await?.map_err(storage_error)?;
        Ok(self.answer(()))
    }

    /// How far long work on this member's storage is; never waits for others.
    pub fn maintenance_progress(&self) -> MaintenanceProgress {
        let compaction = self.running.group.state.store.compaction_progress();
        MaintenanceProgress {
            defragmentation: *self.running.defragmentation.lock(),
            compaction: compaction.map(|(done, total)| Work { done, total }),
        }
    }

    /// Runs something that blocks for long on a thread of its own. It can ask whether the caller has given up.
    async fn on_thread<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let Ok(permit) = self.running.heavy.clone().try_acquire_owned() else { return Err(Error::TooManyHeavy) };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = async move {
            let _permit = permit;
            let outcome = work(&|| sender.is_closed());
            // The caller may have given up.
            let _ = sender.send(outcome);
        };
        self.running.env.spawn_dedicated(name, Box::pin(task));
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Opens a snapshot file of the keyspace as it is now, to be read in chunks of constant memory. Reads all of the data once
    /// before it returns. Format: see `docs/STORAGE-FORMAT.md`.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the disk fails; [`Error::TooManyHeavy`] if as much of this kind is under way.
    pub async fn snapshot(&self) -> Result<SnapshotReader, Error> {
        self.check_running()?;
        self.check_root()?;
        let store = self.running.group.state.store.clone();
        self.on_thread("quorate-snapshot", move |given_up| SnapshotReader::new(store.export(), given_up)).await?
    }

    /// Whether a leader is there, as far as this member can tell. A leader that has lost its quorum does not count.
    pub fn has_leader(&self) -> bool {
        self.running.group.has_leader()
    }

    /// Whether this member leads, as far as it can tell.
    pub fn leads(&self) -> bool {
        self.running.group.role().is_leader
    }

    /// Resolves when the node has stopped, with the reason: removed from the cluster, a fatal error, or
    /// [`Error::Stopped`] after [`Node::shutdown`].
    pub async fn stopped(&self) -> Error {
        let mut stopped = self.running.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(Error::Stopped),
            Err(_) => Error::Stopped,
        }
    }

    /// Hands leadership over if it can, flushes, stops.
    pub async fn shutdown(&self) {
        self.running.shutdown().await;
    }

    /// The node's figures in Prometheus text format.
    pub fn metrics_text(&self) -> String {
        crate::metrics::text(&self.running)
    }

    /// Figures of the runtime on which the node's own tasks run.
    pub fn runtime_metrics(&self) -> RuntimeMetrics {
        self.running.runtime.metrics()
    }
}

fn wrong_reply(reply: &Reply) -> Error {
    Error::Fatal(format!("the state machine answered something else than was asked: {reply:?}"))
}

/// Reads a range; yields now and then if it is long, for which it needs one of the `turns`. `None` if there is none left.
async fn read_range<'a>(
    view: &ReadView,
    request: &RangeRequest,
    turns: &'a Semaphore,
    mut turn: Option<SemaphorePermit<'a>>,
) -> Result<Option<RangeReply>, Error> {
    let whole_at_once = matches!(request.range, KeyRange::Single(_)) || request.count_only || !request.is_streamable();
    if whole_at_once {
        return Ok(Some(quorate_core::range(view, request).map_err(storage_error)??));
    }
    let mut cursor = RangeCursor::new(view, request)?;
    let mut reply = RangeReply::default();
    loop {
        let chunk = cursor.next_chunk(view, RANGE_CHUNK_KEYS, RANGE_CHUNK_BYTES).map_err(storage_error)??;
        reply.kvs.extend(chunk.kvs);
        if let Some(totals) = chunk.totals {
            reply.more = totals.more;
            reply.count = totals.count;
            return Ok(Some(reply));
        }
        if turn.is_none() {
            let Ok(permit) = turns.try_acquire() else { return Ok(None) };
            turn = Some(permit);
        }
        tokio::task::yield_now().await;
    }
}

/// A range that is read in chunks, all from one revision. Holds that revision readable while it lives.
pub struct RangeReader {
    header: Header,
    view: ReadView,
    cursor: RangeCursor,
}

impl RangeReader {
    /// The header for the answer.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The next chunk, of at most `keys_max` keys and about `bytes_max` bytes. The last one carries the totals.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the disk fails.
    pub fn next_chunk(&mut self, keys_max: usize, bytes_max: usize) -> Result<quorate_core::RangeChunk, Error> {
        Ok(self.cursor.next_chunk(&self.view, keys_max, bytes_max).map_err(storage_error)??)
    }
}
