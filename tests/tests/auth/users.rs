//! Calls about users, roles and who may do what.

use quorate_proto::authpb::{Permission, UserAddOptions};
use quorate_proto::etcdserverpb::*;

use crate::calls::{Call, Keys, unary};

pub fn auth_enable() -> Call {
    unary::<_, AuthEnableResponse>("auth enable", "/etcdserverpb.Auth/AuthEnable", AuthEnableRequest {})
}

pub fn auth_disable() -> Call {
    unary::<_, AuthDisableResponse>("auth disable", "/etcdserverpb.Auth/AuthDisable", AuthDisableRequest {})
}

pub fn user_add(name: &str, password: &str) -> Call {
    let request = AuthUserAddRequest { name: name.to_owned(), password: password.to_owned(), ..Default::default() };
    unary::<_, AuthUserAddResponse>(format!("user add {name}:{password}"), "/etcdserverpb.Auth/UserAdd", request)
}

pub fn user_add_without_password(name: &str) -> Call {
    let options = Some(UserAddOptions { no_password: true });
    let request = AuthUserAddRequest { name: name.to_owned(), options, ..Default::default() };
    unary::<_, AuthUserAddResponse>(format!("user add {name} --no-password"), "/etcdserverpb.Auth/UserAdd", request)
}

pub fn user_get(name: &str) -> Call {
    let request = AuthUserGetRequest { name: name.to_owned() };
    unary::<_, AuthUserGetResponse>(format!("user get {name:?}"), "/etcdserverpb.Auth/UserGet", request)
}

pub fn user_list() -> Call {
    unary::<_, AuthUserListResponse>("user list", "/etcdserverpb.Auth/UserList", AuthUserListRequest {})
}

pub fn user_delete(name: &str) -> Call {
    let request = AuthUserDeleteRequest { name: name.to_owned() };
    unary::<_, AuthUserDeleteResponse>(format!("user delete {name:?}"), "/etcdserverpb.Auth/UserDelete", request)
}

pub fn user_password(name: &str, password: &str) -> Call {
    let (name, password) = (name.to_owned(), password.to_owned());
    let shown = format!("user passwd {name}:{password}");
    let request = AuthUserChangePasswordRequest { name, password, ..Default::default() };
    unary::<_, AuthUserChangePasswordResponse>(shown, "/etcdserverpb.Auth/UserChangePassword", request)
}

pub fn user_grant(user: &str, role: &str) -> Call {
    let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    let shown = format!("user grant-role {user:?} {role:?}");
    unary::<_, AuthUserGrantRoleResponse>(shown, "/etcdserverpb.Auth/UserGrantRole", request)
}

pub fn user_revoke(user: &str, role: &str) -> Call {
    let request = AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
    let shown = format!("user revoke-role {user:?} {role:?}");
    unary::<_, AuthUserRevokeRoleResponse>(shown, "/etcdserverpb.Auth/UserRevokeRole", request)
}

pub fn role_add(name: &str) -> Call {
    let request = AuthRoleAddRequest { name: name.to_owned() };
    unary::<_, AuthRoleAddResponse>(format!("role add {name:?}"), "/etcdserverpb.Auth/RoleAdd", request)
}

pub fn role_get(role: &str) -> Call {
    let request = AuthRoleGetRequest { role: role.to_owned() };
    unary::<_, AuthRoleGetResponse>(format!("role get {role:?}"), "/etcdserverpb.Auth/RoleGet", request)
}

pub fn role_list() -> Call {
    unary::<_, AuthRoleListResponse>("role list", "/etcdserverpb.Auth/RoleList", AuthRoleListRequest {})
}

pub fn role_delete(role: &str) -> Call {
    let request = AuthRoleDeleteRequest { role: role.to_owned() };
    unary::<_, AuthRoleDeleteResponse>(format!("role delete {role:?}"), "/etcdserverpb.Auth/RoleDelete", request)
}

/// `access` is the number on the wire: 0 to read, 1 to write, 2 for both.
pub fn role_grant(role: &str, access: i32, keys: &Keys) -> Call {
    let perm = Some(Permission { perm_type: access, key: keys.key.clone(), range_end: keys.end.clone() });
    grant_request(format!("role grant-permission {role:?} {access} {}", keys.shown), role, perm)
}

pub fn role_grant_nothing(role: &str) -> Call {
    grant_request(format!("role grant-permission {role:?} without a permission"), role, None)
}

fn grant_request(shown: String, role: &str, perm: Option<Permission>) -> Call {
    let request = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
    unary::<_, AuthRoleGrantPermissionResponse>(shown, "/etcdserverpb.Auth/RoleGrantPermission", request)
}

pub fn role_revoke(role: &str, keys: &Keys) -> Call {
    let (key, range_end) = (keys.key.clone(), keys.end.clone());
    let request = AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
    let shown = format!("role revoke-permission {role:?} {}", keys.shown);
    unary::<_, AuthRoleRevokePermissionResponse>(shown, "/etcdserverpb.Auth/RoleRevokePermission", request)
}
