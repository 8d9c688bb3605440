//! JSON in the order in which Go writes the fields of its structs, for annotations that people and tests compare.

use crate::validate::items;
use serde_json::{Map, Value};

/// How deep a value is written; what is deeper is no metric.
const DEPTH_MAX: usize = 16;

/// One order that all structs of version 1's metrics and conditions agree with.
const FIELDS: &[&str] = &[
    "type",
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
    "target",
    "kind",
    "name",
    "apiVersion",
    "metricName",
    "metricSelector",
    "targetValue",
    "targetAverageUtilization",
    "targetAverageValue",
    "currentValue",
    "currentAverageUtilization",
    "currentAverageValue",
    "selector",
    "averageValue",
    "container",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "observedGeneration",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
];

/// A list of metrics or conditions.
pub fn list(values: &[Value]) -> String {
    let all: Vec<String> = values.iter().map(|v| object(v, DEPTH_MAX)).collect();
    escape(&format!("[{}]", all.join(",")))
}

fn object(v: &Value, depth: usize) -> String {
    match v {
        Value::Object(map) if depth > 0 => {
            let known = FIELDS.iter().filter_map(|f| map.get_key_value(*f));
            let other = map.iter().filter(|(k, _)| !FIELDS.contains(&k.as_str()));
            let fields = known.chain(other).map(|(k, v)| {
                // Labels are a map, which Go sorts.
                let text = if k == "matchLabels" { v.to_string() } else { object(v, depth - 1) };
                format!("{}:{text}", Value::from(k.as_str()))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(list) if depth > 0 => {
            let all: Vec<String> = list.iter().map(|v| object(v, depth - 1)).collect();
            format!("[{}]", all.join(","))
        }
        other => other.to_string(),
    }
}

/// Go's encoder writes these so that they do no harm in a web page.
fn escape(text: &str) -> String {
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A behavior; upstream writes its internal type, whose fields begin with capitals and are all there.
pub fn behavior(v: &Value) -> String {
    escape(&format!("{{\"ScaleUp\":{},\"ScaleDown\":{}}}", rules(&v["scaleUp"]), rules(&v["scaleDown"])))
}

fn rules(v: &Value) -> String {
    if v.is_null() {
        return "null".to_owned();
    }
    let policy = |p: &Value| {
        let number = |f: &str| p[f].as_i64().unwrap_or(0);
        let ty = Value::from(p["type"].as_str().unwrap_or(""));
        format!(
            "{{\"Type\":{ty},\"Value\":{},\"PeriodSeconds\":{}}}",
            number("value"),
            number("periodSeconds")
        )
    };
    let policies = match v["policies"].is_null() {
        true => "null".to_owned(),
        false => format!("[{}]", items(v, "policies").iter().map(policy).collect::<Vec<_>>().join(",")),
    };
    format!(
        "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":{policies},\"Tolerance\":{}}}",
        v["stabilizationWindowSeconds"], v["selectPolicy"], v["tolerance"]
    )
}

/// A behavior's fields as version 2 names them; Go reads names in any case.
pub fn behavior_fields(v: &Value) -> Value {
    renamed(v, DEPTH_MAX)
}

fn renamed(v: &Value, depth: usize) -> Value {
    const NAMES: &[&str] = &[
        "scaleUp",
        "scaleDown",
        "stabilizationWindowSeconds",
        "selectPolicy",
        "policies",
        "tolerance",
        "type",
        "value",
        "periodSeconds",
    ];
    match v {
        Value::Object(map) if depth > 0 => {
            let name = |k: &str| NAMES.iter().find(|n| n.eq_ignore_ascii_case(k)).map(|n| (*n).to_owned());
            let fields = map.iter().filter(|(_, v)| !v.is_null());
            fields.filter_map(|(k, v)| Some((name(k)?, renamed(v, depth - 1)))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) if depth > 0 => list.iter().map(|v| renamed(v, depth - 1)).collect(),
        other => other.clone(),
    }
}
