//! [`ServerConfig`]: what the flags mean, checked. Knows no sockets, and of files only the configuration file.

mod dump;
#[cfg(test)]
mod etcd_flags;
mod file;
pub mod flags;
mod log;
mod settings;
mod tls;
mod urls;

use crate::access::{Access, Allowed};
use crate::audit::AuditOptions;
use crate::auth::{JwtOptions, TokenKind};
use crate::compactor::AutoCompaction;
use crate::rotate::Rotation;
use crate::{Discovery, StartError};
pub use dump::{DumpFormat, check, dump};
use flags::Gate;
use quorate_node::{Config, EngineKind, InitialClusterState};
use settings::Settings;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
pub use tls::{CertificateSource, TlsConfig};
pub use urls::Endpoint;

/// What the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
}

/// Bounds on what clients can use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request; also in [`Config::request_bytes_max`].
    pub request_bytes_max: usize,
    /// Most client connections.
    pub connections_max: usize,
    /// Most requests and streams at a time.
    pub requests_max: usize,
    /// Most bytes of requests being read and carried out.
    pub inflight_bytes_max: usize,
    /// Most bytes of large answers that wait to be sent.
    pub answer_bytes_max: usize,
    /// Most leases.
    pub leases_max: usize,
    /// Most HTTP/2 streams on one connection.
    pub streams_per_connection_max: u32,
    /// Largest header list of one request.
    pub header_bytes_max: u32,
    /// How long a new connection may take until its first request, or until it has begun to speak HTTP/2.
    pub header_read_timeout: Duration,
    /// A client that pings more often, again and again, is sent away. 0: as often as it likes.
    pub keepalive_min_time: Duration,
    /// Ping a client that is silent for so long.
    pub keepalive_interval: Duration,
    /// Close the connection if the ping is not answered.
    pub keepalive_timeout: Duration,
    /// How long requests may take to finish at shutdown.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 1_572_864,
            connections_max: 16_384,
            requests_max: 65_536,
            inflight_bytes_max: 256 << 20,
            answer_bytes_max: 256 << 20,
            leases_max: 1_000_000,
            streams_per_connection_max: u32::MAX,
            header_bytes_max: 64 << 10,
            header_read_timeout: Duration::from_secs(10),
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(7200),
            keepalive_timeout: Duration::from_secs(20),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// Configuration of a server process.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node.
    pub node: Config,
    /// Where to find the members of a new cluster, if not in `node.initial_cluster`.
    pub discovery: Option<Discovery>,
    /// Where to accept clients: gRPC, and HTTP unless `listen_http` is given.
    pub listen_client: Vec<Endpoint>,
    /// Where to accept HTTP clients only.
    pub listen_http: Vec<Endpoint>,
    /// Where else to serve metrics and health.
    pub listen_metrics: Vec<Endpoint>,
    /// Where to accept other members; also in [`Config::listen_peer_urls`].
    pub listen_peers: Vec<Endpoint>,
    /// Whether listeners set `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// Whether the memory of the process is kept out of swap; [`crate::run`] sees to it.
    pub lock_memory: bool,
    /// TLS with clients.
    pub client_tls: TlsConfig,
    /// TLS with other members.
    pub peer_tls: TlsConfig,
    /// Bounds.
    pub limits: Limits,
    /// Which kind of token is given for a password.
    pub auth_token: TokenKind,
    /// Most passwords that are being hashed or verified, or wait for it.
    pub login_queue_max: usize,
    /// Whether the API is served as JSON, too.
    pub gateway: bool,
    /// Whether latency histograms are kept.
    pub metrics_extensive: bool,
    /// What browsers may do.
    pub access: Access,
    /// Whether `/debug/pprof` is there.
    pub pprof: bool,
    /// Requests that take longer are logged.
    pub slow_request: Duration,
    /// Compaction that the server asks for by itself.
    pub auto_compaction: Option<AutoCompaction>,
    /// The least severe level that is logged.
    pub log_level: tracing::Level,
    /// What the log looks like.
    pub log_format: LogFormat,
    /// Where the log goes: everywhere of these.
    pub log_outputs: Vec<LogOutput>,
    /// When log files are put aside.
    pub log_rotation: Option<Rotation>,
    /// The audit log.
    pub audit: Option<AuditOptions>,
    /// What the log should say at start.
    pub warnings: Vec<String>,
}

