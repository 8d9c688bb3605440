//! Cases of this group.

use super::*;
use crate::def::{Ctx, Requester};
use meta::field::aggregate;
use serde_json::{Value, json};

fn sample(row: &KindDef) -> Value {
    let (mut obj, _) = meta::yaml::parse_yaml(row.sample.as_bytes(), 1 << 20).unwrap();
    row.strategy.default(&mut obj);
    obj
}

fn text(errors: &ErrorList) -> String {
    if errors.is_empty() { String::new() } else { aggregate(errors) }
}

fn ctx(subresource: &str) -> Ctx<'_> {
    Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource }
}

#[test]
fn a_request_is_made_by_the_one_who_asks() {
    let row = csr::kind();
    let mut obj = sample(&row);
    obj["spec"]["username"] = "forged".into();
    row.strategy.prepare_create(&mut obj, &ctx(""));
    assert!(obj["spec"].get("username").is_none());
    let groups = ["g".to_owned()];
    let who = Requester { name: "alice", uid: "u", groups: &groups, extra: &Default::default() };
    row.strategy.requested_by(&mut obj, &who);
    assert_eq!((&obj["spec"]["username"], &obj["spec"]["groups"]), (&json!("alice"), &json!(["g"])));
    assert_eq!(text(&row.strategy.validate(&obj)), "");
}

#[test]
fn requests_are_checked() {
    let row = csr::kind();
    let good = sample(&row);
    let check = |field: &str, value: Value| {
        let mut obj = good.clone();
        obj["spec"][field] = value;
        text(&row.strategy.validate(&obj))
    };
    assert_eq!(
        check("signerName", json!("kubernetes.io/legacy-unknown")),
        "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version"
    );
    assert_eq!(
        check("signerName", json!("signer")),
        "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form 'example.com/signer-name'"
    );
    assert_eq!(check("usages", json!([])), "spec.usages: Required value");
    assert_eq!(
        check("usages", json!(["client auth", "client auth"])),
        "spec.usages[1]: Duplicate value: \"client auth\""
    );
    assert_eq!(
        check("expirationSeconds", json!(599)),
        "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"
    );
    assert!(check("request", json!("AAAA")).ends_with("PEM block type must be CERTIFICATE REQUEST"));
    assert_eq!(
        row.strategy.name_errors("http://x", false),
        [""; 0],
        "looked at only when nothing else is wrong"
    );
}

#[test]
fn approval_and_certificate_have_their_own_ways() {
    let row = csr::kind();
    let old = sample(&row);
    let mut approved = old.clone();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
    let mut by_status = approved.clone();
    row.strategy.prepare_update(&mut by_status, &old, &ctx("status"));
    assert_eq!(
        text(&row.strategy.validate_update(&by_status, &old, &ctx("status"))),
        "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
    );
    let mut by_approval = approved;
    by_approval["status"]["certificate"] = "AAAA".into();
    row.strategy.prepare_update(&mut by_approval, &old, &ctx("approval"));
    assert!(by_approval["status"].get("certificate").is_none());
    assert_eq!(by_approval["status"]["conditions"][0]["lastUpdateTime"], "1970-01-01T00:00:00Z");
    assert_eq!(text(&row.strategy.validate_update(&by_approval, &old, &ctx("approval"))), "");
    let mut removed = by_approval.clone();
    removed["status"]["conditions"] = json!([]);
    assert!(
        text(&row.strategy.validate_update(&removed, &by_approval, &ctx("approval")))
            .contains("updates may not remove a condition of type \"Approved\"")
    );
}

#[test]
fn conditions_are_checked() {
    let row = csr::kind();
    let good = sample(&row);
    let with = |conditions: Value| {
        let mut obj = good.clone();
        obj["status"]["conditions"] = conditions;
        obj
    };
    let check = |new: &Value, old: &Value| text(&row.strategy.validate_update(new, old, &ctx("approval")));
    let one = |ty: &str, status: &str| json!({"type": ty, "status": status});
    let both = with(json!([one("Approved", "True"), one("Denied", "True")]));
    let members = r#"conditions[{"type": "Approved"}], conditions[{"type": "Denied"}]"#;
    assert_eq!(
        check(&both, &good),
        format!(
            "status.conditions: Invalid value: {:?}: must specify at most one of: {members}",
            format!("{{{members}}}")
        )
    );
    assert_eq!(check(&both, &both), "");
    for (conditions, want) in [
        (json!([one("", "True")]), "status.conditions[0].type: Required value"),
        (json!([one("a", "")]), "status.conditions[0].status: Required value"),
        (
            json!([one("Approved", "False")]),
            "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
        ),
        (
            json!([one("a", "Maybe")]),
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
        ),
        (json!([one("a", "True"), one("a", "True")]), "status.conditions[1].type: Duplicate value: \"a\""),
    ] {
        assert_eq!(check(&with(conditions), &good), want);
    }
}

