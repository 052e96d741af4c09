//! Users by the common name of their certificate, over TLS: etcd's command line and curl, with the same certificates, of etcd
//! 3.5.1 and of this project.

use std::path::Path;
use std::process::{Command, Output};

use quorate_tests::secure::{SecureCluster, credentials};
use quorate_tests::server::Server;
use quorate_tests::tools::{Etcdctl, bundled, in_path, skip};

/// Both, started with the certificates of the first.
fn start(etcd: &Path) -> [SecureCluster; 2] {
    let theirs = SecureCluster::of(Server::at(etcd), 1, "http");
    let ours = SecureCluster::new(1, "http");
    theirs.write(&theirs.ca.issue("server", &["127.0.0.1", "localhost"]), "server");
    for name in ["root", "ann", "stranger"] {
        theirs.write(&theirs.ca.issue(name, &[]), name);
    }
    let flags = theirs.client_flags("server");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    [theirs, ours].map(|mut cluster| {
        cluster.set_flags(0, &flags);
        cluster.spawn_all();
        cluster
    })
}

/// Output, and the last line of what went wrong: the lines before it are the client's log.
fn shown(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let error = error.lines().last().unwrap_or_default();
    format!("{}{error}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_common_name_is_a_user_as_in_etcd() {
    let (Some(etcd), Some(curl)) = (bundled("etcd"), in_path("curl")) else { return skip("etcd 3.5.1, curl") };
    if !Server::find().expect("a server binary").is_quorate() {
        return println!("this project is compared with etcd, not etcd with etcd");
    }
    let clusters = start(&etcd);
    let files = |name: &str| [format!("{name}.pem"), format!("{name}.key")].map(|file| clusters[0].file(&file));
    let ca = clusters[0].file("ca.pem");
    let ctl = Etcdctl::all().pop().expect("the etcdctl that comes with etcd");
    let ctls = [0, 1].map(|side| ctl.with_endpoints(&clusters[side].endpoints()));
    for side in [0, 1] {
        let files = files("root");
        clusters[side].eventually(&ctls[side], &[&credentials(&ca, &files)[..], &["put", "a/0", "first"]].concat());
    }
    let run = |who: &str, line: &str| {
        let files = files(who);
        let args: Vec<&str> = credentials(&ca, &files).into_iter().chain(line.split_whitespace()).collect();
        [0, 1].map(|side| shown(&ctls[side].command(&args).output().expect("etcdctl")))
    };
    for line in [
        "user add root --no-password",
        "user grant-role root root",
        "role add root",
        "user add ann:pw",
        "user add bob:pw",
        "role add a",
        "role grant-permission a readwrite a/ --prefix=true",
        "user grant-role ann a",
        "role add b",
        "role grant-permission b readwrite b",
        "user grant-role bob b",
        "auth enable",
        "put a/1 x",
        "put b x",
        "user list",
    ] {
        let [theirs, ours] = run("root", line);
        assert_eq!(theirs, ours, "{line}");
    }
    for (who, line) in [
        ("ann", "get a/1"),
        ("ann", "put a/1 y"),
        ("ann", "put b y"),
        ("ann", "user get ann"),
        ("ann", "user get bob"),
        ("ann", "user list"),
        ("ann", "role get a"),
        ("stranger", "get a/1"),
        // What is said with a password counts, not the certificate.
        ("ann", "--user bob:pw get b"),
        ("ann", "--user bob:pw get a/1"),
        ("root", "--user ann:pw put b z"),
        ("root", "--user ann:wrong put a/1 z"),
        ("root", "--user root:x get b"),
        ("stranger", "--user ann:pw get a/1"),
        ("root", "get a/ --prefix --keys-only"),
    ] {
        let [theirs, ours] = run(who, line);
        assert_eq!(theirs, ours, "{who}: {line}");
    }
    // A name that no user has is denied here, whatever is asked.
    let [theirs, ours] = run("stranger", "user list");
    assert_eq!(theirs, "Error: etcdserver: user name not found");
    assert_eq!(ours, "Error: etcdserver: permission denied");

    let ask = |who: &str, path: &str, body: &str, token: Option<&str>| {
        let files = files(who);
        [0, 1].map(|side| {
            let mut command = Command::new(&curl);
            command.args(["-sS", "--http1.1", "--cacert", &ca, "--cert", &files[0], "--key", &files[1], "-d", body]);
            command.args(["-w", "\n%{http_code} %{content_type}"]);
            if let Some(token) = token {
                command.args(["-H", &format!("Authorization: {token}")]);
            }
            let output = command.arg(format!("{}{path}", clusters[side].endpoint(0))).output().expect("curl");
            shown(&output)
        })
    };
    // The certificate of a request to the gateway says nothing of who asks.
    let get = r#"{"key":"YS8x"}"#;
    for (who, path, body) in [
        ("ann", "/v3/kv/range", get),
        ("ann", "/v3/watch", r#"{"create_request":{"key":"YS8x"}}"#),
        ("stranger", "/v3/kv/put", get),
        ("root", "/v3/auth/user/list", "{}"),
        ("ann", "/v3/lock/lock", r#"{"name":"YS9sb2Nr"}"#),
    ] {
        let [theirs, ours] = ask(who, path, body, None);
        let refused = "CommonName of client sending a request against gateway will be ignored and not used as expected";
        assert!(theirs.starts_with(refused) && theirs.contains("\n400 "), "{theirs}");
        assert_eq!(ours, theirs, "{who} {path}");
    }
    // With a token it is served here, and refused in etcd, which looks at the certificate alone.
    let [theirs, ours] = ask("stranger", "/v3/auth/authenticate", r#"{"name":"ann","password":"pw"}"#, None);
    assert!(theirs.starts_with("CommonName of client"), "{theirs}");
    let token = ours.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    for (path, body, expected) in
        [("/v3/kv/range", get, "\"value\":\"eQ==\""), ("/v3/kv/put", r#"{"key":"Yg=="}"#, "permission denied")]
    {
        let [theirs, ours] = ask("stranger", path, body, Some(token));
        assert!(theirs.starts_with("CommonName of client"), "{theirs}");
        assert!(ours.contains(expected), "{ours}");
    }
}
