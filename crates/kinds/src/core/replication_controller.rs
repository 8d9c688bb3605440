//! ReplicationController (upstream: `pkg/registry/core/replicationcontroller`, `ValidateReplicationController`).

use crate::apps::replica_set::containers;
use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod::disabled;
use crate::core::pod_template::labels;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, scale, status};
use crate::status as shared;
use crate::validate::{non_negative, text};
use crate::{pod_defaults, pod_warnings};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        kind: "ReplicationController".into(),
        plural: "replicationcontrollers".into(),
        singular: "replicationcontroller".into(),
        short: &["rc"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.ReplicationController".into(),
        storage: "controllers".into(),
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
                wide("Selector", "string", |o, _| labels(&o["spec"]["selector"]).into()),
            ]
        },
        selectable: &["status.replicas"],
        generation: true,
        strategy: StrategyRef::Static(&ReplicationController),
        sample: "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: web, namespace: default}\nspec:\n  replicas: 2\n  selector: {app: web}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: nginx}]}\n",
        ..KindDef::BASE
    }
}

struct ReplicationController;

impl Strategy for ReplicationController {
    fn checks_generate_name(&self) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|l| !l.is_empty()) {
            if obj["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
                obj["spec"]["selector"] = labels.clone();
            }
            if object::meta_map(obj, "labels").is_none_or(serde_json::Map::is_empty) {
                object::set_meta(obj, "labels", labels);
            }
        }
        object::default_at(obj, &["spec"], "replicas", 1);
        object::default_at(obj, &[], "status", json!({"replicas": 0}));
        if obj["spec"]["template"].is_object() {
            pod_defaults::template(&mut obj["spec"]["template"]);
        }
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
        let (spec, at) = (&obj["spec"], Path::new("spec"));
        non_negative(spec, "minReadySeconds", &at, &mut errors);
        let selector = spec["selector"].as_object().filter(|s| !s.is_empty());
        if selector.is_none() {
            errors.push(Error::required(&at.child("selector"), ""));
        }
        non_negative(spec, "replicas", &at, &mut errors);
        let path = at.child("template");
        let template = &spec["template"];
        if template.is_null() {
            errors.push(Error::required(&path, ""));
            return errors;
        }
        let labels = &template["metadata"]["labels"];
        let selects = selector.is_none_or(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v)));
        if !selects {
            let detail = "`selector` does not match template `labels`";
            errors.push(Error::invalid(&path.child("metadata").child("labels"), labels.clone(), detail));
        }
        errors.extend(crate::core::pod::validation::template(template, &path));
        let policy = text(&template["spec"], "restartPolicy");
        if policy != "Always" {
            errors.push(Error::not_supported(
                &path.child("spec").child("restartPolicy"),
                policy,
                &["Always"],
            ));
        }
        if !template["spec"]["activeDeadlineSeconds"].is_null() {
            let detail = "activeDeadlineSeconds in ReplicationController is not Supported";
            errors.push(Error::forbidden(&path.child("spec").child("activeDeadlineSeconds"), detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return self.validate(new);
        }
        let mut errors = Vec::new();
        let at = Path::new("status");
        for field in
            ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
        {
            non_negative(&new["status"], field, &at, &mut errors);
        }
        let number = |field: &str| new["status"][field].as_i64().unwrap_or(0);
        for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            if number(field) > number("replicas") {
                let detail = "cannot be greater than status.replicas";
                errors.push(Error::invalid(&at.child(field), number(field), detail));
            }
        }
        let available = number("availableReplicas");
        if available > number("readyReplicas") {
            let detail = "cannot be greater than readyReplicas";
            errors.push(Error::invalid(&at.child("availableReplicas"), available, detail));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (template, at) = (&new["spec"]["template"], Path::new("spec").child("template"));
        match old {
            None => {
                let mut warnings = pod_warnings::name(object::name(new));
                warnings.extend(pod_warnings::template(template, &at));
                warnings
            }
            // Upstream gives the two the other way round, so that what is warned of is the old template.
            Some(old) if old["spec"] != new["spec"] => pod_warnings::template(&old["spec"]["template"], &at),
            Some(_) => Vec::new(),
        }
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", obj["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    /// Upstream: `rest.OrphanDependents` is the default of this kind.
    fn orphans_by_default(&self) -> bool {
        true
    }
}
