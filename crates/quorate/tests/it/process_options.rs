//! Options about the process and its sockets, seen from outside: `--memory-mlock`, `--socket-reuse-port`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs::{QUORATE, free_ports};

const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    process: Child,
    endpoint: String,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts one on these ports: for clients and for members.
    fn start([client_port, peer_port]: [u16; 2], options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let process = Command::new(QUORATE)
            .args(["server", "--storage-engine=memory", "--log-level=error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Server { process, endpoint: format!("127.0.0.1:{client_port}"), dir }
    }

    fn is_healthy(&self) -> bool {
        let mut check = Command::new(QUORATE);
        check.args(["endpoint", "health", "--command-timeout=1s", "--endpoints", &self.endpoint]);
        check.env_clear().output().unwrap().status.success()
    }

    /// What it said before it ended, or `None` once it serves.
    fn failure(&mut self) -> Option<String> {
        let start = Instant::now();
        loop {
            if self.process.try_wait().unwrap().is_some() {
                let mut text = String::new();
                self.process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                return Some(text);
            }
            if self.is_healthy() {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "it neither serves nor ends");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// KiB of memory that stay out of swap.
    fn locked(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn memory_is_locked_or_the_server_says_what_it_needs() {
    let mut server = Server::start(free_ports(), &["--memory-mlock"]);
    // Whether this process may lock memory, the machine decides.
    match server.failure() {
        Some(error) => assert!(error.contains("--memory-mlock: "), "{error}"),
        None => assert!(server.locked() > 0),
    }
    let mut server = Server::start(free_ports(), &[]);
    assert_eq!((server.failure(), server.locked()), (None, 0));
}

#[test]
fn ports_are_shared_by_those_who_all_ask_for_it() {
    let ports = free_ports();
    let mut first = Server::start(ports, &["--socket-reuse-port"]);
    assert_eq!(first.failure(), None);
    let mut alone = Server::start(ports, &[]);
    let start = Instant::now();
    while alone.process.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "it got a port that it does not share");
        thread::sleep(Duration::from_millis(50));
    }
    let mut second = Server::start(ports, &["--socket-reuse-port"]);
    while listeners(ports[0]) < 2 {
        assert!(start.elapsed() < PATIENCE, "the second does not listen");
        thread::sleep(Duration::from_millis(50));
    }
    drop(first);
    assert_eq!(second.failure(), None);
}

/// How many sockets listen on this port of the machine.
fn listeners(port: u16) -> usize {
    const LISTENING: &str = "0A";
    let address = format!("0100007F:{port:04X}");
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = |line: &&str| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(address.as_str()) && columns.nth(1) == Some(LISTENING)
    };
    sockets.lines().filter(listens).count()
}

#[test]
fn clients_reach_a_socket_on_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", dir.path().join("q.sock").display());
    let ports = free_ports();
    let listen = format!("--listen-client-urls=http://127.0.0.1:{},{socket}", ports[0]);
    let mut server = Server::start(ports, &[&listen]);
    assert_eq!(server.failure(), None);
    let run = |args: &[&str]| {
        let output = Command::new(QUORATE).args(["--endpoints", &socket]).args(args).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(run(&["put", "a", "1"]), (Some(0), "OK\n".to_owned()));
    assert_eq!(run(&["get", "a"]), (Some(0), "a\n1\n".to_owned()));
}

/// A start that fails leaves nothing behind that the next one, with better options, would hold to.
#[test]
fn a_taken_port_is_named_and_nothing_is_written() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [client_port] = free_ports();
    let mut server = Server::start([client_port, taken.local_addr().unwrap().port()], &[]);
    let said = server.failure().expect("it cannot start");
    assert!(said.contains("cannot listen for peers on") && said.contains("another process listens there"), "{said}");
    let data = server.dir.path().join("data");
    let mode = std::os::unix::fs::PermissionsExt::mode(&data.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "the directory is its user's alone");
    assert!(!data.join("IDENTITY").exists());
}
