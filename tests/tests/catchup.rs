//! A member that was away for longer than the log is kept gets a snapshot, and then the rest, under load.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use quorate_checker::register::assert_linearizable;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};

// A snapshot goes out of one engine into another, so all pairs must be there: equal ones in `redb` and `sled`, the others in
// `mixed`.
engine_tests! {
    a_member_that_was_away_catches_up_under_load: redb sled mixed;
    all_members_start_from_their_snapshots: redb sled;
    a_restart_by_request_loses_nothing: redb sled mixed;
}

const SIGTERM: i32 = 15;

/// What is written below is several times as much as the log keeps, in etcd's count and in Quorate's bytes.
const FLAG: &str = "--snapshot-count=100";
const QUORATE_FLAGS: [&str; 2] = ["--wal-segment-bytes=65536", "--wal-keep-bytes=131072"];
const KEYS: usize = 200;
const WRITES: usize = 1000;

fn spec(engines: Engines) -> ClusterSpec {
    let spec = ClusterSpec::new(3).on(engines).flag(FLAG);
    QUORATE_FLAGS.iter().fold(spec, |spec, flag| spec.quorate_flag(flag))
}

async fn write(cluster: &Cluster, through: usize) {
    let client = cluster.client(through);
    let value = "v".repeat(1024);
    for number in 0..WRITES {
        client.put(&format!("key/{}", number % KEYS), &value).await.expect("a put");
    }
}

async fn assert_written(cluster: &Cluster, member: usize, rounds: usize) {
    let found = cluster.client(member).get_prefix("key/").await.expect("a read");
    assert_eq!(found.kvs.len(), KEYS);
    for kv in found.kvs {
        assert_eq!(kv.version, (rounds * WRITES / KEYS) as i64, "{kv:?}");
    }
}

async fn a_member_that_was_away_catches_up_under_load(engines: Engines) {
    let Some(mut cluster) = Cluster::start(spec(engines)).await else { return };
    for (round, prefix) in ["load-a", "load-b"].into_iter().enumerate() {
        let leader = cluster.wait_leader().await;
        // One follower, and then another: of a mix, both engines receive.
        let away = (leader + 1 + round) % 3;
        cluster.kill9(away);
        write(&cluster, leader).await;

        let spec = LoadSpec { seed: 20, clients: 6, prefix, ..LoadSpec::default() };
        let load = Load::start(spec, &cluster.endpoints());
        cluster.restart(away);
        cluster.wait_member_serving(away).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_linearizable(&load.finish().await, 50, 50);
        assert_written(&cluster, away, round + 1).await;
        cluster.assert_replicas_equal().await;
    }
}

async fn all_members_start_from_their_snapshots(engines: Engines) {
    let Some(mut cluster) = Cluster::start(spec(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    write(&cluster, leader).await;
    cluster.crash_all();
    cluster.wait_serving().await;
    for member in 0..3 {
        assert_written(&cluster, member, 1).await;
    }
    cluster.assert_replicas_equal().await;
}

async fn a_restart_by_request_loses_nothing(engines: Engines) {
    let Some(mut cluster) = Cluster::start(spec(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    write(&cluster, leader).await;
    for member in 0..3 {
        let status = cluster.terminate(member).await;
        // etcd raises the signal again behind its clean-up, so that its parent sees it.
        assert!(status.success() || status.signal() == Some(SIGTERM), "{status}");
        cluster.restart(member);
        cluster.wait_member_serving(member).await;
        assert_written(&cluster, member, 1).await;
    }
    cluster.assert_replicas_equal().await;
}
