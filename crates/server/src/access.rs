//! Who may use plain HTTP from a browser: names under which this server may be asked (`--host-whitelist`), and pages that
//! may read its answers (`--cors`). Both as in etcd. gRPC is not asked: browsers cannot speak it.

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};

/// Names or origins that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// All of them (`*`, or an empty list).
    All,
    /// These.
    Only(Vec<String>),
}

impl Allowed {
    /// Reads a list.
    pub fn of(names: Vec<String>) -> Self {
        if names.is_empty() || names.iter().any(|name| name == "*") { Self::All } else { Self::Only(names) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|allowed| allowed == name),
        }
    }
}

/// What browsers may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Names under which this server may be asked without TLS.
    pub hosts: Allowed,
    /// Origins of pages that may read answers.
    pub origins: Allowed,
}

impl Access {
    /// Refuses a request, not over TLS, that was made under a name that is not allowed: a page that makes a name of its own
    /// lead to this server would otherwise read it as if it were its own (CVE-2018-5702). The text is etcd's.
    pub fn refuse_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        // HTTP/2 has the name in the URI, HTTP/1.1 in a header.
        let named = uri.authority().map(|authority| authority.as_str());
        let named = named.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()));
        let host = host_of(named.unwrap_or_default());
        if self.hosts.has(host) {
            return Ok(());
        }
        let text = format!(
            "\netcd received your request, but the Host header was unrecognized.\n\nTo fix this, choose one of the following \
             options:\n- Enable TLS, then any HTTPS request will be allowed.\n- Add the hostname you want to use to the \
             whitelist in settings.\n  - e.g. etcd --host-whitelist {host:?}\n\nThis requirement has been added to help \
             prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
        );
        Err((StatusCode::MISDIRECTED_REQUEST, text))
    }

    /// Whether a page of this origin may speak to this server. What is no page has none.
    pub fn admits(&self, origin: Option<&HeaderValue>) -> bool {
        origin.is_none_or(|origin| match &self.origins {
            Allowed::All => true,
            Allowed::Only(_) => origin.to_str().is_ok_and(|origin| self.origins.has(origin)),
        })
    }

    /// Lets a page read the answer, if its origin is allowed.
    pub fn allow_origin<B>(&self, origin: Option<&HeaderValue>, response: &mut Response<B>) {
        let allowed = match (&self.origins, origin) {
            (Allowed::All, _) => HeaderValue::from_static("*"),
            (Allowed::Only(_), Some(origin)) if self.admits(Some(origin)) => origin.clone(),
            (Allowed::Only(_), _) => return,
        };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// The name without port and brackets.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(hosts: &[&str], origins: &[&str]) -> Access {
        let list = |names: &[&str]| Allowed::of(names.iter().map(|name| (*name).to_owned()).collect());
        Access { hosts: list(hosts), origins: list(origins) }
    }

    #[test]
    fn only_names_on_the_list_are_served() {
        for (hosts, uri, header, served) in [
            (&["*"][..], "/", "anything", true),
            (&[], "/", "anything", true),
            (&["a", "::1"], "/", "a:2379", true),
            (&["a", "::1"], "/", "[::1]:2379", true),
            (&["a"], "http://a:1/", "b", true),
            (&["a"], "/", "b:2379", false),
            (&["a"], "/", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(header));
            let outcome = access(hosts, &[]).refuse_host(&Uri::from_static(uri), &headers);
            assert_eq!(outcome.is_ok(), served, "{hosts:?} {uri} {header}");
        }
    }

    #[test]
    fn an_origin_is_allowed_by_name_or_all_are() {
        for (origins, origin, expected) in [
            (&["*"][..], None, Some("*")),
            (&["*"], Some("http://a:1"), Some("*")),
            (&["http://a:1"], Some("http://a:1"), Some("http://a:1")),
            (&["http://a:1"], Some("http://b:1"), None),
            (&["http://a:1"], None, None),
        ] {
            let mut response = Response::new(());
            let origin = origin.map(HeaderValue::from_static);
            access(&[], origins).allow_origin(origin.as_ref(), &mut response);
            let admitted = expected.is_some() || origin.is_none();
            assert_eq!(access(&[], origins).admits(origin.as_ref()), admitted, "{origins:?} {origin:?}");
            let got = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(got, expected, "{origins:?} {origin:?}");
        }
    }
}
