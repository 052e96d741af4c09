//! Sessions, locks and elections against real servers.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::Cluster;
use quorate_client::{Client, Op, Session, Txn};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn keys(client: &Client, prefix: &str) -> usize {
    let options = quorate_client::GetOptions::new().prefix();
    client.get(prefix, options).await.unwrap().kvs.len()
}

async fn wait_keys(client: &Client, prefix: &str, count: usize) {
    let reached = async {
        while keys(client, prefix).await != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("not {count} keys below {prefix}"));
}

async fn session(client: &Client) -> Session {
    client.session(20).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_take_turns_and_tokens_grow() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let inside = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    let shared = session(&cluster.client().await).await;
    for worker in 0..8 {
        // Some of them share a session: that does not let them in together.
        let session = if worker % 2 == 0 { shared.clone() } else { session(&cluster.client().await).await };
        let inside = inside.clone();
        workers.push(tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..5 {
                let lock = session.lock("l").await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                tokens.push(lock.token());
                tokio::time::sleep(Duration::from_millis(2)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                lock.unlock().await.unwrap();
            }
            tokens
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        let tokens = worker.await.unwrap();
        assert!(tokens.is_sorted());
        all.extend(tokens);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40, "each has a token of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_is_given_up() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let (one, two) = (session(&client).await, session(&client).await);
    let held = one.lock("l").await.unwrap();
    let kv = client.get(held.key(), None).await.unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.lease), (held.token(), one.lease()));
    // A wait that is given up leaves no key.
    assert!(timeout(Duration::from_millis(300), two.lock("l")).await.is_err());
    wait_keys(&client, "l/", 1).await;
    // Nor does a lock that is dropped.
    let fence = Txn::new().when([held.is_held()]).then([Op::put("a", "1", None)]);
    assert!(client.txn(fence.clone()).await.unwrap().succeeded);
    drop(held);
    timeout(PATIENCE, two.lock("l")).await.unwrap().unwrap().unlock().await.unwrap();
    assert!(!client.txn(fence).await.unwrap().succeeded, "whoever lost the lock does not write");
    // Nor does a session, whose lease goes.
    let leadership = two.campaign("e", "me").await.unwrap();
    drop((one, two));
    assert_eq!(keys(&client, "e/").await, 1, "a leadership keeps its session");
    drop(leadership);
    wait_keys(&client, "e/", 0).await;
    let gone = async {
        while !client.leases().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the leases go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_session_ends_holding_and_waiting() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let (one, two) = (client.session(3).await.unwrap(), client.session(3).await.unwrap());
    let held = one.lock("l").await.unwrap();
    let waits = {
        let two = two.clone();
        tokio::spawn(async move { two.lock("l").await })
    };
    wait_keys(&client, "l/", 2).await;
    client.lease_revoke(two.lease()).await.unwrap();
    let error = timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_lease_lost() && !two.is_alive(), "{error:?}");
    assert!(two.lock("l").await.unwrap_err().is_lease_lost());
    client.lease_revoke(one.lease()).await.unwrap();
    assert!(timeout(PATIENCE, held.lost()).await.unwrap().is_lease_lost());
    held.unlock().await.unwrap();
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_is_observed_over_the_loss_of_servers() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    let mut observer = client.observe("e");
    let (one, two) = (session(&client).await, session(&client).await);
    let first = one.campaign("e", "one").await.unwrap();
    let said = |leader: quorate_client::LeaderResponse| String::from_utf8(leader.kv.unwrap().value.to_vec()).unwrap();
    assert_eq!(said(timeout(PATIENCE, observer.next()).await.unwrap().unwrap()), "one");
    first.proclaim("uno").await.unwrap();
    assert_eq!(said(timeout(PATIENCE, observer.next()).await.unwrap().unwrap()), "uno");
    let candidate = tokio::spawn(async move { two.campaign("e", "two").await });
    wait_keys(&client, "e/", 2).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    first.resign().await.unwrap();
    let second = timeout(PATIENCE, candidate).await.unwrap().unwrap().unwrap();
    assert_eq!(said(timeout(PATIENCE, observer.next()).await.unwrap().unwrap()), "two");
    cluster.restart(leader).await;
    second.proclaim("due").await.unwrap();
    assert_eq!(said(timeout(PATIENCE, observer.next()).await.unwrap().unwrap()), "due");
}
