//! Authentication as clients meet it: who gets in, and what they may do. What is allowed in detail is tested in the core.

use crate::harness::{TestServer, outcome, start};
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

const DENIED: &str = "7 etcdserver: permission denied";
const NO_NAME: &str = "3 etcdserver: user name is empty";
const BAD_TOKEN: &str = "16 etcdserver: invalid auth token";

impl TestServer {
    async fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel().await)
    }

    /// Users root (with its role), ann (reads and writes a/) and bob (nothing); authentication is on.
    async fn with_users(flags: &[&str]) -> Self {
        let server = start(flags).await;
        let mut auth = server.auth().await;
        auth.role_add(pb::AuthRoleAddRequest { name: "ann".into() }).await.unwrap();
        let perm = Some(authpb::Permission { perm_type: 2, key: "a/".into(), range_end: "a0".into() });
        auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "ann".into(), perm }).await.unwrap();
        for (name, role) in [("root", Some("root")), ("ann", Some("ann")), ("bob", None)] {
            let request =
                pb::AuthUserAddRequest { name: name.into(), password: format!("{name}pw"), ..Default::default() };
            auth.user_add(request).await.unwrap();
            if let Some(role) = role {
                let request = pb::AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
                auth.user_grant_role(request).await.unwrap();
            }
        }
        auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        server
    }

    async fn token(&self, name: &str) -> String {
        self.login(name, &format!("{name}pw")).await.unwrap()
    }

    async fn login(&self, name: &str, password: &str) -> Result<String, tonic::Status> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        Ok(self.auth().await.authenticate(request).await?.into_inner().token)
    }

    async fn put(&self, token: Option<&str>, key: &'static str) -> String {
        let put = pb::PutRequest { key: key.into(), ..Default::default() };
        outcome(self.kv().await.put(with(token, put)).await)
    }
}

fn with<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_name_is_needed_and_must_be_proven() {
    let server = TestServer::with_users(&[]).await;
    assert_eq!(server.put(None, "a/1").await, NO_NAME);
    for nonsense in ["x", "x.1", "x.18446744073709551615", "x.99999999999999999999", ".", "a.b.c"] {
        assert_eq!(server.put(Some(nonsense), "a/1").await, BAD_TOKEN, "{nonsense}");
    }
    let failed = "3 etcdserver: authentication failed, invalid user ID or password";
    assert_eq!(outcome(server.login("ann", "wrong").await), failed);
    assert_eq!(outcome(server.login("nobody", "").await), failed);
    let ann = server.token("ann").await;
    assert!(ann.split_once('.').is_some_and(|(letters, index)| letters.len() == 16 && index.parse::<u64>().is_ok()));
    assert_eq!(server.put(Some(&ann), "a/1").await, "ok");
    assert_eq!(server.put(Some(&ann), "b").await, DENIED);
    // The other header, as gateways and jetcd send it.
    let mut request = Request::new(pb::PutRequest { key: "a/2".into(), ..Default::default() });
    request.metadata_mut().insert("authorization", format!("Bearer {ann}").parse().unwrap());
    assert_eq!(outcome(server.kv().await.put(request).await), "ok");
    server.server.shutdown().await;
}

#[tokio::test]
async fn every_method_has_its_rule() {
    let server = TestServer::with_users(&[]).await;
    let (bob, root) = (server.token("bob").await, server.token("root").await);
    let channel = server.channel().await;
    let (mut auth, mut cluster) = (AuthClient::new(channel.clone()), ClusterClient::new(channel));
    let (mut lease, mut maintenance) = (server.lease().await, server.maintenance().await);
    for (who, named, administers) in [(None, NO_NAME, NO_NAME), (Some(&*bob), "ok", DENIED), (Some(&*root), "ok", "ok")]
    {
        assert_eq!(outcome(auth.auth_status(with(who, pb::AuthStatusRequest {})).await), "ok");
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        assert_eq!(outcome(lease.lease_grant(with(who, grant)).await), named);
        assert_eq!(outcome(lease.lease_leases(with(who, pb::LeaseLeasesRequest {})).await), named);
        assert_eq!(outcome(maintenance.status(with(who, pb::StatusRequest {})).await), named);
        assert_eq!(outcome(maintenance.alarm(with(who, pb::AlarmRequest::default())).await), named);
        assert_eq!(outcome(cluster.member_list(with(who, pb::MemberListRequest::default())).await), named);
        let disarm = pb::AlarmRequest { action: 2, alarm: 1, member_id: 1 };
        assert_eq!(outcome(maintenance.alarm(with(who, disarm)).await), administers);
        assert_eq!(outcome(maintenance.hash_kv(with(who, pb::HashKvRequest::default())).await), administers);
        assert_eq!(outcome(maintenance.defragment(with(who, pb::DefragmentRequest {})).await), administers);
        assert_eq!(outcome(maintenance.snapshot(with(who, pb::SnapshotRequest {})).await), administers);
        assert_eq!(outcome(auth.user_list(with(who, pb::AuthUserListRequest {})).await), administers);
        assert_eq!(outcome(auth.role_list(with(who, pb::AuthRoleListRequest {})).await), administers);
        assert_eq!(outcome(auth.auth_enable(with(who, pb::AuthEnableRequest {})).await), administers);
        let see = |name: &str| pb::AuthUserGetRequest { name: name.into() };
        assert_eq!(outcome(auth.user_get(with(who, see("bob"))).await), named);
        assert_eq!(outcome(auth.user_get(with(who, see("ann"))).await), administers);
        let role = pb::AuthRoleGetRequest { role: "ann".into() };
        assert_eq!(outcome(auth.role_get(with(who, role)).await), administers);
    }
    server.server.shutdown().await;
}

