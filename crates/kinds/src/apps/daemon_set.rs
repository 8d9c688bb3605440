//! DaemonSet (upstream: `pkg/registry/apps/daemonset`, `pkg/apis/apps/validation#ValidateDaemonSet`).

use super::replica_set::{containers, selector, workload};
use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod_template::labels;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::pod_defaults;
use crate::validate::{immutable, non_negative, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "DaemonSet".into(),
        plural: "daemonsets".into(),
        singular: "daemonset".into(),
        short: &["ds"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.DaemonSet".into(),
        storage: "daemonsets".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Desired", "integer", |o, _| count(o, "desiredNumberScheduled").into()),
                column("Current", "integer", |o, _| count(o, "currentNumberScheduled").into()),
                column("Ready", "integer", |o, _| count(o, "numberReady").into()),
                column("Up-to-date", "integer", |o, _| count(o, "updatedNumberScheduled").into()),
                column("Available", "integer", |o, _| count(o, "numberAvailable").into()),
                column("Node Selector", "string", |o, _| {
                    labels(&o["spec"]["template"]["spec"]["nodeSelector"]).into()
                }),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&DaemonSet),
        sample: "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d, namespace: default}\nspec:\n  selector: {matchLabels: {app: d}}\n  template:\n    metadata: {labels: {app: d}}\n    spec: {containers: [{name: d, image: nginx}]}\n",
        ..KindDef::BASE
    }
}

fn count(o: &Value, field: &str) -> i64 {
    o["status"][field].as_i64().unwrap_or(0)
}

fn empty_status() -> Value {
    json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
}

struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "updateStrategy", json!({}));
        if text(&obj["spec"]["updateStrategy"], "type").is_empty() {
            obj["spec"]["updateStrategy"]["type"] = "RollingUpdate".into();
        }
        if obj["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
            let rolling = &["spec", "updateStrategy", "rollingUpdate"];
            object::default_at(obj, rolling, "maxUnavailable", 1);
            object::default_at(obj, rolling, "maxSurge", 0);
        }
        object::default_at(obj, &["spec"], "revisionHistoryLimit", 10);
        object::default_at(obj, &[], "status", empty_status());
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = empty_status();
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        if ctx.subresource == "status" {
            new["spec"] = old["spec"].clone();
        } else {
            new["status"] = old["status"].clone();
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (spec, at) = (&obj["spec"], Path::new("spec"));
        workload(obj, &mut errors);
        non_negative(spec, "minReadySeconds", &at, &mut errors);
        non_negative(spec, "revisionHistoryLimit", &at, &mut errors);
        let path = at.child("updateStrategy");
        match text(&spec["updateStrategy"], "type") {
            "OnDelete" => {}
            "RollingUpdate" if spec["updateStrategy"]["rollingUpdate"].is_null() => {
                errors.push(Error::required(&path.child("rollingUpdate"), ""));
            }
            "RollingUpdate" => {
                let rolling = &spec["updateStrategy"]["rollingUpdate"];
                let is_zero = |f: &str| rolling[f] == 0 || rolling[f] == "0%";
                if is_zero("maxUnavailable") && is_zero("maxSurge") {
                    let at = path.child("rollingUpdate").child("maxUnavailable");
                    errors.push(Error::required(&at, "cannot be 0 when maxSurge is 0"));
                }
            }
            other => {
                errors.push(Error::not_supported(&path.child("type"), other, &["OnDelete", "RollingUpdate"]));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if ctx.subresource == "status" {
            let at = Path::new("status");
            for field in [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
            ] {
                non_negative(&new["status"], field, &at, &mut errors);
            }
            return errors;
        }
        errors.extend(self.validate(new));
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors
    }
}
