//! The endpoints of a client and their health.
//!
//! Knows which endpoint failed when, not why and not what is sent. Guarantees that every endpoint is tried again some
//! time, and that one is always offered as long as any has not been tried in this round.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::connector::{Refusal, Tls};
use crate::{ConnectOptions, Error};

const EJECTION_MIN: Duration = Duration::from_millis(250);
const EJECTION_MAX: Duration = Duration::from_secs(10);

/// One server address with its connection, which opens at the first use and again after every loss.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) channel: Channel,
    health: Mutex<Health>,
    refusal: Refusal,
}

#[derive(Debug, Default)]
struct Health {
    failures_in_a_row: u32,
    ejected_until: Option<Instant>,
}

impl Endpoint {
    pub(crate) fn new(address: &str, options: &ConnectOptions, tls: &Tls) -> Result<Self, Error> {
        let parsed = Address::parse(address, tls.is_wanted())?;
        let invalid = |e: &dyn std::fmt::Display| Error::InvalidArgument(format!("endpoint {address:?}: {e}"));
        let endpoint = tonic::transport::Endpoint::from_shared(parsed.uri.clone())
            .map_err(|e| invalid(&e))?
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.ping_interval)
            .keep_alive_timeout(options.ping_timeout);
        let refusal = Refusal::default();
        let channel = match &options.connector {
            Some(connector) => connector(endpoint).map_err(|e| invalid(&e))?,
            None => endpoint.connect_with_connector_lazy(tls.connector(&parsed, refusal.clone())?),
        };
        Ok(Endpoint { url: parsed.shown, channel, health: Mutex::default(), refusal })
    }

    pub(crate) fn succeeded(&self) {
        *self.health.lock() = Health::default();
        self.refusal.forget();
    }

    /// Why the server refused the last connection, if it did.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.reason()
    }

    /// Leaves the endpoint out for a while that doubles with every failure in a row.
    pub(crate) fn failed(&self) {
        let mut health = self.health.lock();
        let ejection = EJECTION_MAX.min(EJECTION_MIN * (1 << health.failures_in_a_row.min(10)));
        health.failures_in_a_row += 1;
        health.ejected_until = Some(Instant::now() + ejection);
    }

    fn ejected_until(&self) -> Option<Instant> {
        self.health.lock().ejected_until
    }
}

/// Where an endpoint is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As it is told to people.
    pub(crate) shown: String,
    /// What requests name. For a socket in the file system that is `localhost`, which is also the name that its certificate
    /// must be for.
    uri: String,
    /// Whether TLS is spoken there.
    pub(crate) tls: bool,
    /// The socket in the file system, if it is one.
    pub(crate) socket: Option<PathBuf>,
}

impl Address {
    /// Reads an address in one of the forms that etcd's clients take: `host:port`, `http://host:port`, `https://host:port`,
    /// `unix:path`, `unix://path`, and the same with `unixs`. Without a scheme, TLS is spoken if it is wanted. What follows
    /// the port does not count.
    pub(crate) fn parse(address: &str, tls_is_wanted: bool) -> Result<Address, Error> {
        let address = address.trim();
        let bad = |why: String| Error::InvalidArgument(format!("endpoint {address:?}: {why}"));
        if address.is_empty() {
            return Err(Error::InvalidArgument("empty endpoint".into()));
        }
        for (scheme, tls) in [("unix:", false), ("unixs:", true)] {
            let Some(path) = address.strip_prefix(scheme) else { continue };
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(bad("it names no file".into()));
            }
            let uri = if tls { "https://localhost" } else { "http://localhost" }.to_owned();
            return Ok(Address { shown: format!("{scheme}//{path}"), uri, tls, socket: Some(path.into()) });
        }
        let (tls, rest) = match address.split_once("://") {
            None => (tls_is_wanted, address),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(bad(format!("unknown scheme {scheme:?}"))),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(bad("it names no host".into()));
        }
        let url = format!("{}://{authority}", if tls { "https" } else { "http" });
        Ok(Address { shown: url.clone(), uri: url, tls, socket: None })
    }
}

/// All endpoints of a client: at least one.
#[derive(Debug)]
pub(crate) struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

