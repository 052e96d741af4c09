//! Full disks: writes are refused, reads go on, nothing acknowledged is lost, and with room again so is service.
//!
//! etcd's server ends when its disk is full, so these tests are for Quorate alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_checker::register::assert_linearizable;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{AlarmRequest, AlarmType};
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::load::{Load, LoadSpec};
use tonic::Code;

// A full disk meets the log and the engine, each of which takes it in its own way.
engine_tests! {
    a_single_member_refuses_writes_and_goes_on_when_there_is_room: redb sled;
    a_single_member_ends_on_a_full_disk_and_has_everything: redb sled;
    the_disk_of_the_leader_fills_under_load: mixed;
    the_disks_of_all_fill_under_load: redb sled;
    a_disk_fills_while_much_is_under_way: redb sled;
    a_full_leader_refuses_what_others_send_it: redb;
}

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn start(nodes: usize, engines: Engines) -> Option<Cluster> {
    let spec = ClusterSpec::new(nodes).on(engines).on_disks_of(256).quorate_flag("--wal-segment-bytes=4194304");
    let cluster = Cluster::start(spec).await?;
    if !cluster.is_quorate() {
        println!("etcd ends when its disk is full");
        return None;
    }
    Some(cluster)
}

/// Puts values until one does not go through; adds what was acknowledged to `written`. `true`: it was refused for want of space.
/// `false`: the log itself had no byte left before the alarm could be raised, and the put waits for room; or the engine was caught
/// in the middle of a write, and the member has ended.
async fn put_until_refused(client: &Client, written: &mut BTreeMap<String, String>) -> bool {
    for number in 0.. {
        let (key, value) = (format!("full/{}", number % 50), format!("{number}{}", "v".repeat(2000)));
        match client.put(&key, &value).await {
            Ok(_) => drop(written.insert(key, value)),
            Err(status) if status.message() == NO_SPACE => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                return true;
            }
            Err(status) => {
                println!("put {number}: {status}");
                // It may still happen.
                written.remove(&key);
                return false;
            }
        }
    }
    unreachable!("a disk of finite size takes no end of values")
}

/// Starts a member again that ended because its engine was caught in the middle of a write; whether it had.
async fn revive(cluster: &mut Cluster, member: usize) -> bool {
    let Some(status) = cluster.wait_exit(member, Duration::from_millis(100)).await else { return false };
    println!("m{member} ended on a full disk: {status}");
    assert!(!status.success(), "{status}");
    cluster.restart(member);
    true
}

/// Waits until a put goes through, without any help but room on the disk.
async fn wait_writable(client: &Client) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = client.put("room", "again").await {
        assert!(Instant::now() < deadline, "no write within {PATIENCE:?} of there being room: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn assert_holds(client: &Client, written: &BTreeMap<String, String>) {
    for (key, value) in written {
        let (_, kv) = client.get(key, false).await.expect("a read");
        assert_eq!(kv.expect("an acknowledged key").value, value.as_bytes(), "{key}");
    }
}

/// The members that have raised NOSPACE, by id.
async fn alarms(client: &Client) -> Vec<u64> {
    let request = AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: AlarmType::Nospace.into() };
    let answer = client.within(client.maintenance().alarm(request)).await.expect("the alarms");
    answer.alarms.into_iter().map(|alarm| alarm.member_id).collect()
}

async fn a_single_member_refuses_writes_and_goes_on_when_there_is_room(engines: Engines) {
    let Some(mut cluster) = start(1, engines).await else { return };
    let client = cluster.client(0);
    let mut written = BTreeMap::new();
    for round in 0..2 {
        cluster.fill_disk(0);
        if put_until_refused(&client, &mut written).await {
            assert_holds(&client, &written).await;
            assert_eq!(alarms(&client).await.len(), 1, "round {round}");
        }
        cluster.make_room(0);
        revive(&mut cluster, 0).await;
        wait_writable(&client).await;
        assert_eq!(alarms(&client).await, [0; 0], "round {round}");
        assert_holds(&client, &written).await;
    }
    cluster.kill9(0);
    cluster.restart(0);
    cluster.wait_serving().await;
    assert_holds(&client, &written).await;
}

