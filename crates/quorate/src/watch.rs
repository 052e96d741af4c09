//! `watch`: prints changes as they happen, and runs a command for each.
//!
//! Uses the client's raw layer, for the formats show the header of each answer. A watch whose connection breaks goes on
//! at another endpoint after the last revision that was printed.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Command, FromArgMatches as _};
use quorate_client::{Client, Code, Error};
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use quorate_proto::mvccpb::Event;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::context::{Context, bytes, with_go_switches};
use crate::failure::{Exit, Failure};
use crate::golang::quote;
use crate::kv::prefix_range;
use crate::print::{Printer, Reply, event_type_name, line};
use crate::words;

/// Pause before a broken watch tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Requests that wait to be sent on the stream of a watch: the watch itself, and questions about progress.
const REQUESTS_MAX: usize = 8;

const BAD_NUMBER: &str = "bad number of arguments";

/// Arguments of `watch`.
#[derive(Debug, Clone, Default, Args)]
pub struct WatchArgs {
    /// Key to watch, or the first key of a range
    #[arg(value_name = "KEY")]
    key: Option<OsString>,

    /// First key that is no longer in the range
    #[arg(value_name = "RANGE_END")]
    range_end: Option<OsString>,

    /// Watch all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Begin with the changes of this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    rev: i64,

    /// Also print what a key held before
    #[arg(long)]
    prev_kv: bool,

    /// Have the server tell now and then how far the watch is
    #[arg(long)]
    progress_notify: bool,

    /// Read `watch` commands and `progress` from standard input
    #[arg(short, long)]
    interactive: bool,

    /// Command to run for each change
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A range to watch that the environment names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentRange {
    key: Option<OsString>,
    range_end: Option<OsString>,
}

impl EnvironmentRange {
    /// Reads `QUORATE_WATCH_KEY` and `QUORATE_WATCH_RANGE_END`, or else those with `ETCDCTL_`.
    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let variable = |suffix: &str| {
            let names = [format!("QUORATE_{suffix}"), format!("ETCDCTL_{suffix}")];
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let range = EnvironmentRange { key: variable("WATCH_KEY"), range_end: variable("WATCH_RANGE_END") };
        match &range {
            EnvironmentRange { key: None, range_end: Some(end) } => Err(Failure::arguments(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                quote(&bytes(end))
            ))),
            _ => Ok(range),
        }
    }
}

impl WatchArgs {
    /// Checks how many arguments there are. `ends_with_separator` says that nothing follows a `--`.
    fn check(&self, environment: &EnvironmentRange, ends_with_separator: bool) -> Result<(), Failure> {
        if ends_with_separator {
            return Err(Failure::arguments(format!("{BAD_NUMBER} (found separator --, but no commands)")));
        }
        match (&self.key, &environment.key) {
            (Some(_), Some(_)) => Err(Failure::arguments(format!("{BAD_NUMBER} (found conflicting environment key)"))),
            (None, None) => Err(Failure::arguments(BAD_NUMBER)),
            (Some(_), None) | (None, Some(_)) => Ok(()),
        }
    }

    fn request(&self, environment: &EnvironmentRange) -> Result<WatchCreateRequest, Failure> {
        let key = self.key.as_ref().or(environment.key.as_ref()).ok_or_else(|| Failure::arguments(BAD_NUMBER))?;
        let range_end = self.range_end.as_ref().or(environment.range_end.as_ref());
        let (key, range_end) = match range_end {
            Some(_) if self.prefix => {
                return Err(Failure::arguments("`range_end` and `--prefix` are mutually exclusive"));
            }
            Some(range_end) => (bytes(key), bytes(range_end)),
            None if self.prefix => prefix_range(bytes(key)),
            None => (bytes(key), Bytes::new()),
        };
        Ok(WatchCreateRequest {
            key,
            range_end,
            start_revision: self.rev,
            prev_kv: self.prev_kv,
            progress_notify: self.progress_notify,
            ..Default::default()
        })
    }

