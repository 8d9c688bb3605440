//! PodCertificateRequest: a node asks for a certificate on behalf of a pod.
//!
//! Spec never changes; status goes once from empty to issued, denied or failed.

use super::{Key, bytes, chain, is_kubernetes_signer, key, request, row, signer_name};
use crate::columns::{NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::rest::{self, omitted};
use crate::status as shared;
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

const STUB_BYTES_MAX: usize = 10 * 1024;
const UID_BYTES_MAX: usize = 128;
const EXPIRATION_SECONDS_DEFAULT: i64 = 86_400;
const EXPIRATION_SECONDS_MIN: i64 = 3_600;
const EXPIRATION_SECONDS_MAX: i64 = 91 * 86_400;
/// The project's own signers give at most a day.
const KUBERNETES_EXPIRATION_SECONDS_MAX: i64 = 86_400;
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const ENDS: &[&str] = &["Issued", "Denied", "Failed"];

pub fn kind() -> KindDef {
    KindDef {
        scope: Scope::Namespaced,
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("PodName", "string", |o, _| text(&o["spec"], "podName").into()),
                column("ServiceAccountName", "string", |o, _| text(&o["spec"], "serviceAccountName").into()),
                column("NodeName", "string", |o, _| text(&o["spec"], "nodeName").into()),
                column("SignerName", "string", |o, _| text(&o["spec"], "signerName").into()),
                column("State", "string", |o, _| state(o).into()),
                column("UnverifiedUserAnnotations", "string", |o, _| annotations(o).into()),
            ]
        },
        selectable: &["spec.signerName", "spec.podName", "spec.nodeName"],
        strategy: StrategyRef::Static(&PodCertificate),
        sample: include_str!("samples/pod_certificate_request.yaml"),
        ..row(
            "PodCertificateRequest",
            "podcertificaterequests",
            "podcertificaterequest",
            "io.k8s.api.certificates.v1.PodCertificateRequest",
        )
    }
}

fn conditions(o: &Value) -> &[Value] {
    items(&o["status"], "conditions")
}

fn state(o: &Value) -> &str {
    let known = |c: &&Value| ENDS.contains(&text(c, "type"));
    conditions(o).iter().rfind(known).map_or("Pending", |c| text(c, "type"))
}

fn annotations(o: &Value) -> String {
    let Some(map) = o["spec"]["unverifiedUserAnnotations"].as_object().filter(|m| !m.is_empty()) else {
        return "<none>".to_owned();
    };
    let mut pairs: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

struct PodCertificate;

impl Strategy for PodCertificate {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "maxExpirationSeconds", EXPIRATION_SECONDS_DEFAULT);
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        check(&obj["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if ctx.subresource == "status" {
            status_errors(new, old, ctx, &mut errors);
        } else {
            immutable(&new["spec"], &old["spec"], &Path::new("spec"), &mut errors);
        }
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let get = |f: &str| text(&obj["spec"], f).to_owned();
        vec![
            ("spec.signerName", get("signerName")),
            ("spec.podName", get("podName")),
            ("spec.nodeName", get("nodeName")),
        ]
    }

    fn selects_namespace(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// Upstream: `ValidatePodCertificateRequestCreate`.
fn check(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let signer = text(spec, "signerName");
    signer_name(signer, &path.child("signerName"), errors);
    user_annotations(&spec["unverifiedUserAnnotations"], &path.child("unverifiedUserAnnotations"), errors);
    for (name, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        let value = text(spec, name);
        let messages = helpers::dns_subdomain_errors(value, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child(name), value, m)));
        let value = text(spec, uid);
        if value.is_empty() {
            errors.push(Error::invalid(&path.child(uid), "", "must not be empty"));
        }
        if value.len() > UID_BYTES_MAX {
            errors.push(Error::too_long(&path.child(uid), UID_BYTES_MAX));
        }
    }
    let at = path.child("maxExpirationSeconds");
    let Some(seconds) = spec["maxExpirationSeconds"].as_i64() else {
        errors.push(Error::required(&at, "must be set"));
        return;
    };
    let max =
        if is_kubernetes_signer(signer) { KUBERNETES_EXPIRATION_SECONDS_MAX } else { EXPIRATION_SECONDS_MAX };
    if !(EXPIRATION_SECONDS_MIN..=max).contains(&seconds) {
        let detail = format!("must be in the range [{EXPIRATION_SECONDS_MIN}, {max}]");
        errors.push(Error::invalid(&at, seconds, detail));
    }
    let stub = text(spec, "stubPKCS10Request");
    if stub.is_empty() {
        let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        errors.push(omitted(path, detail));
    } else if let Some(e) = stub_error(&bytes(stub), &path.child("stubPKCS10Request")) {
        errors.push(e);
    }
}

