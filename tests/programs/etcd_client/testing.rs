//! Takes the place of the file of this name in the crate's own tests: its clients speak TLS, show a certificate and are
//! `root`, and know all members. The files and endpoints are in the environment.

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};

/// Only for the tests that are not run here.
pub const DEFAULT_TEST_ENDPOINT: &str = "localhost:2379";

pub type Result<T> = std::result::Result<T, Error>;

fn file(variable: &str) -> Vec<u8> {
    std::fs::read(std::env::var(variable).unwrap()).unwrap()
}

/// Get client for testing.
pub async fn get_client() -> Result<Client> {
    get_auth_client(None).await
}

/// Get a testing client with auth enabled.
pub async fn get_auth_client(options: Option<ConnectOptions>) -> Result<Client> {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(file("TLS_CA")))
        .identity(Identity::from_pem(file("TLS_CERT"), file("TLS_KEY")));
    let options = options.unwrap_or_default().with_require_leader(true).with_user("root", "secret").with_tls(tls);
    let endpoints = std::env::var("ENDPOINTS").unwrap();
    Client::connect(endpoints.split(',').collect::<Vec<_>>(), Some(options)).await
}
