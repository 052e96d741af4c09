//! The server, as one client may use it. Handlers get this, and not what all clients share: what they do through
//! [`Client::node`] they do in the client's name.

use crate::auth::{Credentials, prove};
use crate::shared::Shared;
use crate::status::status;
use quorate_core::{Caller, Rejection};
use quorate_node::{Error, Node};
use std::ops::Deref;
use std::sync::Arc;
use tonic::Status;

/// How often a name is proven again for one request. Each time it takes another change of users or roles within the
/// moment that a request takes.
const PROOFS_MAX: u32 = 8;

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

    /// Carries out what the client asks for. If users or roles change between the proof of its name and the answer, nothing
    /// was done, and the name is proven again: a client that logged in once need not know of other people's changes. (etcd
    /// up to 3.4 does so; since then it refuses, and leaves that to its clients, of which most do not.)
    ///
    /// # Errors
    /// Those of the call. That the proof is old, if it cannot be renewed: a JSON web token says itself how old it is.
    pub async fn ask<R: Clone, T, F: Future<Output = Result<T, Error>>>(
        &self,
        request: R,
        call: impl Fn(Node, R) -> F,
    ) -> Result<T, Status> {
        let Caller::User { auth_revision, .. } = self.node.caller() else {
            return call(self.node.clone(), request).await.map_err(|error| status(&error));
        };
        let mut proven = *auth_revision;
        let mut outcome = call(self.node.clone(), request.clone()).await;
        for _ in 0..PROOFS_MAX {
            if !matches!(outcome, Err(Error::Rejected(Rejection::AuthOldRevision))) {
                break;
            }
            let client = self.proven().await?;
            match client.node.caller() {
                Caller::User { auth_revision, .. } if *auth_revision > proven => proven = *auth_revision,
                Caller::User { .. } => break,
                Caller::System | Caller::Anonymous => {}
            }
            outcome = call(client.node, request.clone()).await;
        }
        outcome.map_err(|error| status(&error))
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
