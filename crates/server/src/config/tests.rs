//! What a set of flags makes of the configuration, or why it is refused.

use super::*;

fn parse(args: &[&str]) -> Result<ServerConfig, StartError> {
    ServerConfig::parse(args.iter().map(OsString::from), [])
}

fn refused(args: &[&str]) -> String {
    match parse(args).and_then(|config| config.check_bootstrap()) {
        Ok(()) => panic!("{args:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn without_flags_the_node_has_etcds_defaults() {
    let config = parse(&[]).unwrap();
    config.check_bootstrap().unwrap();
    let (node, default) = (&config.node, Config::default());
    macro_rules! same {
        ($($field:ident)*) => {
            $(assert_eq!(node.$field, default.$field, stringify!($field));)*
        };
    }
    same!(name data_dir wal_dir listen_peer_urls initial_advertise_peer_urls advertise_client_urls initial_cluster);
    same!(initial_cluster_state initial_cluster_token heartbeat_interval election_timeout pre_vote learners_max engine);
    same!(strict_reconfig_check engine_cache_bytes record_cache_bytes tail_bytes_max wal_segment_bytes wal_keep_bytes);
    same!(quota_bytes txn_ops_max request_bytes_max inflight_bytes_max write_timeout read_timeout unsafe_no_fsync);
    same!(slow_apply watch_progress_interval watch_queue_events_max compaction_batch compaction_pause);
    same!(self_rebuild scrub_bytes_per_second scrub_interval);
    same!(quota_bytes alarm_sticky initial_corrupt_check_bytes_max corrupt_check_interval compact_hash_check_interval);
    same!(version_check_interval);
    same!(watch_stream_watchers_max watchers_max);
    assert_eq!(config.listen_client.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://localhost:2379"]);
    assert!(config.warnings.is_empty());
}

#[test]
fn a_name_alone_makes_a_cluster_of_one() {
    let config = parse(&["--name=a", "--initial-advertise-peer-urls=http://10.0.0.1:2380"]).unwrap();
    config.check_bootstrap().unwrap();
    assert_eq!(config.node.initial_cluster, [("a".to_owned(), "http://10.0.0.1:2380".to_owned())]);
    assert_eq!(config.node.data_dir.to_str(), Some("a.etcd"));
}

#[test]
fn what_kubeadm_passes_without_tls_is_accepted() {
    let config = parse(&[
        "--name=m",
        "--feature-gates=InitialCorruptCheck=true",
        "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379",
        "--advertise-client-urls=http://10.0.0.1:2379",
        "--listen-peer-urls=http://10.0.0.1:2380",
        "--initial-advertise-peer-urls=http://10.0.0.1:2380",
        "--data-dir=/var/lib/etcd",
        "--snapshot-count=10000",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--watch-progress-notify-interval=5s",
        "--initial-cluster=m=http://10.0.0.1:2380",
        "--initial-cluster-state=existing",
    ])
    .unwrap();
    config.check_bootstrap().unwrap();
    assert_eq!(config.node.watch_progress_interval, Duration::from_secs(5));
    assert_eq!(config.node.initial_cluster_state, InitialClusterState::Existing);
    assert_eq!((config.listen_client.len(), config.listen_metrics.len()), (2, 1));
    assert_eq!(config.node.initial_corrupt_check_bytes_max, 256 << 20);
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn the_corruption_checks_can_be_turned_off_by_flag_and_by_gate() {
    let node = |args: &[&str]| parse(args).unwrap().node;
    let off = node(&["--experimental-initial-corrupt-check=false", "--corrupt-check-time=0s"]);
    assert_eq!((off.initial_corrupt_check_bytes_max, off.corrupt_check_interval), (0, Duration::ZERO));
    let off = node(&["--feature-gates=InitialCorruptCheck=false,CompactHashCheck=false"]);
    assert_eq!((off.initial_corrupt_check_bytes_max, off.compact_hash_check_interval), (0, Duration::ZERO));
    let often = node(&["--experimental-corrupt-check-time=5m", "--compact-hash-check-time=2s"]);
    let minutes = Duration::from_secs(300);
    assert_eq!((often.corrupt_check_interval, often.compact_hash_check_interval), (minutes, Duration::from_secs(2)));
    let twice = ["--experimental-initial-corrupt-check", "--feature-gates=InitialCorruptCheck=true"];
    assert!(parse(&twice).is_err_and(|error| error.to_string().contains("cannot specify both flags")));
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    for (args, text) in [
        (
            &["--listen-client-urls=http://localhost:1"][..],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (
            &["--name=a", "--initial-cluster=b=http://localhost:2380"],
            "couldn't find local name \"a\" in the initial cluster configuration: --initial-cluster must contain --name",
        ),
        (
            &["--initial-cluster=default=http://localhost:9"],
            "--initial-cluster must include default=http://localhost:2380 given --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (&["--initial-cluster=x"], "--initial-cluster: \"x\" is not name=http://host:port"),
        (&["--max-txn-ops=many"], "--max-txn-ops: \"many\" is not a whole number"),
        (&["--max-request-bytes=-1"], "--max-request-bytes: \"-1\" is out of range"),
        (
            &["--quota-backend-bytes=8GB"],
            "--quota-backend-bytes: \"8GB\" is not a number of bytes: digits alone, as 8589934592 for 8 GiB",
        ),
        (&["--max-connections=0"], "--max-connections must be at least 1"),
        (&["--watch-progress-notify-interval=50ms"], "--watch-progress-notify-interval must be at least 100ms"),
        (&["--storage-engine=bolt"], "--storage-engine: \"bolt\" is not one of redb, sled, memory"),
        (&["--feature-gates=Nonsense=true"], "--feature-gates: unrecognized feature gate: Nonsense"),
        (&["--pre-vote=maybe"], "--pre-vote: \"maybe\" is neither true nor false"),
    ] {
        assert_eq!(refused(args), text, "{args:?}");
    }
}

#[test]
fn auto_compaction_takes_hours_durations_and_revisions() {
    for (args, expected) in [
        (&["--auto-compaction-retention=0"][..], None),
        (&["--auto-compaction-retention=1"], Some(AutoCompaction::Periodic(Duration::from_secs(3600)))),
        (&["--auto-compaction-retention=30m"], Some(AutoCompaction::Periodic(Duration::from_secs(1800)))),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"],
            Some(AutoCompaction::Revision(1000)),
        ),
    ] {
        assert_eq!(parse(args).unwrap().auto_compaction, expected, "{args:?}");
    }
}
