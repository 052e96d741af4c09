//! [`RaftGroup`]: one Raft group, in words that the rest of the crate knows.

use super::codec;
use super::contact::Contact;
use super::durable::DurableMarks;
use super::log_store::LogStore;
use super::network::NetworkFactory;
use super::state_machine::{ApplyHooks, SnapshotHandle, StateMachine};
use super::types::{Callback, CommittedLeaderId, EntryData, MemberNode, SnapshotMeta, Types};
use crate::peer::Peers;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use openraft::errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::raft::{StreamAppendError, TransferLeaderRequest};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Instant, Raft, ReadPolicy, ServerState, Snapshot, SnapshotPolicy};
use quorate_core::GroupId;
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::{rarely, sabotage};
use quorate_storage::{Installer, SnapshotMeta as StoredSnapshotMeta, Store};
use quorate_wal::GroupLog;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Appends of one stream that are handed to Raft before the first is answered.
const APPENDS_INFLIGHT_MAX: usize = 16;

/// Raft's timing and limits.
#[derive(Clone, Debug)]
pub(crate) struct RaftOptions {
    pub heartbeat: Duration,
    pub election: Duration,
    pub pre_vote: bool,
}

/// Who leads, as this member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// The member that leads, if known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Whether this member leads. (It may be deposed and not know it: reads ask a quorum.)
    pub is_leader: bool,
    /// Whether this member is a learner (or in no membership at all).
    pub is_learner: bool,
    /// Whether Raft has stopped.
    pub stopped: bool,
}

/// Why a proposal or a membership change did not go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProposeError {
    /// This member does not lead: nothing was proposed.
    NotLeader,
    /// Leadership was lost while the entry was under way: outcome unknown.
    Unknown,
    /// Another membership change is under way.
    ChangeInProgress,
    /// The change makes no sense for the membership as it is.
    BadChange(String),
    /// Raft has stopped.
    Stopped,
}

/// One Raft group of this member.
pub(crate) struct RaftGroup<H: ApplyHooks> {
    raft: Raft<Types, StateMachine<H>>,
    role: watch::Receiver<Role>,
    contact: Contact,
    group: GroupId,
}

impl<H: ApplyHooks> Clone for RaftGroup<H> {
    fn clone(&self) -> Self {
        Self { raft: self.raft.clone(), role: self.role.clone(), contact: self.contact.clone(), group: self.group }
    }
}

impl<H: ApplyHooks> RaftGroup<H> {
    /// Starts Raft over the group's log and store.
    pub(crate) async fn start(
        id: u64,
        group: GroupId,
        options: &RaftOptions,
        log: GroupLog,
        store: Arc<Store>,
        hooks: Arc<H>,
        peers: Arc<Peers>,
    ) -> Result<Self, String> {
        refuse_lost_engine(&log, &store)?;
        let config = Arc::new(raft_config(options).validate().map_err(|e| e.to_string())?);
        let network = NetworkFactory::new(peers, group, options.election);
        let durable = DurableMarks::default();
        let state_machine = StateMachine::new(store, hooks, durable.clone());
        let raft = Raft::new(id, config, network, LogStore::new(log, durable), state_machine)
            .await
            .map_err(|e| format!("cannot start Raft for group {group}: {e}"))?;
        let contact = Contact::new();
        let role = watch_role(&raft, contact.clone());
        Ok(Self { raft, role, contact, group })
    }

    /// Follows who leads.
    pub(crate) fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// First start of a new cluster: every member does this with the same members.
    pub(crate) async fn initialize(&self, members: BTreeMap<u64, MemberNode>) -> Result<(), String> {
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Proposes an entry (see [`entry_body`]) in `term`, and in no other. `done` learns what became of it when it was applied
    /// here or given up; what its commands answered, the apply hooks learn.
    pub(crate) async fn propose(
        &self,
        body: Bytes,
        term: u64,
        done: impl FnOnce(Result<(), ProposeError>) + Send + 'static,
    ) {
        let responder = Callback::new(move |result: openraft::raft::ClientWriteResult<Types>| {
            done(match result {
                Ok(_) => Ok(()),
                Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader),
                Err(_) => Err(ProposeError::Unknown),
            });
        });
        // If Raft has stopped, the responder is dropped: the batch's waiters time out or hear of the stop.
        if sabotage!(OnceAnyTerm) {
            let _ = self.raft.write(EntryData(body)).responder(responder).await;
            return;
        }
        let leader = CommittedLeaderId::new(term);
        let _ = self.raft.write(EntryData(body)).with_leader(leader).responder(responder).await;
    }

