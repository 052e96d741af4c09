//! The process of one member, and what it says of itself.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use quorate_client::{Client, ConnectOptions};
use quorate_proto::etcdserverpb::StatusRequest;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::story::{Event, Seen};

/// Pause before a member that ended is started again: long enough to see what the others make of it.
const RESTART_PAUSE: Duration = Duration::from_secs(3);
/// Time for an orderly end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two questions to a member.
const POLL_PAUSE: Duration = Duration::from_millis(250);
/// Time for a member to answer.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);
/// A member that ends so soon, so often in a row, will not run at all.
const SHORT_LIFE: Duration = Duration::from_secs(2);
const SHORT_LIVES_MAX: u32 = 3;
/// Tells a member the process that it must not outlive.
const PARENT_VARIABLE: &str = "QUORATE_DEMO_PARENT";

/// In a member of a demonstration: makes this process end with the demonstration, however that ends.
///
/// # Errors
/// If the demonstration has ended already.
pub fn end_with_parent() -> Result<(), String> {
    let Some(parent) = std::env::var_os(PARENT_VARIABLE) else { return Ok(()) };
    // Killed, for a member survives that without loss, and could take long to end in good order.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("cannot follow the demo: {error}"))?;
    let actual = getppid().map_or(0, Pid::as_raw_pid);
    match parent.to_str() == Some(actual.to_string().as_str()) {
        true => Ok(()),
        false => Err("the demo has ended".to_owned()),
    }
}

/// Keeps the process of a member running. Owns the process; it dies with this.
pub struct Keeper {
    /// Which member.
    pub index: usize,
    /// Program, and the arguments before the member's own.
    pub command: Vec<OsString>,
    /// The member's own arguments.
    pub arguments: Vec<OsString>,
    /// Where it logs to.
    pub log: PathBuf,
    /// Takes what happens.
    pub events: mpsc::Sender<Event>,
    /// Becomes true when the member has to stop.
    pub stopping: watch::Receiver<bool>,
}

impl Keeper {
    /// Starts the process, and again whenever it ends, until it has to stop.
    pub async fn run(mut self) {
        let member = self.index;
        let mut short_lives = 0;
        loop {
            let start = Instant::now();
            let why = match self.spawn() {
                Ok(mut child) => {
                    let pid = child.id().unwrap_or_default();
                    self.send(Event::Started { member, pid }).await;
                    tokio::select! {
                        ended = child.wait() => describe(ended),
                        () = stopped(&mut self.stopping) => return stop(child).await,
                    }
                }
                Err(error) => format!("not started: {error}"),
            };
            short_lives = if start.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            if short_lives >= SHORT_LIVES_MAX {
                self.send(Event::GaveUp { member, why }).await;
                return;
            }
            self.send(Event::Ended { member, why, pause: RESTART_PAUSE }).await;
            tokio::select! {
                () = sleep(RESTART_PAUSE) => {}
                () = stopped(&mut self.stopping) => return,
            }
        }
    }

    async fn send(&self, event: Event) {
        // Fails only when nobody listens any more.
        let _ = self.events.send(event).await;
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let (program, first) = self.command.split_first().expect("there is a program");
        Command::new(program)
            .args(first)
            .args(&self.arguments)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            // It would replace all options.
            .env_remove("ETCD_CONFIG_FILE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C on the terminal is for the demo alone, which then stops its members.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// Returns when the member has to stop; also when nobody is left to say so.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn describe(ended: io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => format!("ended with code {}", status.code().unwrap_or_default()),
        },
        Err(error) => error.to_string(),
    }
}

/// Lets the process end in good order, and kills it if it takes too long.
async fn stop(mut child: Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    // It may have ended by itself in this moment.
    let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
    if !asked || timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Asks a member how it is, again and again, until it has to stop.
pub async fn poll(member: usize, url: String, events: mpsc::Sender<Event>, mut stopping: watch::Receiver<bool>) {
    let options = ConnectOptions::new().timeout(POLL_TIMEOUT).connect_timeout(POLL_TIMEOUT);
    let client = match Client::connect([url], options).await {
        Ok(client) => client,
        Err(error) => {
            let _ = events.send(Event::GaveUp { member, why: error.to_string() }).await;
            return;
        }
    };
    let ask = async {
        loop {
            let seen = client.maintenance().status(StatusRequest {}).await.ok().map(|status| Seen {
                id: status.header.map_or(0, |header| header.member_id),
                leader: status.leader,
                term: status.raft_term,
            });
            if events.send(Event::Seen { member, seen }).await.is_err() {
                return;
            }
            sleep(POLL_PAUSE).await;
        }
    };
    tokio::select! {
        () = ask => {}
        () = stopped(&mut stopping) => {}
    }
}
