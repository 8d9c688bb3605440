//! StatefulSet (upstream: `pkg/registry/apps/statefulset`, `pkg/apis/apps/validation#ValidateStatefulSet`).

use super::amount;
use super::replica_set::containers;
use crate::columns::{AGE, NAME, column, wide};
use crate::core::persistent_volume_claim;
use crate::core::pod::disabled;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, scale, status};
use crate::status as shared;
use crate::validate::{
    immutable, is_empty_selector, items, label_selector, non_negative, not_decremented, text,
};
use crate::{helpers, pod_defaults, pod_warnings};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
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
        let rolling = &["spec", "updateStrategy", "rollingUpdate"];
        if text(&obj["spec"]["updateStrategy"], "type").is_empty() {
            obj["spec"]["updateStrategy"]["type"] = "RollingUpdate".into();
            object::default_at(obj, rolling, "partition", 0);
        }
        let strategy = &obj["spec"]["updateStrategy"];
        if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            object::default_at(obj, rolling, "partition", 0);
            object::default_at(obj, rolling, "maxUnavailable", 1);
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
        disabled::of_workload(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        disabled::of_workload(new, old);
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::dns_label_errors(name, prefix)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        spec_errors(&obj["spec"], &Check { claims: true, service_name: true, template: true })
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"], &old["status"]);
        }
        // What cannot change any more, and what was wrong before, is not looked at again.
        let check = Check { claims: false, service_name: false, template: true };
        let template = spec_errors(&old["spec"], &check).is_empty();
        let mut errors = spec_errors(&new["spec"], &Check { template, ..check });
        for field in ["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"] {
            immutable(&new["spec"][field], &old["spec"][field], &Path::new("spec").child(field), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (spec, at) = (&new["spec"], Path::new("spec"));
        let mut warnings = Vec::new();
        if old.is_some_and(|old| old["status"] != new["status"]) {
            return warnings;
        }
        if old.is_none_or(|old| old["spec"] != *spec) {
            warnings.extend(pod_warnings::template(&spec["template"], &at.child("template")));
        }
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            let path = at.child("volumeClaimTemplates").index(i);
            let path = if old.is_some() { path.child("Spec") } else { path };
            warnings.extend(persistent_volume_claim::spec_warnings(&claim["spec"], &path));
        }
        if spec["revisionHistoryLimit"].as_i64().is_some_and(|n| n < 0) {
            warnings.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        warnings
    }
}

/// Which parts of a spec are checked (upstream: `StatefulSetValidationOptions`).
struct Check {
    claims: bool,
    service_name: bool,
    template: bool,
}

