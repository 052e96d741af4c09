//! From what the flags say of TLS to sides that accept and dial: reads the files, and makes certificates where
//! `--auto-tls` asks for them.

use crate::StartError;
use crate::config::{CertificateSource, TlsConfig};
use quorate_node::env::PeerTls;
use quorate_tls::{Client, ClientCertificates, ClientOptions, KeyPair, Server, ServerOptions, Trust, self_signed};
use std::time::Duration;

/// How long a handshake between members may take.
const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The side that accepts clients; none if there is no certificate.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn for_clients(config: &TlsConfig, timeout: Duration) -> Result<Option<Server>, StartError> {
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

/// Both sides of connections between members. Only the dialling one, if there is no certificate.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn for_peers(config: &TlsConfig) -> Result<PeerTls, StartError> {
    let both = || -> Result<PeerTls, quorate_tls::Error> {
        let key_pair = key_pair(config)?;
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
        Ok(PeerTls { server: server.transpose()?, client: Client::new("peers", client)? })
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
