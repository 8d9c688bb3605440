//! StatefulSet (upstream: `pkg/registry/apps/statefulset`, `pkg/apis/apps/validation#ValidateStatefulSet`).

use super::replica_set::{containers, workload};
use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, scale, status};
use crate::pod_defaults;
use crate::validate::{items, non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "StatefulSet".into(),
        plural: "statefulsets".into(),
        singular: "statefulset".into(),
        short: &["sts"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.StatefulSet".into(),
        storage: "statefulsets".into(),
        subresources: const { &[scale(), status()] },
        columns: const {
            &[
                NAME,
                column("Ready", "string", |o, _| {
                    let ready = o["status"]["readyReplicas"].as_i64().unwrap_or(0);
                    format!("{ready}/{}", o["spec"]["replicas"].as_i64().unwrap_or(0)).into()
                }),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&StatefulSet),
        sample: "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: default}\nspec:\n  serviceName: db\n  selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    spec: {containers: [{name: db, image: postgres}]}\n",
        ..KindDef::BASE
    }
}

struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        if text(&obj["spec"], "podManagementPolicy").is_empty() {
            object::default_at(obj, spec, "podManagementPolicy", "OrderedReady");
        }
        object::default_at(obj, spec, "updateStrategy", json!({}));
        if text(&obj["spec"]["updateStrategy"], "type").is_empty() {
            obj["spec"]["updateStrategy"]["type"] = "RollingUpdate".into();
            object::default_at(obj, &["spec", "updateStrategy", "rollingUpdate"], "partition", 0);
        }
        if obj["spec"]["updateStrategy"]["rollingUpdate"].is_object() {
            object::default_at(obj, &["spec", "updateStrategy", "rollingUpdate"], "partition", 0);
        }
        let retention = &["spec", "persistentVolumeClaimRetentionPolicy"];
        object::default_at(obj, retention, "whenDeleted", "Retain");
        object::default_at(obj, retention, "whenScaled", "Retain");
        object::default_at(obj, spec, "replicas", 1);
        object::default_at(obj, spec, "revisionHistoryLimit", 10);
        object::default_at(obj, &[], "status", json!({"replicas": 0, "availableReplicas": 0}));
        pod_defaults::template(&mut obj["spec"]["template"]);
        let claims = obj.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
        for claim in claims.into_iter().flatten() {
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            object::default_at(claim, &["status"], "phase", "Pending");
            crate::core::persistent_volume_claim::default_spec(&mut claim["spec"]);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"replicas": 0, "availableReplicas": 0});
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
        one_of(spec, "podManagementPolicy", &at, &["OrderedReady", "Parallel"], &mut errors);
        let path = at.child("updateStrategy");
        match text(&spec["updateStrategy"], "type") {
            "OnDelete" if !spec["updateStrategy"]["rollingUpdate"].is_null() => {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                let shown = spec["updateStrategy"]["rollingUpdate"].clone();
                errors.push(Error::invalid(&path.child("rollingUpdate"), shown, detail));
            }
            "OnDelete" | "RollingUpdate" => {
                let rolling = &spec["updateStrategy"]["rollingUpdate"];
                non_negative(rolling, "partition", &path.child("rollingUpdate"), &mut errors);
            }
            other => {
                let detail = "must be 'RollingUpdate' or 'OnDelete'";
                errors.push(Error::invalid(&path, other, detail));
            }
        }
        let retention = &spec["persistentVolumeClaimRetentionPolicy"];
        if retention.is_object() {
            let path = at.child("persistentVolumeClaimRetentionPolicy");
            for field in ["whenDeleted", "whenScaled"] {
                one_of(retention, field, &path, &["Retain", "Delete"], &mut errors);
            }
        }
        non_negative(spec, "replicas", &at, &mut errors);
        non_negative(spec, "minReadySeconds", &at, &mut errors);
        non_negative(spec, "revisionHistoryLimit", &at, &mut errors);
        non_negative(&spec["ordinals"], "start", &at.child("ordinals"), &mut errors);
        workload(obj, &mut errors);
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            if object::name(claim).is_empty() {
                let path = at.child("volumeClaimTemplates").index(i).child("metadata").child("name");
                errors.push(Error::required(&path, "name or generateName is required"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"]);
        }
        let mut errors = self.validate(new);
        const MUTABLE: &[&str] = &[
            "replicas",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
            "ordinals",
        ];
        let rest = |o: &Value| {
            let mut spec = o["spec"].clone();
            if let Some(map) = spec.as_object_mut() {
                MUTABLE.iter().for_each(|f| drop(map.remove(*f)));
            }
            spec
        };
        if rest(new) != rest(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(Error::forbidden(&Path::new("spec"), detail));
        }
        errors
    }
}

fn status_errors(status: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    let replicas = status["replicas"].as_i64().unwrap_or(0);
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        non_negative(status, field, &at, &mut errors);
    }
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        let n = status[field].as_i64().unwrap_or(0);
        if n > replicas {
            errors.push(Error::invalid(&at.child(field), n, "cannot be greater than status.replicas"));
        }
    }
    errors
}