async fn a_single_member_ends_on_a_full_disk_and_has_everything(engines: Engines) {
    let Some(mut cluster) = start(1, engines).await else { return };
    let client = cluster.client(0);
    let mut written = BTreeMap::new();
    cluster.fill_disk(0);
    put_until_refused(&client, &mut written).await;
    if cluster.wait_exit(0, Duration::from_millis(100)).await.is_none() {
        cluster.kill9(0);
    }

    // Whether it starts without room is its own affair, but it must not do harm.
    cluster.restart(0);
    if cluster.wait_exit(0, Duration::from_secs(3)).await.is_none() {
        cluster.wait_serving().await;
        assert_holds(&client, &written).await;
        println!("it serves on a full disk");
        cluster.kill9(0);
    }
    cluster.make_room(0);
    cluster.restart(0);
    cluster.wait_serving().await;
    assert_holds(&client, &written).await;
    wait_writable(&client).await;
}

async fn the_disk_of_the_leader_fills_under_load(engines: Engines) {
    let Some(mut cluster) = start(3, engines).await else { return };
    let leader = cluster.wait_leader().await;
    fill_under_load(&mut cluster, &[leader]).await;
}

async fn the_disks_of_all_fill_under_load(engines: Engines) {
    let Some(mut cluster) = start(3, engines).await else { return };
    fill_under_load(&mut cluster, &[0, 1, 2]).await;
}

async fn fill_under_load(cluster: &mut Cluster, members: &[usize]) {
    let load = Load::start(LoadSpec { seed: 31, ..LoadSpec::default() }, &cluster.endpoints());
    tokio::time::sleep(Duration::from_millis(500)).await;
    for &member in members {
        cluster.fill_disk(member);
    }
    let client = cluster.client(members[0]);
    put_until_refused(&client, &mut BTreeMap::new()).await;
    let before = load.answered();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(load.answered() > before, "nobody reads while a disk is full");

    for &member in members {
        cluster.make_room(member);
        revive(cluster, member).await;
    }
    wait_writable(&client).await;
    cluster.wait_serving().await;
    assert_eq!(alarms(&client).await, [0; 0]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_linearizable(&load.finish().await, 50, 50);
    cluster.assert_replicas_equal().await;
}

/// Large values, so that the engine has much in hand that is not on the disk yet when the last byte is taken.
async fn a_disk_fills_while_much_is_under_way(engines: Engines) {
    const WRITERS: usize = 6;
    let Some(mut cluster) = start(1, engines).await else { return };
    let client = cluster.client(0);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut written = BTreeMap::new();
                for number in 0.. {
                    let (key, value) =
                        (format!("much/{writer}/{}", number % 5), format!("{number}{}", "v".repeat(100_000)));
                    match client.put(&key, &value).await {
                        Ok(_) => drop(written.insert(key, value)),
                        // The outcome may be unknown, so the writer touches this key no more.
                        Err(status) => {
                            println!("writer {writer}: put {number}: {status}");
                            written.remove(&key);
                            return written;
                        }
                    }
                }
                written
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.fill_disk(0);
    let mut written = BTreeMap::new();
    for writer in writers {
        written.append(&mut writer.await.expect("a writer does not panic"));
    }
    assert!(written.len() > WRITERS, "{} keys were acknowledged: that checks nothing", written.len());
    cluster.make_room(0);
    revive(&mut cluster, 0).await;
    cluster.wait_serving().await;
    wait_writable(&client).await;
    assert_holds(&client, &written).await;
}

/// The disk of the member that takes the writes has room; that of the leader, to which it sends them, has not a byte.
async fn a_full_leader_refuses_what_others_send_it(engines: Engines) {
    // More than the log has room for that is set aside already.
    const REFUSED: usize = 400;
    let Some(mut cluster) = start(3, engines).await else { return };
    let leader = cluster.wait_leader().await;
    let client = cluster.client((leader + 1) % 3);
    client.put("before", "1").await.expect("there is room");
    cluster.fill_disk(leader);
    let value = "v".repeat(1_000_000);
    let began = Instant::now();
    let deadline = began + PATIENCE;
    let mut refused = 0;
    while refused < REFUSED {
        assert!(Instant::now() < deadline, "{refused} of {REFUSED} writes are refused within {PATIENCE:?}");
        match client.put("large", &value).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
                refused += 1;
            }
        }
    }
    println!("{REFUSED} writes were refused in {:?}", began.elapsed());
    assert!(client.get("before", true).await.expect("a read").1.is_some());
    cluster.make_room(leader);
    revive(&mut cluster, leader).await;
    wait_writable(&client).await;
    cluster.wait_serving().await;
    assert_eq!(alarms(&client).await, [0; 0]);
    cluster.assert_replicas_equal().await;
}
