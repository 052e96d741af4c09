//! How a client connects and how long it waits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::TlsOptions;

type Connector = dyn Fn(Endpoint) -> Result<Channel, tonic::transport::Error> + Send + Sync;

/// Options of [`Client::connect`](crate::Client::connect). The defaults suit a cluster on a local network.
///
/// ```
/// use std::time::Duration;
/// use quorate_client::ConnectOptions;
///
/// let options = ConnectOptions::new().user("app", "secret").timeout(Duration::from_secs(2));
/// ```
#[derive(Clone)]
pub struct ConnectOptions {
    pub(crate) user: Option<(String, String)>,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) require_leader: bool,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) watch_buffer_batches: usize,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) connector: Option<Arc<Connector>>,
}

impl ConnectOptions {
    /// The defaults.
    pub fn new() -> Self {
        ConnectOptions {
            user: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            require_leader: true,
            // Servers refuse pings more often than every 5 s.
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(3),
            watch_buffer_batches: 64,
            tls: None,
            connector: None,
        }
    }

    /// Logs in with a name and a password, and again whenever the server no longer accepts the token.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Time that a call may take, all its attempts together. Default 5 s. See also
    /// [`Client::with_timeout`](crate::Client::with_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Time to open a connection in. Default 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Makes members that see no leader refuse at once (gRPC metadata `hasleader`), so that the client goes to another
    /// member. Serializable reads and calls about a single member are always allowed. Default true.
    pub fn require_leader(mut self, require: bool) -> Self {
        self.require_leader = require;
        self
    }

    /// Interval of HTTP/2 pings on connections in use, and the time after which an unanswered one ends the connection.
    /// Defaults 10 s and 3 s. Servers refuse intervals below 5 s.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.ping_interval = interval;
        self.ping_timeout = timeout;
        self
    }

    /// Number of batches that wait in each watch until they are read; at least 1. Default 64. A batch holds at most
    /// what a server sends in one piece, about 2 MiB.
    pub fn watch_buffer(mut self, batches: usize) -> Self {
        self.watch_buffer_batches = batches.max(1);
        self
    }

    /// Secures connections. Endpoints with `https` use TLS also without, as [`TlsOptions::new`] has it; with this, those
    /// without a scheme do, too. `http` stays plain.
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Makes connections in another way than over TCP with or without TLS: a Unix socket, a simulated network.
    ///
    /// The function gets the endpoint with all other options applied but those for TLS, and usually calls
    /// [`Endpoint::connect_with_connector_lazy`] or [`Endpoint::connect_lazy`].
    pub fn connector<F>(mut self, connector: F) -> Self
    where
        F: Fn(Endpoint) -> Result<Channel, tonic::transport::Error> + Send + Sync + 'static,
    {
        self.connector = Some(Arc::new(connector));
        self
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password stays out of logs.
        f.debug_struct("ConnectOptions")
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("require_leader", &self.require_leader)
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("watch_buffer_batches", &self.watch_buffer_batches)
            .field("tls", &self.tls)
            .field("connector", &self.connector.is_some())
            .finish()
    }
}
