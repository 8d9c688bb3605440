//! A proxy in front that says who is asking (upstream: apiserver `pkg/authentication/request/headerrequest`).
//!
//! Invariant: headers count only beside a client certificate of the proxy's own authority and an allowed name; a
//! certificate of that authority is nobody's own.

use crate::identity::Identity;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;

/// The headers that upstream always takes away (upstream: `filters.standardRequestHeaderConfig`).
const STANDARD: [&str; 3] = ["x-remote-user", "x-remote-uid", "x-remote-group"];
const STANDARD_EXTRA: &str = "x-remote-extra-";

/// The `--requestheader-*` flags.
pub struct FrontProxy {
    /// Checks certificates of the proxy's authority.
    pub proxy: Arc<dyn ClientCertVerifier>,
    /// Checks certificates of the cluster's own authority: of any other, a certificate is nobody's.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// Common names that proxies may have; empty for any.
    pub allowed: Vec<String>,
    /// Names of headers, the first one that is there counts for user and uid.
    pub user_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// The user that a proxy speaks for; `None` when the headers name none.
    ///
    /// # Errors
    /// The certificate is not that of a proxy.
    pub fn user(
        &self,
        leaf: &[u8],
        chain: &[Vec<u8>],
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Option<Identity>, String> {
        verify(&*self.proxy, leaf, chain, now)?;
        let name = common_name(leaf)?;
        if !self.allowed.is_empty() && !self.allowed.contains(&name) {
            return Err(format!("x509: subject with cn={name} is not in the allowed list"));
        }
        let name = first(headers, &self.user_headers);
        if name.is_empty() {
            return Ok(None);
        }
        let groups = self.group_headers.iter().flat_map(|h| all(headers, h)).filter(|g| !g.is_empty());
        let groups = groups.collect();
        Ok(Some(Identity {
            name,
            uid: first(headers, &self.uid_headers),
            groups,
            extra: self.extra(headers),
        }))
    }

    /// Whether a certificate is one of the cluster's own authority.
    ///
    /// # Errors
    /// It is not, or not now.
    pub fn is_client(&self, leaf: &[u8], chain: &[Vec<u8>], now: Timestamp) -> Result<(), String> {
        verify(&*self.clients, leaf, chain, now)
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            for name in headers.keys() {
                let Some(key) = name.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str()) else {
                    continue;
                };
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().extend(all(headers, name.as_str()));
            }
        }
        extra
    }

    fn own(&self, name: &str) -> bool {
        let lists = [&self.user_headers, &self.uid_headers, &self.group_headers];
        lists.into_iter().flatten().any(|h| h.eq_ignore_ascii_case(name))
            || self.extra_prefixes.iter().any(|p| name.starts_with(p.to_ascii_lowercase().as_str()))
    }
}

/// Takes credentials and a proxy's headers away, once they have been looked at
/// (upstream: apiserver `pkg/endpoints/filters/authentication.go`).
pub fn clear(proxy: Option<&FrontProxy>, headers: &mut HeaderMap) {
    let gone = |name: &HeaderName| {
        let name = name.as_str();
        name == "authorization"
            || STANDARD.contains(&name)
            || name.starts_with(STANDARD_EXTRA)
            || proxy.is_some_and(|p| p.own(name))
    };
    let names: Vec<HeaderName> = headers.keys().filter(|n| gone(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    values.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
}

fn first(headers: &HeaderMap, names: &[String]) -> String {
    let values = names.iter().filter_map(|n| all(headers, n).into_iter().next());
    values.into_iter().find(|v| !v.is_empty()).unwrap_or_default()
}

fn verify(by: &dyn ClientCertVerifier, leaf: &[u8], chain: &[Vec<u8>], now: Timestamp) -> Result<(), String> {
    let leaf = CertificateDer::from(leaf);
    let chain: Vec<_> = chain.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    by.verify_client_cert(&leaf, &chain, at)
        .map(drop)
        .map_err(|e| format!("verifying certificate failed: {e}"))
}

fn common_name(leaf: &[u8]) -> Result<String, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(leaf).map_err(|e| format!("x509: {e}"))?;
    let names = cert.subject().iter_by_oid(&OID_X509_COMMON_NAME);
    Ok(names.last().and_then(|a| a.as_str().ok()).unwrap_or("").to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use http::HeaderValue;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    pub struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pub verifier: Arc<dyn ClientCertVerifier>,
    }

    pub fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Authority { issuer: Issuer::new(params, key), verifier: verifier.build().expect("a verifier") }
    }

    impl Authority {
        pub fn leaf(&self, name: &str) -> Vec<u8> {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            let key = KeyPair::generate().expect("a key");
            params.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec()
        }
    }

    pub fn front(proxy: &Authority, clients: &Authority, allowed: &[&str]) -> FrontProxy {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        FrontProxy {
            proxy: proxy.verifier.clone(),
            clients: clients.verifier.clone(),
            allowed: list(allowed),
            user_headers: list(&["X-Remote-User", "X-Other-User"]),
            uid_headers: list(&["X-Remote-Uid"]),
            group_headers: list(&["X-Remote-Group"]),
            extra_prefixes: list(&["X-Remote-Extra-"]),
        }
    }

    pub fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        out
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    #[test]
    fn headers_count_beside_a_proxys_certificate_only() {
        let (proxies, cluster) = (authority("proxies"), authority("cluster"));
        let f = front(&proxies, &cluster, &["aggregator"]);
        let h = headers(&[
            ("x-other-user", "second"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "p1"),
            ("x-remote-extra-acme.com%2fproject", "p2"),
        ]);
        let good = proxies.leaf("aggregator");
        let user = f.user(&good, &[], &h, now()).expect("a proxy").expect("named");
        let extra = [("acme.com/project".to_owned(), vec!["p1".to_owned(), "p2".to_owned()])].into();
        let want = Identity { uid: "7".into(), extra, ..Identity::new("second", &["a", "b"]) };
        assert_eq!(user, want);
        assert_eq!(f.user(&good, &[], &HeaderMap::new(), now()), Ok(None));
        let other = f.user(&proxies.leaf("mallory"), &[], &h, now()).expect_err("refused");
        assert_eq!(other, "x509: subject with cn=mallory is not in the allowed list");
        assert!(f.user(&cluster.leaf("aggregator"), &[], &h, now()).is_err(), "not of the proxy's authority");
        assert!(
            f.is_client(&good, &[], now()).is_err() && f.is_client(&cluster.leaf("x"), &[], now()).is_ok()
        );
        let late = "2999-01-02T03:04:05Z".parse().expect("a time");
        assert!(f.user(b"nonsense", &[], &h, now()).is_err());
        assert!(f.user(&good, &[], &h, late).is_ok(), "rcgen's certificates last until 4096");
    }

    #[test]
    fn what_was_looked_at_goes_no_further() {
        let (proxies, cluster) = (authority("proxies"), authority("cluster"));
        let f = front(&proxies, &cluster, &[]);
        let mut h = headers(&[
            ("authorization", "Bearer x"),
            ("x-other-user", "u"),
            ("x-remote-extra-a", "b"),
            ("accept", "*/*"),
        ]);
        clear(None, &mut h);
        assert_eq!(h.len(), 2);
        clear(Some(&f), &mut h);
        assert_eq!(h.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
