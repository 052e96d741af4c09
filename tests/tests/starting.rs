//! What probes are told while a member starts: the listeners of metrics answer from the moment at which they are open, and
//! go over to the member without a gap. Quorate only: etcd opens them when it has started.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engines::Engines;
use quorate_tests::http::{Answer, ask};
use quorate_tests::server::Server;
use quorate_tests::tools::scratch_dir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long it may take until a member says what it waits for, or serves.
const PATIENCE: Duration = Duration::from_secs(60);
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";
const OK: &str = "HTTP/1.1 200 OK";

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

async fn get(address: &str, path: &str) -> Answer {
    ask(address, &format!("GET {path}")).await.unwrap_or_else(|error| panic!("{path}: {error:#}"))
}

/// Waits until a path answers with these words.
async fn wait_for(address: &str, path: &str, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(address, &format!("GET {path}")).await;
        match &answer {
            Ok(answer) if answer.body.contains(words) => return,
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "{path} has not said {words:?}: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All that is asked of a member that is not there yet, and why it is not.
async fn assert_starting(address: &str, reason: &str) {
    let health = get(address, "/health").await;
    assert_eq!(health.status, UNAVAILABLE);
    assert_eq!(health.body, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    let ready = get(address, "/readyz").await;
    assert_eq!((ready.status.as_str(), ready.body), (UNAVAILABLE, format!("[-]started failed: {reason}\n\n")));
    let check = get(address, "/livez/serializable_read").await;
    assert_eq!(
        (check.status.as_str(), check.body),
        (UNAVAILABLE, format!("[-]serializable_read failed: {reason}\n\n"))
    );
    let alive = get(address, "/livez?verbose").await;
    assert_eq!((alive.status.as_str(), alive.body), (OK, format!("[+]process ok: {reason}\nok\n")));
    assert_eq!(get(address, "/livez").await.body, "ok\n");
    let version = get(address, "/version").await;
    assert!(version.status == OK && version.body.contains(r#""etcdcluster":"not_decided""#), "{version:?}");
    let metrics = get(address, "/metrics").await;
    assert_eq!(metrics.status, OK);
    for line in ["quorate_starting 1", "process_resident_memory_bytes ", "process_start_time_seconds "] {
        assert!(metrics.body.lines().any(|there| there.starts_with(line)), "{line}: {}", metrics.body);
    }
    assert_eq!(get(address, "/nothing").await.status, "HTTP/1.1 404 Not Found");
    assert_eq!(get(address, "/debug/vars").await.status, UNAVAILABLE);
    assert_eq!(ask(address, "POST /health").await.expect("an answer").status, "HTTP/1.1 405 Method Not Allowed");
}

/// Probes without a pause that a person would notice, and panics over each that is not answered.
struct Prober {
    task: tokio::task::JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Prober {
    fn start(address: String) -> Prober {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                assert_eq!(get(&address, "/livez").await.status, OK);
                let ready = get(&address, "/readyz").await;
                assert!([OK, UNAVAILABLE].contains(&ready.status.as_str()), "{ready:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Prober { task, stop }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every probe was answered");
    }
}

/// A connection that stays.
struct Kept(TcpStream);

impl Kept {
    async fn open(address: &str) -> Kept {
        Kept(TcpStream::connect(address).await.expect("a connection"))
    }

    /// The status line of an answer; its end is that of a text.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("the connection is there");
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n")
            || !answer.ends_with(b"\n")
            || answer.ends_with(b"\r\n\r\n")
        {
            assert_ne!(self.0.read_buf(&mut answer).await.expect("an answer"), 0, "the connection ended");
        }
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }
}

/// Overwrites half of redb's pages, so that the member cannot open what it has.
fn wreck_engine(data_dir: &Path) {
    let path = data_dir.join("engine.redb");
    let mut content = std::fs::read(&path).expect("the engine's file");
    let half = content.len() / 2;
    content[4096..half].fill(0xff);
    std::fs::write(&path, content).expect("the file is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_rebuilds_itself_says_so_and_goes_over_without_a_gap() {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(Engines::Redb)).await else { return };
    if !cluster.is_quorate() {
        return;
    }
    cluster.client(0).put("a", "1").await.expect("a put");
    cluster.assert_replicas_equal().await;
    for member in 0..3 {
        cluster.terminate(member).await;
    }
    wreck_engine(&cluster.data_dir(2));
    let metrics = free_address();
    cluster.restart_with(2, &[&format!("--listen-metrics-urls=http://{metrics}")]);
    // Nobody can give it a state: it waits as long as that is so.
    wait_for(&metrics, "/health", "rebuilding from the others").await;
    assert_starting(&metrics, "rebuilding from the others").await;
    let mut kept = Kept::open(&metrics).await;
    assert_eq!(kept.get("/readyz").await, UNAVAILABLE);
    let mut silent = Kept::open(&metrics).await;
    let prober = Prober::start(metrics.clone());
    cluster.restart(0);
    cluster.restart(1);
    wait_for(&metrics, "/readyz?verbose", "[+]linearizable_read ok").await;
    prober.stop().await;
    assert_eq!(kept.get("/readyz").await, OK, "a connection from before is served by the member");
    assert_eq!(silent.get("/readyz").await, OK, "also one on which nothing was asked yet");
    let ready = get(&metrics, "/metrics").await.body;
    assert!(ready.lines().any(|line| line == "quorate_starting 0") && ready.contains("etcd_server_has_leader 1"));
    assert!(cluster.log(2).contains("this member has rebuilt its state from the others"));
    assert_eq!(cluster.client(2).get("a", true).await.expect("a read").1.expect("the key").value, "1");
}

/// A process that is gone with this.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A member of which nobody else is there, and where its metrics are.
fn start_alone(server: &Server, dir: &Path, state: &str) -> (Alone, String) {
    let (peer, other, metrics) = (free_address(), free_address(), free_address());
    let child = server
        .command()
        .args(["--name=m0", &format!("--data-dir={}", dir.join(state).display())])
        .args([&format!("--initial-cluster=m0=http://{peer},m1=http://{other}"), "--initial-cluster-state", state])
        .args([&format!("--listen-peer-urls=http://{peer}"), &format!("--initial-advertise-peer-urls=http://{peer}")])
        .args(["--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1"])
        .arg(format!("--listen-metrics-urls=http://{metrics}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    (Alone(child), metrics)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_waits_for_others_lives_and_is_not_ready() {
    let server = Server::find().expect("a server binary");
    if !server.is_quorate() {
        return;
    }
    let dir = scratch_dir().expect("a directory");
    // One that joins has to be told by somebody who it is.
    let (joining, metrics) = start_alone(&server, dir.path(), "existing");
    wait_for(&metrics, "/health", "starting: asking the other members").await;
    assert_starting(&metrics, "starting: asking the other members").await;
    drop(joining);
    // The first of a new cluster has started, and waits for a quorum.
    let (_first, metrics) = start_alone(&server, dir.path(), "new");
    wait_for(&metrics, "/health", "RAFT NO LEADER").await;
    assert_eq!(get(&metrics, "/health").await.status, UNAVAILABLE);
    let alive = get(&metrics, "/livez?verbose").await;
    assert_eq!((alive.status.as_str(), alive.body.as_str()), (OK, "[+]serializable_read ok\nok\n"));
    assert_eq!(get(&metrics, "/readyz").await.status, UNAVAILABLE);
}
