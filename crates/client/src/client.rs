//! The client itself: what all calls share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::endpoints::{Address, Endpoint};
use crate::transport::Transport;
use crate::watch::HubSender;
use crate::{ConnectOptions, Error};

/// A client of a cluster. Clones are cheap and share connections and watches.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    pub(crate) timeout: Duration,
    pub(crate) watch_hub: Arc<OnceLock<HubSender>>,
}

impl Client {
    /// Prepares connections to the members of a cluster.
    ///
    /// `endpoints` are client addresses such as `http://10.0.0.1:2379` or `10.0.0.1:2379`, at least one. Connections
    /// open when they are first needed, so this succeeds also while the cluster is down; with
    /// [`ConnectOptions::user`] it logs in. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for unusable endpoints and files; with a user, the errors of a call.
    pub async fn connect<S: AsRef<str>>(endpoints: impl AsRef<[S]>, options: ConnectOptions) -> Result<Self, Error> {
        let timeout = options.timeout;
        let transport = Arc::new(Transport::connect(endpoints.as_ref(), options)?);
        transport.log_in().await?;
        Ok(Self::new(transport, timeout))
    }

    fn new(transport: Arc<Transport>, timeout: Duration) -> Self {
        Client { transport, timeout, watch_hub: Arc::default() }
    }

    /// The same client with another time-out per call.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Client { timeout, ..self.clone() }
    }

    /// The same client for one endpoint alone, be it one of its own or another.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an unusable endpoint.
    pub fn at(&self, endpoint: &str) -> Result<Self, Error> {
        let tls = &self.transport.tls;
        let url = Address::parse(endpoint, tls.is_wanted())?.shown;
        let known = self.transport.endpoints.iter().find(|known| known.url == url).cloned();
        let endpoint = match known {
            Some(endpoint) => endpoint,
            None => Arc::new(Endpoint::new(endpoint, &self.transport.options, tls)?),
        };
        Ok(Self::new(Arc::new(self.transport.pinned(endpoint)?), self.timeout))
    }

    /// The endpoints, as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.transport.endpoints.iter().map(|endpoint| endpoint.url.clone()).collect()
    }
}
