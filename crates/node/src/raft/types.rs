//! The types that openraft is instantiated with.

use super::runtime::Runtime;
use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::{OptionalSend, RaftTypeConfig};
use std::fmt;

/// One leader per term, so that a term names its leader, as etcd's `raft_term` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;

impl RaftTypeConfig for Types {
    type D = EntryData;
    type R = ();
    type NodeId = u64;
    type Node = MemberNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<EntryData, u64, MemberNode>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, MemberNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// An encoded [`quorate_core`] entry. Encoded once; the same bytes go to the WAL and to the peers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EntryData(pub Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the Raft membership knows of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemberNode {
    /// Where the others reach it.
    pub peer_urls: Vec<String>,
    /// A learner that becomes a voter as soon as it has caught up: how `member add` without `--learner` adds a voter
    /// without putting the quorum at risk.
    pub promote: bool,
}

/// Calls a function with the outcome of a proposal.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(f: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(f))
    }
}

impl<C: RaftTypeConfig, T: OptionalSend + 'static> Responder<C, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
