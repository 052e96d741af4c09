//! Patroni in etcd3 mode, which speaks to the JSON gateway.
//!
//! The first test drives Patroni's own classes, with TLS and a user. The second one runs two Patroni nodes with PostgreSQL; it takes about a
//! minute and needs a PostgreSQL, so it runs when it is asked for:
//! `cargo nextest run -p quorate-tests --test patroni --run-ignored all`.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::programs::Program;
use quorate_tests::secure::SecureCluster;
use quorate_tests::tools::{Python, script, skip};

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.endpoints().iter().map(|url| url.replace("http://", "")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronis_leader_outlives_the_leader_of_the_store() {
    let Some(python) = Python::with("patroni") else { return };
    let mut cluster = SecureCluster::with_users().await;
    let mut command = python.command(&script("patroni_dcs.py"));
    command.args((0..cluster.len()).map(|member| cluster.client_address(member)));
    let mut program = Program::start_on(&cluster, command);
    program.hear("kill");
    let leader = cluster.wait_leader().await;
    cluster.kill9(leader);
    program.tell("killed");
    program.finish();
}

/// The user that PostgreSQL and Patroni run as, since they refuse to be root.
const USER: &str = "postgres";

/// The system's Python: the one in the path may be out of that user's reach.
const PYTHON: &str = "/usr/bin/python3";

/// How long PostgreSQL may take to be created, and how long a failover: beyond Patroni's time to live of 20 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// One Patroni with its PostgreSQL. Dropped, both end.
struct Node {
    name: &'static str,
    rest: String,
    process: Child,
    data: PathBuf,
    bin: PathBuf,
}

impl Node {
    fn start(python: &Python, bin: &Path, dir: &Path, name: &'static str, hosts: &[String]) -> Node {
        let [rest, sql] = free_ports();
        let data = dir.join(name);
        let config = dir.join(format!("{name}.yml"));
        let text = format!(
            "scope: test\nname: {name}\nrestapi:\n  listen: 127.0.0.1:{rest}\n  connect_address: 127.0.0.1:{rest}\n\
             etcd3:\n  hosts: [{hosts}]\n\
             bootstrap:\n  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 6}}\n  initdb: [{{encoding: UTF8}}]\n\
             postgresql:\n  listen: 127.0.0.1:{sql}\n  connect_address: 127.0.0.1:{sql}\n  data_dir: {data}\n  \
             bin_dir: {bin}\n  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all \
             127.0.0.1/32 trust]\n  parameters: {{unix_socket_directories: {dir}, fsync: 'off'}}\n  \
             authentication: {{superuser: {{username: {USER}}}, replication: {{username: replicator}}}}\n",
            hosts = hosts.iter().map(|host| format!("'{host}'")).collect::<Vec<_>>().join(", "),
            data = data.display(),
            bin = bin.display(),
            dir = dir.display(),
        );
        std::fs::write(&config, text).expect("its configuration");
        let log = File::create(dir.join(format!("{name}.log"))).expect("its log");
        let mut command = as_user(PYTHON);
        command
            .env("PYTHONPATH", python.packages())
            .env("HOME", dir)
            .args(["-m", "patroni"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            // A group of its own, so that it ends as a whole.
            .process_group(0);
        let process = command.spawn().expect("patroni");
        Node { name, rest: format!("127.0.0.1:{rest}"), process, data, bin: bin.to_owned() }
    }

    /// What it says of itself: `primary`, `replica`, and whether it runs.
    async fn role(&self) -> String {
        let body = get(&self.rest, "/patroni").await.unwrap_or_default();
        let value = |name: &str| {
            let start = body.find(&format!("\"{name}\": \"")).map(|at| at + name.len() + 5);
            start.and_then(|start| body[start..].split('"').next()).unwrap_or_default().to_owned()
        };
        if value("state") == "running" || value("state") == "streaming" { value("role") } else { String::new() }
    }

    fn kill(&mut self) {
        let group = format!("-{}", self.process.id());
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-9", "--", &group]).status();
        let _ = self.process.wait();
        let mut stop = as_user(&self.bin.join("pg_ctl").display().to_string());
        let _ = stop.args(["-m", "immediate", "-w", "stop", "-D"]).arg(&self.data).stderr(Stdio::null()).status();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn as_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", program]).current_dir("/").stdout(Stdio::null());
    command
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// The body of a plain HTTP answer.
async fn get(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok()?
}

/// Waits until a node has a role.
async fn wait_role(node: &Node, wanted: &str) {
    let started = Instant::now();
    while node.role().await != wanted {
        assert!(started.elapsed() < PATIENCE, "{} is no {wanted}: {:?}", node.name, node.role().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// PostgreSQL's programs, the newest there are.
fn postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let bins = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    bins.filter(|bin| bin.join("initdb").is_file()).max()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute, and needs PostgreSQL"]
async fn two_nodes_with_postgresql_elect_keep_and_change_their_leader() {
    let Some(python) = Python::with("patroni") else { return };
    let Some(bin) = postgres() else { return skip("PostgreSQL (Debian postgresql)") };
    let mut probe = as_user(PYTHON);
    probe.env("PYTHONPATH", python.packages()).args(["-c", "import patroni, psycopg2"]);
    if !probe.status().is_ok_and(|status| status.success()) {
        return skip("root, the user postgres, and a build directory that this user may read");
    }
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    // Not below the build directory, which the other user may not enter.
    let dir = tempfile::Builder::new().prefix("patroni-").tempdir_in("/tmp").expect("a directory");
    let owned = Command::new("chown").args([USER, &dir.path().display().to_string()]).status();
    assert!(owned.expect("chown").success());
    let hosts = addresses(&cluster);

    let mut one = Node::start(&python, &bin, dir.path(), "one", &hosts);
    wait_role(&one, "primary").await;
    let two = Node::start(&python, &bin, dir.path(), "two", &hosts);
    wait_role(&two, "replica").await;
    let leads = async |cluster: &Cluster| {
        let (_, kv) = cluster.client(cluster.running()[0]).get("/service/test/leader", false).await.expect("a read");
        kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    };
    assert_eq!(leads(&cluster).await.as_deref(), Some("one"));

    // The leader of the store goes; PostgreSQL's stays.
    let leader = cluster.wait_leader().await;
    cluster.kill9(leader);
    cluster.wait_leader().await;
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        assert_eq!(one.role().await, "primary");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(leads(&cluster).await.as_deref(), Some("one"));
    cluster.restart(leader);
    cluster.wait_member_serving(leader).await;

    // PostgreSQL's leader goes, with its Patroni; the other takes over when the lease has ended.
    one.kill();
    wait_role(&two, "primary").await;
    assert_eq!(leads(&cluster).await.as_deref(), Some("two"));
}
