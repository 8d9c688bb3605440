//! Cases from upstream's tables.

use super::*;
use meta::field::aggregate;

fn definition(schema: Value) -> Value {
    let mut obj = json!({
        "metadata": {"name": "plural.group.com"},
        "spec": {
            "group": "group.com", "scope": "Cluster", "names": {"plural": "plural", "kind": "Plural"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    Definition.default(&mut obj);
    obj
}

fn errors(obj: &Value) -> String {
    let errors = Definition.validate(obj);
    if errors.is_empty() { String::new() } else { aggregate(&errors) }
}

#[test]
fn defaults_are_filled_in() {
    let obj = definition(json!({"type": "object"}));
    assert_eq!(
        obj["spec"]["names"],
        json!({"plural": "plural", "kind": "Plural", "singular": "plural", "listKind": "PluralList"})
    );
    assert_eq!(obj["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(obj["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(errors(&obj), "");
}

#[test]
fn schemas_are_checked() {
    const AT: &str = "spec.validation.openAPIV3Schema";
    for (schema, want) in [
        (json!({}), format!("{AT}.type: Required value: must not be empty at the root")),
        (json!({"type": "bogus"}), format!("[{AT}.type: Invalid value: \"bogus\": must be object at the root, {AT}.type: Unsupported value: \"bogus\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"]")),
        (json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
         format!("{AT}.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic")),
        (json!({"type": "object", "properties": {"a": {"type": "object", "$ref": "x"}}}), format!("{AT}.properties[a].$ref: Forbidden: $ref is not supported")),
        (json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
         format!("{AT}.properties[a].default: Invalid value: \"string\": {AT}.properties[a].default in body must be of type integer: \"string\"").replace(&format!(": {AT}.properties[a].default in body"), ":  in body")),
        (json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": 1}, "properties": {"c": {"type": "string"}}}}}),
         format!("{AT}.properties[a].default: Invalid value: {{\"b\":1}}: must not have unknown fields")),
        (json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
         format!("{AT}.properties[metadata].default: Forbidden: must not be set in top-level metadata")),
        (json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
         format!("{AT}.properties[l].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map")),
        (json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
         format!("{AT}.properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property")),
        (json!({"type": "object", "properties": {"s": {"type": "object", "x-kubernetes-validations": [{"rule": " "}]}}}),
         format!("{AT}.properties[s].x-kubernetes-validations[0].rule: Required value: rule is not specified")),
        (json!({"type": "object", "properties": {"p": {"type": "string", "pattern": "a("}}}),
         format!("{AT}.properties[p].pattern: Invalid value: \"a(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `a(`")),
    ] {
        assert_eq!(errors(&definition(schema.clone())), want, "{schema}");
    }
}

#[test]
fn the_rest_of_a_spec_is_checked() {
    let mut obj = definition(json!({"type": "object"}));
    obj["metadata"]["name"] = "other.group.com".into();
    obj["spec"]["versions"][0]["storage"] = false.into();
    obj["spec"]["versions"][0]["additionalPrinterColumns"] =
        json!([{"name": "A", "type": "x", "jsonPath": "spec"}]);
    obj["spec"]["versions"][0]["subresources"] =
        json!({"scale": {"specReplicasPath": ".foo", "statusReplicasPath": ".status.r"}});
    obj["spec"]["scope"] = "Galaxy".into();
    let texts: Vec<String> = Definition.validate(&obj).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts[0],
        "metadata.name: Invalid value: \"other.group.com\": must be spec.names.plural+\".\"+spec.group"
    );
    assert_eq!(
        texts[1],
        "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\""
    );
    assert!(texts[2].ends_with("must have exactly one version marked as storage version"), "{texts:?}");
    assert_eq!(
        texts[3],
        "spec.subresources.scale.specReplicasPath: Invalid value: \".foo\": should be a json path under .spec"
    );
    assert_eq!(
        texts[4],
        "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string"
    );
    assert_eq!(
        texts[5],
        "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec\": must be a simple json path starting with ."
    );
    assert_eq!(texts.len(), 6, "{texts:?}");
}

#[test]
fn paths_of_fields_are_checked_without_a_structural_schema() {
    let mut obj = definition(json!({"type": "object", "patternProperties": {"a": {}}}));
    obj["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": "x"}, {"jsonPath": ""}]);
    let found = errors(&obj);
    assert!(found.contains("selectableFields[0].jsonPath: Invalid value: \"x\": is an invalid path: expected [ or . but got: x"), "{found}");
    assert!(found.contains("selectableFields[1].jsonPath: Required value"), "{found}");
}

#[test]
fn versions_that_differ_have_their_own_paths() {
    let mut obj = definition(json!({"type": "object"}));
    let mut second = obj["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    second["schema"] = json!({"openAPIV3Schema": {"type": "array"}});
    obj["spec"]["versions"].as_array_mut().unwrap().push(second);
    assert_eq!(
        errors(&obj),
        "[spec.versions[1].schema.openAPIV3Schema.items: Required value: must be specified, spec.versions[1].schema.openAPIV3Schema.type: Invalid value: \"array\": must be object at the root]"
    );
    obj["spec"]["versions"][1]["schema"] = Value::Null;
    assert_eq!(errors(&obj), "spec.versions[1].schema.openAPIV3Schema: Required value");
}

#[test]
fn updates_keep_what_was_accepted() {
    let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
    let mut old = definition(json!({"type": "object"}));
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    new["spec"]["scope"] = "Namespaced".into();
    assert_eq!(
        aggregate(&Definition.validate_update(&new, &old, &ctx)),
        "spec.scope: Invalid value: \"Namespaced\": field is immutable"
    );
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    Definition.prepare_update(&mut new, &old, &ctx);
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    assert!(aggregate(&Definition.validate_update(&new, &old, &ctx)).starts_with(
        "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version"
    ));
}

#[test]
fn protected_groups_and_webhooks() {
    let mut obj = definition(json!({"type": "object"}));
    obj["spec"]["group"] = "x.k8s.io".into();
    obj["metadata"]["name"] = "plural.x.k8s.io".into();
    assert!(errors(&obj).starts_with(
        "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation"
    ));
    let mut obj = definition(json!({"type": "object"}));
    obj["spec"]["conversion"] =
        json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v0"], "clientConfig": {}}});
    assert_eq!(
        errors(&obj),
        "[spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required, spec.conversion.conversionReviewVersions: Invalid value: [\"v0\"]: must include at least one of v1, v1beta1]"
    );
}

#[test]
fn formats_that_nobody_checks_are_warned_about() {
    let obj = definition(json!({"type": "object", "properties": {"a": {"type": "string", "format": "odd"}}}));
    assert_eq!(Definition.warnings(&obj, None), ["unrecognized format \"odd\""]);
    assert!(Definition.warnings(&obj, Some(&obj)).is_empty());
}

#[test]
fn the_first_deletion_marks() {
    let mut obj = definition(json!({"type": "object"}));
    let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
    assert!(Definition.holds_deletion(&mut obj, now));
    assert_eq!(obj["metadata"]["finalizers"], json!([CLEANUP_FINALIZER]));
    let condition = &obj["status"]["conditions"][0];
    assert_eq!(condition["reason"], "InstanceDeletionPending");
    assert_eq!(condition["lastTransitionTime"], "2026-01-02T03:04:05Z");
    assert!(!Definition.holds_deletion(&mut obj, now));
}

#[test]
fn untyped_parts_of_a_schema_get_their_type() {
    let obj = definition(json!({"type": "object", "properties": {"l": {"type": "array", "items": {
        "type": "object", "odd": 1, "nullable": false, "properties": {"m": {"type": "object", "additionalProperties": {"type": "string", "odd": 2}}}}}}}));
    let items = &obj["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["l"]["items"];
    assert_eq!(
        *items,
        json!({"type": "object", "properties": {"m": {"type": "object", "additionalProperties": {"type": "string"}}}})
    );
}
