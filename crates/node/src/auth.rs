//! Users, roles and tokens, as the node offers them. What a caller may do is decided in [`quorate_core::auth`].

use crate::group::Written;
use crate::{Answer, Error, Node};
use quorate_core::auth::TokenId;
use quorate_core::{AuthCommand, AuthState, Caller, Command, KeyRange, LogIndex, Rejection};
use std::sync::Arc;

impl Node {
    /// Users, roles, and whether permissions are asked for, as this member has them.
    pub fn auth(&self) -> Arc<AuthState> {
        self.group().state.store.auth()
    }

    /// Likewise, with everything in it that was acknowledged anywhere before.
    ///
    /// # Errors
    /// [`Error::NotSupportedForLearner`]; no leader or no quorum in time.
    pub async fn auth_linearizable(&self) -> Result<Answer<Arc<AuthState>>, Error> {
        self.refuse_on_learner()?;
        self.group().linearize().await?;
        Ok(Answer { header: self.header(), body: self.auth() })
    }

    /// Changes users or roles, or turns authentication on or off.
    ///
    /// # Errors
    /// Rejections of [`quorate_core::apply`]. Errors of which [`Error`] says so leave the outcome unknown.
    pub async fn auth_change(&self, command: AuthCommand) -> Result<Answer<()>, Error> {
        self.refuse_on_learner()?;
        let written = self.write(Command::Auth(command)).await?;
        Ok(Answer { header: self.header_at(written.revision), body: () })
    }

    /// Makes a token known to all members, for a user whose password was verified: the one of `credentials_revision`. Returns
    /// where in the log it is: a member that has applied the log so far knows the token.
    ///
    /// # Errors
    /// [`Rejection::AuthNotEnabled`], [`Rejection::AuthFailed`] if the user is gone, [`Rejection::AuthOldRevision`] if the
    /// password has changed meanwhile; as [`Node::txn`].
    pub async fn token_assign(
        &self,
        user: &str,
        token: TokenId,
        credentials_revision: u64,
    ) -> Result<Answer<LogIndex>, Error> {
        self.refuse_on_learner()?;
        let command = AuthCommand::TokenAssign { user: user.to_owned(), token, credentials_revision };
        let Written { revision, index, .. } = self.write(Command::Auth(command)).await?;
        Ok(Answer { header: self.header_at(revision), body: LogIndex::new(index) })
    }

    /// Whom a token names that was assigned at `index` of the log. Waits for the log if it is not applied so far here.
    ///
    /// # Errors
    /// [`Rejection::InvalidAuthToken`]; no leader or no quorum in time.
    pub async fn token_caller(&self, token: &TokenId, index: LogIndex) -> Result<Caller, Error> {
        let state = &self.group().state;
        if state.applied().index < index.get() {
            // Never wait for an index that a client has made up: what was acknowledged is there after one round.
            self.group().linearize().await?;
        }
        let auth = self.auth();
        let user = state.tokens.user(state.now(), token, &auth).ok_or(Rejection::InvalidAuthToken)?;
        Ok(Caller::User { name: user, auth_revision: auth.revision() })
    }

    /// Whether the caller of this handle may read all keys of `range`, as far as this member knows.
    ///
    /// # Errors
    /// As [`AuthState::check_read`].
    pub fn check_read(&self, range: &KeyRange) -> Result<(), Rejection> {
        self.auth().check_read(self.caller(), range)
    }

    /// Whether the caller of this handle may administer, as far as this member knows.
    pub(crate) fn check_root(&self) -> Result<(), Rejection> {
        self.auth().check_root(self.caller())
    }
}
