//! Clients of other languages, as their users use them, on a cluster of three with TLS and users.
//!
//! Each script in `programs/` goes through what its client can do, and then through the death of the leader.

use std::process::Command;

use quorate_tests::programs::Program;
use quorate_tests::secure::SecureCluster;
use quorate_tests::tools::{Python, node_with, script};

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
