//! A cluster whose members and clients speak TLS, with an authority of its own.
//!
//! It differs from [`crate::cluster`] in what is interesting about it: each member has its own flags, which a test may
//! change between two starts, and clients are etcd's and this project's, which bring their own TLS.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_client::{Client, ConnectOptions, TlsOptions};
use quorate_proto::authpb::Permission;
use quorate_proto::authpb::permission::Type;
use quorate_proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, StatusRequest,
};
use quorate_tls::testing::{Authority, Identity, IdentityFiles};
use tempfile::TempDir;

use crate::cluster::PATIENCE;
use crate::server::Server;
use crate::tools::{Etcdctl, scratch_dir};

/// One member.
#[derive(Debug)]
struct Member {
    client: String,
    peer: String,
    metrics: String,
    /// The scheme of its peer URL.
    scheme: &'static str,
    flags: Vec<String>,
    process: Option<Child>,
}

/// The cluster. Dropping it kills the processes; after a failure the ends of the logs are printed.
pub struct SecureCluster {
    /// Signs everything that is good.
    pub ca: Authority,
    server: Server,
    /// Whether the members' flags say where they serve clients.
    listens_by_flags: bool,
    /// Whether the members' flags say how they find each other.
    found_by_flags: bool,
    members: Vec<Member>,
    dir: TempDir,
}

impl SecureCluster {
    /// A cluster that is not started yet, with TLS for clients, and for peers as `peer_scheme` says: over TCP, or with `unix` and
    /// `unixs` by sockets in the cluster's directory.
    ///
    /// # Panics
    /// When there is no server, port or directory.
    pub fn new(nodes: usize, peer_scheme: &'static str) -> SecureCluster {
        SecureCluster::of(Server::find().expect("a server binary"), nodes, peer_scheme)
    }

    /// As [`new`](Self::new), of a server of the test's choice.
    ///
    /// # Panics
    /// When there is no port or directory.
    pub fn of(server: Server, nodes: usize, peer_scheme: &'static str) -> SecureCluster {
        let dir = scratch_dir().expect("a directory");
        let ca = Authority::new("test authority");
        ca.write(dir.path(), "ca");
        let port = || TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let members = (0..nodes).map(|index| {
            // All at once, so that they differ.
            let listeners = [port(), port(), port()];
            let [client, peer, metrics] = listeners.map(|at| at.local_addr().expect("an address").to_string());
            let is_path = peer_scheme.starts_with("unix");
            let peer = if is_path { dir.path().join(format!("p{index}")).display().to_string() } else { peer };
            Member { client, peer, metrics, scheme: peer_scheme, flags: Vec::new(), process: None }
        });
        SecureCluster { ca, server, listens_by_flags: false, found_by_flags: false, members: members.collect(), dir }
    }

    /// A cluster of three in which everything is secured: clients and peers show certificates (a client's are the files
    /// `client`, of nobody whom the cluster knows by name), and there are users, `root` with the password `secret` and `app`
    /// with `plain`, who may read and write below `app/`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with_users() -> SecureCluster {
        let mut cluster = SecureCluster::new(3, "https");
        cluster.write(&cluster.ca.issue("server", &["127.0.0.1", "localhost"]), "server");
        cluster.write(&cluster.ca.issue("nobody", &[]), "client");
        let flags = [cluster.client_flags("server"), cluster.peer_flags("server")].concat();
        for member in 0..cluster.len() {
            cluster.set_flags(member, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        }
        cluster.spawn_all();
        let client = cluster.connect(cluster.endpoints(), None).await;
        cluster.add_users(&client).await.expect("users");
        cluster
    }

