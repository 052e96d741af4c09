//! `lock`: holds a lock until the command that it runs has ended, or until it is stopped itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use clap::Args;
use quorate_client::{LockGuard, Session};
use quorate_proto::etcdserverpb::RangeRequest;
use tokio::process::Command;

use crate::context::{Context, bytes};
use crate::failure::{Exit, Failure};
use crate::golang::quote;
use crate::print::Reply;
use crate::signals::Signals;

/// Arguments of `lock`.
#[derive(Debug, Clone, Default, Args)]
pub struct LockArgs {
    /// Name of the lock
    #[arg(value_name = "NAME")]
    name: Option<OsString>,

    /// Command to run while the lock is held
    #[arg(value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Seconds after which the lock is free if this process or its connection dies
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    ttl: i64,
}

impl LockArgs {
    /// Takes the lock, and gives it up at the end.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let name = self
            .name
            .as_ref()
            .ok_or_else(|| Failure::arguments("lock takes a lock name argument and an optional command to execute"))?;
        let client = context.client().await?;
        let session = client.session(self.ttl).await.map_err(|error| Failure::call(&error))?;
        let mut signals = Signals::new()?;
        let outcome = tokio::select! {
            lock = session.lock(bytes(name)) => match lock {
                Ok(lock) => self.hold(lock, &session, context, &mut signals).await,
                Err(error) => Err(Failure::call(&error)),
            },
            () = signals.next() => Err(Failure::new(Exit::Error, "context canceled")),
        };
        // Whatever happened has been told; the lease ends by itself if this fails.
        let _ = session.close().await;
        outcome
    }

    async fn hold(
        &self,
        lock: LockGuard,
        session: &Session,
        context: &Context,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let outcome = match self.command.split_first() {
            Some((program, arguments)) => run(program, arguments, &lock).await,
            None => {
                let request = RangeRequest { key: lock.key().to_vec().into(), ..RangeRequest::default() };
                let answer = context.client().await?.kv().range(request).await;
                let answer = answer.map_err(|error| Failure::call(&error))?;
                if answer.kvs.is_empty() {
                    return Err(Failure::new(Exit::Error, "lock lost on init"));
                }
                context.show(Reply::Get(&answer))?;
                tokio::select! {
                    () = signals.next() => Ok(()),
                    _ = session.lost() => return Err(Failure::new(Exit::Error, "session expired")),
                }
            }
        };
        let unlocked = lock.unlock().await.map_err(|error| Failure::call(&error));
        outcome.and(unlocked)
    }
}

/// Runs the command, which has no standard input, and passes its exit code on.
async fn run(program: &OsString, arguments: &[OsString], lock: &LockGuard) -> Result<(), Failure> {
    let outcome = Command::new(program)
        .args(arguments)
        .env("ETCD_LOCK_KEY", std::ffi::OsStr::from_bytes(lock.key()))
        .env("ETCD_LOCK_REV", lock.token().to_string())
        .stdin(Stdio::null())
        .status()
        .await;
    match outcome {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(Exit::Command(exit_code(status)), describe(status))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let program = quote(&bytes(program));
            Err(Failure::new(Exit::Error, format!("exec: {program}: executable file not found in $PATH")))
        }
        Err(error) => Err(Failure::new(Exit::Error, format!("exec: {error}"))),
    }
}

/// The exit code of a command. As in etcdctl, one that was killed by a signal has 255.
fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// In Go's words.
fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else { return format!("exit status {}", status.code().unwrap_or_default()) };
    // Those that ends of processes have; numbers are Linux's.
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        6 => "aborted",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return format!("signal: signal {signal}"),
    };
    format!("signal: {name}")
}
