//! Signs and verifies by one algorithm of JSON Web Tokens (RFC 7518), with keys from files as etcd takes them: PEM with a private
//! key in PKCS#8, PKCS#1 or SEC1, a public key (SPKI) or a certificate; for HS* the bytes of the file. Knows bytes, no token.
//!
//! All of it is aws-lc-rs's; keys are parsed once.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair, VerificationAlgorithm,
};
use aws_lc_rs::{hmac, signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};

/// An algorithm.
#[derive(Debug)]
pub struct Algorithm {
    /// As in a token's header.
    pub name: &'static str,
    scheme: Scheme,
}

#[derive(Debug)]
enum Scheme {
    /// One secret signs and verifies.
    Secret(&'static hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ecdsa(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed25519,
}

static ALGORITHMS: [Algorithm; 13] = [
    Algorithm { name: "RS256", scheme: Scheme::Rsa(&RSA_PKCS1_SHA256, &RSA_PKCS1_2048_8192_SHA256) },
    Algorithm { name: "RS384", scheme: Scheme::Rsa(&RSA_PKCS1_SHA384, &RSA_PKCS1_2048_8192_SHA384) },
    Algorithm { name: "RS512", scheme: Scheme::Rsa(&RSA_PKCS1_SHA512, &RSA_PKCS1_2048_8192_SHA512) },
    Algorithm { name: "PS256", scheme: Scheme::Rsa(&RSA_PSS_SHA256, &RSA_PSS_2048_8192_SHA256) },
    Algorithm { name: "PS384", scheme: Scheme::Rsa(&RSA_PSS_SHA384, &RSA_PSS_2048_8192_SHA384) },
    Algorithm { name: "PS512", scheme: Scheme::Rsa(&RSA_PSS_SHA512, &RSA_PSS_2048_8192_SHA512) },
    Algorithm { name: "ES256", scheme: Scheme::Ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED) },
    Algorithm { name: "ES384", scheme: Scheme::Ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED) },
    Algorithm { name: "ES512", scheme: Scheme::Ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING, &ECDSA_P521_SHA512_FIXED) },
    Algorithm { name: "EdDSA", scheme: Scheme::Ed25519 },
    Algorithm { name: "HS256", scheme: Scheme::Secret(&hmac::HMAC_SHA256) },
    Algorithm { name: "HS384", scheme: Scheme::Secret(&hmac::HMAC_SHA384) },
    Algorithm { name: "HS512", scheme: Scheme::Secret(&hmac::HMAC_SHA512) },
];

impl PartialEq for Algorithm {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Algorithm {}

impl Algorithm {
    /// The one of a name.
    ///
    /// # Errors
    /// There is none; the text names them all.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        let names = || ALGORITHMS.iter().map(|algorithm| algorithm.name).collect::<Vec<_>>().join(", ");
        let found = ALGORITHMS.iter().find(|algorithm| algorithm.name == name);
        found.ok_or_else(|| format!("{name:?} is not one of {}", names()))
    }

    /// Whether one secret signs and verifies.
    pub const fn is_symmetric(&self) -> bool {
        matches!(self.scheme, Scheme::Secret(_))
    }

    /// Reads what signs. `None` if the file does not hold such a key.
    pub fn signer(&'static self, file: &[u8]) -> Option<Signer> {
        let pem = || PrivateKeyDer::from_pem_slice(file).ok();
        Some(match self.scheme {
            Scheme::Secret(algorithm) => Signer::Secret(Box::new(hmac::Key::new(*algorithm, file))),
            Scheme::Rsa(encoding, _) => {
                let key = match pem()? {
                    PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
                    PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
                    _ => return None,
                };
                Signer::Rsa(Box::new(key.ok()?), encoding)
            }
            Scheme::Ecdsa(algorithm, _) => {
                Signer::Ecdsa(EcdsaKeyPair::from_private_key_der(algorithm, pem()?.secret_der()).ok()?)
            }
            Scheme::Ed25519 => Signer::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem()?.secret_der()).ok()?),
        })
    }

    /// Reads what verifies. `None` if the file does not hold such a key.
    pub fn verifier(&'static self, file: &[u8]) -> Option<Verifier> {
        let algorithm: &'static dyn VerificationAlgorithm = match self.scheme {
            Scheme::Secret(algorithm) => return Some(Verifier::Secret(Box::new(hmac::Key::new(*algorithm, file)))),
            Scheme::Rsa(_, algorithm) | Scheme::Ecdsa(_, algorithm) => algorithm,
            Scheme::Ed25519 => &ED25519,
        };
        let key = match SubjectPublicKeyInfoDer::from_pem_slice(file) {
            Ok(key) => key,
            Err(_) => {
                let certificate = CertificateDer::from_pem_slice(file).ok()?;
                webpki::EndEntityCert::try_from(&certificate).ok()?.subject_public_key_info().into_owned()
            }
        };
        ParsedPublicKey::new(algorithm, key.as_ref()).ok().map(Verifier::Public)
    }

    /// What verifies the signatures of a signer.
    pub fn verifier_of(&'static self, signer: &Signer) -> Option<Verifier> {
        let public = |algorithm, key: &[u8]| ParsedPublicKey::new(algorithm, key).ok().map(Verifier::Public);
        match (&self.scheme, signer) {
            (Scheme::Secret(_), Signer::Secret(key)) => Some(Verifier::Secret(key.clone())),
            (Scheme::Rsa(_, algorithm), Signer::Rsa(key, _)) => public(*algorithm, key.public_key().as_ref()),
            (Scheme::Ecdsa(_, algorithm), Signer::Ecdsa(key)) => public(*algorithm, key.public_key().as_ref()),
            (Scheme::Ed25519, Signer::Ed25519(key)) => public(&ED25519, key.public_key().as_ref()),
            (Scheme::Secret(_) | Scheme::Rsa(..) | Scheme::Ecdsa(..) | Scheme::Ed25519, _) => None,
        }
    }
}

/// A key that signs.
pub enum Signer {
    /// A secret.
    Secret(Box<hmac::Key>),
    /// An RSA key, and how it is used.
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    /// A key on a curve.
    Ecdsa(EcdsaKeyPair),
    /// An Ed25519 key.
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    /// The signature of a message. `None` if the library fails.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ecdsa(key) => key.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec()),
            Self::Ed25519(key) => {
                let signature: signature::Signature = key.sign(message);
                Some(signature.as_ref().to_vec())
            }
        }
    }
}

/// A key that verifies.
pub enum Verifier {
    /// A secret.
    Secret(Box<hmac::Key>),
    /// A public key.
    Public(ParsedPublicKey),
}

impl Verifier {
    /// Whether it is the signature of the message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}
