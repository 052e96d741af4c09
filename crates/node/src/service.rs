//! What this member does for its peers.

use crate::bootstrap::DataIdentity;
use crate::corruption::{self, Hashing};
use crate::error::storage_error;
use crate::error_code;
use crate::group::{Group, GroupState};
use crate::peer::{PROTOCOL_VERSION, PeerService, Traffic};
use crate::raft::ProposeError;
use crate::rebuild::{Leave, Outgoing, Pulls};
use crate::{Config, Error, membership};
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::{GroupId, MemberId, Revision};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use quorate_storage::{Installer, SnapshotMeta};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a member that lags waits for the revision that is to be compared.
const REVISION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a member that is asked who is in the cluster waits for the leader's word that it knows the newest.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// The groups of this member, as its peers see them.
pub(crate) struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) identity: DataIdentity,
    pub(crate) group: Arc<Group>,
    pub(crate) hashing: Hashing,
    pub(crate) leave: Leave,
    pub(crate) pulls: Pulls,
}

/// A snapshot that is being received.
pub(crate) struct Incoming {
    begin: pb::SnapshotBegin,
    meta: SnapshotMeta,
    installer: Installer,
    records: u64,
    _counted: SnapshotUnderWay,
}

/// Counts as a snapshot that is being received as long as it lives.
struct SnapshotUnderWay(Arc<GroupState>);

impl SnapshotUnderWay {
    fn begin(state: &Arc<GroupState>) -> Self {
        state.figures.snapshots_under_way.fetch_add(1, Relaxed);
        Self(state.clone())
    }
}

impl Drop for SnapshotUnderWay {
    fn drop(&mut self) {
        self.0.figures.snapshots_under_way.fetch_sub(1, Relaxed);
    }
}

impl Service {
    fn group(&self, id: GroupId) -> Option<&Arc<Group>> {
        (id == GroupId::DEFAULT).then_some(&self.group)
    }

    fn refusal(&self, hello: &pb::Hello) -> Option<(pb::Refusal, String)> {
        let member = MemberId::new(hello.member_id);
        let store = &self.group.state.store;
        if hello.protocol_version != PROTOCOL_VERSION {
            let text = format!(
                "this member speaks peer protocol {PROTOCOL_VERSION}, you speak {}: run versions that are next to each other",
                hello.protocol_version
            );
            return Some((pb::Refusal::Version, text));
        }
        if hello.cluster_id == 0 {
            return None;
        }
        if hello.cluster_id != self.identity.cluster_id {
            let text = format!(
                "cluster ID mismatch: this is cluster {:x}, you are of cluster {:x}",
                self.identity.cluster_id, hello.cluster_id
            );
            return Some((pb::Refusal::Cluster, text));
        }
        // Before anything else that concerns this cluster: it may be looking for members that are gone, too.
        if store.is_forgotten(member) {
            return Some((pb::Refusal::Removed, removed_text(hello.member_id)));
        }
        if hello.to_member_id != 0 && hello.to_member_id != self.identity.member_id {
            let text = format!("this is member {:x}, not {:x}", self.identity.member_id, hello.to_member_id);
            return Some((pb::Refusal::NotMe, text));
        }
        // INVARIANT(identity): an id comes with the data directory that it has told the cluster, or not at all.
        match membership::told(store).get(&member) {
            Some(attributes) if attributes.data_dir_id != hello.data_dir_id && !sabotage!(DataDirUnchecked) => {
                Some((pb::Refusal::Wiped, wiped_text(hello.member_id)))
            }
            Some(_) | None => None,
        }
    }

