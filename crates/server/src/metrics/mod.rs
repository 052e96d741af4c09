//! Figures of the front, with etcd's names. Counting costs a few relaxed atomics per request: every handle is found by
//! index, no label is formatted until somebody asks.

pub mod process;
mod render;
mod security;

use crate::grpc::{Kind, Method};
use crate::limits::Limit;
use http::HeaderMap;
use quorate_node::stages::{Stage, Stages};
pub use render::{code_name, render, render_starting};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tonic::{Code, Status};

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

/// Upper bounds of the buckets of call latencies, in seconds: Prometheus' defaults, as in etcd.
const CALL_BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the buckets of fsyncs, in seconds: etcd's.
const FSYNC_BOUNDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// Upper bounds of the buckets of work on the whole engine, in seconds: etcd's.
const ENGINE_BOUNDS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6];

/// Upper bounds of the buckets of stages, in seconds: from what memory takes to what a failing disk does.
const STAGE_BOUNDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the buckets of hashes of all that is kept, in seconds: etcd's.
const HASH_BOUNDS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84];

/// Durations by bucket.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one beyond.
    buckets: Box<[Counter]>,
    sum_nanos: Counter,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            sum_nanos: Counter::default(),
        }
    }

    /// For fsyncs of the write-ahead log, and flushes of the engine.
    pub fn of_fsyncs() -> Self {
        Self::new(FSYNC_BOUNDS)
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
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
    /// Requests that a bound refused, in the order of [`Limit::ALL`].
    refused: [Counter; Limit::ALL.len()],
    /// Requests that took longer than expected.
    pub slow_requests: Counter,
    /// `/health` that found the member healthy.
    pub health_success: Counter,
    /// `/health` that did not.
    pub health_failures: Counter,
    /// Passwords that were right.
    pub logins: Counter,
    /// Logins that failed.
    pub logins_failed: Counter,
    /// Tokens that did not hold.
    pub tokens_refused: Counter,
    /// Calls that ended because their caller may not do what they asked for.
    pub denied: Counter,
    /// Connections that were accepted.
    pub connections_accepted: Counter,
    /// Connections that are gone.
    pub connections_closed: Counter,
    /// Fsyncs of the write-ahead log.
    pub fsyncs: Arc<Histogram>,
    /// Flushes of the engine.
    pub flushes: Arc<Histogram>,
    /// Defragmentations.
    pub defragmentations: Histogram,
    /// Defragmentations that began.
    pub defragmentations_begun: Counter,
    /// Defragmentations that ended, well or not.
    pub defragmentations_ended: Counter,
    /// Hashes of everything that is kept.
    pub hashes: Histogram,
    /// Hashes of the history up to a revision.
    pub revision_hashes: Histogram,
    /// Snapshots that were sent to clients.
    pub snapshots: Histogram,
    /// Checks of `/livez` and `/readyz`.
    pub checks: crate::http::CheckMetrics,
    /// Unary requests by stage, in the order of [`Stage::ALL`].
    stages: [Histogram; Stage::ALL.len()],
}

impl Metrics {
    /// All at 0, but for `fsyncs` and `flushes`, which the node observes already.
    pub fn new(extensive: bool, fsyncs: Arc<Histogram>, flushes: Arc<Histogram>) -> Self {
        let method = |_: &Method| MethodMetrics {
            latency: extensive.then(|| Histogram::new(CALL_BOUNDS)),
            ..MethodMetrics::default()
        };
        Self {
            methods: Method::ALL.iter().map(method).collect(),
            client_requests: Default::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            refused: Default::default(),
            slow_requests: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            logins: Counter::default(),
            logins_failed: Counter::default(),
            tokens_refused: Counter::default(),
            denied: Counter::default(),
            connections_accepted: Counter::default(),
            connections_closed: Counter::default(),
            fsyncs,
            flushes,
            defragmentations: Histogram::new(ENGINE_BOUNDS),
            defragmentations_begun: Counter::default(),
            defragmentations_ended: Counter::default(),
            hashes: Histogram::new(HASH_BOUNDS),
            revision_hashes: Histogram::new(HASH_BOUNDS),
            snapshots: Histogram::new(ENGINE_BOUNDS),
            checks: crate::http::CheckMetrics::default(),
            stages: Stage::ALL.map(|_| Histogram::new(STAGE_BOUNDS)),
        }
    }

    /// The figures of a method.
    pub fn method(&self, method: Method) -> &MethodMetrics {
        &self.methods[method as usize]
    }

    /// Counts a request that a bound refused, if the failure names one.
    pub fn count_refusal(&self, failure: &Status) {
        if let Some(limit) = Limit::of(failure) {
            self.refused(limit);
        }
    }

    /// Counts what a bound refused.
    pub fn refused(&self, limit: Limit) {
        let counter = &self.refused[limit as usize];
        counter.increment();
        // The first one says what to do; how many come after, the metric says.
        if counter.get() == 1 {
            tracing::warn!(option = limit.flag(), "requests are refused by a bound: see --{}", limit.flag());
        }
    }

    /// Counts the stages of a request.
    pub fn stages(&self, stages: &Stages) {
        for (stage, took) in stages.passed() {
            self.stages[stage as usize].observe(took);
        }
    }

    /// Calls of a method that succeeded.
    pub fn succeeded(&self, method: Method) -> u64 {
        self.method(method).handled[Code::Ok as usize].get()
    }

    /// Counts a call by what the client says of itself.
    pub fn client_request(&self, kind: Kind, headers: &HeaderMap) {
        let minor = client_api_minor(headers).filter(|minor| *minor < CLIENT_API_MINORS).unwrap_or(CLIENT_API_MINORS);
        let kind = match kind {
            Kind::Unary => 0,
            Kind::ServerStream | Kind::Bidi => 1,
        };
        self.client_requests[kind][minor].increment();
    }
}

/// The minor version of the API that a client says it knows, of version 3.
pub fn client_api_minor(headers: &HeaderMap) -> Option<usize> {
    let version = headers.get("client-api-version")?.to_str().ok()?;
    version.strip_prefix("3.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::of_fsyncs();
        for millis in [0, 1, 2, 3, 10_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let counts: Vec<_> = histogram.buckets.iter().map(Counter::get).collect();
        assert_eq!((&counts[..4], counts[14]), (&[2, 1, 1, 0][..], 1));
        assert_eq!(histogram.sum_nanos.get(), 10_006_000_000);
    }
}
