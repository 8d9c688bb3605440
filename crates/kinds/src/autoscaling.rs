//! The group `autoscaling`: HorizontalPodAutoscaler, version 2 as it is stored and version 1 made from it
//! (upstream: `pkg/apis/autoscaling`, `pkg/registry/autoscaling/horizontalpodautoscaler`).

mod columns;
mod convert;
mod validation;

use crate::def::{Column, Ctx, KindDef, Strategy, StrategyRef, status};
use crate::validate::items;
use convert::{CPU_PERCENT, cpu_metric, to_v1, to_v2};
use meta::field::ErrorList;
use meta::object;
use serde_json::{Value, json};

const SAMPLE_V2: &str = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: default}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  maxReplicas: 3\n";
const SAMPLE_V1: &str = "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: default}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  maxReplicas: 3\n  targetCPUUtilizationPercentage: 70\n";

fn base(columns: &'static [Column]) -> KindDef {
    KindDef {
        group: "autoscaling".into(),
        kind: "HorizontalPodAutoscaler".into(),
        plural: "horizontalpodautoscalers".into(),
        singular: "horizontalpodautoscaler".into(),
        short: &["hpa"],
        categories: &["all"],
        storage: "horizontalpodautoscalers".into(),
        subresources: const { &[status()] },
        columns,
        generation: true,
        ..KindDef::BASE
    }
}

pub fn v2() -> KindDef {
    KindDef {
        version: "v2".into(),
        schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler".into(),
        strategy: StrategyRef::Static(&V2),
        sample: SAMPLE_V2,
        ..base(columns::V2)
    }
}

pub fn v1() -> KindDef {
    KindDef {
        version: "v1".into(),
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler".into(),
        strategy: StrategyRef::Static(&V1),
        stored_as: Some(("autoscaling".into(), "v2".into())),
        sample: SAMPLE_V1,
        ..base(columns::V1)
    }
}

fn empty_status() -> Value {
    json!({"currentMetrics": null, "desiredReplicas": 0})
}

struct V2;

