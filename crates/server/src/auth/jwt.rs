//! JSON Web Tokens (RFC 7519): signed by one algorithm, and read by that one alone, whatever a token says of itself.
//!
//! Claims are etcd's: `username`, `revision` (of users and roles when it was signed) and `exp`. Nothing is kept of a token, so
//! none can be taken back; but it counts no more than a name that was proven at its revision: for keys not after any change
//! of users and roles, for nothing after a change of the user's password.

use super::signature::{Algorithm, Signer, Verifier};
use crate::StartError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use quorate_core::Caller;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Status;

/// How long a token lives, if it is not said.
const TTL_DEFAULT: Duration = Duration::from_secs(300);

/// What `--auth-token=jwt,...` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The one algorithm.
    pub algorithm: &'static Algorithm,
    /// Who has only this one reads tokens and gives none. It may be missing beside the private key, which has it in it; for HS*
    /// there is none.
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
                "sign-method" => {
                    algorithm = Some(Algorithm::find(value).map_err(|error| format!("sign-method: {error}"))?)
                }
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
        if private_key.is_none() && (algorithm.is_symmetric() || public_key.is_none()) {
            let missing = if algorithm.is_symmetric() { "priv-key" } else { "pub-key and priv-key" };
            return Err(format!("{missing}: a file with a key is missing"));
        }
        Ok(Self { algorithm, public_key, private_key, ttl })
    }
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: &'a str,
    typ: Option<&'a str>,
    /// Extensions that whoever reads the token must know. None is known here.
    #[serde(skip_serializing)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    /// Seconds since 1970, as all times here. (The RFC allows fractions.)
    exp: f64,
    /// Not before.
    nbf: Option<f64>,
}

/// Signs and reads tokens.
pub struct Jwt {
    algorithm: &'static Algorithm,
    /// What every token begins with that is signed here: its header, and a dot.
    prefix: String,
    signer: Option<Signer>,
    verifier: Verifier,
    ttl: Duration,
}

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// A file that cannot be read, or whose key does not fit the algorithm; keys that do not belong together.
    pub fn load(options: &JwtOptions) -> Result<Self, StartError> {
        let algorithm = options.algorithm;
        let unfit = |path: &Path, kind: &str| {
            let (path, name) = (path.display(), algorithm.name);
            StartError::config(format!("--auth-token: {path} does not hold a {kind} key for {name} in PEM"))
        };
        let signer = match &options.private_key {
            Some(path) => Some(algorithm.signer(&read(path)?).ok_or_else(|| unfit(path, "private"))?),
            None => None,
        };
        let public = options.public_key.as_deref().filter(|_| !algorithm.is_symmetric());
        let verifier = match public {
            Some(path) => Some(algorithm.verifier(&read(path)?).ok_or_else(|| unfit(path, "public"))?),
            None => signer.as_ref().and_then(|signer| algorithm.verifier_of(signer)),
        };
        let verifier =
            verifier.ok_or_else(|| StartError::config("--auth-token: the key that reads tokens is missing"))?;
        let header = Header { alg: algorithm.name, typ: Some("JWT"), crit: None };
        let prefix = format!("{}.", encode(&header).map_err(|error| StartError::config(error.to_string()))?);
        let jwt = Self { algorithm, prefix, signer, verifier, ttl: options.ttl };
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
        let Some(signer) = &self.signer else {
            return Err(Status::unknown("auth: token signing attempted with verify-only key"));
        };
        let exp = (now() + self.ttl).as_secs();
        let claims = serde_json::json!({ "exp": exp, "revision": revision, "username": user });
        let claims = encode(&claims).map_err(|error| Status::internal(error.to_string()))?;
        let signed = format!("{}{claims}", self.prefix);
        let signature = signer.sign(signed.as_bytes()).ok_or_else(|| Status::internal("auth: signing failed"))?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// Whom a token names; `None` if it does not hold.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header_json = BASE64.decode(header).ok()?;
        let header: Header<'_> = serde_json::from_slice(&header_json).ok()?;
        if header.alg != self.algorithm.name || header.crit.is_some() {
            return None;
        }
        if !self.verifier.verify(signed.as_bytes(), &BASE64.decode(signature).ok()?) {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        let now = now().as_secs_f64();
        // Written so that what is no number is no time in which it holds.
        let holds = claims.exp > now && claims.nbf.is_none_or(|start| start <= now);
        holds.then(|| Caller::User { name: claims.username.into(), auth_revision: claims.revision })
    }
}

fn encode(json: &impl Serialize) -> serde_json::Result<String> {
    Ok(BASE64.encode(serde_json::to_vec(json)?))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path)
        .map_err(|error| StartError::config(format!("--auth-token: cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
        PKCS_ED25519, PKCS_RSA_SHA256,
    };

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
            (KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512), &["ES512"]),
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
                // The private key alone does as well, and so does the key in a certificate.
                let alone = parse(&format!("priv-key={},sign-method={method}", private.display())).unwrap();
                assert_eq!(Jwt::load(&alone).unwrap().caller(&token), caller("ann", 7), "{method}");
                let certificate = dir.path().join("certificate");
                let signed = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
                std::fs::write(&certificate, signed.pem()).unwrap();
                let shown = parse(&format!("pub-key={},sign-method={method}", certificate.display())).unwrap();
                assert_eq!(Jwt::load(&shown).unwrap().caller(&token), caller("ann", 7), "{method}");
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
            ("sign-method=RS256", "pub-key and priv-key: a file with a key is missing"),
            ("sign-method=HS256,pub-key=a", "priv-key: a file with a key is missing"),
            ("sign-method=none,pub-key=a", "is not one of RS256"),
            ("sign-method=RS256,pub-key=a,ttl=0s", "is not a duration"),
            ("sign-method=RS256,pub-key=a,colour=red", "is not one of pub-key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (one, other) = (key("one", one.serialize_pem()), key("other", other.public_key_pem()));
        for (text, expected) in [
            (format!("sign-method=ES256,priv-key={one},pub-key={other}"), "do not belong together"),
            (format!("sign-method=ES512,priv-key={one}"), "does not hold a private key for ES512"),
            (format!("sign-method=EdDSA,pub-key={other}"), "does not hold a public key for EdDSA"),
            (format!("sign-method=ES256,pub-key={one}"), "does not hold a public key for ES256"),
        ] {
            let error = Jwt::load(&parse(&text).unwrap()).err().unwrap().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let missing = parse("pub-key=/nowhere/a,sign-method=RS256").unwrap();
        assert!(Jwt::load(&missing).err().unwrap().to_string().contains("/nowhere/a"));
    }
}
