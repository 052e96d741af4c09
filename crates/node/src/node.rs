//! [`Node`]: the public face of this crate.

use crate::{Config, Error, WatchCreate, WatchMessage};
use bytes::Bytes;
use quorate_core::{
    Alarm, ClusterId, LeaseId, LogIndex, MemberId, RangeReply, RangeRequest, Revision, Term, Txn, TxnReply,
};
use std::sync::Arc;

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
    /// Bytes of them that are in use.
    pub db_size_in_use_bytes: i64,
    /// The quota in force; 0 is none.
    pub db_quota_bytes: i64,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Alarms.
    pub alarms: Vec<Alarm>,
    /// Live keys.
    pub keys: u64,
}

/// A hash over the history of the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C over the kept records in (compacted, hash_revision].
    pub hash: u32,
    /// The compacted revision when it was taken.
    pub compact_revision: Revision,
    /// Up to which revision.
    pub hash_revision: Revision,
}

/// A running node. A cheap handle: clones share the node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {}

#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Node {
    /// Opens the data directory, joins the cluster, and returns when the node serves peers. (A leader may not be known yet:
    /// see [`Node::wait_ready`].)
    pub async fn start(config: Config) -> Result<Self, Error> {
        todo!()
    }

    /// Waits until this member knows a leader and has applied what was committed before it started, and has told the
    /// cluster its name and client URLs.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        todo!()
    }

    /// The configuration that the node runs with.
    pub fn config(&self) -> &Config {
        todo!()
    }

    /// The header of an answer that is made now.
    pub fn header(&self) -> Header {
        todo!()
    }

    /// Reads a range: linearizable, unless `request.serializable`.
    pub async fn range(&self, request: RangeRequest) -> Result<Answer<RangeReply>, Error> {
        todo!()
    }

    /// Runs a transaction. One that only reads does not go through the log.
    pub async fn txn(&self, txn: Txn) -> Result<Answer<TxnReply>, Error> {
        todo!()
    }

    /// Forgets history older than `revision`. With `physical`, returns when the old data is gone.
    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<Answer<()>, Error> {
        todo!()
    }

    /// Opens a watch stream: many watchers, one order.
    pub fn watch_stream(&self) -> (WatchControl, WatchStream) {
        todo!()
    }

    /// Grants a lease; id 0 lets the node choose. Returns id and TTL as granted.
    pub async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Answer<(LeaseId, i64)>, Error> {
        todo!()
    }

    /// Revokes a lease and deletes its keys, in one revision.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Answer<()>, Error> {
        todo!()
    }

    /// Renews a lease. Returns its TTL, 0 if there is no such lease. The header is from before the renewal.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Answer<i64>, Error> {
        todo!()
    }

    /// Time left, and the keys if asked for.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Answer<LeaseTimeToLive>, Error> {
        todo!()
    }

    /// All leases, the one that expires first in front.
    pub async fn leases(&self) -> Result<Answer<Vec<LeaseId>>, Error> {
        todo!()
    }

    /// The members, sorted by id.
    pub async fn members(&self, linearizable: bool) -> Result<Answer<Vec<Member>>, Error> {
        todo!()
    }

    /// Adds a member; returns it and all members.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
    ) -> Result<Answer<(Member, Vec<Member>)>, Error> {
        todo!()
    }

    /// Removes a member; returns those that are left.
    pub async fn member_remove(&self, id: MemberId) -> Result<Answer<Vec<Member>>, Error> {
        todo!()
    }

    /// Changes a member's peer URLs.
    pub async fn member_update(&self, id: MemberId, peer_urls: Vec<String>) -> Result<Answer<Vec<Member>>, Error> {
        todo!()
    }

    /// Makes a learner a voter.
    pub async fn member_promote(&self, id: MemberId) -> Result<Answer<Vec<Member>>, Error> {
        todo!()
    }

    /// Hands leadership to `target`. Only the leader can.
    pub async fn move_leader(&self, target: MemberId) -> Result<(), Error> {
        todo!()
    }

    /// State of this member; never waits for others.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Alarms that are raised.
    pub fn alarms(&self) -> Vec<Alarm> {
        todo!()
    }

    /// Raises or clears an alarm; returns the alarms that it changed.
    pub async fn alarm_set(&self, alarm: Alarm, active: bool) -> Result<Answer<Vec<Alarm>>, Error> {
        todo!()
    }

    /// Hash of the history up to `revision` (0: the newest).
    pub async fn hash_kv(&self, revision: Revision) -> Result<Answer<HashKv>, Error> {
        todo!()
    }

    /// Compacts the engine online.
    pub async fn defragment(&self) -> Result<Answer<()>, Error> {
        todo!()
    }

    /// Opens a snapshot file of the keyspace as it is now, to be read in chunks of constant memory.
    pub async fn snapshot(&self) -> Result<SnapshotReader, Error> {
        todo!()
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        todo!()
    }

    /// Resolves when the node has stopped by itself (removed from the cluster, or a fatal error), with the reason.
    pub async fn stopped(&self) -> Error {
        todo!()
    }

    /// Hands leadership over if it can, flushes, stops.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// The node's figures in Prometheus text format.
    pub fn metrics_text(&self) -> String {
        todo!()
    }
}

/// The sending half of a watch stream.
#[derive(Clone)]
pub struct WatchControl {}

#[allow(unused_variables, clippy::todo)]
impl WatchControl {
    /// Asks for a watcher; [`WatchMessage::Created`] or [`WatchMessage::Refused`] answers.
    pub fn create(&self, create: WatchCreate) {
        todo!()
    }

    /// Ends a watcher; [`WatchMessage::Canceled`] answers. An unknown id: silence.
    pub fn cancel(&self, watch_id: i64) {
        todo!()
    }

    /// Asks for [`WatchMessage::Progress`] of the whole stream; silence if a watcher is not synced.
    pub fn request_progress(&self) {
        todo!()
    }
}

/// The receiving half of a watch stream. Dropping it ends all its watchers.
pub struct WatchStream {}

#[allow(clippy::todo, clippy::unused_async)]
impl WatchStream {
    /// The next message. Waits as long as nothing happens. `None` when the node stops.
    pub async fn next(&mut self) -> Option<WatchMessage> {
        todo!()
    }
}

/// Reads a snapshot file in chunks.
pub struct SnapshotReader {}

#[allow(clippy::todo, clippy::unused_async)]
impl SnapshotReader {
    /// Bytes that are still to come, as far as known.
    pub fn remaining_bytes(&self) -> u64 {
        todo!()
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        todo!()
    }
}
