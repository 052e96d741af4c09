//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_client::{Client, Error};
use quorate_proto::etcdserverpb::*;

use crate::context::Context;
use crate::failure::{Exit, Failure, describe};
use crate::golang::parse_int;
use crate::print::{Format, Reply, line};

/// The commands about leases.
#[derive(Debug, Clone, Subcommand)]
pub enum LeaseCommand {
    /// Make a lease
    #[command(after_help = "Example:\n  quorate lease grant 60")]
    Grant(GrantArgs),
    /// End a lease and delete its keys
    #[command(after_help = "Example:\n  quorate lease revoke 32695410dcc0ca06")]
    Revoke(IdArgs),
    /// Show how long a lease still lives
    #[command(after_help = "Example:\n  quorate lease timetolive 32695410dcc0ca06 --keys")]
    Timetolive(TimeToLiveArgs),
    /// List the leases
    #[command(after_help = "Example:\n  quorate lease list")]
    List,
    /// Renew a lease until it ends or the command is stopped
    #[command(after_help = "Example:\n  quorate lease keep-alive 32695410dcc0ca06 --once")]
    KeepAlive(KeepAliveArgs),
}

/// Arguments of `lease grant`.
#[derive(Debug, Clone, Default, Args)]
pub struct GrantArgs {
    /// Time to live, in seconds
    #[arg(value_name = "TTL")]
    ttl: Option<String>,
}

/// Arguments of `lease revoke`.
#[derive(Debug, Clone, Default, Args)]
pub struct IdArgs {
    /// Lease, in hexadecimal
    #[arg(value_name = "LEASE_ID")]
    id: Option<String>,
}

/// Arguments of `lease timetolive`.
#[derive(Debug, Clone, Default, Args)]
pub struct TimeToLiveArgs {
    #[command(flatten)]
    lease: IdArgs,

    /// Also print the keys of the lease
    #[arg(long)]
    keys: bool,
}

/// Arguments of `lease keep-alive`.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepAliveArgs {
    #[command(flatten)]
    lease: IdArgs,

    /// Renew once and exit
    #[arg(long)]
    once: bool,
}

impl IdArgs {
    fn parse(&self, usage: &str) -> Result<i64, Failure> {
        let id = self.id.as_deref().ok_or_else(|| Failure::arguments(usage))?;
        parse_int(id, 16)
            .map_err(|error| Failure::arguments(format!("bad lease ID arg ({error}), expecting ID in Hex")))
    }
}

impl LeaseCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            LeaseCommand::Grant(args) => grant(args, context).await,
            LeaseCommand::Revoke(args) => revoke(args, context).await,
            LeaseCommand::Timetolive(args) => time_to_live(args, context).await,
            LeaseCommand::List => {
                let response = context.client().await?.lease().lease_leases(LeaseLeasesRequest {}).await;
                context.show(Reply::LeaseList(&response.map_err(query_failed)?))
            }
            LeaseCommand::KeepAlive(args) => keep_alive(args, context).await,
        }
    }
}

/// Etcdctl has a code of its own for questions about leases that fail.
fn query_failed(error: Error) -> Failure {
    Failure::new(Exit::BadConnection, describe(&error))
}

async fn grant(args: GrantArgs, context: &Context) -> Result<(), Failure> {
    let ttl = args.ttl.ok_or_else(|| Failure::arguments("lease grant command needs TTL argument"))?;
    let ttl = parse_int(&ttl, 10).map_err(|error| Failure::arguments(format!("bad TTL ({error})")))?;
    let response = context.client().await?.lease().lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let response = response.map_err(|error| failed("grant", &error))?;
    context.show(Reply::LeaseGrant(&response))
}

async fn revoke(args: IdArgs, context: &Context) -> Result<(), Failure> {
    let id = args.parse("lease revoke command needs 1 argument")?;
    let response = context.client().await?.lease().lease_revoke(LeaseRevokeRequest { id }).await;
    let response = response.map_err(|error| failed("revoke", &error))?;
    context.show(Reply::LeaseRevoke { id, response: &response })
}

fn failed(what: &str, error: &Error) -> Failure {
    Failure::new(Exit::Error, format!("failed to {what} lease ({})", describe(error)))
}

async fn time_to_live(args: TimeToLiveArgs, context: &Context) -> Result<(), Failure> {
    let id = args.lease.parse("lease timetolive command needs lease ID as argument")?;
    let request = LeaseTimeToLiveRequest { id, keys: args.keys };
    let response = context.client().await?.lease().lease_time_to_live(request).await;
    context.show(Reply::LeaseTimeToLive { response: &response.map_err(query_failed)?, keys: args.keys })
}

async fn keep_alive(args: KeepAliveArgs, context: &Context) -> Result<(), Failure> {
    let id = args.lease.parse("lease keep-alive command needs lease ID as argument")?;
    let client = context.client().await?;
    if args.once {
        let response = renew(&client, id, context.options.command_timeout).await.map_err(query_failed)?;
        return match response.ttl > 0 {
            true => context.show(Reply::LeaseKeepAlive(&response)),
            false => Err(Failure::new(Exit::BadConnection, "etcdserver: requested lease not found")),
        };
    }
    loop {
        let response = renew(&client, id, context.options.command_timeout).await.map_err(query_failed)?;
        if response.ttl <= 0 {
            break;
        }
        context.show(Reply::LeaseKeepAlive(&response))?;
        let ttl = Duration::from_secs(response.ttl.unsigned_abs());
        tokio::time::sleep(ttl / 3).await;
    }
    match context.options.write_out {
        Format::Simple => line(format_args!("lease {id:016x} expired or revoked.")),
        Format::Json | Format::Fields | Format::Table | Format::Protobuf => Ok(()),
    }
}

/// Renews a lease; a time to live of 0 says that there is none. Tries other members until the time is over: a renewal
/// may be repeated.
async fn renew(client: &Client, id: i64, timeout: Duration) -> Result<LeaseKeepAliveResponse, Error> {
    let deadline = tokio::time::Instant::now() + timeout;
    let attempt = || async {
        let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
        let mut stream = client.lease().lease_keep_alive(requests).await?;
        let unanswered = |code, message: &str| Error::Unavailable { code, message: message.to_owned() };
        match stream.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(unanswered(quorate_client::Code::Unavailable, "the stream ended without an answer")),
            Err(status) => Err(unanswered(status.code(), status.message())),
        }
    };
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Err(Error::Unavailable { .. })) => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(outcome) => return outcome,
            Err(_) => {
                let code = quorate_client::Code::DeadlineExceeded;
                return Err(Error::Unavailable { code, message: "context deadline exceeded".to_owned() });
            }
        }
    }
}
