//! CertificateSigningRequest: a key asks to be certified.
//!
//! Who asked is written by the server alone ([`Strategy::requested_by`]); spec never changes after creation.

use super::asked::{Asked, verify};
use super::{bytes, pem, row, signer_name};
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Requester, Strategy, StrategyRef, Subresource, status};
use crate::rest;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use serde_json::{Value, json};

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Shortest lifetime that may be asked for, in seconds.
const EXPIRATION_SECONDS_MIN: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub fn kind() -> KindDef {
    KindDef {
        short: &["csr"],
        subresources: const {
            &[Subresource { name: "approval", verbs: &["get", "patch", "update"], body: None }, status()]
        },
        columns: const {
            &[
                NAME,
                AGE,
                column("SignerName", "string", |o, _| match text(&o["spec"], "signerName") {
                    "" => "<none>".into(),
                    name => name.into(),
                }),
                column("Requestor", "string", |o, _| text(&o["spec"], "username").into()),
                column("RequestedDuration", "string", |o, _| match o["spec"]["expirationSeconds"].as_i64() {
                    Some(s) => meta::time::human_duration(jiff::SignedDuration::from_secs(s)).into(),
                    None => "<none>".into(),
                }),
                column("Condition", "string", |o, _| condition(o).into()),
            ]
        },
        selectable: &["spec.signerName"],
        strategy: StrategyRef::Static(&SigningRequest),
        sample: include_str!("samples/csr.yaml"),
        ..row(
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
            "io.k8s.api.certificates.v1.CertificateSigningRequest",
        )
    }
}

fn conditions(o: &Value) -> &[Value] {
    items(&o["status"], "conditions")
}

/// Upstream: `extractCSRStatus`.
fn condition(o: &Value) -> String {
    let has = |ty: &str| conditions(o).iter().any(|c| c["type"] == ty);
    let mut out = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !text(&o["status"], "certificate").is_empty() {
        out.push_str(",Issued");
    }
    out
}

struct SigningRequest;

impl Strategy for SigningRequest {
    fn checks_names_on_update(&self, _: &str) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
        }
        obj["status"] = json!({});
    }

    fn requested_by(&self, obj: &mut Value, who: &Requester) {
        let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for (field, value) in [("username", who.name), ("uid", who.uid)] {
            if !value.is_empty() {
                spec.insert(field.to_owned(), value.into());
            }
        }
        if !who.groups.is_empty() {
            spec.insert("groups".to_owned(), who.groups.into());
        }
        if !who.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(who.extra));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        rest::keep(new, old, "spec");
        match ctx.subresource {
            "status" => {
                keep_instances(new, old, "Approved");
                keep_instances(new, old, "Denied");
                stamp(new, old, ctx);
            }
            "approval" => {
                stamp(new, old, ctx);
                let conditions = new["status"].get("conditions").cloned();
                rest::keep(new, old, "status");
                if let Some(status) = object::map_at(new, &["status"]) {
                    match conditions {
                        Some(v) => status.insert("conditions".to_owned(), v),
                        None => status.remove("conditions"),
                    };
                }
            }
            _ => rest::keep(new, old, "status"),
        }
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        Some(match subresource {
            "status" => &["spec", "status.conditions"],
            "approval" => &["spec", "status.certificate"],
            _ => &["spec", "status"],
        })
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        check(obj, None, &mut errors);
        exclusive(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        check(new, Some(old), &mut errors);
        changes(new, old, ctx.subresource, &mut errors);
        exclusive(new, Some(old), &mut errors);
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(&obj["spec"], "signerName").to_owned())]
    }

    /// Any name that is one segment of a path, which is looked at last.
    fn name_errors(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }
}

/// Conditions of a type are put back one by one, unless some came or went, which validation then refuses.
fn keep_instances(new: &mut Value, old: &Value, ty: &str) {
    let was: Vec<&Value> = conditions(old).iter().filter(|c| c["type"] == ty).collect();
    let Some(list) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    let slots: Vec<&mut Value> = list.iter_mut().filter(|c| c["type"] == ty).collect();
    if slots.len() == was.len() {
        for (slot, old) in slots.into_iter().zip(was) {
            *slot = old.clone();
        }
    }
}

/// Upstream: `populateConditionTimestamps`.
fn stamp(new: &mut Value, old: &Value, ctx: &Ctx) {
    let now = meta::time::rfc3339(ctx.now);
    let Some(list) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for c in list {
        if text(c, "lastUpdateTime").is_empty() {
            c["lastUpdateTime"] = now.as_str().into();
        }
        if text(c, "lastTransitionTime").is_empty() {
            let same = |o: &&Value| {
                o["type"] == c["type"]
                    && o["status"] == c["status"]
                    && !text(o, "lastTransitionTime").is_empty()
            };
            let then = conditions(old).iter().find(same).map(|o| o["lastTransitionTime"].clone());
            c["lastTransitionTime"] = then.unwrap_or_else(|| now.as_str().into());
        }
    }
}

fn has_duplicates(list: &[Value], of: impl Fn(&Value) -> &Value) -> bool {
    list.iter().enumerate().any(|(i, v)| list[..i].iter().any(|o| of(o) == of(v)))
}

fn is_usage(v: &Value) -> bool {
    v.as_str().is_some_and(|u| USAGES.contains(&u))
}