impl ServerConfig {
    /// Reads the arguments (without the program's and the subcommand's name) and the environment.
    ///
    /// # Errors
    /// [`StartError::Usage`] if the arguments do not parse, or ask for help or the version; [`StartError::Config`] if a
    /// value cannot be.
    pub fn parse(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StartError> {
        let mut settings = Settings::read(args, env)?;
        Self::from_settings(&mut settings).map_err(|error| settings.locate(error))
    }

    fn from_settings(settings: &mut Settings) -> Result<Self, StartError> {
        check_fixed_choices(settings)?;
        read_feature_gates(settings)?;
        if settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
            return Err(StartError::config(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ));
        }
        let limits = read_limits(settings)?;
        let node = read_node(settings)?;
        let log_outputs = log::outputs(settings)?;
        let listen = |name| urls::listen(settings, name).map(|endpoints| (name, endpoints));
        let (client, http) = (listen("listen-client-urls")?, listen("listen-client-http-urls")?);
        let (metrics, peers) = (listen("listen-metrics-urls")?, listen("listen-peer-urls")?);
        let by_flag = [&client, &http, &metrics].map(|(flag, endpoints)| (*flag, endpoints.as_slice()));
        let client_tls = tls::clients(settings, &node.data_dir, &by_flag)?;
        let peer_tls = tls::peers(settings, &node.data_dir, &peers.1)?;
        let config = Self {
            discovery: read_discovery(settings)?,
            listen_client: client.1,
            listen_http: http.1,
            listen_metrics: metrics.1,
            listen_peers: peers.1,
            reuse_port: settings.boolean("socket-reuse-port")?,
            lock_memory: settings.boolean("memory-mlock")?,
            client_tls,
            peer_tls,
            limits,
            auth_token: read_auth_token(settings)?,
            login_queue_max: at_least_one(settings, "max-login-queue")?,
            gateway: settings.boolean("enable-grpc-gateway")?,
            metrics_extensive: choice(settings, "metrics", &[("basic", false), ("extensive", true)])?,
            access: Access {
                hosts: Allowed::of(settings.list("host-whitelist")),
                origins: Allowed::of(settings.list("cors")),
            },
            pprof: settings.boolean("enable-pprof")?,
            slow_request: settings.duration("warning-unary-request-duration")?,
            auto_compaction: read_auto_compaction(settings)?,
            log_level: read_log_level(settings)?,
            log_format: choice(
                settings,
                "log-format",
                &[("json", LogFormat::Json), ("text", LogFormat::Text), ("console", LogFormat::Text)],
            )?,
            log_rotation: log::rotation(settings, &log_outputs)?,
            log_outputs,
            audit: log::audit(settings)?,
            warnings: std::mem::take(&mut settings.warnings),
            node,
        };
        Ok(config)
    }

    /// [`Self::check_bootstrap`], if there is no data: a member with data knows its cluster, and etcd ignores the bootstrap
    /// flags then.
    ///
    /// # Errors
    /// As [`Self::check_bootstrap`].
    pub fn check_first_start(&self) -> Result<(), StartError> {
        if self.is_first_start() { self.check_bootstrap() } else { Ok(()) }
    }

    fn is_first_start(&self) -> bool {
        // What `--auto-tls` has made is no data.
        let is_data =
            |entry: std::io::Result<std::fs::DirEntry>| entry.map_or(true, |entry| entry.file_name() != "fixtures");
        std::fs::read_dir(&self.node.data_dir).map_or(true, |mut entries| !entries.any(is_data))
    }

    /// Fills in the members of a new cluster, if they are to be found by SRV records and there is no data yet.
    ///
    /// # Errors
    /// [`StartError::Config`] with what was not found.
    pub async fn discover(&mut self) -> Result<(), StartError> {
        let first_start = self.is_first_start();
        let Some(discovery) = self.discovery.as_ref().filter(|_| first_start) else { return Ok(()) };
        let node = &mut self.node;
        node.initial_cluster = discovery
            .peers(&node.name, &node.initial_advertise_peer_urls)
            .await
            .map_err(|error| StartError::config(format!("--discovery-srv={}: {error}", discovery.domain)))?;
        for (_, url) in &node.initial_cluster {
            tracing::info!(url, "found a member by its SRV record");
        }
        Ok(())
    }

