//! Why a handshake failed: one word for a metric, and a text that says what to do.

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a handshake failed, as the accepting side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// What came was not TLS.
    Plaintext,
    /// A certificate was asked for and not shown.
    NoCertificate,
    /// Nobody who is trusted has signed the certificate.
    UnknownIssuer,
    /// The certificate's time is over, or has not come.
    Expired,
    /// A revocation list names the certificate.
    Revoked,
    /// The certificate is good, and its owner is not among those allowed.
    NotAllowed,
    /// The certificate does not stand for the address it came from.
    WrongAddress,
    /// The certificate cannot be used for another reason.
    BadCertificate,
    /// No version or cipher suite is known to both sides.
    Incompatible,
    /// The other side gave up, with an alert: it does not accept our certificate, for instance.
    RefusedByPeer,
    /// It was not finished in time, or too many others came after it.
    Stalled,
    /// The connection ended.
    Closed,
    /// What came breaks the protocol.
    Protocol,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Plaintext,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::Revoked,
        Self::NotAllowed,
        Self::WrongAddress,
        Self::BadCertificate,
        Self::Incompatible,
        Self::RefusedByPeer,
        Self::Stalled,
        Self::Closed,
        Self::Protocol,
    ];

    /// The value of a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotAllowed => "not_allowed",
            Self::WrongAddress => "wrong_address",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Stalled => "stalled",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        }
    }

    fn of(error: &io::Error) -> Self {
        match tls_error(error) {
            Some(error) => Self::of_tls(error),
            None => Self::Closed,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plaintext,
            E::NoCertificatesPresented => Self::NoCertificate,
            E::InvalidCertificate(error) => Self::of_certificate(error),
            E::PeerIncompatible(_) | E::NoApplicationProtocol => Self::Incompatible,
            E::AlertReceived(_) => Self::RefusedByPeer,
            // The rest has no reason of its own in a dashboard.
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => Self::Expired,
            E::Revoked => Self::Revoked,
            E::Other(error) if error.0.is::<NotAllowed>() => Self::NotAllowed,
            _ => Self::BadCertificate,
        }
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct HandshakeError {
    /// Why, in a word.
    pub reason: Reason,
    text: String,
}

impl HandshakeError {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// A failure that the accepting side found.
    pub(crate) fn of_accepting(error: &io::Error) -> Self {
        let reason = Reason::of(error);
        let text = match reason {
            Reason::Plaintext => "what came is not TLS: the other side has to use https".into(),
            Reason::NoCertificate => "the other side showed no certificate, and one is required".into(),
            Reason::UnknownIssuer => "the other side's certificate is not signed by a trusted authority".into(),
            Reason::Expired | Reason::Revoked | Reason::NotAllowed | Reason::WrongAddress => error.to_string(),
            Reason::BadCertificate | Reason::Incompatible | Reason::RefusedByPeer | Reason::Stalled => {
                error.to_string()
            }
            Reason::Closed | Reason::Protocol => error.to_string(),
        };
        Self { reason, text }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for HandshakeError {}

/// The certificate's owner is not among those allowed.
#[derive(Debug)]
pub(crate) struct NotAllowed(pub(crate) String);

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAllowed {}

/// How many handshakes ended how.
#[derive(Debug, Default)]
pub struct Counts {
    succeeded: AtomicU64,
    failed: [AtomicU64; Reason::ALL.len()],
}

impl Counts {
    pub(crate) fn succeed(&self) {
        self.succeeded.fetch_add(1, Relaxed);
    }

    pub(crate) fn fail(&self, reason: Reason) {
        self.failed[reason as usize].fetch_add(1, Relaxed);
    }

    /// Those that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// Those that failed for a reason.
    pub fn failed(&self, reason: Reason) -> u64 {
        self.failed[reason as usize].load(Relaxed)
    }
}

/// What rustls said, if the error is its.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// How texts begin that tell of a server which refused this side before it took up any request.
pub const REFUSED: &str = "the server refused the TLS connection";

/// A failure that the dialling side found, in words that say what to do. `server` is what was dialled.
pub(crate) fn explain_dialling(error: &io::Error, server: &str) -> Option<String> {
    use rustls::Error as E;
    Some(match tls_error(error)? {
        E::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("{server} does not speak TLS: use http:// without certificates, or another port")
        }
        E::InvalidCertificate(error) => explain_certificate(error, server),
        E::AlertReceived(alert) => format!("{REFUSED}: {}", explain_alert(*alert)),
        E::PeerIncompatible(why) => {
            format!("{server} and this side have no TLS version or cipher suite in common: {why:?}")
        }
        _ => return None,
    })
}

fn explain_certificate(error: &CertificateError, server: &str) -> String {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => format!(
            "the certificate of {server} is not signed by an authority that is trusted here: give the certificate of the \
             authority that signed it (--cacert)"
        ),
        E::Expired | E::ExpiredContext { .. } => {
            format!("the certificate of {server} has expired: renew it (or set this machine's clock right): {error}")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("the certificate of {server} is not valid yet: set this machine's clock right: {error}")
        }
        E::Revoked => format!("the certificate of {server} is revoked"),
        E::NotValidForName | E::NotValidForNameContext { .. } => format!(
            "the certificate of {server} is for other names: dial one of them, or issue one with this name or address as a \
             subject alternative name: {error}"
        ),
        _ => format!("the certificate of {server} cannot be used: {error}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => "it wants a client certificate (--cert and --key)".into(),
        A::UnknownCA => "the client's certificate is not signed by an authority that it trusts".into(),
        A::CertificateExpired => "the client's certificate has expired, or is not valid yet".into(),
        A::CertificateRevoked => "the client's certificate is revoked".into(),
        A::AccessDenied | A::CertificateUnknown => "it does not let the owner of the client's certificate in".into(),
        A::BadCertificate | A::UnsupportedCertificate => "it cannot use the client's certificate, or got none".into(),
        A::ProtocolVersion => "it speaks another version of TLS".into(),
        A::HandshakeFailure => "there is no cipher suite in common, or it wants a client certificate".into(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_order_and_their_labels_differ() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }
}
