//! Data directories that an earlier build has written open with this one, with everything in them.
//!
//! `tests/data` has one for each engine, packed, and beside it what is in it as text. Each was made by
//! `cargo nextest run -p quorate-tests --test old_data --run-ignored only`, and the member was killed while it worked, so that
//! its log and its engine were at different points. Add new ones when a format changes; never replace an old one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_client::raw::{Auth, Maintenance};
use quorate_client::{Client, Compare, ConnectOptions, GetOptions, Is, Op, PutOptions, SortBy, Txn, WatchOptions};
use quorate_proto::authpb::{Permission, UserAddOptions, permission};
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::*;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engines::Engines;

/// The directories, by engine. The number tells generations of formats apart.
const KEPT: &[(&str, Engines)] = &[("redb-1", Engines::Redb), ("sled-1", Engines::Sled)];

/// What a packed directory may take in the repository.
const PACKED_BYTES_MAX: u64 = 200_000;

fn file(name: &str, suffix: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(format!("{name}.{suffix}"))
}

fn spec(engines: Engines) -> ClusterSpec {
    // Small segments, so that there are several and that they pack well.
    ClusterSpec::new(1).on(engines).quorate_flag("--wal-segment-bytes=1048576")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_build_has_written_is_all_there() {
    for (name, engines) in KEPT {
        let unpack = |cluster: &Cluster, member: usize| {
            let dir = cluster.data_dir(member);
            std::fs::create_dir_all(&dir).expect("a directory");
            tar(&["-xzf", &file(name, "tar.gz").to_string_lossy(), "-C", &dir.to_string_lossy()]);
        };
        let Some(mut cluster) = Cluster::start_on(spec(*engines), unpack).await else { return };
        if !cluster.is_quorate() {
            return;
        }
        let expected = std::fs::read_to_string(file(name, "txt")).expect("what is in it");
        assert_eq!(tell(&cluster).await, expected, "{name}");
        // It is still all there after the start has rewritten what it wanted to.
        assert!(cluster.terminate(0).await.success());
        cluster.restart(0);
        cluster.wait_serving().await;
        assert_eq!(tell(&cluster).await, expected, "{name}, the second time");
        goes_on(&cluster).await;
    }
}

/// Alarms can be cleared, it can be written to, and the passwords are those that they were.
async fn goes_on(cluster: &Cluster) {
    let client = connect(cluster, None).await;
    let alarms = client.maintenance().alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.expect("alarms").alarms;
    for raised in alarms {
        let clear = alarm(AlarmAction::Deactivate, raised.member_id, raised.alarm());
        client.maintenance().alarm(clear).await.expect("it can be cleared");
    }
    client.put("new", "1", None).await.expect("a put");
    client.auth().auth_enable(AuthEnableRequest {}).await.expect("authentication on");
    let ann = connect(cluster, Some(("ann", "annpw"))).await;
    ann.put("app/new", "1", None).await.expect("ann may");
    assert!(ann.put("new", "2", None).await.is_err_and(|error| error.is_permission_denied()));
    connect(cluster, Some(("root", "rootpw"))).await.put("new", "3", None).await.expect("root may");
}

async fn connect(cluster: &Cluster, user: Option<(&str, &str)>) -> Client {
    let mut options = ConnectOptions::new();
    if let Some((name, password)) = user {
        options = options.user(name, password);
    }
    Client::connect([cluster.endpoint(0)], options).await.expect("a client")
}

fn tar(args: &[&str]) {
    let status = Command::new("tar").args(args).status().expect("tar");
    assert!(status.success(), "tar {args:?}: {status}");
}

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id, alarm: alarm.into() }
}

