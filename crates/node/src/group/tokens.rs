//! The tokens that prove names. Assigned by the log, so that every member knows every token; kept in memory, each with a
//! deadline that its use here moves on. Knows tokens by their digest only.

use parking_lot::Mutex;
use quorate_core::AuthState;
use quorate_core::auth::TokenId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A use moves the deadline on only if the last one that did is so long ago: most uses then only look.
const SLIDE_STEP: Duration = Duration::from_secs(1);

/// The tokens that this member knows.
pub(crate) struct Tokens {
    ttl: Duration,
    tokens_max: usize,
    table: Mutex<Table>,
    evicted: AtomicU64,
}

#[derive(Default)]
struct Table {
    tokens: HashMap<TokenId, Token>,
    /// By the time of the last use that counted.
    by_use: BTreeMap<(Duration, TokenId), ()>,
}

struct Token {
    user: Arc<str>,
    credentials_revision: u64,
    used: Duration,
}

impl Tokens {
    /// None yet. One that is not used for `ttl` ends; beyond `tokens_max`, the one that was not used for the longest time.
    pub(super) fn new(ttl: Duration, tokens_max: usize) -> Self {
        Self { ttl, tokens_max: tokens_max.max(1), table: Mutex::default(), evicted: AtomicU64::new(0) }
    }

    /// Takes a token in.
    pub(super) fn assign(&self, now: Duration, id: TokenId, user: &str, credentials_revision: u64) {
        let mut table = self.table.lock();
        table.drop_unused_since(now.saturating_sub(self.ttl));
        table.insert(id, Token { user: user.into(), credentials_revision, used: now });
        while table.tokens.len() > self.tokens_max {
            if self.evicted.fetch_add(1, Relaxed) == 0 {
                tracing::warn!(
                    max = self.tokens_max,
                    "too many tokens: the least used ones end early; see --max-auth-tokens"
                );
            }
            table.drop_least_used();
        }
    }

    /// The user whom a token names, and moves its deadline on. A token ends with the password that it was given for.
    pub(crate) fn user(&self, now: Duration, id: &TokenId, auth: &AuthState) -> Option<Arc<str>> {
        let mut table = self.table.lock();
        let token = table.tokens.get(id)?;
        let (user, used) = (token.user.clone(), token.used);
        let known = auth.users().get(&*user).is_some_and(|u| u.credentials_revision == token.credentials_revision);
        if !known || used + self.ttl <= now {
            table.remove(id);
            return None;
        }
        if now >= used + SLIDE_STEP.min(self.ttl / 8) {
            table.touch(id, now);
        }
        Some(user)
    }

    /// Ends all of them.
    pub(super) fn clear(&self) {
        *self.table.lock() = Table::default();
    }

    /// How many there are; some may have ended without anybody having looked.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().tokens.len()
    }

    /// How many ended before their time because there were too many.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

impl Table {
    fn insert(&mut self, id: TokenId, token: Token) {
        self.remove(&id);
        self.by_use.insert((token.used, id), ());
        self.tokens.insert(id, token);
    }

    fn remove(&mut self, id: &TokenId) {
        if let Some(token) = self.tokens.remove(id) {
            self.by_use.remove(&(token.used, *id));
        }
    }

    fn touch(&mut self, id: &TokenId, now: Duration) {
        if let Some(token) = self.tokens.get_mut(id) {
            self.by_use.remove(&(token.used, *id));
            token.used = now;
            self.by_use.insert((now, *id), ());
        }
    }

    fn drop_least_used(&mut self) {
        if let Some(((_, id), ())) = self.by_use.pop_first() {
            self.tokens.remove(&id);
        }
    }

    fn drop_unused_since(&mut self, time: Duration) {
        while self.by_use.first_key_value().is_some_and(|((used, _), ())| *used < time) {
            self.drop_least_used();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::SystemChange;
    use quorate_core::auth::User;

    const TTL: Duration = Duration::from_secs(300);

    fn auth(credentials_revision: u64) -> AuthState {
        let mut auth = AuthState::default();
        let user = User { password: None, roles: Default::default(), credentials_revision };
        auth.follow(&SystemChange::UserSet("ann".into(), user));
        auth
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn use_moves_the_deadline_on() {
        let (tokens, auth) = (Tokens::new(TTL, 10), auth(2));
        let id = TokenId([1; 32]);
        tokens.assign(seconds(0), id, "ann", 2);
        assert_eq!(tokens.user(seconds(299), &id, &auth).as_deref(), Some("ann"));
        assert_eq!(tokens.user(seconds(598), &id, &auth).as_deref(), Some("ann"));
        assert_eq!(tokens.user(seconds(898), &id, &auth), None);
        assert_eq!(tokens.len(), 0);
    }

    #[test]
    fn a_token_ends_with_its_password_and_with_its_user() {
        let tokens = Tokens::new(TTL, 10);
        let id = TokenId([1; 32]);
        tokens.assign(seconds(0), id, "ann", 2);
        assert_eq!(tokens.user(seconds(1), &id, &auth(3)), None);
        tokens.assign(seconds(0), id, "ann", 2);
        assert_eq!(tokens.user(seconds(1), &id, &AuthState::default()), None);
        tokens.assign(seconds(0), id, "ann", 2);
        tokens.clear();
        assert_eq!(tokens.user(seconds(1), &id, &auth(2)), None);
    }

    #[test]
    fn beyond_the_bound_the_least_used_one_ends() {
        let (tokens, auth) = (Tokens::new(TTL, 2), auth(2));
        let ids = [1, 2, 3].map(|n| TokenId([n; 32]));
        tokens.assign(seconds(0), ids[0], "ann", 2);
        tokens.assign(seconds(1), ids[1], "ann", 2);
        assert!(tokens.user(seconds(10), &ids[0], &auth).is_some());
        tokens.assign(seconds(11), ids[2], "ann", 2);
        assert_eq!(ids.map(|id| tokens.user(seconds(12), &id, &auth).is_some()), [true, false, true]);
        assert_eq!((tokens.len(), tokens.evicted()), (2, 1));
        // What has ended makes room without anything being dropped early.
        tokens.assign(seconds(400), ids[1], "ann", 2);
        assert_eq!((tokens.len(), tokens.evicted()), (1, 1));
    }
}
