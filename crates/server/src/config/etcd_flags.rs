//! Which flags etcd has, and that each is the same here, or changes nothing and says so, or is refused with a reason, on
//! purpose; and that `docs/API.md` tells the same of it.

use super::flags::{self, FLAGS, Flag, Kind, Status};
use super::settings::Settings;
use std::collections::HashSet;
use std::ffi::OsString;

/// Flags of etcd 3.4 to 3.7 that do here what they do there.
const SAME: &str = "
    advertise-client-urls auth-token auth-token-ttl auto-compaction-mode auto-compaction-retention auto-tls cert-file
    cipher-suites client-cert-allowed-hostname client-cert-auth client-cert-file client-crl-file client-key-file
    compact-hash-check-time compaction-batch-limit compaction-sleep-interval config-file corrupt-check-time cors data-dir
    discovery-srv discovery-srv-name downgrade-check-time election-timeout enable-grpc-gateway enable-log-rotation enable-pprof
    experimental-compact-hash-check-enabled experimental-compact-hash-check-time experimental-compaction-batch-limit
    experimental-compaction-sleep-interval experimental-corrupt-check-time experimental-downgrade-check-time
    experimental-initial-corrupt-check experimental-max-learners experimental-memory-mlock
    experimental-peer-skip-client-san-verification experimental-warning-apply-duration
    experimental-warning-unary-request-duration experimental-watch-progress-notify-interval feature-gates force-new-cluster
    grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout heartbeat-interval host-whitelist initial-advertise-peer-urls
    initial-cluster initial-cluster-state initial-cluster-token key-file listen-client-http-urls listen-client-urls
    listen-metrics-urls listen-peer-urls log-format log-level log-outputs log-rotation-config-json logger
    max-concurrent-streams max-learners max-request-bytes max-txn-ops memory-mlock metrics name peer-auto-tls
    peer-cert-allowed-cn peer-cert-allowed-hostname peer-cert-file peer-client-cert-auth peer-client-cert-file
    peer-client-key-file peer-crl-file peer-key-file peer-skip-client-san-verification peer-trusted-ca-file pre-vote
    quota-backend-bytes self-signed-cert-validity socket-reuse-port strict-reconfig-check tls-max-version tls-min-version
    trusted-ca-file unsafe-no-fsync wal-dir warning-apply-duration warning-unary-request-duration
    watch-progress-notify-interval";

/// Those that are accepted and change nothing. The table says why.
const NO_EFFECT: &str = "
    backend-batch-interval backend-batch-limit backend-bbolt-freelist-type bcrypt-cost bootstrap-defrag-threshold-megabytes
    cluster-active-size cluster-remove-delay cluster-sync-interval config debug disable-log-sampling discovery-cacert discovery-cert discovery-dial-timeout discovery-fallback
    discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time discovery-keepalive-timeout
    discovery-key discovery-password discovery-proxy discovery-request-timeout discovery-user distributed-tracing-address
    distributed-tracing-instance-id distributed-tracing-sampling-rate distributed-tracing-service-name
    enable-distributed-tracing enable-v2 experimental-backend-bbolt-freelist-type
    experimental-bootstrap-defrag-threshold-megabytes experimental-distributed-tracing-address
    experimental-distributed-tracing-instance-id experimental-distributed-tracing-sampling-rate
    experimental-distributed-tracing-service-name experimental-enable-distributed-tracing
    experimental-enable-lease-checkpoint experimental-enable-lease-checkpoint-persist experimental-enable-v2v3
    experimental-snapshot-catchup-entries experimental-stop-grpc-service-on-defrag
    experimental-txn-mode-write-with-shared-buffer experimental-wait-cluster-ready-timeout force
    initial-election-tick-advance log-package-levels max-result-buffer max-retry-attempts max-snapshots max-wals
    peer-election-timeout peer-heartbeat-interval proxy-dial-timeout proxy-failure-wait proxy-read-timeout
    proxy-refresh-interval proxy-write-timeout raft-read-timeout raft-write-timeout retry-interval snapshot
    snapshot-catchup-entries snapshot-count socket-reuse-address test.coverprofile test.outputdir v v2-deprecation vv";

/// Those that are refused. To start without what they ask for would be wrong: a member that should have found its cluster
/// would begin one of its own, a proxy would be a member, and watchers of a recovered cluster would see time go back.
const REFUSED: &str = "discovery discovery-endpoints discovery-token force-new-cluster-bump-amount proxy";

