//! What policies decide.

use super::*;
use kinds::KindDef;
use serde_json::json;

/// The verdict on a pod of a policy's spec.
fn verdict(spec: Value, pod: &Value) -> Verdict {
    with(spec, pod, None)
}

fn with(spec: Value, pod: &Value, params: Option<&Value>) -> Verdict {
    let fails = spec["failurePolicy"] != "Ignore";
    crate::testing::with_attributes(|a: &Attributes<'_>, row: &KindDef, z: &Authorizer| {
        let namespace = json!({"metadata": {"name": "n", "labels": {"env": "prod"}}});
        let seen = Seen { a, row, object: Some(pod), old: None, params, namespace: &namespace };
        compile(&spec).validate(fails, &Facts::new(seen, z))
    })
}

fn denied(v: &Verdict) -> Vec<&str> {
    v.decisions.iter().map(|d| d.as_ref().map_or("", |d| d.message.as_str())).collect()
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}, "spec": {"priority": 3}})
}

#[test]
fn validations_hold_or_say_why_not() {
    let v = verdict(
        json!({"validations": [
            {"expression": "object.spec.priority == 3"},
            {"expression": "object.spec.priority > 3", "messageExpression": "'got ' + string(object.spec.priority)"},
            {"expression": "object.spec.priority > 3", "message": " fixed ", "messageExpression": "'a\\nb'", "reason": "Forbidden"},
            {"expression": "object.spec.priority > 3 "},
        ]}),
        &pod(),
    );
    assert_eq!(denied(&v), ["", "got 3", "fixed", "failed expression: object.spec.priority > 3"]);
    assert_eq!(v.decisions[2].as_ref().map(|d| d.reason.as_str()), Some("Forbidden"));
}

#[test]
fn what_cannot_be_told_is_up_to_the_failure_policy() {
    let spec = |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.spec.nope == 1"}]});
    assert_eq!(
        denied(&verdict(spec("Fail"), &pod())),
        ["expression 'object.spec.nope == 1' resulted in error: no such key: nope"]
    );
    assert_eq!(denied(&verdict(spec("Ignore"), &pod())), [""]);
}

#[test]
fn conditions_keep_a_policy_away() {
    let spec = |condition: &str| json!({"matchConditions": [{"name": "c", "expression": condition}], "validations": [{"expression": "false"}]});
    assert_eq!(verdict(spec("object.metadata.name != 'p'"), &pod()), Verdict::default());
    assert_eq!(denied(&verdict(spec("object.metadata.name == 'p'"), &pod())), ["failed expression: false"]);
    let v = verdict(spec("object.nope == 1"), &pod());
    assert_eq!(denied(&v), ["expression 'object.nope == 1' resulted in error: no such key: nope"]);
}

#[test]
fn variables_use_each_other_and_are_made_when_needed() {
    let v = verdict(
        json!({
        "variables": [
            {"name": "priority", "expression": "object.spec.priority"},
            {"name": "odd", "expression": "variables.priority % 2 == 1"},
            {"name": "broken", "expression": "object.spec.nope"},
        ],
        "validations": [
            {"expression": "variables.priority > 1 && variables.odd"},
            {"expression": "true || variables.broken == 1"},
            {"expression": "variables.broken == 1"},
        ]}),
        &pod(),
    );
    let denied = denied(&v);
    assert_eq!(&denied[..2], ["", ""]);
    assert!(
        denied[2].contains("composited variable \"broken\" fails to evaluate: no such key: nope"),
        "{denied:?}"
    );
}

#[test]
fn everything_of_a_request_can_be_seen() {
    let params = json!({"data": {"max": "5"}});
    let v = with(
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [
            {"expression": "request.operation == 'CREATE' && request.kind.kind == 'Pod' && request.namespace == 'n'"},
            {"expression": "request.userInfo.username == 'somebody'"},
            {"expression": "namespaceObject.metadata.labels.env == 'prod'"},
            {"expression": "oldObject == null"},
            {"expression": "int(params.data.max) > object.spec.priority"},
            {"expression": "!authorizer.group('').resource('pods').namespace('n').check('delete').allowed()"},
            {"expression": "!authorizer.requestResource.check('create').allowed()"},
        ]}),
        &pod(),
        Some(&params),
    );
    assert_eq!(denied(&v), [""; 7]);
}

#[test]
fn annotations_are_texts_or_nothing() {
    let v = verdict(
        json!({"auditAnnotations": [
            {"key": "a", "valueExpression": "' x '"},
            {"key": "b", "valueExpression": "null"},
            {"key": "c", "valueExpression": "''"},
        ]}),
        &pod(),
    );
    let annotations: Vec<_> = v.annotations.iter().map(|(k, a)| (k.as_str(), a)).collect();
    assert_eq!(
        annotations,
        [("a", &Annotation::Publish("x".into())), ("b", &Annotation::Exclude), ("c", &Annotation::Exclude),]
    );
}

#[test]
fn policies_are_never_held_up_by_policies() {
    let concerned = |kind: &str| {
        let rows = kinds::table();
        let row = rows.iter().find(|r| r.kind == kind).expect("a row");
        crate::policy::concerns(row)
    };
    assert!(concerned("Pod") && concerned("ValidatingWebhookConfiguration"));
    assert!(!concerned("ValidatingAdmissionPolicy") && !concerned("MutatingAdmissionPolicyBinding"));
    assert!(!concerned("TokenReview"));
}

#[test]
fn actions_decide_what_becomes_of_a_denial() {
    let binding = |actions: &[&str]| {
        Binding::new(
            &json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": actions}}),
        )
    };
    let denial = || Verdict {
        decisions: vec![None, Some(Denial { message: "no".into(), reason: "Forbidden".into() })],
        annotations: vec![("k".into(), Annotation::Publish("v".into()))],
    };
    let mut tally = Tally::default();
    tally.count("p", &binding(&["Warn", "Audit"]), denial());
    assert!(tally.refused.is_none());
    assert_eq!(tally.warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no"]);
    assert_eq!(
        serde_json::to_string(&tally.failures).expect("JSON"),
        r#"[{"message":"no","policy":"p","binding":"b","expressionIndex":1,"validationActions":["Warn","Audit"]}]"#
    );
    tally.count("p", &binding(&["Deny"]), denial());
    assert_eq!(tally.annotations, [("p/k".to_owned(), vec!["v".to_owned()])]);
    let refused = crate::testing::with_attributes(|a, _, _| tally.finish(a, Some(&pod())));
    let refused = refused.expect_err("refused");
    assert_eq!((refused.code, refused.reason), (403, Reason::Forbidden));
    assert_eq!(
        refused.message,
        "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
    );
}