/// Locks are kept in keys: whoever may not write them cannot lock.
#[tokio::test]
async fn locks_are_taken_in_the_callers_name() {
    use quorate_proto::v3lockpb::LockRequest;
    use quorate_proto::v3lockpb::lock_client::LockClient;
    let server = TestServer::with_users(&[]).await;
    let (ann, bob) = (server.token("ann").await, server.token("bob").await);
    let mut locks = LockClient::new(server.channel().await);
    let lock = |name: &'static str| LockRequest { name: name.into(), lease: 0 };
    assert_eq!(outcome(locks.lock(with(Some(&ann), lock("a/lock"))).await), "ok");
    assert_eq!(outcome(locks.lock(with(Some(&ann), lock("b"))).await), "2 etcdserver: permission denied");
    assert_eq!(outcome(locks.lock(with(Some(&bob), lock("a/lock"))).await), "2 etcdserver: permission denied");
    assert_eq!(outcome(locks.lock(with(None, lock("a/lock"))).await), "2 etcdserver: user name is empty");
    server.server.shutdown().await;
}

#[tokio::test]
async fn tokens_end_with_their_user_their_password_and_with_authentication() {
    let server = TestServer::with_users(&[]).await;
    let root = server.token("root").await;
    let mut auth = server.auth().await;
    let ann = server.token("ann").await;
    let request =
        pb::AuthUserChangePasswordRequest { name: "ann".into(), password: "new".into(), ..Default::default() };
    auth.user_change_password(with(Some(&root), request)).await.unwrap();
    assert_eq!(server.put(Some(&ann), "a/1").await, BAD_TOKEN);
    let ann = server.login("ann", "new").await.unwrap();
    assert_eq!(server.put(Some(&ann), "a/1").await, "ok");
    let request = pb::AuthUserDeleteRequest { name: "ann".into() };
    auth.user_delete(with(Some(&root), request)).await.unwrap();
    assert_eq!(server.put(Some(&ann), "a/1").await, BAD_TOKEN);
    auth.auth_disable(with(Some(&root), pb::AuthDisableRequest {})).await.unwrap();
    assert_eq!(server.put(None, "z").await, "ok");
    assert_eq!(outcome(server.login("root", "rootpw").await), "9 etcdserver: authentication is not enabled");
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    assert_eq!(server.put(Some(&root), "z").await, BAD_TOKEN);
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_role_that_is_taken_away_counts_at_once() {
    let server = TestServer::with_users(&[]).await;
    let (root, ann) = (server.token("root").await, server.token("ann").await);
    assert_eq!(server.put(Some(&ann), "a/1").await, "ok");
    let request = pb::AuthUserRevokeRoleRequest { name: "ann".into(), role: "ann".into() };
    server.auth().await.user_revoke_role(with(Some(&root), request)).await.unwrap();
    assert_eq!(server.put(Some(&ann), "a/1").await, DENIED);
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_peoples_changes_disturb_no_call_by_a_token() {
    let server = TestServer::with_users(&[]).await;
    let ann = server.token("ann").await;
    let (root, mut roles) = (server.token("root").await, server.auth().await);
    let changes = async {
        for number in 0..100 {
            let role = pb::AuthRoleAddRequest { name: format!("role{number}") };
            roles.role_add(with(Some(&root), role)).await.unwrap();
        }
    };
    let calls = async || {
        let mut kv = server.kv().await;
        for _ in 0..100 {
            let put = pb::PutRequest { key: "a/1".into(), ..Default::default() };
            assert_eq!(outcome(kv.put(with(Some(&ann), put)).await), "ok");
            let range = pb::RangeRequest { key: "a/1".into(), ..Default::default() };
            assert_eq!(outcome(kv.range(with(Some(&ann), range)).await), "ok");
        }
    };
    tokio::join!(changes, calls(), calls(), calls());
    server.server.shutdown().await;
}

#[tokio::test]
async fn watchers_are_refused_one_by_one_and_in_order() {
    let server = TestServer::with_users(&[]).await;
    let ann = server.token("ann").await;
    let create = |key: &'static str, range_end: &'static [u8]| pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        })),
    };
    let requests = vec![create("a/", b"a0"), create("a/", b"\0"), create("b", b""), create("a/x", b"")];
    let stream = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut answers = server.watch().await.watch(with(Some(&ann), stream)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap().unwrap().unwrap();
        assert!(answer.created);
        seen.push((answer.watch_id, answer.canceled, answer.cancel_reason));
    }
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let allowed = |id| (id, false, String::new());
    let refused = || (-1, true, denied.to_owned());
    assert_eq!(seen, [allowed(0), refused(), refused(), allowed(1)]);
    let mut nameless = server.watch().await.watch(tokio_stream::iter([create("a/", b"")])).await.unwrap().into_inner();
    let answer = nameless.next().await.unwrap().unwrap();
    assert_eq!(answer.cancel_reason, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");
    server.server.shutdown().await;
}

