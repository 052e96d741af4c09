//! Handshakes between our two sides: who gets in, who does not, why, and what each side is told.

use crate::testing::{Authority, Identity, replace};
use crate::*;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const HOST: &str = "localhost";

struct Stage {
    dir: tempfile::TempDir,
    ca: Authority,
    server: ServerOptions,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new("ca");
        let files = ca.issue("server", &[HOST, "127.0.0.1"]).write(dir.path(), "server");
        let trusted = Some(ca.write(dir.path(), "ca"));
        let server = ServerOptions {
            subject: "tests",
            key_pair: KeyPair { cert: files.cert, key: files.key },
            clients: ClientCertificates::Required {
                trusted,
                crl: None,
                allowed: Allowed::Everybody,
                check_address: false,
            },
            policy: Policy::default(),
            protocols: &["h2"],
            timeout: Duration::from_secs(30),
        };
        Self { dir, ca, server }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn allow(&mut self, new_allowed: Allowed) -> &mut Self {
        if let ClientCertificates::Required { allowed, .. } = &mut self.server.clients {
            *allowed = new_allowed;
        }
        self
    }

    fn revoke(&mut self, revoked: &[&Identity]) -> PathBuf {
        let path = self.path().join("revoked.crl");
        replace(&path, &self.ca.revoke(revoked));
        if let ClientCertificates::Required { crl, .. } = &mut self.server.clients {
            *crl = Some(path.clone());
        }
        path
    }

    fn check_address(&mut self) -> &mut Self {
        if let ClientCertificates::Required { check_address, .. } = &mut self.server.clients {
            *check_address = true;
        }
        self
    }

    fn server(&self) -> Server {
        Server::new(self.server.clone()).unwrap()
    }

    /// Options of a client that trusts the authority, and shows `identity`.
    fn client(&self, identity: Option<&Identity>) -> ClientOptions {
        let key_pair = identity.map(|identity| {
            let files = identity.write(self.path(), "client");
            KeyPair { cert: files.cert, key: files.key }
        });
        ClientOptions {
            key_pair,
            trust: Trust::File(self.path().join("ca.pem")),
            protocols: &["h2"],
            ..ClientOptions::default()
        }
    }
}

/// What the server says, and what the client is told: `ok` and the common name, or reasons.
async fn meet(server: &Server, options: ClientOptions) -> (String, String) {
    meet_from(server, options, None).await
}

