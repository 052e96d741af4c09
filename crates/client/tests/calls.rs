//! Calls against real servers: balancing, retries, deadlines, and what failures say.

mod common;

use std::time::{Duration, Instant};

use common::Cluster;
use quorate_client::{Client, Code, ConnectOptions, Error};
use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_calls_pass_requests_and_answers_through() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let revision = client.kv().put(put("a", "1")).await.unwrap().header.unwrap().revision;
    assert_eq!(revision, 2);
    // Spawned, to show that calls are `Send`.
    let answer = tokio::spawn(async move { client.kv().range(range("a")).await }).await.unwrap().unwrap();
    assert_eq!((answer.count, &answer.kvs[0].value[..], answer.kvs[0].mod_revision), (1, &b"1"[..], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_keep_code_and_text() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let message = "etcdserver: key is not provided".to_owned();
    let empty = client.kv().put(put("", "")).await.unwrap_err();
    assert_eq!(empty, Error::Rejected { code: Code::InvalidArgument, message });
    let future = client.kv().range(RangeRequest { revision: 100, ..range("a") }).await.unwrap_err();
    assert!(future.is_future_revision() && !future.is_compacted(), "{future:?}");
    assert_eq!(future.code(), Some(Code::OutOfRange));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_server_calls_end_at_their_deadline_and_say_that_nothing_happened() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::connect([dead], ConnectOptions::new().timeout(Duration::from_millis(400))).await.unwrap();
    for write in [true, false] {
        let started = Instant::now();
        let error = match write {
            true => client.kv().put(put("a", "1")).await.unwrap_err(),
            false => client.kv().range(range("a")).await.unwrap_err(),
        };
        assert!(matches!(error, Error::Unavailable { code: Code::Unavailable, .. }), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_reads_some_time_and_leaves_writes_unknown() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let hung = Client::connect([cluster.url(follower)], ConnectOptions::new()).await.unwrap();
    let client = cluster.client().await;
    // Connections are open before the server hangs.
    hung.kv().put(put("a", "0")).await.unwrap();
    for _ in 0..3 {
        client.kv().range(range("a")).await.unwrap();
    }
    cluster.freeze(follower, true);
    for _ in 0..6 {
        client.kv().range(range("a")).await.unwrap();
    }
    let error = hung.with_timeout(Duration::from_millis(300)).kv().put(put("a", "1")).await.unwrap_err();
    assert!(error.is_unknown_outcome(), "{error:?}");
    cluster.freeze(follower, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_leader_takes_no_writes_and_says_so() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let client = cluster.client_with(ConnectOptions::new().timeout(Duration::from_secs(1))).await;
    client.kv().put(put("a", "1")).await.unwrap();
    cluster.kill(0);
    cluster.kill(1);
    // Until the third member notices, writes are taken and hang.
    let started = Instant::now();
    let error = loop {
        let error = client.kv().put(put("a", "2")).await.unwrap_err();
        if !error.is_unknown_outcome() {
            break error;
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{error:?}");
    };
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let stale = client.kv().range(RangeRequest { serializable: true, ..range("a") }).await.unwrap();
    assert_eq!(stale.kvs[0].value, "1");
    cluster.restart(0).await;
    client.with_timeout(Duration::from_secs(10)).kv().put(put("a", "3")).await.unwrap();
}

/// Puts the key until the time is up. Returns the numbers of puts that were done and of those with unknown outcome.
async fn put_for(client: Client, key: String, time: Duration) -> (i64, i64) {
    let (mut done, mut unknown) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < time {
        match client.kv().put(put(&key, "")).await {
            Ok(_) => done += 1,
            Err(Error::UnknownOutcome { .. }) => unknown += 1,
            Err(Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    (done, unknown)
}

/// The version of a key counts how often it was put: each acknowledged put once, one of unknown outcome at most once,
/// and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_applied_twice_while_servers_are_killed() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    let keys: Vec<String> = (0..64).map(|i| format!("count{i}")).collect();
    let put = |key: &String| tokio::spawn(put_for(client.clone(), key.clone(), Duration::from_secs(8)));
    let writers: Vec<_> = keys.iter().map(put).collect();
    for i in [0, 1, 2] {
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.kill(i);
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.restart(i).await;
    }
    let mut unknown_total = 0;
    for (key, writer) in keys.iter().zip(writers) {
        let (done, unknown) = writer.await.unwrap();
        unknown_total += unknown;
        let version = client.kv().range(range(key)).await.unwrap().kvs[0].version;
        assert!(done > 0, "no put went through");
        assert!((done..=done + unknown).contains(&version), "{done} done, {unknown} unknown, version {version}");
    }
    println!("{unknown_total} puts of unknown outcome");
    assert!(unknown_total > 0, "the kills hit no put: nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_client_asks_its_endpoint_alone() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    let mut ids = Vec::new();
    for url in client.endpoints() {
        let pinned = client.at(&url).unwrap();
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(pinned.maintenance().status(StatusRequest {}).await.unwrap().header.unwrap().member_id);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        ids.extend(answers);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}