/// Everything that a client can find out, in lines. What a start changes is left out.
async fn tell(cluster: &Cluster) -> String {
    let client = connect(cluster, None).await;
    let mut told = String::new();
    let line = &mut told;
    let now = client.get("\0", GetOptions::new().from_key()).await.expect("a read");
    let hash = client.maintenance().hash_kv(HashKvRequest { revision: now.revision }).await.expect("a hash");
    let compacted = hash.compact_revision;
    writeln!(line, "revision {} compacted {compacted} hash {:08x}", now.revision, hash.hash).expect("text");
    for revision in [compacted, (compacted + now.revision) / 2, now.revision] {
        let options = GetOptions::new().from_key().revision(revision).sort_ascending(SortBy::Key);
        for kv in client.get("\0", options).await.expect("a read of the past").kvs {
            let key = kv.key.escape_ascii();
            let place = (kv.create_revision, kv.mod_revision, kv.version);
            writeln!(line, "@{revision} {key} {place:?} lease {:x} {}", kv.lease, shown(&kv.value)).expect("text");
        }
    }
    events(&client, compacted + 1, now.revision, line).await;
    for id in client.leases().await.expect("leases") {
        let lease = client.lease_time_to_live(id).await.expect("a lease").expect("it is in the list");
        let keys: Vec<String> = lease.keys.iter().map(|key| key.escape_ascii().to_string()).collect();
        writeln!(line, "lease {id:x} of {} s: {}", lease.granted_seconds, keys.join(" ")).expect("text");
    }
    users(&client.auth(), line).await;
    others(&client, line).await;
    told
}

/// Text as it is, and of long values the length and the end.
fn shown(value: &[u8]) -> String {
    match value.len() {
        0..=60 => format!("\"{}\"", value.escape_ascii()),
        length => format!("{length} bytes, \"...{}\"", value[length - 20..].escape_ascii()),
    }
}

async fn events(client: &Client, from: i64, to: i64, line: &mut String) {
    let options = WatchOptions::new().from_key().start_revision(from).prev_kv();
    let mut watch = client.watch("\0", options).await.expect("a watch from the past");
    loop {
        let batch = watch.next().await.expect("a watch lasts").expect("events");
        for event in batch.events {
            let key = event.kv.key.escape_ascii();
            let before = event.prev_kv.map_or(0, |kv| kv.mod_revision);
            writeln!(line, "event {} {:?} {key} after {before}", event.kv.mod_revision, event.kind).expect("text");
            if event.kv.mod_revision == to {
                return;
            }
        }
    }
}

async fn users(auth: &Auth, line: &mut String) {
    let status = auth.auth_status(AuthStatusRequest {}).await.expect("a status");
    writeln!(line, "authentication {} at {}", status.enabled, status.auth_revision).expect("text");
    for name in auth.user_list(AuthUserListRequest {}).await.expect("users").users {
        let roles = auth.user_get(AuthUserGetRequest { name: name.clone() }).await.expect("a user").roles;
        writeln!(line, "user {name}: {}", roles.join(" ")).expect("text");
    }
    for role in auth.role_list(AuthRoleListRequest {}).await.expect("roles").roles {
        let perms = auth.role_get(AuthRoleGetRequest { role: role.clone() }).await.expect("a role").perm;
        for permission in perms {
            let (key, end) = (permission.key.escape_ascii(), permission.range_end.escape_ascii());
            writeln!(line, "role {role}: {:?} [{key}, {end})", permission.perm_type()).expect("text");
        }
    }
}

async fn others(client: &Client, line: &mut String) {
    let maintenance: Maintenance = client.maintenance();
    for raised in maintenance.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.expect("alarms").alarms {
        writeln!(line, "alarm {:?} of {:x}", raised.alarm(), raised.member_id).expect("text");
    }
    let list = client.cluster().member_list(MemberListRequest { linearizable: true }).await.expect("members");
    let header = list.header.expect("a header");
    writeln!(line, "cluster {:x}, told by {:x}", header.cluster_id, header.member_id).expect("text");
    for member in list.members {
        // Client URLs are published anew at each start.
        let urls = member.peer_urls.join(" ");
        writeln!(line, "member {:x} {:?} {urls} learner {}", member.id, member.name, member.is_learner).expect("text");
    }
}

