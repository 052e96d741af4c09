//! What comes back from the state machine: a [`Reply`], or a [`Rejection`] that is the client's fault, is the same on every
//! replica, and has changed nothing.

use crate::{Alarm, ClusterVersions, KeyValue, LeaseId, Revision};
use alloc::vec::Vec;
use core::fmt;

/// The answer to a [`Command`](crate::Command) that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `Txn`.
    Txn(TxnReply),
    /// To `Compact`.
    Compact,
    /// To `LeaseGrant`.
    LeaseGrant {
        /// The lease.
        id: LeaseId,
        /// Its time to live, in seconds.
        ttl_seconds: i64,
    },
    /// To `LeaseRevoke`.
    LeaseRevoke,
    /// To `LeaseCheckpoint`.
    LeaseCheckpoint,
    /// To `MemberPublish` and `MemberForget`.
    Member,
    /// To `AlarmActivate`: the alarm, raised by this command or before. To `AlarmDeactivate`: the alarm, if it was raised.
    Alarm(Vec<Alarm>),
    /// To `ClusterVersionSet`, `DowngradeEnable` and `DowngradeCancel`: what is agreed on now.
    Versions(ClusterVersions),
}

/// The answer to a [`Txn`](crate::Txn).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One per operation of the branch that ran, in order.
    pub responses: Vec<OpReply>,
}

/// The answer to one [`Op`](crate::Op). `revision` is what the inner response header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// To `Range`.
    Range {
        /// Revision for the inner header.
        revision: Revision,
        /// What was read.
        reply: RangeReply,
    },
    /// To `Put`.
    Put {
        /// Revision for the inner header.
        revision: Revision,
        /// What was there before, if asked for.
        prev_kv: Option<KeyValue>,
    },
    /// To `DeleteRange`.
    DeleteRange {
        /// Revision for the inner header.
        revision: Revision,
        /// How many keys went.
        deleted: i64,
        /// What was there before, if asked for, in key order.
        prev_kvs: Vec<KeyValue>,
    },
    /// To a nested `Txn`; its header is empty in etcd.
    Txn(TxnReply),
}

/// The answer to a [`RangeRequest`](crate::RangeRequest).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// What was found, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut something off.
    pub more: bool,
    /// Keys in the range at the revision, whatever limit and filters say.
    pub count: i64,
}

/// Why a command or a read was refused. `Display` gives etcd's text, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A key is empty.
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist; or an op without content.
    KeyNotFound,
    /// `ignore_value` with a value.
    ValueProvided,
    /// `ignore_lease` with a lease.
    LeaseProvided,
    /// More operations than `max-txn-ops`.
    TooManyOps,
    /// A key is written twice in one transaction.
    DuplicateKey,
    /// Sort order or target is not one of the enum.
    InvalidSortOption,
    /// The revision was compacted.
    Compacted,
    /// The revision is not there yet.
    FutureRevision,
    /// The quota is used up (NOSPACE alarm).
    NoSpace,
    /// The cluster is corrupt (CORRUPT alarm).
    Corrupt,
    /// No such lease.
    LeaseNotFound,
    /// The lease id is taken.
    LeaseExists,
    /// The TTL is beyond 9,000,000,000 s.
    LeaseTtlTooLarge,
    /// The request is larger than `max-request-bytes`.
    RequestTooLarge,
    /// The target of a downgrade is not the version just below.
    DowngradeTarget,
    /// The cluster has no version yet, and so cannot go back.
    VersionUnknown,
    /// A downgrade is under way.
    DowngradeInProcess,
    /// No downgrade is under way.
    NoDowngrade,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyKey => "etcdserver: key is not provided",
            Self::KeyNotFound => "etcdserver: key not found",
            Self::ValueProvided => "etcdserver: value is provided",
            Self::LeaseProvided => "etcdserver: lease is provided",
            Self::TooManyOps => "etcdserver: too many operations in txn request",
            Self::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Self::InvalidSortOption => "etcdserver: invalid sort option",
            Self::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Self::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Self::NoSpace => "etcdserver: mvcc: database space exceeded",
            Self::Corrupt => "etcdserver: corrupt cluster",
            Self::LeaseNotFound => "etcdserver: requested lease not found",
            Self::LeaseExists => "etcdserver: lease already exists",
            Self::LeaseTtlTooLarge => "etcdserver: too large lease TTL",
            Self::RequestTooLarge => "etcdserver: request is too large",
            Self::DowngradeTarget => "etcdserver: invalid downgrade target version",
            Self::VersionUnknown => "etcdserver: cluster version not found during downgrade",
            Self::DowngradeInProcess => "etcdserver: cluster has a downgrade job in progress",
            Self::NoDowngrade => "etcdserver: no inflight downgrade job",
        })
    }
}

impl core::error::Error for Rejection {}
