//! Protocol versions and cipher suites, by the names that etcd's flags use.

use crate::Error;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};
use std::sync::Arc;

/// Which versions and suites may be used. The default is TLS 1.2 and 1.3 with all suites that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    versions: Versions,
    /// Suites of TLS 1.2, as their numbers; `None` for all. Those of TLS 1.3 are all safe and always on, as in Go.
    suites: Option<Vec<rustls::CipherSuite>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Versions {
    #[default]
    Both,
    Tls12,
    Tls13,
}

/// What Go has and this side does not: each is broken or has no forward secrecy.
const WEAK: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

impl Policy {
    /// Reads the lowest and the highest version (`TLS1.2`, `TLS1.3`, or nothing for what is best) and the names of suites
    /// (none for all). Also returns the suites that were named and are left out because they are weak.
    ///
    /// # Errors
    /// [`Error::Setting`] in etcd's words where it has some; also if no suite is left.
    pub fn parse(min: &str, max: &str, suites: &[String]) -> Result<(Self, Vec<String>), Error> {
        let versions = match (version(min)?, version(max)?) {
            (None | Some(ProtocolVersion::TLSv1_2), None | Some(ProtocolVersion::TLSv1_3)) => Versions::Both,
            (None | Some(ProtocolVersion::TLSv1_2), Some(_)) => Versions::Tls12,
            (Some(_), None | Some(ProtocolVersion::TLSv1_3)) => Versions::Tls13,
            (Some(_), Some(_)) => {
                return Err(Error::setting(format!("min version ({min}) is greater than max version ({max})")));
            }
        };
        if versions == Versions::Tls13 && !suites.is_empty() {
            return Err(Error::setting("cipher suites cannot be configured when only TLS1.3 is enabled"));
        }
        let (mut known, mut weak) = (Vec::new(), Vec::new());
        for name in suites {
            match find(name) {
                Some(suite) => known.push(suite.suite()),
                None if WEAK.contains(&name.as_str()) => weak.push(name.clone()),
                None => return Err(Error::setting(format!("unexpected TLS cipher suite {name:?}"))),
            }
        }
        if known.is_empty() && !suites.is_empty() {
            return Err(Error::setting(format!(
                "all of {} are weak and not there; those of TLS 1.2 that are: {}",
                weak.join(", "),
                names().join(", ")
            )));
        }
        Ok((Self { versions, suites: (!suites.is_empty()).then_some(known) }, weak))
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(allowed) = &self.suites {
            provider.cipher_suites.retain(|suite| is_tls13(suite) || allowed.contains(&suite.suite()));
        }
        Arc::new(provider)
    }

    pub(crate) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
        const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
        // A version without a suite cannot be offered.
        let has_tls12 = self.provider().cipher_suites.iter().any(|suite| !is_tls13(suite));
        match self.versions {
            Versions::Both if has_tls12 => &[TLS13, TLS12],
            Versions::Both | Versions::Tls13 => &[TLS13],
            Versions::Tls12 => &[TLS12],
        }
    }
}

fn is_tls13(suite: &SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

fn version(name: &str) -> Result<Option<ProtocolVersion>, Error> {
    match name {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(ProtocolVersion::TLSv1_2)),
        "TLS1.3" => Ok(Some(ProtocolVersion::TLSv1_3)),
        _ => Err(Error::setting(format!("unexpected TLS version {name:?}"))),
    }
}

/// Go's name of a suite. It differs from rustls' in what TLS 1.3 has.
fn name(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
}

fn find(wanted: &str) -> Option<SupportedCipherSuite> {
    // Go's old names of two suites.
    let wanted = match wanted {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => format!("{wanted}_SHA256"),
        other => other.to_owned(),
    };
    aws_lc_rs::ALL_CIPHER_SUITES.iter().find(|suite| name(suite) == wanted).copied()
}

fn names() -> Vec<String> {
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(|suite| !is_tls13(suite)).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(min: &str, max: &str, suites: &[&str]) -> Result<(Policy, Vec<String>), String> {
        let suites: Vec<String> = suites.iter().map(|&suite| suite.into()).collect();
        Policy::parse(min, max, &suites).map_err(|error| error.to_string())
    }

    #[test]
    fn versions_are_etcds() {
        for (min, max, expected) in [
            ("", "", Ok(2)),
            ("TLS1.2", "", Ok(2)),
            ("TLS1.2", "TLS1.3", Ok(2)),
            ("TLS1.2", "TLS1.2", Ok(1)),
            ("TLS1.3", "", Ok(1)),
            ("TLS1.3", "TLS1.2", Err("min version (TLS1.3) is greater than max version (TLS1.2)")),
            ("TLS1.1", "", Err("unexpected TLS version \"TLS1.1\"")),
        ] {
            let got = parse(min, max, &[]).map(|(policy, _)| policy.versions().len());
            assert_eq!(got.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text), "{min} {max}");
        }
    }

    #[test]
    fn suites_have_gos_names() {
        let (policy, weak) = parse(
            "TLS1.2",
            "",
            &[
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
                "TLS_AES_128_GCM_SHA256",
                "TLS_RSA_WITH_AES_128_GCM_SHA256",
            ],
        )
        .unwrap();
        assert_eq!(weak, ["TLS_RSA_WITH_AES_128_GCM_SHA256"]);
        let tls12: Vec<_> = policy.provider().cipher_suites.iter().filter(|suite| !is_tls13(suite)).map(name).collect();
        assert_eq!(tls12.len(), 2, "{tls12:?}");

        let (only_13, _) = parse("", "", &["TLS_AES_128_GCM_SHA256"]).unwrap();
        assert_eq!(only_13.versions().len(), 1, "no suite of TLS 1.2 is left");

        assert_eq!(parse("", "", &["TLS_X"]), Err("unexpected TLS cipher suite \"TLS_X\"".into()));
        assert!(parse("", "", &["TLS_RSA_WITH_RC4_128_SHA"]).unwrap_err().contains("weak"));
        assert_eq!(
            parse("TLS1.3", "", &["TLS_AES_128_GCM_SHA256"]),
            Err("cipher suites cannot be configured when only TLS1.3 is enabled".into())
        );
    }
}
