//! Leases end in time, never early, and a new leader knows them.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
};
use quorate_tests::client::{Client, bytes};
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use tokio_stream::StreamExt;

// Leases are kept in memory and written to the engine, which matters after a crash: that runs on every set, the tests of the
// clock in turn.
engine_tests! {
    a_lease_ends_in_time_and_not_early: redb;
    a_lease_that_is_renewed_stays: sled;
    a_lease_survives_its_leader_and_still_ends: redb sled mixed;
    leases_and_their_keys_survive_a_crash_of_all: redb sled mixed;
}

/// What expiry may take beyond the time to live: an election, and a second.
const GRACE: Duration = Duration::from_secs(3);

async fn grant(client: &Client, ttl: i64) -> i64 {
    let answer = client.within(client.lease().lease_grant(LeaseGrantRequest { ttl, id: 0 })).await.expect("a grant");
    assert_eq!(answer.ttl, ttl);
    assert_ne!(answer.id, 0);
    answer.id
}

async fn put_with(client: &Client, key: &str, lease: i64) {
    let put = PutRequest { key: bytes(key), value: bytes("held"), lease, ..PutRequest::default() };
    client.within(client.kv().put(put)).await.expect("a put with a lease");
}

async fn keep_alive(client: &Client, id: i64) -> i64 {
    let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
    let answers = client.within(client.lease().lease_keep_alive(requests)).await;
    let answer = answers.expect("a stream").next().await.expect("an answer").expect("no error");
    answer.ttl
}

/// How long after `since` the key went; it must not within `at_least`, and must within `at_most`.
async fn gone_after(client: &Client, key: &str, since: Instant, at_least: Duration, at_most: Duration) {
    loop {
        let asked = Instant::now();
        let kv = match client.get(key, false).await {
            Ok((_, kv)) => kv,
            // No leader for the moment says nothing of the lease.
            Err(_) if since.elapsed() < at_most => continue,
            Err(status) => panic!("no answer within {at_most:?}: {status}"),
        };
        let (asked, answered) = (asked - since, since.elapsed());
        if kv.is_none() {
            assert!(answered >= at_least, "{key} was gone {answered:?} after its last renewal, not {at_least:?}");
            return;
        }
        assert!(asked <= at_most, "{key} is still there after {asked:?}, not gone within {at_most:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

async fn a_lease_ends_in_time_and_not_early(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    for member in 0..3 {
        let client = cluster.client(member);
        let id = grant(&client, 2).await;
        put_with(&client, "lease/a", id).await;
        put_with(&client, "lease/b", id).await;
        // From before the call: the server may have renewed it at any moment during the call.
        let renewed = Instant::now();
        assert_eq!(keep_alive(&client, id).await, 2);
        let ttl = Duration::from_secs(2);
        gone_after(&client, "lease/a", renewed, ttl, ttl + GRACE).await;
        let (_, other) = client.get("lease/b", false).await.expect("a read");
        assert_eq!(other, None, "both keys go at one revision");
        assert_eq!(keep_alive(&client, id).await, 0, "a lease that ended cannot be renewed");
        let left = LeaseTimeToLiveRequest { id, keys: false };
        assert_eq!(client.within(client.lease().lease_time_to_live(left)).await.expect("an answer").ttl, -1);
    }
}

async fn a_lease_that_is_renewed_stays(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let client = cluster.client(1);
    let id = grant(&client, 2).await;
    put_with(&client, "lease/kept", id).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(keep_alive(&client, id).await, 2);
        let (_, kv) = client.get("lease/kept", false).await.expect("a read");
        assert_eq!(kv.expect("a renewed lease holds its key").lease, id);
    }
    client.within(client.lease().lease_revoke(LeaseRevokeRequest { id })).await.expect("a revoke");
    let (_, kv) = client.get("lease/kept", false).await.expect("a read");
    assert_eq!(kv, None, "a revoked lease takes its key along");
}

async fn a_lease_survives_its_leader_and_still_ends(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    let client = cluster.client((leader + 1) % 3);
    let ttl = Duration::from_secs(5);
    let id = grant(&client, 5).await;
    put_with(&client, "lease/key", id).await;
    let renewed = Instant::now();
    assert_eq!(keep_alive(&client, id).await, 5);

    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.kill9(leader);
    cluster.wait_leader().await;
    // The new leader counts the whole time again, from its election.
    let elected = renewed.elapsed();
    gone_after(&client, "lease/key", renewed, ttl, elected + ttl + GRACE).await;
}

async fn leases_and_their_keys_survive_a_crash_of_all(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let client = cluster.client(0);
    let id = grant(&client, 60).await;
    put_with(&client, "lease/key", id).await;
    cluster.crash_all();
    cluster.wait_serving().await;
    for member in 0..3 {
        let client = cluster.client(member);
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let answer = client.within(client.lease().lease_time_to_live(request)).await.expect("an answer");
        assert_eq!((answer.granted_ttl, answer.keys), (60, vec![bytes("lease/key")]));
        assert!((50..=60).contains(&answer.ttl), "{} s left of 60", answer.ttl);
    }
    client.within(client.lease().lease_revoke(LeaseRevokeRequest { id })).await.expect("a revoke");
    assert_eq!(client.get("lease/key", false).await.expect("a read").1, None);
}
