//! Metrics in the shapes of version 1 and of version 2 (upstream: `pkg/apis/autoscaling/v1/conversion.go`).
//!
//! Invariant: version 1 writes amounts that it cannot leave out as `"0"`; they come back as upstream reads them.

use serde_json::{Map, Value, json};

/// Fields of an amount: version 1's, version 2's.
type Fields = &'static [(&'static str, &'static str)];

const OBJECT_SPEC: Fields = &[("targetValue", "value"), ("averageValue", "averageValue")];
const PODS_SPEC: Fields = &[("targetAverageValue", "averageValue")];
const EXTERNAL_SPEC: Fields = &[("targetValue", "value"), ("targetAverageValue", "averageValue")];
const RESOURCE_SPEC: Fields =
    &[("targetAverageUtilization", "averageUtilization"), ("targetAverageValue", "averageValue")];

const OBJECT_STATUS: Fields = &[("currentValue", "value"), ("averageValue", "averageValue")];
const PODS_STATUS: Fields = &[("currentAverageValue", "averageValue")];
const EXTERNAL_STATUS: Fields = &[("currentValue", "value"), ("currentAverageValue", "averageValue")];
const RESOURCE_STATUS: Fields =
    &[("currentAverageUtilization", "averageUtilization"), ("currentAverageValue", "averageValue")];

const KINDS: &[&str] = &["object", "pods", "resource", "containerResource", "external"];

fn amounts(kind: &str, status: bool) -> Fields {
    match (kind, status) {
        ("object", false) => OBJECT_SPEC,
        ("object", true) => OBJECT_STATUS,
        ("pods", false) => PODS_SPEC,
        ("pods", true) => PODS_STATUS,
        ("external", false) => EXTERNAL_SPEC,
        ("external", true) => EXTERNAL_STATUS,
        (_, false) => RESOURCE_SPEC,
        (_, true) => RESOURCE_STATUS,
    }
}

/// The amount that version 1 always has, by Go's type.
fn always(kind: &str, status: bool) -> Option<&'static str> {
    match (kind, status) {
        ("object", false) => Some("targetValue"),
        ("pods", false) => Some("targetAverageValue"),
        ("object" | "external", true) => Some("currentValue"),
        (_, true) => Some("currentAverageValue"),
        _ => None,
    }
}

/// Fields beside the amounts: version 1's, and where version 2 has them.
fn names(kind: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match kind {
        "object" => &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
        ],
        "pods" => &[("metricName", &["metric", "name"]), ("selector", &["metric", "selector"])],
        "external" => &[("metricName", &["metric", "name"]), ("metricSelector", &["metric", "selector"])],
        "containerResource" => &[("name", &["name"]), ("container", &["container"])],
        _ => &[("name", &["name"])],
    }
}

/// A wanted metric of version 2, in version 1.
pub fn spec_to_v1(m: &Value) -> Value {
    to_v1(m, "target", false)
}

/// A current metric of version 2, in version 1.
pub fn status_to_v1(m: &Value) -> Value {
    to_v1(m, "current", true)
}

/// A wanted metric of version 1, in version 2.
pub fn spec_to_v2(m: &Value) -> Value {
    to_v2(m, "target", false)
}

/// A current metric of version 1, in version 2.
pub fn status_to_v2(m: &Value) -> Value {
    to_v2(m, "current", true)
}

fn to_v1(m: &Value, holder: &str, status: bool) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), m["type"].clone());
    for kind in KINDS.iter().filter(|k| m[**k].is_object()) {
        let source = &m[*kind];
        let mut inner = Map::new();
        for (name, path) in names(kind) {
            let value = path.iter().fold(source, |v, p| &v[*p]);
            if !value.is_null() {
                inner.insert((*name).to_owned(), value.clone());
            }
        }
        for (old, new) in amounts(kind, status) {
            let value = &source[holder][*new];
            if !value.is_null() {
                inner.insert((*old).to_owned(), value.clone());
            }
        }
        if let Some(field) = always(kind, status) {
            inner.entry(field).or_insert_with(|| "0".into());
        }
        out.insert((*kind).to_owned(), inner.into());
    }
    out.into()
}

fn to_v2(m: &Value, holder: &str, status: bool) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), m["type"].clone());
    for kind in KINDS.iter().filter(|k| m[**k].is_object()) {
        let source = &m[*kind];
        let mut inner = json!({});
        for (name, path) in names(kind) {
            let value = &source[*name];
            if let ([parents @ .., last], false) = (path, value.is_null())
                && let Some(map) = meta::object::map_at(&mut inner, parents)
            {
                map.insert((*last).to_owned(), value.clone());
            }
        }
        let mut held = Map::new();
        for (old, new) in amounts(kind, status) {
            if !source[*old].is_null() {
                held.insert((*new).to_owned(), source[*old].clone());
            }
        }
        if !status {
            target(kind, &mut held);
        }
        inner[holder] = held.into();
        out.insert((*kind).to_owned(), inner);
    }
    out.into()
}

/// The type of a target is what its amounts say.
fn target(kind: &str, held: &mut Map<String, Value>) {
    let ty = match kind {
        "object" if held.contains_key("averageValue") => {
            // Version 1 cannot leave the value out, and a zero would not be valid.
            if held.get("value").is_some_and(|v| v == "0" || v == 0) {
                held.remove("value");
            }
            "AverageValue"
        }
        "object" => "Value",
        "external" if held.contains_key("value") => "Value",
        "resource" | "containerResource" if held.contains_key("averageUtilization") => "Utilization",
        _ => "AverageValue",
    };
    held.insert("type".to_owned(), ty.into());
}
