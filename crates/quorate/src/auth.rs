//! `auth`, `user` and `role`: who may do what.

use std::io::{self, BufRead as _};

use bytes::Bytes;
use clap::{Args, Subcommand};
use quorate_client::{Client, Error};
use quorate_proto::authpb::{Permission, UserAddOptions, permission};
use quorate_proto::etcdserverpb::*;

use crate::context::{Context, ask_secret};
use crate::failure::Failure;
use crate::kv::prefix_range;
use crate::print::{Reply, line};

/// What a cluster says of a user root without the role root.
const ROOT_ROLE_NOT_EXIST: &str = "etcdserver: root user does not have root role";
const ROLE_ALREADY_EXISTS: &str = "etcdserver: role name already exists";

/// `auth ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum AuthCommand {
    /// Ask clients who they are, and for permissions
    #[command(
        after_help = "The user root must be there. It is given the role root if it does not have it.\n\nExample:\n  \
                            quorate user add root\n  quorate auth enable"
    )]
    Enable,
    /// Let everybody do everything
    #[command(after_help = "Example:\n  quorate auth disable --user root")]
    Disable,
    /// Tell whether clients are asked who they are
    Status,
}

/// `user ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum UserCommand {
    /// Add a user
    #[command(
        after_help = "Examples:\n  quorate user add ann\n  quorate user add ann --interactive=false < password\n  \
                            quorate user add ann --no-password"
    )]
    Add(UserAddArgs),
    /// Delete a user
    Delete(Words),
    /// Show the roles of a user
    Get(UserGetArgs),
    /// List the users
    List(Words),
    /// Give a user another password
    Passwd(PasswdArgs),
    /// Give a role to a user
    #[command(override_usage = "quorate user grant-role [OPTIONS] <USER> <ROLE>")]
    GrantRole(Words),
    /// Take a role from a user
    #[command(override_usage = "quorate user revoke-role [OPTIONS] <USER> <ROLE>")]
    RevokeRole(Words),
}

/// `role ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum RoleCommand {
    /// Add a role
    Add(Words),
    /// Delete a role
    Delete(Words),
    /// Show the permissions of a role
    Get(Words),
    /// List the roles
    List(Words),
    /// Give a permission to a role
    #[command(
        override_usage = "quorate role grant-permission [OPTIONS] <ROLE> <read|write|readwrite> <KEY> [RANGE_END]",
        after_help = "Examples:\n  quorate role grant-permission app readwrite app/ --prefix\n  quorate role \
                      grant-permission reader read \"\" --prefix"
    )]
    GrantPermission(PermissionArgs),
    /// Take a permission from a role
    #[command(override_usage = "quorate role revoke-permission [OPTIONS] <ROLE> <KEY> [RANGE_END]")]
    RevokePermission(PermissionArgs),
}

/// Arguments that are counted by the command, as etcdctl does.
#[derive(Debug, Clone, Args)]
pub struct Words {
    #[arg(value_name = "NAME")]
    words: Vec<String>,
}

/// Arguments of `user add`.
#[derive(Debug, Clone, Args)]
pub struct UserAddArgs {
    /// Name, or name and password
    #[arg(value_name = "NAME[:PASSWORD]")]
    words: Vec<String>,

    /// Ask for the password on the terminal; otherwise it is read from standard input
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::golang::parse_bool, action = clap::ArgAction::Set, value_name = "BOOL")]
    interactive: bool,

    /// Password. Others on this machine may see it: better on standard input
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PASSWORD")]
    new_user_password: String,

    /// A user who shows a certificate, and has no password
    #[arg(long)]
    no_password: bool,
}

/// Arguments of `user passwd`.
#[derive(Debug, Clone, Args)]
pub struct PasswdArgs {
    #[arg(value_name = "NAME")]
    words: Vec<String>,

    /// Ask for the password on the terminal; otherwise it is read from standard input
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::golang::parse_bool, action = clap::ArgAction::Set, value_name = "BOOL")]
    interactive: bool,
}

/// Arguments of `user get`.
#[derive(Debug, Clone, Args)]
pub struct UserGetArgs {
    #[arg(value_name = "NAME")]
    words: Vec<String>,

    /// Show the permissions of each role
    #[arg(long)]
    detail: bool,
}

/// Arguments of `role grant-permission` and `role revoke-permission`.
#[derive(Debug, Clone, Args)]
pub struct PermissionArgs {
    #[arg(value_name = "WORD")]
    words: Vec<String>,

    /// All keys that begin with the key
    #[arg(long)]
    prefix: bool,

    /// All keys from the key on
    #[arg(long)]
    from_key: bool,
}

/// The only argument, two arguments and so on; else what etcdctl says.
fn exactly<const N: usize>(words: Vec<String>, otherwise: &str) -> Result<[String; N], Failure> {
    words.try_into().map_err(|_| Failure::arguments(otherwise))
}

