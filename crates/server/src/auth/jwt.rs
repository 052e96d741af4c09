//! JSON Web Tokens: signed by one algorithm, and read by that one alone, whatever a token says of itself.
//!
//! Claims are etcd's: `username`, `revision` (of users and roles when it was signed) and `exp`. Nothing is kept of a token, so
//! none can be taken back; but it counts no more than a name that was proven at its revision: for keys not after any change
//! of users and roles, for nothing after a change of the user's password.

use crate::StartError;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp};
use quorate_core::Caller;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// How long a token lives, if it is not said.
const TTL_DEFAULT: Duration = Duration::from_secs(300);

/// What `--auth-token=jwt,...` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The one algorithm.
    pub algorithm: Algorithm,
    /// Who has only this one reads tokens and gives none. (Not for HS*: there the private key does both.)
    pub public_key: Option<PathBuf>,
    /// Signs.
    pub private_key: Option<PathBuf>,
    /// How long a token lives.
    pub ttl: Duration,
}

impl JwtOptions {
    /// Reads etcd's notation: `pub-key=FILE,priv-key=FILE,sign-method=RS256,ttl=5m`.
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn parse(text: &str, parse_duration: impl Fn(&str) -> Option<Duration>) -> Result<Self, String> {
        let (mut algorithm, mut public_key, mut private_key, mut ttl) = (None, None, None, TTL_DEFAULT);
        for option in text.split(',') {
            let (name, value) = option.split_once('=').ok_or_else(|| format!("{option:?} is not name=value"))?;
            match name {
                "sign-method" => algorithm = Some(parse_algorithm(value)?),
                "pub-key" => public_key = Some(PathBuf::from(value)),
                "priv-key" => private_key = Some(PathBuf::from(value)),
                "ttl" => {
                    ttl = parse_duration(value)
                        .filter(|ttl| !ttl.is_zero())
                        .ok_or_else(|| format!("ttl: {value:?} is not a duration such as 5m"))?;
                }
                _ => return Err(format!("{name:?} is not one of pub-key, priv-key, sign-method, ttl")),
            }
        }
        let algorithm = algorithm.ok_or("sign-method is missing")?;
        if is_symmetric(algorithm) {
            if private_key.is_none() {
                return Err("priv-key is missing: the file with the secret".into());
            }
        } else if public_key.is_none() {
            return Err("pub-key is missing: the file with the public key in PEM".into());
        }
        Ok(Self { algorithm, public_key, private_key, ttl })
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, String> {
    if name == "ES512" {
        return Err("sign-method: ES512 is not there; use ES256, ES384 or EdDSA".into());
    }
    name.parse().map_err(|_| {
        format!("sign-method: {name:?} is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512")
    })
}

const fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: u64,
}

/// Signs and reads tokens.
pub struct Jwt {
    header: Header,
    validation: Validation,
    signs: Option<EncodingKey>,
    reads: DecodingKey,
    ttl: Duration,
}

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// A file that cannot be read, or whose key does not fit the algorithm.
    pub fn load(options: &JwtOptions) -> Result<Self, StartError> {
        let algorithm = options.algorithm;
        let private =
            options.private_key.as_deref().map(|path| Ok::<_, StartError>((path, read(path)?))).transpose()?;
        let public = options.public_key.as_deref().map(|path| Ok::<_, StartError>((path, read(path)?))).transpose()?;
        let unfit = |path: &Path| {
            StartError::config(format!(
                "--auth-token: {} does not hold a key for {algorithm:?} in PEM (a private EC or Ed25519 key in PKCS#8: \
                 `openssl pkcs8 -topk8 -nocrypt`)",
                path.display()
            ))
        };
        let signs = match &private {
            Some((path, key)) => Some(encoding_key(algorithm, key).ok_or_else(|| unfit(path))?),
            None => None,
        };
        let (path, key) = if is_symmetric(algorithm) { &private } else { &public }
            .as_ref()
            .ok_or_else(|| StartError::config("--auth-token: the key that reads tokens is missing"))?;
        let reads = decoding_key(algorithm, key).ok_or_else(|| unfit(path))?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.validate_aud = false;
        let jwt = Self { header: Header::new(algorithm), validation, signs, reads, ttl: options.ttl };
        // Keys that do not belong together would give tokens that nobody can read.
        match jwt.sign("", 1) {
            Ok(token) if jwt.caller(&token).is_none() => {
                Err(StartError::config("--auth-token: pub-key and priv-key do not belong together"))
            }
            Ok(_) | Err(_) => Ok(jwt),
        }
    }

