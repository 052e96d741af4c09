//! What all commands share: the options for every command, and the connection that they describe.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use bytes::Bytes;
use clap::builder::{OsStr as ArgValue, TypedValueParser};
use clap::{ArgAction, Args, Command};
use quorate_client::{Client, ConnectOptions, TlsOptions};
use quorate_server::Discovery;

use crate::failure::{Exit, Failure, describe};
use crate::golang;
use crate::print::{Format, Printer, Reply};

/// Options of every command. Each can come from the environment as `QUORATE_<NAME>` or `ETCDCTL_<NAME>`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalOptions {
    /// Client addresses of the members, separated by commas
    #[arg(long, global = true, value_delimiter = ',', default_value = "127.0.0.1:2379", value_name = "ADDRESSES")]
    pub endpoints: Vec<String>,

    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "simple",
        value_name = "FORMAT",
        hide_possible_values = false
    )]
    pub write_out: Format,

    /// Print keys and values as \xNN, and ids in hexadecimal
    #[arg(long, global = true)]
    pub hex: bool,

    /// Time that a command may take
    #[arg(long, global = true, default_value = "5s", value_parser = golang::parse_duration, value_name = "DURATION")]
    pub command_timeout: Duration,

    /// Time to open a connection in
    #[arg(long, global = true, default_value = "2s", value_parser = golang::parse_duration, value_name = "DURATION")]
    pub dial_timeout: Duration,

    /// Interval of pings on a quiet connection; at least 10s, for servers refuse more
    #[arg(long, global = true, default_value = "2s", value_parser = golang::parse_duration, value_name = "DURATION")]
    pub keepalive_time: Duration,

    /// Time after which an unanswered ping ends the connection
    #[arg(long, global = true, default_value = "6s", value_parser = golang::parse_duration, value_name = "DURATION")]
    pub keepalive_timeout: Duration,

    /// Log in as this user; the password is asked for when it is not given
    #[arg(long, global = true, value_name = "NAME[:PASSWORD]")]
    pub user: Option<String>,

    /// Password of --user
    #[arg(long, global = true, value_name = "PASSWORD")]
    pub password: Option<String>,

    /// Print the options in force to standard error
    #[arg(long, global = true)]
    pub debug: bool,

    /// Connect without TLS to endpoints without a scheme, if no certificates are given
    #[arg(long, global = true, action = ArgAction::Set, default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, value_parser = golang::parse_bool, value_name = "BOOL",
          hide_short_help = true)]
    pub insecure_transport: bool,

    /// Accept any certificate of the server: for tests
    #[arg(long, global = true, hide_short_help = true)]
    pub insecure_skip_tls_verify: bool,

    /// Certificate (PEM) to show to servers that ask for one; with --key
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<String>,

    /// Key (PEM) of --cert
    #[arg(id = "tls_key", long = "key", global = true, value_name = "FILE")]
    pub key: Option<String>,

    /// Certificates (PEM) of the authorities that may sign the servers'; without, those that this machine trusts
    #[arg(long, global = true, value_name = "FILE")]
    pub cacert: Option<String>,

    /// Domain whose SRV records name the members, instead of --endpoints
    #[arg(short, long, global = true, value_name = "DOMAIN", hide_short_help = true)]
    pub discovery_srv: Option<String>,

    /// Suffix of the services that the SRV records are of
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub discovery_srv_name: Option<String>,

    /// address:port of the DNS server to ask for them, such as Consul's; the system's by default
    #[arg(long, global = true, value_name = "ADDRESS", hide_short_help = true)]
    pub discovery_srv_server: Option<String>,

    /// Accept SRV records of members without TLS
    #[arg(long, global = true, action = ArgAction::Set, default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, value_parser = golang::parse_bool, value_name = "BOOL",
          hide_short_help = true)]
    pub insecure_discovery: bool,
}

/// Where a command runs: the options, and what follows from them.
#[derive(Debug, Clone)]
pub struct Context {
    /// The options as parsed.
    pub options: GlobalOptions,
    /// Whether the user chose the command time-out, which long commands otherwise ignore.
    pub command_timeout_is_chosen: bool,
}

