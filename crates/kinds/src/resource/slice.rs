//! ResourceSlice (upstream: `pkg/registry/resource/resourceslice`, `validateResourceSliceSpec`).

use super::common::{self, Found};
use super::{GROUP, device, taint_rule};
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers;
use crate::node_selector::{self, Values};
use crate::validate::{immutable, items, text};
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path, quoted};
use serde_json::Value;

const DEVICES_MAX: usize = 128;
/// Most devices where one has taints, counters or lists of values.
const RICH_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const LIST_ATTRIBUTES: [&str; 4] = ["bools", "ints", "strings", "versions"];

pub fn kind() -> KindDef {
    KindDef {
        kind: "ResourceSlice".into(),
        plural: "resourceslices".into(),
        singular: "resourceslice".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.resource.v1.ResourceSlice".into(),
        storage: "resourceslices".into(),
        columns: const {
            &[
                NAME,
                column("Node", "string", |o, _| text(&o["spec"], "nodeName").into()),
                column("Driver", "string", |o, _| text(&o["spec"], "driver").into()),
                column("Pool", "string", |o, _| text(&o["spec"]["pool"], "name").into()),
                AGE,
            ]
        },
        selectable: &["spec.nodeName", "spec.driver", "spec.pool.name"],
        generation: true,
        strategy: StrategyRef::Static(&ResourceSlice),
        sample: "apiVersion: resource.k8s.io/v1\nkind: ResourceSlice\nmetadata: {name: n1-gpu}\nspec: {driver: gpu.example.com, nodeName: n1, pool: {name: n1, generation: 1, resourceSliceCount: 1}, devices: [{name: gpu-0, attributes: {model: {string: x}}, capacity: {memory: {value: 8Gi}}}]}\n",
        ..GROUP
    }
}

struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default_times(&self, obj: &mut Value, now: Timestamp) {
        let devices = obj["spec"].get_mut("devices").and_then(Value::as_array_mut);
        for device in devices.into_iter().flatten() {
            for taint in device.get_mut("taints").and_then(Value::as_array_mut).into_iter().flatten() {
                taint_rule::added(taint, now);
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        prepare(&mut obj["spec"], &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        prepare(&mut new["spec"], &old["spec"]);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        spec(&obj["spec"], &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        spec(&new["spec"], &old["spec"])
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let driver = text(&new["spec"], "driver");
        let warning = format!(
            "spec.driver: driver names should be lowercase; {driver} contains uppercase characters",
            driver = quoted(driver)
        );
        (driver != driver.to_lowercase()).then_some(warning).into_iter().collect()
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let spec = &obj["spec"];
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.driver", text(spec, "driver").to_owned()),
            ("spec.pool.name", text(&spec["pool"], "name").to_owned()),
        ]
    }

    fn unknown_field(&self, field: &str) -> String {
        format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {field}")
    }
}

fn is_set(v: &Value) -> bool {
    match v {
        Value::Null => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(m) => !m.is_empty(),
        _ => true,
    }
}

fn any_device(spec: &Value, test: impl Fn(&Value) -> bool) -> bool {
    items(spec, "devices").iter().any(test)
}

fn has_lists(d: &Value) -> bool {
    let attributes = d["attributes"].as_object().into_iter().flat_map(|m| m.values());
    attributes.into_iter().any(|a| LIST_ATTRIBUTES.iter().any(|l| !a[*l].is_null()))
}

/// Drops what the gates do not allow (upstream: `dropDisabledFields`).
fn prepare(spec: &mut Value, old: &Value) {
    let groups = |d: &Value| items(d, "consumesCounters").iter().any(|c| is_set(&c["compatibilityGroups"]));
    let keeps_groups = any_device(old, groups);
    let keeps_resources = any_device(old, |d| is_set(&d["nodeAllocatableResources"]));
    let keeps_lists = any_device(old, has_lists);
    let Some(map) = spec.as_object_mut() else { return };
    for field in ["partitionTypeAttribute", "skipNodeOperations"] {
        if !is_set(&old[field]) {
            map.remove(field);
        }
    }
    for d in map.get_mut("devices").and_then(Value::as_array_mut).into_iter().flatten() {
        if !keeps_resources {
            d.as_object_mut().map(|m| m.remove("nodeAllocatableResources"));
        }
        if !keeps_groups {
            for c in d.get_mut("consumesCounters").and_then(Value::as_array_mut).into_iter().flatten() {
                c.as_object_mut().map(|m| m.remove("compatibilityGroups"));
            }
        }
        if !keeps_lists {
            let attributes = d.get_mut("attributes").and_then(Value::as_object_mut);
            for a in attributes.into_iter().flat_map(|m| m.values_mut()).filter_map(Value::as_object_mut) {
                LIST_ATTRIBUTES.iter().for_each(|l| drop(a.remove(*l)));
            }
        }
    }
}

fn spec(spec: &Value, old: &Value) -> ErrorList {
    let mut found = Found::default();
    let path = Path::new("spec");
    helpers::driver_name(text(spec, "driver"), &path.child("driver"), &mut found.errors);
    pool(&spec["pool"], &path.child("pool"), &mut found);
    if !old.is_null() {
        let at = path.child("pool").child("name");
        immutable(&spec["pool"]["name"], &old["pool"]["name"], &at, &mut found.errors);
        for field in ["driver", "nodeName"] {
            immutable(&spec[field], &old[field], &path.child(field), &mut found.errors);
        }
    }
    nodes(spec, &path, &mut found);
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        found.errors.push(Error::invalid(&path, "", detail));
    }
    devices(spec, old, &path, &mut found);
    if let Some(sets) = found.bounded(spec, "sharedCounters", COUNTER_SETS_MAX, &path) {
        let at = path.child("sharedCounters");
        for (i, set) in sets.iter().enumerate() {
            device::counters(set, "name", &at.index(i), &mut found);
        }
        found.unique(sets, |s| s["name"].clone(), &at);
    }
    found.finish()
}

fn pool(p: &Value, path: &Path, found: &mut Found) {
    common::pool_name(text(p, "name"), &path.child("name"), found);
    let count = p["resourceSliceCount"].as_i64().unwrap_or(0);
    if count <= 0 {
        let at = path.child("resourceSliceCount");
        found.errors.push(Error::invalid(&at, count, "must be greater than zero"));
    }
    if let Some(n) = p["generation"].as_i64().filter(|n| *n < 0) {
        let detail = "must be greater than or equal to zero";
        found.errors.push(Error::invalid(&path.child("generation"), n, detail));
    }
}

/// Exactly one way to say which nodes have the devices.
fn nodes(spec: &Value, path: &Path, found: &mut Found) {
    let mut set = Vec::new();
    if let Some(name) = spec["nodeName"].as_str() {
        if name.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            found.errors.push(Error::invalid(&path.child("nodeName"), name, detail));
        } else {
            set.push("`nodeName`");
            found.subdomain(name, &path.child("nodeName"));
        }
    }
    if spec["nodeSelector"].is_object() {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        node_selector::validate(&spec["nodeSelector"], Values::Labels, &at, &mut found.errors);
        let terms = &spec["nodeSelector"]["nodeSelectorTerms"];
        if terms.as_array().map_or(0, Vec::len) != 1 {
            let at = at.child("nodeSelectorTerms");
            found.errors.push(Error::invalid(&at, terms.clone(), "must have exactly one node selector term"));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec[field].as_bool() {
            Some(true) => set.push(shown),
            Some(false) => {
                let detail = "must be either unset or set to true";
                found.errors.push(Error::invalid(&path.child(field), false, detail));
            }
            None => {}
        }
    }
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => found.errors.push(Error::required(path, detail)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            let detail = format!("{detail}, but multiple fields are set");
            found.errors.push(Error::invalid(path, shown, detail));
        }
    }
}

