//! The status of a ResourceClaim: what was allocated, for whom, and how the devices are
//! (upstream: `resourceclaimStatusStrategy`, `validateResourceClaimStatusUpdate`).

use super::common::{self, Found, REQUESTS_MAX};
use crate::helpers;
use crate::ip;
use crate::node_selector::{self, Values};
use crate::status as shared;
use crate::storage::attachment::attacher;
use crate::validate::{items, required, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

const RESERVED_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 * 1024;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;
const IPS_MAX: usize = 16;

/// What makes a device of a claim.
fn device_id(v: &Value) -> Value {
    json!([v["driver"], v["pool"], v["device"], v["shareID"]])
}

fn results(obj: &Value) -> &[Value] {
    items(&obj["status"]["allocation"]["devices"], "results")
}

/// Drops what no gate allows, and the status of devices that are no longer allocated.
pub fn prepare(new: &mut Value, old: &Value) {
    if !results(old).iter().any(|r| !items(r, "skipNodeOperations").is_empty()) {
        let list = new.pointer_mut("/status/allocation/devices/results").and_then(Value::as_array_mut);
        for r in list.into_iter().flatten() {
            r.as_object_mut().map(|m| m.remove("skipNodeOperations"));
        }
    }
    let kept: Vec<Value> = results(new).iter().map(device_id).collect();
    let gone: Vec<Value> = results(old).iter().map(device_id).filter(|d| !kept.contains(d)).collect();
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else { return };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|d| !gone.contains(&device_id(d)));
        if devices.is_empty() {
            status.remove("devices");
        }
    }
}

/// Errors of a new status.
pub fn validate(new: &Value, old: &Value) -> ErrorList {
    let mut found = Found::default();
    let (path, status) = (Path::new("status"), &new["status"]);
    reserved(status, &path, &mut found);
    let allocated: Vec<Value> = results(new).iter().map(device_id).collect();
    let devices = items(status, "devices");
    let at = path.child("devices");
    for (i, d) in devices.iter().enumerate() {
        device(d, &allocated, &at.index(i), &mut found);
    }
    found.unique(devices, device_id, &at);
    let (now, was) = (&status["allocation"], &old["status"]["allocation"]);
    let at = path.child("reservedFor");
    let (has, had) = (items(status, "reservedFor"), items(&old["status"], "reservedFor"));
    if !has.is_empty() && !now.is_object() {
        found.errors.push(Error::forbidden(&at, "may not be specified when `allocated` is not set"));
    } else if object::is_deleting(new) && has.iter().any(|r| !had.contains(r)) {
        let detail =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        found.errors.push(Error::forbidden(&at, detail));
    }
    let at = path.child("allocation");
    if now.is_object() && was.is_object() {
        if now != was {
            found.declared.push(Error::invalid(&at, Value::Null, "field cannot be modified once set"));
        }
    } else if now.is_object() {
        let known = common::request_names(&new["spec"]["devices"]);
        allocation(now, &known, &at, &mut found);
    }
    found.finish()
}

fn reserved(status: &Value, path: &Path, found: &mut Found) {
    let Some(list) = found.bounded(status, "reservedFor", RESERVED_MAX, path) else { return };
    let at = path.child("reservedFor");
    for (i, r) in list.iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            required(r, field, &at.index(i), &mut found.errors);
        }
    }
    found.unique(list, |r| r["uid"].clone(), &at);
}