    /// Checks what only matters for a member that has no data yet: that `--initial-cluster` knows it by name, with the
    /// peer URLs that it advertises. (etcd ignores these flags once there is data.)
    ///
    /// # Errors
    /// [`StartError::Config`] in etcd's words.
    pub fn check_bootstrap(&self) -> Result<(), StartError> {
        let node = &self.node;
        let listed: Vec<&String> =
            node.initial_cluster.iter().filter(|(name, _)| *name == node.name).map(|(_, url)| url).collect();
        if listed.is_empty() {
            return Err(StartError::config(format!(
                "couldn't find local name {:?} in the initial cluster configuration: --initial-cluster must contain --name",
                node.name
            )));
        }
        if self.discovery.is_some() {
            // The records name hosts; which of them is this one, their addresses have told.
            return Ok(());
        }
        let (mut listed, mut advertised) = (listed, node.initial_advertise_peer_urls.iter().collect::<Vec<_>>());
        listed.sort();
        advertised.sort();
        if listed != advertised {
            let expected: Vec<_> =
                node.initial_advertise_peer_urls.iter().map(|url| format!("{}={url}", node.name)).collect();
            return Err(StartError::config(format!(
                "--initial-cluster must include {} given --initial-advertise-peer-urls={}",
                expected.join(","),
                node.initial_advertise_peer_urls.join(",")
            )));
        }
        Ok(())
    }
}

fn choice<T: Copy>(settings: &Settings, name: &str, choices: &[(&str, T)]) -> Result<T, StartError> {
    let text = settings.text(name);
    choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
        StartError::config(format!("--{name}: {text:?} is not one of {}", names.join(", ")))
    })
}

fn check_fixed_choices(settings: &Settings) -> Result<(), StartError> {
    choice(settings, "logger", &[("zap", ())])
}

fn read_feature_gates(settings: &mut Settings) -> Result<(), StartError> {
    for gate in settings.list("feature-gates") {
        let (name, on) = gate.split_once('=').unwrap_or((&gate, ""));
        if !matches!(on, "true" | "false") {
            return Err(StartError::config(format!("--feature-gates: {gate:?} is not Name=true or Name=false")));
        }
        match flags::FEATURE_GATES.iter().find(|(known, _)| *known == name) {
            Some((_, Gate::Inert(why))) => {
                settings.warnings.push(format!("the feature gate {name} changes nothing here: {why}"));
            }
            Some((_, Gate::Flag(flag))) if settings.is_set(flag) => {
                return Err(StartError::config(format!(
                    "cannot specify both flags: --{flag}=(true|false) and --feature-gates={name}=(true|false) at the same \
                     time, please just use --feature-gates={name}=(true|false)"
                )));
            }
            Some((_, Gate::Flag(flag))) => settings.choose(flag, on)?,
            None => {
                let hint = file::nearest(name, flags::FEATURE_GATES.iter().map(|(known, _)| *known));
                let hint = hint.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
                return Err(StartError::config(format!("--feature-gates: unrecognized feature gate: {name}{hint}")));
            }
        }
    }
    Ok(())
}

fn read_auth_token(settings: &Settings) -> Result<TokenKind, StartError> {
    let text = settings.text("auth-token");
    let (kind, options) = text.split_once(',').unwrap_or((text, ""));
    match kind {
        "simple" | "" => Ok(TokenKind::Simple),
        "jwt" => JwtOptions::parse(options, settings::parse_duration)
            .map(TokenKind::Jwt)
            .map_err(|error| StartError::config(format!("--auth-token=jwt: {error}"))),
        _ => Err(StartError::config(format!("--auth-token: {kind:?} is not one of simple, jwt"))),
    }
}

fn read_limits(settings: &Settings) -> Result<Limits, StartError> {
    Ok(Limits {
        request_bytes_max: settings.bytes("max-request-bytes")?,
        connections_max: at_least_one(settings, "max-connections")?,
        requests_max: at_least_one(settings, "max-concurrent-requests")?,
        inflight_bytes_max: settings.bytes("max-inflight-bytes")?,
        answer_bytes_max: settings.bytes("max-answer-bytes")?,
        leases_max: at_least_one(settings, "max-leases")?,
        streams_per_connection_max: settings.integer("max-concurrent-streams")?,
        header_bytes_max: settings.integer("max-header-bytes")?,
        header_read_timeout: settings.duration("header-read-timeout")?,
        keepalive_min_time: settings.duration("grpc-keepalive-min-time")?,
        keepalive_interval: settings.duration("grpc-keepalive-interval")?,
        keepalive_timeout: settings.duration("grpc-keepalive-timeout")?,
        shutdown_timeout: settings.duration("shutdown-timeout")?,
    })
}

