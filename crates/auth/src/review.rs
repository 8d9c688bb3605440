//! Access reviews: questions to the authoriser that are asked as objects
//! (upstream: `pkg/registry/authorization`, `pkg/registry/authentication/selfsubjectreview`).
//!
//! Each function takes the object as sent and gives it back with its status. They belong into
//! [`Authorizer::settle`].

use crate::authorize::{Attributes, Authorizer, Decision};
use crate::identity::Identity;
use crate::rbac::Rule;
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path};
use meta::selector::{FieldSelector, LabelSelector, Operator, Requirement};
use meta::status::{Result, Status};
use meta::{GroupKind, GroupResource, object};
use serde_json::{Value, json};

const ONE_OF: &str = "exactly one of nonResourceAttributes or resourceAttributes must be specified";

/// May somebody, named in the review, do something?
///
/// # Errors
/// 422 for a question that makes no sense.
pub fn subject_access_review(review: &Value, authorizer: &Authorizer) -> Result<Value> {
    let errors = subject_errors(review, &["managedFields"], "must be empty");
    valid(&errors)?;
    Ok(answer(review, &subject(&review["spec"]), authorizer))
}

/// The same, asked within the namespace of the request.
///
/// # Errors
/// 422 for a question that makes no sense, 400 for one about another namespace.
pub fn local_subject_access_review(
    review: &Value,
    namespace: &str,
    authorizer: &Authorizer,
) -> Result<Value> {
    let (spec, own) = (&review["spec"], object::namespace(review));
    let mut errors =
        subject_errors(review, &["managedFields", "namespace"], "must be empty except for namespace");
    if spec["resourceAttributes"].is_object() && text(&spec["resourceAttributes"], "namespace") != own {
        let at = Path::new("spec.resourceAttributes.namespace");
        errors.push(Error::invalid(
            &at,
            text(&spec["resourceAttributes"], "namespace"),
            "must match metadata.namespace",
        ));
    }
    if spec["nonResourceAttributes"].is_object() {
        let at = Path::new("spec.nonResourceAttributes");
        errors.push(Error::invalid(
            &at,
            shown(&spec["nonResourceAttributes"]),
            "disallowed on this kind of request",
        ));
    }
    valid(&errors)?;
    if namespace != own {
        let why = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(Status::bad_request(why));
    }
    Ok(answer(review, &subject(spec), authorizer))
}

/// May I do something?
///
/// # Errors
/// 422 for a question that makes no sense.
pub fn self_subject_access_review(review: &Value, user: &Identity, authorizer: &Authorizer) -> Result<Value> {
    let mut errors = spec_errors(&review["spec"], false);
    metadata_errors(review, &["managedFields"], "must be empty", &mut errors);
    valid(&errors)?;
    Ok(answer(review, user, authorizer))
}

/// What may I do in a namespace?
///
/// # Errors
/// 400 without a namespace.
pub fn self_subject_rules_review(review: &Value, user: &Identity, authorizer: &Authorizer) -> Result<Value> {
    let namespace = text(&review["spec"], "namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let held = authorizer.rbac.rules_for(user, namespace);
    let of = |wanted: fn(&Rule) -> bool, fields: &[&str]| -> Vec<Value> {
        let pick = |r: &Rule| {
            let mut v = r.to_value();
            if let Some(m) = v.as_object_mut() {
                m.retain(|k, _| fields.contains(&k.as_str()));
            }
            v
        };
        held.rules.iter().filter(|r| wanted(r)).map(pick).collect()
    };
    let resource = of(|r| !r.resources.is_empty(), &["apiGroups", "resources", "resourceNames", "verbs"]);
    let other = of(|r| !r.non_resource_urls.is_empty(), &["nonResourceURLs", "verbs"]);
    let mut errors: Vec<String> = held.error().into_iter().collect();
    let is_node = user.node_name().is_some();
    if is_node {
        errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    if authorizer.has_webhook() {
        errors.push("webhook authorizer does not support user rule resolution".to_owned());
    }
    let incomplete = is_node || authorizer.has_webhook();
    let mut status = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": incomplete});
    if !errors.is_empty() {
        status["evaluationError"] = crate::text::aggregate(&errors).into();
    }
    Ok(
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "metadata": {}, "spec": {}, "status": status}),
    )
}

