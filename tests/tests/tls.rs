//! TLS with real processes and etcd's own clients: who gets in, who does not, and that nobody else notices.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_client::{Client, ConnectOptions, TlsOptions, WatchOptions};
use quorate_tests::cluster::PATIENCE;
use quorate_tests::manual::recipe;
use quorate_tests::quorate::Quorate;
use quorate_tests::secure::{SecureCluster, credentials};
use quorate_tests::server::Server;
use quorate_tests::tools::{Etcdctl, in_path, scratch_dir, skip};
use quorate_tls::testing::{Authority, Identity, replace};

const HOSTS: &[&str] = &["127.0.0.1", "localhost"];

/// A cluster of one whose clients must show certificates; not started. Its own is `server`, a good client's `alice`.
fn single(flags: &[&str]) -> SecureCluster {
    let mut cluster = SecureCluster::new(1, "http");
    cluster.write(&cluster.ca.issue("server", HOSTS), "server");
    cluster.write(&cluster.ca.issue("alice", &[]), "alice");
    let own = cluster.client_flags("server");
    let all: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    cluster.set_flags(0, &all);
    cluster
}

fn pair(cluster: &SecureCluster, name: &str) -> [String; 2] {
    [cluster.file(&format!("{name}.pem")), cluster.file(&format!("{name}.key"))]
}

/// etcd's clients, each for all endpoints.
fn etcdctls(cluster: &SecureCluster) -> Vec<Etcdctl> {
    let found: Vec<_> = Etcdctl::all().iter().map(|ctl| ctl.with_endpoints(&cluster.endpoints())).collect();
    if found.is_empty() {
        skip("etcdctl (Debian etcd-client)");
    }
    found
}

/// Runs etcdctl as the owner of a certificate.
fn run_as(cluster: &SecureCluster, ctl: &Etcdctl, name: &str, args: &[&str]) -> anyhow::Result<String> {
    let (ca, files) = (cluster.file("ca.pem"), pair(cluster, name));
    ctl.run(&[&credentials(&ca, &files)[..], args].concat())
}

fn wait_serving(cluster: &SecureCluster, ctl: &Etcdctl, name: &str) {
    let (ca, files) = (cluster.file("ca.pem"), pair(cluster, name));
    cluster.eventually(ctl, &[&credentials(&ca, &files)[..], &["put", "ready", "yes"]].concat());
}

fn client_of(cluster: &SecureCluster, name: &str) -> TlsOptions {
    let [cert, key] = pair(cluster, name);
    TlsOptions::new().ca_file(cluster.file("ca.pem")).identity(cert, key)
}

