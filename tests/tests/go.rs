//! etcd's own tests of its Go client and of its API, as Debian packages them with etcd 3.4, on clusters of processes.
//!
//! The tests get their clusters from etcd's package `integration`, which runs members inside the test. `programs/go` stands
//! in for it. It takes minutes and needs Debian's `golang-go` and `golang-etcd-server-dev`, so it is done when it is asked
//! for: `cargo nextest run -p quorate-tests --test go --run-ignored all`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quorate_tests::server::Server;
use quorate_tests::tools::{in_path, scratch_dir, skip, target_dir};

/// Where Debian puts sources of Go packages.
const GOPATH: &str = "/usr/share/gocode";
const ETCD: &str = "go.etcd.io/etcd";

/// Files of tests that compile against what `programs/go` has.
const OF_CLIENT: &[&str] = &[
    "black_hole_test.go",
    "cluster_test.go",
    "dial_test.go",
    "doc.go",
    "kv_test.go",
    "lease_test.go",
    "leasing_test.go",
    "mirror_test.go",
    "namespace_test.go",
    "role_test.go",
    "server_shutdown_test.go",
    "txn_test.go",
    "user_test.go",
    "util.go",
    "watch_fragment_test.go",
    "watch_test.go",
];
const OF_API: &[&str] = &[
    "util_test.go",
    "v3_auth_test.go",
    "v3_barrier_test.go",
    "v3_double_barrier_test.go",
    "v3_election_test.go",
    "v3_grpc_test.go",
    "v3_lease_test.go",
    "v3_lock_test.go",
    "v3_queue_test.go",
    "v3_stm_test.go",
    "v3_watch_test.go",
    "v3election_grpc_test.go",
    "v3lock_grpc_test.go",
];

/// How the names of tests begin that are not for this, and why.
const SKIPPED: &[(&[&str], &str)] = &[
    (&["TestBalancerUnderBlackhole"], "count on which of two members is asked first; etcd's processes fail some, too"),
    (
        &["TestBalancerUnderServerStopInflightSerializableGetOnRestart"],
        "a process serves when it has found a leader, as etcd's does",
    ),
    (&["TestWatchFragment"], "count on one message of 10 MiB: ours are cut at 1 MiB, between revisions"),
    (&["TestV3AuthWithLeaseRevokeWithRoot"], "ask for a lease's keys as nobody, which etcd 3.6 refuses, too"),
    (&["TestV3LeaseCheckpoint", "TestV3LeaseFailover", "TestTLSReload"], "reach into a member"),
];

/// A GOPATH in which etcd's tests find our package `integration`, and all else where Debian has it.
fn overlay(suite: &str) -> PathBuf {
    let overlay = target_dir().join("tools/go").join(suite);
    let sources = overlay.join("src");
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&sources);
    let (api, client) = (sources.join(ETCD).join("integration"), sources.join("client"));
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/go");
    copy(&programs, &["bridge.go", "cluster.go"], &api);
    let etcd = Path::new(GOPATH).join("src").join(ETCD);
    copy(&etcd.join("integration"), OF_API, &api);
    copy(&etcd.join("clientv3/integration"), OF_CLIENT, &client);
    std::fs::write(client.join("partition.go"), PARTITION).expect("a file");
    overlay
}

/// What the client's tests use of a file that is not taken.
const PARTITION: &str =
    "package integration\n\nimport \"errors\"\n\nvar errExpected = errors.New(\"expected error\")\n";

fn copy(from: &Path, names: &[&str], to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for name in names {
        let text = std::fs::read_to_string(from.join(name)).expect("a source file");
        let fixtures = format!("\"{GOPATH}/src/{ETCD}/integration/");
        let text = text.replace("\"../../integration/", &fixtures);
        // etcd's members in a test have ticks of 10 ms; processes get 50 ms.
        let text = text.replace("tickDuration  = 10 * time.Millisecond", "tickDuration  = 50 * time.Millisecond");
        std::fs::write(to.join(name), text).expect("a file");
    }
}

fn go(overlay: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .env("GO111MODULE", "off")
        .env("GOPATH", format!("{}:{GOPATH}", overlay.display()))
        .env("GOCACHE", target_dir().join("tools/go/cache"))
        .env("GOFLAGS", "-vet=off")
        .current_dir(overlay)
        .stdin(Stdio::null());
    command
}

/// Builds a package's tests, and runs all but those that are skipped.
fn run(suite: &str, package: &str) {
    let server = Server::find().expect("a server binary");
    let overlay = overlay(suite);
    let binary = overlay.join("tests");
    let built = go(&overlay).args(["test", "-c", "-o"]).arg(&binary).arg(package).status().expect("go");
    assert!(built.success(), "{built}");
    let listed = Command::new(&binary).args(["-test.list", ".*"]).output().expect("the list of tests");
    let skipped = SKIPPED.iter().flat_map(|(names, _)| *names);
    let is_skipped = |name: &str| skipped.clone().any(|begin| name.starts_with(begin));
    let listed = String::from_utf8(listed.stdout).expect("names");
    let names: Vec<&str> = listed.lines().filter(|name| name.starts_with("Test") && !is_skipped(name)).collect();
    assert!(names.len() > 30, "{names:?}");

    let members = scratch_dir().expect("a directory");
    let mut command = vec![server.binary().display().to_string()];
    command.extend(server.is_quorate().then(|| "server".to_owned()));
    let ended = Command::new(&binary)
        .current_dir(overlay.join("src").join(package))
        .args(["-test.timeout", "20m", "-test.run", &format!("^({})$", names.join("|"))])
        .env("SERVER", command.join(" "))
        .env("DIR", members.path())
        .stdin(Stdio::null())
        .status();
    let ended = ended.expect("the tests");
    assert!(ended.success(), "{ended}");
}

fn is_here() -> bool {
    let here = in_path("go").is_some() && Path::new(GOPATH).join("src").join(ETCD).is_dir();
    if !here {
        skip("Go and etcd's sources (Debian golang-go, golang-etcd-server-dev)");
    }
    here
}

#[test]
#[ignore = "takes minutes, and needs Debian's golang-go and golang-etcd-server-dev"]
fn etcds_tests_of_its_client() {
    if is_here() {
        run("client", "client");
    }
}

#[test]
#[ignore = "takes minutes, and needs Debian's golang-go and golang-etcd-server-dev"]
fn etcds_tests_of_its_api() {
    if is_here() {
        run("api", &format!("{ETCD}/integration"));
    }
}
