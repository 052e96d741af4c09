//! Whether a caller may do what they ask for.
//!
//! INVARIANT(auth-at-apply): every command is checked against the state that it is applied to, whatever was known when it
//! was proposed: [`authorize`] stands at the door of [`apply`](crate::apply).

use super::{AuthCommand, AuthState, Caller, Grants};
use crate::{Command, Compare, DeleteRange, KeyRange, LeaseId, Op, Put, Rejection, Txn, View};
use quorate_sabotage::sabotage;

/// What a caller may do, for the length of one check.
enum Standing<'a> {
    /// Everything.
    Unrestricted,
    /// What is granted.
    Granted(&'a Grants),
}

impl AuthState {
    /// Whether a name is proven that still holds. Enough for what concerns no key.
    ///
    /// # Errors
    /// [`Rejection::UserEmpty`] without a name; [`Rejection::PermissionDenied`] if there is no such user;
    /// [`Rejection::AuthOldRevision`] if the password has been changed since, or the user is another one of that name.
    pub fn check_user(&self, caller: &Caller) -> Result<(), Rejection> {
        self.standing(caller).map(|_| ())
    }

    /// Whether the caller may administer: has the role root.
    ///
    /// # Errors
    /// As [`check_user`](Self::check_user); [`Rejection::PermissionDenied`].
    pub fn check_root(&self, caller: &Caller) -> Result<(), Rejection> {
        match self.standing(caller)? {
            Standing::Unrestricted => Ok(()),
            Standing::Granted(grants) if grants.everything => Ok(()),
            Standing::Granted(_) => Err(Rejection::PermissionDenied),
        }
    }

    /// Whether the caller may read all keys of `range`.
    ///
    /// # Errors
    /// As [`check_user`](Self::check_user); [`Rejection::PermissionDenied`]; [`Rejection::AuthOldRevision`] if anything in
    /// users and roles has changed since the name was proven.
    pub fn check_read(&self, caller: &Caller, range: &KeyRange) -> Result<(), Rejection> {
        self.key_standing(caller)?.read(range)
    }

    /// Whether the caller may see a user, with their roles: root, and the user themselves.
    ///
    /// # Errors
    /// As [`check_root`](Self::check_root).
    pub fn check_see_user(&self, caller: &Caller, user: &str) -> Result<(), Rejection> {
        match caller {
            Caller::User { name, .. } if **name == *user => self.check_user(caller),
            Caller::User { .. } | Caller::System | Caller::Anonymous => self.check_root(caller),
        }
    }

    /// Whether the caller may see a role, with its permissions: root, and whoever has the role.
    ///
    /// # Errors
    /// As [`check_root`](Self::check_root).
    pub fn check_see_role(&self, caller: &Caller, role: &str) -> Result<(), Rejection> {
        match caller {
            Caller::User { name, .. } if self.users.get(&**name).is_some_and(|user| user.roles.contains(role)) => {
                self.check_user(caller)
            }
            Caller::User { .. } | Caller::System | Caller::Anonymous => self.check_root(caller),
        }
    }

    fn standing(&self, caller: &Caller) -> Result<Standing<'_>, Rejection> {
        if !self.enabled {
            return Ok(Standing::Unrestricted);
        }
        let (name, auth_revision) = match caller {
            Caller::System => return Ok(Standing::Unrestricted),
            Caller::Anonymous => return Err(Rejection::UserEmpty),
            Caller::User { name, .. } if name.is_empty() => return Err(Rejection::UserEmpty),
            Caller::User { name, auth_revision } => (&**name, *auth_revision),
        };
        let (Some(user), Some(grants)) = (self.users.get(name), self.grants.get(name)) else {
            return Err(Rejection::PermissionDenied);
        };
        if auth_revision < user.credentials_revision {
            return Err(Rejection::AuthOldRevision);
        }
        Ok(Standing::Granted(grants))
    }

    /// For keys etcd wants the name proven anew after every change of users and roles, also of the role root.
    fn key_standing(&self, caller: &Caller) -> Result<Standing<'_>, Rejection> {
        match caller {
            Caller::User { auth_revision, .. }
                if self.enabled && *auth_revision < self.revision && !sabotage!(AuthOldRevisionFree) =>
            {
                Err(Rejection::AuthOldRevision)
            }
            Caller::User { .. } | Caller::System | Caller::Anonymous => self.standing(caller),
        }
    }
}

