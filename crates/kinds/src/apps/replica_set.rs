//! ReplicaSet (upstream: `pkg/registry/apps/replicaset`, `pkg/apis/apps/validation`).

use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod::disabled;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, scale, status};
use crate::pod_defaults;
use crate::pod_warnings;
use crate::status as shared;
use crate::validate::{immutable, is_empty_selector, items, label_selector, non_negative, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "ReplicaSet".into(),
        plural: "replicasets".into(),
        singular: "replicaset".into(),
        short: &["rs"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.ReplicaSet".into(),
        storage: "replicasets".into(),
        subresources: const { &[scale(), status()] },
        columns: const {
            &[
                NAME,
                column("Desired", "integer", |o, _| o["spec"]["replicas"].as_i64().unwrap_or(0).into()),
                column("Current", "integer", |o, _| o["status"]["replicas"].as_i64().unwrap_or(0).into()),
                column("Ready", "integer", |o, _| o["status"]["readyReplicas"].as_i64().unwrap_or(0).into()),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&ReplicaSet),
        sample: include_str!("samples/replica_set.yaml"),
        ..KindDef::BASE
    }
}

/// A field of the template's containers, joined (cells of workloads).
pub fn containers(o: &Value, field: &str) -> String {
    let list = items(&o["spec"]["template"]["spec"], "containers");
    list.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

/// A workload's selector as text.
pub fn selector(o: &Value) -> String {
    match LabelSelector::from_value(&o["spec"]["selector"]).map(|s| s.to_string()) {
        Ok(text) if text.is_empty() => "<none>".to_owned(),
        Ok(text) => text,
        Err(_) => "<error>".to_owned(),
    }
}

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "replicas", 1);
        object::default_at(obj, &[], "status", json!({"replicas": 0}));
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"replicas": 0});
        disabled::of_workload(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        disabled::of_workload(new, old);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let spec = Path::new("spec");
        non_negative(&obj["spec"], "replicas", &spec, &mut errors);
        non_negative(&obj["spec"], "minReadySeconds", &spec, &mut errors);
        workload(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"]);
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

/// Selector and template of a workload whose pods always restart.
pub fn workload(obj: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec").child("selector");
    let selector = &obj["spec"]["selector"];
    if selector.is_null() {
        errors.push(Error::required(&path, ""));
    } else {
        label_selector(selector, &path, errors);
        if is_empty_selector(selector) {
            let detail = "empty selector is invalid for deployment";
            errors.push(Error::invalid(&path, selector.clone(), detail));
        }
    }
    let template = &obj["spec"]["template"];
    let at = Path::new("spec").child("template");
    let labels = &template["metadata"]["labels"];
    // No selector selects nothing, an empty one everything.
    let Ok(selects) = LabelSelector::from_value(selector) else {
        errors.push(Error::invalid(&path, selector.clone(), "invalid label selector"));
        return;
    };
    if !selects.matches_map(labels.as_object()) {
        let detail = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&at.child("metadata").child("labels"), labels.clone(), detail));
    }
    errors.extend(crate::core::pod::validation::template(template, &at));
    let policy = text(&template["spec"], "restartPolicy");
    if policy != "Always" {
        errors.push(Error::not_supported(&at.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(Error::forbidden(&at.child("spec").child("activeDeadlineSeconds"), detail));
    }
}

fn status_errors(status: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let replicas = status["replicas"].as_i64().unwrap_or(0);
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ] {
        non_negative(status, field, &path, &mut errors);
    }
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        let n = status[field].as_i64().unwrap_or(0);
        if n > replicas {
            errors.push(Error::invalid(&path.child(field), n, "cannot be greater than status.replicas"));
        }
    }
    let available = status["availableReplicas"].as_i64().unwrap_or(0);
    if available > status["readyReplicas"].as_i64().unwrap_or(0) {
        let detail = "cannot be greater than readyReplicas";
        errors.push(Error::invalid(&path.child("availableReplicas"), available, detail));
    }
    errors
}
