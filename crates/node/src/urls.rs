//! URLs of members: `http://host:port`, or `https://` for TLS.

/// Whether a URL asks for TLS.
pub fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}

/// `host:port` of a URL.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn host_port(url: &str) -> Result<String, String> {
    let rest = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{url}: scheme {scheme:?} is not one of http, https")),
        None => return Err(format!("{url}: not a URL; write http://host:port")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(format!("{url}: a member URL has no path"));
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| format!("{url}: the port is missing"))?;
    if host.is_empty() {
        return Err(format!("{url}: the host is missing"));
    }
    port.parse::<u16>().map_err(|_| format!("{url}: {port:?} is not a port"))?;
    Ok(rest.to_owned())
}

/// Why an address cannot be listened on, and what to do.
pub fn why_not_listening(error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there: `ss -ltnp` tells which",
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE",
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::{host_port, is_tls};

    #[test]
    fn table() {
        assert_eq!(host_port("http://localhost:2380").as_deref(), Ok("localhost:2380"));
        assert_eq!(host_port("http://[::1]:2380/").as_deref(), Ok("[::1]:2380"));
        assert_eq!(host_port("https://a:1").as_deref(), Ok("a:1"));
        assert!(is_tls("https://a:1") && !is_tls("http://a:1"));
        for bad in ["localhost:2380", "http://localhost", "http://:1", "http://a:99999", "http://a:1/x", "ftp://a:1"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }
}
