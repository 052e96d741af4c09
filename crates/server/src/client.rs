//! The server, as one client may use it. Handlers get this, and not what all clients share: what they do through
//! [`Client::node`] they do in the client's name.

use crate::auth::{Credentials, prove};
use crate::shared::Shared;
use quorate_core::Caller;
use quorate_node::Node;
use std::ops::Deref;
use std::sync::Arc;
use tonic::Status;

/// The server, as one client may use it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    credentials: Credentials,
    /// The node, in the client's name.
    pub node: Node,
}

impl Client {
    /// A client that shows `credentials`. Nothing is proven by that.
    pub fn new(shared: Arc<Shared>, credentials: Credentials) -> Self {
        let node = shared.system.on_behalf_of(Caller::Anonymous);
        Self { shared, credentials, node }
    }

    /// The same client, with its name proven as of now: for whoever comes back after a while, when users and roles may have
    /// changed.
    ///
    /// # Errors
    /// The token does not hold (any more); no leader to ask about it.
    pub async fn proven(&self) -> Result<Self, Status> {
        let mut client = self.clone();
        client.prove().await?;
        Ok(client)
    }

    /// Proves the client's name.
    ///
    /// # Errors
    /// As [`proven`](Self::proven).
    pub async fn prove(&mut self) -> Result<(), Status> {
        let caller = prove(&self.shared, &self.credentials).await?;
        self.node = self.shared.system.on_behalf_of(caller);
        Ok(())
    }

    /// The client's name, if it is proven.
    pub fn user(&self) -> Option<&str> {
        match self.node.caller() {
            Caller::User { name, .. } => Some(name),
            Caller::System | Caller::Anonymous => None,
        }
    }

    /// What all clients share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Deref for Client {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}
