//! Every bound refuses with etcd's text, names its option beside it, and counts; or makes wait.

use crate::harness::{TestServer, outcome, start};
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);
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

/// A client that asks for a large answer and does not read it, on a connection that lives as long as what is returned.
async fn slow_reader(server: &TestServer) -> (h2::RecvStream, h2::client::SendRequest<bytes::Bytes>) {
    let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post("http://x/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let message = pb::RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec();
    let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    body.send_data(framed.into(), true).unwrap();
    (timeout(PATIENCE, response).await.expect("an answer").unwrap().into_body(), client)
}

#[tokio::test]
async fn answers_that_nobody_reads() {
    let server = start(&["--max-answer-bytes=500000"]).await;
    let mut kv = server.kv().await;
    kv.put(put(300_000)).await.unwrap();
    let slow = slow_reader(&server).await;
    let read = || pb::RangeRequest { key: "a".into(), ..Default::default() };
    check(&server, kv.range(read()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    // Small answers, and those to writes, do not wait for anybody.
    kv.range(pb::RangeRequest { keys_only: true, ..read() }).await.unwrap();
    let overwritten = kv.put(pb::PutRequest { prev_kv: true, ..put(800_000) }).await.unwrap().into_inner();
    assert_eq!(overwritten.prev_kv.unwrap().value.len(), 300_000);
    drop(slow);
    // Beyond the bound, but alone.
    until_read(&mut kv, read).await;
    server.server.shutdown().await;
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// A transaction can be refused for its answer as long as it has changed nothing: when it only reads, when its comparison has
/// failed, or before it has begun.
#[tokio::test]
async fn transactions_whose_answers_nobody_reads() {
    let server = start(&["--max-answer-bytes=500000"]).await;
    let mut kv = server.kv().await;
    kv.put(put(300_000)).await.unwrap();
    let read = || op(Request::RequestRange(pb::RangeRequest { key: "a".into(), ..Default::default() }));
    let write = || op(Request::RequestPut(pb::PutRequest { key: "b".into(), ..Default::default() }));
    let written = || pb::RangeRequest { key: "b".into(), ..Default::default() };
    let reads = || pb::TxnRequest { success: vec![read()], ..Default::default() };
    // Versions are not negative.
    let never = pb::Compare {
        target: pb::compare::CompareTarget::Version.into(),
        key: "b".into(),
        target_union: Some(pb::compare::TargetUnion::Version(-1)),
        ..Default::default()
    };
    let fails = || pb::TxnRequest { compare: vec![never.clone()], success: vec![write()], failure: vec![read()] };
    let both = || pb::TxnRequest { success: vec![write(), read()], ..Default::default() };

    let slow = slow_reader(&server).await;
    check(&server, kv.txn(reads()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    check(&server, kv.txn(fails()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    let nested = || pb::TxnRequest { success: vec![op(Request::RequestTxn(fails()))], ..Default::default() };
    check(&server, kv.txn(nested()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    assert_eq!(kv.range(written()).await.unwrap().into_inner().count, 0);
    // There is room when it begins: it is carried out, and answered.
    assert_eq!(kv.txn(both()).await.unwrap().into_inner().responses.len(), 2);
    kv.put(put(800_000)).await.unwrap();
    drop(slow);
    until_read(&mut kv, || pb::RangeRequest { key: "a".into(), ..Default::default() }).await;

    let slow = slow_reader(&server).await;
    let before = kv.range(written()).await.unwrap().into_inner().kvs[0].version;
    check(&server, kv.txn(both()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    let overwrite = pb::PutRequest { prev_kv: true, ..put(1) };
    check(&server, kv.put(overwrite).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    let delete = pb::DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    check(&server, kv.delete_range(delete).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    assert_eq!(kv.range(written()).await.unwrap().into_inner().kvs[0].version, before);
    // What tells nothing goes on.
    let writes = pb::TxnRequest { success: vec![write()], failure: vec![read()], ..Default::default() };
    kv.txn(writes).await.unwrap();
    drop(slow);
    server.server.shutdown().await;
}

/// Waits until a read is not refused.
async fn until_read(kv: &mut KvClient<Channel>, read: impl Fn() -> pb::RangeRequest) {
    let tries = async {
        while kv.range(read()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, tries).await.expect("what was not read has gone with its connection");
}

/// The text of an answer counts until the connection has taken it.
#[tokio::test]
async fn json_answers_that_nobody_reads() {
    use tokio::io::AsyncWriteExt;
    const KEYS: usize = 8;
    let server = start(&["--max-answer-bytes=8300000"]).await;
    let mut kv = server.kv().await;
    for number in 0..KEYS {
        kv.put(pb::PutRequest { key: format!("j{number}").into(), ..put(1_000_000) }).await.unwrap();
    }
    let read = || pb::RangeRequest { key: "j".into(), range_end: "k".into(), ..Default::default() };
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(server.address.parse().unwrap()).await.unwrap();
    let body = r#"{"key":"ag==","range_end":"aw=="}"#;
    let length = body.len();
    let request = format!("POST /v3/kv/range HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
    slow.write_all(request.as_bytes()).await.unwrap();
    let counted = async {
        loop {
            let metrics = server.http("GET", "/metrics").await;
            let value =
                metrics.lines().find_map(|line| line.strip_prefix("quorate_answers_bytes ")).expect("the metric");
            // Base64 is a third longer.
            if value.parse::<f64>().unwrap() > 10_600_000.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("it counts");
    check(&server, kv.range(read()).await, Code::ResourceExhausted, TOO_MANY, "max-answer-bytes").await;
    drop(slow);
    until_read(&mut kv, read).await;
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

/// Asks for the same many times at once, until one is refused.
async fn refused<T, F>(ask: impl Fn() -> F) -> Status
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
{
    for _ in 0..50 {
        let asked: Vec<_> = std::iter::repeat_with(|| tokio::spawn(ask())).take(200).collect();
        let mut refusal = None;
        for answer in asked {
            refusal = answer.await.unwrap().err().or(refusal);
        }
        if let Some(refusal) = refusal {
            return refusal;
        }
    }
    panic!("none is refused")
}

#[tokio::test]
async fn those_that_wait() {
    let server = start(&["--max-waiting-requests=1", "--max-heavy-tasks=1"]).await;
    let (kv, maintenance) = (server.kv().await, server.maintenance().await);
    let reads = || {
        let mut kv = kv.clone();
        async move { kv.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.map(drop) }
    };
    let writes = || {
        let mut kv = kv.clone();
        async move { kv.put(put(1)).await.map(drop) }
    };
    let hashes = || {
        let mut maintenance = maintenance.clone();
        async move { maintenance.hash_kv(pb::HashKvRequest::default()).await.map(drop) }
    };
    for (refusal, option) in [
        (refused(reads).await, "max-waiting-requests"),
        (refused(writes).await, "max-waiting-requests"),
        (refused(hashes).await, "max-heavy-tasks"),
    ] {
        check(&server, Err::<(), _>(refusal), Code::ResourceExhausted, TOO_MANY, option).await;
    }
    for outcome in [reads().await, writes().await, hashes().await] {
        outcome.unwrap();
    }
    server.server.shutdown().await;
}

/// A watch stream without a watcher: it takes a place, and nothing comes. It ends when both ends are dropped.
type Open = (mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>);

async fn open_stream(mut client: WatchClient<Channel>) -> Result<Open, Status> {
    let (requests, receiver) = mpsc::channel(1);
    Ok((requests, client.watch(ReceiverStream::new(receiver)).await?.into_inner()))
}

#[tokio::test]
async fn requests_at_a_time() {
    let server = start(&["--max-concurrent-requests=2"]).await;
    let mut kv = server.kv().await;
    let mut open = Vec::new();
    let refusal = loop {
        match open_stream(server.watch().await).await {
            Ok(stream) => open.push(stream),
            Err(refusal) => break refusal,
        }
        assert!(open.len() <= 2, "a third one is refused");
    };
    drop(open);
    until_done(&mut kv).await;
    check(&server, Err::<(), _>(refusal), Code::ResourceExhausted, TOO_MANY, "max-concurrent-requests").await;
    server.server.shutdown().await;
}

async fn until_done(kv: &mut KvClient<Channel>) {
    let tries = async {
        while kv.put(put(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, tries).await.expect("there is a place again");
}

/// Beyond these two bounds nothing is refused: who comes waits for a place.
#[tokio::test]
async fn streams_of_a_connection() {
    let server = start(&["--max-concurrent-streams=1"]).await;
    let channel = server.channel().await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(put(1)).await.unwrap();
    let stream = open_stream(WatchClient::new(channel)).await.unwrap();
    let mut waiting = tokio::spawn(async move { kv.put(put(1)).await.map(drop) });
    let still = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(still.is_err(), "{still:?}: its connection has a stream");
    assert_eq!(outcome(server.kv().await.put(put(1)).await), "ok", "another connection");
    drop(stream);
    assert_eq!(outcome(timeout(PATIENCE, waiting).await.expect("its turn").unwrap()), "ok");
    server.server.shutdown().await;
}

#[tokio::test]
async fn connections() {
    let server = start(&["--max-connections=2"]).await;
    let two = [server.kv().await, server.kv().await];
    for kv in &two {
        kv.clone().put(put(1)).await.unwrap();
    }
    let address = format!("http://{}", server.address);
    let mut third = tokio::spawn(async move {
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        KvClient::new(channel).put(put(1)).await.map(drop)
    });
    let still = timeout(Duration::from_millis(300), &mut third).await;
    assert!(still.is_err(), "{still:?}: there are two connections");
    drop(two);
    assert_eq!(outcome(timeout(PATIENCE, third).await.expect("its turn").unwrap()), "ok");
    let metrics = server.http("GET", "/metrics").await;
    assert!(metrics.lines().any(|line| line.starts_with("quorate_connections_open ")), "{metrics}");
    server.server.shutdown().await;
}

#[tokio::test]
async fn tokens() {
    let server = start(&["--max-auth-tokens=2"]).await;
    let mut auth = AuthClient::new(server.channel().await);
    let request = pb::AuthUserAddRequest { name: "root".into(), password: "x".into(), ..Default::default() };
    auth.user_add(request).await.unwrap();
    auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let request = pb::AuthenticateRequest { name: "root".into(), password: "x".into() };
        tokens.push(auth.authenticate(request).await.unwrap().into_inner().token);
    }
    let mut outcomes = Vec::new();
    for token in &tokens {
        let mut request = tonic::Request::new(put(1));
        request.metadata_mut().insert("token", token.parse().unwrap());
        outcomes.push(outcome(server.kv().await.put(request).await));
    }
    // The one that was used least ends early: whoever had it logs in again.
    assert_eq!(outcomes, ["16 etcdserver: invalid auth token", "ok", "ok"]);
    server.server.shutdown().await;
}
