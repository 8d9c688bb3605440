//! Rules of schemas: what they see, what they say, what they may cost.

use super::{OBJECT_COST_MAX, Validator};
use crate::custom::schema_errors::{self, Options};
use crate::custom::structural::Structural;
use meta::field::Path;
use serde_json::{Value, json};
use std::sync::Arc;

fn rules(schema: &Value) -> Validator {
    let schema = Structural::parse(schema).expect("structural");
    Validator::new(&Arc::new(schema)).expect("it has rules")
}

/// The errors of a change.
fn errors(schema: &Value, new: Value, old: Option<Value>) -> Vec<String> {
    let out = rules(schema).check(&new, old.as_ref(), OBJECT_COST_MAX);
    out.errors.iter().map(ToString::to_string).collect()
}

/// The errors of a definition with the schema.
fn definition(schema: Value) -> Vec<String> {
    let mut errors = Vec::new();
    let validation = json!({"openAPIV3Schema": schema});
    schema_errors::check(
        &validation,
        false,
        &Options::NEW,
        &Path::new("spec").child("validation"),
        &mut errors,
    );
    errors.iter().map(ToString::to_string).collect()
}

fn object(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": properties, "x-kubernetes-validations": rules}}})
}

/// The schema of upstream's end-to-end tests.
fn e2e() -> Value {
    let list = |max: i64| json!({"type": "array", "maxItems": max, "items": {"type": "integer"}});
    object(
        json!({"x": {"type": "integer"}, "y": {"type": "integer"},
            "firstArray": list(1000), "secondArray": list(1000), "largeArray": list(725)}),
        json!([
            {"rule": "self.x + self.y > 0"},
            {"rule": "self.firstArray.isSorted() && self.secondArray.isSorted() && ((self.firstArray.sum() + self.secondArray.sum()) % 2 == 0)"},
            {"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"},
        ]),
    )
}

#[test]
fn objects_that_keep_the_rules_pass() {
    assert_eq!(definition(e2e()), [""; 0]);
    let good =
        json!({"spec": {"x": 1, "y": 0, "firstArray": [3, 4], "secondArray": [5, 10], "largeArray": [2, 2]}});
    assert_eq!(errors(&e2e(), good, None), [""; 0]);
}

#[test]
fn objects_that_break_a_rule_are_told_which() {
    let found = errors(&e2e(), json!({"spec": {"x": 0, "y": 0}}), None);
    assert_eq!(found[0], "spec: Invalid value: failed rule: self.x + self.y > 0");
    assert!(
        found[1].starts_with("spec: Invalid value: \"object\": no such key: firstArray evaluating rule:"),
        "{found:?}"
    );
}

#[test]
fn a_call_that_costs_too_much_ends_it() {
    let large = vec![20; 725];
    let found = errors(&e2e(), json!({"spec": {"largeArray": large}}), None);
    assert!(
        found
            .iter()
            .any(|e| e
                .contains("no further validation rules will be run due to call cost exceeds limit for rule")),
        "{found:?}"
    );
}

#[test]
fn rules_must_compile() {
    let x = json!({"x": {"type": "integer"}});
    let found = definition(object(x.clone(), json!([{"rule": "self.z == 100"}])));
    let at =
        "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value:";
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(at)
            && found[0].contains("compilation failed: ERROR: <input>:1:5: undefined field 'z'"),
        "{found:?}"
    );
    let found = definition(object(x.clone(), json!([{"rule": "self = 42"}])));
    assert!(found[0].contains("Syntax error"), "{found:?}");
    let shown = r#"Invalid value: {"Rule":"self = 42","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: "#;
    assert!(found[0].contains(shown), "{found:?}");
    let found = definition(object(x.clone(), json!([{"rule": "self.x"}])));
    assert!(found[0].ends_with("cel expression must evaluate to a bool"), "{found:?}");
    let found = definition(object(x, json!([{"rule": "self.x > 1", "messageExpression": "self.x"}])));
    assert!(found[0].ends_with("messageExpression must evaluate to a string"), "{found:?}");
}

#[test]
fn defaults_keep_the_rules() {
    let of = |default: i64| {
        object(
            json!({"n": {"type": "integer", "default": default, "x-kubernetes-validations": [{"rule": "self > 0"}]}}),
            json!([]),
        )
    };
    assert_eq!(definition(of(1)), [""; 0]);
    assert_eq!(
        definition(of(0)),
        [
            "spec.validation.openAPIV3Schema.properties[spec].properties[n].default: Invalid value: 0: failed rule: self > 0"
        ]
    );
}

