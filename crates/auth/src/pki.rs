//! The cluster's certificate authority and keys, on disk with owner-only modes.
//!
//! Everything is ECDSA P-256. A certificate that ends within [`RENEW_BEFORE_DAYS`] is made anew when it is opened.

use base::clock::SharedClock;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::rand::SecureRandom as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
const RENEW_BEFORE_DAYS: i64 = 30;
/// Certificates are valid from a little before now, for clocks that are behind.
const BACKDATE_MINUTES: i64 = 5;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what}: {why}")]
    Crypto { what: &'static str, why: String },
}

fn crypto<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> PkiError {
    move |e| PkiError::Crypto { what, why: e.to_string() }
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Leaf {
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(crypto("read a certificate"))
    }

    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(crypto("read a private key"))
    }
}

/// The cluster's keys.
pub struct Pki {
    dir: PathBuf,
    clock: SharedClock,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens or makes the authority in a directory.
    pub fn open(dir: &Path, clock: SharedClock) -> Result<Self, PkiError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| PkiError::Io {
            what: "create",
            path: dir.into(),
            source,
        })?;
        let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !(cert.exists() && key.exists()) {
            let pair = new_key()?;
            let made = ca_params(clock.now())?.self_signed(&pair).map_err(crypto("make the cluster's CA"))?;
            write(&key, &pair.serialize_pem())?;
            write(&cert, &made.pem())?;
        }
        let ca_pem = read(&cert)?;
        let pair = KeyPair::from_pem(&read(&key)?).map_err(crypto("read ca.key"))?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair).map_err(crypto("read ca.crt"))?;
        Ok(Self { dir: dir.into(), clock, ca_pem, issuer })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn ca_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(crypto("read ca.crt"))
    }

    /// A serving certificate; found on disk when it still has these names and time left.
    pub fn server(&self, file: &str, common_name: &str, names: &[String]) -> Result<Leaf, PkiError> {
        let names_file = self.dir.join(format!("{file}.names"));
        let wanted = names.join("\n");
        let same = fs::read_to_string(&names_file).is_ok_and(|n| n == wanted);
        if let Some(leaf) = self.stored(file).filter(|_| same) {
            return Ok(leaf);
        }
        let mut params = leaf_params(common_name, &[], self.clock.now());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => {
                    SanType::DnsName(name.as_str().try_into().map_err(crypto("use a name in a certificate"))?)
                }
            });
        }
        let leaf = self.sign(params)?;
        self.store(file, &leaf)?;
        write(&names_file, &wanted)?;
        Ok(leaf)
    }

    /// A client certificate of a user with groups.
    pub fn client(&self, file: &str, user: &str, groups: &[&str]) -> Result<Leaf, PkiError> {
        if let Some(leaf) = self.stored(file) {
            return Ok(leaf);
        }
        let mut params = leaf_params(user, groups, self.clock.now());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = self.sign(params)?;
        self.store(file, &leaf)?;
        Ok(leaf)
    }

    /// The key that signs service account tokens, PKCS#8 PEM.
    pub fn service_account_key(&self) -> Result<KeyPair, PkiError> {
        let path = self.dir.join("sa.key");
        if !path.exists() {
            write(&path, &new_key()?.serialize_pem())?;
        }
        KeyPair::from_pem(&read(&path)?).map_err(crypto("read sa.key"))
    }

    /// The administrator's bearer token. Unlike a client certificate it can be withdrawn: the next start after its file
    /// was removed makes another.
    pub fn admin_token(&self) -> Result<String, PkiError> {
        let path = self.dir.join("admin.token");
        if !path.exists() {
            let mut secret = [0u8; 32];
            ring::rand::SystemRandom::new().fill(&mut secret).map_err(crypto("make a token"))?;
            write(&path, &URL_SAFE_NO_PAD.encode(secret))?;
        }
        Ok(read(&path)?.trim().to_owned())
    }

    fn sign(&self, params: CertificateParams) -> Result<Leaf, PkiError> {
        let pair = new_key()?;
        let cert = params.signed_by(&pair, &self.issuer).map_err(crypto("sign a certificate"))?;
        Ok(Leaf { certificate_pem: cert.pem(), key_pem: pair.serialize_pem() })
    }

    /// A stored certificate that has time left.
    fn stored(&self, file: &str) -> Option<Leaf> {
        let certificate_pem = fs::read_to_string(self.dir.join(format!("{file}.crt"))).ok()?;
        let key_pem = fs::read_to_string(self.dir.join(format!("{file}.key"))).ok()?;
        let leaf = Leaf { certificate_pem, key_pem };
        let der = leaf.certificate_der().ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
        let left = cert.validity().not_after.timestamp() - self.clock.now().as_second();
        (left > RENEW_BEFORE_DAYS * 86_400).then_some(leaf)
    }

    fn store(&self, file: &str, leaf: &Leaf) -> Result<(), PkiError> {
        write(&self.dir.join(format!("{file}.key")), &leaf.key_pem)?;
        write(&self.dir.join(format!("{file}.crt")), &leaf.certificate_pem)
    }
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("make a key"))
}

fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let at = |t: Timestamp| {
        let date = t.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month() as u8, date.day() as u8)
    };
    let from = now.saturating_sub(SignedDuration::from_mins(BACKDATE_MINUTES)).unwrap_or(now);
    let to = now.saturating_add(SignedDuration::from_hours(24 * (days + 1))).unwrap_or(now);
    params.not_before = at(from);
    params.not_after = at(to);
}

fn ca_params(now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "kubernetes");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.subject_alt_names =
        vec![SanType::DnsName("kubernetes".try_into().map_err(crypto("use a name in a certificate"))?)];
    validity(&mut params, now, CA_DAYS);
    Ok(params)
}

fn leaf_params(common_name: &str, organizations: &[&str], now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    for o in organizations {
        name.push(DnType::OrganizationName, *o);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, LEAF_DAYS);
    params
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Io { what: "read", path: path.into(), source })
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let tmp = path.with_extension("tmp");
    let io = |what, source| PkiError::Io { what, path: path.into(), source };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&tmp)
        .map_err(|e| io("create", e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| io("write", e))?;
    fs::rename(&tmp, path).map_err(|e| io("rename", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(dir.path(), SystemClock::shared()).expect("made");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let first = pki.server("apiserver", "kube-apiserver", &names).expect("signed");
        let again = Pki::open(dir.path(), SystemClock::shared()).expect("opened");
        assert_eq!(again.ca_pem(), pki.ca_pem());
        let same = again.server("apiserver", "kube-apiserver", &names).expect("found");
        assert_eq!(same.certificate_pem, first.certificate_pem);
        let other = again.server("apiserver", "kube-apiserver", &names[..1]).expect("signed");
        assert_ne!(other.certificate_pem, first.certificate_pem, "other names need another certificate");
        for file in ["ca.key", "apiserver.key"] {
            let mode = fs::metadata(dir.path().join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
