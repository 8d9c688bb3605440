//! Ownership from end to end, on real types and on structural schemas; cases follow upstream's own.
//!
//! The type table is the published one, so the sets are those a real cluster shows.

use crate::*;
use meta::schema::Schema;
use serde_json::{Value, json};
use std::sync::LazyLock;

static TYPES: LazyLock<Schema> = LazyLock::new(|| {
    serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../kinds/schema/v1.37.json")))
        .unwrap()
});

static NONE: LazyLock<FieldSet> = LazyLock::new(FieldSet::default);

const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";

fn opts<'a>(manager: &'a str, definition: &'a str, second: i64) -> Options<'a> {
    Options {
        manager,
        api_version: if definition == DEPLOYMENT { "apps/v1" } else { "v1" },
        subresource: "",
        now: jiff::Timestamp::from_second(second).unwrap(),
        view: View::Typed { types: &TYPES, definition },
        reset: &NONE,
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "d"}, "data": data})
}

fn entries(object: &Value) -> Vec<Entry> {
    decode(&object["metadata"]["managedFields"]).unwrap()
}

fn fields(object: &Value, manager: &str) -> Value {
    let all = entries(object);
    all.iter().find(|e| e.manager == manager).map_or(Value::Null, |e| e.fields.to_json())
}

#[test]
fn a_created_deployment_has_the_fields_a_real_cluster_shows() {
    let mut new = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1, "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "nginx", "image": "nginx", "resources": {},
                    "ports": [{"containerPort": 80}],
                }]},
            },
        },
        "status": {},
    });
    update(None, &mut new, &opts("kubectl-create", DEPLOYMENT, 10));
    assert_eq!(
        new["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "1970-01-01T00:00:10Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {},
                    "f:selector": {},
                    "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {"f:containers": {"k:{\"name\":\"nginx\"}": {
                            ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                            "f:ports": {
                                ".": {},
                                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                            },
                        }}},
                    },
                },
            },
        }])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_no_more() {
    let mut first = config_map(json!({"a": "1", "b": "1"}));
    update(None, &mut first, &opts("one", CONFIG_MAP, 1));
    let mut second = first.clone();
    second["data"]["b"] = json!("2");
    update(Some(&first), &mut second, &opts("two", CONFIG_MAP, 2));
    assert_eq!(fields(&second, "one"), json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(fields(&second, "two"), json!({"f:data": {"f:b": {}}}));
    let mut same = second.clone();
    update(Some(&second), &mut same, &opts("two", CONFIG_MAP, 3));
    assert_eq!(same, second, "nothing changed, so times stay");
    let mut gone = second.clone();
    gone["data"].as_object_mut().unwrap().remove("b");
    update(Some(&second), &mut gone, &opts("one", CONFIG_MAP, 3));
    assert_eq!(entries(&gone).len(), 1, "an entry with nothing left goes");
    let mut back = gone.clone();
    back["metadata"].as_object_mut().unwrap().remove("managedFields");
    update(Some(&gone), &mut back, &opts("one", CONFIG_MAP, 4));
    assert_eq!(back, gone, "a client that does not send managed fields does not clear them");
}

#[test]
fn a_client_resets_with_an_empty_list_or_entry() {
    for sent in [json!([]), json!([{}])] {
        let mut live = config_map(json!({"a": "1"}));
        update(None, &mut live, &opts("one", CONFIG_MAP, 1));
        let mut new = live.clone();
        new["metadata"]["managedFields"] = sent;
        new["data"]["a"] = json!("2");
        update(Some(&live), &mut new, &opts("one", CONFIG_MAP, 2));
        assert!(new["metadata"].get("managedFields").is_none());
    }
}

#[test]
fn a_subresource_has_its_own_entry_and_reset_fields_are_nobodys() {
    let reset = FieldSet::of_fields(&["status"]);
    let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"replicas": 1}, "status": {"replicas": 1}});
    update(None, &mut live, &Options { reset: &reset, ..opts("one", DEPLOYMENT, 1) });
    assert_eq!(fields(&live, "one"), json!({"f:spec": {"f:replicas": {}}}));
    let mut new = live.clone();
    new["status"]["replicas"] = json!(2);
    update(Some(&live), &mut new, &Options { subresource: "status", ..opts("one", DEPLOYMENT, 2) });
    let all = entries(&new);
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[1].subresource.as_str(), all[1].fields.to_json()),
        ("status", json!({"f:status": {"f:replicas": {}}}))
    );
}

