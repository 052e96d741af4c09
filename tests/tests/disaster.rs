//! A member is lost and replaced while clients write; two of three are lost and the third goes on alone; a member is away when
//! it is removed.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::{MemberListRequest, MemberRemoveRequest};
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::quorate::Quorate;
use tonic::Code;

async fn member_count(client: &Client) -> usize {
    let list = client.within(client.cluster().member_list(MemberListRequest { linearizable: true })).await;
    list.expect("a list of the members").members.len()
}

async fn wait_members(client: &Client, expected: usize) {
    let deadline = Instant::now() + PATIENCE;
    while member_count(client).await != expected {
        assert!(Instant::now() < deadline, "not {expected} members after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_member_is_replaced_under_load() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let leader = cluster.wait_leader().await;
    let lost = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    let id = format!("{:x}", cluster.member_id(leader, lost).await.expect("its id"));
    let endpoints = format!("{},{}", cluster.endpoint(leader), cluster.endpoint(other));
    let client = cluster.client(leader);
    for number in 0..50 {
        client.put(&format!("key/{number}"), "v").await.expect("a put");
    }

    // It still runs.
    let new = cluster.prepare_replacement(lost);
    let peer_urls = format!("--peer-urls={}", cluster.peer_url(new));
    let name = format!("m{new}");
    let replace = ["--endpoints", &endpoints, "member", "replace", &id, &name, &peer_urls];
    let (code, said) = quorate.refused(&replace);
    assert!(code == Some(1) && said.contains("answers, so it is not lost"), "{said}");

    cluster.kill9(lost);
    std::fs::remove_dir_all(cluster.data_dir(lost)).expect("its disk is gone");
    let load = {
        let client = cluster.client(other);
        tokio::spawn(async move {
            let mut failed = 0;
            for number in 0..300 {
                if client.put(&format!("load/{number}"), "v").await.is_err() {
                    failed += 1;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            failed
        })
    };
    let said = quorate.run(&replace).expect("a replacement");
    for part in [
        format!("Member {id} removed\nMember "),
        format!("ETCD_NAME=\"{name}\"\n"),
        format!("{name}={}", cluster.peer_url(new)),
        "ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    // Again: nothing is left to do but to start it.
    let again = quorate.run(&replace).expect("the same again");
    assert!(!again.contains("added") && !again.contains("removed") && again.contains("ETCD_NAME"), "{again}");

    cluster.restart(new);
    cluster.wait_member_serving(new).await;
    assert_eq!(load.await.expect("the load"), 0, "writes failed meanwhile");
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Three votes again: any one may go.
        let status = cluster.client(new).status().await.expect("a status");
        if !status.is_learner && cluster.client(new).get("load/299", false).await.is_ok_and(|(_, kv)| kv.is_some()) {
            break;
        }
        assert!(Instant::now() < deadline, "the new member does not catch up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.assert_replicas_equal().await;
    let (_, said) = quorate.refused(&replace);
    assert!(said.contains("has been started"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_quorum_needs_is_not_removed_nor_replaced() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let leader = cluster.wait_leader().await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let ids = [
        cluster.member_id(leader, lost).await.expect("its id"),
        cluster.member_id(leader, other).await.expect("its id"),
    ];
    cluster.kill9(lost);
    let client = cluster.client(leader);
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The leader has to notice first that one is away. Removing the one that is there would then cost the quorum.
        let request = MemberRemoveRequest { id: ids[1] };
        tokio::time::sleep(Duration::from_secs(3)).await;
        let refused = client.within(client.cluster().member_remove(request)).await.expect_err("it must not be removed");
        if refused.message() == "etcdserver: unhealthy cluster" {
            assert_eq!(refused.code(), Code::Unavailable);
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
    }
    client.put("still", "there").await.expect("the cluster serves");

    // With two of three away, nothing can be changed, and the command says so.
    cluster.kill9(other);
    let id = format!("{:x}", ids[0]);
    let args =
        ["--endpoints", &cluster.endpoint(leader), "member", "replace", &id, "new", "--peer-urls=http://127.0.0.1:1"];
    let (code, said) = quorate.refused(&args);
    assert!(code == Some(1) && said.contains("only 1 of 3 members with a vote answer"), "{said}");
    assert!(said.contains("--force-new-cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_goes_on_alone_and_others_join_anew() {
    if Quorate::find().is_none() {
        return;
    }
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let survivor = 1;
    let client = cluster.client(survivor);
    for number in 0..40 {
        client.put(&format!("key/{number}"), "v").await.expect("a put");
    }
    let before = client.get_prefix("key/").await.expect("a read").header.expect("a header");
    // All go down; two never come back with what they had, but one of them comes back all the same.
    (0..3).for_each(|member| cluster.kill9(member));
    cluster.restart_with(survivor, &["--force-new-cluster"]);
    cluster.wait_member_serving(survivor).await;
    let read = client.get_prefix("key/").await.expect("a read");
    assert_eq!(read.count, 40, "it keeps its data");
    let header = read.header.expect("a header");
    assert_eq!((header.cluster_id, header.member_id), (before.cluster_id, before.member_id));
    assert!(header.revision >= before.revision);
    wait_members(&client, 1).await;
    client.put("alone", "x").await.expect("a put");

    // The flag stays in the unit file: the next start must not throw out who has joined.
    let new = cluster.prepare_alone(survivor);
    let added =
        quorate_proto::etcdserverpb::MemberAddRequest { peer_urls: vec![cluster.peer_url(new)], is_learner: false };
    client.within(client.cluster().member_add(added)).await.expect("a member is added");
    cluster.restart(new);
    cluster.wait_member_serving(new).await;
    wait_members(&client, 2).await;
    cluster.kill9(survivor);
    cluster.restart_with(survivor, &["--force-new-cluster"]);
    cluster.wait_member_serving(survivor).await;
    wait_members(&client, 2).await;
    assert!(cluster.log(survivor).contains("IGNORED"), "it should warn");

    // A member of the old cluster is told that it is gone.
    cluster.restart(0);
    let status = cluster.wait_exit(0, PATIENCE).await.expect("the old member ends");
    assert!(!status.success());
    assert!(cluster.log(0).contains("permanently removed"), "it should say why");
    cluster.assert_replicas_equal().await;

    // Started once without the flag, it can be used again.
    cluster.kill9(survivor);
    cluster.restart(survivor);
    cluster.wait_member_serving(survivor).await;
    cluster.kill9(survivor);
    cluster.kill9(new);
    cluster.restart_with(survivor, &["--force-new-cluster"]);
    cluster.wait_member_serving(survivor).await;
    wait_members(&client, 1).await;
    assert_eq!(client.get_prefix("key/").await.expect("a read").count, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_when_it_was_removed_stops_and_says_so() {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let leader = cluster.wait_leader().await;
    let removed = (leader + 1) % 3;
    let id = cluster.member_id(leader, removed).await.expect("its id");
    cluster.kill9(removed);
    // etcd wants to have noticed that it is away.
    let client = cluster.client(leader);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.within(client.cluster().member_remove(MemberRemoveRequest { id })).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.restart(removed);
    let status = cluster.wait_exit(removed, PATIENCE).await.expect("a removed member ends by itself");
    if cluster.is_quorate() {
        assert!(!status.success());
        assert!(cluster.log(removed).contains("the member has been permanently removed from the cluster"));
    }
}
