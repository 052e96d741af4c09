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

/// Every acknowledged put is there exactly once, and only puts of unknown outcome may be missing: the version of the
/// key counts how often the server applied any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_applied_twice_while_servers_are_killed() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let (mut done, mut unknown, mut unavailable) = (0, 0, 0);
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(8) {
                match client.kv().put(put("count", &done.to_string())).await {
                    Ok(_) => done += 1,
                    Err(Error::UnknownOutcome { .. }) => unknown += 1,
                    Err(Error::Unavailable { .. }) => unavailable += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            (done, unknown, unavailable)
        }
    });
    for i in [0, 1, 2] {
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.kill(i);
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.restart(i).await;
    }
    let (done, unknown, unavailable) = writer.await.unwrap();
    let version = client.kv().range(range("count")).await.unwrap().kvs[0].version;
    println!("{done} done, {unknown} unknown, {unavailable} unavailable, version {version}");
    assert!(done > 100, "only {done} puts went through");
    assert!((done..=done + unknown).contains(&version), "{done} done, {unknown} unknown, version {version}");
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