/// Upstream: `ValidateUserAnnotations`.
fn user_annotations(v: &Value, path: &Path, errors: &mut ErrorList) {
    let mut size = 0;
    for (key, value) in v.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let lower = key.to_lowercase();
        let messages = helpers::qualified_name_errors(&lower);
        if lower.is_empty() {
            errors.push(Error::required(path, ""));
        } else if !messages.is_empty() {
            errors.extend(messages.into_iter().map(|m| Error::invalid(path, lower.as_str(), m)));
        } else if lower.split('/').count() != 2 {
            let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(Error::invalid(path, lower, detail));
        }
    }
    if size > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

/// Upstream: `validateStubPKCS10Request`.
fn stub_error(der: &[u8], at: &Path) -> Option<Error> {
    if der.len() > STUB_BYTES_MAX {
        return Some(Error::too_long(at, STUB_BYTES_MAX));
    }
    let Some(request) = request(der) else {
        return Some(omitted(at, "must be a valid PKCS#10 CSR"));
    };
    match key(&request.certification_request_info.subject_pki) {
        Key::Ed25519 | Key::Ec(None) | Key::Rsa(3072 | 4096) => {}
        Key::Ec(Some(curve)) => {
            let detail = "elliptic public keys must use curve P256, P384, or P521";
            return Some(Error::invalid(at, format!("curve {curve}"), detail));
        }
        Key::Rsa(bits) => {
            let detail = "RSA keys must have modulus size 3072 or 4096";
            return Some(Error::invalid(at, format!("{bits}-bit modulus"), detail));
        }
        Key::Other => {
            let detail = "unknown public key type; supported types are Ed25519, ECDSA, and RSA";
            return Some(omitted(at, detail));
        }
    }
    super::signature_error(&request).map(|_| omitted(at, "invalid signature"))
}

/// Upstream: `ValidatePodCertificateRequestStatusUpdate`.
fn status_errors(new: &Value, old: &Value, ctx: &Ctx, errors: &mut ErrorList) {
    let path = Path::new("status");
    let mut known = 0;
    for (i, c) in conditions(new).iter().enumerate() {
        // Upstream writes this index as a path element of its own.
        let at = path.child("conditions").child(&format!("[{i}]"));
        let ty = text(c, "type");
        if !ENDS.contains(&ty) {
            errors.push(Error::not_supported(&at.child("type"), ty, ENDS));
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(Error::invalid(&at.child("type"), ty, detail));
        }
        if c["status"] != "True" {
            errors.push(Error::not_supported(&at.child("status"), text(c, "status"), &["True"]));
        }
    }
    shared::conditions(conditions(new), &path.child("conditions"), errors);
    if !errors.is_empty() {
        return;
    }
    let ended = |o: &Value, ty: &str| rest::is_true(conditions(o), ty);
    if ENDS.iter().any(|e| ended(old, e)) {
        if new["status"] != old["status"] {
            let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
            errors.push(omitted(&path, detail));
        }
    } else if ended(new, "Denied") || ended(new, "Failed") {
        if new["status"].as_object().is_some_and(|s| s.keys().any(|k| k != "conditions")) {
            let detail =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            errors.push(omitted(&path, detail));
        }
    } else if ended(new, "Issued") {
        chain::issued(new, old, ctx.now, errors);
    } else if new["status"] != old["status"] {
        let detail = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        errors.push(omitted(&path, detail));
    }
}