    /// An index such that a read that has applied it is linearizable. Asks a quorum. Only the leader can.
    pub(crate) async fn read_index(&self) -> Result<(u64, u64), ProposeError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _applied)) => {
                let id = read.log_id();
                Ok((id.committed_leader_id().term, id.index()))
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(ProposeError::NotLeader),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ProposeError::Unknown),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }

    /// Opens a stream of appends from a leader: replies come in the order of the requests.
    pub(crate) fn append_stream(
        &self,
        reply: impl Fn(u64, Result<pb::AppendReply, String>) + Send + 'static,
    ) -> mpsc::Sender<(u64, pb::Append)> {
        let (sender, receiver) = mpsc::channel::<(u64, pb::Append)>(APPENDS_INFLIGHT_MAX);
        tokio::spawn(run_append_stream(self.raft.clone(), self.contact.clone(), receiver, reply));
        sender
    }

    /// Answers a vote request.
    pub(crate) async fn vote(&self, request: pb::VoteRequest, pre_vote: bool) -> io::Result<pb::VoteReply> {
        let request = codec::vote_request_from_pb(request)?;
        let response = if pre_vote { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        Ok(codec::vote_response_to_pb(&response.map_err(io::Error::other)?))
    }

    /// Takes note that the leader hands leadership to somebody.
    pub(crate) async fn handle_transfer(&self, request: pb::TransferLeader) -> io::Result<String> {
        let from = codec::vote_from_pb(request.from_leader.ok_or_else(|| codec::invalid("a transfer without a vote"))?);
        let request =
            TransferLeaderRequest::new(from, request.to_node_id, request.last_log_id.map(codec::log_id_from_pb));
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Ok(String::new()),
            Ok(Err(e)) => Ok(e.to_string()),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    /// Installs a snapshot that was received completely.
    pub(crate) async fn install_snapshot(
        &self,
        begin: pb::SnapshotBegin,
        stored: StoredSnapshotMeta,
        installer: Installer,
    ) -> io::Result<pb::Vote> {
        let vote = codec::vote_from_pb(begin.vote.ok_or_else(|| codec::invalid("a snapshot without a vote"))?);
        let membership = begin.membership.unwrap_or_default();
        let meta = SnapshotMeta {
            last_log_id: begin.last_log_id.map(codec::log_id_from_pb),
            last_membership: codec::stored_membership_from_pb(&membership)?,
        };
        let snapshot = SnapshotHandle::Received { installer: Box::new(installer), meta: Box::new(stored) };
        let snapshot = Snapshot { meta, snapshot };
        let response = self.raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
        self.contact.note();
        Ok(codec::vote_to_pb(&response.vote))
    }

    /// Tells Raft what storage holds durably, and lets it drop the log up to `upto`.
    pub(crate) async fn purge(&self, upto: u64) {
        // An error means that Raft has stopped: then nothing is to purge.
        let _ = self.raft.trigger().snapshot().await;
        if rarely!(SnapshotBeforePurge) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = self.raft.trigger().purge_log(upto).await;
    }

    /// Adds or updates learners.
    pub(crate) async fn set_nodes(&self, nodes: BTreeMap<u64, MemberNode>, new: bool) -> Result<u64, ProposeError> {
        self.change(if new { ChangeMembers::AddNodes(nodes) } else { ChangeMembers::SetNodes(nodes) }, true).await
    }

    /// Makes learners voters.
    pub(crate) async fn add_voters(&self, ids: BTreeSet<u64>) -> Result<u64, ProposeError> {
        self.change(ChangeMembers::AddVoterIds(ids), true).await
    }

    /// Removes a member, voter or learner.
    pub(crate) async fn remove(&self, id: u64, voter: bool) -> Result<u64, ProposeError> {
        if voter {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await
        }
    }

    /// Takes the second step of a change of voters whose first was taken: only the new voters are left.
    pub(crate) async fn end_joint(&self) -> Result<u64, ProposeError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
    }

    async fn change(&self, change: ChangeMembers<u64, MemberNode>, retain: bool) -> Result<u64, ProposeError> {
        match self.raft.change_membership(change, retain).await {
            Ok(response) => Ok(response.log_id.index()),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotLeader),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::Unknown),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                openraft::errors::ChangeMembershipError::InProgress(_),
            ))) => Err(ProposeError::ChangeInProgress),
            Err(RaftError::APIError(error)) => Err(ProposeError::BadChange(error.to_string())),
        }
    }

    /// Asks Raft to hand leadership to `to`.
    pub(crate) async fn transfer_leader(&self, to: u64) {
        let _ = self.raft.trigger().transfer_leader(to).await;
    }

    /// Leader only: how far each member's log matches.
    pub(crate) fn matching(&self) -> BTreeMap<u64, u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .replication
            .iter()
            .flatten()
            .map(|(id, log_id)| (*id, log_id.as_ref().map_or(0, |l| l.index())))
            .collect()
    }

    /// Last index of this member's log, and the last that it knows to be committed.
    pub(crate) fn log_position(&self) -> (u64, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.last_log_index.unwrap_or(0), metrics.local_committed.as_ref().map_or(0, |l| l.index()))
    }

    /// Why Raft has stopped, if it has.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// How long ago this member last heard from a leader, or became one; `None` if it never did.
    pub(crate) fn since_contact(&self) -> Option<Duration> {
        self.contact.ago()
    }

    /// Whether this member needs nobody but itself to get things done, if it leads.
    pub(crate) fn needs_nobody(&self) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().membership_config.membership().voter_ids().count() <= 1
    }

    /// Leader only: how long ago a quorum last acknowledged this leader; `None` if never, or if it does not lead.
    pub(crate) fn since_quorum_ack(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let acked = metrics.borrow_watched().last_quorum_acked?;
        Some(acked.elapsed())
    }

    /// Leader only: how long ago each other member last answered; those that never did are not in it.
    pub(crate) fn since_answer(&self) -> BTreeMap<u64, Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answers = metrics.heartbeat.iter().flatten();
        answers.filter_map(|(id, at)| Some((*id, at.as_ref()?.elapsed()))).collect()
    }

    /// Waits until the state is at least what it was before the restart.
    pub(crate) async fn wait_for_recovery(&self, timeout: Duration) -> bool {
        self.raft.wait_for_recovery(Some(timeout)).await.is_ok()
    }

    /// Stops Raft.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = self.group.get(), %error, "raft did not stop cleanly");
        }
    }
}