async fn meet_from(server: &Server, options: ClientOptions, from: Option<&str>) -> (String, String) {
    let client = Client::new("tests", options).unwrap();
    let (ours, theirs) = duplex(1 << 16);
    let remote = from.map(|address| SocketAddr::new(address.parse::<IpAddr>().unwrap(), 1));
    let accepting = async {
        match server.accept(theirs, remote).await {
            Ok((mut stream, certificate)) => {
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
                format!("ok {}", certificate.and_then(|shown| shown.common_name).unwrap_or_default())
            }
            Err(error) => error.reason.label().to_owned(),
        }
    };
    let dialling = async {
        let outcome = async {
            let mut stream = client.connect(ours, HOST).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        outcome.await.unwrap_or_else(|error| error.to_string())
    };
    tokio::join!(accepting, dialling)
}

#[tokio::test]
async fn a_signed_certificate_gets_in_and_tells_its_name() {
    let stage = Stage::new();
    let alice = stage.ca.issue("alice", &[]);
    let (server, client) = meet(&stage.server(), stage.client(Some(&alice))).await;
    assert_eq!((server.as_str(), client.as_str()), ("ok alice", "hello"));
}

#[tokio::test]
async fn who_is_not_asked_has_no_name() {
    let mut stage = Stage::new();
    stage.server.clients = ClientCertificates::NotAsked;
    let alice = stage.ca.issue("alice", &[]);
    let (server, client) = meet(&stage.server(), stage.client(Some(&alice))).await;
    assert_eq!((server.as_str(), client.as_str()), ("ok ", "hello"));
}

#[tokio::test]
async fn who_does_not_get_in_is_told_why() {
    let stage = Stage::new();
    let server = stage.server();
    let foreign = Authority::new("another").issue("alice", &[]);
    let expired = stage.ca.issue_expired("alice", &[]);
    for (identity, reason, told) in [
        (None, "no_certificate", "it wants a client certificate (--cert and --key)"),
        (Some(&foreign), "unknown_issuer", "the client's certificate is not signed by an authority that it trusts"),
        (Some(&expired), "expired", "the client's certificate has expired, or is not valid yet"),
    ] {
        let (said, got) = meet(&server, stage.client(identity)).await;
        assert_eq!((said.as_str(), got), (reason, format!("{REFUSED}: {told}")));
    }
    assert_eq!(server.counts().failed(Reason::NoCertificate), 1);
    assert_eq!(server.counts().failed(Reason::UnknownIssuer), 1);
    assert_eq!(server.counts().failed(Reason::Expired), 1);
    assert_eq!(server.counts().succeeded(), 0);
}

#[tokio::test]
async fn revoked_ones_do_not_get_in_and_others_do() {
    let mut stage = Stage::new();
    let (alice, mallory) = (stage.ca.issue("alice", &[]), stage.ca.issue("mallory", &[]));
    let crl = stage.revoke(&[&mallory]);
    let server = stage.server();
    assert_eq!(meet(&server, stage.client(Some(&alice))).await.0, "ok alice");
    let (said, told) = meet(&server, stage.client(Some(&mallory))).await;
    assert_eq!((said.as_str(), told), ("revoked", format!("{REFUSED}: the client's certificate is revoked")));
    // A new list counts from the next handshake on.
    replace(&crl, &stage.ca.revoke(&[&mallory, &alice]));
    assert_eq!(meet(&server, stage.client(Some(&alice))).await.0, "revoked");
    assert_eq!(server.reloads(), (1, 0));
}

#[tokio::test]
async fn only_allowed_names_get_in() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.ca.issue("alice", &["a.example"]), stage.ca.issue("bob", &["b.example"]));
    for allowed in
        [Allowed::CommonNames(vec!["carol".into(), "alice".into()]), Allowed::Hosts(vec!["a.example".into()])]
    {
        let server = stage.allow(allowed).server();
        assert_eq!(meet(&server, stage.client(Some(&alice))).await.0, "ok alice");
        let (said, told) = meet(&server, stage.client(Some(&bob))).await;
        let expected = format!("{REFUSED}: it does not let the owner of the client's certificate in");
        assert_eq!((said.as_str(), told), ("not_allowed", expected));
    }
}

#[tokio::test]
async fn a_certificate_must_come_from_where_it_is_for() {
    let mut stage = Stage::new();
    let member = stage.ca.issue("member", &["10.0.0.1"]);
    let server = stage.check_address().server();
    assert_eq!(meet_from(&server, stage.client(Some(&member)), Some("10.0.0.1")).await.0, "ok member");
    assert_eq!(meet_from(&server, stage.client(Some(&member)), Some("10.0.0.2")).await.0, "wrong_address");
}

