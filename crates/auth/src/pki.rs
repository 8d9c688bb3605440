//! The cluster's certificate authority and keys, on disk with owner-only modes.
//!
//! Everything is ECDSA P-256. Invariant: what is handed out was issued by the present authority, belongs to its key, has
//! the names asked for and at least [`RENEW_BEFORE_DAYS`] left; what on disk does not is made anew.

pub mod bundle;
mod disk;

use crate::signing::Authority;
use base::clock::SharedClock;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use disk::{directory, read, write};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use ring::rand::SecureRandom as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// The name by which aggregated API servers know this one (upstream: kubeadm `FrontProxyClientCertCommonName`).
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// A certificate with less time left is made anew when it is next asked for.
pub const RENEW_BEFORE_DAYS: i64 = 30;
/// Certificates are valid from a little before now, for clocks that are behind.
const BACKDATE_MINUTES: i64 = 5;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {what}: {why}")]
    Crypto { what: &'static str, why: String },
    /// Half of the authority is lost; a new one would cut off every node and user.
    #[error("{} is there but {} is not: restore it, or remove both for a new authority", there.display(), lost.display())]
    HalfLost { there: PathBuf, lost: PathBuf },
    #[error("the certificate authority {} ends in less than {RENEW_BEFORE_DAYS} days: remove it and its key for a new one", path.display())]
    Expired { path: PathBuf },
}

fn crypto<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> PkiError {
    move |e| PkiError::Crypto { what, why: e.to_string() }
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
    /// From when on the next call makes another.
    pub renew_at: Timestamp,
}

impl Leaf {
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(crypto("read a certificate"))
    }

    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(crypto("read a private key"))
    }
}

/// What a certificate is for.
struct Wanted<'a> {
    name: &'a str,
    groups: &'a [&'a str],
    usage: ExtendedKeyUsagePurpose,
    /// DNS names and addresses.
    sans: BTreeSet<String>,
}

/// An authority: its certificate and what signs with its key.
struct Ca {
    pem: String,
    /// The public key, DER.
    key: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// The cluster's keys.
pub struct Pki {
    dir: PathBuf,
    clock: SharedClock,
    ca: Ca,
    /// Vouches for proxies in front of other API servers, and for nobody else: what it signs is not a user
    /// (upstream: kubeadm `KubeadmCertFrontProxyCA`).
    front_proxy: Ca,
}

impl Pki {
    /// Opens or makes the authority in a directory.
    ///
    /// # Errors
    /// The directory cannot be used, or what is in it is damaged.
    pub fn open(dir: &Path, clock: SharedClock) -> Result<Self, PkiError> {
        directory(dir)?;
        let ca = Ca::open(dir, "ca", "kubernetes", &clock)?;
        let front_proxy = Ca::open(dir, "front-proxy-ca", "front-proxy-ca", &clock)?;
        Ok(Self { dir: dir.into(), clock, ca, front_proxy })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca.pem
    }

    /// The authority that vouches for this API server where it speaks for others.
    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy.pem
    }

