//! Clients of other languages, as their users use them, on a cluster of three with TLS and users.
//!
//! Each script in `programs/` goes through what its client can do, and then through the death of the leader. Of the Rust
//! crate `etcd-client` it is the crate's own tests that run. That builds for minutes, so it is done when it is asked for:
//! `cargo nextest run -p quorate-tests --test clients --run-ignored all`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quorate_tests::programs::Program;
use quorate_tests::secure::SecureCluster;
use quorate_tests::tools::{Python, in_path, node_with, script, skip, target_dir};

/// Runs a script with what it takes for a member's address; when it says `kill`, the leader is killed, and it is told which
/// member that was.
async fn tour(command: Option<Command>, address: impl Fn(&SecureCluster, usize) -> String) {
    let Some(mut command) = command else { return };
    let mut cluster = SecureCluster::with_users().await;
    command.args((0..cluster.len()).map(|member| address(&cluster, member)));
    let mut program = Program::start_on(&cluster, command);
    program.hear("kill");
    let leader = cluster.wait_leader().await;
    cluster.kill9(leader);
    program.tell(&leader.to_string());
    program.finish();
}

fn host_and_port(cluster: &SecureCluster, member: usize) -> String {
    cluster.client_address(member).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_npm_package_etcd3() {
    let command = node_with("etcd3").map(|mut node| {
        node.arg("--no-deprecation").arg(script("etcd3_tour.js"));
        node
    });
    tour(command, SecureCluster::endpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_package_etcd3() {
    let command = Python::of("python-etcd3", "etcd3").map(|python| python.command(&script("etcd3_tour.py")));
    tour(command, host_and_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_package_aetcd() {
    let command = Python::of("python-aetcd", "aetcd").map(|python| python.command(&script("aetcd_tour.py")));
    tour(command, host_and_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_package_etcd3gw() {
    let command = Python::with("etcd3gw").map(|python| python.command(&script("etcd3gw_tour.py")));
    tour(command, host_and_port).await;
}

const ETCD_CLIENT: &str = "0.21.1";

/// Tests of the crate that are not for this cluster: some turn authentication on and off, one wants the cluster to be a
/// single member, one a fourth member that somebody starts.
const ETCD_CLIENT_SKIPPED: &[&str] = &["test_auth", "test_move_leader", "test_cluster"];

/// A cargo project of the crate's own tests, of which one file, that says where the cluster is, is ours.
fn project_of_etcd_client() -> PathBuf {
    let directory = target_dir().join("tools/etcd-client");
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    };
    let manifest = format!(
        "[package]\nname = \"suite\"\nedition = \"2021\"\n\n[workspace]\n\n\
         [dependencies]\netcd-client = {{ version = \"={ETCD_CLIENT}\", features = [\"tls\"] }}\n\n\
         [dev-dependencies]\nserial_test = \"3\"\ntokio = {{ version = \"1\", features = [\"full\"] }}\n"
    );
    write("Cargo.toml", manifest);
    write("src/lib.rs", String::new());
    let metadata = cargo(&directory, &["metadata", "--format-version=1"]).stdout(Stdio::piped()).output();
    let metadata = String::from_utf8(metadata.expect("cargo metadata").stdout).expect("text");
    let end = metadata.find(&format!("/etcd-client-{ETCD_CLIENT}/Cargo.toml\"")).expect("the crate is there");
    let start = metadata[..end].rfind('"').expect("a path in quotes") + 1;
    let tests = Path::new(&metadata[start..end]).join(format!("etcd-client-{ETCD_CLIENT}/tests"));
    for name in ["client.rs", "namespace.rs"] {
        write(&format!("tests/{name}"), std::fs::read_to_string(tests.join(name)).expect("the crate's tests"));
    }
    let ours = std::fs::read_to_string(script("etcd_client/testing.rs")).expect("our part of its tests");
    write("tests/testing/mod.rs", ours);
    directory
}

fn cargo(project: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", project.join("target"))
        .args(args)
        .arg("--manifest-path")
        .arg(project.join("Cargo.toml"))
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds for minutes, and needs protoc (Debian protobuf-compiler)"]
async fn the_rust_crate_etcd_client() {
    if in_path("protoc").is_none() {
        return skip("protoc (Debian protobuf-compiler)");
    }
    let project = project_of_etcd_client();
    let built = cargo(&project, &["test", "--quiet", "--no-run"]).status().expect("cargo");
    assert!(built.success(), "{built}");
    let cluster = SecureCluster::with_users().await;
    let mut tests = cargo(&project, &["test", "--quiet"]);
    tests.env("ENDPOINTS", cluster.endpoints().join(",")).args(["--", "--include-ignored"]);
    for (variable, file) in [("TLS_CA", "ca.pem"), ("TLS_CERT", "client.pem"), ("TLS_KEY", "client.key")] {
        tests.env(variable, cluster.file(file));
    }
    tests.args(ETCD_CLIENT_SKIPPED.iter().flat_map(|name| ["--skip", name]));
    let status = tests.status().expect("cargo");
    assert!(status.success(), "{status}");
}
