//! What a node needs to know to start. Every limit is here, with its unit in its name.

use crate::StartProgress;
pub use quorate_storage::EngineKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a node without data finds its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialClusterState {
    /// All members of `initial_cluster` start together for the first time.
    #[default]
    New,
    /// The cluster runs already; this member was added to it.
    Existing,
}

/// Told how long each fsync took.
#[derive(Clone)]
pub struct FsyncObserver(pub Arc<dyn Fn(Duration) + Send + Sync>);

impl std::fmt::Debug for FsyncObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FsyncObserver")
    }
}

/// Configuration of one node. `Config::default()` is etcd's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Human-readable name; must be in `initial_cluster`.
    pub name: String,
    /// Directory that this node owns.
    pub data_dir: PathBuf,
    /// Directory of the write-ahead log, if not below `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Where to accept peers: `http://host:port`. Empty: no peer listener (a single embedded node).
    pub listen_peer_urls: Vec<String>,
    /// What this member tells the others to dial. Part of its identity.
    pub initial_advertise_peer_urls: Vec<String>,
    /// What this member tells clients to dial.
    pub advertise_client_urls: Vec<String>,
    /// `(name, peer URL)` of every member at bootstrap; a name with several URLs comes several times.
    pub initial_cluster: Vec<(String, String)>,
    /// New cluster or one that runs.
    pub initial_cluster_state: InitialClusterState,
    /// Keeps clusters apart that would otherwise look the same; part of all ids.
    pub initial_cluster_token: String,
    /// How often the leader tells that it is there.
    pub heartbeat_interval: Duration,
    /// How long without a leader until an election, at least.
    pub election_timeout: Duration,
    /// Ask before standing for election, so that a cut-off member does not disturb the others.
    pub pre_vote: bool,
    /// Refuse a membership change that would cost the quorum.
    pub strict_reconfig_check: bool,
    /// Make this member, which has data, a cluster of one. Carried out once; then ignored until the member was started
    /// without it.
    pub force_new_cluster: bool,
    /// Most learners at a time.
    pub learners_max: usize,
    /// The storage engine.
    pub engine: EngineKind,
    /// Memory of the engine's page cache.
    pub engine_cache_bytes: usize,
    /// Memory of the cache of records that reads hit often.
    pub record_cache_bytes: usize,
    /// Most bytes of records in memory that the engine does not have yet; at the bound, apply waits.
    pub tail_bytes_max: usize,
    /// How often what was written is made durable in the engine. (In the log it is durable before the reply.) Each time, the
    /// next writes wait a little for the disk; a start applies again what was written since the last time.
    pub flush_interval: Duration,
    /// Size of a write-ahead log segment.
    pub wal_segment_bytes: u64,
    /// Log kept for members that lag; beyond it they get a snapshot.
    pub wal_keep_bytes: u64,
    /// Most bytes of rows in the engine before the NOSPACE alarm. 0 is the default: what the disk holds. Negative: no limit.
    pub quota_bytes: i64,
    /// Whether a NOSPACE alarm goes by request only, as in etcd, and not by itself when there is space again.
    pub alarm_sticky: bool,
    /// Most operations in one transaction.
    pub txn_ops_max: usize,
    /// Largest request.
    pub request_bytes_max: usize,
    /// Most bytes of proposals under way at once; beyond it: "too many requests".
    pub inflight_bytes_max: usize,
    /// Most commands of clients that wait to be taken up, and as many reads that wait for the leader; more are refused. At least 1.
    pub waiting_max: usize,
    /// Most hashes, defragmentations and beginnings of snapshots at a time; more are refused. At least 1.
    pub heavy_max: usize,
    /// How long a write may take before its outcome is called unknown (on top of twice the election timeout).
    pub write_timeout: Duration,
    /// How long a linearizable read may wait for a leader.
    pub read_timeout: Duration,
    /// A log entry that takes longer to apply is logged.
    pub slow_apply: Duration,
    /// How often a watch that asked for it hears of progress when nothing happens.
    pub watch_progress_interval: Duration,
    /// Most watchers on one stream.
    pub watch_stream_watchers_max: usize,
    /// Most watchers in all.
    pub watchers_max: usize,
    /// Most events that wait for one slow watcher in memory; beyond it, it re-reads history.
    pub watch_queue_events_max: usize,
    /// Keys that one step of background compaction deletes at most.
    pub compaction_batch: usize,
    /// Pause between two steps of background compaction.
    pub compaction_pause: Duration,
    /// How long a token lives that nobody uses.
    pub auth_token_ttl: Duration,
    /// Most tokens at a time; beyond it, the one that was not used for the longest time ends.
    pub auth_tokens_max: usize,
    /// A member with at most so many bytes of rows compares its data with its peers' before it takes part. 0: never.
    pub initial_corrupt_check_bytes_max: u64,
    /// How often the leader compares the data of all members. Zero: never.
    pub corrupt_check_interval: Duration,
    /// How often it looks whether there was a compaction, and compares them at its revision then. Zero: never.
    pub compact_hash_check_interval: Duration,
    /// Whether this member, if its data are found to be wrong or damaged, stops serving and rebuilds itself from the others.
    /// Otherwise it raises CORRUPT.
    pub self_rebuild: bool,
    /// How fast the scrubber reads again what is on disk. 0: never.
    pub scrub_bytes_per_second: u64,
    /// How long after the beginning of one round of the scrubber the next one begins, at the earliest.
    pub scrub_interval: Duration,
    /// How often the leader looks whether the members have agreed on a version, or on a downgrade.
    pub version_check_interval: Duration,
    /// Never wait for the disk. Loses data in a crash; for tests of others.
    pub unsafe_no_fsync: bool,
    /// Told how long each fsync of the write-ahead log took: for a histogram.
    pub fsync_observer: Option<FsyncObserver>,
    /// Told how long each flush of the storage engine took, which makes durable what was drained to it: for a histogram.
    pub flush_observer: Option<FsyncObserver>,
    /// Tells how far the start is.
    pub start_progress: StartProgress,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: None,
            listen_peer_urls: vec!["http://localhost:2380".into()],
            initial_advertise_peer_urls: vec!["http://localhost:2380".into()],
            advertise_client_urls: vec!["http://localhost:2379".into()],
            initial_cluster: vec![("default".into(), "http://localhost:2380".into())],
            initial_cluster_state: InitialClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            strict_reconfig_check: true,
            force_new_cluster: false,
            learners_max: 1,
            engine: EngineKind::Redb,
            engine_cache_bytes: 32 << 20,
            record_cache_bytes: 32 << 20,
            tail_bytes_max: 32 << 20,
            flush_interval: Duration::from_secs(5),
            wal_segment_bytes: 64 << 20,
            wal_keep_bytes: 64 << 20,
            quota_bytes: 0,
            alarm_sticky: false,
            txn_ops_max: 128,
            request_bytes_max: 1_572_864,
            inflight_bytes_max: 64 << 20,
            waiting_max: 65_536,
            heavy_max: 3,
            write_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            slow_apply: Duration::from_millis(100),
            watch_progress_interval: Duration::from_secs(600),
            watch_stream_watchers_max: 100_000,
            watchers_max: 1_000_000,
            watch_queue_events_max: 1024,
            compaction_batch: 1000,
            compaction_pause: Duration::from_millis(10),
            auth_token_ttl: Duration::from_secs(300),
            auth_tokens_max: 65_536,
            initial_corrupt_check_bytes_max: 256 << 20,
            corrupt_check_interval: Duration::from_secs(3600),
            compact_hash_check_interval: Duration::from_secs(60),
            self_rebuild: true,
            scrub_bytes_per_second: 2 << 20,
            scrub_interval: Duration::from_secs(24 * 3600),
            version_check_interval: Duration::from_secs(5),
            unsafe_no_fsync: false,
            fsync_observer: None,
            flush_observer: None,
            start_progress: StartProgress::default(),
        }
    }
}
