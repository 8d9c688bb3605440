//! The group `autoscaling`: HorizontalPodAutoscaler, version 2 as it is stored and version 1 made from it
//! (upstream: `pkg/apis/autoscaling`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::validate::{items, non_negative, one_of, required, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

/// Annotations of version 1 that hold what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

const SAMPLE_V2: &str = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: default}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  maxReplicas: 3\n";
const SAMPLE_V1: &str = "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: default}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  maxReplicas: 3\n  targetCPUUtilizationPercentage: 70\n";

fn base() -> KindDef {
    KindDef {
        group: "autoscaling".into(),
        kind: "HorizontalPodAutoscaler".into(),
        plural: "horizontalpodautoscalers".into(),
        singular: "horizontalpodautoscaler".into(),
        short: &["hpa"],
        categories: &["all"],
        storage: "horizontalpodautoscalers".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Reference", "string", |o, _| {
                    let target = &o["spec"]["scaleTargetRef"];
                    format!("{}/{}", text(target, "kind"), text(target, "name")).into()
                }),
                column("Targets", "string", |o, _| targets(o).into()),
                column("MinPods", "string", |o, _| match o["spec"]["minReplicas"].as_i64() {
                    Some(n) => n.to_string().into(),
                    None => "<unset>".into(),
                }),
                column("MaxPods", "integer", |o, _| o["spec"]["maxReplicas"].as_i64().unwrap_or(0).into()),
                column("Replicas", "integer", |o, _| {
                    o["status"]["currentReplicas"].as_i64().unwrap_or(0).into()
                }),
                AGE,
            ]
        },
        ..KindDef::BASE
    }
}

pub fn v2() -> KindDef {
    KindDef {
        version: "v2".into(),
        schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler".into(),
        strategy: StrategyRef::Static(&V2),
        sample: SAMPLE_V2,
        ..base()
    }
}

pub fn v1() -> KindDef {
    KindDef {
        version: "v1".into(),
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler".into(),
        strategy: StrategyRef::Static(&V1),
        stored_as: Some(("autoscaling".into(), "v2".into())),
        sample: SAMPLE_V1,
        ..base()
    }
}

/// Wanted and current values of the metrics, as `cpu: 10%/70%`.
fn targets(o: &Value) -> String {
    if let Some(wanted) = o["spec"]["targetCPUUtilizationPercentage"].as_i64() {
        return format!("cpu: {}/{wanted}%", percent(&o["status"]["currentCPUUtilizationPercentage"]));
    }
    let metrics = items(&o["spec"], "metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = items(&o["status"], "currentMetrics");
    let shown = metrics.iter().take(2).enumerate().map(|(i, m)| {
        let (m, now) = (&m["resource"], current.get(i).map_or(&Value::Null, |c| &c["resource"]["current"]));
        match m["target"]["averageUtilization"].as_i64() {
            Some(n) => format!("{}: {}/{n}%", text(m, "name"), percent(&now["averageUtilization"])),
            None => {
                let value = now["averageValue"].as_str().unwrap_or("<unknown>");
                format!("{}: {value}/{}", text(m, "name"), text(&m["target"], "averageValue"))
            }
        }
    });
    let mut out = shown.collect::<Vec<_>>().join(", ");
    if metrics.len() > 2 {
        out.push_str(&format!(" + {} more...", metrics.len() - 2));
    }
    out
}

fn percent(v: &Value) -> String {
    v.as_i64().map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"))
}

fn cpu_metric(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn is_cpu(m: &Value) -> bool {
    m["type"] == "Resource"
        && m["resource"]["name"] == "cpu"
        && !m["resource"]["target"]["averageUtilization"].is_null()
}

fn keep_other_half(new: &mut Value, old: &Value, ctx: &Ctx) {
    if ctx.subresource == "status" {
        new["spec"] = old["spec"].clone();
    } else {
        new["status"] = old["status"].clone();
    }
}

struct V2;

impl Strategy for V2 {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "minReplicas", 1);
        if items(&obj["spec"], "metrics").is_empty() {
            obj["spec"]["metrics"] = json!([cpu_metric(&json!(80))]);
        }
        object::default_at(obj, &[], "status", json!({"currentMetrics": null, "desiredReplicas": 0}));
        for direction in ["scaleUp", "scaleDown"] {
            if obj["spec"]["behavior"].is_object() {
                behavior(&mut obj["spec"]["behavior"], direction);
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"currentMetrics": null, "desiredReplicas": 0});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        keep_other_half(new, old, ctx);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = common(&obj["spec"]);
        let at = Path::new("spec");
        for (i, m) in items(&obj["spec"], "metrics").iter().enumerate() {
            let at = at.child("metrics").index(i);
            let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
            one_of(m, "type", &at, &known, &mut errors);
            let field = match text(m, "type") {
                "ContainerResource" => "containerResource",
                "External" => "external",
                "Object" => "object",
                "Pods" => "pods",
                _ => "resource",
            };
            if m[field].is_null() {
                let detail =
                    format!("must populate information for the given metric source: {}", text(m, "type"));
                errors.push(Error::required(&at.child(field), detail));
            }
        }
        errors
    }
}

