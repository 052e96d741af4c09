//! Leases against real servers.

mod common;

use std::time::{Duration, Instant};

use common::Cluster;
use quorate_client::{Error, PutOptions};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_carries_keys_and_takes_them_with_it() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(60).await.unwrap();
    assert_eq!(lease.ttl_seconds, 60);
    client.put("a", "", PutOptions::new().lease(lease.id)).await.unwrap();
    assert_eq!(client.leases().await.unwrap(), [lease.id]);
    let info = client.lease_time_to_live(lease.id).await.unwrap().unwrap();
    assert_eq!((info.granted_seconds, info.keys), (60, vec![b"a".to_vec()]));
    client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(client.get("a", None).await.unwrap().kvs, []);
    assert_eq!(client.lease_time_to_live(lease.id).await.unwrap(), None);
    assert!(client.lease_revoke(lease.id).await.unwrap_err().is_lease_lost());
    assert!(client.put("a", "", PutOptions::new().lease(lease.id)).await.unwrap_err().is_lease_lost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_as_long_as_its_handle_and_no_longer() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(2).await.unwrap();
    client.put("a", "", PutOptions::new().lease(lease.id)).await.unwrap();
    let alive = client.lease_keep_alive(lease.id).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(alive.is_alive());
    assert_eq!(client.get("a", None).await.unwrap().count, 1);
    drop(alive);
    let started = Instant::now();
    while client.get("a", None).await.unwrap().count == 1 {
        assert!(started.elapsed() < Duration::from_secs(8), "the lease goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_lease_is_told() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(3).await.unwrap();
    let mut alive = client.lease_keep_alive(lease.id).await.unwrap();
    client.lease_revoke(lease.id).await.unwrap();
    let error = timeout(Duration::from_secs(3), alive.lost()).await.unwrap();
    assert!(matches!(error, Error::LeaseLost { id, .. } if id == lease.id), "{error:?}");
    assert!(!alive.is_alive());
    assert!(client.lease_keep_alive(lease.id).await.unwrap_err().is_lease_lost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_can_renew_counts_as_lost_after_its_time_to_live() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(3).await.unwrap();
    let mut alive = client.lease_keep_alive(lease.id).await.unwrap();
    let renewed = Instant::now();
    cluster.kill(0);
    let error = timeout(Duration::from_secs(5), alive.lost()).await.unwrap();
    assert!(error.is_lease_lost(), "{error:?}");
    // Not after the server may have given the keys away.
    assert!(renewed.elapsed() < Duration::from_millis(3500), "{:?}", renewed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_survives_the_loss_of_any_server() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(8).await.unwrap();
    client.put("a", "", PutOptions::new().lease(lease.id)).await.unwrap();
    let mut alive = client.lease_keep_alive(lease.id).await.unwrap();
    for i in [0, 1, 2] {
        cluster.kill(i);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.restart(i).await;
        // Without a leader nothing can be renewed: the next one is not killed before the cluster works again.
        client.get("a", None).await.unwrap();
        assert!(alive.is_alive(), "lost with member {i}: {}", alive.lost().await);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(alive.is_alive(), "{}", alive.lost().await);
    assert_eq!(client.get("a", None).await.unwrap().count, 1);
}
