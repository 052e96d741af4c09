//! Nodes in this process, on real disks and sockets.

use quorate_core::{DeleteRange, KeyRange, LeaseId, Put, RangeRequest, Rejection, Revision};
use quorate_node::env::{BoxFuture, ByteStream, Env, Listener, OsEnv};
use quorate_node::{Config, EngineKind, Error, InitialClusterState, Node, WatchCreate, WatchMessage};
use quorate_wal::{Completion, Disk, LogEntry, OsDisk, Wal, WalError, WalOptions};
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;

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

/// More of them than may be read at a time, under writes: those that wait begin anew, maybe at a later revision.
#[tokio::test(flavor = "multi_thread")]
async fn long_ranges_that_wait_for_each_other_are_whole_and_of_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let node = Arc::new(start(&configs(dir.path(), &[EngineKind::Redb])).await.remove(0));
    // Three chunks.
    let value = "x".repeat(600 << 10);
    for number in 0..5 {
        node.put(put(&format!("long/{number}"), &value)).await.unwrap();
    }
    let reads: Vec<_> = (0..24)
        .map(|_| {
            let node = Arc::clone(&node);
            let range = KeyRange::Interval { start: "long/".into(), end: "long0".into() };
            tokio::spawn(async move { node.range(RangeRequest::new(range)).await })
        })
        .collect();
    for number in 0..20 {
        node.put(put("long/4", &format!("{number}"))).await.unwrap();
    }
    for read in reads {
        let answer = read.await.unwrap().unwrap();
        assert_eq!((answer.body.kvs.len(), answer.body.count), (5, 5));
        let last = answer.body.kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
        assert_eq!(last, answer.header.revision, "each write is of one of these keys");
    }
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

