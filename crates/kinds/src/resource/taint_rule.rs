//! DeviceTaintRule (upstream: `pkg/registry/resource/devicetaintrule`, `ValidateDeviceTaintRule`).

use super::GROUP;
use super::common::{self, Found};
use crate::columns::{AGE, NAME, age, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::status as shared;
use crate::validate::{items, text};
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const TYPE: &str = "io.k8s.api.resource.v1.DeviceTaintRule";
const CONDITIONS_MAX: usize = 8;

pub fn kind() -> KindDef {
    KindDef {
        kind: "DeviceTaintRule".into(),
        plural: "devicetaintrules".into(),
        singular: "devicetaintrule".into(),
        scope: Scope::Cluster,
        schema: TYPE.into(),
        storage: "devicetaintrules".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Key", "string", |o, _| text(&o["spec"]["taint"], "key").into()),
                column("Value", "string", |o, _| text(&o["spec"]["taint"], "value").into()),
                column("Effect", "string", |o, _| text(&o["spec"]["taint"], "effect").into()),
                column("TimeAdded", "string", |o, now| match text(&o["spec"]["taint"], "timeAdded") {
                    "" => "".into(),
                    added => age(added, now).into(),
                }),
                AGE,
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&DeviceTaintRule),
        sample: "apiVersion: resource.k8s.io/v1\nkind: DeviceTaintRule\nmetadata: {name: broken}\nspec: {deviceSelector: {driver: gpu.example.com}, taint: {key: example.com/broken, effect: NoSchedule, timeAdded: \"2026-01-02T03:04:05Z\"}}\nstatus: {}\n",
        ..GROUP
    }
}

struct DeviceTaintRule;

impl Strategy for DeviceTaintRule {
    fn has_table(&self, subresource: &str) -> bool {
        subresource != "status"
    }

    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default_times(&self, obj: &mut Value, now: Timestamp) {
        added(&mut obj["spec"]["taint"], now);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
        if ctx.subresource == "status" {
            return;
        }
        let (taint, was) = (&mut new["spec"]["taint"], &old["spec"]["taint"]);
        if taint["effect"] != was["effect"] && taint["timeAdded"] == was["timeAdded"] {
            taint["timeAdded"] = meta::time::rfc3339(ctx.now).into();
        }
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        spec(&obj["spec"], None)
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return spec(&new["spec"], Some(&old["spec"]["taint"]));
        }
        let mut errors = Vec::new();
        let (path, list) = (Path::new("status").child("conditions"), items(&new["status"], "conditions"));
        shared::conditions(list, &path, &mut errors);
        if list.len() > CONDITIONS_MAX {
            errors.push(Error::too_many(&path, list.len(), CONDITIONS_MAX));
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// The time of a taint that has none is now (upstream: `SetDefaults_DeviceTaint`).
pub fn added(taint: &mut Value, now: Timestamp) {
    if taint.is_object() && taint["timeAdded"].is_null() {
        taint["timeAdded"] = meta::time::rfc3339(now).into();
    }
}

fn spec(spec: &Value, old_taint: Option<&Value>) -> ErrorList {
    let mut found = Found::default();
    let path = Path::new("spec");
    let (selector, at) = (&spec["deviceSelector"], path.child("deviceSelector"));
    if let Some(driver) = selector["driver"].as_str() {
        helpers::driver_name(driver, &at.child("driver"), &mut found.errors);
    }
    if let Some(pool) = selector["pool"].as_str() {
        common::pool_name(pool, &at.child("pool"), &mut found);
    }
    if let Some(device) = selector["device"].as_str() {
        found.label(device, &at.child("device"));
    }
    common::taint(&spec["taint"], old_taint, &path.child("taint"), &mut found);
    found.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules() {
        let good = json!({"deviceSelector": {"driver": "d", "pool": "a/b", "device": "x"}, "taint": {"key": "a/b", "effect": "None"}});
        assert_eq!(spec(&good, None), []);
        let bad = json!({"deviceSelector": {"driver": ""}, "taint": {"key": "", "effect": "Other"}});
        let fields: Vec<String> = spec(&bad, None).iter().map(|e| e.field.to_string()).collect();
        assert_eq!(
            fields,
            ["spec.deviceSelector.driver", "spec.taint.key", "spec.taint.key", "spec.taint.effect"]
        );
    }

    #[test]
    fn a_new_effect_is_a_new_time() {
        let ctx = Ctx { now: "2026-01-02T03:04:05Z".parse().unwrap(), subresource: "" };
        let old = json!({"spec": {"taint": {"key": "k", "effect": "None", "timeAdded": "2026-01-01T00:00:00Z"}}, "status": {}});
        let mut new = old.clone();
        new["spec"]["taint"]["effect"] = json!("NoExecute");
        DeviceTaintRule.prepare_update(&mut new, &old, &ctx);
        assert_eq!(new["spec"]["taint"]["timeAdded"], "2026-01-02T03:04:05Z");
    }
}
