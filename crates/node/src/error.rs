//! The three kinds of failure: a rejection (the client's fault, nothing changed), unavailable (try again; an unknown
//! outcome says so), and fatal (disk or corruption: the node stops).

use quorate_core::Rejection;
use quorate_storage::StorageError;

/// Why a request failed. `Display` gives etcd's text where etcd has the error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state machine or a limit refused the request; nothing changed.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// No leader is known.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Only the leader can do this.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The leader changed while the request was under way. For a write: outcome unknown.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No answer in time. For a write: outcome unknown.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// No answer in time after a leader was lost. For a write: outcome unknown.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// The connection to the leader broke. For a write: outcome unknown.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member did not apply in time what the leader has.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutWaitAppliedIndex,
    /// As many commands or reads wait as [`Config::waiting_max`](crate::Config::waiting_max); nothing was changed.
    #[error("etcdserver: too many requests")]
    TooManyWaiting,
    /// As many requests that read everything are under way as [`Config::heavy_max`](crate::Config::heavy_max); nothing was
    /// changed.
    #[error("etcdserver: too many requests")]
    TooManyHeavy,
    /// More bytes of writes are under way than [`Config::inflight_bytes_max`](crate::Config::inflight_bytes_max); nothing was
    /// changed.
    #[error("etcdserver: too many requests")]
    TooManyProposalBytes,
    /// The node stops or has stopped.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// A learner does not serve this.
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,
    /// The member id is taken.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// Another member has this peer URL.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// The change could cost the quorum.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStartedMembers,
    /// A peer URL does not parse.
    #[error("etcdserver: given member URLs are invalid")]
    MemberBadUrls,
    /// No such member.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// Only a learner can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// The learner lags too far behind.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// More learners than allowed.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// The change would break the quorum that is there.
    #[error("etcdserver: unhealthy cluster")]
    UnhealthyCluster,
    /// The target of a leader transfer is missing or a learner.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// Not every member is known to understand this: some may be of an older build.
    #[error("etcdserver: not capable")]
    NotCapable,
    /// The leader transfer did not finish.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    LeaderTransferTimeout,
    /// This member's data cannot be trusted: it serves nobody until it has rebuilt itself from the others. As the reason of a
    /// stop: it does so when it is started again.
    #[error("{0}")]
    Rebuild(String),
    /// This member is not part of the cluster (any more): it stops. The text says what to do.
    #[error("{0}")]
    Removed(String),
    /// The disk failed or data is damaged: the node stops serving. The text says where and what to do.
    #[error("{0}")]
    Fatal(String),
}

/// What a failure of storage is to whoever asked: a revision that is not there is the client's fault (also where compaction
/// overtook a reader), all else is the disk's.
pub(crate) fn storage_error(error: StorageError) -> Error {
    match error {
        StorageError::Rejected(rejection) => Error::Rejected(rejection),
        StorageError::Engine(_) | StorageError::Corrupt { .. } | StorageError::NewerFormat { .. } => {
            Error::Fatal(error.to_string())
        }
    }
}
