//! CSINode (upstream: `pkg/registry/storage/csinode`, `ValidateCSINode`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::status as shared;
use crate::validate::{immutable, items, non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const TYPE: &str = "io.k8s.api.storage.v1.CSINode";
/// Longest id of a node, in bytes.
const NODE_ID_MAX: usize = 256;
/// Most conditions of one driver's health.
const CONDITIONS_MAX: usize = 16;
const REASON_MAX: usize = 256;
const MESSAGE_MAX: usize = 1024;

pub fn kind() -> KindDef {
    KindDef {
        kind: "CSINode".into(),
        plural: "csinodes".into(),
        singular: "csinode".into(),
        scope: Scope::Cluster,
        schema: TYPE.into(),
        storage: "csinodes".into(),
        subresources: const { &[status()] },
        columns: const {
            &[NAME, column("Drivers", "integer", |o, _| items(&o["spec"], "drivers").len().into()), AGE]
        },
        strategy: StrategyRef::Static(&CsiNode),
        sample: "apiVersion: storage.k8s.io/v1\nkind: CSINode\nmetadata: {name: n1}\nspec: {drivers: [{name: disk.example.com, nodeID: node-1, topologyKeys: [topology.example.com/zone]}]}\n",
        ..GROUP
    }
}

struct CsiNode;

impl Strategy for CsiNode {
    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
        // The gate of volume health is off.
        if items(&old["status"], "storageHealth").is_empty()
            && let Some(map) = new.get_mut("status").and_then(Value::as_object_mut)
        {
            map.remove("storageHealth");
        }
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let path = Path::new("spec").child("drivers");
        let list = items(&obj["spec"], "drivers");
        for (i, d) in list.iter().enumerate() {
            driver(d, &list[..i], &path.index(i), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return health(items(&new["status"], "storageHealth"));
        }
        let mut errors = self.validate(new);
        let path = Path::new("spec").child("drivers");
        let bare = |d: &Value| {
            let mut d = d.clone();
            d.as_object_mut().map(|m| m.remove("allocatable"));
            d
        };
        for was in items(&old["spec"], "drivers") {
            for now in items(&new["spec"], "drivers").iter().filter(|d| d["name"] == was["name"]) {
                immutable(&bare(now), &bare(was), &path, &mut errors);
            }
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn driver(d: &Value, before: &[Value], at: &Path, errors: &mut ErrorList) {
    let (name, id) = (text(d, "name"), text(d, "nodeID"));
    helpers::driver_name(name, &at.child("name"), errors);
    if id.is_empty() {
        errors.push(Error::required(&at.child("nodeID"), ""));
    }
    if id.len() > NODE_ID_MAX {
        errors.push(Error::invalid(&at.child("nodeID"), id, "must be 256 characters or less"));
    }
    non_negative(&d["allocatable"], "count", &at.child("allocatable"), errors);
    if before.iter().any(|other| text(other, "name") == name) {
        errors.push(Error::duplicate(&at.child("name"), name));
    }
    let keys = items(d, "topologyKeys");
    for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        if key.is_empty() {
            errors.push(Error::required(at, ""));
        }
        if keys[..i].iter().any(|k| k == key) {
            errors.push(Error::duplicate(at, key));
        }
        let messages = helpers::qualified_name_errors(key);
        errors.extend(messages.into_iter().map(|m| Error::invalid(at, key, m)));
    }
}

/// Upstream: `ValidateCSINodeStatusUpdate`.
fn health(list: &[Value]) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status").child("storageHealth");
    for (i, h) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(h, "name"));
        if list[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(Error::duplicate(&at, name));
        }
        helpers::driver_name(name, &at.child("name"), &mut errors);
        let conditions = items(h, "healthConditions");
        let at = at.child("healthConditions");
        if conditions.len() > CONDITIONS_MAX {
            errors.push(Error::too_many(&at, conditions.len(), CONDITIONS_MAX));
            continue;
        }
        for (j, c) in conditions.iter().enumerate() {
            condition(c, &at.index(j), &mut errors);
        }
    }
    errors
}

fn condition(c: &Value, at: &Path, errors: &mut ErrorList) {
    let statuses = ["StorageDegraded", "StorageUnreachable"];
    if !statuses.contains(&text(c, "status")) {
        errors.push(Error::not_supported(&at.child("status"), text(c, "status"), &statuses));
    }
    let reason = text(c, "reason");
    if reason.is_empty() {
        errors.push(Error::required(&at.child("reason"), ""));
    } else {
        let message = shared::reason_errors(reason);
        errors.extend(message.map(|m| Error::invalid(&at.child("reason"), reason, m)));
        if reason.len() > REASON_MAX {
            errors.push(Error::too_long(&at.child("reason"), REASON_MAX));
        }
    }
    if text(c, "message").len() > MESSAGE_MAX {
        errors.push(Error::too_long(&at.child("message"), MESSAGE_MAX));
    }
    let modes = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    one_of(c, "accessMode", at, &modes, errors);
    one_of(c, "volumeMode", at, &["Filesystem", "Block"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers() {
        let one = json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "x", "topologyKeys": ["k/z"]}]}});
        assert_eq!(CsiNode.validate(&one), []);
        let two = json!({"spec": {"drivers": [{"name": "a.b", "nodeID": ""}, {"name": "a.b", "nodeID": "x", "allocatable": {"count": -1},
            "topologyKeys": ["k", "k"]}]}});
        let texts: Vec<String> = CsiNode.validate(&two).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"a.b\"",
                "spec.drivers[1]: Duplicate value: \"k\"",
            ]
        );
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let mut more = one.clone();
        more["spec"]["drivers"][0]["allocatable"] = json!({"count": 3});
        assert_eq!(CsiNode.validate_update(&more, &one, &ctx), []);
        more["spec"]["drivers"][0]["nodeID"] = json!("y");
        assert_eq!(CsiNode.validate_update(&more, &one, &ctx).len(), 1);
    }
}