impl Strategy for V2 {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "minReplicas", 1);
        if items(&obj["spec"], "metrics").is_empty() {
            obj["spec"]["metrics"] = json!([cpu_metric(&json!(CPU_PERCENT))]);
        }
        object::default_at(obj, &[], "status", empty_status());
        if obj["spec"]["behavior"].is_object() {
            for direction in ["scaleUp", "scaleDown"] {
                behavior(&mut obj["spec"]["behavior"], direction);
            }
        }
        convert::drop_annotations(obj);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = empty_status();
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        let kept = if ctx.subresource == "status" { "spec" } else { "status" };
        new[kept] = old[kept].clone();
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validation::spec(&obj["spec"], &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        match ctx.subresource {
            "status" => validation::status(&new["status"]),
            _ => validation::spec(&new["spec"], &old["spec"]),
        }
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

/// Version 1 does everything as version 2, so that what is in its annotations is judged too.
struct V1;

impl Strategy for V1 {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "minReplicas", 1);
        object::default_at(obj, &[], "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
        // what upstream's conversion fills in on the way to its own form, all look at
        let mut new = to_v2(obj);
        V2.default(&mut new);
        *obj = to_v1(&new);
    }

    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx) {
        let mut new = to_v2(obj);
        V2.default(&mut new);
        V2.prepare_create(&mut new, ctx);
        *obj = to_v1(&new);
    }

    fn prepare_update(&self, obj: &mut Value, old: &Value, ctx: &Ctx) {
        let (mut new, old) = (to_v2(obj), to_v2(old));
        V2.default(&mut new);
        V2.prepare_update(&mut new, &old, ctx);
        // A change in an annotation is a change of the spec, which nobody else can see.
        if new["spec"] != old["spec"] {
            object::set_meta(&mut new, "generation", object::generation(&old) + 1);
        }
        *obj = to_v1(&new);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        V2.validate(&to_v2(obj))
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        V2.validate_update(&to_v2(new), &to_v2(old), ctx)
    }

    fn decode_stored(&self, obj: &mut Value) {
        *obj = to_v1(obj);
    }

    fn to_storage(&self, obj: &mut Value) {
        *obj = to_v2(obj);
        V2.default(obj);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_comes_back_from_storage() {
        let mut obj = meta::yaml::parse_yaml(SAMPLE_V1.as_bytes(), 1 << 16).expect("parses").0;
        V1.default(&mut obj);
        let mut stored = obj.clone();
        V1.to_storage(&mut stored);
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        V1.decode_stored(&mut stored);
        assert_eq!(stored, obj);
    }

    fn hpa(change: impl Fn(&mut Value)) -> Value {
        let mut obj = json!({
            "metadata": {"name": "myautoscaler", "namespace": "default"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "apiVersion": "apps/v1", "name": "web"}, "maxReplicas": 5},
        });
        V2.default(&mut obj);
        change(&mut obj);
        obj
    }

    /// Upstream: `TestValidateHorizontalPodAutoscaler`, `TestValidateBehavior`.
    #[test]
    fn what_is_refused() {
        let external = || {
            json!([{"type": "External", "external": {"metric": {"name": "m"},
            "target": {"type": "AverageValue", "averageValue": "300m"}}}])
        };
        let cases: &[(&dyn Fn(&mut Value), &[&str])] = &[
            (&|_| {}, &[]),
            (&|o| o["spec"]["metrics"] = external(), &[]),
            (
                &|o| {
                    o["spec"]["minReplicas"] = 0.into();
                    o["spec"]["metrics"] = external();
                },
                &[],
            ),
            (
                &|o| o["spec"]["minReplicas"] = 0.into(),
                &[
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                ],
            ),
            (
                &|o| o["spec"]["maxReplicas"] = 0.into(),
                &[
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                    "spec.maxReplicas: Required value",
                ],
            ),
            (
                &|o| o["spec"]["scaleTargetRef"] = json!({"kind": "..", "name": "a/b", "apiVersion": "v1"}),
                &[
                    "spec.scaleTargetRef.kind: Invalid value: \"..\": may not be '..'",
                    "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
                    "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
                ],
            ),
            (
                &|o| {
                    o["spec"]["scaleTargetRef"] =
                        json!({"kind": "ReplicationController", "name": "a", "apiVersion": "v1"})
                },
                &[],
            ),
            (
                &|o| o["spec"]["metrics"][0]["resource"]["target"]["averageValue"] = "1".into(),
                &[
                    "spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
                ],
            ),
            (
                &|o| o["spec"]["metrics"] = json!([{}]),
                &[
                    "spec.metrics[0].type: Required value: must specify a metric source type",
                    "spec.metrics[0].type: Unsupported value: \"\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                    "spec.metrics[0].type: Unsupported value: \"\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                ],
            ),
            (
                &|o| o["spec"]["metrics"] = json!([{"type": "Pods", "pods": {"metric": {"name": ""}, "target": {"type": "AverageValue", "averageValue": "-1"}}}]),
                &[
                    "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                    "spec.metrics[0].pods.target.averageValue: Invalid value: \"-1\": must be positive",
                ],
            ),
            (
                &|o| {
                    o["spec"]["behavior"] = json!({"scaleUp": {"policies": [{"type": "Hm", "value": 0, "periodSeconds": 1801}],
                    "stabilizationWindowSeconds": 3601, "selectPolicy": "x", "tolerance": "-1"}})
                },
                &[
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"x\": supported values: \"Disabled\", \"Max\", \"Min\"",
                    "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Hm\": supported values: \"Percent\", \"Pods\"",
                    "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                    "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
                ],
            ),
        ];
        for (change, wanted) in cases {
            let messages: Vec<String> = V2.validate(&hpa(change)).iter().map(ToString::to_string).collect();
            assert_eq!(messages, *wanted);
        }
    }

    #[test]
    fn an_annotation_of_version_1_counts_as_a_change() {
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let mut old = to_v1(&hpa(|o| o["status"]["desiredReplicas"] = 3.into()));
        object::set_meta(&mut old, "generation", 4);
        let mut new = old.clone();
        let behavior = "{\"ScaleUp\":{\"SelectPolicy\":\"Min\"}}";
        object::set_meta(
            &mut new,
            "annotations",
            json!({"autoscaling.alpha.kubernetes.io/behavior": behavior}),
        );
        new["status"]["desiredReplicas"] = 9.into();
        V1.prepare_update(&mut new, &old, &ctx);
        assert_eq!((object::generation(&new), &new["status"]["desiredReplicas"]), (5, &json!(3)));
        assert_eq!(to_v2(&new)["spec"]["behavior"]["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(V1.validate_update(&new, &old, &ctx), []);
    }
}