async fn connect(cluster: &SecureCluster, tls: TlsOptions) -> Client {
    let options = ConnectOptions::new().tls(tls).timeout(Duration::from_secs(3));
    Client::connect(cluster.endpoints(), options).await.expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_good_certificates_get_in() {
    let mut cluster = single(&[]);
    let (expired, mallory) = (cluster.ca.issue_expired("eve", &[]), cluster.ca.issue("mallory", &[]));
    cluster.write(&expired, "expired");
    cluster.write(&mallory, "mallory");
    cluster.write(&Authority::new("foreign").issue("alice", &[]), "foreign");
    replace(&cluster.dir().join("revoked.crl"), &cluster.ca.revoke(&[&mallory]));
    let crl = format!("--client-crl-file={}", cluster.file("revoked.crl"));
    let own = [cluster.client_flags("server"), vec![crl]].concat();
    cluster.set_flags(0, &own.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.spawn_all();

    let short = ["--command-timeout", "2s", "put", "k", "v"];
    for ctl in etcdctls(&cluster) {
        wait_serving(&cluster, &ctl, "alice");
        for bad in ["expired", "foreign", "mallory"] {
            assert!(run_as(&cluster, &ctl, bad, &short).is_err(), "{bad} got in by etcdctl {}", ctl.version);
            // Whoever is refused does no harm to the others.
            run_as(&cluster, &ctl, "alice", &["put", "k", bad]).unwrap();
        }
        let ca = cluster.file("ca.pem");
        assert!(ctl.run(&[&["--cacert", &ca][..], &short].concat()).is_err(), "without a certificate");
        let plain = ctl.with_endpoints(&[format!("http://{}", cluster.client_address(0))]);
        assert!(plain.run(&short).is_err(), "without TLS");
        let files = pair(&cluster, "alice");
        let trusting_nobody = [&["--cert", &files[0], "--key", &files[1]][..], &short].concat();
        assert!(ctl.run(&trusting_nobody).is_err(), "the client does not know the authority");
        let careless = [&["--insecure-skip-tls-verify"][..], &trusting_nobody].concat();
        ctl.run(&careless).unwrap();
        assert_eq!(run_as(&cluster, &ctl, "alice", &["get", "k", "--print-value-only"]).unwrap(), "v\n");
    }
    if cluster.is_quorate() {
        for reason in ["no_certificate", "unknown_issuer", "expired", "revoked", "plaintext"] {
            let name = format!("quorate_tls_handshake_failures_total{{side=\"client\",reason=\"{reason}\"}}");
            assert!(cluster.metric(0, &name) > 0.0, "{reason}");
        }
        assert!(cluster.log(0).contains("rejected a connection"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_projects_client_says_what_to_do() {
    let mut cluster = single(&[]);
    cluster.write(&cluster.ca.issue_expired("eve", &[]), "expired");
    Authority::new("foreign").write(cluster.dir(), "other-ca");
    cluster.spawn_all();
    let alice = connect(&cluster, client_of(&cluster, "alice")).await.with_timeout(PATIENCE);
    alice.put("k", "v", None).await.unwrap();

    let no_certificate = TlsOptions::new().ca_file(cluster.file("ca.pem"));
    let wrong_ca = client_of(&cluster, "alice").ca_file(cluster.file("other-ca.pem"));
    let wrong_name = client_of(&cluster, "alice").server_name("elsewhere.example");
    for (tls, expected) in [
        (
            no_certificate,
            if cluster.is_quorate() { "it wants a client certificate" } else { "refused the TLS connection" },
        ),
        (client_of(&cluster, "expired"), "refused the TLS connection"),
        (wrong_ca, "is not signed by an authority that is trusted here"),
        (wrong_name, "is for other names"),
    ] {
        let error = connect(&cluster, tls).await.put("k", "w", None).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        // The request was never seen: the client may say so.
        assert!(!error.is_unknown_outcome(), "{error}");
    }
    let plain = format!("http://{}", cluster.client_address(0));
    let options = ConnectOptions::new().timeout(Duration::from_secs(2));
    let error = Client::connect([plain], options).await.unwrap().put("k", "w", None).await.unwrap_err();
    // Go's server closes without an alert.
    assert!(!cluster.is_quorate() || error.to_string().contains("the server speaks TLS"), "{error}");
    assert_eq!(alice.get("k", quorate_client::GetOptions::new()).await.unwrap().kvs[0].value, b"v"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_are_cut_and_in_nobodys_way() {
    let mut cluster = single(&[]);
    if !cluster.is_quorate() {
        return;
    }
    let own = [cluster.client_flags("server"), vec!["--header-read-timeout=3s".to_owned()]].concat();
    cluster.set_flags(0, &own.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.spawn_all();
    let alice = connect(&cluster, client_of(&cluster, "alice")).await.with_timeout(PATIENCE);
    alice.put("k", "0", None).await.unwrap();

    let stalled: Vec<_> = (0..1500).map(|_| TcpStream::connect(cluster.client_address(0)).unwrap()).collect();
    for round in 1..=3 {
        // A connection of its own each time.
        let client = connect(&cluster, client_of(&cluster, "alice")).await.with_timeout(PATIENCE);
        client.put("k", round.to_string(), None).await.unwrap();
    }
    for mut stream in stalled {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An end, or a reset; not the time-out of this side.
        match stream.read(&mut [0; 16]) {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    let name = "quorate_tls_handshake_failures_total{side=\"client\",reason=\"stalled\"}";
    assert_eq!(cluster.metric(0, name), 1500.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_taken_while_connections_live() {
    let mut cluster = single(&[]);
    let bob = cluster.ca.issue("bob", &[]);
    cluster.write(&bob, "bob");
    let crl = cluster.dir().join("revoked.crl");
    replace(&crl, &cluster.ca.revoke(&[]));
    let own = [cluster.client_flags("server"), vec![format!("--client-crl-file={}", crl.display())]].concat();
    cluster.set_flags(0, &own.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.spawn_all();
    let alice = connect(&cluster, client_of(&cluster, "alice")).await.with_timeout(PATIENCE);
    alice.put("k", "1", None).await.unwrap();
    let mut watch = alice.watch("k", WatchOptions::new()).await.unwrap();
    let ctls = etcdctls(&cluster);

    // A certificate of a new authority: those who trust it alone get in from now on.
    let new_ca = Authority::new("new authority");
    new_ca.write(cluster.dir(), "new-ca");
    cluster.write(&new_ca.issue("server", HOSTS), "server");
    let files = pair(&cluster, "alice");
    let new_ca_file = cluster.file("new-ca.pem");
    for ctl in &ctls {
        let args = [&credentials(&new_ca_file, &files)[..], &["put", "k", "2"]].concat();
        cluster.eventually(ctl, &args);
    }

    // A revocation: bob got in before, and does not any more.
    let bobs = pair(&cluster, "bob");
    for ctl in &ctls {
        let args = [&credentials(&new_ca_file, &bobs)[..], &["--command-timeout", "2s", "get", "k"]].concat();
        replace(&crl, &cluster.ca.revoke(&[]));
        cluster.eventually(ctl, &args);
        replace(&crl, &cluster.ca.revoke(&[&bob]));
        assert!(ctl.run(&args).is_err(), "bob is revoked");
    }

    if cluster.is_quorate() {
        // Nonsense: what was there stays in use, and the log and the metrics say so.
        replace(&cluster.dir().join("server.pem"), "nonsense");
        for ctl in &ctls {
            ctl.run(&[&credentials(&new_ca_file, &files)[..], &["put", "k", "3"]].concat()).unwrap();
        }
        assert!(cluster.metric(0, "quorate_tls_reload_failures_total{side=\"client\"}") > 0.0);
        assert!(cluster.metric(0, "quorate_tls_reloads_total{side=\"client\"}") > 0.0);
        assert!(cluster.log(0).contains("server.pem: there is no certificate in it (PEM)"));
        let expiry = cluster.metric(0, "quorate_tls_certificate_expiry_timestamp_seconds{side=\"client\"}");
        assert!(expiry > 1.8e9, "{expiry}");
    }
    // Whoever was connected still is.
    alice.put("k", "last", None).await.unwrap();
    let last = async {
        while let Some(batch) = watch.next().await {
            if batch.unwrap().events.iter().any(|event| event.kv.value == b"last"[..]) {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(PATIENCE, last).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_hosts_get_in() {
    let mut cluster = single(&["--client-cert-allowed-hostname=good.example"]);
    cluster.write(&cluster.ca.issue("anybody", &["good.example"]), "good");
    cluster.spawn_all();
    for ctl in etcdctls(&cluster) {
        wait_serving(&cluster, &ctl, "good");
        assert!(run_as(&cluster, &ctl, "alice", &["--command-timeout", "2s", "get", "k"]).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_2_share_the_port_behind_tls() {
    let mut cluster = single(&[]);
    cluster.spawn_all();
    let Some(curl) = in_path("curl") else { return skip("curl") };
    for ctl in etcdctls(&cluster).iter().take(1) {
        wait_serving(&cluster, ctl, "alice");
    }
    let [cert, key] = pair(&cluster, "alice");
    for version in ["--http1.1", "--http2"] {
        let output = std::process::Command::new(&curl)
            .args(["-s", version, "--cacert", &cluster.file("ca.pem"), "--cert", &cert, "--key", &key])
            .arg(format!("{}/health", cluster.endpoint(0)))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("\"health\":\"true\""), "{version}: {text}");
    }
}

/// A cluster of three, all of whose connections are encrypted and verified both ways.
fn three(flags: &[&str]) -> SecureCluster {
    let mut cluster = SecureCluster::new(3, "https");
    cluster.write(&cluster.ca.issue("alice", &[]), "alice");
    for member in 0..3 {
        let name = format!("member{member}");
        cluster.write(&cluster.ca.issue(&name, HOSTS), &name);
        set_member_flags(&mut cluster, member, &name, flags);
    }
    cluster
}

fn set_member_flags(cluster: &mut SecureCluster, member: usize, peer_identity: &str, more: &[&str]) {
    let own = [cluster.client_flags(&format!("member{member}")), cluster.peer_flags(peer_identity)].concat();
    let all: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
    cluster.set_flags(member, &all);
}

/// How often each member is asked, and how it goes: a write through one, read through the others.
fn check_agreement(cluster: &SecureCluster, ctl: &Etcdctl, members: &[usize], value: &str) {
    let via = |member: usize| ctl.with_endpoints(&[cluster.endpoint(member)]);
    let (ca, files) = (cluster.file("ca.pem"), pair(cluster, "alice"));
    let credentials = credentials(&ca, &files);
    cluster.eventually(&via(members[0]), &[&credentials[..], &["put", "agreed", value]].concat());
    for &member in members {
        let read =
            cluster.eventually(&via(member), &[&credentials[..], &["get", "agreed", "--print-value-only"]].concat());
        assert_eq!(read, format!("{value}\n"), "m{member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_survive_a_kill_over_tls() {
    let mut cluster = three(&[]);
    cluster.spawn_all();
    let Some(ctl) = etcdctls(&cluster).pop() else { return };
    check_agreement(&cluster, &ctl, &[0, 1, 2], "first");
    cluster.kill9(1);
    check_agreement(&cluster, &ctl, &[0, 2], "without m1");
    cluster.spawn(1);
    check_agreement(&cluster, &ctl, &[1, 0, 2], "with m1");
    if cluster.is_quorate() {
        assert!(cluster.metric(1, "quorate_tls_handshakes_total{side=\"peer\"}") > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_foreign_certificate_stays_outside() {
    let mut cluster = three(&[]);
    cluster.write(&Authority::new("foreign").issue("member2", HOSTS), "foreign");
    cluster.spawn_all();
    let Some(ctl) = etcdctls(&cluster).pop() else { return };
    check_agreement(&cluster, &ctl, &[0, 1, 2], "first");
    cluster.kill9(2);
    set_member_flags(&mut cluster, 2, "foreign", &[]);
    cluster.spawn(2);
    check_agreement(&cluster, &ctl, &[0, 1], "without m2");
    if cluster.is_quorate() {
        let refused = "quorate_tls_handshake_failures_total{side=\"peer\",reason=\"unknown_issuer\"}";
        let deadline = Instant::now() + PATIENCE;
        while cluster.metric(0, refused) + cluster.metric(1, refused) == 0.0 {
            assert!(Instant::now() < deadline, "nobody has refused m2");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // It sees no leader: what needs one fails there.
    let (ca, files) = (cluster.file("ca.pem"), pair(&cluster, "alice"));
    let args = [&credentials(&ca, &files)[..], &["--command-timeout", "2s", "get", "agreed"]].concat();
    assert!(ctl.with_endpoints(&[cluster.endpoint(2)]).run(&args).is_err());
    cluster.kill9(2);
    set_member_flags(&mut cluster, 2, "member2", &[]);
    cluster.spawn(2);
    check_agreement(&cluster, &ctl, &[2, 0, 1], "with m2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_on_a_peer_port_keeps_no_member_out() {
    let mut cluster = three(&[]);
    cluster.spawn_all();
    let Some(ctl) = etcdctls(&cluster).pop() else { return };
    check_agreement(&cluster, &ctl, &[0, 1, 2], "first");
    cluster.kill9(2);
    let stalled: Vec<_> = (0..2)
        .flat_map(|member| (0..300).map(move |_| member))
        .map(|member| TcpStream::connect(cluster.peer_address(member)).unwrap())
        .collect();
    cluster.spawn(2);
    check_agreement(&cluster, &ctl, &[2, 0, 1], "with m2");
    drop(stalled);
}

/// The steps of the manual, on a cluster that serves all the while.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_changes_its_peers_from_plain_to_tls() {
    let mut cluster = three(&[]);
    for member in 0..3 {
        cluster.set_peer_scheme(member, "http");
    }
    let plain = |cluster: &mut SecureCluster, member: usize, more: &[&str]| {
        let own = cluster.client_flags(&format!("member{member}"));
        let all: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        cluster.set_flags(member, &all);
    };
    (0..3).for_each(|member| plain(&mut cluster, member, &[]));
    cluster.spawn_all();
    let Some(ctl) = etcdctls(&cluster).pop() else { return };
    check_agreement(&cluster, &ctl, &[0, 1, 2], "plain");
    // First everybody learns to dial by TLS: a certificate to show, and an authority to trust.
    for member in 0..3 {
        cluster.kill9(member);
        set_member_flags(&mut cluster, member, &format!("member{member}"), &[]);
        cluster.spawn(member);
        check_agreement(&cluster, &ctl, &[member, (member + 1) % 3], "dials by TLS");
    }
    let (ca, files) = (cluster.file("ca.pem"), pair(&cluster, "alice"));
    for member in 0..3 {
        let list = cluster.eventually(&ctl, &[&credentials(&ca, &files)[..], &["member", "list"]].concat());
        let line = list.lines().find(|line| line.contains(&format!("m{member},"))).expect("the member");
        let id = line.split(',').next().unwrap().to_owned();
        cluster.set_peer_scheme(member, "https");
        let urls = format!("--peer-urls={}", cluster.peer_url(member));
        cluster.eventually(&ctl, &[&credentials(&ca, &files)[..], &["member", "update", &id, &urls]].concat());
        cluster.kill9(member);
        cluster.spawn(member);
        check_agreement(&cluster, &ctl, &[member, (member + 1) % 3, (member + 2) % 3], "serves TLS");
    }
    let plaintext = cluster.peer_address(0).to_owned();
    let mut stream = TcpStream::connect(plaintext).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut stream, b"not TLS, not TLS").unwrap();
    let mut first = [0];
    // An alert, or the end.
    assert!(stream.read(&mut first).unwrap() == 0 || first == [0x15]);
}

/// Three members of which the last dials with `identity`; whether it becomes part of the cluster.
fn joins_with(identity: impl Fn(&Authority) -> Identity, flags: &[&str]) -> Option<bool> {
    let mut cluster = three(flags);
    if !cluster.is_quorate() {
        return None;
    }
    cluster.write(&identity(&cluster.ca), "dialling");
    let [cert, key] = pair(&cluster, "dialling");
    let dialling = [format!("--peer-client-cert-file={cert}"), format!("--peer-client-key-file={key}")];
    let all: Vec<&str> = dialling.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    for member in 0..3 {
        set_member_flags(&mut cluster, member, &format!("member{member}"), &all);
    }
    cluster.spawn_all();
    let ctl = etcdctls(&cluster).pop()?;
    let (ca, files) = (cluster.file("ca.pem"), pair(&cluster, "alice"));
    let deadline = Instant::now() + Duration::from_secs(8);
    let args = [&credentials(&ca, &files)[..], &["--command-timeout", "2s", "put", "k", "v"]].concat();
    while Instant::now() < deadline {
        if ctl.run(&args).is_ok() {
            return Some(true);
        }
    }
    let log = cluster.log(0);
    let is_told = ["wrong_address", "not_allowed"].iter().any(|reason| log.contains(reason));
    assert!(is_told, "{log}");
    Some(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_held_to_the_addresses_and_names_of_their_certificates() {
    let elsewhere = |ca: &Authority| ca.issue("member", &["10.9.9.9"]);
    let here = |ca: &Authority| ca.issue("member", &["10.9.9.9", "localhost"]);
    let skip_check = ["--peer-skip-client-san-verification"];
    let Some(joins) = joins_with(elsewhere, &[]) else { return };
    assert!(!joins, "its certificate is for another address");
    assert_eq!(joins_with(elsewhere, &skip_check), Some(true));
    assert_eq!(joins_with(here, &[]), Some(true), "localhost leads here");
    let names = ["--peer-cert-allowed-cn=member0,member1,member2"];
    assert_eq!(joins_with(here, &names), Some(false), "`member` is not among them");
    let names = ["--peer-cert-allowed-cn=member0,member1,member2,member"];
    assert_eq!(joins_with(here, &names), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_tls_encrypts_without_any_file() {
    let mut cluster = SecureCluster::new(3, "https");
    for member in 0..3 {
        cluster.set_flags(member, &["--auto-tls", "--peer-auto-tls"]);
    }
    cluster.spawn_all();
    let Some(ctl) = etcdctls(&cluster).pop() else { return };
    let careless = ["--insecure-transport=false", "--insecure-skip-tls-verify"];
    cluster.eventually(&ctl, &[&careless[..], &["put", "k", "v"]].concat());
    let read =
        |member: usize| std::fs::read(cluster.dir().join(format!("m{member}/fixtures/client/cert.pem"))).unwrap();
    let (first, other) = (read(0), read(1));
    assert_ne!(first, other);
    cluster.kill9(0);
    cluster.spawn(0);
    let m0 = ctl.with_endpoints(&[cluster.endpoint(0)]);
    let value = cluster.eventually(&m0, &[&careless[..], &["get", "k", "--print-value-only"]].concat());
    assert_eq!(value, "v\n");
    let again = std::fs::read(cluster.dir().join("m0/fixtures/client/cert.pem")).unwrap();
    assert_eq!(first, again, "kept over a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubeadm_passes_starts_and_is_probed() {
    let mut cluster = SecureCluster::new(1, "https");
    cluster.write(&cluster.ca.issue("node", HOSTS), "server");
    cluster.write(&cluster.ca.issue("node", HOSTS), "peer");
    cluster.write(&cluster.ca.issue("kube-apiserver-etcd-client", &[]), "apiserver");
    let more = [
        "--snapshot-count=10000",
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=5s",
    ];
    let own = [cluster.client_flags("server"), cluster.peer_flags("peer")].concat();
    let all: Vec<&str> = own.iter().map(String::as_str).chain(more).collect();
    cluster.set_flags(0, &all);
    cluster.spawn_all();
    for ctl in etcdctls(&cluster) {
        // etcd 3.4 does not know the last flag, and need not.
        wait_serving(&cluster, &ctl, "apiserver");
    }
    let deadline = Instant::now() + PATIENCE;
    while cluster.http(0, "/health?serializable=true&exclude=NOSPACE").is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    if cluster.is_quorate() {
        for probe in ["/livez", "/readyz"] {
            cluster.http(0, probe).unwrap();
        }
    }
}

#[test]
fn the_recipe_of_the_manual_works_as_it_is_written() {
    let server = Server::find().unwrap();
    if !server.is_quorate() {
        return;
    }
    if in_path("openssl").is_none() {
        return skip("openssl");
    }
    let dir = scratch_dir().unwrap();
    let serve = "quorate --endpoints https://127.0.0.1:23790 --cacert ca.pem --cert app.pem --key app.key";
    let shown = "openssl s_client -connect 127.0.0.1:23790 -CAfile ca.pem -cert app.pem -key app.key </dev/null";
    let script = format!(
        "set -e\n{}\n{}\ntrap 'kill $!; wait $!' EXIT\n\
         test \"$({shown} | openssl x509 -noout -fingerprint)\" = \"$(openssl x509 -in n1.pem -noout -fingerprint)\"\n\
         {serve} get greeting --print-value-only\n",
        recipe("tls"),
        recipe("tls-renew"),
    );
    let free = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listeners = [free(), free()];
    let [client, peer] = listeners.map(|at| at.local_addr().unwrap().port().to_string());
    let script = script.replace("23790", &client).replace("23800", &peer);
    let path = std::env::var("PATH").unwrap_or_default();
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", format!("{}:{path}", server.binary().parent().unwrap().display()))
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("hello\n"), "{stdout}{stderr}");
}

#[test]
fn files_that_cannot_be_used_keep_a_member_from_starting() {
    let mut cluster = single(&[]);
    replace(&cluster.dir().join("server.key"), "nonsense");
    cluster.spawn_all();
    let log = cluster.wait_refused(0);
    let expected = "server.key: there is no private key in it";
    assert!(!cluster.is_quorate() || log.contains(expected), "{log}");
}

/// A socket in the file system, plain and with TLS, in all of etcd's ways to name it.
#[test]
fn endpoints_may_be_sockets_in_the_file_system() {
    let Some(quorate) = Quorate::find() else { return };
    let mut cluster = single(&[]);
    let [plain, secure] = ["plain.sock", "tls.sock"].map(|name| cluster.file(name));
    let urls = format!("--listen-client-urls=unix://{plain},unixs://{secure},https://{}", cluster.client_address(0));
    let own = [cluster.client_flags("server"), vec![urls]].concat();
    cluster.set_flags(0, &own.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.listen_by_flags();
    cluster.spawn_all();
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(&secure).exists() {
        assert!(Instant::now() < deadline, "{}", cluster.log(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (ca, files) = (cluster.file("ca.pem"), pair(&cluster, "alice"));
    let tls = credentials(&ca, &files);
    for (endpoint, more) in [
        (format!("unix://{plain}"), &[][..]),
        (format!("unix:{plain}"), &[]),
        (format!("unixs://{secure}"), &tls),
        (format!("unixs:{secure}"), &tls),
    ] {
        let ask = |args: &[&str]| quorate.run(&[&["--endpoints", &*endpoint], more, args].concat());
        assert_eq!(ask(&["put", "k", &endpoint]).expect("a put"), "OK\n");
        assert_eq!(ask(&["get", "k", "--print-value-only"]).expect("a get"), format!("{endpoint}\n"));
        assert!(ask(&["endpoint", "health"]).is_ok(), "{endpoint}");
    }
    let unknown = ["--endpoints", &format!("unixs://{secure}"), "--command-timeout=2s", "get", "k"];
    assert!(quorate.refused(&unknown).1.contains("certificate"), "the authority is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_one_machine_speak_tls_by_sockets_in_the_file_system() {
    let mut cluster = SecureCluster::new(3, "unixs");
    if !cluster.is_quorate() {
        return;
    }
    cluster.write(&cluster.ca.issue("server", HOSTS), "server");
    cluster.write(&cluster.ca.issue("alice", &[]), "alice");
    cluster.write(&Authority::new("foreign").issue("server", HOSTS), "foreign");
    let flags = |cluster: &SecureCluster, peer: &str| {
        let peer = [format!("--peer-cert-file={}", cluster.file(&format!("{peer}.pem")))]
            .into_iter()
            .chain([format!("--peer-key-file={}", cluster.file(&format!("{peer}.key")))]);
        let trusted = cluster.peer_flags("server").into_iter().skip(2);
        cluster.client_flags("server").into_iter().chain(peer).chain(trusted).collect::<Vec<_>>()
    };
    let set_flags = |cluster: &mut SecureCluster, member: usize, peer: &str| {
        let flags = flags(cluster, peer);
        cluster.set_flags(member, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    };
    (0..3).for_each(|member| set_flags(&mut cluster, member, "server"));
    cluster.spawn_all();
    let alice = connect(&cluster, client_of(&cluster, "alice")).await.with_timeout(PATIENCE);
    alice.put("a", "1", None).await.expect("they find each other");
    for member in 0..3 {
        assert!(cluster.peer_url(member).starts_with("unixs:///"), "{}", cluster.peer_url(member));
        assert!(cluster.metric(member, "quorate_tls_handshakes_total{side=\"peer\"}") >= 1.0, "m{member}");
    }
    // Nothing but TLS is spoken there.
    let mut plain = std::os::unix::net::UnixStream::connect(cluster.peer_address(0)).expect("a socket");
    std::io::Write::write_all(&mut plain, b"GET /version HTTP/1.1\r\n\r\n").expect("it is written");
    wait_for_refusal(&cluster, 0, "plaintext").await;

    // Who shows a certificate of another authority stays outside, also where it has been before.
    cluster.kill9(2);
    set_flags(&mut cluster, 2, "foreign");
    cluster.spawn(2);
    wait_for_refusal(&cluster, 0, "unknown_issuer").await;
    wait_for_refusal(&cluster, 1, "unknown_issuer").await;
    alice.put("b", "2", None).await.expect("the others go on");
    cluster.kill9(2);
    set_flags(&mut cluster, 2, "server");
    cluster.spawn(2);
    let options = ConnectOptions::new().tls(client_of(&cluster, "alice")).timeout(PATIENCE);
    let third = Client::connect([cluster.endpoint(2)], options).await.expect("a client");
    let options = quorate_client::GetOptions::new;
    assert_eq!(third.get("b", options()).await.expect("it is back").kvs[0].value, b"2"[..]);

    // And they elect a leader, and replicate, without one that was there.
    cluster.kill9(0);
    alice.put("c", "3", None).await.expect("two are a quorum");
    assert_eq!(third.get("c", options()).await.expect("a read").kvs[0].value, b"3"[..]);
    cluster.spawn(0);
    let options = ConnectOptions::new().tls(client_of(&cluster, "alice")).timeout(PATIENCE);
    let first = Client::connect([cluster.endpoint(0)], options).await.expect("a client");
    let caught_up = first.get("c", quorate_client::GetOptions::new()).await.expect("it is back at its socket");
    assert_eq!(caught_up.kvs[0].value, b"3"[..]);
}

/// Waits until a member has refused a peer for a reason.
async fn wait_for_refusal(cluster: &SecureCluster, member: usize, reason: &str) {
    let name = format!("quorate_tls_handshake_failures_total{{side=\"peer\",reason=\"{reason}\"}}");
    let deadline = Instant::now() + PATIENCE;
    while cluster.metric(member, &name) == 0.0 {
        assert!(Instant::now() < deadline, "m{member} has refused nobody: {reason}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