/// Who am I?
pub fn self_subject_review(user: &Identity, now: Timestamp) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": meta::time::rfc3339(now)}, "status": {"userInfo": user.to_value()},
    })
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or("")
}

/// The kind is missing from upstream's message, where the internal object has none.
fn valid(errors: &ErrorList) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind { group: "authorization.k8s.io".into(), kind: String::new() }, "", errors))
}

/// As Go prints the internal type, which has no JSON names.
fn shown(attributes: &Value) -> Value {
    if attributes.is_null() {
        return Value::Null;
    }
    json!({"Path": text(attributes, "path"), "Verb": text(attributes, "verb")})
}

fn subject_errors(review: &Value, allowed: &[&str], why: &str) -> ErrorList {
    let mut errors = spec_errors(&review["spec"], true);
    metadata_errors(review, allowed, why, &mut errors);
    errors
}

fn spec_errors(spec: &Value, with_subject: bool) -> ErrorList {
    let (at, mut errors) = (Path::new("spec"), Vec::new());
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_null() == other.is_null() {
        errors.push(Error::invalid(&at, shown(other), ONE_OF));
    }
    if with_subject && text(spec, "user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty) {
        errors.push(Error::invalid(
            &at.child("user"),
            text(spec, "user"),
            "at least one of user or group must be specified",
        ));
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let s = &resource[selector];
        if s.is_null() {
            continue;
        }
        let at = Path::new("spec.resourceAttributes").child(selector);
        let (raw, list) =
            (text(s, "rawSelector"), s["requirements"].as_array().is_some_and(|r| !r.is_empty()));
        if !raw.is_empty() && list {
            let why = "may not specified at the same time as requirements";
            errors.push(Error::invalid(&at.child("rawSelector"), raw, why));
        }
        for (i, r) in s["requirements"].as_array().into_iter().flatten().enumerate() {
            let (key, at) = (text(r, "key"), at.child("requirements").index(i).child("key"));
            if selector == "labelSelector" {
                let wrong = meta::names::label_key_errors(key).into_iter();
                errors.extend(wrong.map(|m| Error::invalid(&at, key, m)));
            }
        }
        if raw.is_empty() && !list {
            let why = format!("when {at} is specified, requirements or rawSelector is required");
            errors.push(Error::required(&at.child("requirements"), why));
        }
    }
    errors
}

fn metadata_errors(review: &Value, allowed: &[&str], why: &str, errors: &mut ErrorList) {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Object(m) => m.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    let metadata = review["metadata"].as_object();
    if metadata.is_some_and(|m| m.iter().any(|(k, v)| !allowed.contains(&k.as_str()) && !empty(v))) {
        errors.push(Error::invalid(&Path::new("metadata"), review["metadata"].clone(), why));
    }
}

/// The user that a review names.
fn subject(spec: &Value) -> Identity {
    let list = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Identity {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: list(&spec["groups"]),
        extra: spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), list(v))).collect(),
    }
}

fn answer(review: &Value, user: &Identity, authorizer: &Authorizer) -> Value {
    let (attributes, errors) = attributes(&review["spec"], user);
    let decision = authorizer.authorize(&attributes);
    let mut status = json!({"allowed": decision.is_allowed()});
    if matches!(decision, Decision::Deny { .. }) {
        status["denied"] = true.into();
    }
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    let mut errors = errors;
    errors.extend(authorizer.error());
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    let mut out = review.clone();
    out["status"] = status;
    out
}

/// The question, and what of its selectors could not be taken into account.
fn attributes<'a>(spec: &'a Value, user: &'a Identity) -> (Attributes<'a>, Vec<String>) {
    let r = &spec["resourceAttributes"];
    if r.is_null() {
        let n = &spec["nonResourceAttributes"];
        return (Attributes::for_path(user, text(n, "verb"), text(n, "path")), Vec::new());
    }
    let version = if text(r, "version").is_empty() { "*" } else { text(r, "version") };
    let resource = GroupResource::new(text(r, "group"), text(r, "resource"));
    let mut a = Attributes::for_resource(user, text(r, "verb"), resource, version)
        .sub(text(r, "subresource"))
        .in_namespace(text(r, "namespace"))
        .named(text(r, "name"));
    let mut errors = Vec::new();
    let mut remark = |which: &str, partly: bool| {
        let how = if partly { "partially ignored" } else { "ignored" };
        errors.push(format!("spec.resourceAttributes.{which} {how} due to parse error"));
    };
    let (fields, bad) = field_selector(&r["fieldSelector"]);
    if bad {
        remark("fieldSelector", fields.is_some());
    }
    let (labels, bad) = label_selector(&r["labelSelector"]);
    if bad {
        remark("labelSelector", labels.is_some());
    }
    a.field_selector = fields;
    a.label_selector = labels;
    (a, errors)
}

