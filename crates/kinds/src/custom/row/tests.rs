//! A row from a definition, end to end.

use super::*;
use meta::field::aggregate;
use serde_json::json;

fn crd() -> Value {
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "selectableFields": [{"jsonPath": ".spec.cronSpec"}],
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
                        "replicas": {"type": "integer", "minimum": 1.0, "maximum": 10.0, "default": 1}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
                }}},
            }, {"name": "v1beta1", "served": true, "storage": false, "deprecated": true}],
        },
    })
}

fn object() -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a", "namespace": "b"},
           "spec": {"cronSpec": "* * * * */5", "odd": true}, "status": {"replicas": 3}})
}

fn ctx(subresource: &str) -> Ctx<'_> {
    Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource }
}

#[test]
fn a_definition_becomes_a_row() {
    let row = row(&crd(), "v1").unwrap();
    assert_eq!((row.short_names(), row.category_names()), (vec!["ct"], vec!["all"]));
    assert_eq!(row.key("b", "a"), "/registry/stable.example.com/crontabs/b/a");
    assert!(row.selects_by("spec.cronSpec") && !row.selects_by("spec.replicas"));
    assert!(row.subresource("status").is_some() && row.subresource("scale").is_some());
    assert_eq!(row.list_kind(), "CronTabList");
    let mut obj = object();
    let custom = row.custom.clone().unwrap();
    assert_eq!(custom.shape(&mut obj).unwrap(), ["spec.odd"]);
    row.strategy.default(&mut obj);
    row.strategy.prepare_create(&mut obj, &ctx(""));
    assert_eq!(obj["spec"], json!({"cronSpec": "* * * * */5", "replicas": 1}));
    assert!(obj.get("status").is_none());
    assert!(row.strategy.validate(&obj).is_empty());
    assert_eq!(row.strategy.selected(&obj), [("spec.cronSpec".into(), "* * * * */5".to_owned())]);
    let cells: Vec<Value> = row
        .printer_columns()
        .iter()
        .map(|c| match &c.cell {
            Cell::Fn(f) => f(&obj, ctx("").now),
            Cell::Shared(f) => f(&obj, ctx("").now),
        })
        .collect();
    assert_eq!(cells, [json!("a"), json!("* * * * */5"), json!(1), Value::Null]);
}

#[test]
fn status_has_its_own_way() {
    let row = row(&crd(), "v1").unwrap();
    let mut old = object();
    old["metadata"]["generation"] = 1.into();
    let mut new = old.clone();
    new["spec"]["replicas"] = 5.into();
    new["status"]["replicas"] = 4.into();
    new["metadata"]["labels"] = json!({"a": "b"});
    let mut by_status = new.clone();
    row.strategy.prepare_update(&mut by_status, &old, &ctx("status"));
    assert_eq!(by_status["status"]["replicas"], 4);
    assert!(by_status["spec"].get("replicas").is_none() && by_status["metadata"].get("labels").is_none());
    row.strategy.prepare_update(&mut new, &old, &ctx(""));
    assert_eq!((&new["status"]["replicas"], &new["metadata"]["generation"]), (&json!(3), &json!(2)));
    by_status["status"]["replicas"] = "x".into();
    assert_eq!(
        row.strategy.validate_update(&by_status, &old, &ctx("status"))[0].to_string(),
        "status.replicas: Invalid value: \"string\": replicas in body must be of type integer: \"string\""
    );
}

#[test]
fn bad_objects_are_refused() {
    let row = row(&crd(), "v1").unwrap();
    let mut obj = object();
    obj["spec"]["cronSpec"] = "* * * *".into();
    obj["spec"]["replicas"] = 15.into();
    assert_eq!(
        aggregate(&row.strategy.validate(&obj)),
        "[spec.cronSpec: Invalid value: \"* * * *\": spec.cronSpec in body should match '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$', spec.replicas: Invalid value: 15: spec.replicas in body should be less than or equal to 10]"
    );
    obj["kind"] = "Other".into();
    assert_eq!(aggregate(&row.strategy.validate(&obj)), "kind: Invalid value: \"Other\": must be CronTab");
    obj = object();
    obj["status"]["replicas"] = (-1).into();
    assert!(
        aggregate(&row.strategy.validate(&obj))
            .contains(".status.replicas: Invalid value: -1: should be a non-negative integer")
    );
}

#[test]
fn versions_have_an_order() {
    let mut all = vec!["foo10", "v1", "v11alpha2", "v10", "v3beta1", "v12alpha1", "foo1", "v11beta2", "v2"];
    all.sort_by(|a, b| compare_versions(b, a));
    assert_eq!(all, ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]);
    let old = row(&crd(), "v1beta1").unwrap();
    assert_eq!(
        old.custom.unwrap().deprecation_warning.as_deref(),
        Some("stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab")
    );
}