fn at_least_one(settings: &Settings, name: &str) -> Result<usize, StartError> {
    match settings.integer(name)? {
        0 => Err(StartError::config(format!("--{name} must be at least 1"))),
        number => Ok(number),
    }
}

fn read_discovery(settings: &Settings) -> Result<Option<Discovery>, StartError> {
    let text = |name: &str| settings.text(name).to_owned();
    if settings.text("discovery-srv").is_empty() {
        return Ok(None);
    }
    if settings.is_set("initial-cluster") {
        return Err(StartError::config(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ));
    }
    Ok(Some(Discovery {
        domain: text("discovery-srv"),
        service_name: text("discovery-srv-name"),
        server: text("discovery-srv-server"),
    }))
}

fn read_node(settings: &Settings) -> Result<Config, StartError> {
    let name = settings.text("name").to_owned();
    let initial_advertise_peer_urls = urls::advertise(settings, "initial-advertise-peer-urls")?;
    let initial_cluster = if settings.is_set("initial-cluster") {
        read_initial_cluster(settings)?
    } else {
        initial_advertise_peer_urls.iter().map(|url| (name.clone(), url.clone())).collect()
    };
    let (heartbeat_interval, election_timeout) = read_ticks(settings)?;
    let wal_dir = settings.text("wal-dir");
    Ok(Config {
        data_dir: settings.text("data-dir").replace("${name}", &name).into(),
        wal_dir: (!wal_dir.is_empty()).then(|| wal_dir.into()),
        listen_peer_urls: urls::listen(settings, "listen-peer-urls")?.into_iter().map(|at| at.to_string()).collect(),
        initial_advertise_peer_urls,
        advertise_client_urls: urls::advertise(settings, "advertise-client-urls")?,
        initial_cluster,
        initial_cluster_state: choice(
            settings,
            "initial-cluster-state",
            &[("new", InitialClusterState::New), ("existing", InitialClusterState::Existing)],
        )?,
        initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
        heartbeat_interval,
        election_timeout,
        pre_vote: settings.boolean("pre-vote")?,
        strict_reconfig_check: settings.boolean("strict-reconfig-check")?,
        force_new_cluster: settings.boolean("force-new-cluster")?,
        learners_max: settings.integer("max-learners")?,
        engine: choice(
            settings,
            "storage-engine",
            &[("redb", EngineKind::Redb), ("sled", EngineKind::Sled), ("memory", EngineKind::Memory)],
        )?,
        engine_cache_bytes: settings.bytes("engine-cache-bytes")?,
        record_cache_bytes: settings.bytes("record-cache-bytes")?,
        tail_bytes_max: settings.bytes("tail-bytes-max")?,
        wal_segment_bytes: settings.integer("wal-segment-bytes")?,
        wal_keep_bytes: settings.integer("wal-keep-bytes")?,
        quota_bytes: settings.integer("quota-backend-bytes")?,
        alarm_sticky: settings.boolean("alarm-sticky")?,
        txn_ops_max: settings.integer("max-txn-ops")?,
        request_bytes_max: settings.bytes("max-request-bytes")?,
        inflight_bytes_max: settings.bytes("max-proposal-bytes")?,
        waiting_max: at_least_one(settings, "max-waiting-requests")?,
        heavy_max: at_least_one(settings, "max-heavy-tasks")?,
        slow_apply: settings.duration("warning-apply-duration")?,
        watch_progress_interval: read_progress_interval(settings)?,
        watch_stream_watchers_max: at_least_one(settings, "max-watchers-per-stream")?,
        watchers_max: at_least_one(settings, "max-watchers")?,
        watch_queue_events_max: at_least_one(settings, "watch-queue-events")?,
        compaction_batch: at_least_one(settings, "compaction-batch-limit")?,
        compaction_pause: settings.duration("compaction-sleep-interval")?,
        initial_corrupt_check_bytes_max: read_initial_corrupt_check(settings)?,
        corrupt_check_interval: settings.duration("corrupt-check-time")?,
        compact_hash_check_interval: read_compact_hash_check(settings)?,
        self_rebuild: settings.boolean("self-rebuild")?,
        scrub_bytes_per_second: settings.bytes("scrub-bytes-per-second")? as u64,
        scrub_interval: settings.duration("scrub-interval")?,
        version_check_interval: read_version_check_interval(settings)?,
        auth_token_ttl: Duration::from_secs(at_least_one(settings, "auth-token-ttl")? as u64),
        auth_tokens_max: at_least_one(settings, "max-auth-tokens")?,
        unsafe_no_fsync: settings.boolean("unsafe-no-fsync")?,
        name,
        ..Config::default()
    })
}

