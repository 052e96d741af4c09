//! `alarm`, `defrag`, `move-leader` and `downgrade`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::etcdserverpb::*;
use quorate_server::offline::Defragmented;

use crate::context::Context;
use crate::endpoint::ScopeArgs;
use crate::failure::{Exit, Failure, describe};
use crate::golang::{human_bytes, parse_uint};
use crate::print::{Reply, line};
use crate::progress::{Progress, Task, watched};

/// The commands about alarms.
#[derive(Debug, Clone, Subcommand)]
pub enum AlarmCommand {
    /// List the alarms
    #[command(after_help = "Example:\n  quorate alarm list")]
    List(NoArgs),
    /// Clear all alarms
    #[command(after_help = "Example:\n  quorate alarm disarm")]
    Disarm(NoArgs),
}

/// For commands that take no arguments and say so in their own words.
#[derive(Debug, Clone, Default, Args)]
pub struct NoArgs {
    #[arg(hide = true)]
    unexpected: Vec<String>,
}

impl NoArgs {
    fn check(&self, command: &str) -> Result<(), Failure> {
        match self.unexpected.is_empty() {
            true => Ok(()),
            false => Err(Failure::arguments(format!("{command} command accepts no arguments"))),
        }
    }
}

impl AlarmCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = |action: AlarmAction, alarm: &AlarmMember| AlarmRequest {
            action: action.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let all = request(AlarmAction::Get, &AlarmMember::default());
        match self {
            AlarmCommand::List(args) => {
                args.check("alarm list")?;
                let response = context.client().await?.maintenance().alarm(all).await;
                context.show(Reply::Alarm(&response.map_err(|error| Failure::call(&error))?))
            }
            AlarmCommand::Disarm(args) => {
                args.check("alarm disarm")?;
                let maintenance = context.client().await?.maintenance();
                let armed = maintenance.alarm(all).await.map_err(|error| Failure::call(&error))?;
                let mut disarmed = AlarmResponse::default();
                for alarm in &armed.alarms {
                    let response = maintenance.alarm(request(AlarmAction::Deactivate, alarm)).await;
                    disarmed.alarms.extend(response.map_err(|error| Failure::call(&error))?.alarms);
                }
                context.show(Reply::Alarm(&disarmed))
            }
        }
    }
}

/// Arguments of `defrag`.
#[derive(Debug, Clone, Args)]
pub struct DefragArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Defragment the data directory of a member that does not run, instead of asking members
    #[arg(long, value_name = "DIR", conflicts_with = "cluster")]
    data_dir: Option<PathBuf>,
}

impl DefragArgs {
    /// Defragments one endpoint after the other, or a directory.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(dir) = self.data_dir {
            let failed = |error: &dyn std::fmt::Display| {
                Failure::new(Exit::Error, format!("Failed to defragment etcd data[{}] ({error})", dir.display()))
            };
            let work = dir.clone();
            let done = tokio::task::spawn_blocking(move || {
                let mut progress = Progress::new("defragmenting");
                quorate_server::offline::defragment(&work, &mut |done, total| progress.show(done, total))
            });
            let Defragmented { bytes_before, bytes_after } =
                done.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            let (after, before) = (human_bytes(bytes_after), human_bytes(bytes_before));
            return line(format_args!("Finished defragmenting etcd data[{}]: {after}, {before} before", dir.display()));
        }
        let client = context.client().await?;
        let mut failed = false;
        for endpoint in self.scope.endpoints(context).await? {
            let pinned = client.at(&endpoint).map_err(|error| Failure::arguments(error.to_string()))?;
            let (maintenance, what) = (pinned.maintenance(), format!("defragmenting {endpoint}"));
            match watched(&what, &pinned, Task::Defragmentation, maintenance.defragment(DefragmentRequest {})).await {
                Ok(DefragmentResponse { .. }) => line(format_args!("Finished defragmenting etcd member[{endpoint}]"))?,
                Err(error) => {
                    eprintln!("Failed to defragment etcd member[{endpoint}] ({})", describe(&error));
                    failed = true;
                }
            }
        }
        if failed { Err(Failure::silent(Exit::Error)) } else { Ok(()) }
    }
}

/// Arguments of `move-leader`.
#[derive(Debug, Clone, Default, Args)]
pub struct MoveLeaderArgs {
    /// Member that is to lead, in hexadecimal
    #[arg(value_name = "MEMBER_ID")]
    target: Option<String>,
}

impl MoveLeaderArgs {
    /// Finds the leader among the endpoints and has it hand over.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let target = self.target.ok_or_else(|| Failure::arguments("move-leader command needs 1 argument"))?;
        let target = parse_uint(&target, 16)?;
        let endpoints = context.endpoints().await?;
        let client = context.client().await?;
        for endpoint in &endpoints {
            let pinned = client.at(endpoint).map_err(|error| Failure::arguments(error.to_string()))?;
            let status = pinned.maintenance().status(StatusRequest {}).await;
            let status = status.map_err(|error| Failure::call(&error))?;
            if status.header.is_none_or(|header| header.member_id != status.leader) {
                continue;
            }
            let response = pinned.maintenance().move_leader(MoveLeaderRequest { target_id: target }).await;
            let response = response.map_err(|error| Failure::call(&error))?;
            return context.show(Reply::MoveLeader { from: status.leader, to: target, response: &response });
        }
        Err(Failure::arguments(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
    }
}

/// The commands about going back to the version before.
#[derive(Debug, Clone, Subcommand)]
pub enum DowngradeCommand {
    /// Tell whether a downgrade could begin
    #[command(
        override_usage = "quorate downgrade validate [OPTIONS] <TARGET_VERSION>",
        after_help = "Example:\n  quorate downgrade validate 3.5"
    )]
    Validate(TargetVersion),
    /// Begin a downgrade
    #[command(
        override_usage = "quorate downgrade enable [OPTIONS] <TARGET_VERSION>",
        after_help = "Example:\n  quorate downgrade enable 3.5"
    )]
    Enable(TargetVersion),
    /// End the downgrade that is under way
    #[command(after_help = "Example:\n  quorate downgrade cancel")]
    Cancel {
        /// As with etcd, what comes behind is not looked at
        #[arg(hide = true)]
        ignored: Vec<String>,
    },
}

/// Where a downgrade leads.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetVersion {
    /// The minor version just below that of the cluster
    #[arg(value_name = "TARGET_VERSION")]
    target: Vec<String>,
}

impl TargetVersion {
    fn one(self) -> Result<String, Failure> {
        match <[String; 1]>::try_from(self.target) {
            Ok([target]) if target.is_empty() => Err(Failure::arguments("target version not provided")),
            Ok([target]) => Ok(target),
            Err(none) if none.is_empty() => Err(Failure::arguments("TARGET_VERSION not provided")),
            Err(_) => Err(Failure::arguments("too many arguments")),
        }
    }
}

impl DowngradeCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (action, name, version) = match self {
            Self::Validate(target) => (DowngradeAction::Validate, "validate", target.one()?),
            Self::Enable(target) => (DowngradeAction::Enable, "enable", target.one()?),
            Self::Cancel { .. } => (DowngradeAction::Cancel, "cancel", String::new()),
        };
        let request = DowngradeRequest { action: action.into(), version };
        let response = context.client().await?.maintenance().downgrade(request).await;
        let response = response.map_err(|error| Failure::call(&error))?;
        context.show(Reply::Downgrade { action: name, response: &response })
    }
}