#[test]
fn old_update_managers_are_merged() {
    let mut live = config_map(json!({}));
    update(None, &mut live, &opts("m00", CONFIG_MAP, 1));
    for at in 1..=14 {
        let mut new = live.clone();
        new["data"][format!("k{at}")] = json!("v");
        update(Some(&live), &mut new, &opts(&format!("m{at:02}"), CONFIG_MAP, at));
        live = new;
    }
    let all = entries(&live);
    assert_eq!(all.len(), MAX_UPDATE_MANAGERS);
    assert_eq!(all[0].manager, "ancient-changes");
    let total: usize = all.iter().map(|e| e.fields.leaves().texts().len()).sum();
    assert_eq!(total, 14);
}

#[test]
fn applying_over_anothers_field_is_a_conflict_unless_equal_or_forced() {
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    update(None, &mut live, &opts("kubectl-create", CONFIG_MAP, 1));
    let me = opts("me", CONFIG_MAP, 2);
    let err = apply(Some(&live), &config_map(json!({"a": "2"})), &me, false).unwrap_err();
    assert_eq!(
        err.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1: .data.a"
    );
    let ApplyError::Conflicts(conflicts) = err else { panic!() };
    assert_eq!(
        causes(&conflicts),
        [Cause {
            reason: "FieldManagerConflict",
            message: "conflict with \"kubectl-create\" using v1".to_owned(),
            field: ".data.a".to_owned()
        }]
    );
    let err = apply(Some(&live), &config_map(json!({"a": "2", "b": "2"})), &me, false).unwrap_err();
    assert_eq!(
        err.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using v1:\n- .data.a\n- .data.b"
    );
    let shared = apply(Some(&live), &config_map(json!({"a": "1"})), &me, false).unwrap();
    assert_eq!(fields(&shared, "me"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(fields(&shared, "kubectl-create"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
    assert_eq!(shared["data"], live["data"]);
    let forced = apply(Some(&live), &config_map(json!({"a": "2"})), &me, true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(fields(&forced, "kubectl-create"), json!({"f:data": {".": {}, "f:b": {}}}));
}

#[test]
fn what_is_applied_no_more_goes_unless_somebody_else_has_it() {
    let (one, two) = (opts("one", CONFIG_MAP, 1), opts("two", CONFIG_MAP, 2));
    let live = apply(None, &config_map(json!({"a": "1", "b": "1", "c": "1"})), &one, false).unwrap();
    let live = apply(Some(&live), &config_map(json!({"b": "1"})), &two, false).unwrap();
    let mut by_hand = live.clone();
    by_hand["data"]["d"] = json!("1");
    update(Some(&live), &mut by_hand, &opts("hand", CONFIG_MAP, 3));
    let live = apply(Some(&by_hand), &config_map(json!({"a": "1"})), &one, false).unwrap();
    assert_eq!(live["data"], json!({"a": "1", "b": "1", "d": "1"}));
    assert_eq!(fields(&live, "one"), json!({"f:data": {"f:a": {}}}));
    let all = entries(&live);
    assert_eq!(all[0].time, None, "who changed nothing has no time, and comes first");
    assert_eq!(all.iter().map(|e| e.manager.as_str()).collect::<Vec<_>>(), ["two", "one", "hand"].as_slice());
    let again =
        apply(Some(&live), &config_map(json!({"a": "1"})), &opts("one", CONFIG_MAP, 9), false).unwrap();
    assert_eq!(again, live, "applying the same changes nothing, times too");
    assert_eq!(
        apply(Some(&live), &config_map(json!({"a": "2"})), &two, false).unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
}

fn deployment(containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "d"},
        "spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn entries_of_nested_keyed_lists_are_merged_and_pruned() {
    let containers = |v: &Value| v["spec"]["template"]["spec"]["containers"].clone();
    let (one, two) = (opts("one", DEPLOYMENT, 1), opts("two", DEPLOYMENT, 2));
    let live = apply(
        None,
        &deployment(json!([
            {"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]},
            {"name": "b", "image": "i"},
        ])),
        &one,
        false,
    )
    .unwrap();
    let config =
        deployment(json!([{"name": "c", "image": "i"}, {"name": "a", "env": [{"name": "Z", "value": "1"}]}]));
    let live = apply(Some(&live), &config, &two, false).unwrap();
    let names = |v: Value| {
        v.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(containers(&live)), ["c", "a", "b"]);
    let config = deployment(json!([{"name": "a", "image": "i", "env": [{"name": "X", "value": "2"}]}]));
    let live = apply(Some(&live), &config, &one, false).unwrap();
    assert_eq!(
        containers(&live),
        json!([
            {"name": "c", "image": "i"},
            {"name": "a", "image": "i", "env": [{"name": "X", "value": "2"}, {"name": "Z", "value": "1"}]},
        ])
    );
}

#[test]
fn a_key_left_to_its_default_is_the_same_key() {
    let (one, two) = (opts("one", DEPLOYMENT, 1), opts("two", DEPLOYMENT, 2));
    let ports = |ports: Value| deployment(json!([{"name": "a", "ports": ports}]));
    let live = apply(None, &ports(json!([{"containerPort": 80}])), &one, false).unwrap();
    let config =
        ports(json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]));
    let live = apply(Some(&live), &config, &two, false).unwrap();
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap().len(), 2);
    let err = apply(
        Some(&live),
        &ports(json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}])),
        &one,
        false,
    );
    assert_eq!(
        err.unwrap_err().to_string(),
        "failed to create typed patch object (d/a; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers[name=\"a\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"
    );
}

