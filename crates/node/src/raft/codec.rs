//! openraft's types to and from peer messages and log bodies. The only place that knows both.

use super::types::{CommittedLeaderId, Entry, EntryData, LogId, MemberNode, Membership, StoredMembership, Types, Vote};
use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::raft::{AppendEntriesRequest, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;
use prost::Message;
use quorate_proto::peer_v1 as pb;
use quorate_storage::Applied;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// First byte of a log body.
const BLANK: u8 = 0;
/// Followed by an encoded `quorate_core` entry.
pub(super) const NORMAL: u8 = 1;
/// Followed by an encoded `peer_v1.Membership`.
const MEMBERSHIP: u8 = 2;

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// A log position as storage keeps it. A log begins at index 0, and storage's 0 means "nothing": it keeps how many entries
/// are applied.
pub(crate) fn applied_of(term: u64, index: u64) -> Applied {
    Applied { term, index: index + 1 }
}

/// Term and index of the last applied entry; `None` if nothing is applied.
pub(crate) fn last_of(applied: Applied) -> Option<(u64, u64)> {
    Some((applied.term, applied.index.checked_sub(1)?))
}

pub(super) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.committed_leader_id().term, index: id.index() }
}

pub(super) fn log_id_from_pb(id: pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(super) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id().term(), node_id: *vote.leader_id().node_id(), committed: vote.is_committed() }
}

pub(super) fn vote_from_pb(vote: pb::Vote) -> Vote {
    if vote.committed { Vote::new_committed(vote.term, vote.node_id) } else { Vote::new(vote.term, vote.node_id) }
}

pub(super) fn vote_to_bytes(vote: &Vote) -> Bytes {
    vote_to_pb(vote).encode_to_vec().into()
}

pub(super) fn vote_from_bytes(bytes: &Bytes) -> io::Result<Vote> {
    Ok(vote_from_pb(pb::Vote::decode(bytes.as_ref()).map_err(invalid)?))
}

pub(super) fn log_id_to_bytes(id: &LogId) -> Bytes {
    log_id_to_pb(id).encode_to_vec().into()
}

pub(super) fn log_id_from_bytes(bytes: &Bytes) -> io::Result<LogId> {
    Ok(log_id_from_pb(pb::LogId::decode(bytes.as_ref()).map_err(invalid)?))
}

/// The log body of an entry: the very bytes that the proposer encoded.
pub(super) fn entry_to_body(entry: &Entry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(data) => data.0.clone(),
        EntryPayload::Membership(membership) => {
            let message = membership_to_pb(membership, None);
            let mut body = BytesMut::with_capacity(1 + message.encoded_len());
            body.put_u8(MEMBERSHIP);
            body.extend_from_slice(&message.encode_to_vec());
            body.freeze()
        }
    }
}

pub(super) fn entry_from_body(term: u64, index: u64, body: Bytes) -> io::Result<Entry> {
    let payload = match body.first() {
        Some(&BLANK) => EntryPayload::Blank,
        Some(&NORMAL) => EntryPayload::Normal(EntryData(body)),
        Some(&MEMBERSHIP) => {
            EntryPayload::Membership(membership_from_pb(&pb::Membership::decode(&body[1..]).map_err(invalid)?)?)
        }
        Some(kind) => {
            return Err(invalid(format!(
                "log entry {index} of term {term} has kind {kind}, which this version does not know: \
                 start the version that wrote it"
            )));
        }
        None => return Err(invalid(format!("log entry {index} of term {term} is empty"))),
    };
    Ok(Entry::new(log_id(term, index), payload))
}

fn membership_to_pb(membership: &Membership, log_id: Option<&LogId>) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| pb::VoterSet { ids: set.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| pb::Node { id: *id, peer_urls: node.peer_urls.clone(), promote: node.promote })
            .collect(),
        log_id: log_id.map(log_id_to_pb),
    }
}

fn membership_from_pb(message: &pb::Membership) -> io::Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = message.configs.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, MemberNode> = message
        .nodes
        .iter()
        .map(|n| (n.id, MemberNode { peer_urls: n.peer_urls.clone(), promote: n.promote }))
        .collect();
    Membership::new(configs, nodes).map_err(invalid)
}

pub(super) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::Membership {
    membership_to_pb(stored.membership(), stored.log_id().as_ref())
}

pub(super) fn stored_membership_from_pb(message: &pb::Membership) -> io::Result<StoredMembership> {
    if message.configs.is_empty() && message.nodes.is_empty() {
        return Ok(StoredMembership::default());
    }
    Ok(StoredMembership::new(message.log_id.map(log_id_from_pb), membership_from_pb(message)?))
}

