//! Cases in upstream's words.

use super::*;
use serde_json::json;

fn errors(schema: Value, v: Value) -> Vec<String> {
    let s = Structural::parse(&schema).unwrap();
    check(&v, &s, &Path::root()).iter().map(ToString::to_string).collect()
}

fn spec(schema: Value, v: Value) -> Vec<String> {
    errors(json!({"properties": {"spec": {"properties": {"x": schema}}}}), json!({"spec": {"x": v}}))
}

#[test]
fn values_are_told_in_upstreams_words() {
    for (schema, v, want) in [
        (
            json!({"type": "integer"}),
            json!("a"),
            "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "string"}),
            json!(null),
            "spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\"",
        ),
        (
            json!({"type": "string", "format": "date"}),
            json!("x"),
            "spec.x: Invalid value: \"x\": spec.x in body must be of type date: \"x\"",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "spec.x: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            "spec.x: Invalid value: \"a\": spec.x in body should be at least 2 chars long",
        ),
        (
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            "spec.x: Invalid value: \"b\": spec.x in body should match '^a$'",
        ),
        (
            json!({"type": "integer", "minimum": 1.0}),
            json!(0),
            "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 10.0, "exclusiveMaximum": true}),
            json!(10),
            "spec.x: Invalid value: 10: spec.x in body should be less than 10",
        ),
        (
            json!({"type": "number", "maximum": 1.5}),
            json!(2.5),
            "spec.x: Invalid value: 2.5: spec.x in body should be less than or equal to 1.5",
        ),
        (
            json!({"type": "integer", "multipleOf": 3.0}),
            json!(4),
            "spec.x: Invalid value: 4: spec.x in body should be a multiple of 3",
        ),
    ] {
        assert_eq!(spec(schema.clone(), v.clone()), [want], "{schema} {v}");
    }
}

#[test]
fn lists_maps_and_the_rest_are_told_in_upstreams_words() {
    for (schema, v, want) in [
        (
            json!({"type": "array", "maxItems": 1, "items": {}}),
            json!([1, 2]),
            "spec.x: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "minItems": 1, "items": {}}),
            json!([]),
            "spec.x: Invalid value: 0: spec.x in body should have at least 1 items",
        ),
        (
            json!({"type": "object", "maxProperties": 1}),
            json!({"a": 1, "b": 2}),
            "spec.x: Too many: 2: must have at most 1 item",
        ),
        (json!({"type": "object", "required": ["a"]}), json!({}), "spec.x.a: Required value"),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(2147483648i64),
            "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.x",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!([1]),
            "spec.x[0]: Invalid value: \"integer\": spec.x[0] in body must be of type string: \"integer\"",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"not": {"required": ["a"]}}),
            json!({"a": 1}),
            "<nil>: Invalid value: \"\": \"spec.x\" must not validate the schema (not)",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"k": "v"}),
            "spec.x.k: Invalid value: \"string\": spec.x.k in body must be of type integer: \"string\"",
        ),
    ] {
        assert_eq!(spec(schema.clone(), v.clone()), [want], "{schema} {v}");
    }
}

#[test]
fn good_values_pass() {
    for (schema, v) in [
        (json!({"type": "integer"}), json!(1.0)),
        (json!({"type": "number"}), json!(1)),
        (json!({"type": "string", "nullable": true}), json!(null)),
        (json!({"x-kubernetes-int-or-string": true}), json!("80")),
        (json!({"type": "string", "format": "unknown"}), json!("x")),
        (json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true}), json!([1, 2])),
        (json!({"type": "string", "maxLength": 2}), json!("éé")),
    ] {
        assert_eq!(spec(schema.clone(), v.clone()), Vec::<String>::new(), "{schema} {v}");
    }
}

#[test]
fn alternatives_tell_the_best() {
    let one = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        spec(one.clone(), json!({})),
        [
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
            "spec.x.a: Required value",
        ]
    );
    assert_eq!(
        spec(one, json!({"a": 1, "b": 1})),
        [
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
        ]
    );
    assert_eq!(
        spec(json!({"allOf": [{"minimum": 5.0}]}), json!(1)),
        [
            "spec.x: Invalid value: 1: spec.x in body should be greater than or equal to 5",
            "<nil>: Invalid value: \"\": \"spec.x\" must validate all the schemas (allOf). None validated",
        ]
    );
    assert_eq!(
        spec(json!({"anyOf": [{"minimum": 5.0}, {"maximum": 0.0}]}), json!(1))[0],
        "<nil>: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)"
    );
}

#[test]
fn what_did_not_change_may_be_wrong() {
    let s = Structural::parse(&json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                 "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}},
        "plain": {"type": "array", "items": {"type": "string", "maxLength": 1}},
    }}))
    .unwrap();
    let old = json!({"a": "long", "list": [{"k": "1", "v": "long"}], "plain": ["long"]});
    let run = |new: &Value| -> Vec<String> {
        check_update(new, Some(&old), &s, &Path::root()).iter().map(ToString::to_string).collect()
    };
    assert!(run(&old).is_empty());
    let mut new = old.clone();
    new["other"] = 1.into();
    new["list"] = json!([{"k": "0", "v": "x"}, {"k": "1", "v": "long"}]);
    assert!(run(&new).is_empty(), "{:?}", run(&new));
    new["a"] = "longer".into();
    new["plain"] = json!(["long", "b"]);
    assert_eq!(
        run(&new),
        ["a: Too long: may not be more than 1 bytes", "plain[0]: Too long: may not be more than 1 bytes"]
    );
}

#[test]
fn upstreams_cases() {
    let int_or_string = json!({"nullable": true, "x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    for (field, v, want) in [
        (
            int_or_string,
            json!(1.2),
            &[
                "field: Invalid value: \"number\": field in body must be of type integer,string: \"number\"",
                "<nil>: Invalid value: \"\": \"field\" must validate at least one schema (anyOf)",
                "field: Invalid value: \"number\": field in body must be of type integer: \"number\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in field",
            ][..],
        ),
        (
            json!({"type": "string", "pattern": "+"}),
            json!("foo"),
            &[
                "field: Invalid value: \"foo\": field in body should match '+, but pattern is invalid: error parsing regexp: missing argument to repetition operator: `+`'",
            ],
        ),
        (
            json!({"type": "integer", "enum": [1, 2]}),
            json!("x"),
            &[
                "field: Invalid value: \"string\": field in body must be of type integer: \"string\"",
                "field: Unsupported value: \"x\": supported values: \"1\", \"2\"",
            ],
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!(true),
            &[
                "field: Invalid value: \"boolean\": field in body must be of type string: \"boolean\"",
                "field: Unsupported value: true: supported values: \"a\", \"b\"",
            ],
        ),
        (json!({"nullable": true}), json!(null), &[]),
    ] {
        let schema = json!({"type": "object", "properties": {"field": field}});
        assert_eq!(errors(schema, json!({"field": v})), want, "{field} {v}");
    }
}
