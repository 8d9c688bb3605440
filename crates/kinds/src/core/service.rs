//! Service (upstream: `pkg/registry/core/service`, `pkg/apis/core/validation/validation.go#ValidateService`).
//!
//! Addresses and node ports are handed out by the registry's allocator; this row defaults and validates.

mod validation;

use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, Subresource, status};
use crate::helpers;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::ErrorList;
use meta::object::{self, default_at};
use serde_json::{Value, json};

/// Upstream: `DefaultClientIPServiceAffinitySeconds`.
const AFFINITY_SECONDS: i64 = 10_800;

pub fn kind() -> KindDef {
    KindDef {
        kind: "Service".into(),
        plural: "services".into(),
        singular: "service".into(),
        short: &["svc"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Service".into(),
        storage: "services/specs".into(),
        subresources: const {
            &[
                Subresource {
                    name: "proxy",
                    verbs: &["create", "delete", "get", "patch", "update"],
                    body: Some(("", "v1", "ServiceProxyOptions")),
                },
                status(),
            ]
        },
        columns: const {
            &[
                NAME,
                column("Type", "string", |o, _| o["spec"]["type"].clone()),
                column("Cluster-IP", "string", |o, _| cluster_ip(o).into()),
                column("External-IP", "string", |o, _| external_ip(o).into()),
                column("Port(s)", "string", |o, _| ports(o).into()),
                AGE,
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        selectable: &["spec.clusterIP", "spec.type"],
        strategy: StrategyRef::Static(&Service),
        sample: include_str!("samples/service.yaml"),
        ..KindDef::BASE
    }
}

fn cluster_ip(o: &Value) -> String {
    match text(&o["spec"], "clusterIP") {
        "" => "<none>".to_owned(),
        ip => ip.to_owned(),
    }
}

fn external_ip(o: &Value) -> String {
    let spec = &o["spec"];
    let listed: Vec<&str> = items(spec, "externalIPs").iter().filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(&o["status"]["loadBalancer"], "ingress");
            let mut all: Vec<&str> = ingress
                .iter()
                .map(|i| match text(i, "ip") {
                    "" => text(i, "hostname"),
                    ip => ip,
                })
                .collect();
            all.extend(listed);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if listed.is_empty() => "<none>".to_owned(),
        _ => listed.join(","),
    }
}

fn ports(o: &Value) -> String {
    let list = items(&o["spec"], "ports");
    let one = |p: &Value| {
        let (port, protocol) = (p["port"].as_i64().unwrap_or(0), text(p, "protocol"));
        match p["nodePort"].as_i64().unwrap_or(0) {
            0 => format!("{port}/{protocol}"),
            node => format!("{port}:{node}/{protocol}"),
        }
    };
    if list.is_empty() { "<none>".to_owned() } else { list.iter().map(one).collect::<Vec<_>>().join(",") }
}

fn selector(o: &Value) -> String {
    let terms: Vec<String> = o["spec"]["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

/// Whether the type has node ports (upstream: `needsNodePort`).
pub fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

/// Whether it gets node ports that it does not ask for (upstream: `shouldAllocateNodePorts`).
pub fn gets_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// Whether it is reached from outside by what it says itself (upstream: `ExternallyAccessible`).
fn is_external(spec: &Value) -> bool {
    let kind = text(spec, "type");
    matches!(kind, "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !items(spec, "externalIPs").is_empty()
}

/// Upstream: `NeedsHealthCheck`.
pub fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Whether the Service has addresses of its own.
pub fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName" && text(spec, "clusterIP") != "None"
}

/// Errors of addresses, families and policy, which stand before all others (upstream:
/// `ValidateServiceClusterIPsRelatedFields`).
pub fn cluster_ip_errors(obj: &Value, old: Option<&Value>) -> ErrorList {
    validation::cluster_ip_errors(obj, old)
}

struct Service;

impl Strategy for Service {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        for (field, value) in [("sessionAffinity", "None"), ("type", "ClusterIP")] {
            if text(&obj["spec"], field).is_empty() {
                default_at(obj, spec, field, value);
                obj["spec"][field] = value.into();
            }
        }
        match text(&obj["spec"], "sessionAffinity") {
            "None" => drop(obj["spec"].as_object_mut().map(|m| m.remove("sessionAffinityConfig"))),
            "ClientIP" => {
                let at = &["spec", "sessionAffinityConfig", "clientIP"];
                default_at(obj, at, "timeoutSeconds", AFFINITY_SECONDS);
            }
            _ => {}
        }
        for p in obj["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if text(p, "protocol").is_empty() {
                p["protocol"] = "TCP".into();
            }
            if p["targetPort"].is_null() || p["targetPort"] == 0 || p["targetPort"] == "" {
                p["targetPort"] = p["port"].clone();
            }
        }
        let kind = text(&obj["spec"], "type").to_owned();
        if is_external(&obj["spec"]) {
            default_at(obj, spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            default_at(obj, spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default_at(obj, spec, "allocateLoadBalancerNodePorts", true);
        }
        default_at(obj, &["status"], "loadBalancer", json!({}));
        if kind == "LoadBalancer" {
            let ingress = obj.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
            for one in ingress.into_iter().flatten().filter(|i| !text(i, "ip").is_empty()) {
                default_at(one, &[], "ipMode", "VIP");
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({"loadBalancer": {}});
        // one address given is the first of the list
        let one = text(&obj["spec"], "clusterIP").to_owned();
        if !one.is_empty() && items(&obj["spec"], "clusterIPs").is_empty() {
            obj["spec"]["clusterIPs"] = json!([one]);
        }
        drop_internal_policy(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        if ctx.subresource != "status" {
            keep_allocated(new, old);
            normalize(new, old);
            drop_dependent(new, old);
            drop_internal_policy(new);
            if text(&new["spec"], "type") != "LoadBalancer" {
                new["status"]["loadBalancer"] = json!({});
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validation::service(obj, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        match ctx.subresource {
            "status" => validation::status(new, old),
            _ => validation::update(new, old),
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        validation::warnings(new)
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("spec.clusterIP", text(&obj["spec"], "clusterIP").to_owned()),
            ("spec.type", text(&obj["spec"], "type").to_owned()),
        ]
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::dns_label_errors(name, prefix)
    }
}

/// Upstream stores the policy of an ExternalName Service and never shows it (`defaultOnReadInternalTrafficPolicy`).
/// One that is wrong stays for validation to see.
fn drop_internal_policy(obj: &mut Value) {
    let spec = &obj["spec"];
    let known = matches!(text(spec, "internalTrafficPolicy"), "Cluster" | "Local");
    if known && text(spec, "type") == "ExternalName" {
        object::map_at(obj, &["spec"]).map(|m| m.remove("internalTrafficPolicy"));
    }
}

/// The list follows the one address, for clients that know only that (upstream: `normalizeClusterIPs`).
fn normalize(new: &mut Value, old: &Value) {
    let (n, o) = (&new["spec"], &old["spec"]);
    let (had, has) = (text(o, "clusterIP"), text(n, "clusterIP"));
    let same = items(n, "clusterIPs") == items(o, "clusterIPs");
    if has == had && items(n, "clusterIPs").is_empty() && !items(o, "clusterIPs").is_empty() {
        new["spec"]["clusterIPs"] = o["clusterIPs"].clone();
    } else if has != had && same {
        if has.is_empty() {
            object::map_at(new, &["spec"]).map(|m| m.remove("clusterIPs"));
        } else {
            new["spec"]["clusterIPs"] = json!([has]);
        }
    }
}

fn is_external_name(obj: &Value) -> bool {
    text(&obj["spec"], "type") == "ExternalName"
}

/// An update that leaves allocated values out keeps them (upstream: `patchAllocatedValues`). A node port goes with the
/// name of its port.
fn keep_allocated(new: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(new) {
        for field in ["clusterIP", "clusterIPs"] {
            let absent =
                new["spec"][field].as_str().unwrap_or("").is_empty() && items(&new["spec"], field).is_empty();
            if absent && !old["spec"][field].is_null() {
                new["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if has_node_ports(&old["spec"]) && has_node_ports(&new["spec"]) {
        let (had, has) = (node_ports(old), node_ports(new));
        for p in new["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            // of ports with one name, the last counts
            let was = items(&old["spec"], "ports").iter().rfind(|o| text(o, "name") == text(p, "name"));
            let number = was.and_then(|w| w["nodePort"].as_i64()).unwrap_or(0);
            let used = had.contains(&number) && has.contains(&number);
            if p["nodePort"].as_i64().unwrap_or(0) == 0 && number != 0 && !used {
                p["nodePort"] = number.into();
            }
        }
    }
    let health = &old["spec"]["healthCheckNodePort"];
    if needs_health_check(&old["spec"])
        && needs_health_check(&new["spec"])
        && new["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
        && !health.is_null()
    {
        new["spec"]["healthCheckNodePort"] = health.clone();
    }
}

fn node_ports(obj: &Value) -> Vec<i64> {
    let ports = items(&obj["spec"], "ports").iter().filter_map(|p| p["nodePort"].as_i64());
    ports.filter(|n| *n != 0).collect()
}

/// What the new type cannot have goes, unless it was changed too (upstream: `dropTypeDependentFields`).
fn drop_dependent(new: &mut Value, old: &Value) {
    if is_external_name(new) && !is_external_name(old) {
        let same = |new: &Value, field: &str| new["spec"][field] == old["spec"][field];
        let same_addresses = same(new, "clusterIP") && same(new, "clusterIPs");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if if field.starts_with("cluster") { same_addresses } else { same(new, field) } {
                object::map_at(new, &["spec"]).map(|m| m.remove(field));
            }
        }
    }
    let (had, has) = (node_ports(old), node_ports(new));
    if has_node_ports(&old["spec"])
        && !has_node_ports(&new["spec"])
        && has.iter().all(|port| had.contains(port))
    {
        for p in new["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            p.as_object_mut().map(|m| m.remove("nodePort"));
        }
    }
    let balancer = |s: &Value| text(&s["spec"], "type") == "LoadBalancer";
    if !balancer(new) && !new["status"].is_null() {
        new["status"]["loadBalancer"] = json!({});
    }
    if balancer(old) && !balancer(new) {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if new["spec"][field] == old["spec"][field] {
                object::map_at(new, &["spec"]).map(|m| m.remove(field));
            }
        }
    }
    if needs_health_check(&old["spec"])
        && !needs_health_check(&new["spec"])
        && new["spec"]["healthCheckNodePort"] == old["spec"]["healthCheckNodePort"]
    {
        object::map_at(new, &["spec"]).map(|m| m.remove("healthCheckNodePort"));
    }
    let leaves = is_external(&old["spec"]) && !is_external(&new["spec"]);
    if leaves && new["spec"]["externalTrafficPolicy"] == old["spec"]["externalTrafficPolicy"] {
        object::map_at(new, &["spec"]).map(|m| m.remove("externalTrafficPolicy"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_was_allocated_and_a_new_type_drops_it() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP"}]}});
        keep_allocated(&mut new, &old);
        assert_eq!(
            (&new["spec"]["clusterIP"], &new["spec"]["ports"][0]["nodePort"]),
            (&json!("10.0.0.1"), &json!(30001))
        );
        new["spec"]["type"] = json!("ClusterIP");
        drop_dependent(&mut new, &old);
        assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(new["spec"].get("externalTrafficPolicy"), None);
    }

    #[test]
    fn an_external_name_has_no_internal_policy() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "internalTrafficPolicy": "Cluster"}});
        let mut new = json!({"spec": {"type": "ExternalName", "externalName": "x", "internalTrafficPolicy": "Cluster"}});
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        Service.prepare_update(&mut new, &old, &ctx);
        assert_eq!(new["spec"].get("internalTrafficPolicy"), None);
        new["spec"]["internalTrafficPolicy"] = json!("Odd");
        Service.prepare_create(&mut new, &ctx);
        assert_eq!(new["spec"]["internalTrafficPolicy"], "Odd");
    }
}
