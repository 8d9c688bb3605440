//! PersistentVolume (upstream: `pkg/registry/core/persistentvolume`, `pkg/api/persistentvolume`).

pub mod sources;
pub mod validation;

use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::node_selector;
use crate::resources;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{ErrorList, Path};
use meta::object::{self, default_at};
use serde_json::{Value, json};

/// The annotation that once named the class of a volume or claim.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
pub(super) const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

pub fn kind() -> KindDef {
    KindDef {
        kind: "PersistentVolume".into(),
        plural: "persistentvolumes".into(),
        singular: "persistentvolume".into(),
        short: &["pv"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.core.v1.PersistentVolume".into(),
        storage: "persistentvolumes".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Capacity", "string", |o, _| {
                    resources::quantity(&o["spec"]["capacity"]["storage"]).to_string().into()
                }),
                column("Access Modes", "string", |o, _| access_modes(&o["spec"]).into()),
                column("Reclaim Policy", "string", |o, _| {
                    text(&o["spec"], "persistentVolumeReclaimPolicy").into()
                }),
                column("Status", "string", |o, _| phase(o).into()),
                column("Claim", "string", |o, _| claim(o).into()),
                column("StorageClass", "string", |o, _| class(o).into()),
                column("VolumeAttributesClass", "string", |o, _| {
                    or_unset(&o["spec"], "volumeAttributesClassName").into()
                }),
                column("Reason", "string", |o, _| text(&o["status"], "reason").into()),
                AGE,
                wide("VolumeMode", "string", |o, _| or_unset(&o["spec"], "volumeMode").into()),
            ]
        },
        strategy: StrategyRef::Static(&PersistentVolume),
        sample: include_str!("samples/persistent_volume.yaml"),
        ..KindDef::BASE
    }
}

/// Access modes as the short texts of tables, each once.
pub fn access_modes(holder: &Value) -> String {
    let modes = items(holder, "accessModes");
    let names = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> =
        names.iter().filter(|(m, _)| modes.iter().any(|x| x == m)).map(|(_, s)| *s).collect();
    found.join(",")
}

pub(super) fn phase(o: &Value) -> &str {
    if object::is_deleting(o) { "Terminating" } else { text(&o["status"], "phase") }
}

/// The class of a volume or claim: the old annotation wins (upstream: `GetPersistentVolumeClass`).
pub fn class(o: &Value) -> &str {
    object::annotation(o, CLASS_ANNOTATION).unwrap_or_else(|| text(&o["spec"], "storageClassName"))
}

pub(super) fn or_unset<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or("<unset>")
}

fn claim(o: &Value) -> String {
    match &o["spec"]["claimRef"] {
        Value::Null => String::new(),
        r => format!("{}/{}", text(r, "namespace"), text(r, "name")),
    }
}

struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, obj: &mut Value) {
        if text(&obj["status"], "phase").is_empty() {
            default_at(obj, &["status"], "phase", "Pending");
        }
        default_at(obj, &["spec"], "persistentVolumeReclaimPolicy", "Retain");
        default_at(obj, &["spec"], "volumeMode", "Filesystem");
        if let Some(spec) = obj.get_mut("spec") {
            resources::round(spec.get_mut("capacity"));
            default_source(spec);
        }
    }

    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx) {
        let now = meta::time::rfc3339(ctx.now);
        obj["status"] = json!({"lastPhaseTransitionTime": now, "phase": "Pending"});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        if ctx.subresource != "status" {
            return;
        }
        let (had, has) =
            (&old["status"]["lastPhaseTransitionTime"], &new["status"]["lastPhaseTransitionTime"]);
        let same = text(&old["status"], "phase") == text(&new["status"], "phase");
        let time = match same {
            true if has.is_null() => had.clone(),
            false if has.is_null() || has == had => meta::time::rfc3339(ctx.now).into(),
            _ => return,
        };
        if !time.is_null()
            && let Some(status) = object::map_at(new, &["status"])
        {
            status.insert("lastPhaseTransitionTime".into(), time);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validation::volume(obj)
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" { Vec::new() } else { validation::update(new, old) }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if shared::was_written(new, old) { Vec::new() } else { warnings(new) }
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Defaults within the source of a volume (upstream: `SetObjectDefaults_PersistentVolume`).
pub fn default_source(spec: &mut Value) {
    const FIELDS: &[(&str, &str, &str)] = &[
        ("hostPath", "type", ""),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("iscsi", "iscsiInterface", "default"),
        ("azureDisk", "cachingMode", "ReadWrite"),
        ("azureDisk", "fsType", "ext4"),
        ("azureDisk", "kind", "Shared"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ];
    for (source, field, value) in FIELDS {
        if spec[*source].is_object() {
            default_at(spec, &[source], field, *value);
        }
    }
    if spec["azureDisk"].is_object() {
        default_at(spec, &["azureDisk"], "readOnly", false);
    }
}

/// Upstream: `GetWarningsForPersistentVolume`.
fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let annotations = [
        (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    for (key, message) in annotations {
        if object::annotation(obj, key).is_some() {
            out.push(format!("metadata.annotations[{key}]: {message}"));
        }
    }
    let spec = &obj["spec"];
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let at = Path::new("spec").child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (i, term) in items(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").iter().enumerate() {
        out.extend(node_selector::expression_warnings(term, &at.index(i)));
    }
    let sources = [
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (source, message) in sources {
        if spec[source].is_object() {
            let shown = if source == "storageos" { "storageOS" } else { source };
            out.push(format!("spec.{shown}: {message}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_change_is_timed() {
        let ctx = Ctx { now: "2026-01-02T03:04:05Z".parse().unwrap(), subresource: "status" };
        let old = json!({"spec": {}, "status": {"phase": "Pending", "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"}});
        let mut new = json!({"spec": {"x": 1}, "status": {"phase": "Available"}});
        PersistentVolume.prepare_update(&mut new, &old, &ctx);
        assert_eq!(
            new,
            json!({"spec": {}, "status": {"phase": "Available", "lastPhaseTransitionTime": "2026-01-02T03:04:05Z"}})
        );
        let mut same = json!({"spec": {}, "status": {"phase": "Pending"}});
        PersistentVolume.prepare_update(&mut same, &old, &ctx);
        assert_eq!(same["status"], old["status"]);
    }

    #[test]
    fn cells_and_warnings() {
        let o = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "fast"}}, "spec": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "storageClassName": "slow", "rbd": {}}});
        assert_eq!((access_modes(&o["spec"]).as_str(), class(&o)), ("RWO,RWX", "fast"));
        assert_eq!(
            warnings(&o),
            [
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                "spec.rbd: deprecated in v1.28, non-functional in v1.31+"
            ]
        );
    }
}