impl Endpoints {
    pub(crate) fn new(list: Vec<Arc<Endpoint>>) -> Result<Self, Error> {
        if list.is_empty() {
            return Err(Error::InvalidArgument("no endpoints given".into()));
        }
        // Many clients that start together should not all begin at the first endpoint.
        let turn = AtomicUsize::new(rand::random_range(0..list.len()));
        Ok(Endpoints { list, turn })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.list.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The next endpoint in turn that is not in `tried`: a healthy one, else the one whose ejection ends first.
    pub(crate) fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.list.len()).map(|i| &self.list[start.wrapping_add(i) % self.list.len()]);
        let now = Instant::now();
        in_turn
            .filter(|endpoint| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)))
            // The first of equals wins, so healthy endpoints take turns.
            .min_by_key(|endpoint| endpoint.ejected_until().filter(|until| *until > now))
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(n: usize) -> Endpoints {
        let (options, tls) = (ConnectOptions::new(), Tls::new(None).unwrap());
        let list = (0..n).map(|i| Arc::new(Endpoint::new(&format!("host{i}:1"), &options, &tls).unwrap())).collect();
        let endpoints = Endpoints::new(list).unwrap();
        endpoints.turn.store(0, Ordering::Relaxed);
        endpoints
    }

    fn picked(endpoints: &Endpoints, times: usize) -> String {
        let pick =
            |_| endpoints.pick(&[]).unwrap().url.trim_start_matches("http://host").trim_end_matches(":1").to_owned();
        (0..times).map(pick).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn healthy_endpoints_take_turns_and_failed_ones_come_back() {
        let endpoints = endpoints(3);
        assert_eq!(picked(&endpoints, 6), "012012");
        endpoints.list[1].failed();
        assert_eq!(picked(&endpoints, 6), "022022");
        tokio::time::advance(EJECTION_MIN + Duration::from_millis(1)).await;
        assert_eq!(picked(&endpoints, 6), "012012");
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_eject_longer_until_a_success() {
        let endpoints = endpoints(2);
        for _ in 0..40 {
            endpoints.list[0].failed();
        }
        tokio::time::advance(EJECTION_MAX - Duration::from_millis(1)).await;
        assert_eq!(picked(&endpoints, 2), "11");
        endpoints.list[0].succeeded();
        assert_eq!(picked(&endpoints, 2), "01");
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_endpoint_is_better_than_none_but_only_once_a_round() {
        let endpoints = endpoints(2);
        endpoints.list.iter().for_each(|endpoint| endpoint.failed());
        let first = endpoints.pick(&[]).unwrap();
        let second = endpoints.pick(std::slice::from_ref(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(endpoints.pick(&[first, second]).is_none());
    }

    #[test]
    fn addresses_are_read_as_etcds_clients_read_them() {
        let parse = |address, tls| Address::parse(address, tls).unwrap();
        for (address, tls, expected) in [
            ("127.0.0.1:2379", false, "http://127.0.0.1:2379"),
            ("127.0.0.1:2379", true, "https://127.0.0.1:2379"),
            (" http://a:1/ ", true, "http://a:1"),
            ("http://a:1/path?x#y", false, "http://a:1"),
            ("https://a:1", false, "https://a:1"),
            ("[::1]:2379", false, "http://[::1]:2379"),
        ] {
            let read = parse(address, tls);
            assert_eq!((&*read.shown, &*read.uri, read.socket), (expected, expected, None));
            assert_eq!(read.tls, expected.starts_with("https"));
        }
        for (address, shown, tls, path) in [
            ("unix:///run/q.sock", "unix:///run/q.sock", false, "/run/q.sock"),
            ("unixs:///run/q.sock", "unixs:///run/q.sock", true, "/run/q.sock"),
            ("unix://q.sock", "unix://q.sock", false, "q.sock"),
            ("unixs:q.sock", "unixs://q.sock", true, "q.sock"),
            ("unix:/run/q.sock", "unix:///run/q.sock", false, "/run/q.sock"),
        ] {
            let read = parse(address, !tls);
            assert_eq!((&*read.shown, read.tls, read.socket), (shown, tls, Some(path.into())), "{address}");
            assert!(read.uri.ends_with("://localhost"));
        }
        for bad in ["", "  ", "unix:", "unixs://", "tcp://a:1", "http://", "http:///a"] {
            assert!(matches!(Address::parse(bad, false), Err(Error::InvalidArgument(_))), "{bad}");
        }
    }
}
