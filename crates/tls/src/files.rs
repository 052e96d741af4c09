//! Certificates, keys and revocation lists as they are in files. Knows PEM and what people put into the wrong file; decides
//! nothing about whom to trust.

use crate::Error;
use crate::certificate::Certificate;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No file here has a reason to be larger; it bounds what a wrong path can cost.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A certificate and its key, in two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, followed by intermediate ones if there are any.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

impl KeyPair {
    pub(crate) fn load(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|_| {
            Error::file(&self.key, "there is no private key in it (PEM; a key with a passphrase cannot be used)")
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| Error::file(&self.key, error))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Unknown: the key's type cannot tell its public half. The handshake will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
            Err(_) => Err(Error::file(&self.key, format!("it is not the key of {}", self.cert.display()))),
        }
    }
}

/// All certificates in a file: at least one, and each one can be read.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| Error::file(path, format!("it is damaged: {error}")))?;
    if found.is_empty() {
        return Err(Error::file(path, "there is no certificate in it (PEM)"));
    }
    for certificate in &found {
        Certificate::parse(certificate).map_err(|error| Error::file(path, error))?;
    }
    Ok(found)
}

/// Whom to trust.
pub(crate) struct Trusted {
    /// Who may sign certificates.
    pub roots: RootCertStore,
    /// The same ones as they are in the file, for those who show one of them. None of the system's: nobody here has a key.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The certificates that are trusted to sign others.
pub(crate) fn trusted(path: &Path) -> Result<Trusted, Error> {
    let certificates = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|error| Error::file(path, format!("a certificate in it cannot sign others: {error}")))?;
    }
    Ok(Trusted { roots, certificates })
}

/// The certificates that this machine trusts.
pub(crate) fn trusted_by_system() -> Result<Trusted, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Systems carry old certificates that nobody can use any more.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(Error::setting(format!(
            "this machine trusts no certificate authority{why}: name the one that signed the server's certificate"
        )));
    }
    Ok(Trusted { roots: store, certificates: Vec::new() })
}

/// The revocation lists in a file, PEM or DER.
pub(crate) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let mut found = found.map_err(|error| Error::file(path, format!("it is damaged: {error}")))?;
    if found.is_empty() {
        found.push(bytes.into());
    }
    for list in &found {
        webpki::BorrowedCertRevocationList::from_der(list).map_err(|error| match error {
            webpki::Error::UnsupportedCrlVersion => Error::file(
                path,
                "it is a revocation list of version 1: issue it as version 2 (openssl: crl_extensions)",
            ),
            other => Error::file(path, format!("there is no usable revocation list in it: {other}")),
        })?;
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let length = std::fs::metadata(path).map_err(|error| Error::file(path, error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(Error::file(path, format!("it has {length} bytes; more than {FILE_BYTES_MAX} are not read")));
    }
    std::fs::read(path).map_err(|error| Error::file(path, error))
}