/// Upstream: `validateCertificateSigningRequest`; what was wrong in the old object may stay.
fn check(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), &obj["spec"]);
    if let Some(why) = bad_request(text(spec, "request")) {
        errors.push(Error::invalid(&path.child("request"), spec["request"].clone(), why));
    }
    let (usages, at) = (items(spec, "usages"), path.child("usages"));
    if usages.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    let was = old.map_or(&[][..], |o| items(&o["spec"], "usages"));
    if was.iter().all(is_usage) {
        for (i, usage) in usages.iter().enumerate().filter(|(_, u)| !is_usage(u)) {
            errors.push(Error::not_supported(&at.index(i), usage.clone(), USAGES));
        }
    }
    if !has_duplicates(was, |v| v) {
        for (i, usage) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
            errors.push(Error::duplicate(&at.index(i), usage.clone()));
        }
    }
    let (signer, at) = (text(spec, "signerName"), path.child("signerName"));
    if signer == LEGACY_SIGNER && old.is_none_or(|o| o["spec"]["signerName"] != LEGACY_SIGNER) {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(Error::invalid(&at, signer, detail));
    } else {
        signer_name(signer, &at, errors);
    }
    if let Some(n) = spec["expirationSeconds"].as_i64().filter(|n| *n < EXPIRATION_SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), n, detail));
    }
    condition_errors(obj, old, errors);
    let (certificate, was) =
        (text(&obj["status"], "certificate"), old.map(|o| text(&o["status"], "certificate")));
    let tolerated = was.is_some_and(|w| w == certificate || bad_certificate(w).is_some());
    if let Some(why) = bad_certificate(certificate).filter(|_| !tolerated) {
        let at = Path::new("status").child("certificate");
        errors.push(Error::invalid(&at, "<certificate data>", why));
    }
}

/// Upstream: `validateCSR`.
fn bad_request(text: &str) -> Option<String> {
    match Asked::from_pem(&bytes(text)) {
        Ok(asked) => verify(&asked.der).err().map(str::to_owned),
        Err(why) => Some(why),
    }
}

/// Upstream: `validateCertificate`; none is well.
fn bad_certificate(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let raw = bytes(text);
    let blocks = pem::blocks(&String::from_utf8_lossy(&raw));
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        match super::chain::certificates(&block.der) {
            None => return Some("x509: malformed certificate".to_owned()),
            Some(0) => return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned()),
            Some(_) => {}
        }
    }
    blocks.is_empty().then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

/// A request is approved or denied, not both; who has both already may keep both (upstream: the declared
/// `zeroOrOneOfMember` of `status.conditions`, which stands for the check in `validateConditions`).
fn exclusive(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    const BOTH: &str = r#"conditions[{"type": "Approved"}], conditions[{"type": "Denied"}]"#;
    let has_both =
        |o: &Value| ["Approved", "Denied"].iter().all(|ty| conditions(o).iter().any(|c| c["type"] == *ty));
    if has_both(obj) && !old.is_some_and(has_both) {
        let detail = format!("must specify at most one of: {BOTH}");
        errors.push(Error::invalid(&Path::new("status").child("conditions"), format!("{{{BOTH}}}"), detail));
    }
}

/// Upstream: `validateConditions`.
fn condition_errors(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = Path::new("status").child("conditions");
    let was = old.map_or(&[][..], conditions);
    let list = conditions(obj);
    for (i, c) in list.iter().enumerate() {
        let (at, ty) = (path.index(i), text(c, "type"));
        if ty.is_empty() && !was.iter().any(|c| text(c, "type").is_empty()) {
            errors.push(Error::required(&at.child("type"), ""));
        }
        let allowed: &[&str] = if matches!(ty, "Approved" | "Denied" | "Failed") {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        match text(c, "status") {
            "" => errors.push(Error::required(&at.child("status"), "")),
            s if !allowed.contains(&s) => errors.push(Error::not_supported(&at.child("status"), s, allowed)),
            _ => {}
        }
        if list[..i].iter().any(|o| o["type"] == c["type"]) && !has_duplicates(was, |c| &c["type"]) {
            errors.push(Error::duplicate(&at.child("type"), ty));
        }
    }
}

/// Upstream: `validateCertificateSigningRequestUpdate`.
fn changes(new: &Value, old: &Value, subresource: &str, errors: &mut ErrorList) {
    fn of<'a>(o: &'a Value, ty: &str) -> Vec<&'a Value> {
        conditions(o).iter().filter(|c| c["type"] == ty).collect()
    }
    let path = Path::new("status").child("conditions");
    for ty in ["Approved", "Denied", "Failed"] {
        if of(new, ty).len() < of(old, ty).len() {
            let detail = format!("updates may not remove a condition of type {ty}", ty = quoted(ty));
            errors.push(Error::forbidden(&path, detail));
        }
    }
    if subresource != "approval" {
        for ty in ["Approved", "Denied"] {
            let (is, was) = (of(new, ty), of(old, ty));
            if is.len() > was.len() {
                let detail = format!("updates may not add a condition of type {ty}", ty = quoted(ty));
                errors.push(Error::forbidden(&path, detail));
            } else if is.len() == was.len() && is != was {
                let detail = format!("updates may not modify a condition of type {ty}", ty = quoted(ty));
                errors.push(Error::forbidden(&path, detail));
            }
        }
    }
    let (is, was) = (text(&new["status"], "certificate"), text(&old["status"], "certificate"));
    if is != was {
        let at = Path::new("status").child("certificate");
        if subresource != "status" {
            errors.push(Error::forbidden(&at, "updates may not set certificate content"));
        } else if !was.is_empty() {
            errors.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
        }
    }
}
