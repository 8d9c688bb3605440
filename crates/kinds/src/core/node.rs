//! Node (upstream: `pkg/registry/core/node`).

mod validation;

use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, Subresource, status};
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{ErrorList, Path};
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
    fn checks_names_on_update(&self, _: &str) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "spec", json!({}));
        object::default_at(obj, &[], "status", json!({}));
        if obj["status"]["allocatable"].is_null() && obj["status"]["capacity"].is_object() {
            obj["status"]["allocatable"] = obj["status"]["capacity"].clone();
        }
        // The singular podCIDR and the list say the same, and where they do not, the singular one is right (upstream:
        // `Convert_v1_NodeSpec_To_core_NodeSpec`).
        let one = text(&obj["spec"], "podCIDR").to_owned();
        match items(&obj["spec"], "podCIDRs").first().cloned() {
            Some(first) if one.is_empty() => obj["spec"]["podCIDR"] = first,
            first if !one.is_empty() && first != Some(Value::from(&*one)) => {
                obj["spec"]["podCIDRs"] = json!([one]);
            }
            _ => {}
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
        validation::whole(obj)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if shared::was_written(new, old) {
            return Vec::new();
        }
        let (spec, at) = (&new["spec"], Path::new("spec"));
        let mut warnings = Vec::new();
        if !spec["configSource"].is_null() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(spec, "externalID").is_empty() {
            warnings
                .push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for (i, cidr) in items(spec, "podCIDRs").iter().enumerate() {
            let at = at.child("podCIDRs").index(i);
            warnings.extend(crate::ip::cidr_warnings(cidr.as_str().unwrap_or(""), &at));
        }
        warnings
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = validation::whole(new);
        errors.extend(validation::update(new, old));
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", (obj["spec"]["unschedulable"] == true).to_string())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_range_is_right() {
        let of = |spec: Value| {
            let mut node = json!({ "spec": spec });
            Node.default(&mut node);
            [node["spec"]["podCIDR"].take(), node["spec"]["podCIDRs"].take()]
        };
        assert_eq!(of(json!({"podCIDRs": ["a", "b"]})), [json!("a"), json!(["a", "b"])]);
        assert_eq!(of(json!({"podCIDR": "a"})), [json!("a"), json!(["a"])]);
        assert_eq!(of(json!({"podCIDR": "a", "podCIDRs": ["a", "b"]})), [json!("a"), json!(["a", "b"])]);
        assert_eq!(of(json!({"podCIDR": "a", "podCIDRs": ["b"]})), [json!("a"), json!(["a"])]);
    }
}