fn devices(spec: &Value, old: &Value, path: &Path, found: &mut Found) {
    let list = items(spec, "devices");
    let rich = any_device(spec, |d| is_set(&d["taints"]) || is_set(&d["consumesCounters"]) || has_lists(d));
    let max = if rich { RICH_DEVICES_MAX } else { DEVICES_MAX };
    let at = path.child("devices");
    if list.len() > max {
        found.errors.push(Error::too_many(&at, list.len(), max));
        return;
    }
    let per_device = spec["perDeviceNodeSelection"] == true;
    for (i, d) in list.iter().enumerate() {
        let was = items(old, "devices").iter().find(|o| o["name"] == d["name"]);
        device::validate(d, was, per_device, &at.index(i), found);
    }
    for (i, d) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other["name"] == d["name"]) {
            found.errors.push(Error::duplicate(&at.index(i), d["name"].clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice() -> Value {
        json!({"driver": "test.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1, "generation": 0},
            "devices": [{"name": "d0", "attributes": {"a": {"int": 1}}, "capacity": {"m": {"value": "1Gi"}}}]})
    }

    fn found(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut s = slice();
        change(&mut s);
        spec(&s, &Value::Null).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn slices() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
        assert_eq!(
            found(|s| {
                s["nodeName"] = json!("");
                s["pool"]["resourceSliceCount"] = json!(0);
            }),
            [
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.nodeName: Invalid value: \"\": must be either unset or set to a non-empty string",
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
            ]
        );
        assert_eq!(
            found(|s| s["allNodes"] = json!(true)),
            [
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"
            ]
        );
        assert_eq!(
            found(|s| s["devices"] = json!([{"name": "a"}, {"name": "a"}])),
            ["spec.devices[1]: Duplicate value: \"a\""]
        );
        assert_eq!(found(|s| s["devices"] = json!(vec![json!({"name": "a"}); 129])).len(), 1);
    }

    #[test]
    fn gates_and_times() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut s = slice();
        s["skipNodeOperations"] = json!(["*"]);
        s["devices"][0]["attributes"]["a"] = json!({"ints": [1]});
        s["devices"][0]["taints"] = json!([{"key": "k", "effect": "None"}]);
        let mut obj = json!({"spec": s});
        ResourceSlice.default_times(&mut obj, now);
        let mut s = obj["spec"].take();
        prepare(&mut s, &Value::Null);
        assert_eq!(s.get("skipNodeOperations"), None);
        assert_eq!(s["devices"][0]["attributes"]["a"], json!({}));
        assert_eq!(s["devices"][0]["taints"][0]["timeAdded"], "2026-01-02T03:04:05Z");
        let upper = json!({"spec": {"driver": "Test.example.com"}});
        assert_eq!(ResourceSlice.warnings(&upper, None).len(), 1);
    }
}
