//! A snapshot is saved while clients write, and becomes a new cluster of any size; what is not whole is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, PutRequest, SnapshotRequest, WatchCreateRequest, WatchRequest};
use quorate_tests::client::{Client, bytes};
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engines::Engines;
use quorate_tests::quorate::Quorate;
use quorate_tests::tools::{Etcdctl, scratch_dir};
use tokio::task::JoinHandle;

/// How far `restore` sets the revision ahead by itself.
const BUMP: i64 = 1_000_000_000;

/// Puts one key after the other until it is stopped; tells how many were acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    fn start(client: Client, prefix: &'static str) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut acknowledged = 0;
            while !stopped.load(Ordering::Relaxed) {
                // Keys come back, so that there is history.
                let key = format!("{prefix}/{}", acknowledged % 50);
                if client.put(&key, &format!("value {acknowledged}")).await.is_ok() {
                    acknowledged += 1;
                }
            }
            acknowledged
        });
        Writer { stop, task }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer")
    }
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Restores `snapshot` for each member of a cluster of `nodes`, and starts it.
async fn restore(quorate: &Quorate, nodes: usize, snapshot: &Path, flags: &[&str]) -> Cluster {
    let prepare = |cluster: &Cluster, member: usize| {
        let identity = cluster.identity_flags(member);
        let mut args = vec!["snapshot", "restore", path_text(snapshot)];
        args.extend(identity.iter().map(String::as_str));
        args.extend(flags);
        let said = quorate.run(&args).expect("a restore");
        assert!(said.contains("Restored member"), "{said}");
    };
    Cluster::start_on(ClusterSpec::new(nodes), prepare).await.expect("a restored cluster")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saved_under_load_and_restored_to_clusters_of_one_three_and_five() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let client = cluster.client(0);
    for number in 0..30 {
        client.put(&format!("before/{number}"), "old").await.expect("a put");
    }
    let lease =
        client.within(client.lease().lease_grant(LeaseGrantRequest { id: 0, ttl: 600 })).await.expect("a lease");
    let leased = PutRequest { key: bytes("leased"), value: bytes("x"), lease: lease.id, ..Default::default() };
    client.within(client.kv().put(leased)).await.expect("a put");

    let writer = Writer::start(cluster.client(1), "during");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let file = cluster.dir().join("backup.db");
    let said =
        quorate.run(&["--endpoints", &cluster.endpoint(0), "snapshot", "save", path_text(&file)]).expect("a save");
    assert!(said.starts_with(&format!("Snapshot saved at {}\n", file.display())), "{said}");
    assert!(writer.stop().await > 0, "nothing was written meanwhile");
    assert!(!PathBuf::from(format!("{}.part", file.display())).exists());
    let status = quorate.run(&["snapshot", "status", path_text(&file), "-w", "json"]).expect("a status");
    let saved: i64 = field(&status, "revision");
    assert!(saved >= 32, "{status}");

    // What the snapshot has, at its revision, the old cluster still knows.
    let mut hashes = Vec::new();
    for nodes in [1, 3, 5] {
        let restored = restore(&quorate, nodes, &file, &[]).await;
        let client = restored.client(0);
        let (revision, kv) = client.get("before/7", false).await.expect("a read");
        assert_eq!(kv.map(|kv| kv.value), Some(bytes("old")), "{nodes} members");
        assert!(revision >= saved + BUMP, "revision {revision} after {saved}");
        let (_, kv) = client.get("leased", false).await.expect("a read");
        assert_eq!(kv.map(|kv| kv.lease), Some(lease.id), "the lease is still attached");
        assert!(!client.get_prefix("during/").await.expect("a read").kvs.is_empty());
        restored.assert_replicas_equal().await;
        let answer = client
            .within(client.maintenance().hash_kv(quorate_proto::etcdserverpb::HashKvRequest { revision: saved + BUMP }))
            .await
            .expect("a hash");
        hashes.push(answer.hash);
        for etcdctl in Etcdctl::all() {
            let etcdctl = etcdctl.with_endpoints(&restored.endpoints());
            let read = etcdctl.run(&["get", "before/", "--prefix", "--keys-only", "-w", "fields"]).expect("etcdctl");
            assert!(read.contains("\"Count\" : 30"), "etcdctl {}: {read}", etcdctl.version);
        }
        client.put("after", "new").await.expect("a put");
        restored.assert_replicas_equal().await;
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "the same file, and other data: {hashes:?}");
    cluster.assert_replicas_equal().await;
}

