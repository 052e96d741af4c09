//! Members and endpoints that are found by SRV records, on a small DNS server.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::quorate::Quorate;
use quorate_tests::secure::SecureCluster;
use quorate_tests::tools::Etcdctl;

/// Answers questions for SRV records over UDP until it is dropped.
struct Dns {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Dns {
    /// `zone`: name of the service, and the ports where it is, all on this machine.
    fn start(zone: Vec<(&'static str, Vec<u16>)>) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let address = socket.local_addr().expect("its address").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(&answer(&question[..length], &zone), from);
                }
            }
        });
        Dns { address, stop, thread: Some(thread) }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().expect("the thread").join();
    }
}

fn answer(question: &[u8], zone: &[(&str, Vec<u16>)]) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        name.push_str(std::str::from_utf8(&question[at + 1..at + 1 + length]).expect("a label"));
        name.push('.');
        at += 1 + length;
    }
    let ports = zone.iter().find(|(service, _)| name == format!("{service}.cluster.test.")).map(|(_, ports)| ports);
    let mut answer = question[..at + 5].to_vec();
    answer[2] = 0x81;
    // "No such name", or no error.
    answer[3] = if ports.is_some() { 0x80 } else { 0x83 };
    answer[6..8].copy_from_slice(&(ports.map_or(0, Vec::len) as u16).to_be_bytes());
    for port in ports.into_iter().flatten() {
        answer.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, 0, 0, 0]);
        answer.extend_from_slice(&port.to_be_bytes());
        answer.extend_from_slice(b"\x09localhost\0");
    }
    answer
}

fn port(url: &str) -> u16 {
    url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_and_found_by_srv_records() {
    let Some(quorate) = Quorate::find() else { return };
    let mut servers = Vec::new();
    let cluster = Cluster::start_found(ClusterSpec::new(3), |peers, clients| {
        let zone = vec![
            ("_etcd-server-blue._tcp", peers.iter().map(|url: &String| port(url)).collect()),
            ("_etcd-client-blue._tcp", clients.iter().map(|url: &String| port(url)).collect()),
        ];
        servers.push(Dns::start(zone));
        let server = format!("--discovery-srv-server={}", servers[0].address);
        vec!["--discovery-srv=cluster.test".to_owned(), "--discovery-srv-name=blue".to_owned(), server]
    })
    .await;
    let Some(cluster) = cluster else { return };
    let dns = servers.first().expect("a DNS server");
    let found = ["--discovery-srv=cluster.test", "--discovery-srv-name=blue", "--discovery-srv-server", &dns.address];

    quorate.run(&[&found[..], &["put", "found", "by name"]].concat()).expect("a put");
    assert_eq!(quorate.run(&[&found[..], &["get", "found"]].concat()).expect("a get"), "found\nby name\n");
    let list = quorate.run(&[&found[..], &["member", "list"]].concat()).expect("a list");
    for member in 0..3 {
        // Each knows its own name, and all agree on who is where.
        assert!(
            list.contains(&format!(", started, m{member}, http://localhost:{}", port(&cluster.peer_url(member)))),
            "{list}"
        );
    }
    for etcdctl in Etcdctl::all() {
        let read = etcdctl.with_endpoints(&cluster.endpoints()).run(&["get", "found"]).expect("etcdctl");
        assert_eq!(read, "found\nby name\n");
    }
    cluster.assert_replicas_equal().await;

    let nobody = ["--discovery-srv=nobody.test", "--discovery-srv-server", &dns.address, "get", "found"];
    let (code, said) = quorate.refused(&nobody);
    assert_eq!(code, Some(128), "{said}");
    assert!(said.contains("dns lookup errors") && said.contains("no such host"), "{said}");
    let strict = [&found[..], &["--insecure-discovery=false", "--command-timeout=1s", "get", "found"]].concat();
    assert!(quorate.refused(&strict).1.contains("ignoring discovered insecure endpoint"));
}

/// The records of services with TLS are asked for first, and lead to https.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_is_made_and_found_by_srv_records() {
    let Some(quorate) = Quorate::find() else { return };
    let mut cluster = SecureCluster::new(3, "https");
    let ports = |address: &dyn Fn(usize) -> String| (0..3).map(|member| port(&address(member))).collect::<Vec<_>>();
    let zone = vec![
        ("_etcd-server-ssl._tcp", ports(&|member| cluster.peer_url(member))),
        ("_etcd-client-ssl._tcp", ports(&|member| cluster.endpoint(member))),
    ];
    let dns = Dns::start(zone);
    // Members know each other by the domain, too, as in etcd.
    let hosts = ["127.0.0.1", "localhost", "cluster.test"];
    cluster.write(&cluster.ca.issue("client", &[]), "client");
    let server = format!("--discovery-srv-server={}", dns.address);
    for member in 0..3 {
        let name = format!("member{member}");
        cluster.write(&cluster.ca.issue(&name, &hosts), &name);
        let found = vec!["--discovery-srv=cluster.test".to_owned(), server.clone()];
        let flags = [cluster.client_flags(&name), cluster.peer_flags(&name), found].concat();
        cluster.set_flags(member, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    }
    cluster.find_by_flags();
    cluster.spawn_all();

    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|file| cluster.file(file));
    let tls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let found = ["--discovery-srv=cluster.test", "--discovery-srv-server", &dns.address];
    let ask = |args: &[&str]| quorate.run(&[&found[..], &tls[..], args].concat());
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    while let Err(error) = ask(&["put", "found", "by name"]) {
        assert!(std::time::Instant::now() < deadline, "{error:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(ask(&["get", "found"]).expect("a get"), "found\nby name\n");
    let list = ask(&["member", "list"]).expect("a list");
    for member in 0..3 {
        let expected = format!(", started, m{member}, https://localhost:{}", port(&cluster.peer_url(member)));
        assert!(list.contains(&expected), "{list}");
    }
    // Who does not know the authority is refused, though the records are right.
    let (_, said) = quorate.refused(&[&found[..], &["--command-timeout=2s", "get", "found"]].concat());
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn a_member_that_no_record_names_is_refused() {
    let Some(quorate) = Quorate::find() else { return };
    let dns = Dns::start(vec![("_etcd-server._tcp", vec![1])]);
    let dir = quorate_tests::tools::scratch_dir().expect("a directory");
    let data_dir = format!("--data-dir={}", dir.path().join("data").display());
    let server = format!("--discovery-srv-server={}", dns.address);
    for (flags, expected) in [
        (vec!["--discovery-srv=cluster.test"], "cannot find local etcd member \"default\" in SRV records"),
        (vec!["--discovery-srv=nobody.test"], "error querying DNS SRV records for _etcd-server lookup"),
        (
            vec!["--discovery-srv=cluster.test", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set",
        ),
    ] {
        let (_, said) = quorate.refused(&[vec!["server", &data_dir, &server], flags.clone()].concat());
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
}
