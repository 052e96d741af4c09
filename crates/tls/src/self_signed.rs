//! A certificate that a server makes for itself (`--auto-tls`): it hides what is said, and proves nothing.

use crate::certificate::Certificate;
use crate::{Error, KeyPair, files};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair as SigningKey, KeyUsagePurpose};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that goes a little wrong must not make a new certificate useless.
const BACKDATED: Duration = Duration::from_secs(300);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The pair in `dir` (`cert.pem`, `key.pem`), if it is there, is valid today and stands for all `hosts`; a new one else.
/// Made for `hosts`, valid for so many years.
///
/// # Errors
/// The directory cannot be written to, or the pair that is there cannot be read.
pub fn self_signed(dir: &Path, hosts: &[String], years: u32) -> Result<KeyPair, Error> {
    if years == 0 {
        return Err(Error::setting("a certificate must be valid for a year at least (--self-signed-cert-validity)"));
    }
    let pair = KeyPair { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if pair.cert.exists() && pair.key.exists() {
        let known = files::certificates(&pair.cert)?;
        let known = known.first().and_then(|der| Certificate::parse(der).ok());
        if known.is_some_and(|known| known.not_after > now() && hosts.iter().all(|host| known.is_for(host))) {
            return Ok(pair);
        }
    }
    make(dir, &pair, hosts, years)?;
    tracing::info!(
        certificate = %pair.cert.display(),
        years,
        "made a certificate that signs itself: what is said is encrypted, but nobody can tell who this server is"
    );
    Ok(pair)
}

fn make(dir: &Path, pair: &KeyPair, hosts: &[String], years: u32) -> Result<(), Error> {
    let failed = |error: rcgen::Error| Error::file(&pair.cert, format!("cannot make a certificate: {error}"));
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let today = SystemTime::now();
    params.not_before = (today - BACKDATED).into();
    params.not_after = (today + YEAR * years).into();
    let key = SigningKey::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    fs::create_dir_all(dir).map_err(|error| Error::file(dir, error))?;
    // The key first: a certificate without its key would be taken for a pair.
    write(&pair.key, 0o600, &key.serialize_pem())?;
    write(&pair.cert, 0o644, &certificate.pem())
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let attempt = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    attempt().map_err(|error| Error::file(path, error))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_anew_for_another_host() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("fixtures/client");
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let pair = self_signed(&dir, &hosts, 1).unwrap();
        let first = fs::read(&pair.cert).unwrap();
        assert_eq!(fs::metadata(&pair.key).unwrap().permissions().mode() & 0o777, 0o600);
        self_signed(&dir, &hosts[..1], 1).unwrap();
        assert_eq!(fs::read(&pair.cert).unwrap(), first, "it was good for that");
        self_signed(&dir, &["10.0.0.1".to_owned()], 2).unwrap();
        assert_ne!(fs::read(&pair.cert).unwrap(), first);
        let made = Certificate::parse(&files::certificates(&pair.cert).unwrap()[0]).unwrap();
        assert!(made.not_after > now() + 365 * 24 * 3600);
        assert!(self_signed(&dir, &hosts, 0).is_err());

        fs::write(&pair.cert, "nonsense").unwrap();
        let error = self_signed(&dir, &hosts, 1).unwrap_err().to_string();
        assert!(error.ends_with("cert.pem: there is no certificate in it (PEM)"), "{error}");
    }
}
