//! Programs and servers that the tests run.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The binary under test.
pub const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A program of this name in the path, or the one that the variable names.
fn find(variable: &str, name: &str) -> Option<String> {
    if let Ok(path) = std::env::var(variable) {
        return Some(path);
    }
    let paths = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.is_file())?;
    found.into_os_string().into_string().ok()
}

/// The program and first arguments of a server that takes etcd's options.
pub fn program() -> Option<Vec<String>> {
    match std::env::var("QUORATE_TOUR_SERVER").as_deref() {
        Ok("quorate") => Some(vec![QUORATE.to_owned(), "server".to_owned()]),
        _ => find("QUORATE_TOUR_ETCD", "etcd").map(|etcd| vec![etcd]),
    }
}

/// Etcdctl and its version; says why if there is none to compare with.
pub fn etcdctl() -> Option<(String, (u32, u32))> {
    let Some(path) = find("QUORATE_TOUR_ETCDCTL", "etcdctl") else {
        println!("skipped: needs etcd");
        return None;
    };
    let output = Command::new(&path).arg("version").env("ETCDCTL_API", "3").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.lines().next()?.rsplit(' ').next()?.split('.').map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    if version < (3, 4) {
        println!("skipped: needs etcd 3.4 or later");
        return None;
    }
    Some((path, version))
}

/// Ports that nobody listens on.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // All stay open until all are known, so that none comes twice.
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A server with one member, which ends with this.
pub struct Etcd {
    process: Child,
    client_port: u16,
    peer_port: u16,
    _dir: TempDir,
}

impl Etcd {
    /// Starts it and waits until it is healthy.
    pub fn start() -> Self {
        let program = program().expect("the test looked for it");
        let dir = tempfile::tempdir().unwrap();
        let [client_port, peer_port] = free_ports();
        let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let data: PathBuf = dir.path().join("data");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(&program[0])
            .args(&program[1..])
            .args(["--name", "only", "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("only={peer}")])
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Etcd { process, client_port, peer_port, _dir: dir };
        server.wait_until_healthy();
        server
    }

    fn wait_until_healthy(&self) {
        let start = Instant::now();
        let healthy = || {
            let mut check = Command::new(QUORATE);
            check.args(["endpoint", "health", "--command-timeout=1s", "--endpoints", &self.endpoint()]);
            check.env_clear().output().unwrap().status.success()
        };
        while !healthy() {
            assert!(start.elapsed() < START_TIMEOUT, "the server does not become healthy");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Where other members would find it.
    pub fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
