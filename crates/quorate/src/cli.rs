//! The command line: which commands there are, and which function each of them is.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::auth::{AuthCommand, RoleCommand, UserCommand};
use crate::check::CheckCommand;
use crate::config::ConfigCommand;
use crate::context::{Context, GlobalOptions, with_environment, with_go_switches};
use crate::debug::DebugCommand;
use crate::demo::DemoArgs;
use crate::elect::ElectArgs;
use crate::endpoint::EndpointArgs;
use crate::failure::{Exit, Failure};
use crate::kv::{CompactionArgs, DelArgs, GetArgs, PutArgs};
use crate::lease::LeaseCommand;
use crate::lock::LockArgs;
use crate::maintenance::{AlarmCommand, DefragArgs, DowngradeCommand, MoveLeaderArgs};
use crate::member::MemberCommand;
use crate::mirror::MirrorArgs;
use crate::print::{line, write};
use crate::snapshot::SnapshotCommand;
use crate::txn::TxnArgs;
use crate::watch::WatchArgs;

/// Version of the etcd API that the commands speak.
const API_VERSION: &str = "3.6";

const AFTER_HELP: &str = "\
Options of every command can come from the environment as QUORATE_<NAME> or ETCDCTL_<NAME>, for instance \
QUORATE_ENDPOINTS; QUORATE_ wins, and the command line wins over both. Commands can be shortened as long as they are \
not ambiguous: `quorate mem list`.

Exit codes:
  0    success
  1    the cluster refused or did not answer; unknown command or option
  2    the user was not let in; a question about a lease failed
  3    the input of `txn` or `watch -i` cannot be understood
  4    an option has a value that is not offered
  5    a watch or snapshot ended before its time
  128  arguments are missing, too many, or malformed";