#[tokio::test]
async fn the_dialling_side_checks_too() {
    let stage = Stage::new();
    let alice = stage.ca.issue("alice", &[]);
    let server = stage.server();
    let foreign = Authority::new("another").write(stage.path(), "another");
    let cases = [
        (
            ClientOptions { trust: Trust::File(foreign), ..stage.client(Some(&alice)) },
            "the certificate of localhost is not signed by an authority that is trusted here",
        ),
        (
            ClientOptions { server_name: Some("elsewhere.example".into()), ..stage.client(Some(&alice)) },
            "the certificate of localhost is for other names",
        ),
        (
            ClientOptions { allowed: Allowed::CommonNames(vec!["x".into()]), ..stage.client(Some(&alice)) },
            "the certificate of localhost cannot be used",
        ),
    ];
    for (options, expected) in cases {
        let (said, told) = meet(&server, options).await;
        assert_eq!(said, "refused_by_peer");
        assert!(told.starts_with(expected), "{told}");
    }
    let careless = ClientOptions { trust: Trust::Anybody, ..stage.client(Some(&alice)) };
    assert_eq!(meet(&server, careless).await.0, "ok alice");
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_gets_in_where_it_is_trusted_itself() {
    let mut stage = Stage::new();
    let own = Identity::self_signed("own", &[HOST]);
    let files = own.write(stage.path(), "own");
    let (alice, bob) = (stage.ca.issue("alice", &[]), Identity::self_signed("own", &[HOST]));
    stage.server.key_pair = KeyPair { cert: files.cert.clone(), key: files.key };
    let trusting = |trusted: PathBuf, mut server: ServerOptions| {
        let ClientCertificates::Required { trusted: file, .. } = &mut server.clients else { panic!("{server:?}") };
        *file = Some(trusted);
        Server::new(server).unwrap()
    };
    let server = trusting(files.cert.clone(), stage.server.clone());
    let client = |identity| ClientOptions { trust: Trust::File(files.cert.clone()), ..stage.client(Some(identity)) };
    assert_eq!(meet(&server, client(&own)).await, ("ok own".into(), "hello".into()));
    // Neither with the same name, nor signed by another, nor by that file for what it says that it is not for.
    for stranger in [&bob, &alice] {
        let said = meet(&server, client(stranger)).await.0;
        assert!(!said.starts_with("ok"), "{said}");
    }
    let for_servers = Identity::self_signed_server("own", &[HOST]);
    let for_servers_file = for_servers.write(stage.path(), "for_servers").cert;
    let said = meet(&trusting(for_servers_file, stage.server.clone()), client(&for_servers)).await.0;
    assert!(!said.starts_with("ok"), "{said}");
    // The dialling side still looks at names, and both at who is allowed.
    let elsewhere = ClientOptions { server_name: Some("elsewhere.example".into()), ..client(&own) };
    let told = meet(&server, elsewhere).await.1;
    assert!(told.starts_with("the certificate of localhost is for other names"), "{told}");
    let untrusted = ClientOptions { trust: Trust::File(stage.path().join("ca.pem")), ..client(&own) };
    assert_eq!(meet(&server, untrusted).await.0, "refused_by_peer");
    let nobody = Allowed::CommonNames(vec!["x".into()]);
    assert_eq!(meet(&server, ClientOptions { allowed: nobody.clone(), ..client(&own) }).await.0, "refused_by_peer");
    let own = client(&own);
    let server = trusting(files.cert.clone(), stage.allow(nobody).server.clone());
    assert_eq!(meet(&server, own).await.0, "not_allowed");
}

#[tokio::test]
async fn versions_must_meet() {
    let mut stage = Stage::new();
    let alice = stage.ca.issue("alice", &[]);
    stage.server.policy = Policy::parse("TLS1.3", "", &[]).unwrap().0;
    let old = ClientOptions { policy: Policy::parse("", "TLS1.2", &[]).unwrap().0, ..stage.client(Some(&alice)) };
    let (said, told) = meet(&stage.server(), old.clone()).await;
    assert_eq!((said.as_str(), told), ("incompatible", format!("{REFUSED}: it speaks another version of TLS")));
    stage.server.policy = Policy::default();
    assert_eq!(meet(&stage.server(), old).await.0, "ok alice");
}

#[tokio::test]
async fn what_is_not_tls_is_seen_from_both_sides() {
    let stage = Stage::new();
    let (mut ours, theirs) = duplex(1 << 16);
    ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let server = stage.server();
    let (refused, ()) = tokio::join!(server.accept(theirs, None), async {
        let mut alert = Vec::new();
        ours.read_to_end(&mut alert).await.unwrap();
        assert_eq!(alert.first(), Some(&0x15), "an alert arrives");
        drop(ours);
    });
    assert_eq!(refused.unwrap_err().reason, Reason::Plaintext);

    let client = Client::new("tests", stage.client(None)).unwrap();
    let (ours, mut theirs) = duplex(1 << 16);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = client.connect(ours, HOST).await.unwrap_err().to_string();
    assert!(error.starts_with("localhost does not speak TLS"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_ends_by_itself() {
    let stage = Stage::new();
    let (_silent, theirs): (DuplexStream, DuplexStream) = duplex(64);
    let server = stage.server();
    assert_eq!(server.accept(theirs, None).await.unwrap_err().reason, Reason::Stalled);
    assert_eq!(server.counts().failed(Reason::Stalled), 1);
}

#[tokio::test]
async fn new_files_count_from_the_next_handshake_and_broken_ones_never() {
    let stage = Stage::new();
    let alice = stage.ca.issue("alice", &[]);
    let server = stage.server();
    assert_eq!(meet(&server, stage.client(Some(&alice))).await.0, "ok alice");

    // A key that does not fit: the old pair stays.
    let renewed = stage.ca.issue("renewed", &[HOST]);
    renewed.write(stage.path(), "renewed");
    std::fs::copy(stage.path().join("renewed.key"), stage.path().join("server.key")).unwrap();
    assert_eq!(meet(&server, stage.client(Some(&alice))).await.0, "ok alice");
    assert_eq!(server.reloads(), (0, 1));
    std::fs::copy(stage.path().join("renewed.pem"), stage.path().join("server.pem")).unwrap();
    let only_renewed =
        ClientOptions { allowed: Allowed::CommonNames(vec!["renewed".into()]), ..stage.client(Some(&alice)) };
    assert_eq!(meet(&server, only_renewed.clone()).await.0, "ok alice");
    assert_eq!(server.reloads(), (1, 1));

    // Another authority: who was trusted is not any more.
    let other = Authority::new("other");
    replace(&stage.path().join("ca.pem"), &format!("{}{}", stage.ca.pem(), other.pem()));
    let bob = other.issue("bob", &[]);
    assert_eq!(meet(&server, stage.client(Some(&bob))).await.0, "ok bob");
    replace(&stage.path().join("ca.pem"), &stage.ca.pem());
    assert_eq!(meet(&server, stage.client(Some(&bob))).await.0, "unknown_issuer");
    assert_eq!(meet(&server, only_renewed).await.0, "unknown_issuer", "client.pem is bob's by now");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let stage = Stage::new();
    let dir = stage.path();
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("damaged"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    stage.ca.issue("other", &[]).write(dir, "other");
    let pair = |cert: &str, key: &str| KeyPair { cert: dir.join(cert), key: dir.join(key) };
    for (key_pair, expected) in [
        (pair("missing", "server.key"), "missing: No such file or directory (os error 2)"),
        (pair("empty", "server.key"), "empty: there is no certificate in it (PEM)"),
        (pair("server.key", "server.key"), "server.key: there is no certificate in it (PEM)"),
        (pair("damaged", "server.key"), "damaged: a certificate in it cannot be read: "),
        (pair("server.pem", "server.pem"), "server.pem: there is no private key in it (PEM; a key with a passphrase"),
        (pair("server.pem", "other.key"), "other.key: it is not the key of "),
    ] {
        let error = Server::new(ServerOptions { key_pair, ..stage.server.clone() }).unwrap_err().to_string();
        let text = error.strip_prefix(&format!("{}/", dir.display())).unwrap_or(&error);
        assert!(text.starts_with(expected), "{text} is not {expected}");
    }
    for (trusted, crl, expected) in [
        ("empty", None, "empty: there is no certificate in it (PEM)"),
        ("ca.pem", Some("ca.pem"), "ca.pem: there is no usable revocation list in it"),
    ] {
        let clients = ClientCertificates::Required {
            trusted: Some(dir.join(trusted)),
            crl: crl.map(|crl| dir.join(crl)),
            allowed: Allowed::Everybody,
            check_address: false,
        };
        let error = Server::new(ServerOptions { clients, ..stage.server.clone() }).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} is not {expected}");
    }
}
