//! What a certificate says of its owner. Reads names and dates; that a signature is right is checked elsewhere.

use std::net::IpAddr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; the last one if there are several.
    pub common_name: Option<String>,
    /// The DNS names for which it stands, wildcards as they are.
    pub dns_names: Vec<String>,
    /// The addresses for which it stands.
    pub addresses: Vec<IpAddr>,
    /// The last second in which it is valid, since 1970.
    pub not_after: i64,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| format!("a certificate in it cannot be read: {error}"))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("the names of a certificate in it cannot be read: {error}"))?;
        let mut certificate = Self {
            common_name: parsed.subject().iter_common_name().last().and_then(|name| name.as_str().ok()).map(Into::into),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            not_after: parsed.validity().not_after.timestamp(),
        };
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => certificate.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => certificate.addresses.extend(address(bytes)),
                // Mail addresses, URIs and the like name no member and no client.
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// Whether it stands for a host, which is a name or an address. A wildcard stands for one label, as in Go.
    pub fn is_for(&self, host: &str) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let host = host.trim_end_matches('.');
        self.dns_names.iter().any(|name| matches(name.trim_end_matches('.'), host))
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(domain))
        }
        None => !host.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    #[test]
    fn names_addresses_and_dates_are_read() {
        let issued = Authority::new("ca").issue("alice", &["a.example", "*.b.example", "10.0.0.1", "::1"]);
        let certificate = Certificate::parse(issued.der()).unwrap();
        assert_eq!(certificate.common_name.as_deref(), Some("alice"));
        assert_eq!(certificate.dns_names, ["a.example", "*.b.example"]);
        assert_eq!(certificate.addresses, ["10.0.0.1", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
        assert!(certificate.not_after > 1_700_000_000);
        for (host, expected) in [
            ("a.example", true),
            ("A.EXAMPLE.", true),
            ("x.a.example", false),
            ("x.b.example", true),
            ("b.example", false),
            ("x.y.b.example", false),
            ("10.0.0.1", true),
            ("[::1]", true),
            ("10.0.0.2", false),
            ("", false),
            // A common name is not a host name.
            ("alice", false),
        ] {
            assert_eq!(certificate.is_for(host), expected, "{host:?}");
        }
        assert!(Certificate::parse(b"nonsense").is_err());
    }
}