    /// The certificate with which this API server speaks for users at aggregated API servers.
    ///
    /// # Errors
    /// As [`Self::apiserver`].
    pub fn front_proxy_client(&self) -> Result<Leaf, PkiError> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let wanted = Wanted { name: FRONT_PROXY_CLIENT, groups: &[], usage, sans: BTreeSet::new() };
        self.leaf_of(&self.front_proxy, "front-proxy-client", &wanted)
    }

    pub fn ca_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.ca.pem.as_bytes()).map_err(crypto("read ca.crt"))
    }

    /// Tells the authority's key from others; a renewed certificate of the same key is the same authority.
    pub fn ca_fingerprint(&self) -> String {
        hex_sha256(&self.ca.key)
    }

    /// The authority as the one that answers certificate requests.
    ///
    /// # Errors
    /// Its certificate cannot be read.
    pub fn authority(&self) -> Result<Authority, PkiError> {
        Authority::from_pem(&self.ca.pem, &self.ca.issuer.key().serialize_pem())
    }

    /// The API server's serving certificate. `more` are the service addresses, the nodes' addresses and names, and the
    /// machine's name; the names by which pods and local clients know the server are added.
    ///
    /// # Errors
    /// A name cannot be in a certificate, or the files cannot be written.
    pub fn apiserver(&self, more: &[String]) -> Result<Leaf, PkiError> {
        const ALWAYS: [&str; 7] = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "::1",
        ];
        let all: Vec<String> = ALWAYS.iter().map(|s| (*s).to_owned()).chain(more.iter().cloned()).collect();
        self.server("apiserver", "kube-apiserver", &all)
    }

    /// The serving certificate of a node's kubelet, for the node's name and addresses.
    ///
    /// # Errors
    /// As [`Self::apiserver`].
    pub fn kubelet_server(&self, node: &str, addresses: &[String]) -> Result<Leaf, PkiError> {
        let sans =
            std::iter::once(node).chain(addresses.iter().map(String::as_str)).map(str::to_owned).collect();
        let wanted = Wanted {
            name: &format!("system:node:{node}"),
            groups: &["system:nodes"],
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            sans,
        };
        self.leaf(&format!("kubelet-server-{node}"), &wanted)
    }

    /// The certificate with which a node's kubelet calls the API server.
    ///
    /// # Errors
    /// As [`Self::apiserver`].
    pub fn kubelet_client(&self, node: &str) -> Result<Leaf, PkiError> {
        self.client(&format!("kubelet-client-{node}"), &format!("system:node:{node}"), &["system:nodes"])
    }

    /// A serving certificate for DNS names and addresses, kept as `FILE.crt` and `FILE.key`.
    ///
    /// # Errors
    /// As [`Self::apiserver`].
    pub fn server(&self, file: &str, common_name: &str, names: &[String]) -> Result<Leaf, PkiError> {
        let sans = names.iter().cloned().collect();
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        self.leaf(file, &Wanted { name: common_name, groups: &[], usage, sans })
    }

    /// A client certificate of a user with groups, kept as `FILE.crt` and `FILE.key`.
    ///
    /// # Errors
    /// As [`Self::apiserver`].
    pub fn client(&self, file: &str, user: &str, groups: &[&str]) -> Result<Leaf, PkiError> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.leaf(file, &Wanted { name: user, groups, usage, sans: BTreeSet::new() })
    }

    /// The key that signs service account tokens; made when absent.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn service_account_key(&self) -> Result<KeyPair, PkiError> {
        let path = self.dir.join("sa.key");
        if !path.exists() {
            write(&path, &new_key()?.serialize_pem())?;
        }
        KeyPair::from_pem(&read(&path)?).map_err(crypto("read sa.key"))
    }

    /// The administrator's bearer token. Unlike a client certificate it can be withdrawn: the next start after its file
    /// was removed makes another.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn admin_token(&self) -> Result<String, PkiError> {
        let path = self.dir.join("admin.token");
        if !path.exists() {
            let mut secret = [0u8; 32];
            ring::rand::SystemRandom::new().fill(&mut secret).map_err(crypto("make a token"))?;
            write(&path, &URL_SAFE_NO_PAD.encode(secret))?;
        }
        Ok(read(&path)?.trim().to_owned())
    }

    fn leaf(&self, file: &str, wanted: &Wanted<'_>) -> Result<Leaf, PkiError> {
        self.leaf_of(&self.ca, file, wanted)
    }

    fn leaf_of(&self, ca: &Ca, file: &str, wanted: &Wanted<'_>) -> Result<Leaf, PkiError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if file.is_empty() || file.starts_with('.') || !file.chars().all(plain) {
            let why = format!("{file:?} is no file name");
            return Err(PkiError::Crypto { what: "keep a certificate", why });
        }
        if let Some(leaf) = self.stored(ca, file, wanted) {
            return Ok(leaf);
        }
        let leaf = self.issue(ca, wanted)?;
        write(&self.dir.join(format!("{file}.key")), &leaf.key_pem)?;
        write(&self.dir.join(format!("{file}.crt")), &leaf.certificate_pem)?;
        Ok(leaf)
    }

    fn issue(&self, ca: &Ca, wanted: &Wanted<'_>) -> Result<Leaf, PkiError> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // One attribute each: rcgen's names hold a kind once.
        let mut groups = wanted.groups.iter();
        if let Some(group) = groups.next() {
            name.push(DnType::OrganizationName, *group);
        }
        if groups.next().is_some() {
            let why = format!("{:?} has more than one group", wanted.name);
            return Err(PkiError::Crypto { what: "make a certificate", why });
        }
        name.push(DnType::CommonName, wanted.name);
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![wanted.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        for san in &wanted.sans {
            params.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => {
                    SanType::DnsName(san.as_str().try_into().map_err(crypto("use a name in a certificate"))?)
                }
            });
        }
        validity(&mut params, self.clock.now(), LEAF_DAYS);
        let pair = new_key()?;
        let cert = params.signed_by(&pair, &ca.issuer).map_err(crypto("sign a certificate"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(cert.der()).map_err(crypto("read a certificate"))?;
        let renew_at = renew_at(&parsed);
        Ok(Leaf { certificate_pem: cert.pem(), key_pem: pair.serialize_pem(), renew_at })
    }

    /// What is on disk, when it is all that is wanted.
    fn stored(&self, ca: &Ca, file: &str, wanted: &Wanted<'_>) -> Option<Leaf> {
        let certificate_pem = read(&self.dir.join(format!("{file}.crt"))).ok()?;
        let key_pem = read(&self.dir.join(format!("{file}.key"))).ok()?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
        let pair = KeyPair::from_pem(&key_pem).ok()?;
        let (_, ca_key) = SubjectPublicKeyInfo::from_der(&ca.key).ok()?;
        let ours = cert.public_key().raw == pair.subject_public_key_info().as_slice()
            && cert.verify_signature(Some(&ca_key)).is_ok();
        let renew_at = renew_at(&cert);
        let good = ours && renew_at > self.clock.now() && is_wanted(&cert, wanted);
        good.then_some(Leaf { certificate_pem, key_pem, renew_at })
    }
}

