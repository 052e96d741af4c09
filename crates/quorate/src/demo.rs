//! `demo`: a real cluster on this machine, for trying things out.
//!
//! Starts members as processes of this binary, tells what happens to them, starts those that end again, and stops all of
//! them with itself. Ports and data stay in one directory, so that the next run continues where this one ended.

mod layout;
mod member;
mod story;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::failure::{Exit, Failure};
use crate::print::line;
use layout::Layout;
use member::Keeper;
pub use member::end_with_parent;
use story::{Event, Story, Tone};

/// Events that wait to be told. Those who send them wait when it is full.
const EVENTS_MAX: usize = 64;
/// After this time without a leader, a hint where to look.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Directory for data, logs and what the next run must know
    #[arg(long, default_value = "quorate-demo", value_name = "DIRECTORY")]
    dir: PathBuf,

    /// Number of members; 3 unless the directory says otherwise
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,

    /// First of the ports to use, two for each member. Otherwise 2379 if they are free, else any
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    base_port: Option<u16>,

    /// Storage engine of the members, as for `quorate server`
    #[arg(long, value_name = "ENGINE")]
    storage_engine: Option<String>,

    /// Program to run for each member, with etcd's options, instead of `quorate server`
    #[arg(long, value_name = "PATH", hide = true)]
    program: Option<PathBuf>,
}

impl DemoArgs {
    /// Runs the cluster until it is told to stop.
    pub async fn run(self) -> Result<(), Failure> {
        let failed = |message: String| Failure::new(Exit::Error, message);
        let layout = Layout::open(&self.dir, self.nodes, self.base_port).map_err(failed)?;
        let command = match &self.program {
            Some(program) => vec![program.clone().into_os_string()],
            None => {
                let binary = std::env::current_exe().map_err(|error| failed(format!("cannot find myself: {error}")))?;
                vec![binary.into_os_string(), "server".into()]
            }
        };
        Demo::start(layout, command, self.storage_engine)?.run().await
    }
}

/// The running cluster: a keeper and a poller for each member, and the story that their events make.
struct Demo {
    layout: Layout,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    stop: watch::Sender<bool>,
    story: Story,
    start: Instant,
    colour: bool,
    introduced: bool,
}

impl Demo {
    fn start(layout: Layout, command: Vec<std::ffi::OsString>, engine: Option<String>) -> Result<Self, Failure> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for index in 0..layout.members.len() {
            let keeper = Keeper {
                index,
                command: command.clone(),
                arguments: layout.server_arguments(index, engine.as_deref()),
                log: layout.log(index),
                events: sender.clone(),
                stopping: stopping.clone(),
            };
            tasks.spawn(keeper.run());
            tasks.spawn(member::poll(index, layout.members[index].client_url(), sender.clone(), stopping.clone()));
        }
        let story = Story::new(layout.members.iter().map(|member| member.name.clone()).collect());
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Demo { layout, tasks, events, stop, story, start: Instant::now(), colour, introduced: false })
    }

    async fn run(mut self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Error, format!("cannot listen for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        line(format_args!("Starting {} members in {}", self.layout.members.len(), self.layout.dir.display()))?;
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let outcome = loop {
            tokio::select! {
                Some(event) = self.events.recv() => if let Err(failure) = self.tell(event) { break Err(failure) },
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
                () = &mut patience, if !self.introduced && !patience.is_elapsed() => {
                    let logs = self.layout.dir.join("*.log");
                    line(format_args!("There is no leader yet. See why in {}", logs.display()))?;
                }
            }
        };
        let stopped = self.stop(&mut interrupt).await;
        outcome.and(stopped)
    }

    /// Prints what an event means.
    fn tell(&mut self, event: Event) -> Result<(), Failure> {
        if let Event::GaveUp { member, why } = &event {
            let log = self.layout.log(*member);
            let name = &self.layout.members[*member].name;
            return Err(Failure::new(
                Exit::Error,
                format!("{name} cannot run ({why}). The end of {}:\n{}", log.display(), tail(&log)),
            ));
        }
        for (tone, text) in self.story.tell(event) {
            let time = format!("{:8.1}s", self.start.elapsed().as_secs_f64());
            let (open, close) = match (self.colour, tone) {
                (false, _) | (true, Tone::Plain) => ("", ""),
                (true, Tone::Good) => ("\x1b[32m", "\x1b[0m"),
                (true, Tone::Bad) => ("\x1b[31m", "\x1b[0m"),
            };
            line(format_args!("{time}  {open}{text}{close}"))?;
        }
        if !self.introduced && self.story.has_leader() {
            self.introduced = true;
            self.introduce()?;
        }
        Ok(())
    }

    /// Shows what is there and what to try.
    fn introduce(&self) -> Result<(), Failure> {
        let members = &self.layout.members;
        let endpoints: Vec<String> = members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect();
        line("")?;
        for (index, member) in members.iter().enumerate() {
            let pid = self.story.pid(index).map_or("-".to_owned(), |pid| pid.to_string());
            let (name, url, log) = (&member.name, member.client_url(), self.layout.log(index));
            line(format_args!("  {name}  {url}  pid {pid:<7}  log {}", log.display()))?;
        }
        let quorate = program_name();
        let kill = match self.story.leader_pid() {
            Some(pid) => format!("  kill -9 {pid}    # the leader: see here how another member takes over\n"),
            None => String::new(),
        };
        line(format_args!(
            "\nTry in another terminal:\n  export ETCDCTL_API=3 ETCDCTL_ENDPOINTS={}\n  {quorate} put greeting hello\n  \
             {quorate} get greeting\n  {quorate} watch --prefix ''\n  {quorate} endpoint status -w table\n{kill}or with \
             etcd's own client:\n  etcdctl put greeting hello\n  etcdctl get greeting\n  etcdctl endpoint status -w \
             table\n\nCtrl-C stops the cluster; its data stays in {}.\n",
            endpoints.join(","),
            self.layout.dir.display()
        ))
    }

    /// Stops the members and waits for them. A second interrupt kills them.
    async fn stop(mut self, interrupt: &mut tokio::signal::unix::Signal) -> Result<(), Failure> {
        line("Stopping")?;
        // Every task listens, so nobody misses it.
        self.stop.send_replace(true);
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { return line("Stopped") },
                // Tasks that end may still have something to say; nobody wants to hear it.
                Some(_) = self.events.recv() => {}
                // The members die with their keepers.
                _ = interrupt.recv() => self.tasks.abort_all(),
            }
        }
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    const LINES: usize = 10;
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// How the user can call this program.
fn program_name() -> String {
    const NAME: &str = "quorate";
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let binary = std::env::current_exe().unwrap_or_else(|_| NAME.into());
    if std::env::split_paths(&paths).any(|path| path.join(NAME) == binary) {
        return NAME.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    binary.strip_prefix(here).unwrap_or(&binary).display().to_string()
}