    async fn answer(&self, group: &Arc<Group>, ask: Ask) -> Result<Answer, Error> {
        let unknown = |error: std::io::Error| Error::Fatal(error.to_string());
        match ask {
            Ask::Vote(request) => {
                self.refuse_removed(&request)?;
                Ok(Answer::Vote(group.raft.vote(request, false).await.map_err(unknown)?))
            }
            Ask::PreVote(request) => {
                self.refuse_removed(&request)?;
                Ok(Answer::Vote(group.raft.vote(request, true).await.map_err(unknown)?))
            }
            Ask::TransferLeader(request) => {
                let error = group.raft.handle_transfer(request).await.map_err(unknown)?;
                Ok(Answer::TransferLeader(pb::TransferLeaderReply { error }))
            }
            Ask::ReadIndex(_) => match group.raft.read_index().await {
                Ok((term, index)) => {
                    Ok(Answer::ReadIndex(pb::ReadIndexReply { log_id: Some(pb::LogId { term, index }) }))
                }
                Err(_) => Err(Error::NotLeader),
            },
            Ask::Forward(forward) if group.has_no_room_for(&forward.batch).await => {
                Ok(Answer::Forward(pb::ForwardReply { not_leader: true, no_space: true }))
            }
            Ask::Forward(forward) => match group.take_forwarded(forward.batch, forward.term).await {
                Ok(()) => Ok(Answer::Forward(pb::ForwardReply { not_leader: false, no_space: false })),
                Err(ProposeError::NotLeader) => {
                    Ok(Answer::Forward(pb::ForwardReply { not_leader: true, no_space: false }))
                }
                Err(_) => Err(Error::LeaderChanged),
            },
            ask @ (Ask::LeaseRenew(_) | Ask::LeaseRemaining(_) | Ask::LeaseList(_)) => {
                group.lease_as_leader(&ask).await.ok_or(Error::NotLeader)
            }
            Ask::MemberChange(pb::MemberChange { change: Some(change) }) => {
                if !group.role().is_leader {
                    return Err(Error::NotLeader);
                }
                let (added, index) = membership::change(group, &self.config, change).await?;
                Ok(Answer::MemberChange(pb::MemberChangeReply { added, index }))
            }
            Ask::ClusterInfo(ask) => {
                let confirmed =
                    ask.confirm && matches!(tokio::time::timeout(CONFIRM_TIMEOUT, group.linearize()).await, Ok(Ok(())));
                self.cluster_info(confirmed).map(Answer::ClusterInfo)
            }
            Ask::Hash(request) => self.hash(group, request).await.map(Answer::Hash),
            Ask::Status(_) => Ok(Answer::Status(crate::health::local(group, &self.config))),
            Ask::Rebuild(request) => {
                let leave = self.leave.ask(group, request.member_id, self.config.election_timeout).await;
                Ok(Answer::Rebuild(pb::RebuildReply { refusal: leave.err().unwrap_or_default() }))
            }
            Ask::MemberChange(_)
            | Ask::PullBegin(_)
            | Ask::PullNext(_)
            | Ask::Append(_)
            | Ask::SnapshotBegin(_)
            | Ask::SnapshotChunk(_)
            | Ask::SnapshotEnd(_) => Err(Error::Fatal("the request makes no sense here".into())),
        }
    }

    /// A removed member is not told by Raft, and campaigns: it is told here.
    fn refuse_removed(&self, request: &pb::VoteRequest) -> Result<(), Error> {
        let candidate = request.vote.map_or(0, |vote| vote.node_id);
        if self.group.state.store.is_forgotten(MemberId::new(candidate)) {
            return Err(Error::Removed(removed_text(candidate)));
        }
        Ok(())
    }

    async fn hash(&self, group: &Group, request: pb::HashRequest) -> Result<pb::HashReply, Error> {
        let revision = Revision::new(request.revision);
        if request.at_once {
            return self.hashing.at_once(revision).await.map(corruption::to_reply);
        }
        let mut applied = group.state.watch_applied();
        let there = applied.wait_for(|_| group.state.store.revision() >= revision);
        // If it does not come, the hash says so.
        let _ = tokio::time::timeout(REVISION_TIMEOUT, there).await;
        self.hashing.gently(revision).await.map(corruption::to_reply)
    }

    fn cluster_info(&self, confirmed: bool) -> Result<pb::ClusterInfoReply, Error> {
        let attributes = membership::told(&self.group.state.store);
        let members = membership::members(&self.group)?.into_iter().map(|member| {
            let told = attributes.get(&member.id);
            pb::ClusterMember {
                id: member.id.get(),
                peer_urls: member.peer_urls,
                learner: member.is_learner,
                started: told.is_some(),
                name: member.name,
                data_dir_id: told.map_or(0, |a| a.data_dir_id),
            }
        });
        Ok(pb::ClusterInfoReply { cluster_id: self.identity.cluster_id, members: members.collect(), confirmed })
    }

    fn begin_snapshot(&self, group: &Group, begin: pb::SnapshotBegin) -> Result<Incoming, Error> {
        let meta = SnapshotMeta::decode(&begin.meta).map_err(storage_error)?;
        let installer = group.state.store.begin_install().map_err(storage_error)?;
        tracing::info!(index = meta.applied.index, "receiving a snapshot from the leader");
        Ok(Incoming { begin, meta, installer, records: 0, _counted: SnapshotUnderWay::begin(&group.state) })
    }

    async fn end_snapshot(group: &Group, incoming: Incoming, end: pb::SnapshotEnd) -> Result<pb::Vote, Error> {
        if incoming.records != end.records {
            let text = format!("the snapshot has {} records, {} were sent", incoming.records, end.records);
            return Err(Error::Fatal(text));
        }
        let vote = group.raft.install_snapshot(incoming.begin, incoming.meta, incoming.installer).await;
        vote.map_err(|e| Error::Fatal(e.to_string()))
    }
}

