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
    /// To `Auth`.
    Auth,
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
    /// There is no user root.
    RootUserNotExist,
    /// The user root does not have the role root.
    RootRoleNotExist,
    /// The user's name is taken.
    UserAlreadyExists,
    /// A user without a name; or a client that has proven none.
    UserEmpty,
    /// No such user.
    UserNotFound,
    /// The role's name is taken.
    RoleAlreadyExists,
    /// No such role.
    RoleNotFound,
    /// A role without a name.
    RoleEmpty,
    /// Wrong user or password.
    AuthFailed,
    /// The user has no password.
    NoPasswordUser,
    /// A grant without a permission.
    PermissionNotGiven,
    /// The caller may not do it.
    PermissionDenied,
    /// The user does not have the role.
    RoleNotGranted,
    /// The role does not have the permission.
    PermissionNotGranted,
    /// Authentication is off.
    AuthNotEnabled,
    /// The token is not known, or not any more.
    InvalidAuthToken,
    /// It would lock everybody out; or a range that no permission can have.
    InvalidAuthManagement,
    /// The caller's name was proven too long ago.
    AuthOldRevision,
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
            Self::RootUserNotExist => "etcdserver: root user does not exist",
            Self::RootRoleNotExist => "etcdserver: root user does not have root role",
            Self::UserAlreadyExists => "etcdserver: user name already exists",
            Self::UserEmpty => "etcdserver: user name is empty",
            Self::UserNotFound => "etcdserver: user name not found",
            Self::RoleAlreadyExists => "etcdserver: role name already exists",
            Self::RoleNotFound => "etcdserver: role name not found",
            Self::RoleEmpty => "etcdserver: role name is empty",
            Self::AuthFailed => "etcdserver: authentication failed, invalid user ID or password",
            // Without etcd's usual prefix, as in etcd.
            Self::NoPasswordUser => "auth: authentication failed, password was given for no password user",
            Self::PermissionNotGiven => "etcdserver: permission not given",
            Self::PermissionDenied => "etcdserver: permission denied",
            Self::RoleNotGranted => "etcdserver: role is not granted to the user",
            Self::PermissionNotGranted => "etcdserver: permission is not granted to the role",
            Self::AuthNotEnabled => "etcdserver: authentication is not enabled",
            Self::InvalidAuthToken => "etcdserver: invalid auth token",
            Self::InvalidAuthManagement => "etcdserver: invalid auth management",
            Self::AuthOldRevision => "etcdserver: revision of auth store is old",
        })
    }
}

impl core::error::Error for Rejection {}