/// A replicated key-value database that speaks etcd's API.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = AFTER_HELP, infer_subcommands = true, subcommand_required = true,
          arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    options: GlobalOptions,

    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Run a member of a cluster
    #[command(disable_help_flag = true)]
    Server {
        /// Options as for etcd: see `quorate server --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },

    /// Check a server's configuration, or print what it amounts to
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Start a cluster on this machine and tell what happens in it
    #[command(
        after_help = "Data, logs and ports stay in the directory, and the next run continues with them. A member that \
                      ends is started again after a moment: kill one and see.\n\nExamples:\n  quorate demo\n  quorate demo \
                      --dir five --nodes 5 --base-port 5000"
    )]
    Demo(DemoArgs),

    /// Write a key
    #[command(
        override_usage = "quorate put [OPTIONS] <KEY> [VALUE]",
        after_help = "A value that begins with '-' follows a '--'.\n\nExamples:\n  quorate put greeting hello\n  quorate \
                      put greeting -- -hello-\n  quorate put picture < picture.png\n  quorate put session 1 --lease \
                      32695410dcc0ca06"
    )]
    Put(PutArgs),

    /// Read a key or a range of keys
    #[command(
        override_usage = "quorate get [OPTIONS] <KEY> [RANGE_END]",
        after_help = "Examples:\n  quorate get greeting\n  quorate get --prefix users/ --keys-only\n  quorate get a m \
                      --limit 10 --sort-by MODIFY --order DESCEND\n  quorate get picture --print-value-only > \
                      picture.png\n  quorate get greeting --rev 7"
    )]
    Get(GetArgs),

    /// Delete a key or a range of keys
    #[command(
        override_usage = "quorate del [OPTIONS] <KEY> [RANGE_END]",
        after_help = "Examples:\n  quorate del greeting\n  quorate del --prefix users/ --prev-kv\n  quorate del a m \
                      --range"
    )]
    Del(DelArgs),

    /// Apply requests together, if conditions hold
    #[command(
        override_usage = "quorate txn [OPTIONS]",
        after_help = "Reads three parts from standard input, each ended by an empty line: conditions, requests for when \
                      all of them hold, requests for when one does not.\n\n  condition  TARGET(\"KEY\") OPERATOR \
                      \"OPERAND\", with a space on each side of the operator\n  TARGET     version (ver), create (c), \
                      mod (m), value (val), lease\n  OPERATOR   = != < >\n  request    a put, get or del command with \
                      its options\n\nExample:\n  quorate txn <<'END'\n  mod(\"greeting\") > \"0\"\n\n  put greeting \
                      \"hello again\"\n\n  put greeting hello\n\n  END"
    )]
    Txn(TxnArgs),

    /// Print changes as they happen
    #[command(
        override_usage = "quorate watch [OPTIONS] <KEY> [RANGE_END] [-- COMMAND...]",
        after_help = "The command finds the change in ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and \
                      ETCD_WATCH_VALUE, as quoted strings. KEY and RANGE_END can also come from QUORATE_WATCH_KEY and \
                      QUORATE_WATCH_RANGE_END.\n\nExamples:\n  quorate watch greeting\n  quorate watch --prefix users/ \
                      --rev 100 --prev-kv\n  quorate watch greeting -- sh -c 'echo $ETCD_WATCH_VALUE'"
    )]
    Watch(WatchArgs),

    /// Drop the history before a revision
    #[command(
        override_usage = "quorate compaction [OPTIONS] <REVISION>",
        after_help = "Example:\n  quorate compaction 1000"
    )]
    Compaction(CompactionArgs),

    /// Make, renew, show and end leases
    #[command(subcommand)]
    Lease(LeaseCommand),

    /// Turn authentication on and off
    #[command(subcommand)]
    Auth(AuthCommand),

    /// Show and change users
    #[command(subcommand)]
    User(UserCommand),

    /// Show and change roles and their permissions
    #[command(subcommand)]
    Role(RoleCommand),

    /// Hold a lock while a command runs, or until stopped
    #[command(
        override_usage = "quorate lock [OPTIONS] <NAME> [COMMAND]...",
        after_help = "Waits until nobody else holds the lock. The command finds its key in ETCD_LOCK_KEY and in \
                      ETCD_LOCK_REV a number that grows with each holder; its exit code is passed on.\n\nExamples:\n  \
                      quorate lock jobs/cleanup\n  quorate lock jobs/cleanup --ttl 5 -- sh -c 'echo $ETCD_LOCK_REV'"
    )]
    Lock(LockArgs),

    /// Take part in an election, or watch one
    #[command(
        override_usage = "quorate elect [OPTIONS] <NAME> [PROPOSAL]",
        after_help = "Examples:\n  quorate elect leader host-1\n  quorate elect leader --listen"
    )]
    Elect(ElectArgs),

    /// Show and change the members of the cluster
    #[command(subcommand)]
    Member(MemberCommand),

    /// Show how endpoints are
    Endpoint(EndpointArgs),

    /// Show and clear alarms
    #[command(subcommand)]
    Alarm(AlarmCommand),

    /// Give unused storage of the endpoints back
    #[command(after_help = "Examples:\n  quorate defrag --cluster\n  quorate defrag --data-dir /var/lib/quorate")]
    Defrag(DefragArgs),

    /// Copy the storage of a member to a file, check the file, and make a new cluster from it
    #[command(subcommand)]
    Snapshot(SnapshotCommand),

    /// Look at the files of a member that does not run
    #[command(subcommand)]
    Debug(DebugCommand),

    /// Hand leadership to another member
    #[command(
        override_usage = "quorate move-leader [OPTIONS] <MEMBER_ID>",
        after_help = "The leader must be among --endpoints.\n\nExample:\n  quorate move-leader 8e9e05c52164694d"
    )]
    MoveLeader(MoveLeaderArgs),

    /// Go back to the minor version before
    #[command(subcommand)]
    Downgrade(DowngradeCommand),

    /// Find out what the cluster bears
    #[command(subcommand)]
    Check(CheckCommand),

    /// Copy keys to another cluster, and their changes as they happen
    #[command(
        override_usage = "quorate make-mirror [OPTIONS] <DESTINATION>",
        after_help = "Runs until it is interrupted, and prints every 30 s how many keys it has copied.\n\nExample:\n  quorate \
                      make-mirror --prefix users/ 10.0.1.1:2379"
    )]
    MakeMirror(MirrorArgs),

    /// Print the options of every command
    Options,

    /// Write a manual page for each command into a directory
    #[command(after_help = "Example:\n  quorate man /usr/local/share/man/man1")]
    Man(ManArgs),

    /// Print the version
    Version,

    /// Print a script that completes commands and options in a shell
    #[command(after_help = "Example:\n  source <(quorate completion bash)")]
    Completion(CompletionArgs),
}

#[derive(Debug, Args)]
struct ManArgs {
    /// Directory, which is made if it is not there
    directory: std::path::PathBuf,
}

