//! Locks and elections as the server runs them for its clients.

use crate::harness::{TestServer, outcome, start};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_proto::v3lockpb::lock_client::LockClient;
use quorate_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

/// Long enough for whatever is going to happen.
const PATIENCE: Duration = Duration::from_secs(20);

impl TestServer {
    async fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel().await)
    }

    async fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel().await)
    }

    async fn granted(&self) -> i64 {
        self.lease().await.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner().id
    }

    /// Asks for a lock on a connection of its own, which ends with the task.
    async fn ask(&self, name: &'static str, lease: i64) -> JoinHandle<Result<LockResponse, Status>> {
        let mut client = self.lock().await;
        let request = LockRequest { name: name.into(), lease };
        tokio::spawn(async move { client.lock(request).await.map(tonic::Response::into_inner) })
    }

    /// Keys below a prefix, as `key=value`, oldest first.
    async fn keys(&self, prefix: &'static str) -> Vec<String> {
        let request = pb::RangeRequest {
            key: prefix.into(),
            range_end: [prefix.as_bytes(), b"\xff"].concat().into(),
            sort_order: pb::range_request::SortOrder::Ascend as i32,
            sort_target: pb::range_request::SortTarget::Create as i32,
            ..Default::default()
        };
        let answer = self.kv().await.range(request).await.unwrap().into_inner();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        answer.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
    }

    /// Waits until there are `count` keys below a prefix.
    async fn wait_keys(&self, prefix: &'static str, count: usize) {
        let reached = async {
            while self.keys(prefix).await.len() != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("not {count}: {:?}", self.keys(prefix).await);
        }
    }

    async fn is_rewritten(&self, key: String) -> bool {
        let request = pb::RangeRequest { key: key.into(), ..Default::default() };
        let answer = self.kv().await.range(request).await.unwrap().into_inner();
        answer.kvs.iter().any(|kv| kv.version > 1)
    }

    async fn unlock(&self, key: &[u8]) {
        self.lock().await.unlock(UnlockRequest { key: key.to_vec().into() }).await.unwrap();
    }

    async fn revoke(&self, id: i64) {
        self.lease().await.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
    }
}

