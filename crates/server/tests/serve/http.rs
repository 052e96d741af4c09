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
