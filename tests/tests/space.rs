//! A quota that is used up: writes are refused, what frees space is not, and the alarm goes when there is space again.

use std::future::Future;
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, LeaseGrantRequest,
    MoveLeaderRequest, PutRequest, RequestOp, StatusResponse, TxnRequest, request_op::Request,
};
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::quorate::Quorate;
use quorate_tests::tools::{Etcdctl, skip};
use tonic::{Code, Status};

const QUOTA: usize = 4 << 20;
const VALUE: usize = 256 << 10;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// How long the alarm may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

fn small_quota(members: usize) -> ClusterSpec {
    // Raw bytes of the log are not what this is about.
    ClusterSpec::new(members)
        .flag(&format!("--quota-backend-bytes={QUOTA}"))
        .quorate_flag("--wal-segment-bytes=4194304")
}

async fn put_bytes(client: &Client, key: String, size: usize) -> Result<(), Status> {
    // Not compressible: sled would find room for zeros.
    let mut value = vec![0; size];
    rand::fill(&mut value[..]);
    let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
    client.within(client.kv().put(request)).await.map(drop)
}

/// Overwrites one key until a write is refused, and gives the refusal. It has all history then.
async fn fill(client: &Client) -> Status {
    for _ in 0..2 * QUOTA / VALUE {
        if let Err(status) = put_bytes(client, "filling".into(), VALUE).await {
            return status;
        }
    }
    panic!("the quota is never used up");
}

#[track_caller]
fn assert_no_space<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    let status = outcome.expect_err("there is no space");
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
}

async fn alarms(client: &Client) -> Vec<AlarmMember> {
    client.within(client.maintenance().alarm(AlarmRequest::default())).await.expect("a list").alarms
}

async fn status(client: &Client) -> StatusResponse {
    client.status().await.expect("a status")
}

/// Compacts to the newest revision, so that space can be won back; etcd has to be told to use it.
async fn free_space(cluster: &Cluster, client: &Client) {
    let revision = status(client).await.header.expect("a header").revision;
    let compaction = CompactionRequest { revision, physical: true };
    client.within(client.kv().compact(compaction)).await.expect("compaction is always allowed");
    if !cluster.is_quorate() {
        for member in cluster.running() {
            let client = cluster.client(member);
            client.within(client.maintenance().defragment(DefragmentRequest {})).await.expect("it defragments");
        }
    }
}