#[test]
fn what_could_cost_too_much_is_refused() {
    let schema = object(
        json!({"x": {"type": "array", "items": {"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]}}}),
        json!([]),
    );
    let found = definition(schema);
    assert!(found[0].contains("estimated rule cost exceeds budget by factor of more than 100x"), "{found:?}");
    assert!(
        found.iter().any(|e| e.contains("contributed to estimated rule cost total exceeding cost limit")),
        "{found:?}"
    );
}

#[test]
fn old_values_must_be_found_again() {
    let schema = object(
        json!({"list": {"type": "array", "maxItems": 3, "items": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}}),
        json!([{"rule": "self.list.size() > 0", "optionalOldSelf": true}]),
    );
    let found = definition(schema);
    assert!(found.iter().any(|e| e.ends_with(
        "oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[list]")), "{found:?}");
    assert!(
        found.iter().any(|e| e.ends_with(
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
        )),
        "{found:?}"
    );
}

#[test]
fn transitions_are_checked_on_updates_only() {
    let schema = object(
        json!({"num": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}),
        json!([]),
    );
    let of = |n: i64| json!({"spec": {"num": n}});
    assert_eq!(errors(&schema, of(10), None), [""; 0]);
    assert_eq!(errors(&schema, of(11), Some(of(10))), [""; 0]);
    assert_eq!(
        errors(&schema, of(9), Some(of(10))),
        ["spec.num: Invalid value: 9: failed rule: self > oldSelf"]
    );
}

#[test]
fn an_old_value_may_be_optional() {
    let schema = object(
        json!({"num": {"type": "integer"}}),
        json!([{"rule": "!oldSelf.hasValue() || self.num >= oldSelf.value().num", "optionalOldSelf": true}]),
    );
    let of = |n: i64| json!({"spec": {"num": n}});
    assert_eq!(errors(&schema, of(1), None), [""; 0]);
    assert_eq!(errors(&schema, of(1), Some(of(1))), [""; 0]);
    assert_eq!(errors(&schema, of(0), Some(of(1))).len(), 1);
}

#[test]
fn messages_reasons_and_paths() {
    let schema = object(
        json!({"a": {"type": "integer"}, "b": {"type": "integer"}}),
        json!([
            {"rule": "self.a > 1", "message": " too small ", "fieldPath": ".a", "reason": "FieldValueForbidden"},
            {"rule": "self.b > 1", "messageExpression": "self.b > 1 ? 'b is more' : 'b is ' + '1'"},
            {"rule": "self.b > 2", "messageExpression": "' '", "message": "fallback"},
        ]),
    );
    assert_eq!(definition(schema.clone()), [""; 0]);
    assert_eq!(
        errors(&schema, json!({"spec": {"a": 1, "b": 1}}), None),
        ["spec.a: Forbidden: too small", "spec: Invalid value: b is 1", "spec: Invalid value: fallback",]
    );
}

#[test]
fn what_did_not_change_is_forgiven() {
    let schema = object(
        json!({"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'bad'"}]},
            "b": {"type": "integer"},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v > 0"}]}}}),
        json!([]),
    );
    let of = |b: i64, v: i64| json!({"spec": {"a": "bad", "b": b, "map": [{"k": "x", "v": v}]}});
    assert_eq!(errors(&schema, of(1, 0), None).len(), 2);
    let out = rules(&schema).check(&of(2, 0), Some(&of(1, 0)), OBJECT_COST_MAX);
    assert_eq!((out.errors.len(), out.warnings.len()), (0, 2), "{:?}", out.errors);
    assert!(out.warnings.contains(&"spec.a: Invalid value: \"bad\": failed rule: self != 'bad'".to_owned()));
    assert_eq!(errors(&schema, of(2, -1), Some(of(2, 0))).len(), 1);
}

#[test]
fn roots_see_their_name_and_nothing_more_of_metadata() {
    let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')"}]});
    assert_eq!(definition(schema.clone()), [""; 0]);
    assert_eq!(errors(&schema, json!({"kind": "K", "metadata": {"name": "ab"}}), None), [""; 0]);
    assert_eq!(errors(&schema, json!({"kind": "K", "metadata": {"name": "b"}}), None).len(), 1);
    let schema =
        json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.labels.size() > 0"}]});
    assert!(definition(schema)[0].contains("undefined field 'labels'"));
}

#[test]
fn formats_are_typed() {
    let schema = object(
        json!({"at": {"type": "string", "format": "date-time"}, "for": {"type": "string", "format": "duration"},
            "either": {"x-kubernetes-int-or-string": true}, "a-b": {"type": "integer"}}),
        json!([
            {"rule": "self.at > timestamp('2020-01-01T00:00:00Z')"},
            {"rule": "self.__for__ > duration('1m')"},
            {"rule": "type(self.either) == string || self.either > 1"},
            {"rule": "self.a__dash__b == 1"},
        ]),
    );
    assert_eq!(definition(schema.clone()), [""; 0]);
    let of = |either: Value| json!({"spec": {"at": "2024-01-01T00:00:00Z", "for": "1h", "either": either, "a-b": 1}});
    assert_eq!(errors(&schema, of(json!(2)), None), [""; 0]);
    assert_eq!(errors(&schema, of(json!("50%")), None), [""; 0]);
    assert_eq!(errors(&schema, of(json!(0)), None).len(), 1);
}

#[test]
fn the_budget_of_an_object_ends() {
    let schema =
        object(json!({"a": {"type": "integer"}}), json!([{"rule": "self.a > 0"}, {"rule": "self.a > 1"}]));
    let out = rules(&schema).check(&json!({"spec": {"a": 5}}), None, 4);
    let found: Vec<String> = out.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec: Invalid value: \"object\": validation failed due to running out of cost budget, no further validation rules will be run"
        ]
    );
}
