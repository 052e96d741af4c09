//! Plain HTTP on the clients' port.

use crate::harness::start;
use quorate_proto::etcdserverpb as pb;
use std::time::Duration;

fn parts(response: &str) -> (&str, &str) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap(), body)
}

#[tokio::test]
async fn paths_have_etcds_bodies() {
    let server = start(&[]).await;
    for (method, path, line, body) in [
        ("GET", "/version", "200 OK", r#"{"etcdserver":"3.6.10","etcdcluster":"3.6.0","storage":"3.6.0"}"#),
        ("GET", "/health", "200 OK", r#"{"health":"true","reason":""}"#),
        ("GET", "/health?serializable=true&exclude=NOSPACE", "200 OK", r#"{"health":"true","reason":""}"#),
        ("GET", "/livez", "200 OK", "ok\n"),
        ("GET", "/livez?verbose", "200 OK", "[+]serializable_read ok\nok\n"),
        ("GET", "/readyz", "200 OK", "ok\n"),
        ("GET", "/readyz/non_learner?verbose", "200 OK", "[+]non_learner ok\nok\n"),
        ("GET", "/readyz/nonsense", "404 Not Found", "404 page not found\n"),
        ("GET", "/", "404 Not Found", "404 page not found\n"),
        ("OPTIONS", "/health", "200 OK", ""),
        ("POST", "/health", "405 Method Not Allowed", "Method Not Allowed\n"),
    ] {
        let response = server.http(method, path).await;
        assert_eq!(parts(&response), (format!("HTTP/1.1 {line}").as_str(), body), "{method} {path}");
    }
    server.server.shutdown().await;
}

#[tokio::test]
async fn an_alarm_makes_the_member_unhealthy_unless_it_is_excluded() {
    let server = start(&[]).await;
    let node = server.server.node();
    let alarm = quorate_core::Alarm { member: node.header().member_id, kind: quorate_core::AlarmKind::NoSpace };
    node.alarm_set(alarm, true).await.unwrap();
    let response = server.http("GET", "/health").await;
    assert_eq!(
        parts(&response),
        ("HTTP/1.1 503 Service Unavailable", "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n")
    );
    assert_eq!(parts(&server.http("GET", "/health?exclude=NOSPACE").await).0, "HTTP/1.1 200 OK");
    assert_eq!(parts(&server.http("GET", "/readyz").await).0, "HTTP/1.1 200 OK");
    server.server.shutdown().await;
}

#[tokio::test]
async fn flushes_of_the_engine_are_timed() {
    let server = start(&[]).await;
    let put = pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    server.kv().await.put(put).await.unwrap();
    let counted = async {
        loop {
            let response = server.http("GET", "/metrics").await;
            let name = "etcd_disk_backend_commit_duration_seconds_count ";
            let count = response.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
            if count.trim() != "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("a flush");
    server.server.shutdown().await;
}

/// Metrics that etcd's own Grafana dashboard and alert rules (`contrib/mixin`), older ones of the Prometheus operator, and its
/// guide to monitoring ask for, with their types.
const ETCDS: &[(&str, &str)] = &[
    ("etcd_server_has_leader", "gauge"),
    ("etcd_server_is_leader", "gauge"),
    ("etcd_server_id", "gauge"),
    ("etcd_server_leader_changes_seen_total", "counter"),
    ("etcd_server_proposals_committed_total", "gauge"),
    ("etcd_server_proposals_applied_total", "gauge"),
    ("etcd_server_proposals_pending", "gauge"),
    ("etcd_server_proposals_failed_total", "counter"),
    ("etcd_server_quota_backend_bytes", "gauge"),
    ("etcd_server_slow_apply_total", "counter"),
    ("etcd_server_slow_read_indexes_total", "counter"),
    ("etcd_server_read_indexes_failed_total", "counter"),
    ("etcd_server_health_success", "counter"),
    ("etcd_server_health_failures", "counter"),
    ("etcd_server_snapshot_apply_in_progress_total", "gauge"),
    ("etcd_server_version", "gauge"),
    ("etcd_cluster_version", "gauge"),
    ("etcd_disk_wal_fsync_duration_seconds", "histogram"),
    ("etcd_disk_wal_write_bytes_total", "gauge"),
    ("etcd_disk_backend_commit_duration_seconds", "histogram"),
    ("etcd_disk_backend_defrag_duration_seconds", "histogram"),
    ("etcd_disk_backend_snapshot_duration_seconds", "histogram"),
    ("etcd_disk_defrag_inflight", "gauge"),
    ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge"),
    ("etcd_mvcc_put_total", "counter"),
    ("etcd_mvcc_delete_total", "counter"),
    ("etcd_mvcc_range_total", "counter"),
    ("etcd_mvcc_txn_total", "counter"),
    ("etcd_mvcc_hash_duration_seconds", "histogram"),
    ("etcd_mvcc_hash_rev_duration_seconds", "histogram"),
    ("etcd_network_peer_sent_bytes_total", "counter"),
    ("etcd_network_peer_received_bytes_total", "counter"),
    ("etcd_network_peer_sent_failures_total", "counter"),
    ("etcd_network_peer_received_failures_total", "counter"),
    ("etcd_network_peer_round_trip_time_seconds", "histogram"),
    ("etcd_network_active_peers", "gauge"),
    ("etcd_network_disconnected_peers_total", "counter"),
    ("etcd_network_client_grpc_received_bytes_total", "counter"),
    ("etcd_network_client_grpc_sent_bytes_total", "counter"),
    ("etcd_debugging_mvcc_keys_total", "gauge"),
    ("etcd_debugging_mvcc_current_revision", "gauge"),
    ("etcd_debugging_mvcc_compact_revision", "gauge"),
    ("etcd_debugging_mvcc_watcher_total", "gauge"),
    ("etcd_debugging_mvcc_watch_stream_total", "gauge"),
    ("etcd_debugging_mvcc_slow_watcher_total", "gauge"),
    ("etcd_debugging_mvcc_pending_events_total", "gauge"),
    ("etcd_debugging_mvcc_events_total", "counter"),
    ("etcd_debugging_lease_granted_total", "counter"),
    ("etcd_debugging_lease_revoked_total", "counter"),
    ("etcd_debugging_lease_renewed_total", "counter"),
    ("etcd_debugging_server_lease_expired_total", "counter"),
    ("grpc_server_started_total", "counter"),
    ("grpc_server_handled_total", "counter"),
    ("grpc_server_handling_seconds", "histogram"),
    ("grpc_server_msg_received_total", "counter"),
    ("grpc_server_msg_sent_total", "counter"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_virtual_memory_max_bytes", "gauge"),
    ("os_fd_used", "gauge"),
    ("os_fd_limit", "gauge"),
];

#[tokio::test]
async fn etcds_dashboards_and_alerts_find_their_metrics() {
    let server = start(&["--metrics=extensive"]).await;
    let response = server.http("GET", "/metrics").await;
    let missing: Vec<_> = ETCDS
        .iter()
        .map(|(name, kind)| format!("# TYPE {name} {kind}"))
        .filter(|family| !response.lines().any(|line| line == family))
        .collect();
    assert_eq!(missing, <[String; 0]>::default());
    server.server.shutdown().await;
}

#[tokio::test]
async fn metrics_have_each_family_once() {
    let server = start(&["--metrics=extensive"]).await;
    let response = server.http("GET", "/metrics").await;
    let (line, body) = parts(&response);
    assert_eq!(line, "HTTP/1.1 200 OK");
    let families: Vec<_> = body.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut once = families.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), families.len());
    for name in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_mvcc_db_total_size_in_bytes ",
        "etcd_debugging_mvcc_current_revision ",
        "grpc_server_started_total{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Range\"} 0",
        "grpc_server_handling_seconds_bucket{",
        "process_resident_memory_bytes ",
        "etcd_server_version{server_version=\"3.6.10\"} 1",
    ] {
        assert!(body.lines().any(|line| line.starts_with(name)), "{name} is not in\n{body}");
    }
    server.server.shutdown().await;
}

#[tokio::test]
async fn only_names_on_the_whitelist_are_served_without_tls() {
    let server = start(&["--host-whitelist=x,localhost", "--cors=http://ok:80"]).await;
    assert_eq!(parts(&server.http("GET", "/version").await).0, "HTTP/1.1 200 OK");
    server.server.shutdown().await;
    let server = start(&["--host-whitelist=localhost"]).await;
    let response = server.http("GET", "/version").await;
    let (line, body) = parts(&response);
    assert_eq!(line, "HTTP/1.1 421 Misdirected Request");
    assert!(body.contains("\n  - e.g. etcd --host-whitelist \"x\"\n"), "{body}");
    // gRPC is not asked for its name, as in etcd.
    server.kv().await.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    server.server.shutdown().await;
}

#[tokio::test]
async fn debug_tells_of_the_process() {
    let server = start(&[]).await;
    let response = server.http("GET", "/debug/vars").await;
    let vars: serde_json::Value = serde_json::from_str(parts(&response).1).unwrap();
    assert!(vars["cmdline"].is_array() && vars["raft.status"]["term"].as_u64().unwrap() > 0, "{vars}");
    assert_eq!(parts(&server.http("GET", "/debug/pprof/heap").await).0, "HTTP/1.1 404 Not Found");
    server.server.shutdown().await;
    let server = start(&["--enable-pprof"]).await;
    for (path, word) in
        [("/debug/pprof/", "profile"), ("/debug/pprof/heap", "VmRSS"), ("/debug/pprof/tasks", "tasks alive")]
    {
        let response = server.http("GET", path).await;
        assert!(parts(&response).1.contains(word), "{path}: {response}");
    }
    assert_eq!(parts(&server.http("GET", "/debug/pprof/profile?seconds=0").await).0, "HTTP/1.1 400 Bad Request");
    assert_eq!(parts(&server.http("GET", "/debug/pprof/profile?seconds=1").await).0, "HTTP/1.1 200 OK");
    server.server.shutdown().await;
}
