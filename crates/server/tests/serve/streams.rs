//! Watches, keep-alives and snapshots.

use crate::harness::{TestServer, outcome, start};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// A client's watch stream.
struct Watch {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn open(server: &TestServer) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let responses = server.watch().await.watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.responses.message().await.unwrap().unwrap()
    }
}

fn key(key: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), ..Default::default() }
}

async fn put(server: &TestServer, key: &'static str, value: Vec<u8>) -> i64 {
    let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    server.kv().await.put(request).await.unwrap().into_inner().header.unwrap().revision
}

#[tokio::test]
async fn a_watcher_is_created_sees_changes_and_is_canceled() {
    let server = start(&[]).await;
    let mut watch = Watch::open(&server).await;
    let created = watch.create(key("a")).await;
    assert!(created.created && created.watch_id == 0 && created.header.unwrap().revision > 0);
    let revision = put(&server, "a", b"1".to_vec()).await;
    let events = watch.next().await;
    assert_eq!((events.watch_id, events.events.len()), (0, 1));
    assert_eq!(events.events[0].kv.as_ref().unwrap().mod_revision, revision);
    watch.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = watch.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, revision));
    watch.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let canceled = watch.next().await;
    assert!(canceled.canceled && canceled.cancel_reason.is_empty());
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_watch_that_cannot_be_is_refused_and_the_stream_goes_on() {
    let server = start(&[]).await;
    let mut watch = Watch::open(&server).await;
    let refused = watch.create(pb::WatchCreateRequest { range_end: "a".into(), ..key("b") }).await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
    assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
    assert!(!watch.create(key("b")).await.canceled);
    server.server.shutdown().await;
}

#[tokio::test]
async fn large_batches_are_cut_into_fragments_on_request() {
    let server = start(&[]).await;
    let value = vec![1; 1_200_000];
    let first = put(&server, "f", value.clone()).await;
    for _ in 0..3 {
        put(&server, "f", value.clone()).await;
    }
    let mut watch = Watch::open(&server).await;
    let created = watch.create(pb::WatchCreateRequest { start_revision: first, fragment: true, ..key("f") }).await;
    assert!(created.created);
    let mut revisions = Vec::new();
    while revisions.len() < 4 {
        let part = watch.next().await;
        assert_eq!(part.events.len(), 1, "two of these values are more than a message may have");
        revisions.push(part.events[0].kv.as_ref().unwrap().mod_revision);
    }
    assert_eq!(revisions, [first, first + 1, first + 2, first + 3]);
    server.server.shutdown().await;
}

#[tokio::test]
async fn keep_alives_are_answered_in_order_and_an_unknown_lease_has_no_time_left() {
    let server = start(&[]).await;
    let mut lease = server.lease().await;
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl), (5, 60));
    let requests = [5, 6, 5].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut answers = lease.lease_keep_alive(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        seen.push((answer.id, answer.ttl));
    }
    assert_eq!(seen, [(5, 60), (6, 0), (5, 60)]);
    let unknown = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 9, keys: true }).await.unwrap();
    assert_eq!((unknown.get_ref().ttl, unknown.get_ref().granted_ttl), (-1, 0));
    let revoke = lease.lease_revoke(pb::LeaseRevokeRequest { id: 9 }).await;
    assert_eq!(outcome(revoke), "5 etcdserver: requested lease not found");
    server.server.shutdown().await;
}

