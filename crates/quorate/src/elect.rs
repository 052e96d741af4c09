//! `elect`: takes part in an election, or watches one.

use std::ffi::OsString;

use clap::Args;
use quorate_proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::context::{Context, bytes};
use crate::failure::{Exit, Failure};
use crate::print::Reply;
use crate::signals::Signals;

/// Seconds after which a leader is gone whose process or connection died: that of etcd's sessions.
const SESSION_TTL: i64 = 60;

/// Arguments of `elect`.
#[derive(Debug, Clone, Default, Args)]
pub struct ElectArgs {
    /// Name of the election
    #[arg(value_name = "NAME")]
    name: Option<OsString>,

    /// What this process says of itself when it leads
    #[arg(value_name = "PROPOSAL")]
    proposal: Option<OsString>,

    #[arg(hide = true)]
    more: Vec<OsString>,

    /// Watch who leads
    #[arg(short, long)]
    listen: bool,
}

impl ElectArgs {
    /// Leads, or watches, until it is stopped.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(name) = self.name.as_ref().filter(|_| self.more.is_empty()) else {
            return Err(Failure::arguments("elect takes one election name argument and an optional proposal argument"));
        };
        match (&self.proposal, self.listen) {
            (None, false) => Err(Failure::arguments("no proposal argument but -l not set")),
            (Some(_), true) => Err(Failure::arguments("proposal given but -l is set")),
            (None, true) => observe(name, context).await,
            (Some(proposal), false) => campaign(name, proposal, context).await,
        }
    }
}

async fn observe(name: &OsString, context: &Context) -> Result<(), Failure> {
    let mut observer = context.client().await?.observe(bytes(name));
    let mut signals = Signals::new()?;
    loop {
        let leader = tokio::select! {
            leader = observer.next() => leader.map_err(|error| Failure::call(&error))?,
            () = signals.next() => return Ok(()),
        };
        let answer =
            RangeResponse { header: leader.header, kvs: leader.kv.into_iter().collect(), ..RangeResponse::default() };
        context.show(Reply::Get(&answer))?;
    }
}

async fn campaign(name: &OsString, proposal: &OsString, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let session = client.session(SESSION_TTL).await.map_err(|error| Failure::call(&error))?;
    let mut signals = Signals::new()?;
    let outcome = tokio::select! {
        leadership = session.campaign(bytes(name), bytes(proposal)) => match leadership {
            Ok(leadership) => {
                let request = RangeRequest { key: leadership.key().to_vec().into(), ..RangeRequest::default() };
                let answer = client.kv().range(request).await.map_err(|error| Failure::call(&error))?;
                context.show(Reply::Get(&answer))?;
                tokio::select! {
                    () = signals.next() => leadership.resign().await.map_err(|error| Failure::call(&error)),
                    _ = session.lost() => Err(Failure::new(Exit::Error, "elect: session expired")),
                }
            }
            Err(error) => Err(Failure::call(&error)),
        },
        () = signals.next() => Err(Failure::new(Exit::Error, "context canceled")),
    };
    // Whatever happened has been told; the lease ends by itself if this fails.
    let _ = session.close().await;
    outcome
}