/// A stream looks at its token when a watcher is asked for. What it has goes on; what comes then is refused.
#[tokio::test]
async fn a_stream_outlives_its_token_but_gets_no_more_watchers() {
    let server = TestServer::with_users(&["--auth-token-ttl=1"]).await;
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    let ann = server.token("ann").await;
    server.lease().await.lease_grant(with(Some(&ann), grant)).await.unwrap();
    let create = |key: &'static str| pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: key.into(),
            ..Default::default()
        })),
    };
    let (requests, receiver) = mpsc::channel(4);
    let ann = server.token("ann").await;
    let stream = with(Some(&ann), ReceiverStream::new(receiver));
    requests.send(create("a/1")).await.unwrap();
    let mut answers = server.watch().await.watch(stream).await.unwrap().into_inner();
    assert!(!next(&mut answers).await.canceled);
    let (renewals, receiver) = mpsc::channel(4);
    let keep_alive = pb::LeaseKeepAliveRequest { id: 7 };
    renewals.send(keep_alive).await.unwrap();
    let stream = with(Some(&ann), ReceiverStream::new(receiver));
    let mut renewed = server.lease().await.lease_keep_alive(stream).await.unwrap().into_inner();
    assert_eq!(next(&mut renewed).await.ttl, 60);
    // The same over JSON, where the stream of requests goes on as well.
    let mut lines = crate::gateway::Stream::open_as(&server, "/v3/watch", Some(&ann)).await;
    lines.say(r#"{"create_request":{"key":"YS8x"}}"#).await;
    assert!(lines.hear().await.contains(r#""created":true"#));

    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.put(Some(&ann), "a/1").await, BAD_TOKEN);
    requests.send(create("a/2")).await.unwrap();
    let refused = next(&mut answers).await;
    assert!(refused.canceled && refused.watch_id == -1, "{refused:?}");
    assert_eq!(refused.cancel_reason, "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token");
    lines.say(r#"{"create_request":{"key":"YS8y"}}"#).await;
    let line = lines.hear().await;
    assert!(line.contains(r#""canceled":true"#) && line.contains("etcdserver: invalid auth token"), "{line}");
    assert_eq!(server.put(Some(&server.token("ann").await), "a/1").await, "ok");
    assert_eq!(next(&mut answers).await.events.len(), 1, "the first watcher goes on");
    assert!(lines.hear().await.contains(r#""events":[{"kv":{"key":"YS8x""#));
    // Leases are renewed without a look at it: whoever lost its token does not lose its lock while it logs in again.
    renewals.send(keep_alive).await.unwrap();
    assert_eq!(next(&mut renewed).await.ttl, 60);
    server.server.shutdown().await;
}

async fn next<T>(answers: &mut tonic::Streaming<T>) -> T {
    let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await;
    answer.expect("an answer in time").expect("the stream goes on").unwrap()
}

#[tokio::test]
async fn json_web_tokens_are_read_in_one_algorithm_and_follow_changes() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret that nobody guesses, of 64 bytes and more, for HS256......").unwrap();
    let flag = format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=1m", secret.display());
    let server = TestServer::with_users(&[&flag]).await;
    let ann = server.token("ann").await;
    assert_eq!(ann.split('.').count(), 3);
    assert_eq!(server.put(Some(&ann), "a/1").await, "ok");
    assert_eq!(server.put(Some(&ann), "b").await, DENIED);
    // "alg": "none", and the same claims.
    let claims = ann.split('.').nth(1).unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    assert_eq!(server.put(Some(&unsigned), "a/1").await, BAD_TOKEN);
    let root = server.token("root").await;
    let add = |name: &str| pb::AuthRoleAddRequest { name: name.into() };
    // Root goes on with one token; for keys a change means to log in again.
    assert_eq!(outcome(server.auth().await.role_add(with(Some(&root), add("x"))).await), "ok");
    assert_eq!(outcome(server.auth().await.role_add(with(Some(&root), add("y"))).await), "ok");
    assert_eq!(server.put(Some(&ann), "a/1").await, "3 etcdserver: revision of auth store is old");
    let ann = server.token("ann").await;
    assert_eq!(server.put(Some(&ann), "a/1").await, "ok");
    server.server.shutdown().await;
}
