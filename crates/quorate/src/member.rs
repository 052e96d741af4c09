//! `member list`, `add`, `remove`, `update` and `promote`; `replace` is in a file of its own.

use clap::{Args, Subcommand};
use quorate_proto::etcdserverpb::*;

use crate::context::Context;
use crate::failure::Failure;
use crate::golang::{parse_uint, quote};
use crate::print::{Format, Reply, line};
use crate::replace::ReplaceArgs;

/// The commands about membership.
#[derive(Debug, Clone, Subcommand)]
pub enum MemberCommand {
    /// List the members
    #[command(after_help = "Example:\n  quorate member list -w table")]
    List,
    /// Add a member, and print how to start it
    #[command(after_help = "Example:\n  quorate member add n4 --peer-urls=http://10.0.0.4:2380 --learner")]
    Add(AddArgs),
    /// Remove a member
    #[command(after_help = "Example:\n  quorate member remove 8e9e05c52164694d")]
    Remove(IdArgs),
    /// Change the peer addresses of a member
    #[command(after_help = "Example:\n  quorate member update 8e9e05c52164694d --peer-urls=http://10.0.0.5:2380")]
    Update(UpdateArgs),
    /// Make a learner a voter
    #[command(after_help = "Example:\n  quorate member promote 8e9e05c52164694d")]
    Promote(IdArgs),
    /// Put a new member in the place of one that is lost, and print how to start it
    #[command(
        override_usage = "quorate member replace [OPTIONS] --peer-urls <URLS> <MEMBER_ID> [NAME]",
        after_help = "Refuses if the member answers, or if the quorum is lost. If it is interrupted, run it again.\n\nExample:\n  \
                      quorate member replace 8e9e05c52164694d n4 --peer-urls=http://10.0.0.4:2380"
    )]
    Replace(ReplaceArgs),
}

/// Arguments of `member add`.
#[derive(Debug, Clone, Default, Args)]
pub struct AddArgs {
    /// Name of the new member
    #[arg(value_name = "NAME")]
    name: Option<String>,

    #[arg(hide = true)]
    unexpected: Vec<String>,

    /// Peer addresses, separated by commas
    #[arg(long, default_value = "", hide_default_value = true, value_name = "URLS")]
    peer_urls: String,

    /// Add it as a learner, which receives the log and does not vote
    #[arg(long)]
    learner: bool,
}

/// Arguments of `member remove` and `member promote`.
#[derive(Debug, Clone, Default, Args)]
pub struct IdArgs {
    /// Member, in hexadecimal
    #[arg(value_name = "MEMBER_ID")]
    id: Option<String>,
}

/// Arguments of `member update`.
#[derive(Debug, Clone, Default, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    member: IdArgs,

    /// Peer addresses, separated by commas
    #[arg(long, default_value = "", hide_default_value = true, value_name = "URLS")]
    peer_urls: String,
}

impl IdArgs {
    fn parse(&self) -> Result<u64, Failure> {
        parse_id(self.id.as_deref())
    }
}

/// The id of a member, in hexadecimal.
pub fn parse_id(id: Option<&str>) -> Result<u64, Failure> {
    let id = id.ok_or_else(|| Failure::arguments("member ID is not provided"))?;
    parse_uint(id, 16).map_err(|error| Failure::arguments(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

/// The peer URLs of a member.
pub fn split_urls(urls: &str) -> Result<Vec<String>, Failure> {
    if urls.is_empty() {
        return Err(Failure::arguments("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

impl MemberCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            MemberCommand::List => {
                let request = MemberListRequest { linearizable: true };
                let response = context.client().await?.cluster().member_list(request).await;
                context.show(Reply::MemberList(&response.map_err(|error| Failure::call(&error))?))
            }
            MemberCommand::Add(args) => add(args, context).await,
            MemberCommand::Remove(args) => {
                let id = args.parse()?;
                let response = context.client().await?.cluster().member_remove(MemberRemoveRequest { id }).await;
                let response = response.map_err(|error| Failure::call(&error))?;
                context.show(Reply::MemberRemove { id, response: &response })
            }
            MemberCommand::Update(args) => {
                let id = args.member.parse()?;
                let request = MemberUpdateRequest { id, peer_urls: split_urls(&args.peer_urls)? };
                let response = context.client().await?.cluster().member_update(request).await;
                let response = response.map_err(|error| Failure::call(&error))?;
                context.show(Reply::MemberUpdate { id, response: &response })
            }
            MemberCommand::Replace(args) => args.run(context).await,
            MemberCommand::Promote(args) => {
                let id = args.parse()?;
                let response = context.client().await?.cluster().member_promote(MemberPromoteRequest { id }).await;
                let response = response.map_err(|error| Failure::call(&error))?;
                context.show(Reply::MemberPromote { id, response: &response })
            }
        }
    }
}

async fn add(args: AddArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.ok_or_else(|| Failure::arguments("member name not provided"))?;
    if !args.unexpected.is_empty() {
        let url = args.unexpected.iter().find(|argument| argument.to_lowercase().starts_with("http"));
        let hint = url.map(|url| format!(", did you mean --peer-urls={url}")).unwrap_or_default();
        return Err(Failure::arguments(format!("too many arguments{hint}")));
    }
    let request = MemberAddRequest { peer_urls: split_urls(&args.peer_urls)?, is_learner: args.learner };
    let response = context.client().await?.cluster().member_add(request).await;
    let response = response.map_err(|error| Failure::call(&error))?;
    context.show(Reply::MemberAdd(&response))?;
    if context.options.write_out != Format::Simple {
        return Ok(());
    }

    let new_id = response.member.as_ref().map_or(0, |member| member.id);
    line("")?;
    print_start(&name, new_id, &response.members, &args.peer_urls)
}

/// Prints the environment to start a new member in.
pub fn print_start(name: &str, new_id: u64, members: &[Member], peer_urls: &str) -> Result<(), Failure> {
    let entries = members.iter().flat_map(|member| {
        let name = if member.id == new_id { name } else { &member.name };
        member.peer_urls.iter().map(move |url| format!("{name}={url}"))
    });
    let cluster = entries.collect::<Vec<String>>().join(",");
    line(format_args!("ETCD_NAME={}", quote(name.as_bytes())))?;
    line(format_args!("ETCD_INITIAL_CLUSTER={}", quote(cluster.as_bytes())))?;
    line(format_args!("ETCD_INITIAL_ADVERTISE_PEER_URLS={}", quote(peer_urls.as_bytes())))?;
    line("ETCD_INITIAL_CLUSTER_STATE=\"existing\"")
}
