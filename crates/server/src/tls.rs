//! From what the flags say of TLS to sides that accept and dial: reads the files, and makes certificates where
//! `--auto-tls` asks for them.

use crate::StartError;
use crate::config::{CertificateSource, ServerConfig, TlsConfig};
use quorate_node::env::{Env, OsEnv, PeerTls};
use quorate_tls::{Client, ClientCertificates, ClientOptions, KeyPair, Server, ServerOptions, Trust, self_signed};
use std::sync::Arc;
use std::time::Duration;

/// How long a handshake between members may take.
const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How connections are secured, and which are not.
pub struct Security {
    /// Accepts clients.
    pub clients: Option<Server>,
    /// Accepts and dials other members.
    pub peers: Option<PeerTls>,
    /// What is open to whoever reaches it: the flag, and the URL.
    pub open: Vec<(&'static str, String)>,
    reuse_port: bool,
}

impl Security {
    /// Reads the files, and tells the log of what is open.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn new(config: &ServerConfig) -> Result<Self, StartError> {
        let security = Self {
            clients: for_clients(&config.client_tls, config.limits.header_read_timeout)?,
            peers: for_peers(&config.peer_tls)?,
            open: open_listeners(config),
            reuse_port: config.reuse_port,
        };
        for warning in security.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(security)
    }

    /// What is unsafe, for people.
    pub fn warnings(&self) -> Vec<String> {
        let open = self.open.iter().map(|(flag, url)| {
            format!("--{flag}: {url} is neither encrypted nor on loopback: whoever is on the way reads and changes everything")
        });
        let serves_peers = self.peers.as_ref().and_then(|peers| peers.server.as_ref());
        let unverified = serves_peers.filter(|server| !server.requires_certificates()).map(|_| {
            "members are not asked for certificates: whoever reaches a peer URL can speak as one (give \
             --peer-trusted-ca-file and --peer-client-cert-auth)"
                .to_owned()
        });
        open.chain(unverified).collect()
    }

    /// The operating system, as members reach each other through it: with TLS if there is any.
    pub fn env(&self) -> Arc<dyn Env> {
        let env = OsEnv::new().with_reuse_port(self.reuse_port);
        Arc::new(match &self.peers {
            Some(peers) => env.with_peer_tls(peers.clone()),
            None => env,
        })
    }
}

/// Listeners that are neither encrypted nor for this machine alone.
fn open_listeners(config: &ServerConfig) -> Vec<(&'static str, String)> {
    let lists = [
        ("listen-client-urls", &config.listen_client),
        ("listen-client-http-urls", &config.listen_http),
        ("listen-metrics-urls", &config.listen_metrics),
        ("listen-peer-urls", &config.listen_peers),
    ];
    let open = lists.into_iter().flat_map(|(flag, endpoints)| endpoints.iter().map(move |endpoint| (flag, endpoint)));
    open.filter(|(_, endpoint)| !endpoint.is_local() && !endpoint.is_tls())
        .map(|(flag, endpoint)| (flag, endpoint.to_string()))
        .collect()
}

fn for_clients(config: &TlsConfig, timeout: Duration) -> Result<Option<Server>, StartError> {
    let accept = || -> Result<Option<Server>, quorate_tls::Error> {
        let Some(key_pair) = key_pair(config)? else { return Ok(None) };
        if config.client_cert_auth && config.trusted_ca.is_none() {
            tracing::warn!(
                "--client-cert-auth without --trusted-ca-file: whoever has a certificate of any authority that this machine \
                 trusts is let in"
            );
        }
        let options = ServerOptions {
            subject: "clients",
            key_pair,
            clients: client_certificates(config),
            policy: config.policy.clone(),
            protocols: &["h2", "http/1.1"],
            timeout,
        };
        Server::new(options).map(Some)
    };
    accept().map_err(|error| StartError::config(format!("TLS for clients: {error}")))
}

/// Both sides of connections between members: none if no flag asks for it, only the dialling one if there is no
/// certificate.
fn for_peers(config: &TlsConfig) -> Result<Option<PeerTls>, StartError> {
    let both = || -> Result<Option<PeerTls>, quorate_tls::Error> {
        let key_pair = key_pair(config)?;
        if key_pair.is_none() && config.trusted_ca.is_none() && config.dialling.is_none() {
            return Ok(None);
        }
        let is_self_signed = matches!(config.certificate, CertificateSource::SelfSigned { .. });
        let server = key_pair.clone().map(|key_pair| {
            let options = ServerOptions {
                subject: "peers",
                key_pair,
                clients: client_certificates(config),
                policy: config.policy.clone(),
                protocols: &[],
                timeout: PEER_HANDSHAKE_TIMEOUT,
            };
            Server::new(options)
        });
        let trust = match &config.trusted_ca {
            Some(path) => Trust::File(path.clone()),
            // As in etcd: each member has signed for itself, and nobody can check that.
            None if is_self_signed => Trust::Anybody,
            None => Trust::System,
        };
        let client = ClientOptions {
            key_pair: config.dialling.clone().or(key_pair),
            trust,
            crl: config.crl.clone(),
            allowed: config.allowed.clone(),
            server_name: None,
            policy: config.policy.clone(),
            protocols: &[],
        };
        Ok(Some(PeerTls { server: server.transpose()?, client: Client::new("peers", client)? }))
    };
    both().map_err(|error| StartError::config(format!("TLS for peers: {error}")))
}

fn key_pair(config: &TlsConfig) -> Result<Option<KeyPair>, quorate_tls::Error> {
    match &config.certificate {
        CertificateSource::None => Ok(None),
        CertificateSource::Files(pair) => Ok(Some(pair.clone())),
        CertificateSource::SelfSigned { dir, hosts, years } => self_signed(dir, hosts, *years).map(Some),
    }
}

fn client_certificates(config: &TlsConfig) -> ClientCertificates {
    if !config.asks_for_certificates() {
        return ClientCertificates::NotAsked;
    }
    ClientCertificates::Required {
        trusted: config.trusted_ca.clone(),
        crl: config.crl.clone(),
        allowed: config.allowed.clone(),
        check_address: config.check_address,
    }
}