    async fn add_users(&self, client: &Client) -> Result<()> {
        // The cluster has only begun to start.
        client.with_timeout(PATIENCE * 2).get("ready", None).await?;
        let auth = client.auth();
        for (name, password, role) in [("root", "secret", "root"), ("app", "plain", "app")] {
            let user =
                AuthUserAddRequest { name: name.into(), password: password.into(), ..AuthUserAddRequest::default() };
            let start = Instant::now();
            loop {
                match auth.user_add(user.clone()).await {
                    // Until the members have agreed on a version, as in etcd.
                    Err(error) if error.to_string().contains("not capable") && start.elapsed() < PATIENCE => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(error) => return Err(error.into()),
                    Ok(_) => break,
                }
            }
            auth.role_add(AuthRoleAddRequest { name: role.into() }).await?;
            auth.user_grant_role(AuthUserGrantRoleRequest { user: name.into(), role: role.into() }).await?;
        }
        let perm = Permission { perm_type: Type::Readwrite.into(), key: "app/".into(), range_end: "app0".into() };
        auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "app".into(), perm: Some(perm) }).await?;
        auth.auth_enable(AuthEnableRequest {}).await?;
        Ok(())
    }

    /// This project's client, with the certificate `client`, as a user if one is named.
    ///
    /// # Panics
    /// When the files are not there.
    pub async fn connect(&self, endpoints: Vec<String>, user: Option<(&str, &str)>) -> Client {
        let tls =
            TlsOptions::new().ca_file(self.file("ca.pem")).identity(self.file("client.pem"), self.file("client.key"));
        let mut options = ConnectOptions::new().tls(tls).timeout(Duration::from_secs(10));
        if let Some((name, password)) = user {
            options = options.user(name, password);
        }
        Client::connect(endpoints, options).await.expect("a client")
    }

    /// The member of a cluster [`with_users`](Self::with_users) that leads.
    ///
    /// # Panics
    /// When none does in time.
    pub async fn wait_leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for member in (0..self.len()).filter(|&member| self.members[member].process.is_some()) {
                let client = self.connect(vec![self.endpoint(member)], Some(("root", "secret"))).await;
                let status = client.with_timeout(Duration::from_secs(2)).maintenance().status(StatusRequest {}).await;
                if let Ok(status) = status
                    && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    return member;
                }
            }
            assert!(Instant::now() < deadline, "no leader after {PATIENCE:?}");
        }
    }

    /// Whether the members run Quorate, not etcd.
    pub fn is_quorate(&self) -> bool {
        self.server.is_quorate()
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Certificates, data and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in [`dir`](Self::dir), as a text for a command line.
    pub fn file(&self, name: &str) -> String {
        self.dir().join(name).display().to_string()
    }

    /// Writes an identity to `<name>.pem` and `<name>.key`.
    pub fn write(&self, identity: &Identity, name: &str) -> IdentityFiles {
        identity.write(self.dir(), name)
    }

    /// Gives a member flags in addition to those that make up the cluster; they replace earlier ones.
    pub fn set_flags(&mut self, member: usize, flags: &[&str]) {
        self.members[member].flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Leaves it to the members' flags where they serve clients.
    pub fn listen_by_flags(&mut self) {
        self.listens_by_flags = true;
    }

    /// Leaves it to the members' flags how they find each other.
    pub fn find_by_flags(&mut self) {
        self.found_by_flags = true;
    }

    /// Flags that serve clients with `<name>.pem` and ask for certificates of the authority.
    pub fn client_flags(&self, name: &str) -> Vec<String> {
        vec![
            format!("--cert-file={}", self.file(&format!("{name}.pem"))),
            format!("--key-file={}", self.file(&format!("{name}.key"))),
            format!("--trusted-ca-file={}", self.file("ca.pem")),
            "--client-cert-auth=true".to_owned(),
        ]
    }

    /// Flags that speak with peers by `<name>.pem` and ask for certificates of the authority.
    pub fn peer_flags(&self, name: &str) -> Vec<String> {
        vec![
            format!("--peer-cert-file={}", self.file(&format!("{name}.pem"))),
            format!("--peer-key-file={}", self.file(&format!("{name}.key"))),
            format!("--peer-trusted-ca-file={}", self.file("ca.pem")),
            "--peer-client-cert-auth=true".to_owned(),
        ]
    }

    /// Where a member serves clients, `host:port`.
    pub fn client_address(&self, member: usize) -> &str {
        &self.members[member].client
    }

    /// Where a member serves clients.
    pub fn endpoint(&self, member: usize) -> String {
        format!("https://{}", self.members[member].client)
    }

    /// Where a member serves peers: `host:port`, or the path of a socket.
    pub fn peer_address(&self, member: usize) -> &str {
        &self.members[member].peer
    }

    /// Where a member serves peers.
    pub fn peer_url(&self, member: usize) -> String {
        format!("{}://{}", self.members[member].scheme, self.members[member].peer)
    }

    /// Lets a member serve peers by another scheme from its next start on.
    pub fn set_peer_scheme(&mut self, member: usize, scheme: &'static str) {
        self.members[member].scheme = scheme;
    }

    /// Where all members serve clients.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.len()).map(|member| self.endpoint(member)).collect()
    }

    /// Starts a member's process.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self, member: usize) {
        assert!(self.members[member].process.is_none(), "m{member} runs already");
        let all: Vec<_> = (0..self.len()).map(|i| format!("m{i}={}", self.peer_url(i))).collect();
        let Member { client, peer, metrics, scheme, flags, .. } = &self.members[member];
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(member)).expect("a log");
        let mut command = self.server.command();
        command
            .args(["--name", &format!("m{member}")])
            .args(["--data-dir", &self.file(&format!("m{member}"))])
            .args(["--advertise-client-urls", &format!("https://{client}")])
            .args(["--listen-peer-urls", &format!("{scheme}://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("{scheme}://{peer}")])
            .args(["--listen-metrics-urls", &format!("http://{metrics}")])
            .args(["--initial-cluster-token", "secure"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        if !self.listens_by_flags {
            command.args(["--listen-client-urls", &format!("https://{client}")]);
        }
        if !self.found_by_flags {
            command.args(["--initial-cluster", &all.join(",")]);
        }
        self.members[member].process = Some(command.spawn().expect("a process"));
    }

    /// Starts all members.
    pub fn spawn_all(&mut self) {
        (0..self.len()).for_each(|member| self.spawn(member));
    }

    /// Ends a member's process as a crash would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self, member: usize) {
        let mut process = self.members[member].process.take().expect("a running member");
        process.kill().expect("SIGKILL");
        process.wait().expect("its end");
    }

    /// Waits until a member has ended by itself; gives its log.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_refused(&mut self, member: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        let process = self.members[member].process.as_mut().expect("a process");
        while process.try_wait().expect("the state of a child").is_none() {
            assert!(Instant::now() < deadline, "m{member} did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.members[member].process = None;
        self.log(member)
    }

    /// What a member has logged.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.dir().join(format!("m{member}.log"))
    }

    /// Repeats a command until it succeeds.
    ///
    /// # Panics
    /// When it does not in time; with what it said last.
    pub fn eventually(&self, ctl: &Etcdctl, args: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            match ctl.run(args) {
                Ok(text) => return text,
                Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The value of a line of `/metrics` that begins with `name`, labels included; 0 if there is none.
    ///
    /// # Panics
    /// When the member does not answer.
    pub fn metric(&self, member: usize, name: &str) -> f64 {
        let text = self.http(member, "/metrics").expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// What the metrics port answers to a path.
    ///
    /// # Errors
    /// When it does not.
    pub fn http(&self, member: usize, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.members[member].metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("{path}: {answer}");
        }
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).context("no body")
    }
}

impl Drop for SecureCluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // Nobody is left to tell.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            for member in 0..self.len() {
                let log = self.log(member);
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- the end of m{member}'s log\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

/// Flags of etcdctl that trust an authority and show a certificate.
pub fn credentials<'a>(ca: &'a str, files: &'a [String; 2]) -> [&'a str; 6] {
    ["--cacert", ca, "--cert", &files[0], "--key", &files[1]]
}