/// The requirements that can be read, and whether any cannot. All must hold, so that fewer ask for more.
fn field_selector(s: &Value) -> (Option<FieldSelector>, bool) {
    let raw = text(s, "rawSelector");
    let list = s["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        let parsed = FieldSelector::parse(raw);
        return (parsed.as_ref().ok().filter(|p| !p.is_empty()).cloned(), parsed.is_err());
    }
    let escape = |s: &str| s.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let terms: Vec<String> = list
        .iter()
        .filter_map(|r| {
            let [value] = r["values"].as_array()?.as_slice() else { return None };
            let op = match text(r, "operator") {
                "In" => "=",
                "NotIn" => "!=",
                _ => return None,
            };
            Some(format!("{}{op}{}", text(r, "key"), escape(value.as_str()?)))
        })
        .collect();
    let bad = terms.len() < list.len();
    match FieldSelector::parse(&terms.join(",")) {
        Ok(s) => (Some(s).filter(|s| !s.is_empty()), bad),
        Err(_) => (None, true),
    }
}

fn label_selector(s: &Value) -> (Option<LabelSelector>, bool) {
    let list = s["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        let parsed = LabelSelector::parse(text(s, "rawSelector"));
        return (parsed.as_ref().ok().filter(|p| !p.is_empty()).cloned(), parsed.is_err());
    }
    let (mut out, mut bad) = (LabelSelector::everything(), false);
    for r in list {
        let operator = match text(r, "operator") {
            "In" => Some(Operator::In),
            "NotIn" => Some(Operator::NotIn),
            "Exists" => Some(Operator::Exists),
            "DoesNotExist" => Some(Operator::DoesNotExist),
            _ => None,
        };
        let values = r["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        match operator.map(|op| Requirement::new(text(r, "key"), op, values)) {
            Some(Ok(requirement)) => out = out.with(requirement),
            _ => bad = true,
        }
    }
    (Some(out).filter(|s| !s.is_empty()), bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeAuthorizer;
    use crate::rbac::Rbac;
    use std::sync::Arc;

    fn authorizer() -> Authorizer {
        let rbac = Rbac::default();
        rbac.apply("ClusterRole", &json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}, {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]}));
        rbac.apply(
            "ClusterRoleBinding",
            &json!({"metadata": {"name": "b"}, "subjects": [{"kind": "Group", "name": "dev"}],
            "roleRef": {"kind": "ClusterRole", "name": "r"}}),
        );
        Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(rbac))
    }

    fn pods(verb: &str) -> Value {
        json!({"verb": verb, "resource": "pods", "name": "a", "namespace": "ns"})
    }

    const WHY: &str = "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to Group \"dev\"";

    #[test]
    fn answers_carry_reasons() {
        let a = authorizer();
        let ask =
            |spec: Value| subject_access_review(&json!({"spec": spec}), &a).map(|r| r["status"].clone());
        assert_eq!(
            ask(json!({"groups": ["dev"], "resourceAttributes": pods("get")})),
            Ok(json!({"allowed": true, "reason": WHY}))
        );
        assert_eq!(
            ask(json!({"user": "x", "resourceAttributes": pods("get")})),
            Ok(json!({"allowed": false}))
        );
        assert_eq!(
            ask(json!({"groups": ["dev"], "nonResourceAttributes": {"verb": "get", "path": "/metrics"}})),
            Ok(json!({"allowed": true, "reason": WHY}))
        );
        let dev = Identity::new("me", &["dev"]);
        let own = self_subject_access_review(&json!({"spec": {"resourceAttributes": pods("get")}}), &dev, &a)
            .expect("answered");
        assert_eq!(own["status"]["allowed"], true);
    }

    #[test]
    fn senseless_questions_are_refused() {
        let a = authorizer();
        let why = |r: Result<Value>| r.expect_err("refused").message;
        let sar = |v: Value| why(subject_access_review(&v, &a));
        assert_eq!(
            sar(json!({"spec": {"user": "x"}})),
            ".authorization.k8s.io \"\" is invalid: spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        );
        assert!(
            sar(json!({"spec": {"resourceAttributes": pods("get")}}))
                .contains("spec.user: Invalid value: \"\": at least one of user or group must be specified")
        );
        assert!(
            sar(json!({"metadata": {"name": "x"}, "spec": {"user": "x", "resourceAttributes": pods("get")}}))
                .contains("metadata: Invalid value: {\"name\":\"x\"}: must be empty")
        );
        let mut both = pods("get");
        both["fieldSelector"] = json!({});
        assert!(
            sar(json!({"spec": {"user": "x", "resourceAttributes": both}}))
                .contains("requirements or rawSelector is required")
        );
        let local = |ns: &str, v: Value| local_subject_access_review(&v, ns, &a);
        let spec = json!({"user": "x", "resourceAttributes": pods("get")});
        assert!(local("ns", json!({"metadata": {"namespace": "ns"}, "spec": spec})).is_ok());
        assert!(why(local("ns", json!({"spec": spec}))).contains("must match metadata.namespace"));
        assert_eq!(
            local("other", json!({"metadata": {"namespace": "ns"}, "spec": spec})).expect_err("refused").code,
            400
        );
        let path = json!({"user": "x", "nonResourceAttributes": {"verb": "get", "path": "/x"}});
        assert!(
            why(local("ns", json!({"metadata": {"namespace": "ns"}, "spec": path})))
                .contains("disallowed on this kind of request")
        );
    }

    #[test]
    fn selectors_count_and_bad_ones_are_told() {
        let a = authorizer();
        let node = Identity::node("n1");
        let ask = |selector: Value| {
            let r = json!({"verb": "list", "resource": "pods", "version": "v1", "fieldSelector": selector});
            self_subject_access_review(&json!({"spec": {"resourceAttributes": r}}), &node, &a)
                .expect("answered")["status"]
                .clone()
        };
        let own = |key: &str, op: &str| json!({"key": key, "operator": op, "values": ["n1"]});
        assert_eq!(ask(json!({"rawSelector": "spec.nodeName=n1"})), json!({"allowed": true}));
        assert_eq!(ask(json!({"requirements": [own("spec.nodeName", "In")]})), json!({"allowed": true}));
        assert_eq!(ask(json!({"requirements": [own("spec.nodeName", "NotIn")]}))["allowed"], false);
        let partly = ask(json!({"requirements": [own("spec.nodeName", "In"), own("x", "Odd")]}));
        assert_eq!(
            partly,
            json!({"allowed": true, "evaluationError": "spec.resourceAttributes.fieldSelector partially ignored due to parse error"})
        );
        let bad = ask(json!({"rawSelector": "nonsense"}));
        assert_eq!(
            (&bad["allowed"], &bad["evaluationError"]),
            (&json!(false), &json!("spec.resourceAttributes.fieldSelector ignored due to parse error"))
        );
    }

    #[test]
    fn my_rules_and_myself() {
        let a = authorizer();
        let dev = Identity::new("me", &["dev"]);
        let rules = |user: &Identity| {
            self_subject_rules_review(&json!({"spec": {"namespace": "ns"}}), user, &a).expect("answered")["status"].clone()
        };
        assert_eq!(
            rules(&dev),
            json!({"incomplete": false, "nonResourceRules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
                "resourceRules": [{"apiGroups": [""], "resourceNames": ["a"], "resources": ["pods"], "verbs": ["get"]}]})
        );
        let node = rules(&Identity::node("n1"));
        assert_eq!(
            (&node["incomplete"], &node["evaluationError"]),
            (&json!(true), &json!("node authorizer does not support user rule resolution"))
        );
        assert!(self_subject_rules_review(&json!({}), &dev, &a).is_err());
        let me = self_subject_review(&dev, Timestamp::UNIX_EPOCH);
        assert_eq!(me["status"]["userInfo"], json!({"username": "me", "groups": ["dev"]}));
    }
}
