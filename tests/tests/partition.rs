//! Cut links between members that otherwise run. Every member has a network namespace of its own; the clients reach all.

use std::time::{Duration, Instant};

use quorate_checker::register::assert_linearizable;
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};

// The engines have no part in this, so the tests take the sets in turn.
engine_tests! {
    a_minority_refuses_what_needs_a_quorum: redb;
    the_leader_is_cut_off_under_load: sled;
    links_break_in_one_direction_under_load: mixed;
    a_chain_of_three_goes_on: redb;
}

/// From the end of the fault until everybody serves again.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

async fn assert_heals(cluster: &Cluster) {
    let healed = Instant::now();
    cluster.wait_serving().await;
    assert!(healed.elapsed() < HEALED_WITHIN, "not everybody served again within {HEALED_WITHIN:?}");
}

async fn a_minority_refuses_what_needs_a_quorum(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines).in_namespaces()).await else { return };
    let alone = cluster.wait_leader().await;
    let others = [(alone + 1) % 3, (alone + 2) % 3];
    cluster.client(alone).put("key", "before").await.expect("a put");
    cluster.links().split(&[alone], &others).expect("a cut");

    // The others elect one of their own; the old leader is cut off, but its clients are not.
    let deadline = Instant::now() + HEALED_WITHIN;
    let client = cluster.client(others[0]);
    while let Err(status) = client.put("key", "after").await {
        assert!(Instant::now() < deadline, "the majority does not write: {status}");
    }
    let minority = Client::new(&cluster.endpoint(alone), Duration::from_secs(4));
    let read = minority.get("key", false).await;
    assert!(read.is_err(), "the minority answered a linearizable read: {read:?}");
    let write = minority.put("key", "lost").await;
    assert!(write.is_err(), "the minority acknowledged a write: {write:?}");
    let (_, kv) = minority.get("key", true).await.expect("a serializable read needs nobody");
    if cluster.is_quorate() {
        assert_eq!(minority.status().await.expect("a status needs nobody").errors, ["etcdserver: no leader"]);
        assert!(cluster.log(alone).contains("there is no leader that a majority follows"), "its log does not say so");
        assert!(cluster.log(others[0]).contains("a leader was elected"), "the log of the others does not say so");
    }
    assert_eq!(kv.expect("the key is there").value, "before");

    cluster.links().heal().expect("mended");
    assert_heals(&cluster).await;
    for member in 0..3 {
        let (_, kv) = cluster.client(member).get("key", false).await.expect("a read");
        let value = kv.expect("the key is there").value;
        // What the minority could not acknowledge must not have replaced what the majority did, unless it came later.
        assert!(value == "after" || value == "lost", "{value:?} at m{member}");
    }
    cluster.assert_replicas_equal().await;
}

async fn the_leader_is_cut_off_under_load(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines).in_namespaces()).await else { return };
    let load = Load::start(LoadSpec { seed: 6, ..LoadSpec::default() }, &cluster.endpoints());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.wait_leader().await;
        cluster.links().split(&[leader], &[(leader + 1) % 3, (leader + 2) % 3]).expect("a cut");
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.links().heal().expect("mended");
        assert_heals(&cluster).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn links_break_in_one_direction_under_load(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines).in_namespaces()).await else { return };
    let load = Load::start(LoadSpec { seed: 8, ..LoadSpec::default() }, &cluster.endpoints());
    for hears_nothing in [true, false] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.wait_leader().await;
        for other in [(leader + 1) % 3, (leader + 2) % 3] {
            // A leader that can send and not hear keeps its followers quiet, but can commit nothing.
            let (from, to) = if hears_nothing { (other, leader) } else { (leader, other) };
            cluster.links().cut(from, to).expect("a cut");
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.links().heal().expect("mended");
        assert_heals(&cluster).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn a_chain_of_three_goes_on(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines).in_namespaces()).await else { return };
    let load = Load::start(LoadSpec { seed: 9, ..LoadSpec::default() }, &cluster.endpoints());
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The leader loses one follower; both still see the third, so a quorum remains whoever leads.
    let leader = cluster.wait_leader().await;
    let follower = (leader + 1) % 3;
    cluster.links().split(&[leader], &[follower]).expect("a cut");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = load.answered();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(load.answered() > before + 50, "{} answers in 2 s while a quorum is there", load.answered() - before);
    cluster.links().heal().expect("mended");
    assert_heals(&cluster).await;
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}
