//! Client certificates (upstream: apiserver `pkg/authentication/request/x509`).

use crate::identity::{CREDENTIAL_ID, Identity};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use x509_parser::der_parser::Oid;
use x509_parser::der_parser::oid;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};

/// The subject's part that is the user's uid (upstream: apimachinery `asn1.X509UID`).
const OID_UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// The subject of a client certificate (DER) whose chain TLS has checked, and until when it counts: CN is the user, O
/// are the groups. `None` for a certificate without a CN, which identifies nobody. Connections outlive certificates, so
/// the time is checked again for each request.
///
/// # Errors
/// The certificate cannot be read, is not valid now, or has no single uid.
pub fn from_certificate(der: &[u8], now: Timestamp) -> Result<Option<(Identity, Timestamp)>, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| format!("x509: {e}"))?;
    let (from, until) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    if !(from..=until).contains(&now.as_second()) {
        return Err("x509: certificate has expired or is not yet valid".to_owned());
    }
    let all = |oid: &Oid<'static>| -> Vec<String> {
        cert.subject().iter_by_oid(oid).map(|a| a.as_str().unwrap_or("").to_owned()).collect()
    };
    // Go takes the last one where there are several.
    let name = all(&OID_X509_COMMON_NAME).pop().unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let uid = match all(&OID_UID).as_slice() {
        [] => String::new(),
        [one] if one.is_empty() => return Err("UID cannot be an empty string".to_owned()),
        [one] => one.clone(),
        many => return Err(format!("expected 1 UID, but found multiple: [{}]", many.join(" "))),
    };
    let hash = HEXLOWER.encode(&Sha256::digest(der));
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hash}")])].into();
    let identity = Identity { name, uid, groups: all(&OID_X509_ORGANIZATION_NAME), extra };
    Ok(Some((identity, Timestamp::from_second(until).unwrap_or(Timestamp::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    #[test]
    fn subjects_become_users() {
        let uid = || DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let der =
            certificate(&[(DnType::OrganizationName, "dev"), (DnType::CommonName, "alice"), (uid(), "7")]);
        let id = from_certificate(&der, now()).expect("readable").expect("somebody").0;
        assert_eq!(
            (id.name.as_str(), id.uid.as_str(), id.groups.as_slice()),
            ("alice", "7", &["dev".to_owned()][..])
        );
        let credential = id.extra_value(CREDENTIAL_ID);
        assert!(credential.starts_with("X509SHA256=") && credential.len() == 11 + 64, "{credential}");
        assert_eq!(from_certificate(&certificate(&[(DnType::OrganizationName, "dev")]), now()), Ok(None));
        assert!(from_certificate(&certificate(&[(DnType::CommonName, "a"), (uid(), "")]), now()).is_err());
        assert!(from_certificate(b"nonsense", now()).is_err());
        let der = certificate(&[(DnType::CommonName, "a")]);
        assert!(from_certificate(&der, "1970-01-01T00:00:00Z".parse().expect("a time")).is_err());
    }
}