/// Those that etcd does not have.
const OURS: &str = "
    alarm-sticky audit-log-max-bytes audit-log-max-files audit-log-path audit-log-queue-bytes audit-log-reads
    audit-log-when-full client-cert-allowed-cn discovery-srv-server engine-cache-bytes header-read-timeout
    initial-corrupt-check-bytes max-answer-bytes max-auth-tokens max-concurrent-requests max-connections max-header-bytes max-heavy-tasks
    max-inflight-bytes max-leases max-login-queue max-proposal-bytes max-waiting-requests max-watchers max-watchers-per-stream
    record-cache-bytes scrub-bytes-per-second scrub-interval self-rebuild shutdown-timeout storage-engine tail-bytes-max
    wal-keep-bytes wal-segment-bytes watch-queue-events";

fn names(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split_whitespace()
}

/// The flag, or the one that it is an old name of.
fn resolved(name: &str) -> &'static Flag {
    let flag = flags::find(name).unwrap_or_else(|| panic!("--{name} is not in the table"));
    match flag.status {
        Status::Alias(of) => flags::find(of).unwrap_or_else(|| panic!("--{of} is not in the table")),
        Status::Used | Status::Inert(_) | Status::Refused { .. } => flag,
    }
}

/// A value that no flag has by default.
fn some_value(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool if flag.default == "true" => "false",
        Kind::Bool => "true",
        Kind::Integer | Kind::Bytes => "7",
        Kind::Duration => "7s",
        Kind::Text | Kind::List => "x",
        Kind::Urls => "http://127.0.0.1:7",
    }
}

/// The warnings, or the error, of one flag alone.
fn read(name: &str, value: &str) -> Result<Vec<String>, String> {
    let args = [OsString::from(format!("--{name}={value}"))];
    Settings::read(args, []).map(|settings| settings.warnings).map_err(|error| error.to_string())
}

#[test]
fn every_flag_is_in_one_class() {
    let mut seen = HashSet::new();
    for name in [SAME, NO_EFFECT, REFUSED, OURS].into_iter().flat_map(names) {
        assert!(seen.insert(name), "--{name} is in two classes");
    }
    let table: HashSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(seen, table);
}

#[test]
fn what_is_the_same_is_used_and_an_old_name_says_so() {
    for name in names(SAME).filter(|name| *name != "config-file") {
        assert_eq!(resolved(name).status, Status::Used, "--{name}");
        let warnings = read(name, some_value(resolved(name))).unwrap();
        let is_alias = resolved(name).name != name;
        assert_eq!(warnings.len(), usize::from(is_alias), "{warnings:?}");
    }
}

#[test]
fn what_changes_nothing_is_accepted_with_one_line() {
    for name in names(NO_EFFECT) {
        let Status::Inert(why) = resolved(name).status else { panic!("--{name} is not inert") };
        let line = format!("--{name} changes nothing here: {why}");
        assert_eq!(read(name, some_value(resolved(name))), Ok(vec![line]), "--{name}");
    }
}

#[test]
fn what_is_refused_says_why_and_what_asks_for_nothing_is_not() {
    for name in names(REFUSED) {
        let Status::Refused { accepts, why } = resolved(name).status else { panic!("--{name} is not refused") };
        assert_eq!(read(name, some_value(resolved(name))), Err(format!("--{name}: {why}")));
        assert_eq!(read(name, accepts), Ok(vec![]), "--{name}");
    }
}

#[test]
fn the_document_tells_the_same_of_every_flag() {
    let document = include_str!("../../../../docs/API.md");
    let start = document.find("## Options of the server").unwrap();
    let options = &document[start..start + document[start..].find("## Commands").unwrap()];
    for (list, states) in [
        (SAME, &["there", "better", "part"][..]),
        (NO_EFFECT, &["no effect"]),
        (REFUSED, &["absent"]),
        // They have a table of their own, which has no column for it.
        (OURS, &[]),
    ] {
        for name in names(list) {
            let flag = flags::find(name).unwrap();
            let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
            let begin = format!("| `--{name}` | {default} | ");
            let row = options.lines().find_map(|line| line.strip_prefix(&begin));
            let row = row.unwrap_or_else(|| panic!("docs/API.md has no row {begin}"));
            let state = row.split(" | ").next().unwrap();
            assert!(states.is_empty() || states.contains(&state), "docs/API.md says of --{name}: {state}");
        }
    }
}