async fn answer<T>(task: JoinHandle<Result<T, Status>>) -> Result<T, Status> {
    timeout(PATIENCE, task).await.expect("an answer in time").expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_from_one_to_the_next_in_the_order_of_arrival() {
    let server = start(&[]).await;
    let mut waiting = Vec::new();
    for place in 1..=4 {
        let lease = server.granted().await;
        let task = server.ask("l", lease).await;
        server.wait_keys("l/", place).await;
        waiting.push((lease, task));
    }
    let mut revision = 0;
    for (place, (lease, task)) in waiting.into_iter().enumerate() {
        let held = answer(task).await.unwrap();
        assert_eq!(held.key, format!("l/{lease:x}"));
        let header = held.header.unwrap();
        assert!(header.revision > revision && header.raft_term > 0, "{header:?}");
        revision = header.revision;
        assert_eq!(server.keys("l/").await.len(), 4 - place);
        // The same lease holds it already.
        let again = answer(server.ask("l", lease).await).await.unwrap();
        assert_eq!(again.key, held.key);
        server.unlock(&held.key).await;
    }
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_waiting_leaves_the_queue() {
    let server = start(&[]).await;
    let held = answer(server.ask("l", server.granted().await).await).await.unwrap();
    // One leaves by its connection, with a lease of its own or the server's, and one by its deadline.
    let own = server.ask("l", server.granted().await).await;
    let made = server.ask("l", 0).await;
    server.wait_keys("l/", 3).await;
    own.abort();
    made.abort();
    let mut request = tonic::Request::new(LockRequest { name: "l".into(), lease: server.granted().await });
    request.set_timeout(Duration::from_millis(300));
    let late = server.lock().await.lock(request).await;
    assert!(late.is_err());
    server.wait_keys("l/", 1).await;
    server.unlock(&held.key).await;
    server.wait_keys("l/", 0).await;
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_try_keeps_the_place_of_the_first() {
    let server = start(&[]).await;
    let held = answer(server.ask("l", server.granted().await).await).await.unwrap();
    let lease = server.granted().await;
    let first = server.ask("l", lease).await;
    server.wait_keys("l/", 2).await;
    let second = server.ask("l", lease).await;
    let joined = async {
        while !server.is_rewritten(format!("l/{lease:x}")).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, joined).await.expect("the second try joins the first");
    // The server hears late that the first try is over: the key is the second one's by now.
    first.abort();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.unlock(&held.key).await;
    let held = answer(second).await.unwrap();
    assert_eq!(server.keys("l/").await, [format!("l/{lease:x}=")]);
    server.unlock(&held.key).await;
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_loses_its_session_is_told_and_holds_nobody_up() {
    let server = start(&[]).await;
    let (first, second, third) = (server.granted().await, server.granted().await, server.granted().await);
    answer(server.ask("l", first).await).await.unwrap();
    let waits = server.ask("l", second).await;
    server.wait_keys("l/", 2).await;
    let waits_longer = server.ask("l", third).await;
    server.wait_keys("l/", 3).await;
    server.revoke(second).await;
    assert_eq!(outcome(answer(waits).await), "2 mutex: session is expired");
    assert_eq!(outcome(answer(server.ask("l", second).await).await), "2 etcdserver: requested lease not found");
    server.revoke(first).await;
    answer(waits_longer).await.unwrap();
    assert_eq!(server.keys("l/").await, [format!("l/{third:x}=")]);
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_the_server_makes_one_of_a_minute() {
    let server = start(&[]).await;
    let held = answer(server.ask("l", 0).await).await.unwrap();
    let id = i64::from_str_radix(std::str::from_utf8(&held.key[2..]).unwrap(), 16).unwrap();
    let left = pb::LeaseTimeToLiveRequest { id, keys: true };
    let left = server.lease().await.lease_time_to_live(left).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![held.key.clone()]));
    server.unlock(&held.key).await;
    // As in etcd, it is no error to unlock what is not locked, unless it is nothing at all.
    server.unlock(&held.key).await;
    let nothing = server.lock().await.unlock(UnlockRequest::default()).await;
    assert_eq!(outcome(nothing), "2 etcdserver: key is not provided");
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_end_when_the_server_stops() {
    let server = start(&[]).await;
    answer(server.ask("l", server.granted().await).await).await.unwrap();
    let waits = server.ask("l", server.granted().await).await;
    server.wait_keys("l/", 2).await;
    let began = std::time::Instant::now();
    server.server.shutdown().await;
    assert!(answer(waits).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_counts_in_the_bound_of_requests() {
    let server = start(&["--max-concurrent-requests=7"]).await;
    answer(server.ask("l", server.granted().await).await).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(server.ask("l", server.granted().await).await);
        server.wait_keys("l/", waiting.len() + 1).await;
    }
    // Each has its own place and one for the end; the last one's finds none.
    let beyond = answer(server.ask("l", server.granted().await).await).await;
    server.wait_keys("l/", 4).await;
    if let Ok(held) = &beyond {
        panic!("{held:?}");
    }
    waiting.iter().for_each(JoinHandle::abort);
    server.wait_keys("l/", 1).await;
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_who_says_what_it_is() {
    let server = start(&[]).await;
    let mut client = server.election().await;
    let leader = LeaderRequest { name: "e".into() };
    assert_eq!(outcome(client.leader(leader.clone()).await), "2 election: no leader");
    let missing = "2 \"leader\" field must be provided";
    assert_eq!(outcome(client.resign(ResignRequest::default()).await), missing);
    assert_eq!(outcome(client.proclaim(ProclaimRequest::default()).await), missing);

    let mut observed = client.observe(leader.clone()).await.unwrap().into_inner();
    let lease = server.granted().await;
    let campaign = |lease, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let won = client.campaign(campaign(lease, "one")).await.unwrap().into_inner();
    let key = won.leader.clone().unwrap();
    assert_eq!(key.key, format!("e/{lease:x}"));
    assert_eq!((key.lease, key.rev), (lease, won.header.unwrap().revision));
    // The same lease leads already, and says something else.
    let again = client.campaign(campaign(lease, "uno")).await.unwrap().into_inner();
    assert_eq!(again.leader.unwrap(), key);
    let proclaim =
        |leader: &LeaderKey, value: &'static str| ProclaimRequest { leader: Some(leader.clone()), value: value.into() };
    client.proclaim(proclaim(&key, "eins")).await.unwrap();
    let stale = LeaderKey { rev: key.rev - 1, ..key.clone() };
    assert_eq!(outcome(client.proclaim(proclaim(&stale, "zero")).await), "2 election: not leader");
    // No error, and no effect.
    client.resign(ResignRequest { leader: Some(stale) }).await.unwrap();
    assert_eq!(client.leader(leader.clone()).await.unwrap().into_inner().kv.unwrap().value, "eins");

    let mut candidate = server.election().await;
    let other = server.granted().await;
    let waits = tokio::spawn(async move { candidate.campaign(campaign(other, "two")).await });
    server.wait_keys("e/", 2).await;
    client.resign(ResignRequest { leader: Some(key.clone()) }).await.unwrap();
    let second = answer(waits).await.unwrap().into_inner().leader.unwrap();
    assert!(second.rev > key.rev);
    assert_eq!(outcome(client.proclaim(proclaim(&key, "late")).await), "2 election: not leader");

    let mut said = Vec::new();
    while said.last().is_none_or(|last| last != "two") {
        let leader = timeout(PATIENCE, observed.message()).await.unwrap().unwrap().unwrap();
        let kv = leader.kv.unwrap();
        assert!(leader.header.unwrap().revision >= kv.mod_revision);
        said.push(String::from_utf8(kv.value.to_vec()).unwrap());
    }
    assert_eq!(said, ["one", "uno", "eins", "two"]);
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_without_its_lease_does_not_win() {
    let server = start(&[]).await;
    let mut client = server.election().await;
    let campaign = |lease| CampaignRequest { name: "e".into(), lease, value: "v".into() };
    let key = client.campaign(campaign(server.granted().await)).await.unwrap().into_inner().leader;
    let lost = server.granted().await;
    let mut candidate = server.election().await;
    let waits = tokio::spawn(async move { candidate.campaign(campaign(lost)).await });
    server.wait_keys("e/", 2).await;
    server.revoke(lost).await;
    assert_eq!(outcome(answer(waits).await), "2 etcdserver: requested lease not found");
    client.resign(ResignRequest { leader: key }).await.unwrap();
    server.wait_keys("e/", 0).await;
    server.server.shutdown().await;
}
