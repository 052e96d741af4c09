//! What an operator sees of requests: stages, and the audit log.

use crate::harness::{TestServer, start};
use quorate_proto::etcdserverpb as pb;

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

async fn count_of(server: &TestServer, sample: &str) -> u64 {
    let response = server.http("GET", "/metrics").await;
    let line = response.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("no {sample}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn stages_of_reads_and_writes_are_measured() {
    let server = start(&[]).await;
    let mut kv = server.kv().await;
    for round in 0..5 {
        kv.put(put("a", &round.to_string())).await.unwrap();
        kv.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    }
    for (stage, at_least) in
        [("queue", 5), ("wal", 1), ("replicate", 5), ("apply", 10), ("read_index", 5), ("engine", 10)]
    {
        let count = count_of(&server, &format!("quorate_request_stage_seconds_count{{stage=\"{stage}\"}}")).await;
        assert!(count >= at_least, "{stage}: {count}");
    }
    assert_eq!(count_of(&server, "etcd_server_slow_apply_total").await, 0);
    server.server.shutdown().await;
}

#[tokio::test]
async fn the_audit_log_has_every_request_and_no_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let server = start(&[&format!("--audit-log-path={}", path.display())]).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "s3cret")).await.unwrap();
    kv.put(put("", "s3cret")).await.unwrap_err();
    kv.range(pb::RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() }).await.unwrap();
    let create = pb::WatchCreateRequest { key: "w".into(), ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::iter([request]);
    let mut watch = server.watch().await.watch(requests).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);
    assert_eq!(count_of(&server, "quorate_audit_failing").await, 0);
    server.server.shutdown().await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |method: &str, code: &str, ranges: serde_json::Value| {
        lines.iter().find(|line| line["method"] == method && line["code"] == code && line["ranges"] == ranges)
    };
    let json = |text: &str| serde_json::from_str(text).unwrap();
    let written = find("/etcdserverpb.KV/Put", "OK", json(r#"[{"op": "put", "key": "a"}]"#)).expect("the put");
    assert_eq!(written["revision"], 2);
    assert!(written["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{written}");
    let refused = find("/etcdserverpb.KV/Put", "InvalidArgument", json(r#"[{"op": "put", "key": ""}]"#));
    assert_eq!(refused.expect("the refused put")["error"], "etcdserver: key is not provided");
    let read = r#"[{"op": "range", "key": "a", "range_end": "b"}]"#;
    assert!(find("/etcdserverpb.KV/Range", "OK", json(read)).is_some(), "{text}");
    assert!(find("/etcdserverpb.Watch/Watch", "OK", json(r#"[{"op": "watch", "key": "w"}]"#)).is_some(), "{text}");
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_holds_answers_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let flags = [
        format!("--audit-log-path={}", logs.join("audit.log").display()),
        "--audit-log-queue-bytes=1".to_owned(),
        // Each line begins a new file: that fails while the directory is away.
        "--audit-log-max-bytes=1".to_owned(),
        "--audit-log-reads=false".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = start(&flags).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&logs, &away).unwrap();
    // This one fills the queue, and the next one waits.
    kv.put(put("b", "1")).await.unwrap();
    let waits = kv.put(put("c", "1"));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), waits).await.is_err());
    assert_eq!(count_of(&server, "quorate_audit_failing").await, 1);
    // Reads are not written, and so do not wait.
    kv.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    std::fs::rename(&away, &logs).unwrap();
    kv.put(put("d", "1")).await.unwrap();
    server.server.shutdown().await;
    let files = std::fs::read_dir(&logs).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: String = files.collect();
    for key in ["a", "b", "c", "d"] {
        assert!(text.contains(&format!("\"key\":\"{key}\"")), "{key} in {text}");
    }
}
