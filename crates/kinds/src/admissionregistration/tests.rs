//! Cases from upstream's table of this group.

use crate::admissionregistration::{policies, webhooks};
use crate::{Ctx, KindDef};
use meta::field::{ErrorList, aggregate};
use serde_json::{Value, json};

fn text(errors: &ErrorList) -> String {
    if errors.is_empty() { String::new() } else { aggregate(errors) }
}

fn create(row: &KindDef, mut obj: Value) -> String {
    row.strategy.default(&mut obj);
    text(&row.strategy.validate(&obj))
}

fn hook(extra: Value) -> Value {
    let mut hook = json!({
        "name": "webhook.k8s.io", "clientConfig": {"url": "https://example.com"},
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    for (k, v) in extra.as_object().unwrap() {
        hook[k] = v.clone();
    }
    json!({"metadata": {"name": "config"}, "webhooks": [hook]})
}

fn rule(resources: Value) -> Value {
    json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["a"], "apiVersions": ["a"], "resources": resources}]})
}

#[test]
fn webhooks_are_checked() {
    let row = webhooks::validating();
    for (extra, want) in [
        (json!({}), ""),
        (json!({"name": ""}), "webhooks[0].name: Required value"),
        (
            json!({"name": "k8s.io"}),
            "webhooks[0].name: Invalid value: \"k8s.io\": should be a domain with at least three segments separated by dots",
        ),
        (
            json!({"sideEffects": "Unknown"}),
            "webhooks[0].sideEffects: Unsupported value: \"Unknown\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            json!({"sideEffects": null}),
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
        ),
        (
            json!({"admissionReviewVersions": []}),
            "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
        ),
        (
            json!({"admissionReviewVersions": ["v0"]}),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v0\"]: must include at least one of v1, v1beta1",
        ),
        (
            json!({"timeoutSeconds": 31}),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            json!({"failurePolicy": "other"}),
            "webhooks[0].failurePolicy: Unsupported value: \"other\": supported values: \"Fail\", \"Ignore\"",
        ),
        (
            json!({"clientConfig": {}}),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (rule(json!(["a/*", "b/*"])), ""),
        (
            rule(json!(["a/*", "a/x"])),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"a/x\": if 'a/*' is present, must not specify a/x",
        ),
        (
            rule(json!(["*/a", "x/a"])),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"x/a\": if '*/a' is present, must not specify x/a",
        ),
        (
            rule(json!(["*/*", "a"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources",
        ),
        (
            rule(json!(["*", "a"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other resources without subresources",
        ),
        (
            json!({"matchConditions": [{"name": "x", "expression": " "}]}),
            "webhooks[0].matchConditions[0].expression: Required value",
        ),
    ] {
        assert_eq!(create(&row, hook(extra.clone())), want, "{extra}");
    }
}

#[test]
fn an_update_may_keep_what_was_accepted_before() {
    let row = webhooks::mutating();
    let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
    let mut old = hook(json!({"sideEffects": "Some"}));
    row.strategy.default(&mut old);
    assert_eq!(old["webhooks"][0]["reinvocationPolicy"], "Never");
    assert_eq!(text(&row.strategy.validate_update(&old, &old, &ctx)), "");
    assert!(text(&row.strategy.validate(&old)).contains("Unsupported value: \"Some\""));
}

#[test]
fn rules_on_reviews_are_warned_about() {
    let mut obj = hook(rule(json!(["tokenreviews"])));
    obj["webhooks"][0]["rules"][0]["apiGroups"] = json!(["authentication.k8s.io"]);
    let warnings = webhooks::validating().strategy.warnings(&obj, None);
    assert_eq!(
        warnings,
        [
            "webhooks[0].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect"
        ]
    );
}

fn policy(spec: Value) -> Value {
    let mut out = json!({"metadata": {"name": "config"}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": ["a"], "apiVersions": ["a"], "resources": ["a"]}]},
        "validations": [{"expression": "object.x < 100"}],
    }});
    for (k, v) in spec.as_object().unwrap() {
        out["spec"][k] = v.clone();
    }
    out
}

#[test]
fn policies_are_checked() {
    let row = policies::validating();
    for (spec, want) in [
        (json!({}), ""),
        (json!({"matchConstraints": null}), "spec.matchConstraints: Required value"),
        (
            json!({"validations": []}),
            "[spec.validations: Required value: validations or auditAnnotations must contain at least one item, spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item]",
        ),
        (
            json!({"validations": [{"expression": "true", "message": "a\nb", "reason": "other"}]}),
            "[spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks, spec.validations[0].reason: Unsupported value: \"other\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"]",
        ),
        (
            json!({"paramKind": {"apiVersion": "invalid/param/v", "kind": "Kind"}}),
            "spec.paramKind.apiVersion: Invalid value: \"invalid/param/v\": unexpected GroupVersion string: invalid/param/v",
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "'a'"}, {"key": "k", "valueExpression": ""}]}),
            "[spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified, spec.auditAnnotations[1].key: Duplicate value: \"k\"]",
        ),
        (
            json!({"variables": [{"name": "4ever", "expression": "4"}]}),
            "spec.variables[0].name: Invalid value: \"4ever\": must be a valid CEL identifier",
        ),
    ] {
        assert_eq!(create(&row, policy(spec.clone())), want, "{spec}");
    }
    let mut named = policy(json!({}));
    named["metadata"]["name"] = "x.static.k8s.io".into();
    assert!(
        create(&row, named)
            .starts_with("metadata.name: Invalid value: \"x.static.k8s.io\": names ending with")
    );
}

#[test]
fn mutating_policies_and_bindings_are_checked() {
    let row = policies::mutating();
    let spec = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/a'}]"}, "applyConfiguration": {}}], "reinvocationPolicy": "Never"});
    assert_eq!(
        create(&row, policy(spec)),
        "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch"
    );
    let row = policies::validating_binding();
    let binding = |spec: Value| json!({"metadata": {"name": "b"}, "spec": spec});
    assert_eq!(
        create(&row, binding(json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}))),
        "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"
    );
    assert_eq!(
        create(
            &row,
            binding(
                json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}})
            )
        ),
        "spec.paramRef: Required value: one of name or selector must be specified"
    );
}

