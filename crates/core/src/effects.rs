//! What one command does: reply, storage delta and events come out together or not at all.

use crate::auth::{Role, TokenId, User};
use crate::{Alarm, ClusterVersions, Lease, LeaseId, MemberAttributes, MemberId, Record, Rejection, Reply, Revision};
use alloc::string::String;
use alloc::vec::Vec;

/// The outcome of one [`Command`](crate::Command).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// For the client. With a rejection the delta is empty.
    pub reply: Result<Reply, Rejection>,
    /// For storage and for watchers.
    pub delta: Delta,
}

/// What changes. Storage writes it in one atomic step; `records` are also the watch events, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The changed keys, all of one main revision (the store's revision + 1), `sub` counting from 0. Empty: the revision
    /// stays. INVARIANT(revision-step): a command adds 0 or 1.
    pub records: Vec<Record>,
    /// The new compacted revision, if it moves.
    pub compacted: Option<Revision>,
    /// Changes of the small replicated tables, in order.
    pub system: Vec<SystemChange>,
}

impl Delta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.compacted.is_none() && self.system.is_empty()
    }
}

/// A change of a small replicated table. (Which keys hang on a lease is not here: it follows from the records.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemChange {
    /// A lease was granted or checkpointed.
    LeaseSet(Lease),
    /// A lease is gone.
    LeaseRemove(LeaseId),
    /// A member told its attributes.
    MemberSet(MemberId, MemberAttributes),
    /// A member was removed for good: forget its attributes, remember its id as used.
    MemberRemove(MemberId),
    /// An alarm was raised.
    AlarmSet(Alarm),
    /// An alarm was cleared.
    AlarmRemove(Alarm),
    /// The members agreed on something about versions.
    VersionsSet(ClusterVersions),
    /// Authentication was turned on or off, or its revision has risen.
    AuthSet {
        /// Whether permissions are asked for.
        enabled: bool,
        /// The revision of users and roles.
        revision: u64,
    },
    /// A user is new, or has changed.
    UserSet(String, User),
    /// A user is gone.
    UserRemove(String),
    /// A role is new, or has changed.
    RoleSet(String, Role),
    /// A role is gone.
    RoleRemove(String),
    /// A token is good for a user from now on. Known to the members that are there; kept nowhere.
    TokenAssign {
        /// The user.
        user: String,
        /// The token.
        token: TokenId,
        /// [`User::credentials_revision`] of the password that it was given for.
        credentials_revision: u64,
    },
}
