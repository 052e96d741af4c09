//! `endpoint health`, `status` and `hashkv`: one answer per endpoint.

use std::time::Instant;

use clap::{Args, Subcommand};
use quorate_client::{Client, Error};
use quorate_proto::etcdserverpb::*;
use quorate_proto::quorate_v1::ClusterHealthRequest;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure, describe};
use crate::print::{EndpointHealth, Reply, alarm_name};

/// Arguments of `endpoint`.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    #[command(subcommand)]
    command: EndpointCommand,
}

/// Which endpoints a command is about.
#[derive(Debug, Clone, Args)]
pub struct ScopeArgs {
    /// Ask all members of the cluster instead of --endpoints
    #[arg(long, global = true)]
    cluster: bool,
}

/// The commands about endpoints.
#[derive(Debug, Clone, Subcommand)]
pub enum EndpointCommand {
    /// Read from each endpoint and show how it went; exit code 1 if one is unhealthy
    #[command(after_help = "Example:\n  quorate endpoint health --cluster -w table")]
    Health,
    /// Show version, sizes, leader and log position of each endpoint
    #[command(
        after_help = "The fields of the simple format: endpoint, ID, version, storage version, db size, in use, \
                      percentage not in use,\nquota, is leader, is learner, raft term, raft index, raft applied index, \
                      errors, downgrade target version,\ndowngrade enabled.\n\nExample:\n  quorate endpoint status \
                      --cluster -w table"
    )]
    Status,
    /// Show a hash of the history at each endpoint
    #[command(after_help = "Example:\n  quorate endpoint hashkv --cluster --rev 100")]
    Hashkv(HashArgs),
}

/// Arguments of `endpoint hashkv`.
#[derive(Debug, Clone, Args)]
pub struct HashArgs {
    /// Last revision to hash; 0 for all
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    rev: i64,
}

impl ScopeArgs {
    /// The endpoints to ask, as they are shown.
    pub async fn endpoints(&self, context: &Context) -> Result<Vec<String>, Failure> {
        if !self.cluster {
            return context.endpoints().await;
        }
        let request = MemberListRequest { linearizable: true };
        let response = context.client().await?.cluster().member_list(request).await.map_err(|error| {
            let why = describe(&error);
            Failure::new(Exit::Error, format!("failed to fetch endpoints from etcd cluster member list: {why}"))
        })?;
        Ok(response.members.into_iter().flat_map(|member| member.client_urls).collect())
    }
}

impl EndpointArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let endpoints = self.scope.endpoints(context).await?;
        match self.command {
            EndpointCommand::Health => health(endpoints, context).await,
            EndpointCommand::Status => {
                let call = async |client: Client| client.maintenance().status(StatusRequest {}).await;
                let (answers, error) = ask_each(endpoints, context, "status", call).await?;
                context.show(Reply::EndpointStatus(&answers))?;
                error.map_or(Ok(()), |_| Err(Failure::silent(Exit::Error)))
            }
            EndpointCommand::Hashkv(HashArgs { rev }) => {
                let call = async |client: Client| client.maintenance().hash_kv(HashKvRequest { revision: rev }).await;
                let (answers, error) = ask_each(endpoints, context, "hash", call).await?;
                context.show(Reply::EndpointHashKv(&answers))?;
                error.map_or(Ok(()), |error| Err(Failure::call(&error)))
            }
        }
    }
}

/// Asks one endpoint after the other. Returns the answers and the last error; errors are printed as they occur.
async fn ask_each<T>(
    endpoints: Vec<String>,
    context: &Context,
    what: &str,
    call: impl AsyncFn(Client) -> Result<T, Error>,
) -> Result<(Vec<(String, T)>, Option<Error>), Failure> {
    let client = context.client().await?;
    let mut answers = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints {
        let pinned = client.at(&endpoint).map_err(|error| Failure::arguments(error.to_string()))?;
        match call(pinned).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the {what} of endpoint {endpoint} ({})", describe(&error));
                last_error = Some(error);
            }
        }
    }
    Ok((answers, last_error))
}

async fn health(endpoints: Vec<String>, context: &Context) -> Result<(), Failure> {
    let mut checks = JoinSet::new();
    for endpoint in endpoints {
        let client = context.client_of(std::slice::from_ref(&endpoint)).await?;
        checks.spawn(check_health(endpoint, client));
    }
    let mut checked = Vec::new();
    while let Some(check) = checks.join_next().await {
        let (health, warnings) = check.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        warnings.iter().for_each(|warning| eprintln!("Warning: {}: {warning}", health.endpoint));
        checked.push(health);
    }
    context.show(Reply::EndpointHealth(&checked))?;
    match checked.iter().all(|health| health.error.is_none()) {
        true => Ok(()),
        false => Err(Failure::new(Exit::Error, "unhealthy cluster")),
    }
}

/// A linearizable read of any key: it needs the leader and a majority. Then the alarms, because a cluster that answers reads and
/// refuses writes is not healthy. Also returns what the server says to be unsafe.
async fn check_health(endpoint: String, client: Client) -> (EndpointHealth, Vec<String>) {
    let request = RangeRequest { key: "health".into(), ..Default::default() };
    let start = Instant::now();
    let outcome = client.kv().range(request).await;
    let took = start.elapsed();
    let error = match outcome {
        Ok(_) => raised_alarms(&client).await,
        // The question went through consensus, and that is what counts.
        Err(error) if error.is_permission_denied() => raised_alarms(&client).await,
        Err(error) => Some(describe(&error)),
    };
    let warnings = match error {
        None => client.quorate().cluster_health(ClusterHealthRequest {}).await.map_or_else(
            // etcd has no such call.
            |_| Vec::new(),
            |response| response.warnings,
        ),
        Some(_) => Vec::new(),
    };
    (EndpointHealth { endpoint, took, error }, warnings)
}

/// What the alarms have against the cluster, in etcdctl's words. Nothing, too, for a user who may not ask for them.
async fn raised_alarms(client: &Client) -> Option<String> {
    match client.alarm_list().await {
        Ok(alarms) if alarms.is_empty() => None,
        Ok(alarms) => {
            let names: String = alarms.iter().map(|alarm| format!("{} ", alarm_name(alarm.alarm))).collect();
            Some(format!("Active Alarm(s): {names}"))
        }
        Err(error) if error.is_permission_denied() => None,
        Err(_) => Some("Unable to fetch the alarm list".to_owned()),
    }
}
