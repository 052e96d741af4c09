//! The table of every command-line flag: etcd's, and our own. One row decides name, default, kind, section and what
//! becomes of the flag here. Knows nothing of what the values mean; `config` does.
//!
//! Guarantee: a flag of etcd's is used, or said at start to change nothing (with the reason), or refused with what to do
//! instead. None is dropped in silence.

use Kind::{Bool, Bytes, Duration, Integer, List, Text, Urls};
use Section::{Auth, Clustering, Features, Limits, Logging, Member, Monitoring, Security, Storage, Tracing, Unsafe};

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`; the flag alone is `true`.
    Bool,
    /// A whole number.
    Integer,
    /// A number of bytes, never negative.
    Bytes,
    /// Go's notation: `300ms`, `1h30m`.
    Duration,
    /// Texts, separated by commas; in a configuration file also a list.
    List,
    /// URLs, separated by commas; in a configuration file also a list.
    Urls,
}

/// Under which title `--help` shows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// This member.
    Member,
    /// The cluster.
    Clustering,
    /// Storage engine and memory.
    Storage,
    /// Bounds on what clients can use.
    Limits,
    /// Behaviour.
    Features,
    /// TLS and HTTP access.
    Security,
    /// Authentication.
    Auth,
    /// Metrics.
    Monitoring,
    /// Logs.
    Logging,
    /// Distributed tracing.
    Tracing,
    /// What can lose data.
    Unsafe,
}

impl Kind {
    const fn value_name(self) -> &'static str {
        match self {
            Text => "TEXT",
            Bool => "BOOL",
            Integer => "NUMBER",
            Bytes => "BYTES",
            Duration => "DURATION",
            List => "LIST",
            Urls => "URLS",
        }
    }
}

impl Section {
    /// The title in `--help`.
    pub const fn title(self) -> &'static str {
        match self {
            Member => "Member",
            Clustering => "Clustering",
            Storage => "Storage",
            Limits => "Limits",
            Features => "Features",
            Security => "Security",
            Auth => "Authentication",
            Monitoring => "Monitoring",
            Logging => "Logging",
            Tracing => "Distributed tracing",
            Unsafe => "Unsafe",
        }
    }
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what its help says.
    Used,
    /// It is accepted and changes nothing, for the reason given; the log says so at start.
    Inert(&'static str),
    /// It is refused, unless its value is the one that asks for nothing: to start without what it asks for would be wrong.
    Refused {
        /// The value that describes what happens anyway.
        accepts: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
    /// An old name of another flag.
    Alias(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// etcd's default, in text.
    pub default: &'static str,
    /// What a value must look like.
    pub kind: Kind,
    /// Its place in `--help`.
    pub section: Section,
    /// What becomes of it.
    pub status: Status,
    /// One line for `--help`; empty if not shown there.
    pub help: &'static str,
}

const fn used(name: &'static str, default: &'static str, kind: Kind, section: Section, help: &'static str) -> Flag {
    Flag { name, default, kind, section, status: Status::Used, help }
}

const fn inert(name: &'static str, default: &'static str, kind: Kind, section: Section, why: &'static str) -> Flag {
    Flag { name, default, kind, section, status: Status::Inert(why), help: "" }
}

const fn refused(name: &'static str, default: &'static str, kind: Kind, section: Section, why: &'static str) -> Flag {
    Flag { name, default, kind, section, status: Status::Refused { accepts: default, why }, help: "" }
}

const fn alias(name: &'static str, kind: Kind, section: Section, of: &'static str) -> Flag {
    Flag { name, default: "", kind, section, status: Status::Alias(of), help: "" }
}

const DISCOVERY: &str = "there is no discovery through another cluster: use --initial-cluster, or --discovery-srv";
const TRACING: &str = "no traces are made; see --metrics=extensive and --warning-unary-request-duration";
const V2: &str = "there is no v2 store";
const V2_PROXY: &str = "there is no v2 proxy";
const SINCE_ETCD_2: &str = "etcd itself has ignored it since 2.0";
const ENGINE: &str = "it tunes bbolt, which is not the engine here; see --storage-engine";
const LOG_KEPT: &str = "the log is kept by size; see --wal-keep-bytes";

/// Every flag, by section.
pub const FLAGS: &[Flag] = &[
    used("name", "default", Text, Member, "Human-readable name of this member; must be in --initial-cluster"),
    used("data-dir", "${name}.etcd", Text, Member, "Directory that this member owns"),
    used("wal-dir", "", Text, Member, "Directory of the write-ahead log, if not below --data-dir"),
    used("listen-peer-urls", "http://localhost:2380", Urls, Member, "Where to accept other members"),
    used("listen-client-urls", "http://localhost:2379", Urls, Member, "Where to accept clients (gRPC and HTTP)"),
    used(
        "listen-client-http-urls",
        "",
        Urls,
        Member,
        "Where to accept HTTP clients; --listen-client-urls then takes gRPC only",
    ),
    used("heartbeat-interval", "100", Integer, Member, "Milliseconds between two heartbeats of the leader"),
    used("election-timeout", "1000", Integer, Member, "Milliseconds without a leader until an election"),
    used(
        "quota-backend-bytes",
        "0",
        Integer,
        Member,
        "Bytes of rows before the NOSPACE alarm; 0: what the disk holds, negative: no limit",
    ),
    used(
        "alarm-sticky",
        "false",
        Bool,
        Member,
        "A NOSPACE alarm goes by request only, not by itself when there is space",
    ),
    used("max-txn-ops", "128", Integer, Member, "Most operations in one list of a transaction"),
    used("max-request-bytes", "1572864", Bytes, Member, "Largest request"),
    used(
        "max-concurrent-streams",
        "4294967295",
        Integer,
        Member,
        "Most gRPC streams at a time on one connection; never beyond a quarter of --max-concurrent-requests",
    ),
    used("grpc-keepalive-interval", "2h", Duration, Member, "Ping a client that is silent for so long"),
    used("grpc-keepalive-timeout", "20s", Duration, Member, "Close the connection if the ping is not answered"),
    used("grpc-keepalive-min-time", "5s", Duration, Member, "Send away a client that pings more often; 0: none"),
    inert("snapshot-count", "10000", Integer, Member, LOG_KEPT),
    inert("max-snapshots", "5", Integer, Member, "a snapshot is not kept as a file"),
    inert("max-wals", "5", Integer, Member, LOG_KEPT),
    inert("backend-batch-interval", "100ms", Duration, Member, ENGINE),
    inert("backend-batch-limit", "10000", Integer, Member, ENGINE),
    inert("backend-bbolt-freelist-type", "map", Text, Member, ENGINE),
    inert("raft-read-timeout", "5s", Duration, Member, "connections between members are watched by heartbeats"),
    inert("raft-write-timeout", "5s", Duration, Member, "connections between members are watched by heartbeats"),
    inert("initial-election-tick-advance", "true", Bool, Member, "a member that starts waits one election timeout"),
    used("enable-grpc-gateway", "true", Bool, Member, "Serve the API as JSON over HTTP, below /v3/"),
    used("memory-mlock", "false", Bool, Member, "Keep the memory of the process out of swap"),
    inert("socket-reuse-address", "false", Bool, Member, "listeners always set SO_REUSEADDR"),
    used(
        "socket-reuse-port",
        "false",
        Bool,
        Member,
        "Set SO_REUSEPORT: others that set it may listen on the same ports",
    ),
    used("feature-gates", "", List, Member, "Name=true|false, separated by commas"),
    used("config-file", "", Text, Member, "YAML file with all options; flags and variables are then ignored"),
    used(
        "advertise-client-urls",
        "http://localhost:2379",
        Urls,
        Clustering,
        "What this member tells clients to dial; required with --listen-client-urls",
    ),
    used(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        Urls,
        Clustering,
        "What this member tells the others to dial",
    ),
    used(
        "initial-cluster",
        "default=http://localhost:2380",
        List,
        Clustering,
        "name=peer-url of every member, at bootstrap",
    ),
    used("initial-cluster-state", "new", Text, Clustering, "new, or existing for a member that was added to a cluster"),
    used("initial-cluster-token", "etcd-cluster", Text, Clustering, "Keeps clusters apart that look the same"),
    used("strict-reconfig-check", "true", Bool, Clustering, "Refuse a membership change that would cost the quorum"),
    used("pre-vote", "true", Bool, Clustering, "Ask before standing for election"),
    used("auto-compaction-mode", "periodic", Text, Clustering, "periodic, or revision"),
    used(
        "auto-compaction-retention",
        "0",
        Text,
        Clustering,
        "History to keep: hours or a duration (periodic), or a number (revision); 0 turns it off",
    ),
    refused("discovery", "", Text, Clustering, DISCOVERY),
    inert("discovery-cacert", "", Text, Clustering, DISCOVERY),
    inert("discovery-cert", "", Text, Clustering, DISCOVERY),
    inert("discovery-dial-timeout", "2s", Duration, Clustering, DISCOVERY),
    refused("discovery-endpoints", "", List, Clustering, DISCOVERY),
    inert("discovery-fallback", "exit", Text, Clustering, DISCOVERY),
    inert("discovery-insecure-skip-tls-verify", "false", Bool, Clustering, DISCOVERY),
    inert("discovery-insecure-transport", "true", Bool, Clustering, DISCOVERY),
    inert("discovery-keepalive-time", "2s", Duration, Clustering, DISCOVERY),
    inert("discovery-keepalive-timeout", "6s", Duration, Clustering, DISCOVERY),
    inert("discovery-key", "", Text, Clustering, DISCOVERY),
    inert("discovery-password", "", Text, Clustering, DISCOVERY),
    inert("discovery-proxy", "", Text, Clustering, DISCOVERY),
    inert("discovery-request-timeout", "5s", Duration, Clustering, DISCOVERY),
    used(
        "discovery-srv",
        "",
        Text,
        Clustering,
        "Domain whose SRV records name the members, instead of --initial-cluster",
    ),
    used("discovery-srv-name", "", Text, Clustering, "Suffix of the services that the SRV records are of"),
    used(
        "discovery-srv-server",
        "",
        Text,
        Clustering,
        "address:port of the DNS server to ask for them, such as Consul's; the system's by default",
    ),
    refused("discovery-token", "", Text, Clustering, DISCOVERY),
    inert("discovery-user", "", Text, Clustering, DISCOVERY),
    inert("v2-deprecation", "write-only", Text, Clustering, V2),
    inert("enable-v2", "false", Bool, Clustering, V2),
    inert("experimental-enable-v2v3", "", Text, Clustering, V2),
    refused("proxy", "off", Text, Clustering, "there is no v2 proxy, and a member would start in its place"),
    inert("proxy-dial-timeout", "1000", Integer, Clustering, V2_PROXY),
    inert("proxy-failure-wait", "5000", Integer, Clustering, V2_PROXY),
    inert("proxy-read-timeout", "0", Integer, Clustering, V2_PROXY),
    inert("proxy-refresh-interval", "30000", Integer, Clustering, V2_PROXY),
    inert("proxy-write-timeout", "5000", Integer, Clustering, V2_PROXY),
    // Without a value, or with = and any: this is how etcd takes them.
    inert("cluster-active-size", "", Bool, Member, SINCE_ETCD_2),
    inert("cluster-remove-delay", "", Bool, Member, SINCE_ETCD_2),
    inert("cluster-sync-interval", "", Bool, Member, SINCE_ETCD_2),
    inert("force", "", Bool, Member, SINCE_ETCD_2),
    inert("max-result-buffer", "", Bool, Member, SINCE_ETCD_2),
    inert("max-retry-attempts", "", Bool, Member, SINCE_ETCD_2),
    inert("peer-election-timeout", "", Bool, Member, SINCE_ETCD_2),
    inert("peer-heartbeat-interval", "", Bool, Member, SINCE_ETCD_2),
    inert("retry-interval", "", Bool, Member, SINCE_ETCD_2),
    inert("snapshot", "", Bool, Member, SINCE_ETCD_2),
    inert("v", "", Bool, Member, SINCE_ETCD_2),
    inert("vv", "", Bool, Member, SINCE_ETCD_2),
    inert(
        "config",
        "",
        Bool,
        Member,
        "etcd itself has ignored it since 2.0; a configuration file is named by --config-file",
    ),
    inert("test.coverprofile", "", Bool, Member, "it is for etcd's own tests"),
    inert("test.outputdir", "", Bool, Member, "it is for etcd's own tests"),
    used("storage-engine", "redb", Text, Storage, "redb, sled or memory (keeps nothing)"),
    used("engine-cache-bytes", "33554432", Bytes, Storage, "Memory of the engine's page cache"),
    used("record-cache-bytes", "33554432", Bytes, Storage, "Memory of the cache of records that reads hit often"),
    used(
        "tail-bytes-max",
        "33554432",
        Bytes,
        Storage,
        "Most bytes that wait in memory for the engine; then writes wait",
    ),
    used("wal-segment-bytes", "67108864", Bytes, Storage, "Size of one file of the write-ahead log"),
    used("wal-keep-bytes", "67108864", Bytes, Storage, "Log kept for members that lag; beyond it they get a snapshot"),
    used("max-connections", "16384", Integer, Limits, "Most client connections; more wait to be accepted"),
    used("max-concurrent-requests", "65536", Integer, Limits, "Most requests and streams at a time; more are refused"),
    used("max-watchers-per-stream", "100000", Integer, Limits, "Most watchers on one stream; more are refused"),
    used("max-watchers", "1000000", Integer, Limits, "Most watchers on this member; more are refused"),
    used("max-leases", "1000000", Integer, Limits, "Most leases; more are refused"),
    used("max-inflight-bytes", "268435456", Bytes, Limits, "Most bytes of requests being read and carried out"),
    used("max-answer-bytes", "268435456", Bytes, Limits, "Most bytes of large answers that wait to be sent"),
    used("max-proposal-bytes", "67108864", Bytes, Limits, "Most bytes of writes under way; more are refused"),
    used(
        "max-waiting-requests",
        "65536",
        Integer,
        Limits,
        "Most writes that wait to be taken up, and as many reads that wait for the leader; more are refused",
    ),
    used(
        "max-heavy-tasks",
        "3",
        Integer,
        Limits,
        "Most hashes, defragmentations and beginnings of snapshots at a time; more are refused",
    ),
    used("max-header-bytes", "65536", Bytes, Limits, "Largest header list of one request"),
    used(
        "header-read-timeout",
        "10s",
        Duration,
        Limits,
        "How long a new connection may take until its first request, or its HTTP/2 settings",
    ),
    used(
        "watch-queue-events",
        "1024",
        Integer,
        Limits,
        "Most events that wait for one slow watcher; then it re-reads history",
    ),
    used("shutdown-timeout", "5s", Duration, Limits, "How long requests may take to finish at shutdown"),
    used(
        "watch-progress-notify-interval",
        "10m",
        Duration,
        Features,
        "How often an idle watch that asked for it hears of progress",
    ),
    used("compaction-batch-limit", "1000", Integer, Features, "Keys that one step of compaction deletes at most"),
    used("compaction-sleep-interval", "10ms", Duration, Features, "Pause between two steps of compaction"),
    used("max-learners", "1", Integer, Features, "Most learners at a time"),
    inert("bootstrap-defrag-threshold-megabytes", "0", Integer, Features, "the engine reuses space by itself"),
    used(
        "compact-hash-check-time",
        "1m",
        Duration,
        Features,
        "How often the leader looks for a compaction at which to compare the data of the members",
    ),
    used(
        "corrupt-check-time",
        "1h",
        Duration,
        Features,
        "How often the leader compares the data of all members; 0s: never",
    ),
    used("downgrade-check-time", "5s", Duration, Features, "How often the leader looks how far a downgrade is"),
    used(
        "peer-skip-client-san-verification",
        "false",
        Bool,
        Features,
        "Let members dial from addresses that their certificates are not for",
    ),
    inert("snapshot-catchup-entries", "5000", Integer, Features, LOG_KEPT),
    used("warning-apply-duration", "100ms", Duration, Features, "Log an entry that takes longer to apply"),
    used(
        "auto-tls",
        "false",
        Bool,
        Security,
        "Serve https clients with a certificate made at start, if there is no --cert-file",
    ),
    used("cert-file", "", Text, Security, "Certificate (PEM) to serve https clients with, intermediate ones after it"),
    used(
        "cipher-suites",
        "",
        List,
        Security,
        "Suites of TLS 1.2 that may be used, by Go's names; all safe ones without",
    ),
    used(
        "client-cert-allowed-hostname",
        "",
        List,
        Security,
        "Accept clients whose certificates are for one of these hosts only",
    ),
    used(
        "client-cert-allowed-cn",
        "",
        List,
        Security,
        "Accept clients with one of these common names only; etcd takes it from a configuration file",
    ),
    used(
        "client-cert-auth",
        "false",
        Bool,
        Security,
        "Ask https clients for certificates; their common names are users",
    ),
    used("client-cert-file", "", Text, Security, "Checked for its pair only: this member dials no client port"),
    used("client-crl-file", "", Text, Security, "Revoked certificates of clients"),
    used("client-key-file", "", Text, Security, "Checked for its pair only"),
    used("cors", "*", List, Security, "Origins of web pages that may read answers to plain HTTP; * for all"),
    used("host-whitelist", "*", List, Security, "Names under which plain HTTP without TLS is served; * for all"),
    used("key-file", "", Text, Security, "Its key (PEM)"),
    used(
        "peer-auto-tls",
        "false",
        Bool,
        Security,
        "Speak TLS with members by certificates made at start; nobody is verified",
    ),
    used("peer-cert-allowed-cn", "", List, Security, "Accept members with one of these common names only"),
    used(
        "peer-cert-allowed-hostname",
        "",
        List,
        Security,
        "Accept members whose certificates are for one of these hosts only",
    ),
    used("peer-cert-file", "", Text, Security, "Certificate (PEM) of this member for https peer URLs"),
    used("peer-client-cert-auth", "false", Bool, Security, "Ask members that dial for certificates"),
    used("peer-client-cert-file", "", Text, Security, "Certificate to dial members with, if not --peer-cert-file"),
    used("peer-client-key-file", "", Text, Security, "Its key"),
    used("peer-crl-file", "", Text, Security, "Revoked certificates of members"),
    used("peer-key-file", "", Text, Security, "Its key (PEM)"),
    used("peer-trusted-ca-file", "", Text, Security, "Authorities whose certificates members must show"),
    used(
        "self-signed-cert-validity",
        "1",
        Integer,
        Security,
        "Years for which --auto-tls and --peer-auto-tls make certificates",
    ),
    used("tls-max-version", "", Text, Security, "TLS1.2 or TLS1.3; the newest without"),
    used("tls-min-version", "TLS1.2", Text, Security, "TLS1.2 or TLS1.3"),
    used("trusted-ca-file", "", Text, Security, "Authorities whose certificates https clients must show"),
    used("auth-token", "simple", Text, Auth, "simple, or jwt,pub-key=FILE,priv-key=FILE,sign-method=RS256,ttl=5m"),
    used("auth-token-ttl", "300", Integer, Auth, "Seconds that a simple token lives that nobody uses"),
    inert(
        "bcrypt-cost",
        "10",
        Integer,
        Auth,
        "passwords are hashed by argon2id; imported bcrypt hashes keep their cost",
    ),
    used("max-auth-tokens", "65536", Integer, Auth, "Most simple tokens; beyond it the least used ones end early"),
    used(
        "max-login-queue",
        "256",
        Integer,
        Auth,
        "Most passwords being hashed or verified or waiting for it; more are refused",
    ),
    used("listen-metrics-urls", "", Urls, Monitoring, "Where else to serve /metrics and the health endpoints"),
    used("metrics", "basic", Text, Monitoring, "basic, or extensive (adds gRPC latency histograms)"),
    used("enable-pprof", "false", Bool, Monitoring, "Serve profiles and memory figures below /debug/pprof"),
    used("log-level", "info", Text, Logging, "debug, info, warn, error (or panic, fatal: as error)"),
    used("log-format", "json", Text, Logging, "json, or text (alias: console)"),
    used("log-outputs", "default", List, Logging, "default or stderr, stdout, systemd/journal (as stderr), or files"),
    inert("debug", "false", Bool, Logging, "use --log-level=debug"),
    inert("disable-log-sampling", "false", Bool, Logging, "the log is not sampled"),
    inert("log-package-levels", "", Text, Logging, "use --log-level"),
    used("logger", "zap", Text, Logging, "Only zap, etcd's name for its structured logger"),
    used("warning-unary-request-duration", "300ms", Duration, Logging, "Log a request that takes longer"),
    used(
        "audit-log-path",
        "",
        Text,
        Logging,
        "File for one JSON line per request: who, what, which keys, which outcome",
    ),
    used("audit-log-reads", "true", Bool, Logging, "Whether the audit log has reads, too"),
    used("audit-log-max-bytes", "104857600", Bytes, Logging, "Size at which the audit log begins a new file"),
    used("audit-log-max-files", "10", Integer, Logging, "Older files of the audit log that are kept"),
    used("audit-log-queue-bytes", "16777216", Bytes, Logging, "Most bytes that wait to be written to the audit log"),
    used(
        "audit-log-when-full",
        "wait",
        Text,
        Logging,
        "When they are reached: wait (answers wait) or drop (lines are lost, and counted)",
    ),
    used("enable-log-rotation", "false", Bool, Logging, "Begin a new log file by size; needs a file in --log-outputs"),
    used(
        "log-rotation-config-json",
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        Text,
        Logging,
        "For --enable-log-rotation: MiB of a file, days and number of older ones (0: all)",
    ),
    inert("enable-distributed-tracing", "false", Bool, Tracing, TRACING),
    inert("distributed-tracing-address", "localhost:4317", Text, Tracing, TRACING),
    inert("distributed-tracing-instance-id", "", Text, Tracing, TRACING),
    inert("distributed-tracing-sampling-rate", "0", Integer, Tracing, TRACING),
    inert("distributed-tracing-service-name", "etcd", Text, Tracing, TRACING),
    used("unsafe-no-fsync", "false", Bool, Unsafe, "Never wait for the disk: a crash loses data"),
    used(
        "force-new-cluster",
        "false",
        Bool,
        Unsafe,
        "Make this member a cluster of one, after the others are lost; done once, then ignored",
    ),
    refused(
        "force-new-cluster-bump-amount",
        "0",
        Integer,
        Unsafe,
        "nothing that this member had is dropped; to set the revision ahead, `snapshot save`, then `snapshot restore`",
    ),
    alias("experimental-backend-bbolt-freelist-type", Text, Member, "backend-bbolt-freelist-type"),
    alias(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Integer,
        Features,
        "bootstrap-defrag-threshold-megabytes",
    ),
    used(
        "experimental-compact-hash-check-enabled",
        "true",
        Bool,
        Features,
        "Compare the data of the members after each compaction",
    ),
    alias("experimental-compact-hash-check-time", Duration, Features, "compact-hash-check-time"),
    alias("experimental-compaction-batch-limit", Integer, Features, "compaction-batch-limit"),
    alias("experimental-compaction-sleep-interval", Duration, Features, "compaction-sleep-interval"),
    alias("experimental-corrupt-check-time", Duration, Features, "corrupt-check-time"),
    alias("experimental-distributed-tracing-address", Text, Tracing, "distributed-tracing-address"),
    alias("experimental-distributed-tracing-instance-id", Text, Tracing, "distributed-tracing-instance-id"),
    alias("experimental-distributed-tracing-sampling-rate", Integer, Tracing, "distributed-tracing-sampling-rate"),
    alias("experimental-distributed-tracing-service-name", Text, Tracing, "distributed-tracing-service-name"),
    alias("experimental-downgrade-check-time", Duration, Features, "downgrade-check-time"),
    alias("experimental-enable-distributed-tracing", Bool, Tracing, "enable-distributed-tracing"),
    inert(
        "experimental-enable-lease-checkpoint",
        "false",
        Bool,
        Features,
        "leases are checkpointed by the node itself",
    ),
    inert(
        "experimental-enable-lease-checkpoint-persist",
        "false",
        Bool,
        Features,
        "leases are checkpointed by the node itself",
    ),
    used(
        "experimental-initial-corrupt-check",
        "true",
        Bool,
        Features,
        "Compare the data with the peers' before taking part, see --initial-corrupt-check-bytes",
    ),
    used(
        "initial-corrupt-check-bytes",
        "268435456",
        Bytes,
        Features,
        "More bytes of rows are not compared before taking part: it would take long. The leader compares them later",
    ),
    used(
        "self-rebuild",
        "true",
        Bool,
        Features,
        "A member whose data are damaged, or differ from a majority's, rebuilds itself from the others; false: CORRUPT alone",
    ),
    used(
        "scrub-bytes-per-second",
        "2097152",
        Bytes,
        Features,
        "How fast what is on disk is read again, to find damage early; 0: never",
    ),
    used("scrub-interval", "24h", Duration, Features, "From the beginning of one reading of all to the next, at least"),
    alias("experimental-max-learners", Integer, Features, "max-learners"),
    alias("experimental-memory-mlock", Bool, Member, "memory-mlock"),
    alias("experimental-peer-skip-client-san-verification", Bool, Features, "peer-skip-client-san-verification"),
    alias("experimental-snapshot-catchup-entries", Integer, Features, "snapshot-catchup-entries"),
    inert("experimental-stop-grpc-service-on-defrag", "false", Bool, Features, "defragmentation is online"),
    inert(
        "experimental-txn-mode-write-with-shared-buffer",
        "true",
        Bool,
        Features,
        "transactions have no read buffer to share",
    ),
    alias("experimental-warning-apply-duration", Duration, Features, "warning-apply-duration"),
    alias("experimental-warning-unary-request-duration", Duration, Logging, "warning-unary-request-duration"),
    inert(
        "experimental-wait-cluster-ready-timeout",
        "5s",
        Duration,
        Features,
        "clients are served once the member is ready, however long that takes",
    ),
    alias("experimental-watch-progress-notify-interval", Duration, Features, "watch-progress-notify-interval"),
];

/// What becomes of a feature gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It is another name of a flag.
    Flag(&'static str),
    /// It changes nothing, for the reason given; the log says so at start.
    Inert(&'static str),
}

/// The feature gates of etcd that `--feature-gates` takes.
pub const FEATURE_GATES: &[(&str, Gate)] = &[
    ("StopGRPCServiceOnDefrag", Gate::Inert("defragmentation is online")),
    ("InitialCorruptCheck", Gate::Flag("experimental-initial-corrupt-check")),
    ("CompactHashCheck", Gate::Flag("experimental-compact-hash-check-enabled")),
    ("TxnModeWriteWithSharedBuffer", Gate::Inert("transactions have no read buffer to share")),
    ("LeaseCheckpoint", Gate::Inert("leases are checkpointed by the node itself")),
    ("LeaseCheckpointPersist", Gate::Inert("leases are checkpointed by the node itself")),
    ("SetMemberLocalAddr", Gate::Inert("the operating system chooses the local address")),
    ("FastLeaseKeepAlive", Gate::Inert("keep-alives do not wait for the log")),
    ("PriorityRequest", Gate::Inert("requests are not ranked")),
    ("NonBlockingDefrag", Gate::Inert("defragmentation is online")),
];

/// The row of a flag, by its name without dashes.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The `server` subcommand for clap: every flag, grouped by section. Values stay text; [`crate::ServerConfig`] reads them.
pub fn command() -> clap::Command {
    let mut command = clap::Command::new("server")
        .about("Run a member of a cluster")
        .long_about(
            "Run a member of a cluster.\n\nEvery flag is also read from QUORATE_<NAME> and ETCD_<NAME>, upper case, '-' as '_'. \
             The flag beats QUORATE_, which beats ETCD_. A flag may start with one dash or two.",
        )
        .display_name("quorate")
        .version(crate::version::LONG)
        .disable_help_subcommand(true);
    for flag in FLAGS {
        let mut arg = clap::Arg::new(flag.name)
            .long(flag.name)
            .value_name(flag.kind.value_name())
            .help_heading(flag.section.title())
            .overrides_with(flag.name)
            .hide(flag.help.is_empty())
            .allow_hyphen_values(true);
        if flag.kind == Bool {
            arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        }
        let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
        command = command.arg(arg.help(format!("{}{default}", flag.help)));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_aliases_lead_to_a_flag_of_the_same_kind() {
        let mut names = HashSet::new();
        for flag in FLAGS {
            assert!(names.insert(flag.name), "--{} is there twice", flag.name);
            if let Status::Alias(of) = flag.status {
                let target = find(of).expect(of);
                assert_eq!(target.kind, flag.kind, "--{}", flag.name);
                assert!(!matches!(target.status, Status::Alias(_)), "--{} leads to an alias", flag.name);
            }
        }
    }

    #[test]
    fn a_used_flag_has_help() {
        for flag in FLAGS {
            assert_eq!(flag.status == Status::Used, !flag.help.is_empty(), "--{}", flag.name);
        }
    }

    #[test]
    fn clap_accepts_the_table() {
        command().debug_assert();
    }
}
