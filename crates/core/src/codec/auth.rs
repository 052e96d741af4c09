//! Callers, and what is kept of users and roles.

use super::command::{read_key_range, write_key_range};
use super::primitive::{CodecError, Reader, write_bytes, write_number};
use super::system::{SYSTEM_VERSION, decode};
use crate::Caller;
use crate::auth::{Access, AuthCommand, PasswordHash, Permission, Role, TokenId, User};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;

/// These stand in front of a command; they must not be tags of commands. Nothing in front is [`Caller::Anonymous`].
pub(super) const CALLER_SYSTEM: u8 = 16;
pub(super) const CALLER_USER: u8 = 17;

pub(super) fn write_caller(caller: &Caller, out: &mut Vec<u8>) {
    match caller {
        Caller::Anonymous => {}
        Caller::System => out.push(CALLER_SYSTEM),
        Caller::User { name, auth_revision } => {
            out.push(CALLER_USER);
            write_bytes(name.as_bytes(), out);
            write_number(*auth_revision, out);
        }
    }
}

/// Reads a caller, if one is there.
pub(super) fn read_caller(reader: &mut Reader) -> Result<Caller, CodecError> {
    if reader.skip(CALLER_SYSTEM) {
        Ok(Caller::System)
    } else if reader.skip(CALLER_USER) {
        Ok(Caller::User { name: reader.text()?.into(), auth_revision: reader.number()? })
    } else {
        Ok(Caller::Anonymous)
    }
}

const ENABLE: u8 = 1;
const DISABLE: u8 = 2;
const USER_ADD: u8 = 3;
const USER_DELETE: u8 = 4;
const USER_CHANGE_PASSWORD: u8 = 5;
const USER_GRANT_ROLE: u8 = 6;
const USER_REVOKE_ROLE: u8 = 7;
const ROLE_ADD: u8 = 8;
const ROLE_DELETE: u8 = 9;
const ROLE_GRANT_PERMISSION: u8 = 10;
const ROLE_REVOKE_PERMISSION: u8 = 11;
const TOKEN_ASSIGN: u8 = 12;

pub(super) fn write_auth_command(command: &AuthCommand, out: &mut Vec<u8>) {
    match command {
        AuthCommand::Enable => out.push(ENABLE),
        AuthCommand::Disable => out.push(DISABLE),
        AuthCommand::UserAdd { user, password } => {
            write_named(USER_ADD, user, out);
            write_password(password.as_ref(), out);
        }
        AuthCommand::UserDelete { user } => write_named(USER_DELETE, user, out),
        AuthCommand::UserChangePassword { user, password } => {
            write_named(USER_CHANGE_PASSWORD, user, out);
            write_bytes(password.expose().as_bytes(), out);
        }
        AuthCommand::UserGrantRole { user, role } => {
            write_named(USER_GRANT_ROLE, user, out);
            write_bytes(role.as_bytes(), out);
        }
        AuthCommand::UserRevokeRole { user, role } => {
            write_named(USER_REVOKE_ROLE, user, out);
            write_bytes(role.as_bytes(), out);
        }
        AuthCommand::RoleAdd { role } => write_named(ROLE_ADD, role, out),
        AuthCommand::RoleDelete { role } => write_named(ROLE_DELETE, role, out),
        AuthCommand::RoleGrantPermission { role, permission } => {
            write_named(ROLE_GRANT_PERMISSION, role, out);
            write_permission(permission, out);
        }
        AuthCommand::RoleRevokePermission { role, range } => {
            write_named(ROLE_REVOKE_PERMISSION, role, out);
            write_key_range(range, out);
        }
        AuthCommand::TokenAssign { user, token, credentials_revision } => {
            write_named(TOKEN_ASSIGN, user, out);
            out.extend_from_slice(&token.0);
            write_number(*credentials_revision, out);
        }
    }
}

