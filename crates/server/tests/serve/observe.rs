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