/// Users, passwords and roles are in the snapshot like everything else, and authentication is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_passwords_come_back_in_a_cluster_of_another_size() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let run = |cluster: &Cluster, user: &str, line: &str| {
        let endpoints = cluster.endpoints().join(",");
        let who = if user.is_empty() { vec![] } else { vec!["--user", user] };
        let args: Vec<&str> = ["--endpoints", &endpoints].into_iter().chain(who).chain(line.split(' ')).collect();
        quorate.run(&args)
    };
    for line in [
        "user add root:rootpw",
        "user add ann:annpw",
        "user add bob --no-password",
        "role add a",
        "role grant-permission a readwrite a/ --prefix",
        "user grant-role ann a",
        "user grant-role bob a",
        "put a/1 x",
        "auth enable",
    ] {
        run(&cluster, "", line).expect(line);
    }
    let file = cluster.dir().join("backup.db");
    let save = format!("snapshot save {}", file.display());
    assert!(format!("{:#}", run(&cluster, "ann:annpw", &save).unwrap_err()).contains("permission denied"));
    run(&cluster, "root:rootpw", &save).expect("a save");
    // What changes later is not in it.
    run(&cluster, "root:rootpw", "user delete ann").expect("a change");

    let prepare = |cluster: &Cluster, member: usize| {
        let identity = cluster.identity_flags(member);
        let mut args = vec!["snapshot", "restore", path_text(&file)];
        args.extend(identity.iter().map(String::as_str));
        quorate.run(&args).expect("a restore");
    };
    let restored = Cluster::start_on(ClusterSpec::new(3).guarded(), prepare).await.expect("a restored cluster");
    assert_eq!(run(&restored, "ann:annpw", "get a/1").expect("a get"), "a/1\nx\n");
    run(&restored, "ann:annpw", "put a/1 y").expect("a put");
    for (user, line, expected) in [
        ("", "get a/1", "user name is empty"),
        ("ann:wrong", "get a/1", "authentication failed, invalid user ID or password"),
        ("ann:annpw", "put b x", "permission denied"),
        ("bob:x", "get a/1", "password was given for no password user"),
        ("ann:annpw", "user list", "permission denied"),
    ] {
        let refused = format!("{:#}", run(&restored, user, line).expect_err(line));
        assert!(refused.contains(expected), "{user} {line}: {refused}");
    }
    assert_eq!(run(&restored, "root:rootpw", "user list").expect("a list"), "ann\nbob\nroot\n");
    run(&restored, "root:rootpw", "auth disable").expect("a change");
    restored.assert_replicas_equal().await;
}