#[derive(Debug, Args)]
struct CompletionArgs {
    /// Shell to complete in
    shell: Shell,
}

/// A command line that was understood.
pub struct Invocation {
    command: Commands,
    context: Context,
}

/// Parses a command line, the name of the program included. Prints what is wrong with it, or the help that it asks for.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, ExitCode> {
    let mut command = command();
    let parsed = command
        .try_get_matches_from_mut(fence(arguments))
        .and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, chosen(&matches, "command_timeout"))));
    match parsed {
        Ok((Cli { options, command }, command_timeout_is_chosen)) => {
            Ok(Invocation { command, context: Context { options, command_timeout_is_chosen } })
        }
        Err(error) => {
            // There is nowhere to report that reporting failed.
            let _ = error.print();
            Err(exit_code(&error))
        }
    }
}

/// `config check` and `config dump` take a server's options, some of which are called like our own: puts the `--` before
/// them that says so, if the user has not.
fn fence(arguments: &[OsString]) -> Vec<OsString> {
    let word = |place: usize| arguments.get(place).and_then(|argument| argument.to_str()).unwrap_or_default();
    // As clap does, a command is known by its beginning; `con` is that of no other.
    let is = |place, command: &str, least: usize| word(place).len() >= least && command.starts_with(word(place));
    let mut all = arguments.to_vec();
    let dumps = is(2, "dump", 1);
    if !is(1, "config", 3) || !(dumps || is(2, "check", 1)) {
        return all;
    }
    let mut place = 3;
    while dumps && (word(place).starts_with("-o") || word(place).starts_with("--output")) {
        place += if matches!(word(place), "-o" | "--output") { 2 } else { 1 };
    }
    if place < all.len() && !matches!(word(place), "--" | "-h" | "--help") {
        all.insert(place, "--".into());
    }
    all
}

pub(crate) fn command() -> Command {
    // A name that cannot be a variable, such as one with `=`, is not set.
    with_environment(with_go_switches(Cli::command()), |name| std::env::var_os(name))
}

/// Whether the user gave the option, before or after the command.
fn chosen(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, matches)| chosen(matches, id))
}

fn exit_code(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ExitCode::SUCCESS
        }
        // An option without its value also counts as one with a value that is not offered.
        ErrorKind::InvalidValue if !context(error, ContextKind::InvalidValue).is_empty() => Exit::BadFeature.into(),
        ErrorKind::UnknownArgument if !context(error, ContextKind::InvalidArg).starts_with('-') => {
            Exit::BadArguments.into()
        }
        ErrorKind::MissingRequiredArgument => Exit::BadArguments.into(),
        _ => Exit::Error.into(),
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

/// Runs a command to its end.
pub fn run(invocation: Invocation) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Error, format!("cannot start: {error}")))?;
    let Invocation { command, context } = invocation;
    if context.options.debug {
        context.print_options();
    }
    runtime.block_on(dispatch(command, &context))
}

async fn dispatch(command: Commands, context: &Context) -> Result<(), Failure> {
    match command {
        Commands::Server { .. } => {
            Err(Failure::arguments("options of every command do not apply to the server: put `server` first"))
        }
        Commands::Config(command) => command.run(),
        Commands::Demo(args) => args.run().await,
        Commands::Put(args) => args.run(context).await,
        Commands::Get(args) => args.run(context).await,
        Commands::Del(args) => args.run(context).await,
        Commands::Txn(args) => args.run(context).await,
        Commands::Watch(args) => args.run(context).await,
        Commands::Compaction(args) => args.run(context).await,
        Commands::Lease(command) => command.run(context).await,
        Commands::Auth(command) => command.run(context).await,
        Commands::User(command) => command.run(context).await,
        Commands::Role(command) => command.run(context).await,
        Commands::Lock(args) => args.run(context).await,
        Commands::Elect(args) => args.run(context).await,
        Commands::Member(command) => command.run(context).await,
        Commands::Endpoint(args) => args.run(context).await,
        Commands::Alarm(command) => command.run(context).await,
        Commands::Defrag(args) => args.run(context).await,
        Commands::Snapshot(command) => command.run(context).await,
        Commands::Debug(command) => command.run(context),
        Commands::MoveLeader(args) => args.run(context).await,
        Commands::Downgrade(command) => command.run(context).await,
        Commands::Check(command) => command.run(context).await,
        Commands::MakeMirror(args) => args.run(context).await,
        Commands::Options => print_options(),
        Commands::Man(args) => write_manual(&args.directory),
        Commands::Version => {
            line(format_args!("quorate version: {}", env!("CARGO_PKG_VERSION")))?;
            line(format_args!("API version: {API_VERSION}"))
        }
        Commands::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut script);
            write(&script, std::io::stdout().lock())
        }
    }
}