fn read_initial_cluster(settings: &Settings) -> Result<Vec<(String, String)>, StartError> {
    settings
        .list("initial-cluster")
        .into_iter()
        .map(|member| match member.split_once('=') {
            Some((name, url)) if !name.is_empty() => {
                urls::check_advertised("initial-cluster", url)?;
                Ok((name.to_owned(), url.to_owned()))
            }
            _ => Err(StartError::config(format!("--initial-cluster: {member:?} is not name=http://host:port"))),
        })
        .collect()
}

fn read_ticks(settings: &Settings) -> Result<(Duration, Duration), StartError> {
    let heartbeat: u64 = settings.integer("heartbeat-interval")?;
    let election: u64 = settings.integer("election-timeout")?;
    if heartbeat == 0 {
        return Err(StartError::config("--heartbeat-interval must be >0 (set to 0ms)"));
    }
    if election == 0 {
        return Err(StartError::config("--election-timeout must be >0 (set to 0ms)"));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(StartError::config(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        )));
    }
    if election > 50_000 {
        return Err(StartError::config(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
        )));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn read_progress_interval(settings: &Settings) -> Result<Duration, StartError> {
    let interval = settings.duration("watch-progress-notify-interval")?;
    if interval < Duration::from_millis(100) {
        return Err(StartError::config("--watch-progress-notify-interval must be at least 100ms"));
    }
    Ok(interval)
}

fn read_initial_corrupt_check(settings: &Settings) -> Result<u64, StartError> {
    let bytes = settings.bytes("initial-corrupt-check-bytes")?;
    Ok(if settings.boolean("experimental-initial-corrupt-check")? { bytes as u64 } else { 0 })
}

fn read_compact_hash_check(settings: &Settings) -> Result<Duration, StartError> {
    let interval = settings.duration("compact-hash-check-time")?;
    if interval.is_zero() {
        return Err(StartError::config("--compact-hash-check-time must be >0 (set to 0s)"));
    }
    Ok(if settings.boolean("experimental-compact-hash-check-enabled")? { interval } else { Duration::ZERO })
}

fn read_version_check_interval(settings: &Settings) -> Result<Duration, StartError> {
    let interval = settings.duration("downgrade-check-time")?;
    if interval.is_zero() {
        return Err(StartError::config("--downgrade-check-time must be greater than 0"));
    }
    Ok(interval)
}

fn read_auto_compaction(settings: &Settings) -> Result<Option<AutoCompaction>, StartError> {
    let text = settings.text("auto-compaction-retention");
    let bad = |expected: &str| StartError::config(format!("--auto-compaction-retention: {text:?} is not {expected}"));
    let mode = settings.text("auto-compaction-mode");
    Ok(match mode {
        // A bare number is hours, as in etcd.
        "periodic" => {
            let retention = match text.parse::<u64>() {
                Ok(hours) => Duration::from_secs(hours.saturating_mul(3600)),
                Err(_) => settings::parse_duration(text).ok_or_else(|| bad("hours or a duration such as 30m"))?,
            };
            (!retention.is_zero()).then_some(AutoCompaction::Periodic(retention))
        }
        "revision" => {
            let keep: i64 = text.parse().ok().filter(|keep| *keep >= 0).ok_or_else(|| bad("a number of revisions"))?;
            (keep != 0).then_some(AutoCompaction::Revision(keep))
        }
        _ => {
            return Err(StartError::config(format!(
                "--auto-compaction-mode: {mode:?} is not one of periodic, revision"
            )));
        }
    })
}

fn read_log_level(settings: &Settings) -> Result<tracing::Level, StartError> {
    use tracing::Level;
    choice(
        settings,
        "log-level",
        &[
            ("debug", Level::DEBUG),
            ("info", Level::INFO),
            ("warn", Level::WARN),
            ("error", Level::ERROR),
            ("dpanic", Level::ERROR),
            ("panic", Level::ERROR),
            ("fatal", Level::ERROR),
        ],
    )
}

#[cfg(test)]
mod tests;
