//! Starts real server processes on free loopback ports, each cluster in its own temporary directory.
//!
//! The server under test is the command in `QUORATE_TEST_SERVER` (split at spaces, e.g. `target/debug/quorate server`),
//! else `etcd` from the path; where there is none, tests say so and pass, but for CI. `cargo xtask test` runs them on both.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_client::{Client, Code, ConnectOptions, Error};
use quorate_proto::etcdserverpb::StatusRequest;
use tempfile::TempDir;

pub struct Cluster {
    members: Vec<Member>,
    command: Vec<String>,
    directory: TempDir,
}

struct Member {
    name: String,
    client_url: String,
    peer_url: String,
    process: Option<Child>,
}

/// The command that starts a server, or `None` after saying that there is none.
fn server_command() -> Option<Vec<String>> {
    if let Ok(command) = std::env::var("QUORATE_TEST_SERVER") {
        return Some(command.split_whitespace().map(str::to_owned).collect());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: needs etcd-server");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip this test");
    }
    found.map(|file| vec![file.display().to_string()])
}

impl Cluster {
    /// Starts a cluster and waits until every member answers and sees a leader. `None` if there is no server to test.
    pub async fn start(size: usize) -> Option<Cluster> {
        Cluster::start_with(size, &[]).await
    }

    /// As [`start`](Self::start), with more flags.
    pub async fn start_with(size: usize, flags: &[&str]) -> Option<Cluster> {
        let mut command = server_command()?;
        command.extend(flags.iter().map(|&flag| flag.to_owned()));
        let members = (0..size).map(|i| Member {
            name: format!("m{i}"),
            client_url: free_url(),
            peer_url: free_url(),
            process: None,
        });
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { members: members.collect(), command, directory };
        (0..size).for_each(|i| cluster.spawn(i));
        for i in 0..size {
            cluster.wait_until_ready(i).await;
        }
        Some(cluster)
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    pub fn url(&self, i: usize) -> String {
        self.members[i].client_url.clone()
    }

    pub async fn client(&self) -> Client {
        self.client_with(ConnectOptions::new()).await
    }

    pub async fn client_with(&self, options: ConnectOptions) -> Client {
        Client::connect(self.urls(), options).await.unwrap()
    }

    /// Ends a member's process at once, as a power cut would.
    pub fn kill(&mut self, i: usize) {
        let mut process = self.members[i].process.take().expect("member runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Stops a member's process without ending it: connections stay open and nobody answers.
    pub fn freeze(&self, i: usize, frozen: bool) {
        let pid = self.members[i].process.as_ref().expect("member runs").id().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Starts a killed member again, on its old data.
    pub async fn restart(&mut self, i: usize) {
        self.spawn(i);
        self.wait_until_ready(i).await;
    }

    /// The member that leads. All members must be running.
    pub async fn leader(&self) -> usize {
        self.leader_seen_by(ConnectOptions::new()).await
    }

    /// As [`leader`](Self::leader), asked by somebody.
    pub async fn leader_seen_by(&self, options: ConnectOptions) -> usize {
        let mut ids = Vec::new();
        let mut leader = 0;
        for url in self.urls() {
            let client = Client::connect([url], options.clone()).await.unwrap();
            let status = client.maintenance().status(StatusRequest {}).await.unwrap();
            ids.push(status.header.unwrap().member_id);
            leader = status.leader;
        }
        ids.iter().position(|id| *id == leader).expect("the leader is a member")
    }

    fn spawn(&mut self, i: usize) {
        let initial: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        let member = &mut self.members[i];
        let log = self.directory.path().join(format!("{}.log", member.name));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let process = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(self.directory.path().join(&member.name))
            .args(["--listen-client-urls", &member.client_url, "--advertise-client-urls", &member.client_url])
            .args(["--listen-peer-urls", &member.peer_url, "--initial-advertise-peer-urls", &member.peer_url])
            .args(["--initial-cluster", &initial.join(","), "--initial-cluster-state", "new"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.command[0]));
        member.process = Some(process);
    }

    async fn wait_until_ready(&self, i: usize) {
        let started = Instant::now();
        let client = Client::connect([self.url(i)], ConnectOptions::new()).await.unwrap();
        loop {
            let status = client.maintenance().status(StatusRequest {}).await;
            match &status {
                Ok(status) if status.leader != 0 => return,
                // A server with users answers nobody else, but it answers.
                Err(Error::Rejected { code: Code::InvalidArgument, .. }) => return,
                Ok(_) | Err(_) => {}
            }
            let log = || last_lines(&self.directory.path().join(format!("{}.log", self.members[i].name)));
            assert!(started.elapsed() < Duration::from_secs(30), "member {i} not ready: {status:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn last_lines(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