async fn disarm(client: &Client) {
    for alarm in alarms(client).await {
        let action = AlarmAction::Deactivate.into();
        let request = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        client.within(client.maintenance().alarm(request)).await.expect("it is disarmed");
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn with_cluster<F: Future<Output = ()>>(spec: ClusterSpec, test: impl FnOnce(Cluster) -> F) {
    if let Some(cluster) = Cluster::start(spec).await {
        test(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_refuses_what_takes_space_and_nothing_else() {
    with_cluster(small_quota(3), async |cluster| {
        let client = cluster.client(0);
        client.put("old", "1").await.expect("there is space");
        assert_no_space(Err::<(), _>(fill(&client).await));
        let raised = alarms(&client).await;
        let me = status(&client).await.header.expect("a header").member_id;
        assert_eq!(raised, [AlarmMember { member_id: me, alarm: AlarmType::Nospace.into() }]);
        assert_eq!(status(&client).await.errors, [format!("memberID:{me} alarm:NOSPACE ")]);

        // Every member refuses, whatever its own size.
        let other = cluster.client(1);
        assert_no_space(other.put("small", "1").await);
        assert_no_space(other.within(other.lease().lease_grant(LeaseGrantRequest { ttl: 60, id: 0 })).await);
        let put = PutRequest { key: "small".into(), value: "1".into(), ..PutRequest::default() };
        let put = RequestOp { request: Some(Request::RequestPut(put)) };
        // The branch with the put would not run: that is not asked.
        let txn = TxnRequest { failure: vec![put], ..TxnRequest::default() };
        assert_no_space(other.within(other.kv().txn(txn)).await);
        assert!(other.get("old", false).await.expect("reads go on").1.is_some());
        let delete = DeleteRangeRequest { key: "old".into(), ..DeleteRangeRequest::default() };
        let deleted = other.within(other.kv().delete_range(delete)).await.expect("deletes go on");
        assert_eq!(deleted.deleted, 1);

        free_space(&cluster, &other).await;
        if cluster.is_quorate() {
            eventually("the alarm goes by itself", async || alarms(&client).await.is_empty()).await;
        } else {
            disarm(&client).await;
        }
        client.put("small", "1").await.expect("there is space again");
        assert!(status(&client).await.errors.is_empty());
    })
    .await;
}

/// etcd's members raise the alarm when they apply what is too much for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_quota_is_used_up_says_so_to_what_others_send_it() {
    with_cluster(ClusterSpec::new(3).quorate_flag("--wal-segment-bytes=4194304"), async |mut cluster| {
        let leader = cluster.wait_leader().await;
        let (small, other) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.kill9(small);
        cluster.restart_with(small, &[&format!("--quota-backend-bytes={QUOTA}")]);
        cluster.wait_serving().await;
        let target_id = status(&cluster.client(small)).await.header.expect("a header").member_id;
        let client = cluster.client(leader);
        client.within(client.maintenance().move_leader(MoveLeaderRequest { target_id })).await.expect("it moves");

        let client = cluster.client(other);
        client.put("old", "1").await.expect("there is space");
        assert_no_space(Err::<(), _>(fill(&client).await));
        assert_eq!(alarms(&client).await, [AlarmMember { member_id: target_id, alarm: AlarmType::Nospace.into() }]);
        let delete = DeleteRangeRequest { key: "old".into(), ..DeleteRangeRequest::default() };
        let deleted = client.within(client.kv().delete_range(delete)).await.expect("deletes go on");
        assert_eq!(deleted.deleted, 1);
        free_space(&cluster, &client).await;
        if !cluster.is_quorate() {
            disarm(&client).await;
        }
        eventually("there is space again", async || client.put("small", "1").await.is_ok()).await;
    })
    .await;
}

engine_tests! {
    the_engine_knows_what_it_holds: redb sled;
}

async fn the_engine_knows_what_it_holds(engines: Engines) {
    with_cluster(small_quota(1).on(engines), async |cluster| {
        let client = cluster.client(0);
        assert_no_space(Err::<(), _>(fill(&client).await));
        // sled writes its files when it is flushed.
        let is_full = async || status(&client).await.db_size_in_use > (QUOTA * 3 / 4) as i64;
        eventually("what fills the quota is in the files", is_full).await;
        let full = status(&client).await;
        assert!(full.db_size >= full.db_size_in_use, "{full:?}");
        if cluster.is_quorate() {
            assert_eq!(full.db_size_quota, QUOTA as i64);
        }
        free_space(&cluster, &client).await;
        let has_room = async || status(&client).await.db_size_in_use < (4 * VALUE) as i64;
        eventually("space is counted as free", has_room).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sticky_alarm_goes_by_request_only() {
    with_cluster(small_quota(1).quorate_flag("--alarm-sticky"), async |cluster| {
        let client = cluster.client(0);
        fill(&client).await;
        free_space(&cluster, &client).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_no_space(client.put("small", "1").await);
        disarm(&client).await;
        client.put("small", "1").await.expect("there is space again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_of_before_a_restart_goes_by_itself_too() {
    with_cluster(small_quota(1), async |mut cluster| {
        let client = cluster.client(0);
        fill(&client).await;
        cluster.kill9(0);
        cluster.restart(0);
        cluster.wait_serving().await;
        assert_no_space(client.put("small", "1").await);
        assert_eq!(alarms(&client).await.len(), 1, "there is no space yet");
        free_space(&cluster, &client).await;
        if !cluster.is_quorate() {
            disarm(&client).await;
        }
        eventually("there is space again", async || client.put("small", "1").await.is_ok()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_are_set_and_cleared_by_request_for_any_member() {
    with_cluster(ClusterSpec::new(1), async |cluster| {
        let client = cluster.client(0);
        let me = status(&client).await.header.expect("a header").member_id;
        let ask = async |action: AlarmAction, member_id: u64, alarm: AlarmType| {
            let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
            let answer = client.within(client.maintenance().alarm(request)).await.expect("an answer");
            answer.alarms.into_iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect::<Vec<_>>()
        };
        let (no_space, corrupt) = (AlarmType::Nospace as i32, AlarmType::Corrupt as i32);
        // etcd 3.4 raises an alarm that is none.
        if !status(&client).await.version.starts_with("3.4.") {
            assert_eq!(ask(AlarmAction::Activate, me, AlarmType::None).await, []);
        }
        assert_eq!(ask(AlarmAction::Deactivate, me, AlarmType::Nospace).await, []);
        assert_eq!(ask(AlarmAction::Activate, me, AlarmType::Nospace).await, [(me, no_space)]);
        assert_eq!(ask(AlarmAction::Activate, me, AlarmType::Nospace).await, [(me, no_space)], "once more");
        assert_eq!(ask(AlarmAction::Activate, 0, AlarmType::Nospace).await, [(0, no_space)]);
        assert_eq!(ask(AlarmAction::Activate, 7, AlarmType::Corrupt).await, [(7, corrupt)]);
        assert_eq!(ask(AlarmAction::Get, 0, AlarmType::None).await.len(), 3);
        assert_eq!(ask(AlarmAction::Get, 7, AlarmType::Nospace).await.len(), 2, "the member is not asked for");
        let refusal = client.put("a", "1").await.expect_err("corrupt");
        assert_eq!((refusal.code(), refusal.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
        assert!(client.get("a", false).await.is_ok(), "reads go on, as with etcd");
        assert_eq!(ask(AlarmAction::Deactivate, 7, AlarmType::Corrupt).await, [(7, corrupt)]);
        assert_eq!(ask(AlarmAction::Deactivate, 0, AlarmType::Nospace).await, [(0, no_space)]);
        if cluster.is_quorate() {
            // One that was asked for stays, though there is space. (etcd lists it still, and has forgotten to refuse since
            // another one was cleared.)
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_no_space(client.put("a", "1").await);
        }
        assert_eq!(ask(AlarmAction::Deactivate, me, AlarmType::Nospace).await, [(me, no_space)]);
        client.put("a", "1").await.expect("no alarm is left");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_lists_and_disarms() {
    for etcdctl in Etcdctl::all() {
        let Some(cluster) = Cluster::start(small_quota(1).quorate_flag("--alarm-sticky")).await else { return };
        let etcdctl = etcdctl.with_endpoints(&cluster.endpoints());
        let client = cluster.client(0);
        assert_eq!(etcdctl.run(&["alarm", "list"]).expect("a list"), "");
        fill(&client).await;
        let me = status(&client).await.header.expect("a header").member_id;
        let line = format!("memberID:{me} alarm:NOSPACE \n");
        assert_eq!(etcdctl.run(&["alarm", "list"]).expect("a list"), line);
        let refused = etcdctl.run(&["put", "a", "1"]).expect_err("no space");
        assert!(refused.to_string().contains(NO_SPACE), "{refused:#}");
        // Older ones do not look at alarms.
        if !etcdctl.version.starts_with("3.4.") {
            let refused = etcdctl.run(&["endpoint", "health"]).expect_err("an alarm is not healthy");
            assert!(refused.to_string().contains("NOSPACE"), "{refused:#}");
        }
        if let Some(quorate) = Quorate::find() {
            let (code, said) = quorate.refused(&["--endpoints", &cluster.endpoint(0), "endpoint", "health"]);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("failed to commit proposal: Active Alarm(s): NOSPACE \nError: unhealthy"), "{said}");
        }
        free_space(&cluster, &client).await;
        assert_eq!(etcdctl.run(&["alarm", "disarm"]).expect("it is disarmed"), line);
        assert_eq!(etcdctl.run(&["alarm", "list"]).expect("a list"), "");
        assert_eq!(etcdctl.run(&["put", "a", "1"]).expect("there is space"), "OK\n");
    }
    if Etcdctl::all().is_empty() {
        skip("etcdctl (Debian etcd-client, or cargo xtask install-tools)");
    }
}
