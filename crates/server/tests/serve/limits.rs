//! Every bound refuses with etcd's text, names its option beside it, and counts.

use crate::harness::{TestServer, start};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

const TOO_MANY: &str = "etcdserver: too many requests";

fn put(bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: "a".into(), value: vec![0; bytes].into(), ..Default::default() }
}

/// The refusal has this code and text, names the option, and the metric counts it.
async fn check<T>(server: &TestServer, outcome: Result<T, Status>, code: Code, text: &str, option: &str) {
    let Err(refusal) = outcome else { panic!("--{option}: it was done") };
    assert_eq!((refusal.code(), refusal.message()), (code, text), "--{option}");
    let named = refusal.metadata().get("quorate-limit").and_then(|name| name.to_str().ok());
    assert_eq!(named, Some(option));
    counts(server, option).await;
}

async fn counts(server: &TestServer, option: &str) {
    let metrics = server.http("GET", "/metrics").await;
    let name = format!("quorate_requests_refused_total{{limit=\"{option}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric");
    assert_ne!(count, "0", "--{option}");
}

#[tokio::test]
async fn one_request() {
    let server = start(&["--max-request-bytes=1000", "--max-txn-ops=2"]).await;
    let mut kv = server.kv().await;
    let large = kv.put(put(2000)).await;
    check(&server, large, Code::InvalidArgument, "etcdserver: request is too large", "max-request-bytes").await;
    let huge = kv.put(put(600_000)).await;
    let text = "grpc: received message larger than max (600007 vs. 525288)";
    check(&server, huge, Code::ResourceExhausted, text, "max-request-bytes").await;
    let op = || pb::RequestOp { request: Some(Request::RequestRange(pb::RangeRequest::default())) };
    let txn = pb::TxnRequest { success: vec![op(), op(), op()], ..Default::default() };
    let text = "etcdserver: too many operations in txn request";
    check(&server, kv.txn(txn).await, Code::InvalidArgument, text, "max-txn-ops").await;
    kv.put(put(100)).await.unwrap();
    server.server.shutdown().await;
}

#[tokio::test]
async fn many_requests() {
    let server = start(&["--max-inflight-bytes=100000", "--max-proposal-bytes=20000", "--max-leases=1"]).await;
    let mut kv = server.kv().await;
    let outcome = kv.put(put(50_000)).await;
    check(&server, outcome, Code::ResourceExhausted, TOO_MANY, "max-proposal-bytes").await;
    let outcome = kv.put(put(200_000)).await;
    check(&server, outcome, Code::ResourceExhausted, TOO_MANY, "max-inflight-bytes").await;
    kv.put(put(1000)).await.unwrap();
    let grant = || pb::LeaseGrantRequest { ttl: 60, id: 0 };
    server.lease().await.lease_grant(grant()).await.unwrap();
    let outcome = server.lease().await.lease_grant(grant()).await;
    check(&server, outcome, Code::ResourceExhausted, TOO_MANY, "max-leases").await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn logins() {
    let server = start(&["--max-login-queue=1"]).await;
    let channel = server.channel().await;
    let adds = (0..8).map(|number| {
        let mut auth = AuthClient::new(channel.clone());
        let request = pb::AuthUserAddRequest { name: format!("u{number}"), password: "x".into(), ..Default::default() };
        tokio::spawn(async move { auth.user_add(request).await })
    });
    let mut refused = Vec::new();
    for add in adds.collect::<Vec<_>>() {
        refused.extend(add.await.unwrap().err());
    }
    // To hash a password takes longer than to ask for it.
    let refusal = refused.pop().expect("one of eight finds the queue full");
    check(&server, Err::<(), _>(refusal), Code::ResourceExhausted, TOO_MANY, "max-login-queue").await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn watchers() {
    let server = start(&["--max-watchers-per-stream=1", "--max-watchers=2"]).await;
    let create = || pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "a".into(),
            ..Default::default()
        })),
    };
    let mut streams = Vec::new();
    for (creates, refused_by) in [(2, Some("max-watchers-per-stream")), (1, None), (1, Some("max-watchers"))] {
        let requests: Vec<_> = std::iter::repeat_with(create).take(creates).collect();
        let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
        let mut answers = server.watch().await.watch(requests).await.unwrap().into_inner();
        let mut last = None;
        for _ in 0..creates {
            last = answers.next().await;
        }
        let last = last.unwrap().unwrap();
        assert_eq!(last.canceled, refused_by.is_some());
        if let Some(option) = refused_by {
            assert!(last.cancel_reason.starts_with(TOO_MANY), "{}", last.cancel_reason);
            assert!(last.cancel_reason.ends_with(&format!("(--{option})")), "{}", last.cancel_reason);
            counts(&server, option).await;
        }
        streams.push(answers);
    }
    server.server.shutdown().await;
}