impl Standing<'_> {
    fn read(&self, range: &KeyRange) -> Result<(), Rejection> {
        match self {
            Standing::Unrestricted => Ok(()),
            Standing::Granted(grants) if grants.everything || grants.read.cover(range) => Ok(()),
            Standing::Granted(_) => Err(Rejection::PermissionDenied),
        }
    }

    fn write(&self, range: &KeyRange) -> Result<(), Rejection> {
        match self {
            Standing::Unrestricted => Ok(()),
            Standing::Granted(grants) if grants.everything || grants.write.cover(range) => Ok(()),
            Standing::Granted(_) => Err(Rejection::PermissionDenied),
        }
    }

    fn is_unrestricted(&self) -> bool {
        match self {
            Standing::Unrestricted => true,
            Standing::Granted(grants) => grants.everything,
        }
    }

    /// Whoever can end a lease can delete its keys.
    fn end_lease<V: View>(&self, view: &V, lease: LeaseId) -> Result<(), Rejection> {
        if !lease.is_some() || self.is_unrestricted() || sabotage!(AuthLeaseFree) {
            return Ok(());
        }
        view.lease_keys(lease).into_iter().try_for_each(|key| self.write(&KeyRange::Single(key)))
    }

    fn txn<V: View>(&self, view: &V, txn: &Txn) -> Result<(), Rejection> {
        if self.is_unrestricted() {
            return Ok(());
        }
        // Whether a compare holds tells of the keys; which branch runs is not asked, for that tells as well.
        txn.compares.iter().try_for_each(|Compare { range, .. }| self.read(range))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            Op::Range(request) => self.read(&request.range),
            Op::Put(put) => self.put(view, put),
            Op::DeleteRange(delete) => self.delete(delete),
            Op::Txn(_) if sabotage!(AuthNestedFree) => Ok(()),
            Op::Txn(nested) => self.txn(view, nested),
        })
    }

    fn put<V: View>(&self, view: &V, put: &Put) -> Result<(), Rejection> {
        let key = KeyRange::Single(put.key.clone());
        self.write(&key)?;
        self.end_lease(view, put.lease)?;
        if put.prev_kv && !sabotage!(AuthPrevKvFree) { self.read(&key) } else { Ok(()) }
    }

    fn delete(&self, delete: &DeleteRange) -> Result<(), Rejection> {
        self.write(&delete.range)?;
        if delete.prev_kv { self.read(&delete.range) } else { Ok(()) }
    }
}

/// Whether `caller` may have `command` carried out on the state of `view`.
///
/// # Errors
/// As [`AuthState::check_root`] and [`AuthState::check_read`].
pub fn authorize<V: View>(view: &V, caller: &Caller, command: &Command) -> Result<(), Rejection> {
    if *caller == Caller::System || sabotage!(AuthNotAtApply) {
        return Ok(());
    }
    let auth = view.auth();
    if !auth.enabled {
        return Ok(());
    }
    match command {
        Command::Txn(txn) => auth.key_standing(caller)?.txn(view, txn),
        Command::LeaseRevoke { id } => auth.key_standing(caller)?.end_lease(view, *id),
        Command::LeaseGrant { .. } => auth.check_user(caller),
        Command::Compact { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::DowngradeEnable(_)
        | Command::DowngradeCancel => auth.check_root(caller),
        Command::Auth(command) => match command {
            AuthCommand::Enable
            | AuthCommand::Disable
            | AuthCommand::UserAdd { .. }
            | AuthCommand::UserDelete { .. }
            | AuthCommand::UserChangePassword { .. }
            | AuthCommand::UserGrantRole { .. }
            | AuthCommand::UserRevokeRole { .. }
            | AuthCommand::RoleAdd { .. }
            | AuthCommand::RoleDelete { .. }
            | AuthCommand::RoleGrantPermission { .. }
            | AuthCommand::RoleRevokePermission { .. } => auth.check_root(caller),
            // Proposed by the member that has verified the password: it proves a name and needs none.
            AuthCommand::TokenAssign { .. } => Ok(()),
        },
        // Only members propose these.
        Command::LeaseCheckpoint { .. }
        | Command::MemberPublish { .. }
        | Command::MemberForget { .. }
        | Command::ClusterVersionSet(_) => Ok(()),
    }
}
