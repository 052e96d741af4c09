//! Who a client is: from a token in its request's headers, or else from its certificate. What they may do is not decided
//! here but in [`quorate_core::auth`], where it is done.

mod jwt;
mod passwords;
mod signature;
mod tokens;

use crate::connection::Connection;
use crate::shared::Shared;
use crate::status::rejected;
use http::{HeaderMap, HeaderValue};
pub use jwt::JwtOptions;
pub use passwords::{Passwords, imported};
use quorate_core::{Caller, Rejection};
use std::sync::Arc;
pub use tokens::{TokenKind, Tokens};
use tonic::Status;

/// What a client shows of itself. Not looked at yet.
#[derive(Clone)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A token.
    Token(HeaderValue),
    /// The common name of a certificate that was verified.
    CommonName(Arc<str>),
}

impl Credentials {
    /// Finds them, as etcd does: `token`, else `authorization`, else the certificate. A request through the JSON gateway is
    /// the gateway's own: the certificate says nothing about who sent it.
    pub fn of(headers: &HeaderMap, connection: Option<&Connection>) -> Self {
        if let Some(token) = headers.get("token").or_else(|| headers.get(http::header::AUTHORIZATION)) {
            return Self::Token(token.clone());
        }
        match connection.and_then(|connection| connection.common_name.as_ref()) {
            Some(name) if !headers.contains_key("grpcgateway-accept") => Self::CommonName(name.clone()),
            Some(_) | None => Self::None,
        }
    }
}

/// Who the client is. While authentication is off, nobody is asked.
///
/// # Errors
/// A token that does not hold (any more); no leader to ask about a token that is newer than what is applied here.
pub async fn prove(shared: &Shared, credentials: &Credentials) -> Result<Caller, Status> {
    let auth = shared.system.auth();
    if !auth.enabled() {
        return Ok(Caller::Anonymous);
    }
    match credentials {
        Credentials::None => Ok(Caller::Anonymous),
        Credentials::CommonName(name) => Ok(auth.proven(name)),
        Credentials::Token(token) => {
            let token = token.to_str().map_err(|_| rejected(Rejection::InvalidAuthToken))?;
            let outcome = shared.tokens.caller(&shared.system, token.strip_prefix("Bearer ").unwrap_or(token)).await;
            if outcome.is_err() {
                shared.metrics.tokens_refused.increment();
            }
            outcome
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Remote;

    fn shown(headers: &[(&'static str, &'static str)], common_name: Option<&str>) -> String {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let connection = Connection { remote: Remote::Unix, encrypted: true, common_name: common_name.map(Into::into) };
        match Credentials::of(&headers, Some(&connection)) {
            Credentials::None => "nothing".into(),
            Credentials::Token(token) => format!("token {}", token.to_str().unwrap()),
            Credentials::CommonName(name) => format!("name {name}"),
        }
    }

    #[test]
    fn a_token_comes_before_the_certificate_which_does_not_count_through_the_gateway() {
        assert_eq!(shown(&[], None), "nothing");
        assert_eq!(shown(&[], Some("ann")), "name ann");
        assert_eq!(shown(&[("authorization", "b.2"), ("token", "a.1")], Some("ann")), "token a.1");
        assert_eq!(shown(&[("authorization", "b.2")], None), "token b.2");
        assert_eq!(shown(&[("grpcgateway-accept", "application/json")], Some("ann")), "nothing");
        assert_eq!(shown(&[("grpcgateway-accept", "x"), ("authorization", "b.2")], Some("ann")), "token b.2");
    }
}
