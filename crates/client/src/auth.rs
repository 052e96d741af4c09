//! The token that proves who the client is.
//!
//! Knows when a token is needed, not how to reach a server. Guarantees that at most one login runs at a time.

use quorate_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tokio::sync::{Mutex, MutexGuard};
use tonic::metadata::{Ascii, MetadataValue};

use crate::Error;
use crate::error::text;

/// A token that a server gave.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(MetadataValue<Ascii>);

impl Token {
    pub(crate) fn value(&self) -> MetadataValue<Ascii> {
        self.0.clone()
    }
}

#[derive(Clone, PartialEq, Eq)]
enum State {
    Needed,
    Done(Token),
    /// The server has authentication turned off, so there is nothing to prove.
    NotNeeded,
}

pub(crate) struct Auth {
    user: Option<(String, String)>,
    state: parking_lot::Mutex<State>,
    turn: Mutex<()>,
}

impl Auth {
    pub(crate) fn new(user: Option<(String, String)>) -> Self {
        let state = if user.is_some() { State::Needed } else { State::NotNeeded };
        Auth { user, state: parking_lot::Mutex::new(state), turn: Mutex::new(()) }
    }

    pub(crate) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// Takes the turn to log in. Only for clients with a user.
    pub(crate) async fn begin_login(&self) -> Login<'_> {
        Login { auth: self, _turn: self.turn.lock().await }
    }

    /// Forgets a token that a server refused, unless it has been replaced already.
    pub(crate) fn forget(&self, refused: Option<&Token>) {
        let refused = refused.cloned().map_or(State::NotNeeded, State::Done);
        let mut state = self.state.lock();
        if self.has_user() && *state == refused {
            *state = State::Needed;
        }
    }

    /// Forgets whatever token there is.
    pub(crate) fn forget_any(&self) {
        if self.has_user() {
            *self.state.lock() = State::Needed;
        }
    }

    /// What is known without a login: a token, or that none is wanted. `None` if a login is needed.
    pub(crate) fn known(&self) -> Option<Option<Token>> {
        match &*self.state.lock() {
            State::Needed => None,
            State::Done(token) => Some(Some(token.clone())),
            State::NotNeeded => Some(None),
        }
    }
}

/// The turn to log in.
pub(crate) struct Login<'a> {
    auth: &'a Auth,
    _turn: MutexGuard<'a, ()>,
}

impl Login<'_> {
    pub(crate) fn request(&self) -> AuthenticateRequest {
        let (name, password) = self.auth.user.clone().unwrap_or_default();
        AuthenticateRequest { name, password }
    }

    pub(crate) fn finish(self, answer: Result<AuthenticateResponse, Error>) -> Result<Option<Token>, Error> {
        let (state, token) = match answer {
            Ok(answer) => {
                let value = answer.token.parse();
                let token = Token(value.map_err(|_| Error::InvalidArgument("unusable token from server".into()))?);
                (State::Done(token.clone()), Some(token))
            }
            Err(Error::Rejected { message, .. }) if message == text::AUTH_NOT_ENABLED => (State::NotNeeded, None),
            Err(error) => return Err(error),
        };
        *self.auth.state.lock() = state;
        Ok(token)
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the password nor the token belongs into a log.
        f.debug_struct("Auth").field("user", &self.user.as_ref().map(|(name, _)| name)).finish_non_exhaustive()
    }
}
