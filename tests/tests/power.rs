//! Power cuts and failing disks: an acknowledged write is on the disk, and a disk that fails stops its member.

use std::time::{Duration, Instant};

use quorate_checker::register::assert_linearizable;
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};
use quorate_tests::syncs;
use quorate_tests::tools::{in_path, skip};

// As in `crash.rs`: what an engine had not synced is what is at stake. Who leads is no matter of the engine, so the two tests
// of the leader alone run on the members' mix.
engine_tests! {
    no_acknowledged_write_is_lost_when_all_lose_power: redb sled mixed;
    the_leader_loses_power_again_and_again: mixed;
    a_single_member_keeps_what_it_acknowledged_when_it_loses_power: redb sled;
    a_member_whose_disk_fails_stops_at_once: mixed;
}

async fn no_acknowledged_write_is_lost_when_all_lose_power(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines).on_disks()).await else { return };
    let load = Load::start(LoadSpec { seed: 11, ..LoadSpec::default() }, &cluster.endpoints());
    for round in 0..4_u64 {
        tokio::time::sleep(Duration::from_millis(600 + 250 * round)).await;
        for member in 0..3 {
            cluster.cut_power(member);
        }
        for member in 0..3 {
            cluster.restore_power(member);
            cluster.restart(member);
        }
        cluster.wait_serving().await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn the_leader_loses_power_again_and_again(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines).on_disks()).await else { return };
    let load = Load::start(LoadSpec { seed: 12, ..LoadSpec::default() }, &cluster.endpoints());
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.wait_leader().await;
        cluster.cut_power(leader);
        cluster.wait_leader().await;
        cluster.restore_power(leader);
        cluster.restart(leader);
        cluster.wait_member_serving(leader).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn a_single_member_keeps_what_it_acknowledged_when_it_loses_power(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1).on(engines).on_disks()).await else { return };
    let load = Load::start(LoadSpec { seed: 13, ..LoadSpec::default() }, &cluster.endpoints());
    for round in 0..4_u64 {
        tokio::time::sleep(Duration::from_millis(400 + 300 * round)).await;
        cluster.cut_power(0);
        cluster.restore_power(0);
        cluster.restart(0);
        cluster.wait_serving().await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
}

async fn a_member_whose_disk_fails_stops_at_once(engines: Engines) {
    if in_path("strace").is_none() {
        return skip("strace (Debian strace)");
    }
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let load = Load::start(LoadSpec { seed: 14, ..LoadSpec::default() }, &cluster.endpoints());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.wait_leader().await;
        let mut strace = syncs::fail(cluster.pid(leader)).expect("strace");
        let status = cluster.wait_exit(leader, PATIENCE).await.expect("a member ends when it cannot sync");
        assert!(!status.success(), "{status}");
        strace.wait().expect("strace ends with what it traces");

        // The others go on, and it comes back with a disk that works.
        let start = Instant::now();
        cluster.wait_leader().await;
        cluster.wait_serving().await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?} until the others served", start.elapsed());
        cluster.restart(leader);
        cluster.wait_member_serving(leader).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}