fn call<T>(answer: Result<T, Error>) -> Result<T, Failure> {
    answer.map_err(|error| Failure::call(&error))
}

impl AuthCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        match self {
            // As with etcdctl, the output format does not matter to these two.
            AuthCommand::Enable => {
                enable(&client).await?;
                line("Authentication Enabled")
            }
            AuthCommand::Disable => {
                call(client.auth().auth_disable(AuthDisableRequest {}).await)?;
                line("Authentication Disabled")
            }
            AuthCommand::Status => {
                context.show(Reply::AuthStatus(&call(client.auth().auth_status(AuthStatusRequest {}).await)?))
            }
        }
    }
}

async fn enable(client: &Client) -> Result<(), Failure> {
    let is = |error: &Error, text: &str| matches!(error, Error::Rejected { message, .. } if message == text);
    match client.auth().auth_enable(AuthEnableRequest {}).await {
        Err(error) if is(&error, ROOT_ROLE_NOT_EXIST) => {}
        answer => return call(answer).map(drop),
    }
    match client.auth().role_add(AuthRoleAddRequest { name: "root".into() }).await {
        Err(error) if is(&error, ROLE_ALREADY_EXISTS) => {}
        answer => drop(call(answer)?),
    }
    let grant = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    call(client.auth().user_grant_role(grant).await)?;
    call(client.auth().auth_enable(AuthEnableRequest {}).await).map(drop)
}

impl UserCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            UserCommand::Add(args) => add(args, context).await,
            UserCommand::Delete(Words { words }) => {
                let [name] = exactly(words, "user delete command requires user name as its argument")?;
                let request = AuthUserDeleteRequest { name: name.clone() };
                let r = call(context.client().await?.auth().user_delete(request).await)?;
                context.show(Reply::AuthChange { header: &r.header, done: &format!("User {name} deleted") })
            }
            UserCommand::Get(args) => get(args, context).await,
            UserCommand::List(Words { words }) => {
                let [] = exactly(words, "user list command requires no arguments")?;
                let request = AuthUserListRequest {};
                context.show(Reply::UserList(&call(context.client().await?.auth().user_list(request).await)?))
            }
            UserCommand::Passwd(PasswdArgs { words, interactive }) => {
                let [name] = exactly(words, "user passwd command requires user name as its argument")?;
                let password = if interactive { ask_twice(&name)? } else { read_word()? };
                let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
                let r = call(context.client().await?.auth().user_change_password(request).await)?;
                context.show(Reply::AuthChange { header: &r.header, done: "Password updated" })
            }
            UserCommand::GrantRole(Words { words }) => {
                let [user, role] =
                    exactly(words, "user grant command requires user name and role name as its argument")?;
                let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
                let r = call(context.client().await?.auth().user_grant_role(request).await)?;
                let done = format!("Role {role} is granted to user {user}");
                context.show(Reply::AuthChange { header: &r.header, done: &done })
            }
            UserCommand::RevokeRole(Words { words }) => {
                let [name, role] = exactly(words, "user revoke-role requires user name and role name as its argument")?;
                let request = AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
                let r = call(context.client().await?.auth().user_revoke_role(request).await)?;
                let done = format!("Role {role} is revoked from user {name}");
                context.show(Reply::AuthChange { header: &r.header, done: &done })
            }
        }
    }
}

async fn add(args: UserAddArgs, context: &Context) -> Result<(), Failure> {
    let [word] = exactly(args.words, "user add command requires user name as its argument")?;
    let (name, password) = if args.no_password {
        (word, String::new())
    } else if !args.new_user_password.is_empty() {
        (word, args.new_user_password)
    } else if let Some((name, password)) = word.split_once(':') {
        if name.is_empty() {
            return Err(Failure::arguments("empty user name is not allowed"));
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = if args.interactive { ask_twice(&word)? } else { read_word()? };
        (word, password)
    };
    let options = Some(UserAddOptions { no_password: args.no_password });
    let request = AuthUserAddRequest { name: name.clone(), password, options, hashed_password: String::new() };
    let r = call(context.client().await?.auth().user_add(request).await)?;
    context.show(Reply::AuthChange { header: &r.header, done: &format!("User {name} created") })
}

async fn get(args: UserGetArgs, context: &Context) -> Result<(), Failure> {
    let [name] = exactly(args.words, "user get command requires user name as its argument")?;
    let client = context.client().await?;
    let response = call(client.auth().user_get(AuthUserGetRequest { name: name.clone() }).await)?;
    if !args.detail {
        return context.show(Reply::UserGet { name: &name, response: &response });
    }
    line(format_args!("User: {name}"))?;
    for role in &response.roles {
        line("")?;
        let response = call(client.auth().role_get(AuthRoleGetRequest { role: role.clone() }).await)?;
        context.show(Reply::RoleGet { role, response: &response })?;
    }
    Ok(())
}

impl RoleCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            RoleCommand::Add(Words { words }) => {
                let [name] = exactly(words, "role add command requires role name as its argument")?;
                let request = AuthRoleAddRequest { name: name.clone() };
                let r = call(context.client().await?.auth().role_add(request).await)?;
                context.show(Reply::AuthChange { header: &r.header, done: &format!("Role {name} created") })
            }
            RoleCommand::Delete(Words { words }) => {
                let [role] = exactly(words, "role delete command requires role name as its argument")?;
                let request = AuthRoleDeleteRequest { role: role.clone() };
                let r = call(context.client().await?.auth().role_delete(request).await)?;
                context.show(Reply::AuthChange { header: &r.header, done: &format!("Role {role} deleted") })
            }
            RoleCommand::Get(Words { words }) => {
                let [role] = exactly(words, "role get command requires role name as its argument")?;
                let request = AuthRoleGetRequest { role: role.clone() };
                let response = call(context.client().await?.auth().role_get(request).await)?;
                context.show(Reply::RoleGet { role: &role, response: &response })
            }
            RoleCommand::List(Words { words }) => {
                let [] = exactly(words, "role list command requires no arguments")?;
                let request = AuthRoleListRequest {};
                context.show(Reply::RoleList(&call(context.client().await?.auth().role_list(request).await)?))
            }
            RoleCommand::GrantPermission(args) => args.grant(context).await,
            RoleCommand::RevokePermission(args) => args.revoke(context).await,
        }
    }
}

