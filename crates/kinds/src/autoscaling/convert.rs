//! HorizontalPodAutoscaler between version 1 and version 2: what version 1 has no fields for is JSON in annotations, in
//! shapes of its own (upstream: `pkg/apis/autoscaling/v1/conversion.go`).
//!
//! Invariant: the annotations are only ever what a conversion wrote; they are taken out on the way to version 2.

mod metrics;
mod ordered;

use crate::validate::items;
use meta::object;
use meta::schema::Strictness;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const TOLERANCE_DOWN: &str = "autoscaling.alpha.kubernetes.io/scale-down-tolerance";
const TOLERANCE_UP: &str = "autoscaling.alpha.kubernetes.io/scale-up-tolerance";

/// What version 2 scales by when nothing is said, in percent (upstream: `DefaultCPUUtilization`).
pub const CPU_PERCENT: i64 = 80;

/// The metric that version 1 has a field for.
pub fn cpu_metric(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// Removes annotations that only conversion writes.
pub fn drop_annotations(obj: &mut Value) {
    let Some(map) = obj.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR, TOLERANCE_DOWN, TOLERANCE_UP] {
        map.remove(key);
    }
    if map.is_empty() {
        object::remove_meta(obj, "annotations");
    }
}

/// The object in version 2, from version 1.
pub fn to_v2(obj: &Value) -> Value {
    let mut out = obj.clone();
    let annotation = |key: &str| -> Option<Value> {
        serde_json::from_str(object::annotation(obj, key)?).ok().filter(|v: &Value| !v.is_null())
    };
    let percent = take(&mut out["spec"], "targetCPUUtilizationPercentage");
    let others = annotation(METRICS).and_then(|list| typed_list(&list, "MetricSpec", metrics::spec_to_v2));
    let mut wanted = others.unwrap_or_default();
    wanted.extend(percent.filter(|p| !p.is_null()).map(|p| cpu_metric(&p)));
    if wanted.is_empty() {
        wanted.push(cpu_metric(&json!(CPU_PERCENT)));
    }
    out["spec"]["metrics"] = wanted.into();
    let behavior = annotation(BEHAVIOR)
        .and_then(|b| typed(ordered::behavior_fields(&b), "HorizontalPodAutoscalerBehavior"));
    if let Some(behavior) = behavior.filter(|b| b.as_object().is_some_and(|m| !m.is_empty())) {
        out["spec"]["behavior"] = behavior;
    }
    let used = take(&mut out["status"], "currentCPUUtilizationPercentage").filter(|v| !v.is_null());
    let used = used.map(
        |n| json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": n}}}),
    );
    let current =
        annotation(CURRENT).and_then(|list| typed_list(&list, "MetricStatus", metrics::status_to_v2));
    out["status"]["currentMetrics"] =
        current.or_else(|| used.map(|m| vec![m])).map_or(Value::Null, Value::from);
    let conditions = annotation(CONDITIONS)
        .and_then(|list| typed_list(&list, "HorizontalPodAutoscalerCondition", Value::clone))
        .filter(|list| !list.is_empty());
    if let Some(conditions) = conditions {
        out["status"]["conditions"] = conditions.into();
    }
    if out["status"]["currentReplicas"] == 0 {
        take(&mut out["status"], "currentReplicas");
    }
    drop_annotations(&mut out);
    out
}