    /// Watches until the server ends the watch or the command is stopped.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let environment = EnvironmentRange::read(|name| std::env::var_os(name))?;
        if self.interactive {
            return interact(&environment, context).await;
        }
        let ends_with_separator = std::env::args_os().next_back().is_some_and(|last| last == "--");
        self.check(&environment, ends_with_separator)?;
        let request = self.request(&environment)?;
        let client = context.client().await?;
        // Nobody asks for progress here, so the channel stays silent.
        let (_silent, questions) = mpsc::channel(1);
        let follower = Follower { client, request, printer: context.printer(), command: self.command, questions };
        follower.run().await?;
        Err(Failure::new(Exit::Interrupted, "watch is canceled by the server"))
    }
}

/// Reads commands from standard input, and begins a watch with each.
async fn interact(environment: &EnvironmentRange, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut followers = JoinSet::new();
    let mut askers: Vec<mpsc::Sender<()>> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            Some(ended) = followers.join_next() => match ended {
                // A watch that the server ended has said so.
                Ok(outcome) => { outcome?; continue }
                Err(error) => return Err(Failure::new(Exit::Error, error.to_string())),
            },
        };
        let unreadable =
            |why: String| Failure::new(Exit::InvalidInput, format!("error reading watch request line: {why}"));
        let line = line.map_err(|error| unreadable(error.to_string()))?.ok_or_else(|| unreadable("EOF".to_owned()))?;
        match parse_line(&line, environment)? {
            Line::Invalid(message) => eprintln!("{message}"),
            Line::Progress => {
                askers.retain(|asker| !asker.is_closed());
                for asker in &askers {
                    // A question that finds no room joins those that wait already.
                    let _ = asker.try_send(());
                }
            }
            Line::Watch { request, command } => {
                let (asker, questions) = mpsc::channel(1);
                askers.push(asker);
                let client = client.clone();
                let follower = Follower { client, request: *request, printer: context.printer(), command, questions };
                followers.spawn(follower.run());
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Line {
    Watch {
        request: Box<WatchCreateRequest>,
        command: Vec<OsString>,
    },
    Progress,
    /// Not understood, with what to say.
    Invalid(String),
}

fn parse_line(line: &str, environment: &EnvironmentRange) -> Result<Line, Failure> {
    let words = words::split(line)?;
    match words.first() {
        None => return Ok(Line::Invalid(format!("Invalid command: {line} (watch and progress supported)"))),
        Some(word) if word == "progress" => return Ok(Line::Progress),
        Some(word) if word != "watch" => {
            return Ok(Line::Invalid(format!("Invalid command {line} (only support watch)")));
        }
        Some(_) if words.len() < 2 && environment.key.is_none() => {
            return Ok(Line::Invalid(format!("Invalid command {line} (command type or key is not provided)")));
        }
        Some(_) => {}
    }
    let parser = with_go_switches(WatchArgs::augment_args(Command::new("watch")));
    let matches = parser.try_get_matches_from(&words);
    let args = matches.and_then(|matches| WatchArgs::from_arg_matches(&matches));
    let args = args.map_err(|error| Failure::arguments(error.to_string().trim_end().to_owned()))?;
    args.check(environment, words.last().is_some_and(|last| last == "--"))?;
    Ok(match args.request(environment) {
        Ok(request) => Line::Watch { request: Box::new(request), command: args.command },
        Err(failure) => Line::Invalid(format!("Invalid command {line} ({})", failure.message.unwrap_or_default())),
    })
}

/// One watch. Ends when the server ends the watch, or with the failure that ends the process.
struct Follower {
    client: Client,
    /// What to watch; always begins after what was printed.
    request: WatchCreateRequest,
    printer: Printer,
    command: Vec<OsString>,
    questions: mpsc::Receiver<()>,
}

/// Why a stream is over.
enum End {
    /// The server does not want to go on.
    Canceled,
    /// The connection broke: the watch can go on elsewhere.
    Broken(String),
}

impl Follower {
    async fn run(mut self) -> Result<(), Failure> {
        let mut outage = false;
        loop {
            match self.follow_stream(&mut outage).await? {
                End::Canceled => return Ok(()),
                End::Broken(why) => {
                    // One message per outage is enough.
                    if !std::mem::replace(&mut outage, true) {
                        eprintln!("watch interrupted, trying again ({why})");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Follows one stream to its end.
    async fn follow_stream(&mut self, outage: &mut bool) -> Result<End, Failure> {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(self.request.clone())) };
        requests.try_send(create).expect("the channel is new");
        let mut stream = match self.client.watches().watch(ReceiverStream::new(receiver)).await {
            Ok(stream) => stream,
            Err(Error::Unavailable { code, message }) if is_transient(code) => return Ok(End::Broken(message)),
            Err(error) => return Err(Failure::call(&error)),
        };
        loop {
            tokio::select! {
                answer = stream.message() => match answer {
                    Ok(Some(response)) => {
                        *outage = false;
                        if self.take(&response).await? {
                            return Ok(End::Canceled);
                        }
                    }
                    Ok(None) => return Ok(End::Broken("the server closed the stream".to_owned())),
                    Err(status) if is_transient(status.code()) => return Ok(End::Broken(status.message().to_owned())),
                    Err(status) => return Err(Failure::new(Exit::Error, status.message())),
                },
                Some(()) = self.questions.recv() => {
                    let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    // Without room for it, the server has such questions to answer already.
                    let _ = requests.try_send(WatchRequest { request_union: Some(ask) });
                }
            }
        }
    }

    /// Prints an answer. True if the watch is over.
    async fn take(&mut self, response: &WatchResponse) -> Result<bool, Failure> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            eprintln!("watch was canceled ({})", cancel_reason(response));
            self.printer.show(Reply::Watch(response))?;
            return Ok(true);
        }
        if response.created {
            // A watch "from now on" means from here on, also after an interruption.
            if self.request.start_revision == 0 {
                self.request.start_revision = revision + 1;
            }
            return Ok(false);
        }
        if response.events.is_empty() {
            line(format_args!("progress notify: {revision}"))?;
            self.request.start_revision = self.request.start_revision.max(revision + 1);
        }
        self.printer.show(Reply::Watch(response))?;
        for event in &response.events {
            self.run_command(revision, event).await?;
            let printed = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            self.request.start_revision = self.request.start_revision.max(printed + 1);
        }
        Ok(false)
    }

    async fn run_command(&self, revision: i64, event: &Event) -> Result<(), Failure> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let kv = event.kv.clone().unwrap_or_default();
        let outcome = tokio::process::Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(event_type_name(event).as_bytes()))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .status()
            .await;
        let why = match outcome {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let words: Vec<String> = self.command.iter().map(|word| quote(&bytes(word))).collect();
        eprintln!("command [{}] error ({why})", words.join(" "));
        Err(Failure::silent(Exit::Error))
    }
}

/// Whether another stream may fare better.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
    )
}

