//! URLs in flags: where to listen, and what to advertise. Checks as etcd checks; resolves no names.

use super::settings::Settings;
use crate::StartError;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port` or `https://host:port`, the host an IP address or `localhost`.
    Tcp {
        /// IP address (without brackets) or `localhost`.
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
    },
    /// `unix://path` or `unixs://path`.
    Unix {
        /// Of the socket.
        path: PathBuf,
        /// Whether TLS is spoken.
        tls: bool,
    },
}

impl Endpoint {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Self::Unix { .. } => true,
        }
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Tcp { tls, .. } | Self::Unix { tls, .. } => *tls,
        }
    }

    /// The host, if it has one.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.is_tls() { "s" } else { "" };
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "http{s}://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "http{s}://{host}:{port}"),
            Self::Unix { path, .. } => write!(f, "unix{s}://{}", path.display()),
        }
    }
}

/// Reads a list of addresses to listen on.
pub fn listen(settings: &Settings, name: &'static str) -> Result<Vec<Endpoint>, StartError> {
    settings.list(name).iter().map(|url| parse_listen(name, url)).collect()
}

fn parse_listen(name: &str, url: &str) -> Result<Endpoint, StartError> {
    for (scheme, tls) in [("unix://", false), ("unixs://", true)] {
        if let Some(path) = url.strip_prefix(scheme) {
            return Ok(Endpoint::Unix { path: path.into(), tls });
        }
    }
    let (host, port, tls) = split(name, url)?;
    // Binding to a name would bind to whatever DNS says today.
    if host != "localhost" && host.parse::<IpAddr>().is_err() {
        return Err(StartError::config(format!("--{name}: expected IP in URL for binding ({url})")));
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port, tls })
}

/// Reads a list of URLs to tell others.
pub fn advertise(settings: &Settings, name: &'static str) -> Result<Vec<String>, StartError> {
    let urls = settings.list(name);
    for url in &urls {
        check_advertised(name, url)?;
    }
    Ok(urls)
}

/// Checks one URL to tell others.
pub fn check_advertised(name: &str, url: &str) -> Result<(), StartError> {
    let is_unix = url.starts_with("unix://") || url.starts_with("unixs://");
    if is_unix { Ok(()) } else { split(name, url).map(|_| ()) }
}

fn split<'a>(name: &str, url: &'a str) -> Result<(&'a str, u16, bool), StartError> {
    let bad = |why: &str| StartError::config(format!("--{name}: {url}: {why}"));
    let (authority, tls) = match url.split_once("://") {
        Some(("http", authority)) => (authority, false),
        Some(("https", authority)) => (authority, true),
        Some(_) => return Err(bad("the scheme must be http, https, unix or unixs")),
        None => return Err(bad(&format!("the scheme is missing: http://{url}, or https://{url} with TLS"))),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains('/') {
        return Err(bad("the URL must not have a path"));
    }
    let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("the URL must end in :port"))?;
    let port = port.parse().map_err(|_| bad(&format!("{port:?} is not a port, which is a number up to 65535")))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err(bad("the URL must name a host")) } else { Ok((host, port, tls)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (url, expected) in [
            ("http://127.0.0.1:2379", Ok("http://127.0.0.1:2379")),
            ("http://[::1]:2379/", Ok("http://[::1]:2379")),
            ("http://localhost:0", Ok("http://localhost:0")),
            ("https://10.0.0.1:2379", Ok("https://10.0.0.1:2379")),
            ("unix:///run/q.sock", Ok("unix:///run/q.sock")),
            ("unixs:///run/q.sock", Ok("unixs:///run/q.sock")),
            ("http://example.org:1", Err("--x: expected IP in URL for binding (http://example.org:1)")),
            ("http://127.0.0.1", Err("--x: http://127.0.0.1: the URL must end in :port")),
            (
                "127.0.0.1:1",
                Err("--x: 127.0.0.1:1: the scheme is missing: http://127.0.0.1:1, or https://127.0.0.1:1 with TLS"),
            ),
            (
                "http://127.0.0.1:70000",
                Err("--x: http://127.0.0.1:70000: \"70000\" is not a port, which is a number up to 65535"),
            ),
            ("http://:2379", Err("--x: http://:2379: the URL must name a host")),
            ("http://127.0.0.1:1/v3", Err("--x: http://127.0.0.1:1/v3: the URL must not have a path")),
            ("tcp://127.0.0.1:1", Err("--x: tcp://127.0.0.1:1: the scheme must be http, https, unix or unixs")),
        ] {
            let got = parse_listen("x", url).map(|at| at.to_string()).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{url}");
        }
    }

    #[test]
    fn local_is_loopback_and_unix() {
        for (url, local) in
            [("http://127.0.0.2:1", true), ("http://[::1]:1", true), ("http://0.0.0.0:1", false), ("unix://x", true)]
        {
            assert_eq!(parse_listen("x", url).unwrap().is_local(), local, "{url}");
        }
    }
}
