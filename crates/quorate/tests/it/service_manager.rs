//! What systemd does with a service: it opens its socket, hears that it is ready and alive, and stops it. Python stands in for
//! systemd, because a test must not pass file descriptors by unsafe code.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::programs::{QUORATE, free_ports};

const LAUNCHER: &str = "
import os, socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen(16)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ['LISTEN_FDS'] = '1'
os.environ['LISTEN_PID'] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn a_socket_of_the_service_manager_is_served_and_the_watchdog_is_fed() {
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: needs python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let [client_port, peer_port] = free_ports();
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut process = Command::new("python3")
        .args(["-c", LAUNCHER, &client_port.to_string(), QUORATE, "server", "--storage-engine", "memory"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .arg(format!("--initial-cluster=default={peer}"))
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "500000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The socket is open before the server is: clients wait in it.
    let patience = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", client_port)).is_err() {
        assert!(Instant::now() < patience, "nobody listens");
    }
    let mut expected = vec!["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"];
    while let Some(next) = expected.first() {
        let mut buffer = [0; 64];
        let length = notified.recv(&mut buffer).unwrap_or_else(|error| panic!("{next} does not come: {error}"));
        let got = std::str::from_utf8(&buffer[..length]).unwrap();
        // More pings may come than are waited for.
        if got == *next {
            expected.remove(0);
        } else {
            assert_eq!(got, "WATCHDOG=1");
        }
        if expected == ["STOPPING=1"] && got == "WATCHDOG=1" {
            let status = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
            assert!(status.success());
        }
    }
    assert!(process.wait().unwrap().success());
}
