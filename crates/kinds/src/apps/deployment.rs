//! Deployment (upstream: `pkg/registry/apps/deployment`, `pkg/apis/apps/v1/defaults.go`).

use super::amount;
use super::replica_set::{containers, selector, workload};
use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod::disabled;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, scale, status};
use crate::pod_defaults;
use crate::pod_warnings;
use crate::status as shared;
use crate::validate::{immutable, non_negative, not_decremented, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
        singular: "deployment".into(),
        short: &["deploy"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.Deployment".into(),
        storage: "deployments".into(),
        subresources: const { &[scale(), status()] },
        columns: const {
            &[
                NAME,
                column("Ready", "string", |o, _| {
                    let ready = o["status"]["readyReplicas"].as_i64().unwrap_or(0);
                    format!("{ready}/{}", o["spec"]["replicas"].as_i64().unwrap_or(0)).into()
                }),
                column("Up-to-date", "string", |o, _| count(o, "updatedReplicas").into()),
                column("Available", "string", |o, _| count(o, "availableReplicas").into()),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&Deployment),
        sample: include_str!("samples/deployment.yaml"),
        ..KindDef::BASE
    }
}

fn count(o: &Value, field: &str) -> i64 {
    o["status"][field].as_i64().unwrap_or(0)
}

struct Deployment;

impl Strategy for Deployment {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        object::default_at(obj, spec, "replicas", 1);
        object::default_at(obj, spec, "strategy", json!({}));
        if text(&obj["spec"]["strategy"], "type").is_empty() {
            obj["spec"]["strategy"]["type"] = "RollingUpdate".into();
        }
        if obj["spec"]["strategy"]["type"] == "RollingUpdate" {
            let rolling = &["spec", "strategy", "rollingUpdate"];
            object::default_at(obj, rolling, "maxUnavailable", "25%");
            object::default_at(obj, rolling, "maxSurge", "25%");
        }
        object::default_at(obj, spec, "revisionHistoryLimit", 10);
        object::default_at(obj, spec, "progressDeadlineSeconds", 600);
        object::default_at(obj, &[], "status", json!({}));
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
        disabled::of_workload(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        disabled::of_workload(new, old);
        if ctx.subresource == "status" {
            match object::meta_map(old, "labels") {
                Some(labels) => object::set_meta(new, "labels", labels.clone()),
                None => object::remove_meta(new, "labels"),
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let path = Path::new("spec");
        let spec = &obj["spec"];
        non_negative(spec, "replicas", &path, &mut errors);
        workload(obj, &mut errors);
        strategy(&spec["strategy"], &path.child("strategy"), &mut errors);
        non_negative(spec, "minReadySeconds", &path, &mut errors);
        non_negative(spec, "revisionHistoryLimit", &path, &mut errors);
        non_negative(spec, "progressDeadlineSeconds", &path, &mut errors);
        let min_ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
        if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64().filter(|d| *d <= min_ready) {
            let detail = "must be greater than minReadySeconds";
            errors.push(Error::invalid(&path.child("progressDeadlineSeconds"), deadline, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"], &old["status"]);
        }
        let mut errors = self.validate(new);
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old["spec"] == new["spec"]) {
            return Vec::new();
        }
        let mut warnings = if old.is_none() { pod_warnings::name(object::name(new)) } else { Vec::new() };
        let at = Path::new("spec").child("template");
        warnings.extend(pod_warnings::template(&new["spec"]["template"], &at));
        warnings
    }
}

/// Upstream: `ValidateDeploymentStrategy`.
fn strategy(v: &Value, path: &Path, errors: &mut ErrorList) {
    let rolling = &v["rollingUpdate"];
    match text(v, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(Error::forbidden(&path.child("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            if rolling.is_null() {
                errors.push(Error::required(&at, "this should be defaulted and never be nil"));
                return;
            }
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let path = at.child("maxUnavailable");
            amount::errors(unavailable, &path, errors);
            amount::errors(surge, &at.child("maxSurge"), errors);
            if amount::value(unavailable) == 0 && amount::value(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(Error::invalid(&path, unavailable.clone(), detail));
            }
            amount::at_most_all(unavailable, &path, errors);
        }
        _ => {
            let shown = json!({"Type": v["type"], "RollingUpdate": rolling});
            errors.push(Error::not_supported(path, shown, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn status_errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ] {
        non_negative(new, field, &path, &mut errors);
    }
    let get = |f: &str| new[f].as_i64().unwrap_or(0);
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if get(field) > get("replicas") {
            errors.push(Error::invalid(
                &path.child(field),
                get(field),
                "cannot be greater than status.replicas",
            ));
        }
    }
    if get("availableReplicas") > get("readyReplicas") {
        errors.push(Error::invalid(
            &path.child("availableReplicas"),
            get("availableReplicas"),
            "cannot be greater than readyReplicas",
        ));
    }
    not_decremented(new, old, "collisionCount", &path, &mut errors);
    errors
}
