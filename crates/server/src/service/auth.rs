//! The Auth service: users, roles, permissions, tokens.

use crate::auth::imported;
use crate::client::Client;
use crate::convert;
use crate::status::{rejected, status};
use quorate_core::auth::PasswordHash;
use quorate_core::{AuthCommand, Rejection};
use quorate_node::{Error, Header};
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

/// How often a login begins anew because the password was changed while it was verified.
const LOGIN_ATTEMPTS: usize = 3;

async fn change(client: &Client, command: AuthCommand) -> Result<Option<pb::ResponseHeader>, Status> {
    let answer = client.node.auth_change(command).await.map_err(|error| status(&error))?;
    Ok(Some(convert::header(answer.header)))
}

/// Turns authentication on.
pub async fn enable(client: &Client, _: pb::AuthEnableRequest) -> Result<pb::AuthEnableResponse, Status> {
    Ok(pb::AuthEnableResponse { header: change(client, AuthCommand::Enable).await? })
}

/// Turns authentication off.
pub async fn disable(client: &Client, _: pb::AuthDisableRequest) -> Result<pb::AuthDisableResponse, Status> {
    Ok(pb::AuthDisableResponse { header: change(client, AuthCommand::Disable).await? })
}

/// Tells whether authentication is on, and how often users and roles have changed.
pub async fn auth_status(client: &Client, _: pb::AuthStatusRequest) -> Result<pb::AuthStatusResponse, Status> {
    let answer = client.system.auth_linearizable().await.map_err(|error| status(&error))?;
    Ok(pb::AuthStatusResponse {
        header: Some(convert::header(answer.header)),
        enabled: answer.body.enabled(),
        auth_revision: answer.body.revision(),
    })
}