/// The log was let go behind what the engine had made durable. If the engine has less now, what is between is nowhere here.
fn refuse_lost_engine(log: &GroupLog, store: &Store) -> Result<(), String> {
    let purged = log.state().purged.map_or(0, |(_, index)| index);
    let applied = codec::last_of(store.applied()).map_or(0, |(_, index)| index);
    if purged <= applied {
        return Ok(());
    }
    Err(format!(
        "the log begins after entry {purged}, but the storage engine has nothing after entry {applied}: its files were lost, or \
         replaced by older ones; bring them back, or remove the member (`quorate member remove`), add it again (`quorate \
         member add`), and start it with an empty data directory and --initial-cluster-state existing"
    ))
}

/// Puts the kind byte in front of an encoded entry.
pub(crate) fn entry_body(encoded: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(1 + encoded.len());
    body.put_u8(codec::NORMAL);
    body.extend_from_slice(encoded);
    body.freeze()
}

/// openraft waits twice before an election: first for its leader lease (the longest election timeout) after the last sign of
/// the leader, then for a random time between the two bounds. So that a dead leader is replaced after one to 1.3 times what the
/// operator calls the election timeout, as in etcd or sooner, the bounds are parts of it.
const ELECTION_MIN_PERCENT: u64 = 35;
const ELECTION_MAX_PERCENT: u64 = 65;

fn raft_config(options: &RaftOptions) -> openraft::Config {
    let election_ms = options.election.as_millis() as u64;
    let election_max_ms = election_ms * ELECTION_MAX_PERCENT / 100;
    let heartbeat_ms = options.heartbeat.as_millis() as u64;
    openraft::Config {
        cluster_name: "quorate".into(),
        heartbeat_interval: heartbeat_ms,
        election_timeout_min: election_ms * ELECTION_MIN_PERCENT / 100,
        election_timeout_max: election_max_ms,
        heartbeat_min_interval: Some(heartbeat_ms / 2),
        max_payload_entries: 1024,
        api_batch_linger_ms: 0,
        enable_pre_vote: Some(options.pre_vote),
        // A restarted leader that takes up its old term may serve a state that has gone back.
        enable_leader_restore: Some(sabotage!(LeaderRestored)),
        // Without it, an old leader's heartbeats can keep a connected quorum from electing.
        quorum_loss_probe_interval: Some(election_max_ms * 3),
        // We take snapshots when the log has grown enough in bytes.
        snapshot_policy: SnapshotPolicy::Never,
        // A snapshot is of what is applied, which is ahead of what the engine holds durably. So it must not drop any log by
        // itself: after a crash the entries between the two would be missing. `purge` says how far the log may go.
        max_in_snapshot_log_to_keep: if sabotage!(LogDroppedAtSnapshot) { 0 } else { u64::MAX },
        install_snapshot_timeout: 600_000,
        backoff: "50ms".into(),
        ..openraft::Config::default()
    }
}

