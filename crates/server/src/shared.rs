//! What all connections share.

use crate::access::Access;
use crate::audit::AuditLog;
use crate::auth::{Passwords, Tokens};
use crate::config::ServerConfig;
use crate::limits::Gauge;
use crate::metrics::Metrics;
use crate::tls::Security;
use quorate_node::Node;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all connections share.
pub struct Shared {
    /// The node, with all rights: for what the server does by itself. What it does for a client, it does through
    /// [`Client::node`](crate::client::Client::node).
    pub system: Node,
    /// Gives and reads tokens.
    pub tokens: Tokens,
    /// Hashes and verifies passwords.
    pub passwords: Passwords,
    /// Figures of the front.
    pub metrics: Arc<Metrics>,
    /// Where requests are written down, if they are.
    pub audit: Option<AuditLog>,
    /// How connections are secured, and which are not.
    pub security: Arc<Security>,
    /// Requests and streams under way.
    pub requests: Arc<Gauge>,
    /// Bytes of requests being read and carried out.
    pub inflight: Arc<Gauge>,
    /// Bytes of large answers that wait to be sent.
    pub answers: Arc<Gauge>,
    /// Largest request.
    pub request_bytes_max: usize,
    /// Most operations in one list of a transaction.
    pub txn_ops_max: usize,
    /// Requests that take longer are logged.
    pub slow_request: Duration,
    /// Changes each time that there has been no leader for long.
    pub no_leader: tokio::sync::watch::Receiver<u64>,
    /// Most leases.
    pub leases_max: usize,
    /// What browsers may do.
    pub access: Access,
    /// Whether `/debug/pprof` is there.
    pub pprof: bool,
    /// Held while a profile is taken.
    pub profiling: tokio::sync::Mutex<()>,
    /// Canceled when the server stops: streams end.
    pub stopping: CancellationToken,
    /// Tasks that outlive the call that began them. Each counts as a request, and ends soon after `stopping`.
    pub detached: TaskTracker,
    /// Whether there is a JSON gateway.
    pub gateway: bool,
    slow_requests: AtomicU64,
}

impl Shared {
    /// Puts it together.
    #[allow(clippy::too_many_arguments, reason = "called once, at start")]
    pub fn new(
        system: Node,
        tokens: Tokens,
        passwords: Passwords,
        config: &ServerConfig,
        metrics: Arc<Metrics>,
        audit: Option<AuditLog>,
        security: Arc<Security>,
        no_leader: tokio::sync::watch::Receiver<u64>,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            system,
            tokens,
            passwords,
            metrics,
            audit,
            security,
            requests: Arc::new(Gauge::new(config.limits.requests_max)),
            inflight: Arc::new(Gauge::new(config.limits.inflight_bytes_max)),
            answers: Arc::new(Gauge::new(config.limits.answer_bytes_max)),
            request_bytes_max: config.limits.request_bytes_max,
            txn_ops_max: config.node.txn_ops_max,
            slow_request: config.slow_request,
            no_leader,
            leases_max: config.limits.leases_max,
            access: config.access.clone(),
            pprof: config.pprof,
            profiling: tokio::sync::Mutex::new(()),
            stopping,
            detached: TaskTracker::new(),
            gateway: config.gateway,
            slow_requests: AtomicU64::new(0),
        }
    }

    /// A number that names a slow request in the log.
    pub fn next_slow_request(&self) -> u64 {
        self.slow_requests.fetch_add(1, Relaxed)
    }
}
