//! How all members are, asked from any one of them.

use crate::group::Group;
use crate::{API_VERSION, Config, Error, Node, membership};
use futures::future::join_all;
use pb::request::Kind as Ask;
use pb::response::Kind as PeerAnswer;
use quorate_core::{AlarmKind, GroupId, LogIndex, MemberId, Revision, Term};
use quorate_proto::peer_v1 as pb;
use std::time::Duration;

/// How long a member may take to say how it is.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How one member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHealth {
    /// The member.
    pub id: MemberId,
    /// Empty until it has started.
    pub name: String,
    /// Gets the log, has no vote.
    pub is_learner: bool,
    /// What it says of itself, or why it says nothing.
    pub state: Result<MemberState, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Whether it leads.
    pub is_leader: bool,
    /// Its term.
    pub term: Term,
    /// Last log index that it has applied.
    pub applied_index: LogIndex,
    /// Last log index that it knows to be committed.
    pub committed_index: LogIndex,
    /// Its newest revision.
    pub revision: Revision,
    /// Its oldest readable revision.
    pub compacted: Revision,
    /// Bytes that its engine takes on disk, unused space included.
    pub db_size_bytes: i64,
    /// Its storage engine.
    pub engine: String,
    /// Raised alarms and other troubles, for people.
    pub errors: Vec<String>,
}

/// What this member says of itself.
pub(crate) fn local(group: &Group, config: &Config) -> pb::MemberStatus {
    let store = &group.state.store;
    let metrics = store.metrics();
    let (_, committed) = group.raft.log_position();
    let role = group.role();
    let mut errors = Vec::new();
    errors.extend(group.state.doubt().map(|why| format!("out of service until it has rebuilt itself: {why}")));
    if !group.has_leader() {
        errors.push(Error::NoLeader.to_string());
    }
    if let Some(failure) = group.state.failure() {
        errors.push(failure.to_string());
    }
    for alarm in store.alarms().into_iter().filter(|alarm| alarm.member == group.state.member) {
        errors.push(match alarm.kind {
            AlarmKind::NoSpace => "alarm:NOSPACE".into(),
            AlarmKind::Corrupt => "alarm:CORRUPT".into(),
        });
    }
    pb::MemberStatus {
        is_leader: role.is_leader,
        term: role.term,
        applied_index: group.state.applied().index,
        committed_index: committed,
        revision: metrics.revision.get(),
        compacted_revision: metrics.compacted.get(),
        db_size: store.engine_usage().map_or(0, |usage| i64::try_from(usage.file_bytes).unwrap_or(i64::MAX)),
        engine: config.engine.name().into(),
        errors,
        api_major: API_VERSION.major,
        api_minor: API_VERSION.minor,
    }
}

fn state(status: pb::MemberStatus) -> MemberState {
    MemberState {
        is_leader: status.is_leader,
        term: Term::new(status.term),
        applied_index: LogIndex::new(status.applied_index),
        committed_index: LogIndex::new(status.committed_index),
        revision: Revision::new(status.revision),
        compacted: Revision::new(status.compacted_revision),
        db_size_bytes: status.db_size,
        engine: status.engine,
        errors: status.errors,
    }
}

impl Node {
    /// Asks every member how it is, all at once. A member that does not answer within a second is told so. Sorted by id.
    ///
    /// # Errors
    /// [`Error::Fatal`] if this member does not know its own membership.
    pub async fn cluster_health(&self) -> Result<Vec<MemberHealth>, Error> {
        let group = self.group();
        let me = self.member_id();
        let asked = membership::members(group)?.into_iter().map(|member| async move {
            let state = if member.id == me {
                Ok(state(local(group, self.config())))
            } else {
                let ask = Ask::Status(pb::StatusRequest {});
                match group.peers().call(member.id.get(), GroupId::DEFAULT, ask, TIMEOUT).await {
                    Ok(PeerAnswer::Status(status)) => Ok(state(status)),
                    Ok(_) => Err("the member answered something else".into()),
                    Err(error) => Err(error.to_string()),
                }
            };
            MemberHealth { id: member.id, name: member.name, is_learner: member.is_learner, state }
        });
        Ok(join_all(asked).await)
    }
}
