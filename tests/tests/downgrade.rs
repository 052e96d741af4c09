//! The way to the minor version before: what is refused, what is answered, and what a member says of it meanwhile.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::etcdserverpb::{DowngradeInfo, DowngradeRequest};
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use tonic::Code;

async fn downgrade(client: &Client, action: DowngradeAction, version: &str) -> Result<String, (Code, String)> {
    let request = DowngradeRequest { action: action.into(), version: version.into() };
    match client.within(client.maintenance().downgrade(request)).await {
        Ok(answer) => Ok(answer.version),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// What a member says: storage version, and the downgrade that is under way.
async fn told(client: &Client) -> (String, DowngradeInfo) {
    let status = client.status().await.expect("a status");
    (status.storage_version, status.downgrade_info.unwrap_or_default())
}

async fn eventually(cluster: &Cluster, expected: (&str, bool, &str)) {
    let (storage, enabled, target) = expected;
    let expected = (storage.to_owned(), DowngradeInfo { enabled, target_version: target.to_owned() });
    let deadline = Instant::now() + PATIENCE;
    for member in cluster.running() {
        let client = cluster.client(member);
        while told(&client).await != expected {
            assert!(Instant::now() < deadline, "m{member}: {:?}, not {expected:?}", told(&client).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downgrade_is_begun_and_cancelled() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).quorate_flag("--downgrade-check-time=1s")).await else {
        return;
    };
    // (Releases of etcd that have this are not among the packages that the tests find.)
    if !cluster.is_quorate() {
        return;
    }
    let client = cluster.client(0);
    let refused = |code: Code, text: &str| Err((code, format!("etcdserver: {text}")));
    let wrong = |text| refused(Code::InvalidArgument, text);
    let not_now = |text| refused(Code::FailedPrecondition, text);
    assert_eq!(downgrade(&client, Validate, "3.5").await, Ok("3.6".into()));
    assert_eq!(downgrade(&client, Validate, "3.5.9").await, Ok("3.6".into()));
    for version in ["3.4", "3.6", "3.7", "2.6", "4.5"] {
        assert_eq!(downgrade(&client, Validate, version).await, wrong("invalid downgrade target version"), "{version}");
    }
    for version in ["", "3", "v3.5", "3.5.0.0"] {
        assert_eq!(
            downgrade(&client, Enable, version).await,
            wrong("wrong downgrade target version format"),
            "{version}"
        );
    }
    assert_eq!(downgrade(&client, Cancel, "").await, not_now("no inflight downgrade job"));
    eventually(&cluster, ("3.6.0", false, "")).await;

    assert_eq!(downgrade(&client, Enable, "3.5").await, Ok("3.6".into()));
    eventually(&cluster, ("3.5.0", true, "3.5.0")).await;
    let other = cluster.client(1);
    assert_eq!(downgrade(&other, Validate, "3.5").await, wrong("invalid downgrade target version"));
    assert_eq!(downgrade(&other, Enable, "3.4").await, not_now("cluster has a downgrade job in progress"));
    client.put("a", "1").await.expect("the cluster serves as before");

    // It is replicated state.
    cluster.kill9(2);
    cluster.restart(2);
    cluster.wait_serving().await;
    eventually(&cluster, ("3.5.0", true, "3.5.0")).await;

    assert_eq!(downgrade(&other, Cancel, "").await, Ok("3.5".into()));
    eventually(&cluster, ("3.6.0", false, "")).await;
    assert_eq!(downgrade(&client, Validate, "3.5").await, Ok("3.6".into()));
}
