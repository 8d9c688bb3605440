//! PersistentVolumeClaim (upstream: `pkg/registry/core/persistentvolumeclaim`, `pkg/api/persistentvolumeclaim`).

pub mod validation;

use crate::columns::{AGE, NAME, column, wide};
use crate::core::persistent_volume::{CLASS_ANNOTATION, access_modes, class, or_unset, phase};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::resources;
use crate::status as shared;
use crate::validate::text;
use meta::field::{ErrorList, Path};
use meta::object::{self, default_at};
use serde_json::{Map, Value, json};

pub fn kind() -> KindDef {
    KindDef {
        kind: "PersistentVolumeClaim".into(),
        plural: "persistentvolumeclaims".into(),
        singular: "persistentvolumeclaim".into(),
        short: &["pvc"],
        schema: "io.k8s.api.core.v1.PersistentVolumeClaim".into(),
        storage: "persistentvolumeclaims".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Status", "string", |o, _| phase(o).into()),
                column("Volume", "string", |o, _| text(&o["spec"], "volumeName").into()),
                column("Capacity", "string", |o, _| capacity(o).into()),
                column("Access Modes", "string", |o, _| modes(o).into()),
                column("StorageClass", "string", |o, _| class(o).into()),
                column("VolumeAttributesClass", "string", |o, _| {
                    or_unset(&o["spec"], "volumeAttributesClassName").into()
                }),
                AGE,
                wide("VolumeMode", "string", |o, _| or_unset(&o["spec"], "volumeMode").into()),
            ]
        },
        strategy: StrategyRef::Static(&PersistentVolumeClaim),
        sample: include_str!("samples/persistent_volume_claim.yaml"),
        ..KindDef::BASE
    }
}

fn is_bound(o: &Value) -> bool {
    !text(&o["spec"], "volumeName").is_empty()
}

fn capacity(o: &Value) -> String {
    if is_bound(o) {
        resources::quantity(&o["status"]["capacity"]["storage"]).to_string()
    } else {
        String::new()
    }
}

fn modes(o: &Value) -> String {
    if is_bound(o) { access_modes(&o["status"]) } else { String::new() }
}

struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, obj: &mut Value) {
        if text(&obj["status"], "phase").is_empty() {
            default_at(obj, &["status"], "phase", "Pending");
        }
        if let Some(spec) = obj.get_mut("spec") {
            default_spec(spec);
        }
        for list in ["capacity", "allocatedResources"] {
            resources::round(obj.get_mut("status").and_then(|s| s.get_mut(list)));
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"phase": "Pending"});
        prepare_spec(&mut obj["spec"], &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        if ctx.subresource == "status" {
            let status = &mut new["status"];
            // The gate of volume health is off.
            if old["status"]["healthStatus"].is_null()
                && let Some(map) = status.as_object_mut()
            {
                map.remove("healthStatus");
            }
        } else {
            prepare_spec(&mut new["spec"], &old["spec"]);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        validation::spec(&obj["spec"], &Value::Null, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            validation::status_update(new)
        } else {
            validation::update(new, old)
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if shared::was_written(new, old) {
            return Vec::new();
        }
        let mut out = Vec::new();
        if object::annotation(new, CLASS_ANNOTATION).is_some() {
            out.push(format!(
                "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        out.extend(spec_warnings(&new["spec"], &Path::new("spec")));
        out
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Defaults of a claim's spec, also within templates (upstream: `SetDefaults_PersistentVolumeClaimSpec`).
pub fn default_spec(spec: &mut Value) {
    default_at(spec, &[], "volumeMode", "Filesystem");
    for list in ["limits", "requests"] {
        resources::round(spec.get_mut("resources").and_then(|r| r.get_mut(list)));
    }
}

/// Warnings of a claim's spec (upstream: `GetWarningsForPersistentVolumeClaimSpec`).
pub fn spec_warnings(spec: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["requests", "limits"] {
        let q = resources::quantity(&spec["resources"][list]["storage"]);
        if !resources::is_whole(&q) {
            let at = path.child("resources").child(list).key("storage");
            out.push(format!("{at}: fractional byte value \"{q}\" is invalid, must be an integer"));
        }
    }
    out
}

/// Drops what the gates do not allow and makes the two fields that name a data source say the same
/// (upstream: `DropDisabledFields`, `EnforceDataSourceBackwardsCompatibility`, `NormalizeDataSources`).
fn prepare_spec(spec: &mut Value, old: &Value) {
    let old_ref = old["dataSourceRef"].is_object();
    let Some(map) = spec.as_object_mut() else { return };
    let elsewhere = map.get("dataSourceRef").is_some_and(|r| !text(r, "namespace").is_empty());
    if elsewhere && !old_ref {
        map.remove("dataSourceRef");
    }
    let has = |map: &Map<String, Value>, field: &str| map.get(field).is_some_and(Value::is_object);
    let had_source = old_ref || old["dataSource"].is_object();
    if !had_source && !has(map, "dataSourceRef") && !map.get("dataSource").is_some_and(is_claim_or_snapshot) {
        map.remove("dataSource");
    }
    let same = |from: &Value| {
        let mut out = from.clone();
        out.as_object_mut().map(|m| m.remove("namespace"));
        out
    };
    match (map.get("dataSource").cloned(), map.get("dataSourceRef").cloned()) {
        (Some(source), None) => drop(map.insert("dataSourceRef".into(), same(&source))),
        (None, Some(reference)) if text(&reference, "namespace").is_empty() => {
            map.insert("dataSource".into(), same(&reference));
        }
        _ => {}
    }
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    matches!(
        (text(source, "kind"), text(source, "apiGroup")),
        ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(mut spec: Value, old: Value) -> Value {
        prepare_spec(&mut spec, &old);
        spec
    }

    #[test]
    fn data_sources_say_the_same() {
        let claim = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let other = json!({"apiGroup": "x.example.com", "kind": "Thing", "name": "a"});
        assert_eq!(
            prepared(json!({"dataSource": claim}), Value::Null),
            json!({"dataSource": claim, "dataSourceRef": claim})
        );
        assert_eq!(prepared(json!({"dataSource": other}), Value::Null), json!({}));
        assert_eq!(
            prepared(json!({"dataSourceRef": other}), Value::Null),
            json!({"dataSource": other, "dataSourceRef": other})
        );
        assert_eq!(
            prepared(json!({"dataSource": other}), json!({"dataSource": other})),
            json!({"dataSource": other, "dataSourceRef": other})
        );
        let mut elsewhere = claim.clone();
        elsewhere["namespace"] = json!("n");
        assert_eq!(prepared(json!({"dataSourceRef": elsewhere}), Value::Null), json!({}));
    }
}
