//! Node (upstream: `pkg/registry/core/node`).

use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, Subresource, status};
use crate::helpers;
use crate::ip;
use crate::resources;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn kind() -> KindDef {
    KindDef {
        kind: "Node".into(),
        plural: "nodes".into(),
        singular: "node".into(),
        short: &["no"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.core.v1.Node".into(),
        storage: "minions".into(),
        subresources: const {
            &[
                status(),
                Subresource {
                    name: "proxy",
                    verbs: &["create", "delete", "get", "patch", "update"],
                    body: Some(("", "v1", "NodeProxyOptions")),
                },
            ]
        },
        columns: const {
            &[
                NAME,
                column("Status", "string", |o, _| ready(o).into()),
                column("Roles", "string", |o, _| roles(o).into()),
                AGE,
                column("Version", "string", |o, _| o["status"]["nodeInfo"]["kubeletVersion"].clone()),
                wide("Internal-IP", "string", |o, _| address(o, "InternalIP").into()),
                wide("External-IP", "string", |o, _| address(o, "ExternalIP").into()),
                wide("OS-Image", "string", |o, _| info(o, "osImage").into()),
                wide("Kernel-Version", "string", |o, _| info(o, "kernelVersion").into()),
                wide("Container-Runtime", "string", |o, _| info(o, "containerRuntimeVersion").into()),
            ]
        },
        selectable: &["spec.unschedulable"],
        strategy: StrategyRef::Static(&Node),
        sample: include_str!("samples/node.yaml"),
        ..KindDef::BASE
    }
}

fn ready(o: &Value) -> String {
    let condition = items(&o["status"], "conditions").iter().find(|c| c["type"] == "Ready");
    let mut out = match condition.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o["spec"]["unschedulable"] == true {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn roles(o: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in object::meta_map(o, "labels").into_iter().flatten() {
        match (key.strip_prefix("node-role.kubernetes.io/"), key.as_str()) {
            (Some(role), _) if !role.is_empty() => roles.push(role),
            (_, "kubernetes.io/role") => roles.extend(value.as_str().filter(|v| !v.is_empty())),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(o: &Value, kind: &str) -> String {
    let found = items(&o["status"], "addresses").iter().find(|a| a["type"] == kind);
    found.map_or("<none>", |a| text(a, "address")).to_owned()
}

fn info(o: &Value, field: &str) -> String {
    let value = text(&o["status"]["nodeInfo"], field);
    if value.is_empty() { "<unknown>".to_owned() } else { value.to_owned() }
}

/// Ranges of one family each (upstream: `ValidateNode`).
fn pod_cidrs(spec: &Value, errors: &mut ErrorList) {
    let at = Path::new("spec").child("podCIDRs");
    let ranges: Vec<&str> = items(spec, "podCIDRs").iter().filter_map(Value::as_str).collect();
    for (i, range) in ranges.iter().enumerate() {
        ip::legacy_cidr(range, &at.index(i), &[], errors);
    }
    let v6 = ranges.iter().filter(|r| r.contains(':')).count();
    if ranges.len() > 2 || ranges.len() == 2 && v6 != 1 {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(&at, spec["podCIDRs"].clone(), detail));
    }
}

/// Takes out what upstream's default feature gates do not serve and was not there before (upstream:
/// `registry/core/node/strategy.go#dropDisabledFields`).
fn drop_disabled(spec: &mut Value, old: &Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    for field in ["configSource", "podPreemptionPolicy"] {
        if old[field].is_null() {
            spec.remove(field);
        }
    }
}

struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "spec", json!({}));
        object::default_at(obj, &[], "status", json!({}));
        if obj["status"]["allocatable"].is_null() && obj["status"]["capacity"].is_object() {
            obj["status"]["allocatable"] = obj["status"]["capacity"].clone();
        }
        // The singular podCIDR and the list say the same.
        if let Some(first) = items(&obj["spec"], "podCIDRs").first().cloned() {
            object::default_at(obj, &["spec"], "podCIDR", first);
        } else if let Some(one) = obj["spec"]["podCIDR"].as_str().map(str::to_owned) {
            obj["spec"]["podCIDRs"] = json!([one]);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        drop_disabled(&mut obj["spec"], &Value::Null);
        if let Some(status) = obj["status"].as_object_mut() {
            status.remove("config");
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        drop_disabled(&mut new["spec"], &old["spec"]);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let taints = Path::new("spec").child("taints");
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for (i, t) in items(&obj["spec"], "taints").iter().enumerate() {
            let at = taints.index(i);
            let (key, effect) = (text(t, "key"), text(t, "effect"));
            errors.extend(
                helpers::qualified_name_errors(key)
                    .into_iter()
                    .map(|m| Error::invalid(&at.child("key"), key, m)),
            );
            let value = text(t, "value");
            let messages = helpers::label_value_errors(value);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("value"), value, m)));
            match effect {
                "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
                "" => errors.push(Error::required(&at.child("effect"), "")),
                other => {
                    let allowed = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
                    errors.push(Error::not_supported(&at.child("effect"), other, &allowed));
                }
            }
            if seen.contains(&(key, effect)) {
                errors.push(Error::duplicate(&at, t.clone()));
            }
            seen.push((key, effect));
        }
        for list in ["capacity", "allocatable"] {
            for (name, amount) in resources::entries(&obj["status"][list]) {
                let at = Path::new("status").child(list).child(name.as_str());
                resources::value(name, &amount, &at, &mut errors);
            }
        }
        pod_cidrs(&obj["spec"], &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        let addresses = items(&new["status"], "addresses");
        for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
            let at = Path::new("status").child("addresses").index(i);
            errors.push(Error::duplicate(&at, address.clone()));
        }
        let had = items(&old["spec"], "podCIDRs");
        if !had.is_empty() && items(&new["spec"], "podCIDRs") != had {
            let at = Path::new("spec").child("podCIDRs");
            errors
                .push(Error::forbidden(&at, "node updates may not change podCIDR except from \"\" to valid"));
        }
        let id = text(&old["spec"], "providerID");
        if !id.is_empty() && text(&new["spec"], "providerID") != id {
            let at = Path::new("spec").child("providerID");
            errors.push(Error::forbidden(
                &at,
                "node updates may not change providerID except from \"\" to valid",
            ));
        }
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", (obj["spec"]["unschedulable"] == true).to_string())]
    }
}
