//! The group `apiextensions.k8s.io`: CustomResourceDefinition (upstream: apiextensions
//! `pkg/registry/customresourcedefinition`, `pkg/apis/apiextensions`).
//!
//! What a definition makes is in [`crate::custom`]; the finalizer that clears its objects is its controller's.

mod spec;

use crate::columns::{CREATED_AT, NAME, column, wide};
use crate::custom::names::{self, CLEANUP_FINALIZER};
use crate::custom::schema_errors;
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::schema::Strictness;
use serde_json::{Value, json};

const SCHEMA_TYPE: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

pub fn custom_resource_definition() -> KindDef {
    KindDef {
        group: "apiextensions.k8s.io".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
        singular: "customresourcedefinition".into(),
        short: &["crd", "crds"],
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition".into(),
        storage: "apiextensions.k8s.io/customresourcedefinitions".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Scope", "string", |o, _| text(&o["spec"], "scope").into()),
                column("Versions", "string", |o, _| versions(o).into()),
                CREATED_AT,
                wide("Group", "string", |o, _| text(&o["spec"], "group").into()),
                wide("Kind", "string", |o, _| text(&o["spec"]["names"], "kind").into()),
                wide("ShortNames", "string", |o, _| {
                    object::strings(&o["spec"]["names"]["shortNames"]).join(",").into()
                }),
                wide("Established", "boolean", |o, _| crate::custom::names::is_true(o, "Established").into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&Definition),
        sample: "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: crontabs.stable.example.com}\nspec: {group: stable.example.com, scope: Namespaced, names: {plural: crontabs, kind: CronTab}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {cronSpec: {type: string}}}}}}}]}\n",
        ..KindDef::BASE
    }
}

fn versions(o: &Value) -> String {
    let mut served: Vec<String> = items(&o["spec"], "versions")
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| format!("{}{}", text(v, "name"), if v["storage"] == true { "(storage)" } else { "" }))
        .collect();
    served.sort_unstable();
    served.join(",")
}

/// The version that objects are stored in.
pub fn storage_version(crd: &Value) -> Option<&str> {
    items(&crd["spec"], "versions").iter().find(|v| v["storage"] == true).map(|v| text(v, "name"))
}

struct Definition;

impl Strategy for Definition {
    fn has_table(&self, subresource: &str) -> bool {
        subresource != "status"
    }

    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let kind = text(&obj["spec"]["names"], "kind").to_owned();
        let names = &["spec", "names"];
        if text(&obj["spec"]["names"], "singular").is_empty() {
            set(obj, names, "singular", kind.to_lowercase().into());
        }
        if text(&obj["spec"]["names"], "listKind").is_empty() && !kind.is_empty() {
            set(obj, names, "listKind", format!("{kind}List").into());
        }
        object::default_at(obj, &["spec"], "conversion", json!({"strategy": "None"}));
        let client = &["spec", "conversion", "webhook", "clientConfig", "service"];
        if object::at(obj, client).is_some() {
            object::default_at(obj, client, "port", 443);
        }
        if let Some(list) = obj.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
            for v in list {
                if let Some(schema) = v.pointer_mut("/schema/openAPIV3Schema") {
                    normalize(schema);
                }
            }
        }
        object::default_at(obj, &[], "status", json!({}));
        let names = json!({"plural": "", "kind": ""});
        object::default_at(obj, &["status"], "acceptedNames", names);
        object::default_at(obj, &["status"], "conditions", Value::Null);
        if items(&obj["status"], "storedVersions").is_empty() {
            let stored: Vec<Value> = storage_version(obj).map(Value::from).into_iter().collect();
            let stored = if stored.is_empty() { Value::Null } else { stored.into() };
            set(obj, &["status"], "storedVersions", stored);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] =
            json!({"acceptedNames": {"plural": "", "kind": ""}, "conditions": null, "storedVersions": null});
        add_stored(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        // Upstream means to keep metadata of a write of the status, and does not.
        shared::split(new, old, ctx);
        if ctx.subresource != "status" {
            add_stored(new);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let required = format!("{}.{}", text(&obj["spec"]["names"], "plural"), text(&obj["spec"], "group"));
        let name = object::name(obj);
        if !name.is_empty() && name != required {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        spec::check(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if ctx.subresource == "status" {
            let at = Path::new("status").child("acceptedNames");
            spec::names(&new["status"]["acceptedNames"], &at, &mut errors);
        } else {
            spec::check(new, Some(old), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let gather = |o: &Value| {
            let (mut formats, mut sets) = (Vec::new(), Vec::new());
            // A schema that all versions share is looked at once.
            for v in spec::schemas(o) {
                let (f, s) = schema_errors::warnings(v);
                formats.extend(f);
                sets.extend(s);
            }
            sets.sort_unstable();
            sets.dedup();
            formats.extend(sets);
            formats
        };
        let known = old.map(gather).unwrap_or_default();
        gather(new).into_iter().filter(|w| !known.contains(w)).collect()
    }

    /// The first deletion only marks: the objects go before their definition. What has been marked is held by the
    /// finalizer alone (upstream: `customresourcedefinition/etcd.go#Delete`).
    fn holds_deletion(&self, obj: &mut Value, now: jiff::Timestamp) -> bool {
        if items(&obj["status"], "conditions").iter().any(|c| c["type"] == "Terminating") {
            return false;
        }
        let mut finalizers = object::strings(&obj["metadata"]["finalizers"]);
        if !finalizers.iter().any(|f| f == CLEANUP_FINALIZER) {
            finalizers.push(CLEANUP_FINALIZER.to_owned());
            object::set_meta(obj, "finalizers", finalizers);
        }
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        names::set_terminating(obj, true, "InstanceDeletionPending", message, now);
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

fn set(obj: &mut Value, path: &[&str], field: &str, value: Value) {
    if let Some(map) = object::map_at(obj, path) {
        map.insert(field.to_owned(), value);
    }
}

/// The storage version is among the stored ones.
fn add_stored(obj: &mut Value) {
    let Some(version) = storage_version(obj).map(str::to_owned) else { return };
    let Some(status) = object::map_at(obj, &["status"]) else { return };
    let slot = status.entry("storedVersions").or_insert(Value::Null);
    if !slot.is_array() {
        *slot = json!([]);
    }
    if let Some(list) = slot.as_array_mut().filter(|l| !l.iter().any(|v| *v == version.as_str())) {
        list.push(version.into());
    }
}

/// Gives the parts of a schema that the type table takes as any JSON (`items`, `additionalProperties`) the type that
/// they have.
fn normalize(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for (field, value) in map.iter_mut() {
        match (field.as_str(), value) {
            ("items" | "additionalProperties", value) if value.is_object() => {
                if let Ok((typed, _)) =
                    crate::schema::schema().decode(value.clone(), SCHEMA_TYPE, Strictness::Ignore)
                {
                    *value = typed;
                }
                normalize(value);
            }
            ("properties" | "definitions" | "patternProperties", Value::Object(m)) => {
                m.values_mut().for_each(normalize);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => list.iter_mut().for_each(normalize),
            ("not", value) => normalize(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