/// Waits until `node` says so, and says so still a while later.
async fn has_leader_becomes(node: &Node, expected: bool) {
    let steady = async {
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            if node.has_leader() != expected {
                since = tokio::time::Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), steady).await.expect("it knows in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_left_alone_knows_that_nobody_leads() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), &[EngineKind::Redb; 3]);
    let nodes = start(&configs).await;
    has_leader_becomes(&nodes[0], true).await;
    let leader = nodes[0].status().leader.unwrap();
    let (first, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.member_id() == leader);
    first[0].shutdown().await;
    has_leader_becomes(others[0], true).await;
    let next = others[0].status().leader.unwrap();
    let (second, last): (Vec<_>, Vec<_>) = others.into_iter().partition(|node| node.member_id() == next);
    // It hands its lead to the last, which may take it and then never hear that anybody follows.
    second[0].shutdown().await;
    has_leader_becomes(last[0], false).await;
    assert!(matches!(
        last[0].put(put("a", "b")).await,
        Err(Error::NoLeader | Error::Timeout | Error::TimeoutLeaderFailure)
    ));
    last[0].shutdown().await;
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

/// The program that has the nodes inside may have tasks that let no other run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_the_caller_that_never_wait_cost_no_leader() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = start(&configs(dir.path(), &[EngineKind::Redb, EngineKind::Redb, EngineKind::Redb])).await;
    let before = nodes[0].status();
    let longer_than_an_election = Config::default().election_timeout * 3;
    let busy: Vec<_> =
        (0..2).map(|_| tokio::spawn(async move { std::thread::sleep(longer_than_an_election) })).collect();
    for task in busy {
        task.await.unwrap();
    }
    for node in &nodes {
        let now = node.status();
        assert_eq!((now.leader, now.term), (before.leader, before.term));
    }
    nodes[0].put(put("after", "x")).await.unwrap();
    for node in &nodes {
        node.shutdown().await;
    }
}

/// The outside as it is, but that some URLs cannot be dialled while they are cut off.
struct Cut {
    outside: OsEnv,
    urls: Mutex<Vec<String>>,
    /// So many times they can be dialled nevertheless.
    first: AtomicUsize,
}

impl Cut {
    fn off(urls: &[String]) -> Arc<Self> {
        Self::off_after(0, urls)
    }

    fn off_after(first: usize, urls: &[String]) -> Arc<Self> {
        Arc::new(Self { outside: OsEnv::new(), urls: Mutex::new(urls.to_vec()), first: AtomicUsize::new(first) })
    }

    fn refuses(&self, url: &String) -> bool {
        self.urls.lock().unwrap().contains(url)
            && self.first.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

impl Env for Cut {
    fn wall_clock_ms(&self) -> u64 {
        self.outside.wall_clock_ms()
    }

    fn random_u64(&self) -> u64 {
        self.outside.random_u64()
    }

    fn monotonic(&self) -> Duration {
        self.outside.monotonic()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.outside.disk()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.outside.lock_dir(dir)
    }

    fn connect(&self, url: String) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        if self.refuses(&url) {
            return Box::pin(async { Err(io::ErrorKind::HostUnreachable.into()) });
        }
        self.outside.connect(url)
    }

    fn listen(&self, url: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        self.outside.listen(url)
    }

    fn runtime(&self) -> io::Result<Option<Handle>> {
        self.outside.runtime()
    }

    fn spawn_dedicated(&self, name: &'static str, task: BoxFuture<()>) {
        self.outside.spawn_dedicated(name, task);
    }

    fn fatal(&self, reason: &str) {
        self.outside.fatal(reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_believes_no_member_that_lags() {
    let dir = tempfile::tempdir().unwrap();
    let all = configs(dir.path(), &[EngineKind::Redb; 5]);
    let url = |member: usize| all[member].listen_peer_urls[0].clone();
    let first: Vec<Config> = all[..3]
        .iter()
        .map(|config| Config {
            learners_max: 2,
            initial_cluster: config.initial_cluster[..3].to_vec(),
            ..config.clone()
        })
        .collect();
    // Whoever dials the lagging member is cut off from it, and it from the others.
    let (around, within) = (Cut::off(&[]), Cut::off(&[url(0), url(1)]));
    let mut nodes = Vec::new();
    for config in &first[..2] {
        nodes.push(Node::start_in(config.clone(), around.clone()).await.unwrap());
    }
    let lagging = Node::start(first[2].clone()).await.unwrap();
    for node in nodes.iter().chain([&lagging]) {
        node.wait_ready().await.unwrap();
    }
    around.urls.lock().unwrap().push(url(2));
    lagging.shutdown().await;
    drop(lagging);
    for member in [3, 4] {
        nodes[0].member_add(vec![url(member)], true).await.unwrap();
    }
    let lagging = Node::start_in(first[2].clone(), within.clone()).await.unwrap();

    // It is asked together with one that knows.
    let joining = |member: usize, through: &[usize]| Config {
        initial_cluster: through.iter().chain([&member]).map(|i| all[member].initial_cluster[*i].clone()).collect(),
        initial_cluster_state: InitialClusterState::Existing,
        ..all[member].clone()
    };
    let joined = tokio::time::timeout(Duration::from_secs(10), Node::start(joining(3, &[2, 0]))).await;
    nodes.push(joined.expect("it needs no second thought").unwrap());

    // It is the only one that can be asked, and knows nothing until it is healed.
    let mut joined = tokio::spawn(Node::start(joining(4, &[2])));
    let early = tokio::time::timeout(Duration::from_secs(4), &mut joined).await;
    assert!(early.is_err(), "what the lagging member says is not taken for an answer");
    around.urls.lock().unwrap().clear();
    within.urls.lock().unwrap().clear();
    let joined = tokio::time::timeout(Duration::from_secs(60), joined).await.expect("it joins in time");
    nodes.extend([joined.unwrap().unwrap(), lagging]);
    for node in &nodes {
        tokio::time::timeout(Duration::from_secs(20), node.wait_ready()).await.expect("ready in time").unwrap();
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

/// A cluster of one, and what the second member is to be started with.
async fn one_and_a_second(dir: &Path) -> (Node, Config) {
    let all = configs(dir, &[EngineKind::Redb; 2]);
    let first = Config { initial_cluster: all[0].initial_cluster[..1].to_vec(), ..all[0].clone() };
    let node = start(&[first]).await.remove(0);
    node.put(put("before", "x")).await.unwrap();
    (node, Config { initial_cluster_state: InitialClusterState::Existing, ..all[1].clone() })
}

/// Waits until a member's figures have this line.
async fn figure(node: &Node, line: &str) {
    let said = async {
        while !node.metrics_text().lines().any(|other| other == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), said).await.expect("it says so in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_votes_when_the_cluster_has_heard_which_directory_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (node, second) = one_and_a_second(dir.path()).await;
    let others: Vec<String> = node.config().listen_peer_urls.clone();
    node.member_add(second.listen_peer_urls.clone(), false).await.unwrap();
    // It asks who is in the cluster. What it has to tell after that does not reach anybody, though the leader reaches it.
    let within = Cut::off_after(1, &others);
    let joined = Node::start_in(second, within.clone()).await.unwrap();
    let caught_up = async {
        while joined.status().applied_index < node.status().applied_index || joined.status().applied_index.get() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), caught_up).await.expect("it catches up");
    // Whoever is ready is promoted ten times in this time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    figure(&joined, "etcd_server_is_learner 1").await;

    within.urls.lock().unwrap().clear();
    figure(&joined, "etcd_server_is_learner 0").await;
    joined.wait_ready().await.unwrap();
    joined.shutdown().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_removed_before_it_knew_anybody_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let all = configs(dir.path(), &[EngineKind::Redb; 2]);
    let around = Cut::off(&all[1].listen_peer_urls);
    let first = Config { initial_cluster: all[0].initial_cluster[..1].to_vec(), ..all[0].clone() };
    let node = Node::start_in(first, around.clone()).await.unwrap();
    node.wait_ready().await.unwrap();
    let id = node.member_add(all[1].listen_peer_urls.clone(), true).await.unwrap().body.0.id;
    // It learns who it is, and nothing more: the leader does not reach it.
    let second = Config { initial_cluster_state: InitialClusterState::Existing, ..all[1].clone() };
    let joined = Node::start(second.clone()).await.unwrap();
    assert_eq!(joined.member_id(), id);
    joined.shutdown().await;
    drop(joined);
    node.member_remove(id).await.unwrap();
    around.urls.lock().unwrap().clear();

    let back = Node::start(second).await.unwrap();
    assert_eq!(back.members(false).await.unwrap().body, [], "it has nobody to ask but by its options");
    let told = tokio::time::timeout(Duration::from_secs(20), back.stopped()).await.expect("it is told");
    assert!(matches!(&told, Error::Removed(text) if text.contains("permanently removed")), "{told}");
    node.shutdown().await;
}

/// Puts an entry of the term before in the place of the last entry of a stopped member's log.
async fn replace_last_entry(data_dir: &Path) {
    let identity = std::fs::read_to_string(data_dir.join("IDENTITY")).unwrap();
    let number = identity.lines().find_map(|line| line.strip_prefix("data_dir_id ")).unwrap();
    let node_nonce = u64::from_str_radix(number, 16).unwrap();
    let options = WalOptions { node_nonce, ..WalOptions::new(data_dir.join("wal")) };
    let hook = Arc::new(|error: &WalError| panic!("{error}"));
    let (wal, writer, _preparer) = Wal::open(Arc::new(OsDisk), options, hook).unwrap();
    let writer = tokio::spawn(writer.run());
    let log = wal.group(0);
    let (term, index) = log.state().last.unwrap();
    log.truncate_after(Some(index - 1)).unwrap();
    let (done, durable) = tokio::sync::oneshot::channel();
    let entry = LogEntry { term: term - 1, index, body: bytes::Bytes::from_static(b"x") };
    log.append(vec![entry], Completion::new(move |outcome| drop(done.send(outcome)))).await.unwrap();
    durable.await.unwrap().unwrap();
    drop(log);
    wal.close();
    writer.await.unwrap();
}

/// As after an end between the fsync of the engine and that of the log, which held an entry of a leader that was deposed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_starts_whose_log_has_another_entry_where_its_state_ends() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), &[EngineKind::Redb]);
    for value in ["one", "two"] {
        let node = start(&configs).await.remove(0);
        node.put(put("k", value)).await.unwrap();
        node.shutdown().await;
    }
    replace_last_entry(&configs[0].data_dir).await;
    for after in ["three", "four"] {
        let node = start(&configs).await.remove(0);
        assert_eq!(value(&node, "k").await.as_deref(), Some("two"));
        node.put(put("after", after)).await.unwrap();
        node.shutdown().await;
    }
    let node = start(&configs).await.remove(0);
    assert_eq!(value(&node, "after").await.as_deref(), Some("four"));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_engine_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(dir.path(), &[EngineKind::Redb]);
    configs[0].wal_keep_bytes = 64 << 10;
    let node = start(&configs).await.remove(0);
    let value = "v".repeat(64 << 10);
    // Until the log does not reach back to the beginning any more.
    let log = configs[0].data_dir.join("wal").join(format!("{:016x}.wal", 1));
    let begun = std::time::Instant::now();
    while log.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the log is never purged");
        node.put(put("k", &value)).await.unwrap();
    }
    node.shutdown().await;
    drop(node);
    std::fs::remove_file(configs[0].data_dir.join("engine.redb")).unwrap();
    let Err(Error::Fatal(text)) = Node::start(configs[0].clone()).await else { panic!("it starts") };
    for words in [
        "the log begins after entry",
        "but the storage engine has nothing after entry 0: its files were lost",
        "`quorate member remove`",
        "`quorate member add`",
        "--initial-cluster-state existing",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// Two changes that exclude each other are asked for at once, and only one of them is made.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_members_with_one_url_that_are_added_at_once_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = start(&configs(dir.path(), &[EngineKind::Memory; 3])).await;
    let urls: Vec<String> = (0..9).map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
    // Each has a URL of its own, too, and so another id.
    let add = |place: usize| nodes[place % 3].member_add(vec![urls[0].clone(), urls[place + 1].clone()], false);
    let outcomes = futures::future::join_all((0..8).map(add)).await;
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::PeerUrlExists))).count();
    assert_eq!((outcomes.iter().filter(|outcome| outcome.is_ok()).count(), refused), (1, 7), "{outcomes:?}");
    assert_eq!(nodes[0].members(true).await.unwrap().body.len(), 4);

    let urls: Vec<String> = (0..4).map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
    let outcomes = futures::future::join_all(urls.iter().map(|url| nodes[0].member_add(vec![url.clone()], true))).await;
    let full = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::TooManyLearners))).count();
    assert_eq!((outcomes.iter().filter(|outcome| outcome.is_ok()).count(), full), (1, 3), "{outcomes:?}");
    for node in &nodes {
        node.shutdown().await;
    }
}