/// A number in JSON that we printed.
fn field(json: &str, name: &str) -> i64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).expect("the field");
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_saw_more_than_the_snapshot_is_told_so() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let client = cluster.client(0);
    client.put("a", "1").await.expect("a put");
    let file = cluster.dir().join("backup.db");
    quorate.run(&["--endpoints", &cluster.endpoint(0), "snapshot", "save", path_text(&file)]).expect("a save");
    // The snapshot does not have these, and a client has seen them.
    let mut seen = 0;
    for number in 0..5 {
        seen = client.put("a", &format!("later {number}")).await.expect("a put");
    }
    let exact = restore(&quorate, 1, &file, &["--bump-revision=0"]).await;
    assert_eq!(exact.client(0).get("a", false).await.expect("a read").0, seen - 5, "as etcdutl leaves it");
    drop(exact);

    let restored = restore(&quorate, 1, &file, &[]).await;
    let client = restored.client(0);
    let create = WatchCreateRequest { key: bytes("a"), start_revision: seen + 1, ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.expect("the stream takes a request");
    let stream = client.watch().watch(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.expect("a watch");
    let mut stream = stream.into_inner();
    let compacted = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = stream.message().await.expect("an answer").expect("an answer");
            if answer.canceled {
                return answer.compact_revision;
            }
        }
    });
    assert_eq!(compacted.await.expect("the watcher is told"), seen - 5 + BUMP);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_is_refused_with_its_place_and_leaves_nothing() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let client = cluster.client(0);
    for number in 0..200 {
        client.put(&format!("key/{number}"), &"v".repeat(4000)).await.expect("a put");
    }
    let file = cluster.dir().join("backup.db");
    quorate.run(&["--endpoints", &cluster.endpoint(0), "snapshot", "save", path_text(&file)]).expect("a save");
    let whole = std::fs::read(&file).expect("the file");
    let dir = cluster.dir().join("restored");
    let refused = |content: &[u8], what: &str| {
        let bad = cluster.dir().join("bad.db");
        std::fs::write(&bad, content).expect("a file");
        for command in [vec!["status"], vec!["restore", "--data-dir", path_text(&dir)]] {
            let args = [vec!["snapshot", command[0], path_text(&bad)], command[1..].to_vec()].concat();
            let (code, said) = quorate.refused(&args);
            assert_eq!(code, Some(1), "{what}: {said}");
            assert!(said.contains(&format!("{}: at offset ", bad.display())), "{what}: {said}");
            assert!(!dir.exists(), "{what}: something is left");
        }
    };
    // Every region: magic, header, each block of records, padding, hash.
    for at in [0, 8, 12, 40].into_iter().chain((100..whole.len()).step_by(whole.len() / 20)).chain([whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        refused(&changed, &format!("byte {at} changed"));
    }
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 32, whole.len() - 1] {
        refused(&whole[..length], &format!("cut off at {length}"));
    }

    // A directory that has something in it is not touched.
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("mine"), "x").expect("a file");
    let (_, said) = quorate.refused(&["snapshot", "restore", path_text(&file), "--data-dir", path_text(&dir)]);
    assert_eq!(said, format!("Error: data-dir {:?} not empty or could not be read\n", path_text(&dir)));
    assert!(dir.join("mine").exists());

    // One that is empty is emptied again, and stays: it may be a mount point.
    std::fs::remove_file(dir.join("mine")).expect("the file goes");
    let bad = cluster.dir().join("bad.db");
    quorate.refused(&["snapshot", "restore", path_text(&bad), "--data-dir", path_text(&dir)]);
    assert_eq!(std::fs::read_dir(&dir).expect("the directory is there").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_restore_is_not_a_member() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    cluster.client(0).put("a", "1").await.expect("a put");
    let file = cluster.dir().join("backup.db");
    quorate.run(&["--endpoints", &cluster.endpoint(0), "snapshot", "save", path_text(&file)]).expect("a save");
    for engine in ["redb", "sled"] {
        let dir = cluster.dir().join(engine);
        let restore =
            ["snapshot", "restore", path_text(&file), "--data-dir", path_text(&dir), "--storage-engine", engine];
        quorate.run(&restore).expect("a restore");
        let (_, said) = quorate.refused(&restore);
        assert!(said.contains("not empty"), "{said}");
        // The identity is written last: without it, the directory is what a restore leaves that was killed.
        std::fs::remove_file(dir.join("IDENTITY")).expect("the identity goes");
        let data_dir = format!("--data-dir={}", dir.display());
        let (_, said) = quorate.refused(&[
            "server",
            &data_dir,
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://127.0.0.1:1",
            "--listen-peer-urls=http://127.0.0.1:0",
        ]);
        assert!(said.contains("no IDENTITY") && said.contains("a `snapshot restore` was interrupted"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_is_defragmented() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    cluster.client(0).put("a", "1").await.expect("a put");
    let dir = cluster.data_dir(0);
    let defrag = ["defrag", "--data-dir", path_text(&dir)];
    let (code, said) = quorate.refused(&defrag);
    assert!(code == Some(1) && said.contains("in use by another process"), "{said}");
    cluster.terminate(0).await;
    let said = quorate.run(&defrag).expect("a defragmentation");
    let expected = format!("Finished defragmenting etcd data[{}]: ", dir.display());
    assert!(said.starts_with(&expected) && said.ends_with(" before\n"), "{said}");
    cluster.restart(0);
    cluster.wait_member_serving(0).await;
    assert!(cluster.client(0).get("a", false).await.expect("a read").1.is_some());
    let (_, said) = quorate.refused(&["defrag", "--data-dir", "/nowhere"]);
    assert!(said.contains("this is not the data directory of a member"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_refused_in_the_words_of_etcd() {
    let Some(quorate) = Quorate::find() else { return };
    let dir = scratch_dir().expect("a directory");
    let missing = dir.path().join("missing.db");
    let missing = path_text(&missing);
    for (args, code, expected) in [
        (vec!["status"], 128, "Error: snapshot status requires exactly one argument\n".to_owned()),
        (vec!["restore"], 128, "Error: snapshot restore requires exactly one argument\n".to_owned()),
        (vec!["save"], 128, "Error: snapshot save expects one argument\n".to_owned()),
        (vec!["status", missing], 1, format!("Error: stat {missing}: no such file or directory\n")),
    ] {
        assert_eq!(quorate.refused(&[vec!["snapshot"], args.clone()].concat()), (Some(code), expected), "{args:?}");
    }
    let file = dir.path().join("s.db");
    std::fs::write(&file, "x").expect("a file");
    let file = path_text(&file);
    for (flags, expected) in [
        (vec!["--name=x"], "couldn't find local name \"x\" in the initial cluster configuration"),
        (vec!["--initial-cluster=default=http://a:1"], "--initial-cluster must include default=http://localhost:2380"),
        (vec!["--mark-compacted", "--bump-revision=0"], "--mark-compacted required if --bump-revision > 0"),
        (vec!["--bump-revision=5"], "--mark-compacted required if --bump-revision > 0"),
    ] {
        let (_, said) = quorate.refused(&[vec!["snapshot", "restore", file], flags.clone()].concat());
        assert!(said.starts_with("Error: ") && said.contains(expected), "{flags:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_much_data_takes_little_memory() {
    const VALUE_BYTES: usize = 128 << 10;
    const VALUES: usize = 800;
    const GROWTH_MAX_KIB: u64 = 24 << 10;
    let mut spec = ClusterSpec::new(1).on(Engines::Redb).flag("--quota-backend-bytes=4294967296");
    for flag in ["--engine-cache-bytes=4194304", "--record-cache-bytes=4194304", "--tail-bytes-max=4194304"] {
        spec = spec.quorate_flag(flag);
    }
    let Some(cluster) = Cluster::start(spec).await else { return };
    if !cluster.is_quorate() {
        return;
    }
    let client = Client::new(&cluster.endpoint(0), Duration::from_secs(60));
    for number in 0..VALUES {
        client.put(&format!("key/{number}"), &"v".repeat(VALUE_BYTES)).await.expect("a put");
    }
    let pid = cluster.pid(0);
    let before = resident_kib(pid, "VmRSS:");
    // From here on the peak is that of the snapshot.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak is reset");
    let writer = Writer::start(cluster.client(0), "during");
    let mut stream = client.maintenance().snapshot(SnapshotRequest {}).await.expect("a snapshot").into_inner();
    let (mut received, mut last) = (0, None);
    while let Some(chunk) = stream.message().await.expect("a chunk") {
        received += chunk.blob.len();
        // A reader that is slower than the disk: what it has not taken must not pile up in the server.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(chunk.blob.len() < 4 << 20, "a chunk of {} bytes", chunk.blob.len());
        assert_eq!(chunk.version, "3.6.0");
        last = Some(chunk.remaining_bytes);
    }
    writer.stop().await;
    assert_eq!(last, Some(0));
    assert!(received > VALUE_BYTES * VALUES, "{received} bytes");
    let peak = resident_kib(pid, "VmHWM:");
    println!("{} MiB of data, {before} KiB resident before, {peak} KiB at the peak", received >> 20);
    assert!(peak < before + GROWTH_MAX_KIB, "{before} KiB before, {peak} KiB at the peak");
}

fn resident_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the state of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
