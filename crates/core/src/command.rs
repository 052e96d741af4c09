//! What can be asked of the state machine. A [`Command`] in the log changes state; a [`RangeRequest`] only reads.

use crate::{Alarm, AuthCommand, Caller, ClusterVersion, KeyRange, LeaseId, MemberAttributes, MemberId, Revision};
use alloc::vec::Vec;
use bytes::Bytes;

/// One replicated operation. A put or a delete on its own is a [`Txn`] of one op: one code path for revisions, leases and
/// events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Compare, then one of two lists of operations, all in one revision.
    Txn(Txn),
    /// Forget history older than `revision`.
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
    /// Create a lease. The proposer has chosen the id and raised the TTL to its minimum.
    LeaseGrant {
        /// The id; never 0 here.
        id: LeaseId,
        /// Time to live, in seconds.
        ttl_seconds: i64,
    },
    /// Delete a lease and, in one revision, all keys on it.
    LeaseRevoke {
        /// The lease.
        id: LeaseId,
    },
    /// Remember how much time leases have left, so that a new leader does not start them afresh.
    LeaseCheckpoint {
        /// Lease and remaining seconds.
        remaining: Vec<(LeaseId, i64)>,
    },
    /// A member tells its name and client URLs.
    MemberPublish {
        /// Who.
        member: MemberId,
        /// What it tells.
        attributes: MemberAttributes,
    },
    /// A member was removed from the Raft membership: its id is never used again.
    MemberForget {
        /// Who.
        member: MemberId,
    },
    /// Raise an alarm.
    AlarmActivate(Alarm),
    /// Clear an alarm.
    AlarmDeactivate(Alarm),
    /// All members have this version: what came with it may be used.
    ClusterVersionSet(ClusterVersion),
    /// Go back to this version, the one just below.
    DowngradeEnable(ClusterVersion),
    /// Stay, or be done with going back.
    DowngradeCancel,
    /// Change users, roles, or whether permissions are asked for.
    Auth(AuthCommand),
}

/// A command in the log, and on whose behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// For what.
    pub command: Command,
}

/// A transaction. All compares (also of nested transactions) are evaluated against the state before the outer one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Runs if all compares hold.
    pub success: Vec<Op>,
    /// Runs otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction of one operation: a put or a delete on its own.
    pub fn of(op: Op) -> Self {
        Self { compares: Vec::new(), success: alloc::vec![op], failure: Vec::new() }
    }

    /// Whether it only reads, and so needs no log entry. A nested transaction makes it a write, whatever is in it.
    pub fn is_read_only(&self) -> bool {
        self.ops().all(|op| matches!(op, Op::Range(_)))
    }

    /// Whether a member's own state will do to answer it: it only reads, and all reads are serializable. So is a
    /// transaction without operations.
    pub fn is_serializable(&self) -> bool {
        self.ops().all(|op| matches!(op, Op::Range(request) if request.serializable))
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.success.iter().chain(&self.failure)
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(RangeRequest),
    /// Write one key.
    Put(Put),
    /// Delete keys.
    DeleteRange(DeleteRange),
    /// A transaction within the transaction.
    Txn(Txn),
}

/// Write one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value; empty with `ignore_value`.
    pub value: Bytes,
    /// The lease to hang the key on; none detaches it.
    pub lease: LeaseId,
    /// Return what was there before.
    pub prev_kv: bool,
    /// Keep the present value; the key must exist.
    pub ignore_value: bool,
    /// Keep the present lease; the key must exist.
    pub ignore_lease: bool,
}

/// Delete all keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Which keys.
    pub range: KeyRange,
    /// Return what was there before.
    pub prev_kv: bool,
}

/// Read the keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Most keys to return; 0 is no limit. (Negative counts as 0.)
    pub limit: i64,
    /// At which revision; 0 or less is the newest (inside a transaction a negative one is compacted).
    pub revision: Revision,
    /// Sort direction.
    pub sort_order: SortOrder,
    /// What to sort by.
    pub sort_target: SortTarget,
    /// A read of the member's own state will do. Meaning for the caller; `range` does not look at it.
    pub serializable: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Drop keys modified before; 0 is no filter.
    pub min_mod_revision: Revision,
    /// Drop keys modified after; 0 is no filter.
    pub max_mod_revision: Revision,
    /// Drop keys created before; 0 is no filter.
    pub min_create_revision: Revision,
    /// Drop keys created after; 0 is no filter.
    pub max_create_revision: Revision,
}

impl RangeRequest {
    /// Everything in `range`, newest, in key order.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            revision: Revision::ZERO,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            serializable: false,
            keys_only: false,
            count_only: false,
            min_mod_revision: Revision::ZERO,
            max_mod_revision: Revision::ZERO,
            min_create_revision: Revision::ZERO,
            max_create_revision: Revision::ZERO,
        }
    }
}

/// Sort direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Not asked for: key order (with a target other than the key: see the etcd quirk in [`range`](crate::range)).
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value.
    Value,
}

/// A condition of a transaction. Over a range it must hold for every key in it; an empty range counts as one missing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How the key's field (left) must stand to the given one (right).
    pub result: CompareResult,
    /// The field, and what to compare it with.
    pub target: CompareTarget,
}

/// How the two sides must stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompareResult {
    /// Left == right.
    #[default]
    Equal,
    /// Left > right.
    Greater,
    /// Left < right.
    Less,
    /// Left != right.
    NotEqual,
}

/// Field and right-hand side of a [`Compare`]. A missing key has 0 in all number fields, and no value: a value compare
/// on a missing key never holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The create revision.
    Create(Revision),
    /// The mod revision.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(LeaseId),
}
