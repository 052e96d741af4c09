//! What the flags say of TLS, with clients and with other members. Reads no file but names them: [`crate::tls`] does.
//!
//! The rules are etcd's: naming an authority asks for certificates, with or without `--client-cert-auth`; certificates are
//! no use on `http` URLs, and said to be none.

use super::Endpoint;
use super::settings::Settings;
use crate::StartError;
use quorate_tls::{Allowed, KeyPair, Policy};
use std::path::PathBuf;

/// TLS with clients, or with other members.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// Where the certificate of this side comes from.
    pub certificate: CertificateSource,
    /// What to show when dialling, if it is another.
    pub dialling: Option<KeyPair>,
    /// The file with the authorities that sign the certificates of the other side.
    pub trusted_ca: Option<PathBuf>,
    /// `--client-cert-auth`: certificates are asked for even without `trusted_ca`, and their common names are users.
    pub client_cert_auth: bool,
    /// The file with revoked certificates.
    pub crl: Option<PathBuf>,
    /// Whose certificates are accepted.
    pub allowed: Allowed,
    /// Whether a certificate must stand for the address it comes from.
    pub check_address: bool,
    /// Versions and cipher suites.
    pub policy: Policy,
}

/// Where the certificate of this side comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CertificateSource {
    /// There is none: `https` cannot be served.
    #[default]
    None,
    /// From files.
    Files(KeyPair),
    /// Made at start, and kept in this directory.
    SelfSigned {
        /// For its two files.
        dir: PathBuf,
        /// What it stands for.
        hosts: Vec<String>,
        /// How long it is valid.
        years: u32,
    },
}

impl TlsConfig {
    /// Whether the other side must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca.is_some()
    }
}

/// The flags of one side.
struct Names {
    cert: &'static str,
    key: &'static str,
    client_cert: &'static str,
    client_key: &'static str,
    client_cert_auth: &'static str,
    trusted_ca: &'static str,
    crl: &'static str,
    allowed_names: &'static str,
    allowed_hosts: &'static str,
    auto: &'static str,
}

const CLIENTS: Names = Names {
    cert: "cert-file",
    key: "key-file",
    client_cert: "client-cert-file",
    client_key: "client-key-file",
    client_cert_auth: "client-cert-auth",
    trusted_ca: "trusted-ca-file",
    crl: "client-crl-file",
    allowed_names: "client-cert-allowed-cn",
    allowed_hosts: "client-cert-allowed-hostname",
    auto: "auto-tls",
};

const PEERS: Names = Names {
    cert: "peer-cert-file",
    key: "peer-key-file",
    client_cert: "peer-client-cert-file",
    client_key: "peer-client-key-file",
    client_cert_auth: "peer-client-cert-auth",
    trusted_ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    allowed_names: "peer-cert-allowed-cn",
    allowed_hosts: "peer-cert-allowed-hostname",
    auto: "peer-auto-tls",
};

