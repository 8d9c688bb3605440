//! The certificate chain that a signer gives to a pod, and what status may say about it.

use super::{bytes, pem, request};
use crate::rest::omitted;
use crate::validate::text;
use jiff::{SignedDuration, Timestamp};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Longest chain, in bytes.
const CHAIN_BYTES_MAX: usize = 100 * 1024;
/// How far a chain's begin may be from now.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);
const LIFETIME_MIN: SignedDuration = SignedDuration::from_hours(1);
/// How long a certificate must be good before and after its refresh begins.
const REFRESH_MARGIN: SignedDuration = SignedDuration::from_mins(10);

/// A certificate from its DER form, nothing after it.
pub(super) fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

/// How many certificates there are in some DER; `None` when there is anything else (upstream:
/// `x509.ParseCertificates`).
pub(super) fn certificates(mut der: &[u8]) -> Option<usize> {
    let mut found = 0;
    while !der.is_empty() {
        (der, _) = X509Certificate::from_der(der).ok()?;
        found += 1;
    }
    Some(found)
}

/// Errors of an issued status (upstream: `ValidatePodCertificateRequestStatusUpdate`, the issued branch). Stops at the
/// first group of errors as upstream does.
pub(super) fn issued(new: &Value, old: &Value, now: Timestamp, errors: &mut ErrorList) {
    let path = Path::new("status");
    let at = path.child("certificateChain");
    let status = &new["status"];
    let chain = text(status, "certificateChain");
    if chain.len() > CHAIN_BYTES_MAX {
        errors.push(Error::too_long(&at, CHAIN_BYTES_MAX));
        return;
    }
    let refuse = |detail: &str| Error::invalid(&at, chain, detail);
    let blocks = pem::blocks(chain);
    let Some(first) = blocks.first() else {
        errors.push(refuse("issued certificate chain must contain at least one certificate"));
        return;
    };
    if first.label != "CERTIFICATE" {
        errors.push(refuse("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
        return;
    }
    let Some(leaf) = certificate(&first.der) else {
        errors.push(refuse("leaf certificate does not parse as valid X.509"));
        return;
    };
    names(&leaf, &at, errors);
    let stub = bytes(text(&old["spec"], "stubPKCS10Request"));
    let Some(asked) = request(&stub) else {
        let at = Path::new("spec").child("stubPKCS10Request");
        errors.push(omitted(&at, "must be a valid PKCS#10 CSR"));
        return;
    };
    if asked.certification_request_info.subject_pki.raw != leaf.public_key().raw {
        errors.push(refuse("leaf certificate was not issued to the requested public key"));
        return;
    }
    let before = errors.len();
    times(&leaf, new, now, errors);
    if errors.len() > before {
        return;
    }
    for block in &blocks[1..] {
        if block.label != "CERTIFICATE" {
            errors.push(refuse("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
            return;
        }
        if certificate(&block.der).is_none() {
            errors.push(refuse("intermediate certificate does not parse as valid X.509"));
            return;
        }
    }
}

/// Names that no certificate should have.
fn names(leaf: &X509Certificate, at: &Path, errors: &mut ErrorList) {
    let Ok(Some(san)) = leaf.subject_alternative_name() else { return };
    for name in &san.value.general_names {
        match name {
            GeneralName::DNSName(dns) => {
                let mut refuse = |detail: &str| errors.push(Error::invalid(at, *dns, detail));
                if dns.is_empty() {
                    refuse("leaf certificate should not contain empty DNSName");
                }
                if dns.contains("..") {
                    refuse("leaf certificate's DNSName should not contain '..'");
                }
                if dns.starts_with('.') || dns.ends_with('.') {
                    refuse("leaf certificate's DNSName should not start or end with '.'");
                }
            }
            GeneralName::RFC822Name(mail) if !crate::custom::formats::is_email(mail) => {
                let detail = "leaf certificate should not contain invalid EmailAddress";
                errors.push(Error::invalid(at, *mail, detail));
            }
            _ => {}
        }
    }
}

fn times(leaf: &X509Certificate, new: &Value, now: Timestamp, errors: &mut ErrorList) {
    let (path, status) = (Path::new("status"), &new["status"]);
    let at = |f: &str| path.child(f);
    let mut get = |field: &str, detail: &str| {
        let time = text(status, field).parse::<Timestamp>().ok();
        if time.is_none() {
            errors.push(Error::required(&at(field), detail));
        }
        time
    };
    let consistent = "must be present and consistent with the issued certificate";
    let begin = get("notBefore", consistent);
    let end = get("notAfter", consistent);
    let refresh = get("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]");
    let (Some(begin), Some(end), Some(refresh)) = (begin, end, refresh) else { return };
    let stated = |t: i64| Timestamp::from_second(t).ok();
    let (leaf_begin, leaf_end) =
        (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let lifetime = SignedDuration::from_secs(leaf_end - leaf_begin);
    let max = new["spec"]["maxExpirationSeconds"].as_i64().unwrap_or(0);
    let skew = begin.duration_since(now).abs();
    let shown = |f: &str| status[f].clone();
    let nanos = |d: SignedDuration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let error = if stated(leaf_begin) != Some(begin) {
        let detail = "must be set to the NotBefore time encoded in the leaf certificate";
        Error::invalid(&at("notBefore"), shown("notBefore"), detail)
    } else if skew >= SKEW_MAX {
        let detail = "must be set to within 5 minutes of kube-apiserver's current time";
        Error::invalid(&at("notBefore"), shown("notBefore"), detail)
    } else if stated(leaf_end) != Some(end) {
        let detail = "must be set to the NotAfter time encoded in the leaf certificate";
        Error::invalid(&at("notAfter"), shown("notAfter"), detail)
    } else if lifetime < LIFETIME_MIN {
        let detail = "leaf certificate lifetime must be >= 1 hour";
        Error::invalid(&at("certificateChain"), nanos(lifetime), detail)
    } else if lifetime > SignedDuration::from_secs(max) {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max})");
        Error::invalid(&at("certificateChain"), nanos(lifetime), detail)
    } else if refresh.duration_since(begin) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes after status.notBefore";
        Error::invalid(&at("beginRefreshAt"), shown("beginRefreshAt"), detail)
    } else if end.duration_since(refresh) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes before status.notAfter";
        Error::invalid(&at("beginRefreshAt"), shown("beginRefreshAt"), detail)
    } else {
        return;
    };
    errors.push(error);
}
