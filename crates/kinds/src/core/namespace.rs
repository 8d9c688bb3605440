//! Namespace. Its deletion waits for the finalizers of its spec (upstream: `pkg/registry/core/namespace`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, Subresource, status};
use crate::helpers;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        kind: "Namespace".into(),
        plural: "namespaces".into(),
        singular: "namespace".into(),
        short: &["ns"],
        scope: Scope::Cluster,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        schema: "io.k8s.api.core.v1.Namespace".into(),
        storage: "namespaces".into(),
        subresources: const { &[status(), Subresource { name: "finalize", verbs: &["update"], body: None }] },
        columns: const { &[NAME, column("Status", "string", |o, _| o["status"]["phase"].clone()), AGE] },
        selectable: &["status.phase"],
        strategy: StrategyRef::Static(&Namespace),
        sample: include_str!("samples/namespace.yaml"),
        ..KindDef::BASE
    }
}

struct Namespace;

/// What is wrong with the finalizers; `place` tells where errors of one are (upstream: `validateFinalizerName`).
fn finalizers(obj: &Value, place: impl Fn(&Path, usize) -> Path) -> ErrorList {
    let path = Path::new("spec").child("finalizers");
    let mut errors = Vec::new();
    for (i, f) in items(&obj["spec"], "finalizers").iter().filter_map(Value::as_str).enumerate() {
        let at = place(&path, i);
        errors.extend(helpers::qualified_name_errors(f).into_iter().map(|m| Error::invalid(&at, f, m)));
        if !f.contains('/') && f != "kubernetes" {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&at, f, detail));
        }
    }
    errors
}

impl Strategy for Namespace {
    fn deletes_unread(&self) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let name = object::name(obj).to_owned();
        if !name.is_empty()
            && let Some(labels) = object::map_at(obj, &["metadata", "labels"])
        {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
        object::default_at(obj, &["status"], "phase", "Active");
        object::default_at(obj, &[], "spec", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"phase": "Active"});
        let name = object::name(obj).to_owned();
        if let Some(labels) = object::map_at(obj, &["metadata", "labels"]) {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
        let list = &mut obj["spec"]["finalizers"];
        match list.as_array_mut() {
            Some(list) if !list.contains(&json!("kubernetes")) => list.push("kubernetes".into()),
            Some(_) => {}
            None => *list = json!(["kubernetes"]),
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        match ctx.subresource {
            "status" => new["spec"] = old["spec"].clone(),
            "finalize" => new["status"] = old["status"].clone(),
            _ => {
                new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
                if new["spec"]["finalizers"].is_null()
                    && let Some(spec) = new["spec"].as_object_mut()
                {
                    spec.remove("finalizers");
                }
                new["status"] = old["status"].clone();
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        finalizers(obj, |at, _| at.clone())
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        match ctx.subresource {
            "status" => {}
            "finalize" => return finalizers(new, Path::index),
            _ => return self.validate(new),
        }
        let phase = text(&new["status"], "phase");
        let expected = if object::is_deleting(new) { "Terminating" } else { "Active" };
        if phase == expected {
            return Vec::new();
        }
        let at = Path::new("status").child("Phase");
        let detail = if object::is_deleting(new) {
            "may only be 'Terminating' if `deletionTimestamp` is not empty"
        } else {
            "may only be 'Active' if `deletionTimestamp` is empty"
        };
        vec![Error::invalid(&at, phase, detail)]
    }

    fn holds_deletion(&self, obj: &mut Value, _: jiff::Timestamp) -> bool {
        let held = !items(&obj["spec"], "finalizers").is_empty();
        if held {
            obj["status"]["phase"] = "Terminating".into();
        }
        held
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", text(&obj["status"], "phase").to_owned())]
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::dns_label_errors(name, prefix)
    }
}
