//! The `AdmissionReview` that a webhook gets, and what it may answer
//! (upstream: `plugin/webhook/request/admissionreview.go`).

use crate::chain::Attributes;
use base64::Engine as _;
use kinds::KindDef;
use meta::status::Status;
use serde_json::{Map, Value, json};

/// The request's objects in the version that the webhook wants.
pub struct Sent<'a> {
    pub row: &'a KindDef,
    pub new: Option<Value>,
    pub old: Option<Value>,
}

/// A webhook's verdict.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub annotations: Map<String, Value>,
    pub warnings: Vec<String>,
    pub allowed: bool,
    pub result: Value,
    pub patch: Option<Value>,
}

/// The version to speak; `None` when the webhook knows none of ours.
pub fn version(accepted: &[String]) -> Option<&'static str> {
    accepted.iter().find_map(|v| match v.as_str() {
        "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    })
}

/// Group, version and kind of a request's object; the row's when there is none.
pub fn kind_of(object: Option<&Value>, row: &KindDef) -> Value {
    let text = |field: &str| object.and_then(|o| o[field].as_str()).unwrap_or("");
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    match (api_version.split_once('/'), kind) {
        (_, "") => json!({"group": row.group, "version": row.version, "kind": row.kind}),
        (Some((group, version)), kind) => json!({"group": group, "version": version, "kind": kind}),
        (None, kind) => json!({"group": "", "version": api_version, "kind": kind}),
    }
}

pub fn request(version: &str, uid: &str, sent: &Sent<'_>, a: &Attributes<'_>) -> Value {
    let row = sent.row;
    let resource =
        |row: &KindDef| json!({"group": row.group, "version": row.version, "resource": row.plural});
    let same = row.version == a.kind.version && row.group == a.kind.group;
    let kind = kind_of(sent.new.as_ref().or(sent.old.as_ref()), row);
    let request_kind = if same {
        kind.clone()
    } else {
        json!({"group": a.kind.group, "version": a.kind.version, "kind": a.kind.kind})
    };
    let mut request = json!({
        "uid": uid,
        "kind": kind,
        "resource": resource(row),
        "requestKind": request_kind,
        "requestResource": resource(a.kind),
        "operation": a.operation.as_str(),
        "userInfo": a.user.to_value(),
        "object": sent.new,
        "oldObject": sent.old,
        "dryRun": a.dry_run,
        "options": a.options,
    });
    for (field, value) in [("name", a.name), ("namespace", a.namespace)] {
        if !value.is_empty() {
            request[field] = value.into();
        }
    }
    if !a.subresource.is_empty() {
        request["subResource"] = a.subresource.into();
        request["requestSubResource"] = a.subresource.into();
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// Reads a webhook's answer.
///
/// # Errors
/// Why it is none (upstream: `VerifyAdmissionResponse`).
pub fn verdict(version: &str, uid: &str, mutating: bool, body: &[u8]) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    if version == "v1" {
        let got = text(&response["uid"]);
        if got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        let (api_version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
        if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"
            ));
        }
    }
    let encoded = text(&response["patch"]);
    let has_type = response.get("patchType").is_some_and(|t| !t.is_null());
    let strict = version == "v1";
    match (mutating, encoded.is_empty(), has_type) {
        (false, false, _) if strict => return Err("validating webhook may not return response.patch".into()),
        (false, _, true) if strict => {
            return Err("validating webhook may not return response.patchType".into());
        }
        (true, false, false) if strict => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (true, true, true) if strict => {
            return Err("webhook returned response.patchType but not response.patch".into());
        }
        (true, false, true) if text(&response["patchType"]) != "JSONPatch" => {
            return Err(format!("unsupported patch type {:?}", text(&response["patchType"])));
        }
        _ => {}
    }
    let patch = if mutating && !encoded.is_empty() {
        let bytes = base64::engine::general_purpose::STANDARD.decode(&encoded).map_err(|e| e.to_string())?;
        let patch = serde_json::from_slice(&bytes)
            .map_err(|e| format!("received undecodable patch in webhook response: {e}"))?;
        Some(patch)
    } else {
        None
    };
    Ok(Verdict {
        annotations: response["auditAnnotations"].as_object().cloned().unwrap_or_default(),
        warnings: meta::object::strings(&response["warnings"]),
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        patch,
    })
}

/// The refusal that a webhook asked for (upstream: `webhookerrors.ToStatusErr`).
pub fn refusal(webhook: &str, result: &Value) -> Status {
    let text = |f: &str| result[f].as_str().unwrap_or("");
    let by = format!("admission webhook {webhook:?} denied the request");
    let code =
        result["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| *c >= 400).unwrap_or(400);
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let mut told = result.clone();
    if !told.is_object() {
        told = json!({});
    }
    told["kind"] = "Status".into();
    told["apiVersion"] = "v1".into();
    told["message"] = message.into();
    told["code"] = code.into();
    told["status"] = "Failure".into();
    Status::from_body(code, told.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn an_answer_must_be_to_the_question() {
        let read = |r: Value| verdict("v1", "u", false, &answer(r));
        assert!(read(json!({"uid": "u", "allowed": true})).is_ok_and(|v| v.allowed));
        assert_eq!(
            read(json!({"uid": "x", "allowed": true})),
            Err("expected response.uid=\"u\", got \"x\"".into())
        );
        assert_eq!(
            read(json!({"uid": "u", "allowed": true, "patch": "W10="})),
            Err("validating webhook may not return response.patch".into())
        );
        assert_eq!(verdict("v1", "u", true, b"{}"), Err("webhook response was absent".into()));
    }

    #[test]
    fn patches_come_in_base64() {
        let patch = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"remove","path":"/a"}]"#);
        let read = verdict(
            "v1",
            "u",
            true,
            &answer(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch})),
        );
        assert_eq!(read.map(|v| v.patch), Ok(Some(json!([{"op": "remove", "path": "/a"}]))));
    }

    #[test]
    fn refusals_say_who_and_why() {
        let s = refusal("w", &json!({"message": "no", "code": 403, "reason": "Forbidden"}));
        assert_eq!((s.code, s.message.as_str()), (403, "admission webhook \"w\" denied the request: no"));
        let s = refusal("w", &Value::Null);
        assert_eq!(
            (s.code, s.message.as_str()),
            (400, "admission webhook \"w\" denied the request without explanation")
        );
    }
}
