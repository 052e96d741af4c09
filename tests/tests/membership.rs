//! Members come and go while the cluster serves.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, RangeRequest,
};
use quorate_tests::client::{Client, bytes};
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use tonic::{Code, Request, Status};

// Who is a member is the log's matter, and the engines' only where a new member is filled: that runs on every set, the rest
// in turn.
engine_tests! {
    a_learner_is_added_and_promoted_and_then_counts: redb sled mixed;
    a_learner_serves_only_what_needs_no_vote: mixed;
    a_removed_member_stops: redb;
    the_leader_removes_itself: sled;
    a_member_that_lost_its_data_is_refused: redb sled mixed;
}

/// Repeats a membership change until it is accepted: a server may want to see its peers healthy for a while, or a
/// learner caught up, before it agrees. Any other refusal fails the test.
async fn change<T>(client: &Client, call: impl AsyncFn() -> Result<tonic::Response<T>, Status>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.within(call()).await {
            Ok(answer) => return answer,
            Err(status) => {
                let wait = matches!(status.code(), Code::Unavailable | Code::FailedPrecondition);
                assert!(wait && Instant::now() < deadline, "{status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn add(cluster: &Cluster, via: usize, member: usize, is_learner: bool) -> u64 {
    let client = cluster.client(via);
    let request = MemberAddRequest { peer_urls: vec![cluster.peer_url(member)], is_learner };
    let answer = change(&client, async || client.cluster().member_add(request.clone()).await).await;
    let added = answer.member.expect("the new member");
    assert_eq!(added.is_learner, is_learner);
    added.id
}

async fn remove(cluster: &Cluster, via: usize, id: u64) {
    let client = cluster.client(via);
    change(&client, async || client.cluster().member_remove(MemberRemoveRequest { id }).await).await;
}

async fn promote(cluster: &Cluster, via: usize, id: u64) {
    let client = cluster.client(via);
    change(&client, async || client.cluster().member_promote(MemberPromoteRequest { id }).await).await;
}

fn assert_refused_for_learner(status: &Status) {
    assert_eq!(status.message(), "etcdserver: rpc not supported for learner");
    // `Unavailable` up to etcd 3.5, where clients took it for a reason to try the same member again.
    assert!(matches!(status.code(), Code::FailedPrecondition | Code::Unavailable), "{status}");
}

async fn fill(cluster: &Cluster, prefix: &str, count: usize) {
    let client = cluster.client(0);
    for number in 0..count {
        client.put(&format!("{prefix}/{number}"), "value").await.expect("a put");
    }
}

async fn a_learner_is_added_and_promoted_and_then_counts(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    fill(&cluster, "before", 50).await;
    let learner = cluster.prepare_member();
    let id = add(&cluster, 0, learner, true).await;
    cluster.restart(learner);

    promote(&cluster, 0, id).await;
    cluster.wait_member_serving(learner).await;
    fill(&cluster, "after", 10).await;
    let found = cluster.client(learner).get_prefix("before").await.expect("a read from the new member");
    assert_eq!(found.count, 50);
    cluster.assert_replicas_equal().await;

    let client = cluster.client(learner);
    let list = client.within(client.cluster().member_list(MemberListRequest { linearizable: true })).await;
    let members = list.expect("member list").members;
    assert_eq!(members.len(), 4);
    assert!(members.iter().all(|member| !member.is_learner && !member.client_urls.is_empty()), "{members:?}");

    // Of four, three are a quorum: with the new member's vote, and without an old one's.
    let old = (0..3).find(|&member| member != 0).expect("three members");
    cluster.kill9(old);
    cluster.wait_leader().await;
    fill(&cluster, "quorum", 5).await;
}

async fn a_learner_serves_only_what_needs_no_vote(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1).on(engines)).await else { return };
    fill(&cluster, "key", 5).await;
    let learner = cluster.prepare_member();
    add(&cluster, 0, learner, true).await;
    cluster.restart(learner);

    let client = cluster.client(learner);
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The learner answers as soon as it runs, but has the data only when it has caught up.
        if let Ok((_, Some(kv))) = client.get("key/4", true).await {
            assert_eq!(kv.value, "value");
            break;
        }
        assert!(Instant::now() < deadline, "no serializable read from the learner");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = client.get("key/4", false).await.expect_err("a linearizable read from a learner");
    assert_refused_for_learner(&refused);
    let refused = client.put("key/4", "other").await.expect_err("a write to a learner");
    assert_refused_for_learner(&refused);
    assert!(client.status().await.expect("status").is_learner);
    if !cluster.is_quorate() {
        return;
    }
    // etcd's clients before 3.6 ask another member after `Unavailable` alone, which was the code for this then.
    for (version, code) in [("3.5", Code::Unavailable), ("3.6", Code::FailedPrecondition)] {
        let mut request = Request::new(RangeRequest { key: bytes("key/4"), ..RangeRequest::default() });
        request.metadata_mut().insert("client-api-version", version.parse().unwrap());
        let refused = client.kv().range(request).await.expect_err("a linearizable read from a learner");
        assert_refused_for_learner(&refused);
        assert_eq!(refused.code(), code, "a client that knows {version}");
    }
}

async fn a_removed_member_stops(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    let removed = (leader + 1) % 3;
    let id = cluster.member_id(leader, removed).await.expect("its id");
    remove(&cluster, leader, id).await;
    cluster.wait_exit(removed, PATIENCE).await.expect("a removed member ends by itself");

    // And it cannot come back on its old data.
    cluster.restart(removed);
    cluster.wait_exit(removed, PATIENCE).await.expect("a removed member ends again");
    cluster.client(leader).put("after", "x").await.expect("two of two members serve");
    cluster.assert_replicas_equal().await;
}

async fn the_leader_removes_itself(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    let id = cluster.member_id(leader, leader).await.expect("its id");
    remove(&cluster, leader, id).await;
    cluster.wait_exit(leader, PATIENCE).await.expect("a removed leader ends by itself");
    let next = cluster.wait_leader().await;
    assert_ne!(next, leader);
    cluster.wait_serving().await;
    cluster.client(next).put("after", "x").await.expect("two of two members serve");
    cluster.assert_replicas_equal().await;
}

async fn a_member_that_lost_its_data_is_refused(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let leader = cluster.wait_leader().await;
    let wiped = (leader + 1) % 3;
    fill(&cluster, "key", 20).await;
    cluster.kill9(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).expect("the data directory is removed");

    // It was part of this cluster: with its vote and without its log it could elect a leader that lacks what it had
    // acknowledged.
    cluster.restart(wiped);
    let status = cluster.wait_exit(wiped, PATIENCE).await.expect("a wiped member does not start");
    assert!(!status.success(), "{status}");

    // The way back: out, and in again as somebody new.
    let id = cluster.member_id(leader, wiped).await.expect("its id");
    remove(&cluster, leader, id).await;
    let replacement = cluster.prepare_replacement(wiped);
    add(&cluster, leader, replacement, false).await;
    cluster.restart(replacement);
    cluster.wait_member_serving(replacement).await;
    assert_eq!(cluster.client(replacement).get_prefix("key").await.expect("a read").count, 20);
    cluster.assert_replicas_equal().await;
}