/// The options of every command: those of the program itself.
fn print_options() -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    line("The following options can be passed to any command:\n")?;
    for option in command.get_arguments().filter(|option| option.get_long().is_some_and(|name| name != "help")) {
        let short = option.get_short().map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
        let long = option.get_long().unwrap_or_default();
        line(format_args!("  {short}--{long:<24} {}", option.get_help().map(ToString::to_string).unwrap_or_default()))?;
    }
    Ok(())
}

/// One page for the program, one for the server, and one for each command with its name after a dash.
fn write_manual(directory: &std::path::Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Error, format!("cannot write manual pages to {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    // The server has options of its own, and none of those of every command: its page is written over the one from above.
    let server = quorate_server::command().name("quorate-server").display_name("quorate-server");
    let mut page = Vec::new();
    clap_mangen::Man::new(server).render(&mut page).map_err(failed)?;
    std::fs::write(directory.join("quorate-server.1"), page).map_err(failed)?;
    line(format_args!("Manual pages written to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_servers_options_are_not_taken_for_ours() {
        for (given, fenced) in [
            ("config check --discovery-srv x --user y", "config check -- --discovery-srv x --user y"),
            ("conf c --debug", "conf c -- --debug"),
            ("config check etcd.yaml", "config check -- etcd.yaml"),
            ("config check -- --debug", "config check -- --debug"),
            ("config check --help", "config check --help"),
            ("config check", "config check"),
            ("config dump -o json --debug", "config dump -o json -- --debug"),
            ("config dump --output=json --debug", "config dump --output=json -- --debug"),
            ("config dump -o", "config dump -o"),
            ("config --help", "config --help"),
            ("check perf --debug", "check perf --debug"),
            ("co check --debug", "co check --debug"),
        ] {
            let arguments: Vec<OsString> = format!("quorate {given}").split(' ').map(OsString::from).collect();
            let expected: Vec<OsString> = format!("quorate {fenced}").split(' ').map(OsString::from).collect();
            assert_eq!(fence(&arguments), expected, "{given}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        write_manual(dir.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("quorate-put.1").contains("ignore"));
        assert!(page("quorate-server.1").contains("storage\\-engine"));
    }

    #[test]
    fn etcdctl_has_no_other_options_of_every_command() {
        let etcdctl = [
            "cacert",
            "cert",
            "command-timeout",
            "debug",
            "dial-timeout",
            "discovery-srv",
            "discovery-srv-name",
            "endpoints",
            "hex",
            "insecure-discovery",
            "insecure-skip-tls-verify",
            "insecure-transport",
            "keepalive-time",
            "keepalive-timeout",
            "key",
            "password",
            "user",
            "write-out",
        ];
        let command = command();
        let mut ours: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        ours.sort_unstable();
        ours.retain(|name| *name != "version" && *name != "discovery-srv-server");
        assert_eq!(ours, etcdctl);
    }

    #[test]
    fn the_environment_loses_against_the_command_line_and_quorate_wins_over_etcdctl() {
        let endpoints = |variables: &[(&str, &str)], arguments: &[&str]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let command = with_environment(with_go_switches(Cli::command()), variable);
            let matches = command.try_get_matches_from([&["quorate"], arguments].concat()).unwrap();
            Cli::from_arg_matches(&matches).unwrap().options.endpoints
        };
        let etcdctl = ("ETCDCTL_ENDPOINTS", "a:1,b:2");
        let quorate = ("QUORATE_ENDPOINTS", "c:3");
        assert_eq!(endpoints(&[], &["version"]), ["127.0.0.1:2379"]);
        assert_eq!(endpoints(&[("QUORATE_ENDPOINTS", ""), etcdctl], &["version"]), ["a:1", "b:2"]);
        assert_eq!(endpoints(&[etcdctl, quorate], &["version"]), ["c:3"]);
        assert_eq!(endpoints(&[etcdctl, quorate], &["version", "--endpoints=d:4"]), ["d:4"]);
        assert_eq!(endpoints(&[etcdctl], &["--endpoints", "d:4", "version"]), ["d:4"]);
    }
}