/// Gives a token for a password.
pub async fn authenticate(
    client: &Client,
    request: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, Status> {
    // Whoever has just turned it on through another member must be able to log in here.
    let auth = client.system.auth_linearizable().await.map_err(|error| status(&error))?;
    if !auth.body.enabled() {
        return Err(rejected(Rejection::AuthNotEnabled));
    }
    let mut outcome = Err(Error::Rejected(Rejection::AuthOldRevision));
    for _ in 0..LOGIN_ATTEMPTS {
        outcome = login(client, &request).await?;
        if !matches!(outcome, Err(Error::Rejected(Rejection::AuthOldRevision))) {
            break;
        }
    }
    match outcome {
        Ok((header, token)) => {
            client.metrics.logins.increment();
            Ok(pb::AuthenticateResponse { header: Some(convert::header(header)), token })
        }
        Err(error) => {
            client.metrics.logins_failed.increment();
            Err(status(&error))
        }
    }
}

/// Verifies the password, whether or not there is such a user, and gives the token.
async fn login(client: &Client, request: &pb::AuthenticateRequest) -> Result<Result<(Header, String), Error>, Status> {
    let auth = client.system.auth();
    let user = auth.users().get(&request.name);
    let hash = user.and_then(|user| user.password.clone());
    let right = client.passwords.verify(hash, request.password.clone()).await?;
    Ok(match user {
        Some(user) if user.password.is_none() => Err(Error::Rejected(Rejection::NoPasswordUser)),
        Some(_) if right => client.tokens.give(&client.system, &request.name, &auth).await?,
        Some(_) | None => Err(Error::Rejected(Rejection::AuthFailed)),
    })
}

/// A password that is hashed here, unless the client brings its hash.
async fn password(client: &Client, password: String, hashed: &str) -> Result<PasswordHash, Status> {
    if password.is_empty() && !hashed.is_empty() { imported(hashed) } else { client.passwords.hash(password).await }
}

/// Adds a user.
pub async fn user_add(client: &Client, request: pb::AuthUserAddRequest) -> Result<pb::AuthUserAddResponse, Status> {
    if request.name.is_empty() {
        return Err(rejected(Rejection::UserEmpty));
    }
    let without = request.options.is_some_and(|options| options.no_password);
    let password =
        if without { None } else { Some(password(client, request.password, &request.hashed_password).await?) };
    Ok(pb::AuthUserAddResponse { header: change(client, AuthCommand::UserAdd { user: request.name, password }).await? })
}

/// Deletes a user.
pub async fn user_delete(
    client: &Client,
    request: pb::AuthUserDeleteRequest,
) -> Result<pb::AuthUserDeleteResponse, Status> {
    Ok(pb::AuthUserDeleteResponse { header: change(client, AuthCommand::UserDelete { user: request.name }).await? })
}

/// Gives a user another password.
pub async fn user_change_password(
    client: &Client,
    request: pb::AuthUserChangePasswordRequest,
) -> Result<pb::AuthUserChangePasswordResponse, Status> {
    let password = password(client, request.password, &request.hashed_password).await?;
    let command = AuthCommand::UserChangePassword { user: request.name, password };
    Ok(pb::AuthUserChangePasswordResponse { header: change(client, command).await? })
}

/// Gives a role to a user.
pub async fn user_grant_role(
    client: &Client,
    request: pb::AuthUserGrantRoleRequest,
) -> Result<pb::AuthUserGrantRoleResponse, Status> {
    let command = AuthCommand::UserGrantRole { user: request.user, role: request.role };
    Ok(pb::AuthUserGrantRoleResponse { header: change(client, command).await? })
}

/// Takes a role from a user.
pub async fn user_revoke_role(
    client: &Client,
    request: pb::AuthUserRevokeRoleRequest,
) -> Result<pb::AuthUserRevokeRoleResponse, Status> {
    let command = AuthCommand::UserRevokeRole { user: request.name, role: request.role };
    Ok(pb::AuthUserRevokeRoleResponse { header: change(client, command).await? })
}

/// Tells a user's roles.
pub async fn user_get(client: &Client, request: pb::AuthUserGetRequest) -> Result<pb::AuthUserGetResponse, Status> {
    let answer = client.node.auth_linearizable().await.map_err(|error| status(&error))?;
    answer.body.check_see_user(client.node.caller(), &request.name).map_err(rejected)?;
    match answer.body.users().get(&request.name) {
        Some(user) => Ok(pb::AuthUserGetResponse {
            header: Some(convert::header(answer.header)),
            roles: user.roles.iter().cloned().collect(),
        }),
        None => Err(rejected(Rejection::UserNotFound)),
    }
}

/// Lists the users.
pub async fn user_list(client: &Client, _: pb::AuthUserListRequest) -> Result<pb::AuthUserListResponse, Status> {
    let answer = client.node.auth_linearizable().await.map_err(|error| status(&error))?;
    answer.body.check_root(client.node.caller()).map_err(rejected)?;
    Ok(pb::AuthUserListResponse {
        header: Some(convert::header(answer.header)),
        users: answer.body.users().keys().cloned().collect(),
    })
}

/// Adds a role.
pub async fn role_add(client: &Client, request: pb::AuthRoleAddRequest) -> Result<pb::AuthRoleAddResponse, Status> {
    Ok(pb::AuthRoleAddResponse { header: change(client, AuthCommand::RoleAdd { role: request.name }).await? })
}

/// Deletes a role.
pub async fn role_delete(
    client: &Client,
    request: pb::AuthRoleDeleteRequest,
) -> Result<pb::AuthRoleDeleteResponse, Status> {
    Ok(pb::AuthRoleDeleteResponse { header: change(client, AuthCommand::RoleDelete { role: request.role }).await? })
}

/// Tells a role's permissions.
pub async fn role_get(client: &Client, request: pb::AuthRoleGetRequest) -> Result<pb::AuthRoleGetResponse, Status> {
    let answer = client.node.auth_linearizable().await.map_err(|error| status(&error))?;
    answer.body.check_see_role(client.node.caller(), &request.role).map_err(rejected)?;
    match answer.body.roles().get(&request.role) {
        Some(role) => Ok(pb::AuthRoleGetResponse {
            header: Some(convert::header(answer.header)),
            perm: convert::permissions(&request.role, role),
        }),
        None => Err(rejected(Rejection::RoleNotFound)),
    }
}

/// Lists the roles.
pub async fn role_list(client: &Client, _: pb::AuthRoleListRequest) -> Result<pb::AuthRoleListResponse, Status> {
    let answer = client.node.auth_linearizable().await.map_err(|error| status(&error))?;
    answer.body.check_root(client.node.caller()).map_err(rejected)?;
    Ok(pb::AuthRoleListResponse {
        header: Some(convert::header(answer.header)),
        roles: answer.body.roles().keys().cloned().collect(),
    })
}

/// Gives a permission to a role.
pub async fn role_grant_permission(
    client: &Client,
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<pb::AuthRoleGrantPermissionResponse, Status> {
    let permission = request.perm.ok_or_else(|| rejected(Rejection::PermissionNotGiven))?;
    let permission = convert::permission(permission)?;
    let command = AuthCommand::RoleGrantPermission { role: request.name, permission };
    Ok(pb::AuthRoleGrantPermissionResponse { header: change(client, command).await? })
}

/// Takes a permission from a role.
pub async fn role_revoke_permission(
    client: &Client,
    request: pb::AuthRoleRevokePermissionRequest,
) -> Result<pb::AuthRoleRevokePermissionResponse, Status> {
    let range = quorate_core::KeyRange::from_wire(request.key, request.range_end);
    let command = AuthCommand::RoleRevokePermission { role: request.role, range };
    Ok(pb::AuthRoleRevokePermissionResponse { header: change(client, command).await? })
}