#[test]
fn certificates_are_checked() {
    use base64::Engine;
    let (row, bundles) = (csr::kind(), trust_bundle::kind());
    let good = sample(&row);
    let pem = sample(&bundles)["spec"]["trustBundle"].as_str().unwrap().to_owned();
    let with = |pem: &str| {
        let mut obj = good.clone();
        obj["status"]["certificate"] = base64::engine::general_purpose::STANDARD.encode(pem).into();
        obj
    };
    let check = |new: &Value, old: &Value, subresource: &str| {
        text(&row.strategy.validate_update(new, old, &ctx(subresource)))
    };
    let invalid = |why: &str| format!("status.certificate: Invalid value: \"<certificate data>\": {why}");
    assert_eq!(check(&with(&pem.repeat(2)), &good, "status"), "");
    assert_eq!(
        check(&with("x"), &good, "status"),
        invalid("must contain at least one CERTIFICATE PEM block")
    );
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(
        check(&with(&format!("{pem}{key}")), &good, "status"),
        invalid("only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\"")
    );
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(check(&with(bad), &good, "status"), invalid("x509: malformed certificate"));
    assert_eq!(check(&with("x"), &with("x"), "status"), "");
    assert_eq!(
        check(&with(&pem), &good, ""),
        "status.certificate: Forbidden: updates may not set certificate content"
    );
    assert_eq!(
        check(&with(&pem.repeat(2)), &with(&pem), "status"),
        "status.certificate: Forbidden: updates may not modify existing certificate content"
    );
}

#[test]
fn bundles_are_checked() {
    let row = trust_bundle::kind();
    let good = sample(&row);
    assert_eq!(text(&row.strategy.validate(&good)), "");
    let twice = good["spec"]["trustBundle"].as_str().unwrap().repeat(2);
    let check = |name: &str, spec: Value| {
        text(&row.strategy.validate(&json!({"metadata": {"name": name}, "spec": spec})))
    };
    assert_eq!(
        check("roots", json!({"trustBundle": twice})),
        "spec.trustBundle: Invalid value: \"<value omitted>\": duplicate trust anchor (indices [0 1])"
    );
    assert_eq!(
        check("roots", json!({"trustBundle": "garbage"})),
        "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided"
    );
    assert!(check("roots", json!({"trustBundle": good["spec"]["trustBundle"], "signerName": "a.b/c"})).contains(
        "metadata.name: Invalid value: \"roots\": ClusterTrustBundle for signerName a.b/c must be named with prefix a.b:c:"
    ));
}

#[test]
fn pods_requests_are_checked() {
    let row = pod_certificate::kind();
    let good = sample(&row);
    assert_eq!(text(&row.strategy.validate(&good)), "");
    let mut obj = good.clone();
    obj["spec"]["maxExpirationSeconds"] = 60.into();
    obj["spec"]["podUID"] = "".into();
    assert_eq!(
        text(&row.strategy.validate(&obj)),
        "[spec.podUID: Invalid value: \"\": must not be empty, spec.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]]"
    );
    let mut stub = bytes(good["spec"]["stubPKCS10Request"].as_str().unwrap());
    let last = stub.len() - 1;
    stub[last] ^= 1;
    use base64::Engine;
    obj = good.clone();
    obj["spec"]["stubPKCS10Request"] = base64::engine::general_purpose::STANDARD.encode(&stub).into();
    assert_eq!(
        text(&row.strategy.validate(&obj)),
        "spec.stubPKCS10Request: Invalid value: invalid signature"
    );
    let mut denied = good.clone();
    denied["status"]["conditions"] = json!([{"type": "Denied", "status": "True", "reason": "No", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    assert_eq!(text(&row.strategy.validate_update(&denied, &good, &ctx("status"))), "");
    assert_eq!(
        text(&row.strategy.validate_update(&good, &denied, &ctx("status"))),
        "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"
    );
}
