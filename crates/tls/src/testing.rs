//! Authorities and certificates for tests: all the good and bad ones that a server can meet.

use rcgen::{
    BasicConstraints, Certificate as Issued, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair as SigningKey, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An authority that signs certificates.
pub struct Authority {
    certificate: Issued,
    issuer: Issuer<'static, SigningKey>,
    next_serial: AtomicU64,
}

/// A certificate with its key.
pub struct Identity {
    certificate: Issued,
    key: SigningKey,
    serial: u64,
}

/// Where an identity was written.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// If the certificate cannot be made; so do all functions here.
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = SigningKey::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key), next_serial: AtomicU64::new(1) }
    }

    /// Signs a certificate for servers and clients, with a common name and the names or addresses that it stands for.
    pub fn issue(&self, common_name: &str, hosts: &[&str]) -> Identity {
        self.sign(params(common_name, hosts))
    }

    /// Signs one whose time is over.
    pub fn issue_expired(&self, common_name: &str, hosts: &[&str]) -> Identity {
        let mut params = params(common_name, hosts);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Identity {
        let serial = self.next_serial.fetch_add(1, Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = SigningKey::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate, key, serial }
    }

    /// A revocation list, in PEM.
    pub fn revoke(&self, revoked: &[&Identity]) -> String {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2049, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a revocation list")
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes its own certificate to a file.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.pem"));
        replace(&path, &self.pem());
        path
    }
}

impl Identity {
    /// One that is its own authority, as `openssl req -x509` makes them.
    pub fn self_signed(common_name: &str, hosts: &[&str]) -> Self {
        Self::self_signed_for(common_name, hosts, Vec::new())
    }

    /// Likewise, for servers alone.
    pub fn self_signed_server(common_name: &str, hosts: &[&str]) -> Self {
        Self::self_signed_for(common_name, hosts, vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn self_signed_for(common_name: &str, hosts: &[&str], purposes: Vec<ExtendedKeyUsagePurpose>) -> Self {
        let mut params = params(common_name, hosts);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = purposes;
        let key = SigningKey::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, key, serial: 0 }
    }

    /// The certificate, in DER.
    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// Writes certificate and key to `<name>.pem` and `<name>.key`.
    pub fn write(&self, dir: &Path, name: &str) -> IdentityFiles {
        let files = IdentityFiles { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        replace(&files.key, &self.key.serialize_pem());
        replace(&files.cert, &self.certificate.pem());
        files
    }
}

/// Puts a file in the place of another, as whoever rotates certificates should.
pub fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("a file");
    fs::rename(&beside, path).expect("a file");
}

fn params(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.into()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}
