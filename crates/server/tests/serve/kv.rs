//! Unary calls: answers, headers, and failures with etcd's codes and texts.

use crate::harness::{outcome, start};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::quorate_v1::MaintenanceProgressRequest;
use quorate_proto::quorate_v1::quorate_client::QuorateClient;
use tonic::Request;

fn put(key: &str, value: impl Into<Vec<u8>>) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.into().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test]
async fn what_was_put_is_read_with_its_revision() {
    let server = start(&[]).await;
    let mut kv = server.kv().await;
    let first = kv.put(put("a", "1")).await.unwrap().into_inner().header.unwrap();
    assert!(first.cluster_id != 0 && first.member_id != 0 && first.raft_term > 0);
    let second = kv.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.unwrap().into_inner();
    assert_eq!(second.header.unwrap().revision, first.revision + 1);
    assert_eq!(second.prev_kv.unwrap().value, "1");
    let read = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!((read.kvs[0].value.as_ref(), read.kvs[0].version, read.count), (&b"2"[..], 2, 1));
    assert_eq!(read.kvs[0].mod_revision, first.revision + 1);
    let deleted = kv.delete_range(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    assert_eq!(deleted.into_inner().deleted, 1);
    server.server.shutdown().await;
}

#[tokio::test]
async fn failures_have_etcds_codes_and_texts() {
    let server = start(&["--max-request-bytes=1000"]).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    assert_eq!(outcome(kv.put(put("", "1")).await), "3 etcdserver: key is not provided");
    assert_eq!(outcome(kv.range(get("")).await), "3 etcdserver: key is not provided");
    let unsorted = pb::RangeRequest { sort_order: 9, ..get("a") };
    assert_eq!(outcome(kv.range(unsorted).await), "3 etcdserver: invalid sort option");
    let future = pb::RangeRequest { revision: 1000, ..get("a") };
    assert_eq!(outcome(kv.range(future).await), "11 etcdserver: mvcc: required revision is a future revision");
    let leased = pb::PutRequest { lease: 77, ..put("a", "1") };
    assert_eq!(outcome(kv.put(leased).await), "5 etcdserver: requested lease not found");
    let ignoring = pb::PutRequest { ignore_value: true, ..put("b", "") };
    assert_eq!(outcome(kv.put(ignoring).await), "3 etcdserver: key not found");
    assert_eq!(outcome(kv.put(put("a", vec![0; 1001])).await), "3 etcdserver: request is too large");
    assert_eq!(
        outcome(kv.put(put("a", vec![0; 600_000])).await),
        "8 grpc: received message larger than max (600007 vs. 525288)"
    );
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_method_that_is_not_there_is_unimplemented() {
    let server = start(&[]).await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    for (path, expected) in [
        ("/etcdserverpb.KV/Nonsense", "12 unknown method Nonsense for service etcdserverpb.KV"),
        ("/no.Such/Lock", "12 unknown service no.Such"),
    ] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<pb::HashRequest, pb::HashResponse>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        assert_eq!(outcome(grpc.unary(Request::new(pb::HashRequest {}), path, codec).await), expected);
    }
    server.server.shutdown().await;
}

#[tokio::test]
async fn cluster_answers_have_no_revision_and_status_is_for_parsers() {
    let server = start(&[]).await;
    let mut cluster = pb::cluster_client::ClusterClient::new(server.channel().await);
    let members = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let header = members.header.unwrap();
    assert_eq!((header.revision, members.members.len()), (0, 1));
    assert_eq!(members.members[0].name, "default");
    let mut maintenance = server.maintenance().await;
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.version.as_str(), status.leader), ("3.6.10", header.member_id));
    assert!(status.errors.is_empty() && status.raft_applied_index > 0);
    assert_eq!(
        outcome(maintenance.downgrade(pb::DowngradeRequest::default()).await),
        "3 etcdserver: wrong downgrade target version format"
    );
    let unknown = pb::DowngradeRequest { action: 9, version: "3.5".into() };
    assert_eq!(outcome(maintenance.downgrade(unknown).await), "2 etcdserver: unknown method");
    let validate = pb::DowngradeRequest { action: 0, version: "3.5".into() };
    assert_eq!(maintenance.downgrade(validate).await.unwrap().into_inner().version, "3.6");
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_range_stream_has_all_keys_once_and_the_totals_at_the_end() {
    let server = start(&[]).await;
    let mut kv = server.kv().await;
    for number in 0..100 {
        kv.put(put(&format!("k{number:03}"), vec![7; 1000])).await.unwrap();
    }
    let request = pb::RangeRequest { range_end: "l".into(), ..get("k") };
    let mut stream = kv.range_stream(request).await.unwrap().into_inner();
    let (mut keys, mut messages, mut last) = (Vec::new(), 0, None);
    while let Some(message) = stream.message().await.unwrap() {
        assert!(last.is_none(), "a message after the totals");
        let part = message.range_response.unwrap();
        keys.extend(part.kvs.iter().map(|kv| kv.key.clone()));
        last = part.header.map(|header| (header.revision, part.count, part.more));
        messages += 1;
    }
    let expected: Vec<_> = (0..100).map(|number| format!("k{number:03}")).collect();
    assert_eq!(keys, expected);
    assert!(messages > 1);
    let (_, count, more) = last.unwrap();
    assert_eq!((count, more), (100, false));
    let sorted = pb::RangeRequest { sort_order: 2, ..get("k") };
    assert_eq!(outcome(kv.range_stream(sorted).await), "12 RangeStream does not support custom sort orders");
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_tells_how_far_it_is() {
    const TXNS: usize = 100;
    let server = start(&[]).await;
    let mut kv = server.kv().await;
    for txn in 0..TXNS {
        let op = |op: usize| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(&format!("{txn}/{op}"), vec![0; 1000]))),
        };
        kv.txn(pb::TxnRequest { success: (0..100).map(op).collect(), ..Default::default() }).await.unwrap();
    }
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let revision = kv.delete_range(all).await.unwrap().into_inner().header.unwrap().revision;
    let compaction = kv.compact(pb::CompactionRequest { revision, physical: true });
    tokio::pin!(compaction);
    let mut quorate = QuorateClient::new(server.channel().await);
    let mut told = Vec::new();
    loop {
        tokio::select! {
            done = &mut compaction => { done.unwrap(); break; }
            progress = quorate.maintenance_progress(MaintenanceProgressRequest {}) => {
                told.extend(progress.unwrap().into_inner().compaction);
            }
        }
    }
    assert!(told.iter().all(|work| work.done <= work.total), "{told:?}");
    assert!(told.iter().any(|work| work.done > 0 && work.done < work.total), "{told:?}");
    server.server.shutdown().await;
}