impl Ca {
    /// Opens or makes the authority that is kept as `FILE.crt` and `FILE.key`.
    fn open(dir: &Path, file: &str, common_name: &str, clock: &SharedClock) -> Result<Self, PkiError> {
        let (cert, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        match (cert.exists(), key.exists()) {
            (true, true) => {}
            // The certificate is written last: a key alone is a start that was cut off. With the same key, what was
            // issued before stays good.
            (false, kept) => {
                let pair = if kept {
                    KeyPair::from_pem(&read(&key)?).map_err(crypto("read the key of an authority"))?
                } else {
                    let pair = new_key()?;
                    write(&key, &pair.serialize_pem())?;
                    pair
                };
                let made = ca_params(common_name, clock.now())?.self_signed(&pair);
                write(&cert, &made.map_err(crypto("make the cluster's CA"))?.pem())?;
            }
            (true, false) => return Err(PkiError::HalfLost { there: cert, lost: key }),
        }
        let pem = read(&cert)?;
        let pair = KeyPair::from_pem(&read(&key)?).map_err(crypto("read the key of an authority"))?;
        let key = pair.subject_public_key_info();
        let unread = "read the certificate of an authority";
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(crypto(unread))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(crypto(unread))?;
        if parsed.public_key().raw != key.as_slice() {
            let why = format!("{file}.crt does not belong to {file}.key");
            return Err(PkiError::Crypto { what: "use the certificate of an authority", why });
        }
        if renew_at(&parsed) <= clock.now() {
            return Err(PkiError::Expired { path: cert });
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(crypto(unread))?;
        Ok(Self { pem, key, issuer })
    }
}

/// Tells a key from others, by its public half.
pub fn fingerprint(key: &KeyPair) -> String {
    hex_sha256(&key.subject_public_key_info())
}

fn hex_sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    HEXLOWER.encode(digest.as_ref())
}

/// Whether a certificate has the subject and names that are wanted.
fn is_wanted(cert: &X509Certificate<'_>, wanted: &Wanted<'_>) -> bool {
    let subject = cert.subject();
    let name: Vec<&str> = subject.iter_common_name().filter_map(|a| a.as_str().ok()).collect();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|a| a.as_str().ok()).collect();
    let mut sans = BTreeSet::new();
    for e in cert.extensions() {
        if let ParsedExtension::SubjectAlternativeName(all) = e.parsed_extension() {
            sans.extend(all.general_names.iter().filter_map(|n| match n {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
                _ => None,
            }));
        }
    }
    let plain = |s: &String| s.parse::<IpAddr>().map_or_else(|_| s.clone(), |ip| ip.to_string());
    name == [wanted.name] && groups == wanted.groups && sans == wanted.sans.iter().map(plain).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn renew_at(cert: &X509Certificate<'_>) -> Timestamp {
    let end = Timestamp::from_second(cert.validity().not_after.timestamp()).unwrap_or(Timestamp::MIN);
    end.saturating_sub(SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS)).unwrap_or(Timestamp::MIN)
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("make a key"))
}

/// From the day of now to the end of the day that is `days` later.
fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let at = |t: Timestamp| {
        let date = t.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let from = now.saturating_sub(SignedDuration::from_mins(BACKDATE_MINUTES)).unwrap_or(now);
    let to = now.saturating_add(SignedDuration::from_hours(24 * (days + 1))).unwrap_or(now);
    params.not_before = at(from);
    params.not_after = at(to);
}

fn ca_params(common_name: &str, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names =
        vec![SanType::DnsName(common_name.try_into().map_err(crypto("use a name in a certificate"))?)];
    validity(&mut params, now, CA_DAYS);
    Ok(params)
}

#[cfg(test)]
mod tests;