/// The object in version 1, from version 2.
pub fn to_v1(obj: &Value) -> Value {
    let mut out = obj.clone();
    drop_annotations(&mut out);
    let is_cpu = |m: &Value| m["type"] == "Resource" && m["resource"]["name"] == "cpu";
    let percent = |m: &Value| m["resource"]["target"]["averageUtilization"].clone();
    let is_target = |m: &Value| is_cpu(m) && !percent(m).is_null();
    let all = items(&obj["spec"], "metrics");
    if let Some(cpu) = all.iter().find(|m| is_target(m)) {
        out["spec"]["targetCPUUtilizationPercentage"] = percent(cpu);
    }
    let others: Vec<Value> = all.iter().filter(|m| !is_target(m)).map(metrics::spec_to_v1).collect();
    let current = items(&obj["status"], "currentMetrics");
    let used = |m: &Value| m["resource"]["current"]["averageUtilization"].clone();
    if let Some(cpu) = current.iter().rev().find(|m| is_cpu(m) && !used(m).is_null()) {
        out["status"]["currentCPUUtilizationPercentage"] = used(cpu);
    }
    for (part, field) in
        [("spec", "metrics"), ("spec", "behavior"), ("status", "currentMetrics"), ("status", "conditions")]
    {
        take(&mut out[part], field);
    }
    object::default_at(&mut out, &["status"], "currentReplicas", 0);
    object::default_at(&mut out, &["status"], "desiredReplicas", 0);
    let current: Vec<Value> = current.iter().map(metrics::status_to_v1).collect();
    let (behavior, conditions) = (&obj["spec"]["behavior"], items(&obj["status"], "conditions"));
    for (key, text) in [
        (METRICS, (!others.is_empty()).then(|| ordered::list(&others))),
        (CURRENT, (!current.is_empty()).then(|| ordered::list(&current))),
        (BEHAVIOR, (!behavior.is_null()).then(|| ordered::behavior(behavior))),
        (CONDITIONS, (!conditions.is_empty()).then(|| ordered::list(conditions))),
    ] {
        if let (Some(text), Some(map)) = (text, object::map_at(&mut out, &["metadata", "annotations"])) {
            map.insert(key.to_owned(), text.into());
        }
    }
    if object::meta_map(&out, "annotations").is_some_and(Map::is_empty) {
        object::remove_meta(&mut out, "annotations");
    }
    out
}

fn take(v: &mut Value, field: &str) -> Option<Value> {
    v.as_object_mut()?.remove(field)
}

/// A value as its type says, `None` when it is none of the type: annotations are text that anybody can write.
fn typed(v: Value, ty: &str) -> Option<Value> {
    let ty = format!("io.k8s.api.autoscaling.v2.{ty}");
    let (value, _) = crate::schema::schema().decode(v, &ty, Strictness::Ignore).ok()?;
    Some(value)
}

fn typed_list(list: &Value, ty: &str, convert: fn(&Value) -> Value) -> Option<Vec<Value>> {
    let mut all = list.as_array()?.iter();
    all.try_fold(Vec::new(), |mut out, m| {
        out.push(m.is_object().then(|| typed(convert(m), ty))??);
        Some(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "h"}, "spec": spec, "status": status})
    }

    #[test]
    fn version_2_comes_back() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let obj = v2(
            json!({"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "metrics": [
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                        "metric": {"name": "hits", "selector": selector}, "target": {"type": "Value", "value": "10"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 40}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                        "target": {"type": "AverageValue", "averageValue": "100m"}}},
                    {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "1"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "tolerance": "10m",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}}),
            json!({"desiredReplicas": 2, "currentReplicas": 1,
                "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z",
                    "reason": "R", "message": "a > b"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 30, "averageValue": "3m"}}}]}),
        );
        let v1 = to_v1(&obj);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 30);
        assert_eq!(to_v2(&v1), obj);
    }

    /// The texts of the annotations have Go's order of fields.
    #[test]
    fn annotations_are_upstreams_to_the_letter() {
        let obj = v2(
            json!({"maxReplicas": 3, "metrics": [{"type": "Pods", "pods": {"metric": {"name": "q"},
                "target": {"type": "AverageValue", "averageValue": "5"}}}],
                "behavior": {"scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}}),
            json!({"desiredReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 30}}}]}),
        );
        let v1 = to_v1(&obj);
        let text = |key: &str| object::annotation(&v1, key).unwrap_or("").to_owned();
        assert_eq!(text(METRICS), r#"[{"type":"Pods","pods":{"metricName":"q","targetAverageValue":"5"}}]"#);
        assert_eq!(
            text(CURRENT),
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":30,"currentAverageValue":"0"}}]"#
        );
        assert_eq!(
            text(BEHAVIOR),
            r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null}}"#
        );
    }

    #[test]
    fn what_anybody_wrote_into_annotations_is_ignored() {
        for junk in ["", "{", "3", "[3]", "[{\"type\":4}]", "{\"ScaleUp\":7}"] {
            let obj = json!({"metadata": {"annotations": {METRICS: junk, BEHAVIOR: junk, CURRENT: junk, CONDITIONS: junk, "mine": "x"}},
                "spec": {"maxReplicas": 1, "targetCPUUtilizationPercentage": 50}, "status": {}});
            let v2 = to_v2(&obj);
            assert_eq!(v2["metadata"]["annotations"], json!({"mine": "x"}), "{junk}");
            assert_eq!(v2["spec"]["metrics"], json!([cpu_metric(&json!(50))]), "{junk}");
            assert_eq!(v2["spec"].get("behavior"), None, "{junk}");
        }
    }
}
