//! Who is let in: certificates signed by an authority, not revoked, and of an owner who is allowed.

use crate::certificate::Certificate;
use crate::handshake::NotAllowed;
use crate::{Error, files};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Whose certificates are accepted, among those that are signed by a trusted authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Anybody's.
    #[default]
    Everybody,
    /// Those with one of these common names.
    CommonNames(Vec<String>),
    /// Those that stand for one of these hosts.
    Hosts(Vec<String>),
}

impl Allowed {
    fn check(&self, der: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let certificate = match self {
            Self::Everybody => return Ok(()),
            Self::CommonNames(_) | Self::Hosts(_) => {
                Certificate::parse(der).map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?
            }
        };
        let is_allowed = match self {
            Self::Everybody => true,
            Self::CommonNames(names) => certificate.common_name.as_ref().is_some_and(|name| names.contains(name)),
            Self::Hosts(hosts) => hosts.iter().any(|host| certificate.is_for(host)),
        };
        if is_allowed {
            return Ok(());
        }
        let owner = certificate.common_name.unwrap_or_default();
        let words = format!("the certificate of {owner:?} is good, but its owner is not among those allowed");
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotAllowed(words))))))
    }
}

/// Verifies those who dial.
pub(crate) fn of_clients(
    roots: RootCertStore,
    crl: Option<&Path>,
    allowed: &Allowed,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(path) = crl {
        // A list is of one authority; certificates of another are not in doubt for it.
        builder = builder.with_crls(files::revocation_lists(path)?).allow_unknown_revocation_status();
    }
    let inner = builder.build().map_err(Error::setting)?;
    Ok(match allowed {
        Allowed::Everybody => inner,
        Allowed::CommonNames(_) | Allowed::Hosts(_) => Arc::new(Clients { inner, allowed: allowed.clone() }),
    })
}

/// Verifies who is dialled.
pub(crate) fn of_servers(
    roots: RootCertStore,
    crl: Option<&Path>,
    allowed: &Allowed,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(path) = crl {
        builder = builder.with_crls(files::revocation_lists(path)?).allow_unknown_revocation_status();
    }
    let inner = builder.build().map_err(Error::setting)?;
    Ok(match allowed {
        Allowed::Everybody => inner,
        Allowed::CommonNames(_) | Allowed::Hosts(_) => Arc::new(Servers { inner, allowed: allowed.clone() }),
    })
}

/// Verifies nobody: whoever has the key of the certificate that he shows is let in.
pub(crate) fn of_nobody(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(Arc::clone(provider)))
}

#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.allowed.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Servers {
    inner: Arc<dyn ServerCertVerifier>,
    allowed: Allowed,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        self.allowed.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
