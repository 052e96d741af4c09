//! Crashes under load: what was acknowledged is kept, and the rest is consistent.

use std::time::{Duration, Instant};

use quorate_checker::register::assert_linearizable;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

// Crashes are where an engine's own recovery counts, so every test runs on every set.
engine_tests! {
    one_member_after_another_is_killed: redb sled mixed;
    the_leader_is_killed_again_and_again: redb sled mixed;
    all_members_are_killed_at_once: redb sled mixed;
    a_single_member_is_killed_and_keeps_everything: redb sled;
}

/// Waits until the load gets answers again, at most as long as the service may be away after a fault.
async fn wait_progress(load: &Load) {
    const AWAY_MAX: Duration = Duration::from_secs(10);
    let (start, before) = (Instant::now(), load.answered());
    while load.answered() < before + 100 {
        assert!(start.elapsed() < AWAY_MAX, "{} answers since the fault ended", load.answered() - before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn one_member_after_another_is_killed(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let load = Load::start(LoadSpec::default(), &cluster.endpoints());
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..900))).await;
        let member = random.random_range(0..3);
        cluster.kill9(member);
        wait_progress(&load).await;
        cluster.restart(member);
        cluster.wait_member_serving(member).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn the_leader_is_killed_again_and_again(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let load = Load::start(LoadSpec { seed: 2, ..LoadSpec::default() }, &cluster.endpoints());
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.wait_leader().await;
        cluster.kill9(leader);
        wait_progress(&load).await;
        cluster.restart(leader);
        cluster.wait_member_serving(leader).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn all_members_are_killed_at_once(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let load = Load::start(LoadSpec { seed: 3, ..LoadSpec::default() }, &cluster.endpoints());
    for round in 0..4_u64 {
        tokio::time::sleep(Duration::from_millis(400 + 150 * round)).await;
        cluster.crash_all();
        wait_progress(&load).await;
    }
    cluster.wait_serving().await;
    assert_linearizable(&load.finish().await, 100, 100);
    cluster.assert_replicas_equal().await;
}

async fn a_single_member_is_killed_and_keeps_everything(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1).on(engines)).await else { return };
    let load = Load::start(LoadSpec { seed: 4, ..LoadSpec::default() }, &cluster.endpoints());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.kill9(0);
        cluster.restart(0);
        wait_progress(&load).await;
    }
    assert_linearizable(&load.finish().await, 100, 100);
}
