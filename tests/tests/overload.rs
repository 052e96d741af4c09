//! Too much of everything, and clients that do harm, at members that may have little memory: the kernel kills who takes more than
//! its control group may have. Afterwards all is as before: the leader, the members' processes, and how fast other clients are served.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, WatchCreateRequest, WatchRequest};
use quorate_tests::client::{Client, bytes, prefix_end};
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::memory::Usage;
use quorate_tests::tools::skip;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// What one member may have, the pages of its files included.
const MEMORY_MIB: u32 = 512;
const ATTACK: Duration = Duration::from_secs(6);
const PROBES: usize = 60;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_attack_all_is_as_before() {
    // Patient members: that a machine is busy with the attackers themselves is no reason for an election.
    let spec = ClusterSpec::new(3).flag("--heartbeat-interval=300").flag("--election-timeout=3000");
    let Some(cluster) = Cluster::start(spec.in_memory_of(MEMORY_MIB)).await else { return };
    if !cluster.is_quorate() {
        return skip("Quorate as the server");
    }
    let leader = cluster.wait_leader().await;
    let other = cluster.client((leader + 1) % 3);
    let before = latency(&other).await;
    let status = cluster.client(leader).status().await.expect("a status");

    let peak = attack(&cluster, leader).await;

    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = latency(&other).await;
    println!("a put took {before:?} before and {after:?} after; the leader had {} MiB at most", peak >> 20);
    let now = cluster.client(leader).status().await.expect("a status");
    assert_eq!((now.leader, now.raft_term), (status.leader, status.raft_term), "the leader is another one");
    for member in 0..3 {
        assert_eq!(cluster.memory(member).kills().expect("a count"), 0, "m{member} had too much memory");
    }
    assert!(after < before * 5 + Duration::from_millis(200), "{before:?} before, {after:?} after");
    cluster.assert_replicas_equal().await;
}

/// How long a put takes, in the middle.
async fn latency(client: &Client) -> Duration {
    let mut took = Vec::new();
    for number in 0..PROBES {
        let start = Instant::now();
        client.put("other", &number.to_string()).await.expect("a put");
        took.push(start.elapsed());
    }
    took.sort();
    took[PROBES / 2]
}

/// Everything at once, at the leader; gives the most memory that its process had.
async fn attack(cluster: &Cluster, leader: usize) -> u64 {
    let endpoint = cluster.endpoint(leader);
    let mut attackers = JoinSet::new();
    for number in 0..32 {
        attackers.spawn(put_huge_values(Client::new(&endpoint, Duration::from_secs(2)), number));
    }
    for number in 0..8 {
        attackers.spawn(read_huge_lists(Client::new(&endpoint, Duration::from_secs(2))));
        attackers.spawn(grant_leases(Client::new(&endpoint, Duration::from_secs(2))));
        attackers.spawn(watch_and_never_read(Client::new(&endpoint, Duration::from_secs(2)), 500));
        attackers.spawn(write_nonsense(endpoint.clone(), number));
    }
    attackers.spawn(read_all_at_once(Client::new(&endpoint, Duration::from_secs(2))));
    attackers.spawn(begin_and_never_end(endpoint.clone(), 200));
    let (start, mut peak) = (Instant::now(), 0);
    while start.elapsed() < ATTACK {
        let usage = Usage::of(cluster.pid(leader)).expect("the leader runs");
        peak = peak.max(usage.resident_bytes);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    attackers.shutdown().await;
    peak
}

// Whatever the attackers are told, refusals included, they go on until they are stopped.

async fn put_huge_values(client: Client, number: usize) {
    let value = "x".repeat(1 << 20);
    loop {
        let _ = client.put(&format!("attack/{number}"), &value).await;
    }
}

async fn read_huge_lists(client: Client) {
    loop {
        let _ = client.get_prefix("attack/").await;
    }
}

async fn grant_leases(client: Client) {
    loop {
        let _ = client.within(client.lease().lease_grant(LeaseGrantRequest { ttl: 60, id: 0 })).await;
    }
}

async fn watch_and_never_read(client: Client, watchers: usize) {
    let (requests, receiver) = mpsc::channel(1);
    let Ok(_events) = client.watch().watch(ReceiverStream::new(receiver)).await else { return };
    for _ in 0..watchers {
        let create = WatchCreateRequest {
            key: bytes("attack/"),
            range_end: prefix_end("attack/"),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        if requests.send(request).await.is_err() {
            break;
        }
    }
    std::future::pending::<()>().await;
}

async fn read_all_at_once(client: Client) {
    loop {
        let mut calls = JoinSet::new();
        for _ in 0..2000 {
            let client = client.clone();
            calls.spawn(async move { client.get("attack/none", false).await });
        }
        calls.join_all().await;
    }
}

/// Frames whose lengths and kinds mean nothing.
async fn write_nonsense(endpoint: String, seed: u64) {
    let address = endpoint.trim_start_matches("http://");
    let mut state = seed.wrapping_add(1);
    loop {
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let nonsense: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        let _ = stream.write_all(&[PREFACE, &nonsense].concat()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connections on which a request begins.
async fn begin_and_never_end(endpoint: String, count: usize) {
    let address = endpoint.trim_start_matches("http://");
    let mut open = Vec::new();
    while open.len() < count {
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let _ = stream.write_all(b"POST /v3/kv/put HTTP/1.1\r\nContent-Le").await;
        open.push(stream);
    }
    std::future::pending::<()>().await;
}