/// A membership and its place in the log, as storage keeps it.
pub(super) fn encode_membership(stored: &StoredMembership) -> Bytes {
    stored_membership_to_pb(stored).encode_to_vec().into()
}

pub(super) fn decode_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    stored_membership_from_pb(&pb::Membership::decode(bytes).map_err(invalid)?)
}

/// The membership that a cluster begins with whose log begins behind `term` and `index`: all vote. As storage keeps it.
pub(crate) fn first_membership(nodes: BTreeMap<u64, MemberNode>, term: u64, index: u64) -> io::Result<Bytes> {
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).map_err(invalid)?;
    Ok(encode_membership(&StoredMembership::new(Some(log_id(term, index)), membership)))
}

/// The log body of a change to a membership in which all of `nodes` vote.
pub(crate) fn membership_body(nodes: BTreeMap<u64, MemberNode>) -> io::Result<Bytes> {
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).map_err(invalid)?;
    Ok(entry_to_body(&Entry::new(log_id(0, 0), EntryPayload::Membership(membership))))
}

/// Whether the body of a log entry is what this version can apply.
pub(crate) fn check_entry(term: u64, index: u64, body: Bytes) -> io::Result<()> {
    match entry_from_body(term, index, body)?.payload {
        EntryPayload::Blank | EntryPayload::Membership(_) => Ok(()),
        EntryPayload::Normal(data) => {
            quorate_core::codec::decode_entry(data.0.slice(1..)).map(drop).map_err(io::Error::other)
        }
    }
}

/// A vote of `term` for `member`, not granted by anybody, as the log keeps it.
pub(crate) fn vote_of(term: u64, member: u64) -> Bytes {
    vote_to_bytes(&Vote::new(term, member))
}

/// A member as the Raft membership has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RaftMember {
    pub id: u64,
    pub node: MemberNode,
    pub voter: bool,
}

/// Whether a stored membership is that of a change between its two steps.
pub(crate) fn is_joint(bytes: &[u8]) -> io::Result<bool> {
    Ok(decode_membership(bytes)?.membership().get_joint_config().len() > 1)
}

/// The members of a stored membership, sorted by id.
pub(crate) fn members_of(bytes: &[u8]) -> io::Result<Vec<RaftMember>> {
    let stored = decode_membership(bytes)?;
    let voters: BTreeSet<u64> = stored.membership().voter_ids().collect();
    let members = stored.membership().nodes();
    Ok(members.map(|(id, node)| RaftMember { id: *id, node: node.clone(), voter: voters.contains(id) }).collect())
}

pub(super) fn append_to_pb(request: &AppendEntriesRequest<Types>) -> pb::Append {
    pb::Append {
        vote: Some(vote_to_pb(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request
            .entries
            .iter()
            .map(|entry| pb::LogEntry {
                term: entry.log_id.committed_leader_id().term,
                index: entry.log_id.index(),
                body: entry_to_body(entry),
            })
            .collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn append_from_pb(message: pb::Append) -> io::Result<AppendEntriesRequest<Types>> {
    Ok(AppendEntriesRequest {
        vote: vote_from_pb(message.vote.ok_or_else(|| invalid("an append without a vote"))?),
        prev_log_id: message.prev.map(log_id_from_pb),
        entries: message
            .entries
            .into_iter()
            .map(|entry| entry_from_body(entry.term, entry.index, entry.body))
            .collect::<io::Result<_>>()?,
        leader_commit: message.leader_commit.map(log_id_from_pb),
    })
}

pub(super) fn vote_request_to_pb(request: &VoteRequest<Types>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_pb(message: pb::VoteRequest) -> io::Result<VoteRequest<Types>> {
    let vote = vote_from_pb(message.vote.ok_or_else(|| invalid("a vote request without a vote"))?);
    let mut request = VoteRequest::new(vote, message.last_log_id.map(log_id_from_pb));
    request.leadership_transfer = message.leadership_transfer;
    Ok(request)
}

pub(super) fn vote_response_to_pb(response: &VoteResponse<Types>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn vote_response_from_pb(message: pb::VoteReply) -> io::Result<VoteResponse<Types>> {
    let vote = vote_from_pb(message.vote.ok_or_else(|| invalid("a vote reply without a vote"))?);
    Ok(VoteResponse::new(vote, message.last_log_id.map(log_id_from_pb), message.granted))
}

pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
