//! The group `storagemigration.k8s.io` (upstream: `pkg/apis/storagemigration`).

use crate::columns::{NAME, column};
use crate::def::{Column, Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::rest;
use crate::status as shared;
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn storage_version_migration() -> KindDef {
    KindDef {
        group: "storagemigration.k8s.io".into(),
        kind: "StorageVersionMigration".into(),
        plural: "storageversionmigrations".into(),
        singular: "storageversionmigration".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.storagemigration.v1.StorageVersionMigration".into(),
        storage: "storageversionmigrations".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                // Upstream gives this Name no format.
                Column { format: "", ..NAME },
                column("Resource", "string", |o, _| resource(o).into()),
                column("Status", "string", |o, _| state(o).into()),
            ]
        },
        strategy: StrategyRef::Static(&Migration),
        sample: "apiVersion: storagemigration.k8s.io/v1\nkind: StorageVersionMigration\nmetadata: {name: m}\nspec: {resource: {group: apps, resource: deployments}}\n",
        ..KindDef::BASE
    }
}

fn resource(o: &Value) -> String {
    let r = &o["spec"]["resource"];
    match (text(r, "resource"), text(r, "group")) {
        (resource, "") => resource.to_owned(),
        (resource, group) => format!("{resource}.{group}"),
    }
}

fn state(o: &Value) -> &str {
    let known =
        |c: &&Value| c["status"] == "True" && matches!(text(c, "type"), "Running" | "Failed" | "Succeeded");
    items(&o["status"], "conditions").iter().rfind(known).map_or("Unknown", |c| text(c, "type"))
}

struct Migration;

impl Strategy for Migration {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (path, r) = (Path::new("spec").child("resource"), &obj["spec"]["resource"]);
        let (resource, group) = (text(r, "resource"), text(r, "group"));
        if resource.is_empty() {
            errors.push(Error::required(&path.child("resource"), "resource is required to be set"));
        } else {
            let messages = helpers::dns1035_label_errors(resource, false);
            rest::joined(&path.child("resource"), resource, &messages, "", &mut errors);
        }
        if !group.is_empty() {
            let messages = helpers::dns_subdomain_errors(group, false);
            rest::joined(&path.child("group"), group, &messages, "", &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"], &old["status"]);
        }
        let mut errors = self.validate(new);
        immutable(&new["spec"], &old["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// Upstream: `ValidateStorageVersionMigrationStatusUpdate`.
fn status_errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (version, was) = (text(new, "resourceVersion"), text(old, "resourceVersion"));
    let at = path.child("resourceVersion");
    if !version.is_empty()
        && let Some(why) = bad_version(version)
    {
        errors.push(Error::invalid(&at, version, why));
    }
    let (is_now, is_old) = (items(new, "conditions"), items(old, "conditions"));
    let conditions = path.child("conditions");
    shared::conditions(is_now, &conditions, &mut errors);
    if !was.is_empty() && was != version {
        errors.push(Error::invalid(&at, version, "field is immutable"));
    }
    let mut refuse = |detail: &str| {
        errors.push(Error::invalid(&conditions, new["conditions"].clone(), detail));
    };
    if rest::is_true(is_now, "Succeeded") && rest::is_true(is_now, "Failed") {
        refuse("Both success and failed conditions cannot be true at the same time");
    }
    if rest::is_true(is_old, "Succeeded") && !rest::is_true(is_now, "Succeeded") {
        refuse("Success condition cannot be set to false once it is true");
    }
    if rest::is_true(is_old, "Failed") && !rest::is_true(is_now, "Failed") {
        refuse("Failed condition cannot be set to false once it is true");
    }
    errors
}

/// What is wrong with a resource version (upstream: `resourceversion.CompareResourceVersion`).
fn bad_version(version: &str) -> Option<String> {
    let shaped = version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    (!shaped).then(|| format!("resource version is not well formed: {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;

    #[test]
    fn spec_is_immutable_and_ends_are_final() {
        let row = storage_version_migration();
        let spec = json!({"spec": {"resource": {"resource": "pods"}}, "status": {}});
        assert!(row.strategy.validate(&spec).is_empty());
        let other = json!({"spec": {"resource": {"resource": "nodes"}}});
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        assert_eq!(
            aggregate(&row.strategy.validate_update(&other, &spec, &ctx)),
            "spec: Invalid value: {\"resource\":{\"resource\":\"nodes\"}}: field is immutable"
        );
        let done = json!({"conditions": [{"type": "Succeeded", "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "resourceVersion": "12"});
        assert!(status_errors(&done, &json!({})).is_empty());
        assert_eq!(
            aggregate(&status_errors(&json!({"resourceVersion": "12"}), &done)),
            "status.conditions: Invalid value: null: Success condition cannot be set to false once it is true"
        );
        assert_eq!(state(&json!({"status": done})), "Succeeded");
    }
}
