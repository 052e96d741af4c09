//! Who may call which method while authentication is on. One row for each method: a method without a rule does not compile.
//!
//! This is the first of two checks. What depends on keys or on replicated state is checked once more where it is read or
//! applied, by [`quorate_core::auth`].

use super::Method;
use quorate_core::{AuthState, Caller, Rejection};

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anybody.
    Open,
    /// Whoever has proven a name.
    User,
    /// Whoever has the role root.
    Root,
    /// Whoever has proven a name, as far as they may read or write the keys that the request names.
    Keys,
    /// Each watcher is checked by itself when it is created, and refused by itself: the stream is open to anybody.
    Watchers,
    /// Whoever has proven a name, for themselves and their roles; the role root for all.
    Own,
    /// Whoever has proven a name may look; the role root may change.
    RootToChange,
}

impl Method {
    /// Who may call it.
    pub const fn rule(self) -> Rule {
        match self {
            Self::Authenticate | Self::AuthStatus | Self::HealthCheck | Self::HealthWatch => Rule::Open,
            Self::Range | Self::RangeStream | Self::Put | Self::DeleteRange | Self::Txn => Rule::Keys,
            // Of a lease its keys are asked for: to revoke it is to delete them.
            Self::LeaseRevoke | Self::LeaseTimeToLive => Rule::Keys,
            // What they do inside is done in the caller's name.
            Self::Lock | Self::Unlock => Rule::Keys,
            Self::Campaign | Self::Proclaim | Self::Leader | Self::Observe | Self::Resign => Rule::Keys,
            Self::Watch => Rule::Watchers,
            Self::LeaseGrant | Self::LeaseKeepAlive | Self::LeaseLeases => Rule::User,
            Self::MemberList | Self::Status | Self::ClusterHealth | Self::MaintenanceProgress => Rule::User,
            Self::Alarm => Rule::RootToChange,
            Self::UserGet | Self::RoleGet => Rule::Own,
            Self::Compact | Self::Defragment | Self::Hash | Self::HashKv | Self::Snapshot => Rule::Root,
            Self::MemberAdd | Self::MemberRemove | Self::MemberUpdate | Self::MemberPromote => Rule::Root,
            Self::MoveLeader | Self::Downgrade => Rule::Root,
            Self::AuthEnable | Self::AuthDisable => Rule::Root,
            Self::UserAdd | Self::UserList | Self::UserDelete | Self::UserChangePassword => Rule::Root,
            Self::UserGrantRole | Self::UserRevokeRole => Rule::Root,
            Self::RoleAdd | Self::RoleList | Self::RoleDelete => Rule::Root,
            Self::RoleGrantPermission | Self::RoleRevokePermission => Rule::Root,
        }
    }
}

impl Rule {
    /// Whether the method can be called at all without a name that is proven.
    pub const fn needs_proof(self) -> bool {
        match self {
            Self::Open | Self::Watchers => false,
            Self::User | Self::Root | Self::Keys | Self::Own | Self::RootToChange => true,
        }
    }

    /// What can be said of the caller before the request is read.
    ///
    /// # Errors
    /// As [`AuthState::check_user`] and [`AuthState::check_root`].
    pub fn check(self, auth: &AuthState, caller: &Caller) -> Result<(), Rejection> {
        match self {
            Self::Open | Self::Watchers => Ok(()),
            Self::Root => auth.check_root(caller),
            Self::User | Self::Keys | Self::Own | Self::RootToChange => auth.check_user(caller),
        }
    }
}