#[test]
fn expressions_must_compile_and_give_what_is_asked() {
    const OPEN: &str = "object.x in [1, 2,";
    let condition =
        |expression: &str| hook(json!({"matchConditions": [{"name": "c", "expression": expression}]}));
    let row = webhooks::mutating();
    for (expression, want) in [
        ("object.metadata.name != 'skip-me'", ""),
        ("request.operation == 'CREATE' && authorizer.group('').resource('pods').check('get').allowed()", ""),
        (
            OPEN,
            "Invalid value: \"object.x in [1, 2,\": compilation failed: ERROR: <input>:1:19: Syntax error: missing ']' at '<EOF>'",
        ),
        ("6", "Invalid value: \"6\": must evaluate to bool but got int"),
        ("... [] bad expression", "Invalid value: \"... [] bad expression\": compilation failed"),
        ("params.x == 1", "undeclared reference to 'params'"),
    ] {
        let found = create(&row, condition(expression));
        assert!(found.contains(want) && found.is_empty() == want.is_empty(), "{expression}: {found}");
        assert!(
            want.is_empty()
                || found.starts_with("webhooks[0].matchConditions[0].expression: Invalid value: ")
        );
    }
    let row = policies::validating();
    let variables = |variable: &str| {
        json!({"variables": [{"name": "foo", "expression": variable}],
        "validations": [{"expression": "variables.foo == 1"}, {"expression": "variables.replicas == 2"}]})
    };
    for (spec, wants) in [
        (
            json!({"validations": [{"expression": "true", "messageExpression": "0 == 0"}]}),
            vec![
                "spec.validations[0].messageExpression: Invalid value: \"0 == 0\": must evaluate to string but got bool",
            ],
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "true"}]}),
            vec![
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"true\": must evaluate to one of [string null_type] but got bool",
            ],
        ),
        (
            variables("114 + '514'"),
            vec![
                "spec.variables[0].expression: Invalid value: \"114 + '514'\": compilation failed: ERROR: <input>:1:5: found no matching overload for '_+_' applied to '(int, string)'",
                "spec.validations[1].expression: Invalid value: \"variables.replicas == 2\": compilation failed: ERROR: <input>:1:10: undefined field 'replicas'",
            ],
        ),
        (
            json!({"validations": [{"expression": "variables.foo"}]}),
            vec!["undeclared reference to 'variables'"],
        ),
    ] {
        let found = create(&row, policy(spec));
        assert!(wants.iter().all(|w| found.contains(w)), "{found}");
    }
    let row = policies::mutating();
    let spec = |expression: &str| {
        json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
    };
    assert_eq!(create(&row, policy(spec("Object{spec: Object.spec{replicas: 1}}"))), "");
    assert_eq!(
        create(&row, policy(spec("1 < 2"))),
        "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1 < 2\": must evaluate to Object but got bool"
    );
}