/// The reason in the words of etcd's client.
fn cancel_reason(response: &WatchResponse) -> &str {
    match response.cancel_reason.as_str() {
        _ if response.compact_revision != 0 => "etcdserver: mvcc: required revision has been compacted",
        "" => "etcdserver: mvcc: required revision is a future revision",
        reason => reason,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn environment(key: &str, range_end: &str) -> Result<EnvironmentRange, Failure> {
        EnvironmentRange::read(|name| match name {
            "ETCDCTL_WATCH_KEY" => Some(key.into()),
            "ETCDCTL_WATCH_RANGE_END" => Some(range_end.into()),
            _ => None,
        })
    }

    fn check(environment: &EnvironmentRange, lines: &[&str], expected: Expect) {
        let outcome = |line: &&str| match parse_line(line, environment) {
            Ok(Line::Watch { request: r, command }) => {
                let WatchCreateRequest { key, range_end, start_revision, prev_kv, progress_notify, .. } = *r;
                let command = if command.is_empty() { String::new() } else { format!(" -- {command:?}") };
                format!(
                    "{line}\n    {key:?}..{range_end:?} rev={start_revision} prev_kv={prev_kv} \
                     progress_notify={progress_notify}{command}\n"
                )
            }
            Ok(other) => format!("{line}\n    {other:?}\n"),
            Err(failure) => format!("{line}\n    exit {}: {}\n", failure.exit.code(), failure.message.unwrap()),
        };
        expected.assert_eq(&lines.iter().map(outcome).collect::<String>());
    }

    #[test]
    fn lines_without_an_environment() {
        let lines = [
            "watch foo",
            "watch foo bar",
            "watch --prefix foo --rev 1 --prev-kv --progress-notify",
            "watch --prefix ''",
            "watch foo bar --rev=5 -- echo 'watch event' received",
            "watch foo --prefix=false -- echo --prefix",
            "watch foo bar --prefix",
            "watch",
            "watch --rev 1",
            "watch foo --",
            "progress",
            "foo",
            "",
        ];
        check(
            &EnvironmentRange::default(),
            &lines,
            expect![[r#"
            watch foo
                b"foo"..b"" rev=0 prev_kv=false progress_notify=false
            watch foo bar
                b"foo"..b"bar" rev=0 prev_kv=false progress_notify=false
            watch --prefix foo --rev 1 --prev-kv --progress-notify
                b"foo"..b"fop" rev=1 prev_kv=true progress_notify=true
            watch --prefix ''
                b"\0"..b"\0" rev=0 prev_kv=false progress_notify=false
            watch foo bar --rev=5 -- echo 'watch event' received
                b"foo"..b"bar" rev=5 prev_kv=false progress_notify=false -- ["echo", "watch event", "received"]
            watch foo --prefix=false -- echo --prefix
                b"foo"..b"" rev=0 prev_kv=false progress_notify=false -- ["echo", "--prefix"]
            watch foo bar --prefix
                Invalid("Invalid command watch foo bar --prefix (`range_end` and `--prefix` are mutually exclusive)")
            watch
                Invalid("Invalid command watch (command type or key is not provided)")
            watch --rev 1
                exit 128: bad number of arguments
            watch foo --
                exit 128: bad number of arguments (found separator --, but no commands)
            progress
                Progress
            foo
                Invalid("Invalid command foo (only support watch)")

                Invalid("Invalid command:  (watch and progress supported)")
        "#]],
        );
    }

    #[test]
    fn lines_with_an_environment() {
        let lines = ["watch", "watch --rev 1 -- echo hi", "watch foo", "watch -- "];
        check(
            &environment("foo", "goo").unwrap(),
            &lines,
            expect![[r#"
            watch
                b"foo"..b"goo" rev=0 prev_kv=false progress_notify=false
            watch --rev 1 -- echo hi
                b"foo"..b"goo" rev=1 prev_kv=false progress_notify=false -- ["echo", "hi"]
            watch foo
                exit 128: bad number of arguments (found conflicting environment key)
            watch -- 
                exit 128: bad number of arguments (found separator --, but no commands)
        "#]],
        );
        assert_eq!(environment("", "goo").unwrap_err().exit, Exit::BadArguments);
        assert_eq!(environment("", "").unwrap(), EnvironmentRange::default());
    }

    #[test]
    fn quorate_variables_win() {
        let range = EnvironmentRange::read(|name| name.ends_with("WATCH_KEY").then(|| name.into())).unwrap();
        assert_eq!(range.key, Some("QUORATE_WATCH_KEY".into()));
    }
}
