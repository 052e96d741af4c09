//! Two kube-apiservers on one cluster of three with TLS and users, whom they are by their certificate's name.
//!
//! `programs/kube_apiserver_tour.py` goes through what Kubernetes does with its store: custom resources, lists in pages, watches
//! with bookmarks, conflicts, server-side apply, leader election by Lease, events that end, the death of the store's leader,
//! a restart of a kube-apiserver, compaction, the end of a namespace. It takes two minutes and a kube-apiserver, in the path or where `KUBE_APISERVER` says,
//! so it runs when it is asked for: `cargo nextest run -p quorate-tests --test kube_apiserver --run-ignored all`.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quorate_tests::programs::Program;
use quorate_tests::secure::SecureCluster;
use quorate_tests::tools::{in_path, script, skip};

/// One kube-apiserver. Dropped, it ends.
struct ApiServer {
    binary: PathBuf,
    dir: PathBuf,
    arguments: Vec<String>,
    process: Child,
}

impl ApiServer {
    fn start(binary: &Path, cluster: &SecureCluster, port: u16) -> ApiServer {
        let dir = cluster.dir().join(format!("api{port}"));
        std::fs::create_dir(&dir).expect("a directory");
        let arguments = vec![
            format!("--etcd-servers={}", cluster.endpoints().join(",")),
            format!("--etcd-cafile={}", cluster.file("ca.pem")),
            format!("--etcd-certfile={}", cluster.file("root.pem")),
            format!("--etcd-keyfile={}", cluster.file("root.key")),
            "--etcd-compaction-interval=20s".to_owned(),
            "--event-ttl=15s".to_owned(),
            format!("--cert-dir={}", dir.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--token-auth-file={}", cluster.file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://kubernetes.example".to_owned(),
            format!("--service-account-key-file={}", cluster.file("root.pem")),
            format!("--service-account-signing-key-file={}", cluster.file("root.key")),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        ];
        let process = spawn(binary, &dir, &arguments);
        ApiServer { binary: binary.to_owned(), dir, arguments, process }
    }

    fn restart(&mut self) {
        self.process.kill().expect("SIGKILL");
        self.process.wait().expect("its end");
        self.process = spawn(&self.binary, &self.dir, &self.arguments);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of {}\n{}", self.dir.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

fn spawn(binary: &Path, dir: &Path, arguments: &[String]) -> Child {
    let log: File = OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command.spawn().expect("kube-apiserver")
}

fn kube_apiserver() -> Option<PathBuf> {
    let named = std::env::var_os("KUBE_APISERVER").map(PathBuf::from);
    let found = named.or_else(|| in_path("kube-apiserver"));
    if found.is_none() {
        skip("kube-apiserver, in the path or where KUBE_APISERVER says");
    }
    found
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes, and needs kube-apiserver"]
async fn two_kube_apiservers_keep_what_they_promise() {
    let Some(binary) = kube_apiserver() else { return };
    let mut cluster = SecureCluster::with_users().await;
    cluster.write(&cluster.ca.issue("root", &[]), "root");
    std::fs::write(cluster.dir().join("tokens.csv"), "admin-token,admin,admin,system:masters\n").expect("a file");
    let ports: [u16; 2] = free_ports();
    let mut servers = ports.map(|port| ApiServer::start(&binary, &cluster, port));
    let mut command = Command::new("python3");
    command.arg("-u").arg(script("kube_apiserver_tour.py"));
    command.args(ports.map(|port| format!("https://127.0.0.1:{port}")));
    let mut tour = Program::start(command);
    tour.hear("kill");
    let leader = cluster.wait_leader().await;
    cluster.kill9(leader);
    tour.tell("killed");
    tour.hear("restart");
    cluster.spawn(leader);
    servers[0].restart();
    tour.tell("restarted");
    tour.finish();
}