    /// A token for a user whose name is proven as of `revision`.
    ///
    /// # Errors
    /// There is no key that signs; the text is etcd's.
    pub fn sign(&self, user: &str, revision: u64) -> Result<String, Status> {
        let Some(key) = &self.signs else {
            return Err(Status::unknown("auth: token signing attempted with verify-only key"));
        };
        let claims = Claims { username: user.to_owned(), revision, exp: get_current_timestamp() + self.ttl.as_secs() };
        jsonwebtoken::encode(&self.header, &claims, key).map_err(|error| Status::internal(error.to_string()))
    }

    /// Whom a token names; `None` if it does not hold.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.reads, &self.validation).ok()?.claims;
        Some(Caller::User { name: claims.username.into(), auth_revision: claims.revision })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path)
        .map_err(|error| StartError::config(format!("--auth-token: cannot read {}: {error}", path.display())))
}

fn encoding_key(algorithm: Algorithm, key: &[u8]) -> Option<EncodingKey> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Some(EncodingKey::from_secret(key)),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => EncodingKey::from_rsa_pem(key).ok(),
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(key).ok(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key).ok(),
        // The library may come to know more.
        _ => None,
    }
}

fn decoding_key(algorithm: Algorithm, key: &[u8]) -> Option<DecodingKey> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Some(DecodingKey::from_secret(key)),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => DecodingKey::from_rsa_pem(key).ok(),
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(key).ok(),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(key).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

    fn parse(text: &str) -> Result<JwtOptions, String> {
        JwtOptions::parse(text, |text| text.strip_suffix('s')?.parse().ok().map(Duration::from_secs))
    }

    fn caller(name: &str, auth_revision: u64) -> Option<Caller> {
        Some(Caller::User { name: name.into(), auth_revision })
    }

    #[test]
    fn tokens_are_signed_and_read_in_every_algorithm_and_in_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut readers = Vec::new();
        for (key, methods) in [
            (KeyPair::generate_for(&PKCS_RSA_SHA256), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
            (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256), &["ES256"]),
            (KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384), &["ES384"]),
            (KeyPair::generate_for(&PKCS_ED25519), &["EdDSA"]),
        ] {
            let key = key.unwrap();
            let (public, private) = (dir.path().join("public"), dir.path().join("private"));
            std::fs::write(&public, key.public_key_pem()).unwrap();
            std::fs::write(&private, key.serialize_pem()).unwrap();
            for method in methods {
                let files = format!("pub-key={},priv-key={}", public.display(), private.display());
                let jwt = Jwt::load(&parse(&format!("{files},sign-method={method},ttl=60s")).unwrap()).unwrap();
                let reader = parse(&format!("pub-key={},sign-method={method}", public.display())).unwrap();
                let reader = Jwt::load(&reader).unwrap();
                let token = jwt.sign("ann", 7).unwrap();
                assert_eq!(reader.caller(&token), caller("ann", 7), "{method}");
                assert!(reader.sign("ann", 7).unwrap_err().message().contains("verify-only"));
                // What was signed in another way is not read, though the key may be the same.
                assert!(readers.iter().all(|other: &Jwt| other.caller(&token).is_none()), "{method}");
                readers.push(reader);
            }
        }
    }

    #[test]
    fn a_token_that_is_old_or_altered_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "a secret that nobody guesses, and long enough").unwrap();
        let options = parse(&format!("priv-key={},sign-method=HS384", secret.display())).unwrap();
        let mut jwt = Jwt::load(&options).unwrap();
        let token = jwt.sign("ann", 7).unwrap();
        assert_eq!(jwt.caller(&token), caller("ann", 7));
        let [head, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let other = jwt.sign("root", 7).unwrap();
        let others = other.split('.').nth(1).unwrap();
        for bad in [format!("{head}.{others}.{signature}"), format!("{head}.{claims}."), "x".into(), String::new()] {
            assert_eq!(jwt.caller(&bad), None, "{bad}");
        }
        // It ends with the second in which it ends.
        jwt.ttl = Duration::ZERO;
        let ended = jwt.sign("ann", 7).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(jwt.caller(&ended), None);
    }

    #[test]
    fn options_are_etcds_and_what_is_wrong_is_said() {
        assert_eq!(parse("pub-key=a,sign-method=ES256").unwrap().ttl, TTL_DEFAULT);
        for (text, expected) in [
            ("", "is not name=value"),
            ("pub-key=a", "sign-method is missing"),
            ("sign-method=RS256,priv-key=a", "pub-key is missing"),
            ("sign-method=HS256,pub-key=a", "priv-key is missing"),
            ("sign-method=none,pub-key=a", "is not one of RS256"),
            ("sign-method=ES512,pub-key=a", "ES512 is not there"),
            ("sign-method=RS256,pub-key=a,ttl=0s", "is not a duration"),
            ("sign-method=RS256,pub-key=a,colour=red", "is not one of pub-key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let missing = parse("pub-key=/nowhere/a,sign-method=RS256").unwrap();
        assert!(Jwt::load(&missing).err().unwrap().to_string().contains("/nowhere/a"));
    }
}
