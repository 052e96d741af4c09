//! Tokens: given for a password, and shown with each request after.
//!
//! *simple*: sixteen random letters, and where in the log the token was assigned, so that a member that is behind knows what
//! to wait for. The members know the token by the digest of its letters. *jwt*: signed, known by its signature alone.

use super::jwt::{Jwt, JwtOptions};
use crate::StartError;
use crate::status::{rejected, status};
use quorate_core::auth::TokenId;
use quorate_core::{AuthState, Caller, LogIndex, Rejection};
use quorate_node::{Error, Header, Node};
use rand::Rng;
use sha2::{Digest, Sha256};
use tonic::Status;

/// Letters of a simple token's secret part: 91 bits of chance.
const SECRET_LETTERS: usize = 16;

/// Which kind of token is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// etcd's own.
    Simple,
    /// JSON Web Tokens.
    Jwt(JwtOptions),
}

/// Gives and reads tokens.
pub enum Tokens {
    /// etcd's own.
    Simple,
    /// JSON Web Tokens.
    Jwt(Box<Jwt>),
}

impl Tokens {
    /// Reads the keys, if there are any.
    ///
    /// # Errors
    /// A key that cannot be read or does not fit its method.
    pub fn load(kind: &TokenKind) -> Result<Self, StartError> {
        match kind {
            TokenKind::Simple => Ok(Self::Simple),
            TokenKind::Jwt(options) => Ok(Self::Jwt(Box::new(Jwt::load(options)?))),
        }
    }

    /// Gives a token to a user whose password was verified against `auth`. The header is for the answer.
    ///
    /// # Errors
    /// A key that only reads. Inside: [`Rejection::AuthOldRevision`] if the password has changed meanwhile; no leader in time.
    pub async fn give(
        &self,
        node: &Node,
        user: &str,
        auth: &AuthState,
    ) -> Result<Result<(Header, String), Error>, Status> {
        let Some(found) = auth.users().get(user) else { return Ok(Err(Error::Rejected(Rejection::AuthFailed))) };
        match self {
            Self::Simple => {
                let secret = secret();
                let answer = node.token_assign(user, token_id(&secret), found.credentials_revision).await;
                Ok(answer.map(|answer| (answer.header, format!("{secret}.{}", answer.body))))
            }
            Self::Jwt(jwt) => Ok(Ok((node.header(), jwt.sign(user, auth.revision())?))),
        }
    }

    /// Whom a token names.
    ///
    /// # Errors
    /// [`Rejection::InvalidAuthToken`]; no leader in time.
    pub async fn caller(&self, node: &Node, token: &str) -> Result<Caller, Status> {
        let invalid = || rejected(Rejection::InvalidAuthToken);
        match self {
            Self::Simple => {
                let (secret, index) = token.split_once('.').ok_or_else(invalid)?;
                let index = index.parse().map_err(|_| invalid())?;
                node.token_caller(&token_id(secret), LogIndex::new(index)).await.map_err(|error| status(&error))
            }
            Self::Jwt(jwt) => jwt.caller(token).ok_or_else(invalid),
        }
    }
}

fn secret() -> String {
    let mut random = rand::rng();
    (0..SECRET_LETTERS).map(|_| letter(random.random_range(0..52))).collect()
}

/// One of `a` to `z` and `A` to `Z`.
fn letter(number: u8) -> char {
    char::from(if number < 26 { b'a' + number } else { b'A' + number - 26 })
}

fn token_id(secret: &str) -> TokenId {
    TokenId(Sha256::digest(secret).into())
}
