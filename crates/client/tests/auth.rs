//! Users and tokens against a real server.

mod common;

use std::time::Duration;

use common::Cluster;
use quorate_client::{Client, Code, ConnectOptions, Error, PutOptions};
use quorate_proto::authpb::{Permission, permission};
use quorate_proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest,
};
use tokio::time::timeout;

/// A server with authentication, where `app` may read and write `app/`. Returns the client of root too.
async fn guarded(size: usize) -> Option<(Cluster, Client)> {
    guarded_with(size, &[]).await
}

async fn guarded_with(size: usize, flags: &[&str]) -> Option<(Cluster, Client)> {
    let cluster = Cluster::start_with(size, flags).await?;
    // Logging in where there is no authentication yet is no error.
    let root = cluster.client_with(ConnectOptions::new().user("root", "top")).await;
    let auth = root.auth();
    for (name, password) in [("root", "top"), ("app", "secret")] {
        let (name, password) = (name.to_owned(), password.to_owned());
        auth.user_add(AuthUserAddRequest { name: name.clone(), password, ..Default::default() }).await.unwrap();
        auth.role_add(AuthRoleAddRequest { name: name.clone() }).await.unwrap();
        auth.user_grant_role(AuthUserGrantRoleRequest { user: name.clone(), role: name }).await.unwrap();
    }
    let perm_type = permission::Type::Readwrite.into();
    let perm = Permission { perm_type, key: "app/".into(), range_end: "app0".into() };
    auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "app".into(), perm: Some(perm) }).await.unwrap();
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    Some((cluster, root))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_user_logs_in_by_itself() {
    let Some((cluster, root)) = guarded(1).await else { return };
    // The token of root's client dates from before authentication: it has none, and gets one.
    root.put("other", "", None).await.unwrap();

    let app = cluster.client_with(ConnectOptions::new().user("app", "secret")).await;
    app.put("app/a", "1", None).await.unwrap();
    assert!(app.put("other", "1", None).await.unwrap_err().is_permission_denied());

    let nobody = cluster.client().await;
    let error = nobody.get("app/a", None).await.unwrap_err();
    assert_eq!(error.to_string(), "etcdserver: user name is empty");

    let wrong = Client::connect(cluster.urls(), ConnectOptions::new().user("app", "wrong")).await.unwrap_err();
    assert!(matches!(wrong, Error::Rejected { code: Code::InvalidArgument, .. }), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_and_watches_and_leases_go_on() {
    let Some((mut cluster, root)) = guarded(1).await else { return };
    let app = cluster.client_with(ConnectOptions::new().user("app", "secret")).await;
    let mut watch = app.watch("app/a", None).await.unwrap();
    let lease = app.lease_grant(30).await.unwrap();
    let alive = app.lease_keep_alive(lease.id).await.unwrap();
    app.put("app/a", "1", PutOptions::new().lease(lease.id)).await.unwrap();

    // A change of users makes tokens old.
    let request = AuthUserAddRequest { name: "more".into(), password: "x".into(), ..Default::default() };
    root.auth().user_add(request).await.unwrap();
    app.put("app/a", "2", None).await.unwrap();

    // A server that starts anew has forgotten all tokens.
    cluster.kill(0);
    cluster.restart(0).await;
    app.put("app/a", "3", None).await.unwrap();
    let mut values = Vec::new();
    while values.len() < 3 {
        let batch = timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        values.extend(batch.events.into_iter().map(|event| event.kv.value));
    }
    assert_eq!(values, ["1", "2", "3"]);
    let mut second = app.watch("app/b", None).await.unwrap();
    app.put("app/b", "4", None).await.unwrap();
    assert_eq!(second.next().await.unwrap().unwrap().events[0].kv.value, "4");
    assert!(alive.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_allowed_is_refused() {
    let Some((cluster, _root)) = guarded(1).await else { return };
    let app = cluster.client_with(ConnectOptions::new().user("app", "secret")).await;
    let mut allowed = app.watch("app/a", None).await.unwrap();
    let error = app.watch("other", None).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error:?}");
    app.put("app/a", "1", None).await.unwrap();
    assert_eq!(allowed.next().await.unwrap().unwrap().events[0].kv.value, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_ends_the_sessions_of_the_old_one() {
    let Some((cluster, root)) = guarded(1).await else { return };
    let app = cluster.client_with(ConnectOptions::new().user("app", "secret")).await;
    app.put("app/a", "1", None).await.unwrap();
    let request = AuthUserChangePasswordRequest { name: "app".into(), password: "new".into(), ..Default::default() };
    root.auth().user_change_password(request).await.unwrap();
    let error = app.put("app/a", "2", None).await.unwrap_err();
    assert!(error.to_string().contains("authentication failed"), "{error:?}");
    let again = cluster.client_with(ConnectOptions::new().user("app", "new")).await;
    again.put("app/a", "2", None).await.unwrap();
    root.auth().auth_disable(AuthDisableRequest {}).await.unwrap();
    again.put("other", "2", None).await.unwrap();
}

/// Puts until it is done: a leader that goes leaves some outcomes unknown.
async fn put_in_time(client: &Client, value: &str) {
    let attempt = async {
        while let Err(error) = client.put("app/a", value, None).await {
            assert!(!matches!(error, Error::Rejected { .. }), "{error:?}");
        }
    };
    timeout(Duration::from_secs(30), attempt).await.expect("the cluster serves again");
}

/// A token that ends by itself, a change of users, and a leader that goes: calls, watches and leases go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_a_token_expired_or_a_leader_went() {
    let Some((mut cluster, root)) = guarded_with(3, &["--auth-token-ttl=1"]).await else { return };
    let app = cluster.client_with(ConnectOptions::new().user("app", "secret")).await;
    let mut watch = app.watch("app/a", None).await.unwrap();
    let lease = app.lease_grant(20).await.unwrap();
    let alive = app.lease_keep_alive(lease.id).await.unwrap();
    app.put("app/lease", "held", PutOptions::new().lease(lease.id)).await.unwrap();
    app.put("app/a", "1", None).await.unwrap();

    // Streams that are open do not show their token again, so it ends.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    app.put("app/a", "2", None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let mut second = app.watch("app/b", None).await.unwrap();
    app.put("app/b", "x", None).await.unwrap();
    assert_eq!(second.next().await.unwrap().unwrap().events[0].kv.value, "x");

    let request = AuthUserAddRequest { name: "more".into(), password: "x".into(), ..Default::default() };
    root.auth().user_add(request).await.unwrap();
    let leader = cluster.leader_seen_by(ConnectOptions::new().user("root", "top")).await;
    cluster.kill(leader);
    put_in_time(&app, "3").await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|value| *value != "3") {
        let batch = timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| event.kv.value));
    }
    // The last one may have been done more than once.
    seen.dedup();
    assert_eq!(seen, ["1", "2", "3"]);
    assert!(alive.is_alive());
    assert_eq!(app.get("app/lease", None).await.unwrap().kvs.len(), 1);
}