pub(super) fn read_auth_command(reader: &mut Reader) -> Result<AuthCommand, CodecError> {
    Ok(match reader.byte()? {
        ENABLE => AuthCommand::Enable,
        DISABLE => AuthCommand::Disable,
        USER_ADD => AuthCommand::UserAdd { user: reader.text()?, password: read_password(reader)? },
        USER_DELETE => AuthCommand::UserDelete { user: reader.text()? },
        USER_CHANGE_PASSWORD => {
            AuthCommand::UserChangePassword { user: reader.text()?, password: PasswordHash::new(&reader.text()?) }
        }
        USER_GRANT_ROLE => AuthCommand::UserGrantRole { user: reader.text()?, role: reader.text()? },
        USER_REVOKE_ROLE => AuthCommand::UserRevokeRole { user: reader.text()?, role: reader.text()? },
        ROLE_ADD => AuthCommand::RoleAdd { role: reader.text()? },
        ROLE_DELETE => AuthCommand::RoleDelete { role: reader.text()? },
        ROLE_GRANT_PERMISSION => {
            AuthCommand::RoleGrantPermission { role: reader.text()?, permission: read_permission(reader)? }
        }
        ROLE_REVOKE_PERMISSION => {
            AuthCommand::RoleRevokePermission { role: reader.text()?, range: read_key_range(reader)? }
        }
        TOKEN_ASSIGN => AuthCommand::TokenAssign {
            user: reader.text()?,
            token: TokenId(reader.array()?),
            credentials_revision: reader.number()?,
        },
        tag => return reader.unknown_tag("auth command", tag),
    })
}

fn write_named(tag: u8, name: &str, out: &mut Vec<u8>) {
    out.push(tag);
    write_bytes(name.as_bytes(), out);
}

fn write_password(password: Option<&PasswordHash>, out: &mut Vec<u8>) {
    match password {
        None => out.push(0),
        Some(password) => {
            out.push(1);
            write_bytes(password.expose().as_bytes(), out);
        }
    }
}

fn read_password(reader: &mut Reader) -> Result<Option<PasswordHash>, CodecError> {
    match reader.byte()? {
        0 => Ok(None),
        1 => Ok(Some(PasswordHash::new(&reader.text()?))),
        tag => reader.unknown_tag("password", tag),
    }
}

fn write_permission(permission: &Permission, out: &mut Vec<u8>) {
    out.push(match permission.access {
        Access::Read => 0,
        Access::Write => 1,
        Access::ReadWrite => 2,
    });
    write_key_range(&permission.range, out);
}

fn read_permission(reader: &mut Reader) -> Result<Permission, CodecError> {
    let access = match reader.byte()? {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::ReadWrite,
        tag => return reader.unknown_tag("access", tag),
    };
    Ok(Permission { access, range: read_key_range(reader)? })
}

/// Appends whether authentication is on, and its revision, to `out`.
pub fn encode_auth(enabled: bool, revision: u64, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    out.push(enabled.into());
    write_number(revision, out);
}

/// Decodes what [`encode_auth`] has made.
///
/// # Errors
/// The bytes are not those that this build knows.
pub fn decode_auth(bytes: Bytes) -> Result<(bool, u64), CodecError> {
    decode(bytes, |reader| {
        let enabled = match reader.byte()? {
            0 => false,
            1 => true,
            tag => return reader.unknown_tag("flag", tag),
        };
        Ok((enabled, reader.number()?))
    })
}

/// Appends the encoded user to `out`.
pub fn encode_user(user: &User, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    write_password(user.password.as_ref(), out);
    write_number(user.credentials_revision, out);
    write_number(user.roles.len() as u64, out);
    for role in &user.roles {
        write_bytes(role.as_bytes(), out);
    }
}

/// Decodes a user.
///
/// # Errors
/// The bytes are not those of a user that this build knows.
pub fn decode_user(bytes: Bytes) -> Result<User, CodecError> {
    decode(bytes, |reader| {
        Ok(User {
            password: read_password(reader)?,
            credentials_revision: reader.number()?,
            roles: reader.list(Reader::text)?.into_iter().collect::<BTreeSet<_>>(),
        })
    })
}

/// Appends the encoded role to `out`.
pub fn encode_role(role: &Role, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    write_number(role.permissions.len() as u64, out);
    for permission in &role.permissions {
        write_permission(permission, out);
    }
}

/// Decodes a role.
///
/// # Errors
/// The bytes are not those of a role that this build knows.
pub fn decode_role(bytes: Bytes) -> Result<Role, CodecError> {
    decode(bytes, |reader| Ok(Role { permissions: reader.list(read_permission)? }))
}
