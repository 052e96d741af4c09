//! Data that differ between members though every checksum is right: found at the start of the member, and while it runs. And
//! members that rebuild themselves then, or when their disk has flipped a bit.
//! Quorate only: the tests write into its data directory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_core::{Change, GroupId};
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, CompactionRequest, HashKvRequest};
use quorate_storage::{EngineConfig, EngineKind, Store, StoreConfig, open_engine};
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engines::Engines;
use quorate_tests::http::ask;
use tonic::Code;

/// How long a check may take to come round.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives `key` another value in a data directory that no process has open, as if the member had never had the right one.
fn alter(data_dir: &Path, engine: EngineKind, key: &str) {
    let engine = open_engine(engine, data_dir, EngineConfig::default()).expect("the engine opens");
    let store = Arc::new(Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).expect("the store opens"));
    let mut export = store.export();
    let mut installer = store.begin_install().expect("an install begins");
    let mut altered = 0;
    loop {
        let records = export.next(1 << 20).expect("the records are read");
        if records.is_empty() {
            break;
        }
        for mut record in records {
            if let Change::Put { value, .. } = &mut record.change
                && record.key == key
            {
                *value = "altered".into();
                altered += 1;
            }
            installer.push(record).expect("the record is written");
        }
    }
    assert_eq!(altered, 1, "{key} is there once");
    installer.finish(export.meta()).expect("the install ends");
    drop(export);
    store.flush().expect("it is made durable");
}

fn engine_of(member: usize) -> EngineKind {
    EngineKind::from_name(Engines::Mixed.of(member)).expect("an engine")
}

/// A cluster with some data, equal everywhere; and nothing on a non-Quorate server.
async fn start(spec: ClusterSpec) -> Option<Cluster> {
    let cluster = Cluster::start(spec).await?;
    if !cluster.is_quorate() {
        return None;
    }
    let client = cluster.client(0);
    for number in 0..100 {
        client.put(&format!("key{number}"), "right").await.expect("a put");
    }
    cluster.assert_replicas_equal().await;
    Some(cluster)
}

/// The ids of the members for which CORRUPT is raised.
async fn corrupt(client: &Client) -> Vec<u64> {
    let alarms = client.within(client.maintenance().alarm(AlarmRequest::default())).await.expect("a list").alarms;
    alarms.iter().filter(|alarm| alarm.alarm == AlarmType::Corrupt as i32).map(|alarm| alarm.member_id).collect()
}

async fn id(client: &Client) -> u64 {
    client.status().await.expect("a status").header.expect("a header").member_id
}

/// Stops a member, alters its data, and starts it again.
async fn corrupt_member(cluster: &mut Cluster, member: usize) {
    cluster.terminate(member).await;
    alter(&cluster.data_dir(member), engine_of(member), "key42");
    cluster.restart(member);
}

