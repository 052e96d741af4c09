//! Who is let in: certificates signed by an authority, not revoked, and of an owner who is allowed.

use crate::certificate::Certificate;
use crate::files::Trusted;
use crate::handshake::NotAllowed;
use crate::{Error, files};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

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
    trusted: Trusted,
    crl: Option<&Path>,
    allowed: &Allowed,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let Trusted { roots, mut certificates } = trusted;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(path) = crl {
        // A list is of one authority; certificates of another are not in doubt for it.
        builder = builder.with_crls(files::revocation_lists(path)?).allow_unknown_revocation_status();
        // What is its own authority does not come to the point at which a list counts.
        certificates.clear();
    }
    let inner = builder.build().map_err(Error::setting)?;
    Ok(Arc::new(Clients { inner, allowed: allowed.clone(), own_authorities: OwnAuthorities(certificates) }))
}

/// Verifies who is dialled.
pub(crate) fn of_servers(
    trusted: Trusted,
    crl: Option<&Path>,
    allowed: &Allowed,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let Trusted { roots, mut certificates } = trusted;
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(path) = crl {
        builder = builder.with_crls(files::revocation_lists(path)?).allow_unknown_revocation_status();
        certificates.clear();
    }
    let inner = builder.build().map_err(Error::setting)?;
    Ok(Arc::new(Servers { inner, allowed: allowed.clone(), own_authorities: OwnAuthorities(certificates) }))
}

/// Verifies nobody: whoever has the key of the certificate that he shows is let in.
pub(crate) fn of_nobody(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(Arc::clone(provider)))
}

/// Trusted certificates. Those that are authorities may also be shown by whoever has their key: a certificate that signs
/// itself and is in the file of those that are trusted, as `openssl req -x509` makes it, is a chain of one. So it is in Go;
/// webpki has authorities sign others only.
#[derive(Debug)]
struct OwnAuthorities(Vec<CertificateDer<'static>>);

impl OwnAuthorities {
    /// Takes back a refusal if there is no reason for it but that an authority is shown, which is trusted. That comes after
    /// the dates were checked, and before what the certificate is for is.
    fn accept(
        &self,
        refusal: rustls::Error,
        shown: &CertificateDer<'_>,
        is_for_this: impl FnOnce(&ExtendedKeyUsage<'_>) -> bool,
    ) -> Result<(), rustls::Error> {
        let is_authority = match &refusal {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
                matches!(why.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
            }
            // All other reasons stand.
            _ => false,
        };
        if !is_authority || !self.0.contains(shown) {
            return Err(refusal);
        }
        let bad = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(shown).map_err(bad)?;
        let purposes = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        if purposes.is_none_or(|purposes| purposes.value.any || is_for_this(purposes.value)) {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurpose))
    }
}

#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
    own_authorities: OwnAuthorities,
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
        if let Err(error) = self.inner.verify_client_cert(end_entity, intermediates, now) {
            self.own_authorities.accept(error, end_entity, |purposes| purposes.client_auth)?;
        }
        self.allowed.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
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
    own_authorities: OwnAuthorities,
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
        if let Err(error) = self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            self.own_authorities.accept(error, end_entity, |purposes| purposes.server_auth)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        }
        self.allowed.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
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