impl Context {
    /// A client for all endpoints.
    pub async fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints().await?).await
    }

    /// The client addresses of the members: as SRV records have them, if a domain is given, else as the user gave them.
    pub async fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let options = &self.options;
        let Some(domain) = options.discovery_srv.clone().filter(|domain| !domain.is_empty()) else {
            return Ok(options.endpoints.clone());
        };
        let discovery = Discovery {
            domain,
            service_name: options.discovery_srv_name.clone().unwrap_or_default(),
            server: options.discovery_srv_server.clone().unwrap_or_default(),
        };
        let mut found = discovery.clients().await.map_err(Failure::arguments)?;
        if !options.insecure_discovery {
            found.retain(|url| {
                let secure = !url.starts_with("http://");
                if !secure {
                    eprintln!("ignoring discovered insecure endpoint {url:?}");
                }
                secure
            });
        }
        Ok(if found.is_empty() { options.endpoints.clone() } else { found })
    }

    /// A client for some endpoints.
    pub async fn client_of(&self, endpoints: &[String]) -> Result<Client, Failure> {
        let options = &self.options;
        let ping_interval = options.keepalive_time.max(Duration::from_secs(10));
        // As in etcdctl, 0 is no limit but the command's.
        let dial_timeout = if options.dial_timeout.is_zero() { options.command_timeout } else { options.dial_timeout };
        let mut connect = ConnectOptions::new()
            .timeout(options.command_timeout)
            .connect_timeout(dial_timeout)
            .ping(ping_interval, options.keepalive_timeout);
        if let Some((name, password)) = self.credentials()? {
            connect = connect.user(name, password);
        }
        if let Some(tls) = self.tls(endpoints)? {
            connect = connect.tls(tls);
        }
        match Client::connect(endpoints, connect).await {
            Ok(client) => Ok(client),
            Err(error @ quorate_client::Error::InvalidArgument(_)) => Err(Failure::arguments(error.to_string())),
            // A user who is not let in has no connection, for etcdctl.
            Err(error) => Err(Failure::new(Exit::BadConnection, describe(&error))),
        }
    }

    /// The format to print in.
    pub fn printer(&self) -> Printer {
        Printer { format: self.options.write_out, hex: self.options.hex, values_only: false }
    }

    /// Prints an answer.
    pub fn show(&self, reply: Reply<'_>) -> Result<(), Failure> {
        self.printer().show(reply)
    }

    /// TLS, if an option asks for it. As with etcdctl, `--insecure-skip-tls-verify` alone does not: `https` or another does.
    fn tls(&self, endpoints: &[String]) -> Result<Option<TlsOptions>, Failure> {
        let options = &self.options;
        let mut tls = TlsOptions::new();
        match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => tls = tls.identity(cert, key),
            (None, None) => {}
            (Some(_), None) => return Err(Failure::arguments("--cert needs its key: give --key as well")),
            (None, Some(_)) => return Err(Failure::arguments("--key needs its certificate: give --cert as well")),
        }
        if let Some(ca) = &options.cacert {
            tls = tls.ca_file(ca);
        }
        if options.insecure_skip_tls_verify {
            tls = tls.dangerously_accept_any_certificate();
        }
        let is_asked = options.cert.is_some() || options.cacert.is_some() || !options.insecure_transport;
        let is_needed = endpoints.iter().any(|endpoint| endpoint.trim().starts_with("https://"));
        Ok((is_asked || is_needed).then_some(tls))
    }

    fn credentials(&self) -> Result<Option<(String, String)>, Failure> {
        let Some(user) = &self.options.user else { return Ok(None) };
        Ok(Some(match (&self.options.password, user.split_once(':')) {
            (Some(password), _) => (user.clone(), password.clone()),
            (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
            (None, None) => (user.clone(), ask_secret("Password: ")?),
        }))
    }

    /// Prints the options in force, as environment variables.
    pub fn print_options(&self) {
        let GlobalOptions { endpoints, write_out, hex, user, .. } = &self.options;
        let durations = [
            ("COMMAND_TIMEOUT", self.options.command_timeout),
            ("DIAL_TIMEOUT", self.options.dial_timeout),
            ("KEEPALIVE_TIME", self.options.keepalive_time),
            ("KEEPALIVE_TIMEOUT", self.options.keepalive_timeout),
        ];
        eprintln!("QUORATE_ENDPOINTS={}", endpoints.join(","));
        durations.iter().for_each(|(name, value)| eprintln!("QUORATE_{name}={}", golang::duration(*value)));
        let files = [("CACERT", &self.options.cacert), ("CERT", &self.options.cert), ("KEY", &self.options.key)];
        files.iter().for_each(|(name, file)| eprintln!("QUORATE_{name}={}", file.as_deref().unwrap_or_default()));
        eprintln!("QUORATE_INSECURE_TRANSPORT={}", self.options.insecure_transport);
        eprintln!("QUORATE_INSECURE_SKIP_TLS_VERIFY={}", self.options.insecure_skip_tls_verify);
        eprintln!("QUORATE_HEX={hex}");
        eprintln!("QUORATE_WRITE_OUT={}", format!("{write_out:?}").to_lowercase());
        // The password stays out of logs.
        let name = user.as_deref().map(|user| user.split_once(':').map_or(user, |(name, _)| name));
        eprintln!("QUORATE_USER={}", name.unwrap_or_default());
    }
}

/// Asks on the terminal, without showing what is typed.
pub fn ask_secret(prompt: &str) -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::arguments("a password that is not given needs a terminal to ask on"));
    }
    let failed = |error: io::Error| Failure::new(Exit::Error, format!("cannot read the password: {error}"));
    let shown = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    eprint!("{prompt}");
    io::stderr().flush().map_err(failed)?;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
    let mut password = String::new();
    let read = stdin.read_line(&mut password);
    tcsetattr(&stdin, OptionalActions::Flush, &shown).map_err(|error| failed(error.into()))?;
    eprintln!();
    read.map_err(failed)?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// Takes options of a command from the environment. `QUORATE_<NAME>` wins over `ETCDCTL_<NAME>`; empty ones do not
/// count.
pub fn with_environment(command: Command, variable: impl Fn(&str) -> Option<OsString>) -> Command {
    command.mut_args(|arg| {
        let Some(long) = arg.get_long().filter(|long| *long != "help" && *long != "version") else { return arg };
        let suffix = long.to_uppercase().replace('-', "_");
        let names = [format!("QUORATE_{suffix}"), format!("ETCDCTL_{suffix}")];
        match names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty())) {
            // As a default it loses against the command line.
            Some(value) => arg.default_value(ArgValue::from(value)),
            None => arg,
        }
    })
}

/// Lets every switch also take a value, as Go's flags do: `--prefix=true`, `--prefix=false`.
pub fn with_go_switches(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(clap::builder::NonEmptyStringValueParser::new().try_map(|text| golang::parse_bool(&text)))
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("BOOL"),
        _ => arg,
    });
    command.mut_subcommands(with_go_switches)
}

/// The bytes of an argument.
pub fn bytes(argument: &OsStr) -> Bytes {
    Bytes::from(argument.to_os_string().into_vec())
}