fn read_role(metrics: &RaftServerMetrics<Types>) -> Role {
    Role {
        leader: metrics.current_leader,
        term: metrics.vote.leader_id().term,
        is_leader: metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id),
        is_learner: metrics.state == ServerState::Learner,
        stopped: metrics.state == ServerState::Shutdown,
    }
}

fn watch_role<H: ApplyHooks>(raft: &Raft<Types, StateMachine<H>>, contact: Contact) -> watch::Receiver<Role> {
    let metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(read_role(&metrics.borrow_watched()));
    tokio::spawn(RoleWatcher { metrics, sender, contact }.run());
    receiver
}

/// Tells who leads for as long as Raft runs, and then that it has stopped.
struct RoleWatcher {
    metrics: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    sender: watch::Sender<Role>,
    contact: Contact,
}

impl RoleWatcher {
    async fn run(mut self) {
        loop {
            let role = read_role(&self.metrics.borrow_watched());
            self.sender.send_if_modified(|current| {
                let changed = *current != role;
                if changed && role.leader.is_some() {
                    self.contact.note();
                }
                tell_change(current, &role);
                *current = role;
                changed
            });
            if self.metrics.changed().await.is_err() {
                self.sender.send_modify(|role| {
                    role.is_leader = false;
                    role.leader = None;
                    role.stopped = true;
                });
                return;
            }
        }
    }
}

/// Whoever looks for the cause of a bad minute looks for the elections first.
fn tell_change(before: &Role, now: &Role) {
    match (before.leader, now.leader) {
        (None, None) => {}
        (Some(lost), None) => {
            tracing::warn!(lost = format!("{lost:x}"), term = now.term, "there is no leader until one is elected");
        }
        (_, Some(leader)) => {
            if (before.leader, before.term) != (now.leader, now.term) {
                let me = now.is_leader;
                tracing::info!(leader = format!("{leader:x}"), term = now.term, me, "a leader was elected");
            }
        }
    }
}

/// Feeds appends to Raft and hands out the replies in order. After a refusal openraft ends its stream; the requests behind
/// it then start a new one.
async fn run_append_stream<H: ApplyHooks>(
    raft: Raft<Types, StateMachine<H>>,
    contact: Contact,
    mut requests: mpsc::Receiver<(u64, pb::Append)>,
    reply: impl Fn(u64, Result<pb::AppendReply, String>) + Send + 'static,
) {
    loop {
        let (input, input_rx) = mpsc::channel(APPENDS_INFLIGHT_MAX);
        let stream = futures::stream::unfold(input_rx, |mut rx: mpsc::Receiver<_>| async move {
            rx.recv().await.map(|request| (request, rx))
        });
        let mut output = Box::pin(raft.stream_append(stream));
        let mut inflight = std::collections::VecDeque::new();
        let failed = loop {
            tokio::select! {
                biased;
                result = output.next(), if !inflight.is_empty() => {
                    let id: u64 = inflight.pop_front().unwrap_or_default();
                    match result {
                        Some(Ok(Ok(log_id))) => {
                            contact.note();
                            let matching = pb::Matching { log_id: log_id.as_ref().map(codec::log_id_to_pb) };
                            reply(id, Ok(append_reply(pb::append_reply::Result::Matching(matching))));
                        }
                        Some(Ok(Err(StreamAppendError::Conflict(log_id)))) => {
                            contact.note();
                            let conflict = codec::log_id_to_pb(&log_id);
                            reply(id, Ok(append_reply(pb::append_reply::Result::Conflict(conflict))));
                            break false;
                        }
                        Some(Ok(Err(StreamAppendError::HigherVote(vote)))) => {
                            let vote = codec::vote_to_pb(&vote);
                            reply(id, Ok(append_reply(pb::append_reply::Result::HigherVote(vote))));
                            break false;
                        }
                        Some(Err(fatal)) => {
                            reply(id, Err(fatal.to_string()));
                            break true;
                        }
                        None => {
                            reply(id, Err("raft ended the append stream".into()));
                            break false;
                        }
                    }
                }
                request = requests.recv(), if inflight.len() < APPENDS_INFLIGHT_MAX => {
                    let Some((id, append)) = request else { return };
                    match codec::append_from_pb(append) {
                        Ok(append) => {
                            inflight.push_back(id);
                            if input.send(append).await.is_err() {
                                break false;
                            }
                        }
                        Err(error) => reply(id, Err(error.to_string())),
                    }
                }
            }
        };
        for id in inflight {
            reply(id, Err("an append before this one was refused".into()));
        }
        if failed {
            return;
        }
    }
}

fn append_reply(result: pb::append_reply::Result) -> pb::AppendReply {
    pb::AppendReply { result: Some(result) }
}