/// Turning authentication on ends no lease that is kept alive, and no watcher that is there; what is asked anew needs a name.
#[tokio::test]
async fn streams_that_are_open_when_authentication_begins_go_on() {
    let server = start(&[]).await;
    let mut lease = server.lease().await;
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await.unwrap();
    let (renewals, requests) = mpsc::channel(4);
    let renew = || async { renewals.send(pb::LeaseKeepAliveRequest { id: 5 }).await.unwrap() };
    renew().await;
    let mut renewed = lease.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
    assert_eq!(renewed.message().await.unwrap().unwrap().ttl, 60);
    let mut watch = Watch::open(&server).await;
    assert!(watch.create(key("a")).await.created);

    let mut auth = pb::auth_client::AuthClient::new(server.channel().await);
    let root = || "root".to_owned();
    let add = pb::AuthUserAddRequest { name: root(), password: "x".into(), ..Default::default() };
    auth.user_add(add).await.unwrap();
    auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: root(), role: root() }).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();

    renew().await;
    assert_eq!(renewed.message().await.unwrap().unwrap().ttl, 60);
    let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 5 }]);
    let nameless = match lease.lease_keep_alive(requests).await {
        Ok(answers) => answers.into_inner().message().await,
        Err(failure) => Err(failure),
    };
    assert_eq!(outcome(nameless), "3 etcdserver: user name is empty");
    let refused = watch.create(key("b")).await;
    assert!(refused.canceled && refused.cancel_reason.contains("user name is empty"), "{refused:?}");
    let request = pb::AuthenticateRequest { name: root(), password: "x".into() };
    let token = auth.authenticate(request).await.unwrap().into_inner().token;
    let mut put = Request::new(pb::PutRequest { key: "a".into(), ..Default::default() });
    put.metadata_mut().insert("token", token.parse().unwrap());
    server.kv().await.put(put).await.unwrap();
    assert_eq!(watch.next().await.events.len(), 1);
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_ends_with_the_hash_of_what_was_sent() {
    let server = start(&[]).await;
    put(&server, "s", vec![1; 100_000]).await;
    let mut parts = server.maintenance().await.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut blobs = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        assert!(part.header.is_none());
        blobs.push(part.blob);
    }
    let hash = blobs.pop().unwrap();
    let mut hasher = Sha256::new();
    blobs.iter().for_each(|blob| hasher.update(blob));
    assert_eq!(hash.as_ref(), hasher.finalize().as_slice());
    server.server.shutdown().await;
}

/// A snapshot that nobody reads keeps what it needs from being removed, for as long as its client is there and no longer.
#[tokio::test]
async fn a_snapshot_ends_with_its_client() {
    let server = start(&[]).await;
    for key in ["a", "b", "c", "d"] {
        for byte in [0, 1] {
            put(&server, key, vec![byte; 1_000_000]).await;
        }
    }
    let mut maintenance = server.maintenance().await;
    let mut parts = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    parts.message().await.unwrap().unwrap();
    let revision = put(&server, "e", vec![]).await;
    let mut kv = server.kv().await;
    let compact = pb::CompactionRequest { revision, physical: true };
    let mut compacting = tokio::spawn(async move { kv.compact(compact).await.map(drop) });
    let still = tokio::time::timeout(Duration::from_millis(500), &mut compacting).await;
    assert!(still.is_err(), "{still:?}: the snapshot reads what is to be removed");
    drop((parts, maintenance));
    let done = tokio::time::timeout(Duration::from_secs(20), compacting).await;
    done.expect("nobody reads the snapshot any more").unwrap().unwrap();
    server.server.shutdown().await;
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let server = start(&[]).await;
    let mut watch = Watch::open(&server).await;
    watch.create(key("a")).await;
    let ((), end) = tokio::join!(server.server.shutdown(), watch.responses.message());
    assert_eq!(outcome(end), "14 etcdserver: server stopped");
}

#[tokio::test]
async fn the_health_service_knows_one_name() {
    use quorate_proto::health::health_client::HealthClient;
    let server = start(&[]).await;
    let mut health = HealthClient::new(server.channel().await);
    let request = |service: &str| quorate_proto::health::HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(request("")).await.unwrap().into_inner().status, 1);
    assert_eq!(outcome(health.check(request("kv")).await), "5 unknown service");
    let mut changes = health.watch(Request::new(request(""))).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    server.server.shutdown().await;
}
