//! Figures of the front, with etcd's names. Counting costs a few relaxed atomics per request: every handle is found by
//! index, no label is formatted until somebody asks.

mod process;
mod render;

use crate::grpc::{Kind, Method};
use http::HeaderMap;
pub use render::render;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tonic::Code;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds 1.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// gRPC has the codes 0 to 16.
const CODES: usize = 17;

/// Upper bounds of the latency histogram's buckets, in seconds: Prometheus' defaults, as in etcd.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Durations by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].increment();
        self.sum_nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Figures of one method. On cache lines of its own, so that methods do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct MethodMetrics {
    /// Calls that began.
    pub started: Counter,
    /// Messages from clients.
    pub received: Counter,
    /// Messages to clients.
    pub sent: Counter,
    handled: [Counter; CODES],
    latency: Option<Histogram>,
}

impl MethodMetrics {
    /// Counts a call that ended.
    pub fn handled(&self, code: Code, took: Duration) {
        self.handled[code as usize].increment();
        if let Some(latency) = &self.latency {
            latency.observe(took);
        }
    }
}

/// Minor versions of the client API that get a label of their own: clients choose the text, so it must be bounded.
const CLIENT_API_MINORS: usize = 16;

/// Figures of the front.
#[derive(Debug)]
pub struct Metrics {
    methods: Vec<MethodMetrics>,
    /// Calls by kind (unary, stream) and minor version of the client's API; the last place is "unknown".
    client_requests: [[Counter; CLIENT_API_MINORS + 1]; 2],
    /// Bytes of messages from clients.
    pub received_bytes: Counter,
    /// Bytes of messages to clients.
    pub sent_bytes: Counter,
    /// Requests that were refused because too many were under way.
    pub refused: Counter,
    /// Requests that took longer than expected.
    pub slow_requests: Counter,
    /// `/health` that found the member healthy.
    pub health_success: Counter,
    /// `/health` that did not.
    pub health_failures: Counter,
    /// Connections that were accepted.
    pub connections_accepted: Counter,
    /// Connections that are gone.
    pub connections_closed: Counter,
    /// Checks of `/livez` and `/readyz`.
    pub checks: crate::http::CheckMetrics,
}

impl Metrics {
    /// All at 0.
    pub fn new(extensive: bool) -> Self {
        let method =
            |_: &Method| MethodMetrics { latency: extensive.then(Histogram::default), ..MethodMetrics::default() };
        Self {
            methods: Method::ALL.iter().map(method).collect(),
            client_requests: Default::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            refused: Counter::default(),
            slow_requests: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            connections_accepted: Counter::default(),
            connections_closed: Counter::default(),
            checks: crate::http::CheckMetrics::default(),
        }
    }

    /// The figures of a method.
    pub fn method(&self, method: Method) -> &MethodMetrics {
        &self.methods[method as usize]
    }

    /// Counts a call by what the client says of itself.
    pub fn client_request(&self, kind: Kind, headers: &HeaderMap) {
        let minor = headers
            .get("client-api-version")
            .and_then(|version| version.to_str().ok())
            .and_then(|version| version.strip_prefix("3."))
            .and_then(|minor| minor.parse::<usize>().ok())
            .filter(|minor| *minor < CLIENT_API_MINORS)
            .unwrap_or(CLIENT_API_MINORS);
        let kind = match kind {
            Kind::Unary => 0,
            Kind::ServerStream | Kind::Bidi => 1,
        };
        self.client_requests[kind][minor].increment();
    }
}
