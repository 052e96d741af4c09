//! URLs of members: `http://host:port`, or `https://` for TLS; `unix://path` and `unixs://path` for members of one machine.

use std::path::PathBuf;

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `host:port`.
    Tcp(String),
    /// A socket in the file system. A path that does not begin with a slash is below the directory that the process runs in.
    Unix(PathBuf),
}

/// Whether a URL asks for TLS.
pub fn is_tls(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("unixs://")
}

/// Where a URL leads.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn place(url: &str) -> Result<Place, String> {
    match url.split_once("://") {
        Some(("http" | "https", rest)) => host_port(url, rest).map(Place::Tcp),
        Some(("unix" | "unixs", "")) => Err(format!("{url}: the path is missing")),
        Some(("unix" | "unixs", path)) => Ok(Place::Unix(path.into())),
        Some((scheme, _)) => Err(format!("{url}: scheme {scheme:?} is not one of http, https, unix, unixs")),
        None => Err(format!("{url}: not a URL; write http://host:port")),
    }
}

fn host_port(url: &str, rest: &str) -> Result<String, String> {
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
    use super::*;

    #[test]
    fn table() {
        let tcp = |at: &str| Ok(Place::Tcp(at.to_owned()));
        let unix = |at: &str| Ok(Place::Unix(at.into()));
        for (url, expected, tls) in [
            ("http://localhost:2380", tcp("localhost:2380"), false),
            ("http://[::1]:2380/", tcp("[::1]:2380"), false),
            ("https://a:1", tcp("a:1"), true),
            ("unix:///run/q.sock", unix("/run/q.sock"), false),
            ("unix://localhost:2380", unix("localhost:2380"), false),
            ("unixs:///run/q.sock", unix("/run/q.sock"), true),
        ] {
            assert_eq!((place(url), is_tls(url)), (expected, tls), "{url}");
        }
        for bad in [
            "localhost:2380",
            "http://localhost",
            "http://:1",
            "http://a:99999",
            "http://a:1/x",
            "ftp://a:1",
            "unix://",
        ] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