async fn wait_for_alarm(client: &Client, member: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let raised = corrupt(client).await;
        if !raised.is_empty() {
            assert_eq!(raised, [member], "the one that is wrong, and no other");
            return;
        }
        assert!(Instant::now() < deadline, "nobody has noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_data_differ_does_not_start() {
    for member in 0..2 {
        let spec = ClusterSpec::new(3).quorate_flag("--self-rebuild=false");
        let Some(mut cluster) = start(spec).await else { return };
        corrupt_member(&mut cluster, member).await;
        let status = cluster.wait_exit(member, PATIENCE).await.expect("it ends by itself");
        assert_eq!(status.code(), Some(1));
        let log = cluster.log(member);
        for word in ["found data inconsistency with peers", "quorate member remove", "--initial-cluster-state existing"]
        {
            assert!(log.contains(word), "the log says what to do ({word}): {log}");
        }
        // The others are not touched, and the right ones start whatever the wrong one says.
        let client = cluster.client(2);
        client.put("after", "1").await.expect("the majority goes on");
        assert_eq!(corrupt(&client).await, [0; 0]);
        cluster.terminate(2).await;
        cluster.restart(2);
        cluster.wait_leader().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_finds_a_member_whose_data_differ() {
    let spec = ClusterSpec::new(3)
        .quorate_flag("--self-rebuild=false")
        .quorate_flag("--experimental-initial-corrupt-check=false")
        .quorate_flag("--corrupt-check-time=1s");
    let Some(mut cluster) = start(spec).await else { return };
    // Checks have come round by now: they find nothing where nothing is.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(corrupt(&cluster.client(0)).await, [0; 0]);
    corrupt_member(&mut cluster, 0).await;
    cluster.wait_serving().await;
    let (wrong, client) = (id(&cluster.client(0)).await, cluster.client(1));
    wait_for_alarm(&client, wrong).await;
    let refusal = client.put("a", "1").await.expect_err("corrupt");
    assert_eq!((refusal.code(), refusal.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
    assert!(client.get("key42", false).await.is_ok(), "reads go on");

    // It is in the replicated state: whoever starts next knows it.
    cluster.kill9(1);
    cluster.restart(1);
    cluster.wait_serving().await;
    assert_eq!(corrupt(&cluster.client(1)).await, [wrong]);

    let action = AlarmAction::Deactivate.into();
    let request = AlarmRequest { action, member_id: wrong, alarm: AlarmType::Corrupt.into() };
    let client = cluster.client(2);
    let disarmed = client.within(client.maintenance().alarm(request)).await.expect("it is disarmed");
    assert_eq!(disarmed.alarms, [AlarmMember { member_id: wrong, alarm: AlarmType::Corrupt.into() }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_has_the_members_compared() {
    let spec = ClusterSpec::new(3)
        .quorate_flag("--self-rebuild=false")
        .quorate_flag("--feature-gates=InitialCorruptCheck=false")
        .quorate_flag("--corrupt-check-time=0s")
        .quorate_flag("--compact-hash-check-time=1s");
    let Some(mut cluster) = start(spec).await else { return };
    corrupt_member(&mut cluster, 1).await;
    cluster.wait_serving().await;
    let (wrong, client) = (id(&cluster.client(1)).await, cluster.client(0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(corrupt(&client).await, [0; 0], "nothing was compacted");
    let revision = client.put("more", "1").await.expect("a put");
    let compaction = CompactionRequest { revision, physical: true };
    client.within(client.kv().compact(compaction)).await.expect("it compacts");
    wait_for_alarm(&client, wrong).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_are_equal_at_equal_revisions_on_all_engines() {
    let Some(cluster) = start(ClusterSpec::new(3)).await else { return };
    let client = cluster.client(0);
    let compaction = CompactionRequest { revision: 50, physical: true };
    client.within(client.kv().compact(compaction)).await.expect("it compacts");
    cluster.assert_replicas_equal().await;
    for revision in [0, 50, 77, 101] {
        let mut hashes = Vec::new();
        for member in 0..3 {
            let client = cluster.client(member);
            let request = HashKvRequest { revision };
            let answer = client.within(client.maintenance().hash_kv(request)).await.expect("a hash");
            assert_eq!(answer.compact_revision, 50);
            assert_eq!(answer.hash_revision, if revision == 0 { 101 } else { revision });
            hashes.push(answer.hash);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "at {revision}: {hashes:?}");
    }
    let too_old = client.within(client.maintenance().hash_kv(HashKvRequest { revision: 49 })).await;
    assert_eq!(too_old.expect_err("compacted").message(), "etcdserver: mvcc: required revision has been compacted");
}

/// Puts `keys` through all members in turn as long as it lives, and knows what was acknowledged.
struct Load {
    task: tokio::task::JoinHandle<Vec<String>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(cluster: &Cluster, prefix: &'static str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (clients, stopped) = ((0..cluster.len()).map(|i| cluster.client(i)).collect::<Vec<_>>(), stop.clone());
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("{prefix}{number:05}");
                if clients[number % clients.len()].put(&key, &key).await.is_ok() {
                    acknowledged.push(key);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        });
        Load { task, stop }
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load ends")
    }
}

/// Waits until the member has rebuilt itself, serves again, and no CORRUPT alarm stands.
async fn wait_rebuilt(cluster: &Cluster, member: usize) {
    let deadline = Instant::now() + PATIENCE;
    let has_rebuilt = || cluster.log(member).contains("this member has rebuilt its state from the others");
    while !has_rebuilt() {
        assert!(Instant::now() < deadline, "it has not rebuilt itself: {}", cluster.log(member));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.wait_member_serving(member).await;
    while !corrupt(&cluster.client(member)).await.is_empty() {
        assert!(Instant::now() < deadline, "the alarm stands");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the member refuses even a read of its own state.
async fn wait_out_of_service(client: &Client) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.get("key42", true).await {
            Err(status) if status.message().contains("the member is out of service until it has rebuilt itself") => {
                assert_eq!(status.code(), Code::Unavailable);
                return;
            }
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "it serves what is wrong"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn assert_has(client: &Client, keys: &[String]) {
    assert!(!keys.is_empty());
    for key in keys {
        let (_, kv) = client.get(key, false).await.expect("a read");
        assert_eq!(kv.expect("an acknowledged key").value, key.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_data_differ_leaves_service_and_rebuilds_itself() {
    let spec = ClusterSpec::new(3)
        .quorate_flag("--experimental-initial-corrupt-check=false")
        .quorate_flag("--corrupt-check-time=1s");
    let Some(mut cluster) = start(spec).await else { return };
    // The leader: it has to hand over first.
    let wrong = cluster.leader().await.expect("a leader");
    corrupt_member(&mut cluster, wrong).await;
    let load = Load::start(&cluster, "load/");
    wait_out_of_service(&cluster.client(wrong)).await;
    wait_rebuilt(&cluster, wrong).await;
    let acknowledged = load.stop().await;
    let others = (0..3).filter(|member| *member != wrong);
    assert!(others.clone().any(|member| cluster.log(member).contains("raising CORRUPT")), "there was an alarm");
    assert!(cluster.log(wrong).contains("this member leaves service"), "{}", cluster.log(wrong));
    for member in others {
        assert!(!cluster.log(member).contains("this member leaves service"), "the others are well");
    }
    assert_has(&cluster.client(wrong), &acknowledged).await;
    let (_, kv) = cluster.client(wrong).get("key42", true).await.expect("a read of its own state");
    assert_eq!(kv.expect("the key").value, "right");
    cluster.assert_replicas_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_contradicted_at_its_start_rebuilds_itself_before_it_takes_part() {
    let Some(mut cluster) = start(ClusterSpec::new(3)).await else { return };
    corrupt_member(&mut cluster, 1).await;
    let load = Load::start(&cluster, "load/");
    wait_rebuilt(&cluster, 1).await;
    let acknowledged = load.stop().await;
    assert_has(&cluster.client(1), &acknowledged).await;
    cluster.assert_replicas_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_scrubbed_and_the_member_rebuilds_itself() {
    // Nobody reads that row but the scrubber.
    let spec = ClusterSpec::new(3).quorate_flag("--experimental-initial-corrupt-check=false");
    rebuilds_after_a_flip(spec.quorate_flag("--scrub-interval=1s")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_met_at_the_start_and_the_member_rebuilds_itself() {
    rebuilds_after_a_flip(ClusterSpec::new(3)).await;
}

async fn rebuilds_after_a_flip(spec: ClusterSpec) {
    let Some(mut cluster) = start(spec.on(Engines::Redb)).await else { return };
    let flipped = 2;
    tokio::time::sleep(CHECKPOINTED).await;
    cluster.terminate(flipped).await;
    flip_in_engine(&cluster.data_dir(flipped));
    cluster.restart(flipped);
    let load = Load::start(&cluster, "load/");
    wait_rebuilt(&cluster, flipped).await;
    let acknowledged = load.stop().await;
    assert_has(&cluster.client(flipped), &acknowledged).await;
    let (_, kv) = cluster.client(flipped).get("key42", true).await.expect("a read of its own state");
    assert_eq!(kv.expect("the key").value, "right");
    cluster.assert_replicas_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_member_says_that_it_is_damaged_and_serves_no_wrong_value() {
    let spec = ClusterSpec::new(1).on(Engines::Redb).quorate_flag("--scrub-interval=1s");
    let Some(mut cluster) = start(spec).await else { return };
    tokio::time::sleep(CHECKPOINTED).await;
    cluster.terminate(0).await;
    flip_in_engine(&cluster.data_dir(0));
    cluster.restart(0);
    cluster.wait_serving().await;
    let client = cluster.client(0);
    let me = id(&client).await;
    wait_for_alarm(&client, me).await;
    assert!(cluster.log(0).contains("restore a snapshot"), "{}", cluster.log(0));
    let mut refused = 0;
    for number in 0..100 {
        match client.get(&format!("key{number}"), false).await {
            Ok((_, kv)) => assert_eq!(kv.expect("a key").value, "right", "key{number}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= 1, "what is damaged is not served");
}

/// After so long without a write the index checkpoint is through: a start reads no record then, and what is damaged is found
/// by whoever reads it first.
const CHECKPOINTED: Duration = Duration::from_secs(5);

/// Overwrites half of redb's pages, which it does not check before it uses them; not its header.
fn wreck_engine(data_dir: &Path) {
    let path = data_dir.join("engine.redb");
    let mut content = std::fs::read(&path).expect("the engine's file");
    let half = content.len() / 2;
    content[4096..half].fill(0xff);
    std::fs::write(&path, content).expect("the file is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_cannot_read_its_file_is_an_error_with_the_place_or_a_rebuild() {
    let Some(mut cluster) = start(ClusterSpec::new(3).on(Engines::Redb)).await else { return };
    for (member, flags) in [(1, &["--self-rebuild=false"][..]), (2, &[])] {
        cluster.terminate(member).await;
        wreck_engine(&cluster.data_dir(member));
        cluster.restart_with(member, flags);
        if flags.is_empty() {
            wait_rebuilt(&cluster, member).await;
        } else {
            let status = cluster.wait_exit(member, PATIENCE).await.expect("it ends");
            assert_eq!(status.code(), Some(1), "{}", cluster.log(member));
            let log = cluster.log(member);
            assert!(log.contains("engine.redb is corrupt") && log.contains("quorate member replace"), "{log}");
            cluster.restart(member);
            wait_rebuilt(&cluster, member).await;
        }
        assert!(!cluster.log(member).contains("stack backtrace"), "{}", cluster.log(member));
    }
    cluster.assert_replicas_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_of_the_log_is_given_up_when_the_engine_has_what_was_in_it() {
    let spec = ClusterSpec::new(3).quorate_flag("--wal-segment-bytes=65536");
    let Some(mut cluster) = start(spec).await else { return };
    let client = cluster.client(0);
    for number in 0..40 {
        client.put(&format!("large{number}"), &"x".repeat(8 << 10)).await.expect("a put");
    }
    for member in 0..3 {
        cluster.terminate(member).await;
        let wal = cluster.data_dir(member).join("wal");
        let mut segments: Vec<_> =
            std::fs::read_dir(&wal).expect("the log").map(|file| file.expect("a file").path()).collect();
        segments.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spare")));
        segments.sort();
        assert!(segments.len() > 2, "{segments:?}");
        let damaged = &segments[segments.len() / 2];
        let mut content = std::fs::read(damaged).expect("a segment");
        content[3000] ^= 4;
        std::fs::write(damaged, content).expect("a flip");
        cluster.restart(member);
        cluster.wait_member_serving(member).await;
        let log = cluster.log(member);
        let name = damaged.display().to_string();
        assert!(log.contains("going on without that part") && log.contains(&name), "{log}");
    }
    client.put("after", "1").await.expect("a put");
    cluster.assert_replicas_equal().await;
    // The log is whole again.
    for member in 0..3 {
        cluster.terminate(member).await;
        cluster.restart(member);
        cluster.wait_member_serving(member).await;
        assert_eq!(cluster.log(member).matches("going on without that part").count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_sled_is_found_and_the_member_rebuilds_itself() {
    let Some(mut cluster) = start(ClusterSpec::new(3).on(Engines::Sled)).await else { return };
    tokio::time::sleep(CHECKPOINTED).await;
    cluster.terminate(1).await;
    flip_in_sled(&cluster.data_dir(1).join("engine.sled"));
    cluster.restart_with(1, &["--scrub-interval=1s"]);
    wait_rebuilt(&cluster, 1).await;
    assert!(!cluster.log(1).contains("stack backtrace"), "{}", cluster.log(1));
    cluster.assert_replicas_equal().await;
}

/// Flips a bit in every 64 bytes of the files of a sled database that rows are in.
fn flip_in_sled(dir: &Path) {
    let mut pending = vec![dir.to_path_buf()];
    let mut flipped = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            if !path.to_string_lossy().contains("slabs") {
                continue;
            }
            let mut content = std::fs::read(&path).expect("a file");
            for at in (32..content.len()).step_by(64).filter(|at| content[*at] != 0).collect::<Vec<usize>>() {
                content[at] ^= 8;
                flipped += 1;
            }
            std::fs::write(&path, content).expect("it is written");
        }
    }
    assert!(flipped > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_rebuilds_itself_three_times_in_a_row_at_most() {
    let Some(mut cluster) = start(ClusterSpec::new(3).on(Engines::Redb)).await else { return };
    for round in 1..=4 {
        cluster.terminate(2).await;
        wreck_engine(&cluster.data_dir(2));
        cluster.restart(2);
        if round <= 3 {
            let rebuilt = || cluster.log(2).matches("this member has rebuilt its state from the others").count();
            let deadline = Instant::now() + PATIENCE;
            while rebuilt() < round {
                assert!(Instant::now() < deadline, "round {round}: {}", cluster.log(2));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            cluster.wait_member_serving(2).await;
        }
    }
    let status = cluster.wait_exit(2, PATIENCE).await.expect("it gives up");
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(2);
    assert!(
        log.contains("The member has rebuilt itself 3 times already") && log.contains("quorate member add"),
        "{log}"
    );
    cluster.client(0).put("after", "1").await.expect("the others go on");
}

/// Flips a bit in a value that the engine holds, wherever it has a copy of it.
fn flip_in_engine(data_dir: &Path) {
    let path = data_dir.join("engine.redb");
    let mut content = std::fs::read(&path).expect("the engine's file");
    // A put of key42 as it is stored: the length of the key, the key, and the numbers in front of the value.
    let needle = b"\x05key42";
    let places: Vec<usize> = (0..content.len() - 16).filter(|at| content[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    for at in places {
        content[at + needle.len()] ^= 2;
    }
    std::fs::write(&path, content).expect("a flip");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_in_doubt_says_so_to_those_who_probe_it() {
    let Some(mut cluster) = start(ClusterSpec::new(3).on(Engines::Redb)).await else { return };
    tokio::time::sleep(CHECKPOINTED).await;
    let (flipped, away) = (2, 0);
    cluster.terminate(flipped).await;
    flip_in_engine(&cluster.data_dir(flipped));
    // With a member away the leader lets nobody go: it stays in doubt.
    cluster.terminate(away).await;
    cluster.restart_with(flipped, &["--experimental-initial-corrupt-check=false", "--scrub-interval=1s"]);
    wait_out_of_service(&cluster.client(flipped)).await;
    let address = cluster.endpoint(flipped).trim_start_matches("http://").to_owned();
    let asked = async |path: &str| ask(&address, &format!("GET {path}")).await.expect("an answer");
    let reason = "the member is out of service until it has rebuilt itself";
    for path in ["/health", "/health?serializable=true", "/readyz", "/readyz?verbose", "/livez"] {
        let answer = asked(path).await;
        assert!(answer.status.contains("503"), "{path}: {answer:?}");
        assert!(answer.body.contains(reason), "{path}: {answer:?}");
    }
    assert!(asked("/metrics").await.body.contains("quorate_out_of_service 1"));
    cluster.restart(away);
    wait_rebuilt(&cluster, flipped).await;
    for path in ["/health", "/readyz", "/livez"] {
        assert!(asked(path).await.status.contains("200"), "{path}");
    }
    cluster.assert_replicas_equal().await;
}
