//! Hashing and verifying passwords: slow by intent, so on threads of its own, a few at a time, with a bound on how many wait.
//!
//! New passwords are hashed by argon2id with the parameters that OWASP names first (19 MiB, two passes). Hashes that were
//! imported may be bcrypt's. Whether a user exists cannot be told from how long it takes.

use crate::limits::{Gauge, Limit};
use crate::status::status;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, PasswordHash as Argon2Hash};
use base64::Engine;
use quorate_core::auth::PasswordHash;
use quorate_node::Error;
use quorate_node::env::Env;
use rand::RngCore;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

/// More at a time would take the cores away from everything else, and 19 MiB of memory each.
const THREADS_MAX: usize = 4;

/// Costs of an imported bcrypt hash: more would hold a thread for minutes.
const BCRYPT_COST_MAX: u32 = 16;

/// What a password is verified against if there is no user: a hash as new ones are, in which salt and result are numbers by chance.
/// No password is known that has it, and whoever knew one would gain nothing. Made once and for all, since hashing is what is slow.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$xoZ5ORHT14UWMn1XxG+4QQ$+tM8UigK5gbMenhv86dchaqgqgNuFS0wxMO97NeT4v8";

/// Hashes and verifies.
pub struct Passwords {
    env: Arc<dyn Env>,
    threads: Arc<Semaphore>,
    queue: Gauge,
}

impl Passwords {
    /// `queue_max` may be under way or wait.
    pub fn new(queue_max: usize, env: Arc<dyn Env>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = Arc::new(Semaphore::new(cores.min(THREADS_MAX)));
        Self { env, threads, queue: Gauge::new(queue_max) }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// Too many requests.
    pub async fn hash(&self, password: String) -> Result<PasswordHash, Status> {
        self.work(move || hash(&password)).await?.map_err(Status::internal)
    }

    /// Whether the password is the one of `hash`. Takes as long without a hash, and never is then.
    ///
    /// # Errors
    /// Too many requests.
    pub async fn verify(&self, hash: Option<PasswordHash>, password: String) -> Result<bool, Status> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| PasswordHash::new(NOBODY));
        let right = self.work(move || verify(&hash, &password)).await?;
        Ok(right && known)
    }

    /// How many are under way or wait.
    pub fn queued(&self) -> usize {
        self.queue.used()
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let Some(_place) = Gauge::take(&self.queue, 1) else { return Err(Limit::LoginQueue.refusal()) };
        let stopped = || status(&Error::Stopped);
        let permit = self.threads.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (done, outcome) = oneshot::channel();
        let task = async move {
            // Held by the work and not by who waits for it: a client that leaves does not make room for one more thread.
            let _permit = permit;
            // Whoever asked may have left.
            let _ = done.send(work());
        };
        self.env.spawn_dedicated("quorate-login", Box::pin(task));
        outcome.await.map_err(|_| stopped())
    }
}

fn hash(password: &str) -> Result<PasswordHash, String> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(|error| error.to_string())?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|error| error.to_string())?;
    Ok(PasswordHash::new(&hash.to_string()))
}

fn verify(hash: &PasswordHash, password: &str) -> bool {
    let text = hash.expose();
    if is_bcrypt(text) {
        // An error is a hash that is damaged: nobody has its password.
        return bcrypt::verify(password, text).unwrap_or(false);
    }
    Argon2Hash::new(text).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

fn is_bcrypt(hash: &str) -> bool {
    hash.starts_with("$2")
}

/// A hash that the client brings instead of a password: base64 of bcrypt's text, as etcd's own members send it.
///
/// # Errors
/// It is not that, or its cost is beyond 16.
pub fn imported(base64_text: &str) -> Result<PasswordHash, Status> {
    let bad =
        || Status::invalid_argument("etcdserver: hashedPassword is not the base64 of a bcrypt hash of cost 4 to 16");
    let text = base64::engine::general_purpose::STANDARD.decode(base64_text).map_err(|_| bad())?;
    let text = String::from_utf8(text).map_err(|_| bad())?;
    let parts: bcrypt::HashParts = text.parse().map_err(|_| bad())?;
    if is_bcrypt(&text) && (4..=BCRYPT_COST_MAX).contains(&parts.get_cost()) {
        Ok(PasswordHash::new(&text))
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_node::env::OsEnv;

    fn passwords(queue_max: usize) -> Passwords {
        Passwords::new(queue_max, Arc::new(OsEnv::new()))
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_user_that_exists_is_right() {
        let passwords = passwords(8);
        let hash = passwords.hash("pass".into()).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        assert_ne!(hash, passwords.hash("pass".into()).await.unwrap(), "each hash has a salt of its own");
        assert!(passwords.verify(Some(hash.clone()), "pass".into()).await.unwrap());
        assert!(!passwords.verify(Some(hash), "Pass".into()).await.unwrap());
        assert!(!passwords.verify(None, "pass".into()).await.unwrap());
        assert!(!passwords.verify(Some(PasswordHash::new("nonsense")), "nonsense".into()).await.unwrap());
    }

    #[tokio::test]
    async fn verifying_a_password_of_nobody_does_all_that_it_does_for_a_user() {
        let new = passwords(8).hash("pass".into()).await.unwrap();
        let (new, nobody) = (Argon2Hash::new(new.expose()).unwrap(), Argon2Hash::new(NOBODY).unwrap());
        let costs = |hash: &Argon2Hash<'_>| {
            let (salt, output) = (hash.salt.unwrap().len(), hash.hash.unwrap().len());
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), salt, output)
        };
        assert_eq!(costs(&nobody), costs(&new));
        // It is compared with what was computed, and not refused before: a shape that cannot be verified is another error.
        let refused = Argon2::default().verify_password(b"pass", &nobody);
        assert_eq!(refused, Err(argon2::password_hash::Error::Password));
    }

    #[tokio::test]
    async fn bcrypt_hashes_can_be_imported() {
        let text = bcrypt::hash("pass", 4).unwrap();
        let base64_text = base64::engine::general_purpose::STANDARD.encode(&text);
        let passwords = passwords(8);
        let hash = imported(&base64_text).unwrap();
        assert!(passwords.verify(Some(hash.clone()), "pass".into()).await.unwrap());
        assert!(!passwords.verify(Some(hash), "other".into()).await.unwrap());
        let costly = base64::engine::general_purpose::STANDARD.encode(text.replacen("$04$", "$31$", 1));
        for bad in [text.as_str(), "", "cGFzcw==", &costly] {
            assert_eq!(imported(bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad}");
        }
    }

    #[tokio::test]
    async fn beyond_the_bound_requests_are_refused() {
        let passwords = passwords(0);
        assert_eq!(passwords.hash("pass".into()).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert_eq!(passwords.queued(), 0);
    }
}
