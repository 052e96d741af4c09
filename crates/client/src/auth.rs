//! The token that proves who the client is.
//!
//! Knows when a token is needed, and how long new ones are tried; not how to reach a server. Guarantees that at most one login
//! runs at a time.

use std::time::Duration;

use quorate_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tokio::sync::{Mutex, MutexGuard};
use tonic::metadata::{Ascii, MetadataValue};

use crate::Error;
use crate::error::text;

/// Pauses between new tokens, all together, before a refusal is believed: for a call or a watch. A member that has just been
/// started, or been given the state of another, knows no token from before, so that a new one may be refused as well if that happens
/// to several members, or to one again and again. That passes; a server that refuses all tokens does not. The time in which no
/// token could be had does not count.
pub(crate) const PAUSES_MAX: Duration = Duration::from_secs(3);

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The refusals of tokens that one call or one watch has met, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    met: bool,
    pause: Duration,
    paused: Duration,
}

impl Refusals {
    /// After which pause a new token is to be tried; `None` if this refusal is to be believed.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        if self.met {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        }
        // At first without a pause: most often the token was merely old.
        self.met = true;
        self.paused += self.pause;
        (self.paused <= PAUSES_MAX).then_some(self.pause)
    }

    /// Whether there was one.
    pub(crate) fn any(&self) -> bool {
        self.met
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_tokens_are_tried_at_once_at_first_and_then_with_longer_pauses_but_not_for_ever() {
        let mut refusals = Refusals::default();
        assert!(!refusals.any());
        let pauses: Vec<Duration> = std::iter::from_fn(|| refusals.next()).collect();
        assert!(refusals.any());
        let in_ms: Vec<u128> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(in_ms, [0, 20, 40, 80, 160, 320, 500, 500, 500, 500]);
        assert!(pauses.iter().sum::<Duration>() <= PAUSES_MAX);
    }
}
