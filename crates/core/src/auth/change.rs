//! What a command does to users and roles. The caller's right to it was checked before.

use super::{AuthCommand, AuthState, Permission, ROOT_ROLE, ROOT_USER, Role, User, check_permission_range, wire_order};
use crate::{Delta, KeyRange, Rejection, Reply, SystemChange, View};
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use quorate_sabotage::sabotage;

pub(crate) fn apply<V: View>(view: &V, command: &AuthCommand) -> Result<(Reply, Delta), Rejection> {
    let system = changes(&view.auth(), command)?;
    Ok((Reply::Auth, Delta { system, ..Delta::default() }))
}

fn changes(auth: &AuthState, command: &AuthCommand) -> Result<Vec<SystemChange>, Rejection> {
    match command {
        AuthCommand::Enable => enable(auth),
        AuthCommand::Disable if !auth.enabled => Ok(Vec::new()),
        AuthCommand::Disable => Ok(vec![SystemChange::AuthSet { enabled: false, revision: auth.revision + 1 }]),
        AuthCommand::UserAdd { user, password } => {
            if user.is_empty() {
                return Err(Rejection::UserEmpty);
            }
            if auth.users.contains_key(user) {
                return Err(Rejection::UserAlreadyExists);
            }
            let credentials_revision = auth.revision + 1;
            let new = User { password: password.clone(), roles: BTreeSet::new(), credentials_revision };
            Ok(with_revision(auth, vec![SystemChange::UserSet(user.clone(), new)]))
        }
        AuthCommand::UserDelete { user } => {
            if auth.enabled && user == ROOT_USER {
                return Err(Rejection::InvalidAuthManagement);
            }
            find_user(auth, user)?;
            Ok(with_revision(auth, vec![SystemChange::UserRemove(user.clone())]))
        }
        AuthCommand::UserChangePassword { user, password } => {
            let old = find_user(auth, user)?;
            let password = old.password.as_ref().map(|_| password.clone());
            let new = User { password, credentials_revision: auth.revision + 1, ..old.clone() };
            Ok(with_revision(auth, vec![SystemChange::UserSet(user.clone(), new)]))
        }
        AuthCommand::UserGrantRole { user, role } => grant_role(auth, user, role),
        AuthCommand::UserRevokeRole { user, role } => {
            if auth.enabled && user == ROOT_USER && role == ROOT_ROLE {
                return Err(Rejection::InvalidAuthManagement);
            }
            let mut new = find_user(auth, user)?.clone();
            if !new.roles.remove(role) {
                return Err(Rejection::RoleNotGranted);
            }
            Ok(with_revision(auth, vec![SystemChange::UserSet(user.clone(), new)]))
        }
        AuthCommand::RoleAdd { role } => {
            if role.is_empty() {
                return Err(Rejection::RoleEmpty);
            }
            if auth.roles.contains_key(role) {
                return Err(Rejection::RoleAlreadyExists);
            }
            Ok(with_revision(auth, vec![SystemChange::RoleSet(role.clone(), Role::default())]))
        }
        AuthCommand::RoleDelete { role } => delete_role(auth, role),
        AuthCommand::RoleGrantPermission { role, permission } => grant_permission(auth, role, permission),
        AuthCommand::RoleRevokePermission { role, range } => revoke_permission(auth, role, range),
        AuthCommand::TokenAssign { user, token, credentials_revision } => {
            if !auth.enabled {
                return Err(Rejection::AuthNotEnabled);
            }
            match auth.users.get(user) {
                Some(found) if found.credentials_revision == *credentials_revision => {}
                Some(_) => return Err(Rejection::AuthOldRevision),
                None => return Err(Rejection::AuthFailed),
            }
            let (user, token, credentials_revision) = (user.clone(), *token, *credentials_revision);
            Ok(vec![SystemChange::TokenAssign { user, token, credentials_revision }])
        }
    }
}

/// As in etcd, turning it on is no change of users and roles: the revision stays.
fn enable(auth: &AuthState) -> Result<Vec<SystemChange>, Rejection> {
    if auth.enabled {
        return Ok(Vec::new());
    }
    let Some(root) = auth.users.get(ROOT_USER) else { return Err(Rejection::RootUserNotExist) };
    if !root.roles.contains(ROOT_ROLE) {
        return Err(Rejection::RootRoleNotExist);
    }
    Ok(vec![SystemChange::AuthSet { enabled: true, revision: auth.revision }])
}

fn grant_role(auth: &AuthState, user: &str, role: &str) -> Result<Vec<SystemChange>, Rejection> {
    let mut new = find_user(auth, user)?.clone();
    // As in etcd, the role root can be given without being there.
    if role != ROOT_ROLE {
        find_role(auth, role)?;
    }
    if !new.roles.insert(role.into()) {
        return Ok(Vec::new());
    }
    Ok(with_revision(auth, vec![SystemChange::UserSet(user.into(), new)]))
}

fn delete_role(auth: &AuthState, role: &str) -> Result<Vec<SystemChange>, Rejection> {
    if auth.enabled && role == ROOT_ROLE {
        return Err(Rejection::InvalidAuthManagement);
    }
    find_role(auth, role)?;
    let mut changes = vec![SystemChange::RoleRemove(role.into())];
    for (name, user) in &auth.users {
        let mut user = user.clone();
        if user.roles.remove(role) {
            changes.push(SystemChange::UserSet(name.clone(), user));
        }
    }
    Ok(with_revision(auth, changes))
}

fn grant_permission(auth: &AuthState, role: &str, permission: &Permission) -> Result<Vec<SystemChange>, Rejection> {
    check_permission_range(&permission.range)?;
    let mut new = find_role(auth, role)?.clone();
    match find_permission(&new, &permission.range) {
        Ok(place) => new.permissions[place].access = permission.access,
        Err(place) => new.permissions.insert(place, permission.clone()),
    }
    Ok(with_revision(auth, vec![SystemChange::RoleSet(role.into(), new)]))
}

fn revoke_permission(auth: &AuthState, role: &str, range: &KeyRange) -> Result<Vec<SystemChange>, Rejection> {
    let mut new = find_role(auth, role)?.clone();
    match find_permission(&new, range) {
        Ok(_) if sabotage!(AuthRevokeIgnored) => {}
        Ok(place) => drop(new.permissions.remove(place)),
        Err(_) => return Err(Rejection::PermissionNotGranted),
    }
    Ok(with_revision(auth, vec![SystemChange::RoleSet(role.into(), new)]))
}

/// The place of the permission for exactly this range, or where it would be.
fn find_permission(role: &Role, range: &KeyRange) -> Result<usize, usize> {
    let wanted = wire_order(range);
    role.permissions.binary_search_by(|permission| wire_order(&permission.range).cmp(&wanted))
}

fn find_user<'a>(auth: &'a AuthState, name: &str) -> Result<&'a User, Rejection> {
    auth.users.get(name).ok_or(Rejection::UserNotFound)
}

fn find_role<'a>(auth: &'a AuthState, name: &str) -> Result<&'a Role, Rejection> {
    auth.roles.get(name).ok_or(Rejection::RoleNotFound)
}

fn with_revision(auth: &AuthState, mut changes: Vec<SystemChange>) -> Vec<SystemChange> {
    changes.push(SystemChange::AuthSet { enabled: auth.enabled, revision: auth.revision + 1 });
    changes
}