pub(crate) fn removed_text(member: u64) -> String {
    format!(
        "the member has been permanently removed from the cluster: member {member:x} cannot come back under this id; to join \
         again, delete its data directory and add it as a new member (`quorate member add`)"
    )
}

pub(crate) fn wiped_text(member: u64) -> String {
    format!(
        "the data directory of member {member:x} is not the one that the cluster knows: it was wiped or replaced. Bring the \
         old one back, or remove the member (`quorate member remove {member:x}`), add it again (`quorate member add`), and \
         start it with an empty data directory and --initial-cluster-state existing"
    )
}

fn failure(error: &Error) -> pb::Failure {
    pb::Failure { code: error_code::to_code(error), text: error.to_string() }
}

impl PeerService for Service {
    type Incoming = Incoming;
    type Outgoing = Outgoing;

    fn hello(&self, hello: &pb::Hello) -> pb::HelloReply {
        let (reason, refusal) = self.refusal(hello).unwrap_or((pb::Refusal::None, String::new()));
        pb::HelloReply {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            refusal,
            reason: reason.into(),
            data_dir_id: self.identity.data_dir_id,
        }
    }

    fn traffic(&self, member: u64) -> Arc<Traffic> {
        self.group.peers().traffic(member)
    }

    fn appends(
        &self,
        group: GroupId,
        reply: Box<dyn Fn(u64, Result<pb::AppendReply, String>) + Send>,
    ) -> Option<mpsc::Sender<(u64, pb::Append)>> {
        self.group(group).map(|group| group.raft.append_stream(reply))
    }

    async fn handle(&self, group: GroupId, ask: Ask) -> Answer {
        let Some(group) = self.group(group) else {
            return Answer::Failure(pb::Failure { code: 0, text: format!("this member has no group {group}") });
        };
        match self.answer(group, ask).await {
            Ok(answer) => answer,
            Err(error) => Answer::Failure(failure(&error)),
        }
    }

    async fn snapshot(
        &self,
        group: GroupId,
        incoming: Option<Incoming>,
        ask: Ask,
    ) -> Result<(Option<Incoming>, pb::SnapshotReply), pb::Failure> {
        let group = self.group(group).ok_or_else(|| failure(&Error::NotLeader))?;
        let nothing = pb::SnapshotReply { vote: None };
        match (ask, incoming) {
            (Ask::SnapshotBegin(begin), _) => {
                let incoming = self.begin_snapshot(group, begin).map_err(|e| failure(&e))?;
                Ok((Some(incoming), nothing))
            }
            (Ask::SnapshotChunk(chunk), Some(mut incoming)) => {
                for record in chunk.records {
                    let record = crate::snapshot::decode_record(record).map_err(|e| failure(&e))?;
                    incoming.installer.push(record).map_err(|e| failure(&storage_error(e)))?;
                    incoming.records += 1;
                }
                Ok((Some(incoming), nothing))
            }
            (Ask::SnapshotEnd(end), Some(incoming)) => {
                let vote = Self::end_snapshot(group, incoming, end).await.map_err(|e| failure(&e))?;
                Ok((None, pb::SnapshotReply { vote: Some(vote) }))
            }
            (Ask::SnapshotChunk(_) | Ask::SnapshotEnd(_), None) => {
                Err(failure(&Error::Fatal("a part of a snapshot came without its beginning".into())))
            }
            (
                Ask::Append(_)
                | Ask::Vote(_)
                | Ask::PreVote(_)
                | Ask::TransferLeader(_)
                | Ask::ReadIndex(_)
                | Ask::Forward(_)
                | Ask::LeaseRenew(_)
                | Ask::LeaseRemaining(_)
                | Ask::LeaseList(_)
                | Ask::MemberChange(_)
                | Ask::ClusterInfo(_)
                | Ask::Status(_)
                | Ask::Rebuild(_)
                | Ask::PullBegin(_)
                | Ask::PullNext(_)
                | Ask::Hash(_),
                _,
            ) => Err(failure(&Error::Fatal("this is no part of a snapshot".into()))),
        }
    }

    fn pull(
        &self,
        group: GroupId,
        outgoing: Option<Outgoing>,
        ask: Ask,
    ) -> Result<(Option<Outgoing>, Answer), pb::Failure> {
        let group = self.group(group).ok_or_else(|| failure(&Error::NotLeader))?;
        self.pulls.next(group, outgoing, ask).map_err(|error| failure(&error))
    }
}
