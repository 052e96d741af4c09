//! The JSON gateway answers as etcd's does, byte for byte.

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::http::ask;
use quorate_tests::server::Server;
use quorate_tests::tools::{bundled, skip};

const REQUESTS: &str = include_str!("gateway/requests.txt");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_etcds() {
    let Some(etcd) = bundled("etcd") else { return skip("etcd 3.5.1 (cargo xtask install-tools)") };
    // Peers' addresses are in answers, and so are names.
    let theirs = Cluster::start_with(Server::at(&etcd), ClusterSpec::new(1)).await.expect("etcd");
    let Some(ours) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let mut differences = Vec::new();
    let mut asked = 0;
    for line in REQUESTS.lines().filter(|line| !line.starts_with('#')) {
        let ask_one = async |cluster: &Cluster| {
            let address = cluster.endpoint(0).replace("http://", "");
            let answer = ask(&address, line).await;
            let mut answer = answer.unwrap_or_else(|error| panic!("{line}: {error:#}"));
            answer.body = answer.body.replace(&cluster.peer_url(0), "PEER");
            answer
        };
        let (theirs, ours) = tokio::join!(ask_one(&theirs), ask_one(&ours));
        asked += 1;
        if theirs != ours {
            differences.push(format!("{line}\n  etcd:    {theirs:?}\n  Quorate: {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{} of {asked} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(asked > 100, "{asked} requests");
}