#[test]
fn a_number_or_text_may_be_anything_before_it_is_read() {
    let me = opts("me", DEPLOYMENT, 1);
    let surge = |surge: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"strategy": {"rollingUpdate": {"maxSurge": surge}}}})
    };
    for odd in [json!({}), json!({"a": "b"}), json!([1])] {
        for live in [None, Some(surge(json!("25%")))] {
            let made = apply(live.as_ref(), &surge(odd.clone()), &me, true).unwrap();
            assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], odd);
        }
    }
}

#[test]
fn what_does_not_fit_the_type_is_refused() {
    let me = opts("me", CONFIG_MAP, 1);
    let refuse = |config: Value| apply(None, &config, &me, false).unwrap_err();
    let mut config = config_map(json!({}));
    config["more"] = json!(1);
    assert_eq!(
        refuse(config).to_string(),
        "failed to create typed patch object (d/a; /v1, Kind=ConfigMap): .more: field not declared in schema"
    );
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    assert_eq!(refuse(config), ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!(["5"]);
    let why = refuse(config).to_string();
    assert!(why.ends_with(".metadata.managedFields[0]: expected map, got &{5}"), "{why}");
    let mut config = config_map(json!({}));
    config["apiVersion"] = json!("v2");
    assert!(matches!(refuse(config), ApplyError::BadRequest(_)));
    let err = apply(
        None,
        &json!({"apiVersion": "apps/v1", "spec": {"replicas": "1"}}),
        &opts("me", DEPLOYMENT, 1),
        false,
    );
    assert!(
        err.unwrap_err()
            .to_string()
            .ends_with(": .spec.replicas: expected numeric (int or float), got string")
    );
}

#[test]
fn an_untracked_object_belongs_to_before_first_apply() {
    let live = config_map(json!({"a": "1", "b": "1"}));
    let me = opts("me", CONFIG_MAP, 1);
    let err = apply(Some(&live), &config_map(json!({"a": "2"})), &me, false).unwrap_err();
    assert_eq!(
        err.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    let new = apply(Some(&live), &config_map(json!({"a": "1"})), &me, false).unwrap();
    assert_eq!(fields(&new, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_by_annotation() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    live["metadata"]["annotations"] = json!({LAST: config_map(json!({"a": "1"})).to_string()});
    update(None, &mut live, &opts("kubectl-client-side-apply", CONFIG_MAP, 1));
    let config = config_map(json!({"a": "2"}));
    assert!(apply(Some(&live), &config, &opts("other", CONFIG_MAP, 2), false).is_err());
    let new = apply(Some(&live), &config, &opts("kubectl", CONFIG_MAP, 2), false).unwrap();
    assert_eq!(new["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(new["metadata"]["annotations"][LAST], json!(format!("{config}\n")));
    let err = apply(Some(&live), &config_map(json!({"b": "2"})), &opts("kubectl", CONFIG_MAP, 2), false);
    assert_eq!(
        err.unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.b"
    );
}

static STRUCTURAL: LazyLock<Value> = LazyLock::new(|| {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "integer", "default": 7}, "v": {"type": "string"}}}},
    }}}})
});