/// Upstream: `SetDefaults_HorizontalPodAutoscalerBehavior`.
fn behavior(behavior: &mut Value, direction: &str) {
    let up = direction == "scaleUp";
    let policies = if up {
        json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}])
    } else {
        json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])
    };
    if up {
        object::default_at(behavior, &[direction], "stabilizationWindowSeconds", 0);
    }
    object::default_at(behavior, &[direction], "selectPolicy", "Max");
    object::default_at(behavior, &[direction], "policies", policies);
}

fn common(spec: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    if let Some(n) = spec["minReplicas"].as_i64().filter(|n| *n < 1) {
        let detail = "must be greater than or equal to 1";
        errors.push(Error::invalid(&at.child("minReplicas"), n, detail));
    }
    let max = spec["maxReplicas"].as_i64().unwrap_or(0);
    if max < 1 {
        errors.push(Error::invalid(&at.child("maxReplicas"), max, "must be greater than 0"));
    }
    if spec["minReplicas"].as_i64().is_some_and(|n| max < n) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&at.child("maxReplicas"), max, detail));
    }
    let target = at.child("scaleTargetRef");
    for field in ["kind", "name"] {
        required(&spec["scaleTargetRef"], field, &target, &mut errors);
    }
    non_negative(spec, "targetCPUUtilizationPercentage", &at, &mut errors);
    errors
}

struct V1;

impl V1 {
    fn annotate(obj: &mut Value, key: &str, value: Option<Value>) {
        if let Some(value) = value
            && let Some(map) = object::map_at(obj, &["metadata", "annotations"])
        {
            map.insert(key.to_owned(), value.to_string().into());
        }
    }

    /// Takes an annotation's JSON out.
    fn take(obj: &mut Value, key: &str) -> Option<Value> {
        let map = obj.pointer_mut("/metadata/annotations")?.as_object_mut()?;
        let text = map.remove(key)?;
        if map.is_empty() {
            object::remove_meta(obj, "annotations");
        }
        serde_json::from_str(text.as_str()?).ok()
    }
}

impl Strategy for V1 {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "minReplicas", 1);
        object::default_at(obj, &[], "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        keep_other_half(new, old, ctx);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        common(&obj["spec"])
    }

    fn decode_stored(&self, obj: &mut Value) {
        let metrics = items(&obj["spec"], "metrics").to_vec();
        let cpu = metrics.iter().find(|m| is_cpu(m)).cloned();
        let others: Vec<Value> = metrics.into_iter().filter(|m| Some(m) != cpu.as_ref()).collect();
        let current = items(&obj["status"], "currentMetrics").to_vec();
        let now = current.iter().find(|m| m["type"] == "Resource" && m["resource"]["name"] == "cpu");
        let used =
            now.map(|m| m["resource"]["current"]["averageUtilization"].clone()).filter(|v| !v.is_null());
        let conditions = obj["status"]["conditions"].clone();
        let behavior = obj["spec"]["behavior"].clone();
        for (part, fields) in
            [("spec", ["metrics", "behavior"]), ("status", ["currentMetrics", "conditions"])]
        {
            if let Some(map) = obj[part].as_object_mut() {
                fields.iter().for_each(|f| drop(map.remove(*f)));
            }
        }
        if let Some(cpu) = cpu {
            obj["spec"]["targetCPUUtilizationPercentage"] =
                cpu["resource"]["target"]["averageUtilization"].clone();
        }
        if let Some(used) = used {
            obj["status"]["currentCPUUtilizationPercentage"] = used;
        }
        Self::annotate(obj, METRICS, (!others.is_empty()).then(|| others.into()));
        Self::annotate(obj, CURRENT, (!current.is_empty()).then(|| current.into()));
        Self::annotate(obj, CONDITIONS, Some(conditions).filter(|c| !c.is_null()));
        Self::annotate(obj, BEHAVIOR, Some(behavior).filter(|b| !b.is_null()));
        object::default_at(obj, &["status"], "currentReplicas", 0);
    }

    fn to_storage(&self, obj: &mut Value) {
        let others = Self::take(obj, METRICS).unwrap_or_default();
        let (current, conditions) = (Self::take(obj, CURRENT), Self::take(obj, CONDITIONS));
        let behavior = Self::take(obj, BEHAVIOR);
        let mut metrics = others.as_array().cloned().unwrap_or_default();
        if let Some(spec) = obj["spec"].as_object_mut()
            && let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null())
        {
            metrics.insert(0, cpu_metric(&percent));
        }
        if metrics.is_empty() {
            metrics.push(cpu_metric(&json!(80)));
        }
        obj["spec"]["metrics"] = metrics.into();
        if let Some(behavior) = behavior {
            obj["spec"]["behavior"] = behavior;
        }
        if let Some(status) = obj["status"].as_object_mut() {
            status.remove("currentCPUUtilizationPercentage");
        }
        obj["status"]["currentMetrics"] = current.unwrap_or(Value::Null);
        if let Some(conditions) = conditions {
            obj["status"]["conditions"] = conditions;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_comes_back_from_storage() {
        let mut obj = meta::yaml::parse_yaml(SAMPLE_V1.as_bytes(), 1 << 16).expect("parses").0;
        V1.default(&mut obj);
        let (mut stored, mut before) = (obj.clone(), obj);
        V1.to_storage(&mut stored);
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        V1.decode_stored(&mut stored);
        before["metadata"].as_object_mut().expect("metadata").remove("annotations");
        assert_eq!(stored, before);
    }
}