fn allocation(a: &Value, known: &[String], path: &Path, found: &mut Found) {
    let (devices, at) = (&a["devices"], path.child("devices"));
    for (i, r) in found.bounded(devices, "results", REQUESTS_MAX, &at).into_iter().flatten().enumerate() {
        let at = at.child("results").index(i);
        common::request_ref(text(r, "request"), known, &at.child("request"), found);
        attacher(text(r, "driver"), &at.child("driver"), &mut found.declared);
        common::declared_pool_name(text(r, "pool"), &at.child("pool"), found);
        found.label(text(r, "device"), &at.child("device"));
        common::binding_conditions(r, &at, found);
        common::tolerations(r, &at, found);
        if let Some(id) = r["shareID"].as_str() {
            common::uuid(id, &at.child("shareID"), found);
        }
    }
    let configs = found.bounded(devices, "config", 2 * common::CONFIGS_MAX, &at);
    for (i, c) in configs.into_iter().flatten().enumerate() {
        let at = at.child("config").index(i);
        match text(c, "source") {
            "" => found.declared.push(Error::required(&at.child("source"), "")),
            "FromClaim" | "FromClass" => {}
            other => {
                let allowed = ["FromClaim", "FromClass"];
                found.declared.push(Error::not_supported(&at.child("source"), other, &allowed));
            }
        }
        common::request_refs(c, known, &at, found);
        common::configuration(c, false, &at, found);
    }
    if a["nodeSelector"].is_object() {
        node_selector::validate(
            &a["nodeSelector"],
            Values::Labels,
            &path.child("nodeSelector"),
            &mut found.errors,
        );
    }
}

fn device(d: &Value, allocated: &[Value], at: &Path, found: &mut Found) {
    helpers::driver_name(text(d, "driver"), &at.child("driver"), &mut found.errors);
    common::pool_name(text(d, "pool"), &at.child("pool"), found);
    found.label(text(d, "device"), &at.child("device"));
    if let Some(id) = d["shareID"].as_str() {
        common::uuid(id, &at.child("shareID"), found);
    }
    if !allocated.contains(&device_id(d)) {
        let shown = json!({"Driver": d["driver"], "Pool": d["pool"], "Device": d["device"], "ShareID": d["shareID"].as_str().unwrap_or("")});
        found.errors.push(Error::invalid(at, shown, "must be an allocated device in the claim"));
    }
    let (path, list) = (at.child("conditions"), items(d, "conditions"));
    if list.len() > CONDITIONS_MAX {
        found.errors.push(Error::too_many(&path, list.len(), CONDITIONS_MAX));
    }
    shared::conditions(list, &path, &mut found.errors);
    if !d["data"].is_null() {
        common::raw(&d["data"], DATA_BYTES_MAX, &at.child("data"), found);
    }
    let (network, at) = (&d["networkData"], at.child("networkData"));
    for (field, max) in [("interfaceName", INTERFACE_NAME_MAX), ("hardwareAddress", HARDWARE_ADDRESS_MAX)] {
        if text(network, field).len() > max {
            found.declared.push(Error::too_long(&at.child(field), max));
        }
    }
    if let Some(list) = found.bounded(network, "ips", IPS_MAX, &at) {
        let at = at.child("ips");
        for (i, ip) in list.iter().filter_map(Value::as_str).enumerate() {
            ip::interface_address(ip, &at.index(i), &mut found.errors);
        }
        found.unique(list, Value::clone, &at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
        json!({"spec": {"devices": {"requests": [{"name": "r"}]}}, "status": {"allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": "a", "uid": "1"}],
            "devices": [{"driver": "d", "pool": "p", "device": "x", "networkData": {"ips": ["10.0.0.1/24"]}}]}})
    }

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        validate(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn statuses() {
        let none = json!({"status": {}});
        assert_eq!(texts(&claim(), &none), Vec::<String>::new());
        let mut new = claim();
        new["status"]["allocation"]["devices"]["results"][0]["pool"] = json!("q");
        let found = texts(&new, &claim());
        assert_eq!(found[1], "status.allocation: Invalid value: null: field cannot be modified once set");
        assert!(found[0].starts_with("status.devices[0]: Invalid value:"), "{}", found[0]);
        let mut gone = claim();
        gone["status"].as_object_mut().unwrap().remove("allocation");
        prepare(&mut gone, &claim());
        assert_eq!(gone["status"].get("devices"), None);
        assert_eq!(
            texts(&gone, &claim()),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
    }
}