#[test]
fn structural_schemas_say_how_lists_and_maps_merge() {
    let o = |manager: &'static str| Options {
        api_version: "x.io/v1",
        view: View::Structural { types: &TYPES, schema: &STRUCTURAL },
        ..opts(manager, CONFIG_MAP, 1)
    };
    let object =
        |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec});
    let first = object(json!({"set": ["a", "b"], "plain": ["a"], "map": {"a": "1"}, "whole": {"a": "1"},
        "free": {"a": {"b": [1]}}, "keyed": [{"id": 1, "v": "x"}, {"v": "d"}]}));
    let live = apply(None, &first, &o("one"), false).unwrap();
    assert_eq!(
        fields(&live, "one"),
        json!({"f:spec": {
            "f:set": {"v:\"a\"": {}, "v:\"b\"": {}}, "f:plain": {}, "f:map": {"f:a": {}}, "f:whole": {},
            "f:free": {"f:a": {".": {}, "f:b": {}}},
            "f:keyed": {"k:{\"id\":1}": {".": {}, "f:id": {}, "f:v": {}}, "k:{\"id\":7}": {".": {}, "f:v": {}}},
        }})
    );
    let second = object(json!({"set": ["c", "b"], "map": {"b": "1"}, "keyed": [{"id": 7, "v": "d"}]}));
    let live = apply(Some(&live), &second, &o("two"), false).unwrap();
    assert_eq!(live["spec"]["set"], json!(["a", "c", "b"]));
    assert_eq!(live["spec"]["map"], json!({"a": "1", "b": "1"}));
    assert_eq!(live["spec"]["keyed"], json!([{"id": 1, "v": "x"}, {"id": 7, "v": "d"}]));
    let err =
        apply(Some(&live), &object(json!({"plain": ["a", "b"], "whole": {"b": "1"}})), &o("two"), false);
    assert_eq!(
        err.unwrap_err().to_string(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.plain\n- .spec.whole"
    );
    let live = apply(Some(&live), &object(json!({"set": ["a"]})), &o("one"), false).unwrap();
    assert_eq!(
        live["spec"],
        json!({"set": ["a", "c", "b"], "map": {"b": "1"}, "keyed": [{"id": 7, "v": "d"}]})
    );
    let twice = apply(None, &object(json!({"set": ["a", "a"]})), &o("one"), false).unwrap_err().to_string();
    assert!(twice.ends_with(".spec.set: duplicate entries for key [=\"a\"]"), "{twice}");
}

#[test]
fn without_a_schema_objects_are_granular_and_lists_whole() {
    let o = Options { view: View::Deduced, ..opts("one", CONFIG_MAP, 1) };
    let live = apply(None, &json!({"apiVersion": "v1", "a": {"b": [1, 2], "c": 1}}), &o, false).unwrap();
    assert_eq!(fields(&live, "one"), json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}));
    let other = Options { manager: "two", ..o };
    let config = json!({"apiVersion": "v1", "a": {"b": [1]}});
    assert!(matches!(apply(Some(&live), &config, &other, false), Err(ApplyError::Conflicts(_))));
    let live = apply(Some(&live), &config, &other, true).unwrap();
    assert_eq!(live["a"], json!({"b": [1], "c": 1}));
    assert_eq!(fields(&live, "two"), json!({"f:a": {".": {}, "f:b": {}}}));
    let mut new = live.clone();
    new["a"] = json!("scalar now");
    update(Some(&live), &mut new, &Options { manager: "three", ..o });
    assert_eq!(fields(&new, "three"), json!({"f:a": {}}));
    assert_eq!(entries(&new).len(), 1);
}

#[test]
fn parts_owned_of_what_is_now_a_whole_make_an_owner_of_the_whole() {
    let live = json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a", "managedFields": [{
        "manager": "one", "operation": "Apply", "apiVersion": "x.io/v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:whole": {"f:a": {}}, "f:map": {"f:a": {}}, "f:plain": {"v:\"a\"": {}}}},
    }]}, "spec": {"whole": {"a": "1"}, "map": {"a": "1"}, "plain": ["a"]}});
    let mut new = live.clone();
    new["spec"]["map"]["b"] = json!("1");
    let o = Options {
        api_version: "x.io/v1",
        view: View::Structural { types: &TYPES, schema: &STRUCTURAL },
        ..opts("two", CONFIG_MAP, 1)
    };
    update(Some(&live), &mut new, &o);
    assert_eq!(fields(&new, "one"), json!({"f:spec": {"f:whole": {}, "f:map": {"f:a": {}}, "f:plain": {}}}));
    assert_eq!(fields(&new, "two"), json!({"f:spec": {"f:map": {"f:b": {}}}}));
}

#[test]
fn times_stay_when_nothing_but_times_differs() {
    let mut live = config_map(json!({"a": "1"}));
    update(None, &mut live, &opts("one", CONFIG_MAP, 1));
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["time"] = json!("1970-01-01T00:00:09Z");
    let mut other = new.clone();
    keep_times(&live, &mut new);
    assert_eq!(new, live);
    other["data"]["a"] = json!("2");
    let before = other.clone();
    keep_times(&live, &mut other);
    assert_eq!(other, before);
}
