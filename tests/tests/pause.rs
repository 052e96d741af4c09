//! A paused process does not know that time has passed. It must not act on what it knew before.

use std::time::Duration;

use quorate_checker::register::assert_linearizable;
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};

// The engines have no part in this, so each test runs on one set.
engine_tests! {
    a_paused_leader_serves_nothing_stale: sled;
    a_read_that_waited_in_a_paused_leader_sees_what_happened_meanwhile: redb;
}

/// Longer than any election takes.
const PAUSE: Duration = Duration::from_secs(4);

async fn a_paused_leader_serves_nothing_stale(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    // Longer than the pause: what was sent to the paused leader is answered by it when it wakes up.
    let spec = LoadSpec { deadline: Duration::from_secs(8), seed: 5, clients: 18, ..LoadSpec::default() };
    let load = Load::start(spec, &cluster.endpoints());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.wait_leader().await;
        cluster.stop(leader);
        tokio::time::sleep(PAUSE).await;
        cluster.cont(leader);
        cluster.wait_serving().await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn a_read_that_waited_in_a_paused_leader_sees_what_happened_meanwhile(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let old = cluster.wait_leader().await;
    let patient = Client::new(&cluster.endpoint(old), Duration::from_secs(15));
    patient.put("pause/key", "before").await.expect("a put");
    cluster.stop(old);

    // These lie in the paused process's socket.
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let client = patient.clone();
            tokio::spawn(async move { client.get("pause/key", false).await })
        })
        .collect();
    let write = tokio::spawn({
        let client = patient.clone();
        async move { client.put("pause/lost", "x").await }
    });
    let new = cluster.wait_leader().await;
    assert_ne!(new, old);
    let revision = cluster.client(new).put("pause/key", "after").await.expect("a put on the new leader");
    // Sent after the write was acknowledged, so bound to see it, whoever is asked.
    let late = tokio::spawn({
        let client = patient.clone();
        async move { client.get("pause/key", false).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.cont(old);

    for read in reads {
        // An error is an answer too: only a wrong value is wrong. These were sent before the write, so either will do.
        if let Ok((_, kv)) = read.await.expect("a read does not panic") {
            let value = kv.expect("the key is there").value;
            assert!(value == "before" || value == "after", "{value:?}");
        }
    }
    if let Ok((answered_at, kv)) = late.await.expect("a read does not panic") {
        assert_eq!(kv.expect("the key is there").value, "after", "a stale read at revision {answered_at}");
        assert!(answered_at >= revision);
    }
    let acknowledged = write.await.expect("a write does not panic");
    cluster.wait_serving().await;
    if let Ok(revision) = acknowledged {
        for member in 0..3 {
            let (_, kv) = cluster.client(member).get("pause/lost", false).await.expect("a read");
            let found = kv.map(|kv| kv.mod_revision);
            assert_eq!(found, Some(revision), "m{member} lost a write that the paused leader acknowledged");
        }
    }
    cluster.assert_replicas_equal().await;
}