/// Upstream: `ValidateStatefulSetSpec`.
fn spec_errors(spec: &Value, check: &Check) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let path = at.child("podManagementPolicy");
    match text(spec, "podManagementPolicy") {
        "" => errors.push(Error::required(&path, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(Error::invalid(&path, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    update_strategy(&spec["updateStrategy"], &at.child("updateStrategy"), &mut errors);
    let (retention, path) =
        (&spec["persistentVolumeClaimRetentionPolicy"], at.child("persistentVolumeClaimRetentionPolicy"));
    if retention.is_object() {
        for field in ["whenDeleted", "whenScaled"] {
            let value = text(retention, field);
            if !["Retain", "Delete"].contains(&value) {
                errors.push(Error::not_supported(&path.child(field), value, &["Retain", "Delete"]));
            }
        }
    }
    if check.claims {
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            let path = at.child("volumeClaimTemplates").index(i).child("spec");
            persistent_volume_claim::validation::spec(&claim["spec"], &Value::Null, &path, &mut errors);
        }
    }
    non_negative(spec, "replicas", &at, &mut errors);
    non_negative(spec, "minReadySeconds", &at, &mut errors);
    non_negative(&spec["ordinals"], "start", &at.child("ordinals"), &mut errors);
    let service = text(spec, "serviceName");
    if check.service_name && !service.is_empty() {
        let path = at.child("serviceName");
        let messages = helpers::dns_label_errors(service, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path, service, m)));
    }
    template(spec, check, &at, &mut errors);
    errors
}

/// Upstream: `validateRollingUpdateStatefulSet` and the part of the spec's check around it.
fn update_strategy(strategy: &Value, at: &Path, errors: &mut ErrorList) {
    let (rolling, path) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
    match text(strategy, "type") {
        "" => errors.push(Error::required(at, "")),
        "OnDelete" if !rolling.is_null() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(Error::invalid(&path, rolling.clone(), detail));
        }
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => {}
        "RollingUpdate" => {
            non_negative(rolling, "partition", &path, errors);
            let (unavailable, path) = (&rolling["maxUnavailable"], path.child("maxUnavailable"));
            amount::errors(unavailable, &path, errors);
            if !unavailable.is_null() && amount::value(unavailable) == 0 {
                errors.push(Error::invalid(&path, unavailable.clone(), "cannot be 0"));
            }
            amount::at_most_all(unavailable, &path, errors);
        }
        _ => {
            let shown = json!({"Type": strategy["type"], "RollingUpdate": rolling});
            errors.push(Error::invalid(at, shown, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
}

fn template(spec: &Value, check: &Check, at: &Path, errors: &mut ErrorList) {
    let (selector, path) = (&spec["selector"], at.child("selector"));
    if selector.is_null() {
        errors.push(Error::required(&path, ""));
    } else {
        label_selector(selector, &path, errors);
        if is_empty_selector(selector) {
            let detail = "empty selector is invalid for statefulset";
            errors.push(Error::invalid(&path, selector.clone(), detail));
        }
    }
    let (template, at) = (&spec["template"], at.child("template"));
    let labels = &template["metadata"]["labels"];
    match LabelSelector::from_value(selector) {
        Err(_) => errors.push(Error::invalid(&path, selector.clone(), "")),
        Ok(selector) => {
            if !selector.matches_map(labels.as_object()) {
                let detail = "`selector` does not match template `labels`";
                let path = at.child("metadata").child("labels");
                errors.push(Error::invalid(&path, labels.clone(), detail));
            }
            if check.template {
                errors.extend(crate::core::pod::validation::template(&as_run(spec), &at));
            }
            crate::validate::labels(labels, &at.child("labels"), errors);
        }
    }
    let (pod, at) = (&template["spec"], at.child("spec"));
    let policy = text(pod, "restartPolicy");
    if policy != "Always" {
        errors.push(Error::not_supported(&at.child("restartPolicy"), policy, &["Always"]));
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in StatefulSet is not Supported";
        errors.push(Error::forbidden(&at.child("activeDeadlineSeconds"), detail));
    }
}

/// The template as pods are made from it: with a volume per claim, and without the names that the controller gives.
fn as_run(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims: Vec<&str> = items(spec, "volumeClaimTemplates").iter().map(object::name).collect();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    pod.remove("subdomain");
    pod.remove("hostname");
    if claims.is_empty() {
        return template;
    }
    let mut volumes: Vec<Value> = Vec::new();
    for name in &claims {
        if !volumes.iter().any(|v| text(v, "name") == *name) {
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
    let own = items(&spec["template"]["spec"], "volumes").iter();
    volumes.extend(own.filter(|v| !claims.contains(&text(v, "name"))).cloned());
    pod.insert("volumes".to_owned(), volumes.into());
    template
}

fn status_errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    let number = |field: &str| new[field].as_i64().unwrap_or(0);
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        non_negative(new, field, &at, &mut errors);
    }
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if number(field) > number("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.push(Error::invalid(&at.child(field), number(field), detail));
        }
    }
    let available = number("availableReplicas");
    if available > number("readyReplicas") {
        let detail = "cannot be greater than status.readyReplicas";
        errors.push(Error::invalid(&at.child("availableReplicas"), available, detail));
    }
    not_decremented(new, old, "collisionCount", &at, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stateful_set(change: impl Fn(&mut Value)) -> Value {
        let mut obj = json!({
            "metadata": {"name": "abc", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "abc", "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "abc", "image": "image",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]},
        });
        StatefulSet.default(&mut obj);
        change(&mut obj);
        obj
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateStatefulSet`.
    #[test]
    fn what_is_refused() {
        let cases: &[(fn(&mut Value), &[&str])] = &[
            (|_| {}, &[]),
            (
                |o| o["spec"]["podManagementPolicy"] = "Both".into(),
                &["spec.podManagementPolicy: Invalid value: \"Both\": must be 'OrderedReady' or 'Parallel'"],
            ),
            (
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "0%".into(),
                &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": cannot be 0"],
            ),
            (
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = (-1).into(),
                &[
                    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                |o| o["spec"]["updateStrategy"]["type"] = "OnDelete".into(),
                &[
                    "spec.updateStrategy.rollingUpdate: Invalid value: {\"maxUnavailable\":1,\"partition\":0}: only allowed for updateStrategy 'RollingUpdate'",
                ],
            ),
            (
                |o| o["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] = "Keep".into(),
                &[
                    "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
                ],
            ),
            (
                |o| o["spec"]["ordinals"] = json!({"start": -2}),
                &["spec.ordinals.start: Invalid value: -2: must be greater than or equal to 0"],
            ),
            (
                |o| o["spec"]["selector"] = json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"],
            ),
            (|o| o["spec"]["revisionHistoryLimit"] = (-5).into(), &[]),
        ];
        for (change, wanted) in cases {
            assert_eq!(texts(&StatefulSet.validate(&stateful_set(change))), *wanted);
        }
    }

    /// Upstream: `TestValidateStatefulSetUpdate`.
    #[test]
    fn what_an_update_may_change() {
        let old = stateful_set(|o| o["spec"]["serviceName"] = "Not.A.Label".into());
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let update = |change: fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new);
            texts(&StatefulSet.validate_update(&new, &old, &ctx))
        };
        assert!(update(|o| o["spec"]["replicas"] = 5.into()).is_empty());
        assert!(update(|o| o["spec"]["revisionHistoryLimit"] = 5.into()).is_empty());
        assert_eq!(
            update(|o| o["spec"]["serviceName"] = "x".into()),
            ["spec.serviceName: Invalid value: \"x\": field is immutable"]
        );
        assert_eq!(
            update(|o| o["spec"]["podManagementPolicy"] = "Parallel".into()),
            ["spec.podManagementPolicy: Invalid value: \"Parallel\": field is immutable"]
        );
    }
}