/// Writes what is missing of `tests/data`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes the files that the other test reads"]
async fn make_data_directories() {
    for (name, engines) in KEPT.iter().filter(|(name, _)| !file(name, "tar.gz").exists()) {
        let Some(mut cluster) = Cluster::start(spec(*engines)).await else { return };
        let client = connect(&cluster, None).await;
        fill(&client).await;
        // Now the engine has all of it. What follows is in the log alone, or on its way.
        assert!(cluster.terminate(0).await.success());
        cluster.restart(0);
        cluster.wait_serving().await;
        fill_more(&client).await;
        let told = tell(&cluster).await;
        cluster.kill9(0);
        std::fs::write(file(name, "txt"), told).expect("what is in it");
        let (archive, dir) = (file(name, "tar.gz"), cluster.data_dir(0));
        tar(&["-czf", &archive.to_string_lossy(), "-C", &dir.to_string_lossy(), "."]);
        let bytes = std::fs::metadata(&archive).expect("the archive").len();
        assert!(bytes <= PACKED_BYTES_MAX, "{} has {bytes} bytes", archive.display());
        println!("{}: {bytes} bytes", archive.display());
    }
}

async fn fill(client: &Client) {
    for number in 0..40 {
        client.put(format!("key/{number:03}"), format!("first {number}"), None).await.expect("a put");
    }
    for number in (0..40).step_by(2) {
        client.put(format!("key/{number:03}"), format!("second {number}"), None).await.expect("a put");
    }
    for number in (0..40).step_by(5) {
        client.delete(format!("key/{number:03}"), None).await.expect("a delete");
    }
    client.put(&b"\x00\xff binary"[..], &b"\xfe\x00\x01"[..], None).await.expect("a put");
    client.put("large", "0123456789".repeat(6_000), None).await.expect("a put");
    let revision = client.put("empty", "", None).await.expect("a put").revision;
    client.compact(revision - 20).await.expect("a compaction");
    users_and_roles(&client.auth()).await;
    let learner = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:9".into()], is_learner: true };
    client.cluster().member_add(learner).await.expect("a learner");
}

async fn users_and_roles(auth: &Auth) {
    for (name, password) in [("root", "rootpw"), ("ann", "annpw"), ("bob", "")] {
        let options = Some(UserAddOptions { no_password: password.is_empty() });
        let user = AuthUserAddRequest { name: name.into(), password: password.into(), options, ..Default::default() };
        auth.user_add(user).await.expect("a user");
    }
    for (role, kind, key, end) in [
        ("root", permission::Type::Readwrite, "r", ""),
        ("app", permission::Type::Readwrite, "app/", "app0"),
        ("app", permission::Type::Read, "key/", "\0"),
        ("app", permission::Type::Write, "one", ""),
    ] {
        // The second time it is there.
        let _ = auth.role_add(AuthRoleAddRequest { name: role.into() }).await;
        let (key, range_end) = (key.as_bytes().to_vec().into(), end.as_bytes().to_vec().into());
        let perm = Some(Permission { perm_type: kind.into(), key, range_end });
        let grant = AuthRoleGrantPermissionRequest { name: role.into(), perm };
        auth.role_grant_permission(grant).await.expect("a permission");
    }
    for (user, role) in [("root", "root"), ("ann", "app"), ("bob", "app")] {
        auth.user_grant_role(AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).await.expect("a grant");
    }
}

async fn fill_more(client: &Client) {
    for (id, ttl) in [(0x77, 9_000_000), (0x78, 8_000_000)] {
        client.lease().lease_grant(LeaseGrantRequest { id, ttl }).await.expect("a lease");
    }
    for key in ["leased/a", "leased/b"] {
        client.put(key, "1", PutOptions::new().lease(0x77)).await.expect("a put");
    }
    let txn = Txn::new().when([Compare::version("key/001", Is::Equal, 1)]).then([
        Op::put("key/001", "in a transaction", None),
        Op::delete("key/003", None),
        Op::put("txn", "1", None),
    ]);
    assert!(client.txn(txn).await.expect("a transaction").succeeded);
    for number in 0..10 {
        client.put(format!("key/{number:03}"), format!("third {number}"), None).await.expect("a put");
    }
    client.delete("key/002", None).await.expect("a delete");
    client.maintenance().alarm(alarm(AlarmAction::Activate, 0x1234, AlarmType::Corrupt)).await.expect("an alarm");
}
