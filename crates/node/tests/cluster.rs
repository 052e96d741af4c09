//! Nodes in this process, on real disks and sockets.

use quorate_core::{DeleteRange, KeyRange, LeaseId, Put, RangeRequest, Rejection, Revision};
use quorate_node::{Config, EngineKind, Error, Node, WatchCreate, WatchMessage};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn configs(dir: &Path, engines: &[EngineKind]) -> Vec<Config> {
    let urls: Vec<String> = engines.iter().map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
    let cluster: Vec<(String, String)> =
        urls.iter().enumerate().map(|(i, url)| (format!("n{i}"), url.clone())).collect();
    engines
        .iter()
        .enumerate()
        .map(|(i, engine)| Config {
            name: format!("n{i}"),
            data_dir: dir.join(format!("n{i}")),
            listen_peer_urls: vec![urls[i].clone()],
            initial_advertise_peer_urls: vec![urls[i].clone()],
            advertise_client_urls: vec![format!("http://n{i}:2379")],
            initial_cluster: cluster.clone(),
            engine: *engine,
            wal_segment_bytes: 1 << 20,
            ..Config::default()
        })
        .collect()
}

async fn start(configs: &[Config]) -> Vec<Node> {
    let nodes = futures::future::join_all(configs.iter().cloned().map(Node::start)).await;
    let nodes: Vec<Node> = nodes.into_iter().map(|node| node.unwrap()).collect();
    for node in &nodes {
        tokio::time::timeout(Duration::from_secs(20), node.wait_ready()).await.expect("ready in time").unwrap();
    }
    nodes
}

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest::new(KeyRange::Single(key.to_owned().into()))
}

async fn value(node: &Node, key: &str) -> Option<String> {
    let reply = node.range(get(key)).await.unwrap().body;
    reply.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_keeps_what_it_acknowledged_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), &[EngineKind::Redb]);
    let node = start(&configs).await.remove(0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(node.has_leader(), "a member that needs no other leads, however long it hears from none");
    for i in 0..100 {
        let answer = node.put(put(&format!("k{i}"), "v")).await.unwrap();
        assert_eq!(answer.header.revision, Revision::new(i + 2));
    }
    let lease = node.lease_grant(LeaseId::NONE, 100).await.unwrap().body;
    node.put(Put { lease: lease.0, ..put("leased", "x") }).await.unwrap();
    node.delete_range(DeleteRange { range: KeyRange::Single("k7".into()), prev_kv: false }).await.unwrap();
    node.compact(Revision::new(50), true).await.unwrap();
    let hash = node.hash_kv(Revision::ZERO).await.unwrap().body;
    node.shutdown().await;
    drop(node);

    let node = start(&configs).await.remove(0);
    assert_eq!(value(&node, "k5").await.as_deref(), Some("v"));
    assert_eq!(value(&node, "k7").await, None);
    assert_eq!(node.hash_kv(Revision::ZERO).await.unwrap().body, hash);
    let ttl = node.lease_time_to_live(lease.0, true).await.unwrap().body;
    assert_eq!((ttl.granted_ttl_seconds, ttl.keys.len()), (100, 1));
    let old = RangeRequest { revision: Revision::new(10), ..get("k1") };
    assert_eq!(node.range(old).await.unwrap_err(), Error::Rejected(Rejection::Compacted));
    assert_eq!(node.put(put("after", "x")).await.unwrap().header.revision, Revision::new(104));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_of_different_engines_agree_and_survive_the_loss_of_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), &[EngineKind::Redb, EngineKind::Sled, EngineKind::Redb]);
    let mut nodes = start(&configs).await;
    for (i, node) in nodes.iter().enumerate() {
        node.put(put(&format!("from{i}"), "x")).await.unwrap();
        // Written through one member, read through every other.
        for other in &nodes {
            assert_eq!(value(other, &format!("from{i}")).await.as_deref(), Some("x"));
        }
    }
    let members = nodes[0].members(true).await.unwrap().body;
    assert_eq!(members.iter().filter(|m| m.name.starts_with('n') && !m.is_learner).count(), 3);

    let leader = nodes[0].status().leader.unwrap();
    let at = nodes.iter().position(|n| n.member_id() == leader).unwrap();
    let health = nodes[0].cluster_health().await.unwrap();
    assert_eq!(health.iter().filter(|m| m.state.as_ref().is_ok_and(|s| s.errors.is_empty())).count(), 3, "{health:?}");
    assert_eq!(health.iter().filter(|m| m.state.as_ref().is_ok_and(|s| s.engine == "sled")).count(), 1);
    assert_eq!(health.iter().filter(|m| m.state.as_ref().is_ok_and(|s| s.is_leader)).count(), 1);
    let lost = nodes.remove(at);
    lost.shutdown().await;
    drop(lost);
    for node in &nodes {
        node.put(put("after", "loss")).await.unwrap();
        assert_eq!(value(node, "after").await.as_deref(), Some("loss"));
    }
    nodes.push(start(&configs[at..=at]).await.remove(0));
    assert_eq!(value(&nodes[2], "after").await.as_deref(), Some("loss"));
    let hashes: Vec<_> = futures::future::join_all(nodes.iter().map(|n| n.hash_kv(Revision::new(6)))).await;
    let hashes: Vec<_> = hashes.into_iter().map(|h| h.unwrap().body).collect();
    assert!(hashes.windows(2).all(|w| w[0] == w[1]), "{hashes:?}");
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_on_a_follower_sees_every_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = start(&configs(dir.path(), &[EngineKind::Redb; 3])).await;
    let leader = nodes[0].status().leader.unwrap();
    let follower = nodes.iter().find(|n| n.member_id() != leader).unwrap();
    let (control, mut stream) = follower.watch_stream();
    control.create(WatchCreate {
        watch_id: 0,
        range: KeyRange::From { start: bytes::Bytes::new() },
        start_revision: Revision::new(2),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: true,
    });
    for i in 0..50 {
        nodes[i % 3].put(put("k", &i.to_string())).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event in time");
        match message.expect("the stream goes on") {
            WatchMessage::Created { .. } => {}
            WatchMessage::Events { events, .. } => seen.extend(events.into_iter().map(|e| e.record.rev.main.get())),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(seen, (2..52).collect::<Vec<_>>());
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_expire_in_time_and_take_their_keys_along() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = start(&configs(dir.path(), &[EngineKind::Redb; 3])).await;
    let (id, ttl) = nodes[0].lease_grant(LeaseId::NONE, 1).await.unwrap().body;
    assert_eq!(ttl, 2, "raised to the minimum");
    let granted = tokio::time::Instant::now();
    for (i, node) in nodes.iter().enumerate() {
        node.put(Put { lease: id, ..put(&format!("l{i}"), "x") }).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(nodes[1].lease_keep_alive(id).await.unwrap().body, 2);
    let renewed = tokio::time::Instant::now();
    while value(&nodes[2], "l0").await.is_some() {
        assert!(granted.elapsed() < Duration::from_secs(8), "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(renewed.elapsed() >= Duration::from_secs(2), "expired early: after {:?}", renewed.elapsed());
    assert_eq!(value(&nodes[0], "l2").await, None, "all keys in one revision");
    assert_eq!(nodes[0].lease_keep_alive(id).await.unwrap().body, 0);
    for node in &nodes {
        node.shutdown().await;
    }
}