impl PermissionArgs {
    async fn grant(mut self, context: &Context) -> Result<(), Failure> {
        if self.words.len() < 3 {
            let text = "role grant command requires role name, permission type, and key [endkey] as its argument";
            return Err(Failure::arguments(text));
        }
        let kind = self.words.remove(1);
        let perm_type = permission::Type::from_str_name(&kind.to_uppercase())
            .ok_or_else(|| Failure::arguments(format!("invalid permission type: {kind}")))?;
        let name = self.words.remove(0);
        let (key, range_end) = self.range()?;
        let perm = Some(Permission { perm_type: perm_type as i32, key, range_end });
        let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm };
        let r = call(context.client().await?.auth().role_grant_permission(request).await)?;
        context.show(Reply::AuthChange { header: &r.header, done: &format!("Role {name} updated") })
    }

    async fn revoke(mut self, context: &Context) -> Result<(), Failure> {
        if self.words.len() < 2 {
            let text = "role revoke-permission command requires role name and key [endkey] as its argument";
            return Err(Failure::arguments(text));
        }
        let role = self.words.remove(0);
        // As it was typed: an empty one stands for the first key.
        let from = self.words[0].clone();
        let (key, range_end) = self.range()?;
        let to = String::from_utf8_lossy(&range_end);
        let done = match &range_end[..] {
            b"" => format!("Permission of key {from} is revoked from role {role}"),
            b"\0" => format!("Permission of range [{from}, <open ended> is revoked from role {role}"),
            _ => format!("Permission of range [{from}, {to}) is revoked from role {role}"),
        };
        let request = AuthRoleRevokePermissionRequest { role, key, range_end };
        let r = call(context.client().await?.auth().role_revoke_permission(request).await)?;
        context.show(Reply::AuthChange { header: &r.header, done: &done })
    }

    /// Key and end of the range, as etcdctl makes them of what is left of the arguments.
    fn range(self) -> Result<(Bytes, Bytes), Failure> {
        let mut words = self.words.into_iter();
        let key = words.next().unwrap_or_default();
        let end = words.next();
        if self.prefix && self.from_key {
            return Err(Failure::arguments("--from-key and --prefix flags are mutually exclusive"));
        }
        if key.is_empty() {
            // Every key is after the empty one, which is no key itself.
            let all = self.prefix || self.from_key;
            return Ok((Bytes::from_static(b"\0"), if all { Bytes::from_static(b"\0") } else { Bytes::new() }));
        }
        match (end, self.prefix, self.from_key) {
            (Some(_), true, _) => Err(Failure::arguments("unexpected endkey argument with --prefix flag")),
            (Some(_), _, true) => Err(Failure::arguments("unexpected endkey argument with --from-key flag")),
            (Some(end), false, false) => Ok((key.into(), end.into())),
            (None, true, _) => Ok(prefix_range(key.into())),
            (None, false, true) => Ok((key.into(), Bytes::from_static(b"\0"))),
            (None, false, false) => Ok((key.into(), Bytes::new())),
        }
    }
}

/// A password from the terminal, typed twice.
fn ask_twice(user: &str) -> Result<String, Failure> {
    let password = ask_secret(&format!("Password of {user}: "))?;
    if password.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    let again = ask_secret(&format!("Type password of {user} again for confirmation: "))?;
    if password == again { Ok(password) } else { Err(Failure::arguments("given passwords are different")) }
}

/// A password from standard input: its first word.
fn read_word() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_line(&mut text)
        .map_err(|error| Failure::arguments(format!("cannot read the password: {error}")))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}
