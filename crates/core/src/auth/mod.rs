//! Who may do what: users, roles, and permissions over ranges of keys. Replicated state like all else here.
//!
//! Knows names and ranges; does not know how a client proves its name (a [`Caller`] arrives proven), nor how a password is
//! hashed (a [`PasswordHash`] arrives hashed, so that neither the log nor any table ever holds a password).
//!
//! Guarantees: with authentication on, nothing is permitted that is not granted. Every operation of a transaction is
//! checked at every depth, in both branches, and so is everything that it does beside what it names: a compare and a
//! `prev_kv` read, and a lease that is given to a key can delete the other keys on it.
//!
//! Source of the rules: etcd's auth store, with the corrections of its advisories.

mod change;
mod check;
mod ranges;

pub(crate) use change::apply;
pub use check::authorize;

use crate::{KeyRange, Rejection, SystemChange};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use ranges::Ranges;

/// The user without whom authentication cannot be turned on.
pub const ROOT_USER: &str = "root";

/// The role that may do everything.
pub const ROOT_ROLE: &str = "root";

/// On whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The cluster itself, or the program that embeds the node: may do everything.
    System,
    /// A client that has proven no name.
    Anonymous,
    /// A client that has proven a name.
    User {
        /// The name.
        name: Arc<str>,
        /// [`AuthState::revision`] when it was proven. What is older than the state does not count for keys any more.
        auth_revision: u64,
    },
}

/// A password as it is kept: hashed, with salt and parameters, as text. What is in it is not looked at here.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    /// Takes what a hash function for passwords has made.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// For whoever verifies a password against it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It does not belong into a log.
        f.write_str("PasswordHash(..)")
    }
}

/// Names a token: the SHA-256 of its secret part. Who reads it in the log or in memory cannot use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 32]);

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write and delete.
    Write,
    /// Both.
    ReadWrite,
}

/// What a role allows on a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Which keys.
    pub range: KeyRange,
    /// What.
    pub access: Access,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `None`: nobody proves this name with a password, only with a certificate.
    pub password: Option<PasswordHash>,
    /// Names of the roles. (Only [`ROOT_ROLE`] need not exist as a role.)
    pub roles: BTreeSet<String>,
    /// [`AuthState::revision`] of the creation or of the last change of the password. A name that was proven before is not
    /// proven any more: whoever proved it may be another.
    pub credentials_revision: u64,
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// By key and end of the range, as on the wire; a range is there once.
    pub permissions: Vec<Permission>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What each user may do, from users and roles.
    grants: BTreeMap<String, Grants>,
}

/// What one user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Grants {
    everything: bool,
    read: Ranges,
    write: Ranges,
}

impl Default for AuthState {
    /// Off, without users and roles, at revision 1: as etcd starts.
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new(), grants: BTreeMap::new() }
    }
}

impl AuthState {
    /// Whether permissions are asked for at all.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Rises by 1 with each change of users and roles, and when authentication is turned off.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The users by name.
    pub fn users(&self) -> &BTreeMap<String, User> {
        &self.users
    }

    /// The roles by name.
    pub fn roles(&self) -> &BTreeMap<String, Role> {
        &self.roles
    }

    /// A client that has just proven this name.
    pub fn proven(&self, name: &str) -> Caller {
        Caller::User { name: name.into(), auth_revision: self.revision }
    }

    /// Takes a change of its tables in; leaves all others alone.
    pub fn follow(&mut self, change: &SystemChange) {
        match change {
            SystemChange::AuthSet { enabled, revision } => {
                self.enabled = *enabled;
                self.revision = *revision;
            }
            SystemChange::UserSet(name, user) => {
                self.users.insert(name.clone(), user.clone());
                self.refresh(name);
            }
            SystemChange::UserRemove(name) => {
                self.users.remove(name);
                self.grants.remove(name);
            }
            SystemChange::RoleSet(name, role) => {
                self.roles.insert(name.clone(), role.clone());
                self.refresh_holders(name);
            }
            SystemChange::RoleRemove(name) => {
                self.roles.remove(name);
                self.refresh_holders(name);
            }
            SystemChange::TokenAssign { .. }
            | SystemChange::LeaseSet(_)
            | SystemChange::LeaseRemove(_)
            | SystemChange::MemberSet(..)
            | SystemChange::MemberRemove(_)
            | SystemChange::AlarmSet(_)
            | SystemChange::AlarmRemove(_)
            | SystemChange::VersionsSet(_) => {}
        }
    }

    fn refresh_holders(&mut self, role: &str) {
        let holders: Vec<String> =
            self.users.iter().filter(|(_, user)| user.roles.contains(role)).map(|(name, _)| name.clone()).collect();
        for name in holders {
            self.refresh(&name);
        }
    }

    /// Works out what a user may do.
    fn refresh(&mut self, name: &str) {
        let Some(user) = self.users.get(name) else { return };
        let mut grants = Grants { everything: user.roles.contains(ROOT_ROLE), ..Grants::default() };
        let permissions = user.roles.iter().filter_map(|role| self.roles.get(role)).flat_map(|role| &role.permissions);
        for permission in permissions {
            let (read, write) = match permission.access {
                Access::Read => (true, false),
                Access::Write => (false, true),
                Access::ReadWrite => (true, true),
            };
            if read {
                grants.read.add(&permission.range);
            }
            if write {
                grants.write.add(&permission.range);
            }
        }
        grants.read.merge();
        grants.write.merge();
        self.grants.insert(name.into(), grants);
    }
}

/// A change of users, roles and what goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    /// Turn authentication on. Needs the user root with the role root.
    Enable,
    /// Turn it off. All tokens end.
    Disable,
    /// Add a user.
    UserAdd {
        /// The name.
        user: String,
        /// `None`: without a password.
        password: Option<PasswordHash>,
    },
    /// Delete a user.
    UserDelete {
        /// The name.
        user: String,
    },
    /// Give a user another password. One without a password stays so.
    UserChangePassword {
        /// The name.
        user: String,
        /// The new password.
        password: PasswordHash,
    },
    /// Give a role to a user.
    UserGrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Take a role from a user.
    UserRevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Add a role.
    RoleAdd {
        /// The name.
        role: String,
    },
    /// Delete a role; whoever has it loses it.
    RoleDelete {
        /// The name.
        role: String,
    },
    /// Give a permission to a role. One for exactly the same range is replaced.
    RoleGrantPermission {
        /// The role.
        role: String,
        /// The permission.
        permission: Permission,
    },
    /// Take the permission for exactly this range from a role.
    RoleRevokePermission {
        /// The role.
        role: String,
        /// The range.
        range: KeyRange,
    },
    /// Make a token known on all members, for a user whose password was verified.
    TokenAssign {
        /// The user.
        user: String,
        /// The token.
        token: TokenId,
        /// [`User::credentials_revision`] of the password that was verified. If it is another one by now, nothing was
        /// proven.
        credentials_revision: u64,
    },
}

/// Whether a role can have a permission for the range: it has a first key, and is not empty.
///
/// # Errors
/// [`Rejection::InvalidAuthManagement`].
pub fn check_permission_range(range: &KeyRange) -> Result<(), Rejection> {
    if range.start().is_empty() || range.is_empty() { Err(Rejection::InvalidAuthManagement) } else { Ok(()) }
}

/// Where a permission's range stands in a role's list.
fn wire_order(range: &KeyRange) -> (&Bytes, Bytes) {
    (range.start(), range.wire_end())
}