/// TLS with clients. `endpoints` are all that clients may use, with their flags' names.
pub fn clients(
    settings: &mut Settings,
    data_dir: &std::path::Path,
    endpoints: &[(&'static str, &[Endpoint])],
) -> Result<TlsConfig, StartError> {
    let all: Vec<&Endpoint> = endpoints.iter().flat_map(|(_, list)| *list).collect();
    let config = read(settings, &CLIENTS, data_dir.join("fixtures/client"), &hosts(&all))?;
    for (flag, list) in endpoints {
        check_endpoints(settings, &CLIENTS, &config, flag, list)?;
    }
    if settings.is_set(CLIENTS.client_cert) {
        settings.warnings.push(format!(
            "--{} and --{} change nothing here: this member dials no client port, not even its own",
            CLIENTS.client_cert, CLIENTS.client_key
        ));
    }
    Ok(config)
}

/// TLS with other members, who dial `endpoints`.
pub fn peers(
    settings: &mut Settings,
    data_dir: &std::path::Path,
    endpoints: &[Endpoint],
) -> Result<TlsConfig, StartError> {
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let mut config = read(settings, &PEERS, data_dir.join("fixtures/peer"), &hosts(&all))?;
    check_endpoints(settings, &PEERS, &config, "listen-peer-urls", endpoints)?;
    config.check_address = !settings.boolean("peer-skip-client-san-verification")?;
    Ok(config)
}

fn hosts(endpoints: &[&Endpoint]) -> Vec<String> {
    let mut hosts: Vec<String> = endpoints.iter().filter_map(|endpoint| endpoint.host().map(str::to_owned)).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn read(settings: &mut Settings, names: &Names, fixtures: PathBuf, hosts: &[String]) -> Result<TlsConfig, StartError> {
    let path = |name| Some(settings.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
    let pair = |cert_flag: &'static str, key_flag: &'static str| match (path(cert_flag), path(key_flag)) {
        (Some(cert), Some(key)) => Ok(Some(KeyPair { cert, key })),
        (None, None) => Ok(None),
        (cert, key) => Err(StartError::config(format!(
            "--{cert_flag} and --{key_flag} must both be given, or neither [cert: {}, key: {}]",
            cert.unwrap_or_default().display(),
            key.unwrap_or_default().display()
        ))),
    };
    let files = pair(names.cert, names.key)?;
    let dialling = pair(names.client_cert, names.client_key)?;
    let allowed = allowed(settings, names)?;
    let (trusted_ca, crl) = (path(names.trusted_ca), path(names.crl));
    let auto = settings.boolean(names.auto)?;
    let certificate = match (files, auto) {
        (Some(pair), _) => CertificateSource::Files(pair),
        (None, true) => {
            let years: u32 = settings.integer("self-signed-cert-validity")?;
            if years == 0 {
                return Err(StartError::config("--self-signed-cert-validity must be at least 1 (years)"));
            }
            CertificateSource::SelfSigned { dir: fixtures, hosts: hosts.to_vec(), years }
        }
        (None, false) => CertificateSource::None,
    };
    if auto && matches!(certificate, CertificateSource::Files(_)) {
        settings.warnings.push(format!("--{} changes nothing, for --{} is given", names.auto, names.cert));
    }
    let config = TlsConfig {
        certificate,
        dialling,
        trusted_ca,
        client_cert_auth: settings.boolean(names.client_cert_auth)?,
        crl,
        allowed,
        check_address: false,
        policy: policy(settings)?,
    };
    if !config.asks_for_certificates() && (config.crl.is_some() || config.allowed != Allowed::Everybody) {
        return Err(StartError::config(format!(
            "--{} and the names that are allowed need certificates to look at: give --{} as well",
            names.crl, names.trusted_ca
        )));
    }
    Ok(config)
}

fn allowed(settings: &Settings, names: &Names) -> Result<Allowed, StartError> {
    let common_names = settings.list(names.allowed_names);
    let hosts = settings.list(names.allowed_hosts);
    match (common_names.is_empty(), hosts.is_empty()) {
        (true, true) => Ok(Allowed::Everybody),
        (false, true) => Ok(Allowed::CommonNames(common_names)),
        (true, false) => Ok(Allowed::Hosts(hosts)),
        (false, false) => Err(StartError::config(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={common_names:?}, hostnames={hosts:?})"
        ))),
    }
}

fn policy(settings: &mut Settings) -> Result<Policy, StartError> {
    let suites = settings.list("cipher-suites");
    let parsed = Policy::parse(settings.text("tls-min-version"), settings.text("tls-max-version"), &suites);
    let (policy, weak) = parsed.map_err(|error| StartError::config(error.to_string()))?;
    let warning = format!("--cipher-suites: left out, for they are weak: {}", weak.join(", "));
    // Asked for both sides, said once.
    if !weak.is_empty() && !settings.warnings.contains(&warning) {
        settings.warnings.push(warning);
    }
    Ok(policy)
}

fn check_endpoints(
    settings: &mut Settings,
    names: &Names,
    config: &TlsConfig,
    flag: &str,
    endpoints: &[Endpoint],
) -> Result<(), StartError> {
    for endpoint in endpoints {
        if endpoint.is_tls() && config.certificate == CertificateSource::None && flag == "listen-metrics-urls" {
            return Err(StartError::config(format!(
                "client TLS key/cert (--{}, --{}) must be provided for metrics secure url {endpoint} (--{flag}), or --{}",
                names.cert, names.key, names.auto
            )));
        }
        if endpoint.is_tls() && config.certificate == CertificateSource::None {
            return Err(StartError::config(format!(
                "TLS key/cert (--{}, --{}) must be provided for {endpoint} (--{flag}) with HTTPS scheme, or --{}",
                names.cert, names.key, names.auto
            )));
        }
        // A metrics port without TLS beside client ports with it is how it is meant to be.
        if !endpoint.is_tls() && flag != "listen-metrics-urls" && config.certificate != CertificateSource::None {
            settings.warnings.push(format!(
                "--{flag}: {endpoint} is not https: certificates and --{} are ignored for it",
                names.client_cert_auth
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerConfig;
    use std::ffi::OsString;

    fn parse(args: &[&str]) -> Result<ServerConfig, String> {
        ServerConfig::parse(args.iter().map(OsString::from), []).map_err(|error| error.to_string())
    }

    const FILES: &[&str] = &["--cert-file=c", "--key-file=k"];
    const SERVE: &[&str] =
        &["--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379"];

    #[test]
    fn an_authority_asks_for_certificates_with_or_without_client_cert_auth() {
        for (args, asks) in [
            (&[][..], false),
            (&["--trusted-ca-file=ca"], true),
            (&["--client-cert-auth"], true),
            (&["--client-cert-auth=false", "--trusted-ca-file=ca"], true),
        ] {
            let config = parse(&[FILES, SERVE, args].concat()).unwrap();
            assert_eq!(config.client_tls.asks_for_certificates(), asks, "{args:?}");
        }
    }

    #[test]
    fn auto_tls_is_for_all_hosts_and_yields_to_files() {
        let config =
            parse(&[SERVE, &["--auto-tls", "--data-dir=d", "--self-signed-cert-validity=3"]].concat()).unwrap();
        assert_eq!(
            config.client_tls.certificate,
            CertificateSource::SelfSigned {
                dir: "d/fixtures/client".into(),
                hosts: vec!["127.0.0.1".into()],
                years: 3
            }
        );
        let config = parse(&[SERVE, FILES, &["--auto-tls"]].concat()).unwrap();
        assert!(matches!(config.client_tls.certificate, CertificateSource::Files(_)));
        assert_eq!(config.warnings, ["--auto-tls changes nothing, for --cert-file is given"]);
    }

    #[test]
    fn clients_and_peers_can_be_held_to_common_names() {
        for args in [
            ["--client-cert-allowed-cn=a,b", "--trusted-ca-file=ca"],
            ["--peer-cert-allowed-cn=a,b", "--peer-trusted-ca-file=ca"],
        ] {
            let config = parse(&args).unwrap();
            let names = Allowed::CommonNames(vec!["a".into(), "b".into()]);
            assert!([config.client_tls.allowed, config.peer_tls.allowed].contains(&names), "{args:?}");
        }
    }

    #[test]
    fn peers_are_held_to_their_addresses_unless_told_otherwise() {
        for (args, checks) in [
            (&[][..], true),
            (&["--peer-skip-client-san-verification"], false),
            (&["--experimental-peer-skip-client-san-verification"], false),
        ] {
            assert_eq!(parse(args).unwrap().peer_tls.check_address, checks, "{args:?}");
        }
        assert!(!parse(&[]).unwrap().client_tls.check_address, "clients may be anywhere, as with etcd");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (args, text) in [
            (&["--cert-file=c"][..], "--cert-file and --key-file must both be given, or neither [cert: c, key: ]"),
            (
                SERVE,
                "TLS key/cert (--cert-file, --key-file) must be provided for https://127.0.0.1:2379 (--listen-client-urls) \
                 with HTTPS scheme, or --auto-tls",
            ),
            (
                &["--listen-metrics-urls=https://127.0.0.1:2381"],
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url \
                 https://127.0.0.1:2381 (--listen-metrics-urls), or --auto-tls",
            ),
            (
                &["--listen-peer-urls=https://127.0.0.1:2380"],
                "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for https://127.0.0.1:2380 \
                 (--listen-peer-urls) with HTTPS scheme, or --peer-auto-tls",
            ),
            (
                &["--peer-cert-allowed-cn=a,b", "--peer-cert-allowed-hostname=c", "--peer-trusted-ca-file=ca"],
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\", \"b\"], hostnames=[\"c\"])",
            ),
            (
                &["--client-cert-allowed-cn=a", "--client-cert-allowed-hostname=c", "--trusted-ca-file=ca"],
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"c\"])",
            ),
            (
                &["--client-crl-file=x"],
                "--client-crl-file and the names that are allowed need certificates to look at: give --trusted-ca-file as \
                 well",
            ),
            (&["--tls-min-version=TLS1.0"], "unexpected TLS version \"TLS1.0\""),
            (&["--cipher-suites=X"], "unexpected TLS cipher suite \"X\""),
            (
                &["--auto-tls", "--self-signed-cert-validity=0"],
                "--self-signed-cert-validity must be at least 1 (years)",
            ),
        ] {
            assert_eq!(parse(args).unwrap_err(), text, "{args:?}");
        }
    }

    #[test]
    fn certificates_are_no_use_on_http() {
        let config = parse(FILES).unwrap();
        assert_eq!(
            config.warnings,
            [
                "--listen-client-urls: http://localhost:2379 is not https: certificates and --client-cert-auth are ignored for it"
            ]
        );
        let suites = "--cipher-suites=TLS_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        let warnings = parse(&[suites]).unwrap().warnings;
        assert_eq!(warnings, ["--cipher-suites: left out, for they are weak: TLS_RSA_WITH_AES_128_GCM_SHA256"]);
    }
}
