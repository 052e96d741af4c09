//! Whether whoever dials sits where his certificate says. As in etcd: a certificate with addresses must have the dialler's;
//! one with names must have a name that leads to it, or that its address leads to. One without either passes.
//!
//! DNS is asked, and believed: this keeps a certificate from being used elsewhere by mistake. What keeps strangers out is
//! the signature.

use crate::certificate::Certificate;
use std::net::IpAddr;

/// Checks a dialler. May ask DNS.
pub(crate) async fn check(certificate: &Certificate, dialler: IpAddr) -> Result<(), String> {
    let dialler = dialler.to_canonical();
    let (addresses, names) = (&certificate.addresses, &certificate.dns_names);
    if (addresses.is_empty() && names.is_empty()) || addresses.contains(&dialler) {
        return Ok(());
    }
    if names.is_empty() {
        return Err(format!(
            "the certificate is for {}, and it came from {dialler}: issue one with this address, or give \
             --peer-skip-client-san-verification",
            list(addresses)
        ));
    }
    if leads_to(names, dialler).await || comes_from(names, dialler).await {
        return Ok(());
    }
    Err(format!(
        "the certificate is for {}, and none of these names is that of {dialler}, where it came from: correct DNS, issue a \
         certificate with this address, or give --peer-skip-client-san-verification",
        names.join(", ")
    ))
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a name leads to the address.
async fn leads_to(names: &[String], address: IpAddr) -> bool {
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        if let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await
            && found.any(|found| found.ip().to_canonical() == address)
        {
            return true;
        }
    }
    false
}

/// Whether the address leads to a name, or to one below a wildcard.
async fn comes_from(names: &[String], address: IpAddr) -> bool {
    // The resolver blocks.
    let found = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address).ok()).await;
    let Ok(Some(host)) = found else { return false };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    names.iter().any(|name| {
        let name = name.to_ascii_lowercase();
        // As in etcd, a wildcard stands for any number of labels here.
        name.strip_prefix('*').map_or_else(|| host == name, |domain| host.ends_with(domain))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_then_names_then_anybody() {
        let certificate = |names: &[&str], addresses: &[&str]| Certificate {
            common_name: None,
            dns_names: names.iter().map(|&name| name.into()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            not_after: 0,
        };
        for (names, addresses, dialler, expected) in [
            (&[][..], &[][..], "10.0.0.1", true),
            (&[], &["10.0.0.1"], "10.0.0.1", true),
            (&[], &["10.0.0.1"], "::ffff:10.0.0.1", true),
            (&[], &["10.0.0.2"], "10.0.0.1", false),
            (&["localhost"], &["10.0.0.2"], "127.0.0.1", true),
            (&["localhost"], &[], "10.0.0.1", false),
            (&["no-such-name.invalid"], &[], "127.0.0.1", false),
        ] {
            let outcome = check(&certificate(names, addresses), dialler.parse().unwrap()).await;
            assert_eq!(outcome.is_ok(), expected, "{names:?} {addresses:?} {dialler}: {outcome:?}");
        }
    }
}
