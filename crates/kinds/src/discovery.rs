//! The group `discovery.k8s.io`.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::ip;
use crate::validate::{items, labels, one_of, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Upstream: `pkg/apis/discovery/validation`.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLERS: [&str; 2] =
    ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
/// Checks a name.
type Check = fn(&str) -> Vec<String>;
/// The lists of hints and what their names must be.
const HINTS: [(&str, Check); 2] = [
    ("forZones", helpers::label_value_errors),
    ("forNodes", |name| helpers::dns_subdomain_errors(name, false)),
];
/// Entries shown in a cell before the rest is counted.
const SHOWN_MAX: usize = 3;

pub fn endpoint_slice() -> KindDef {
    KindDef {
        group: "discovery.k8s.io".into(),
        kind: "EndpointSlice".into(),
        plural: "endpointslices".into(),
        singular: "endpointslice".into(),
        schema: "io.k8s.api.discovery.v1.EndpointSlice".into(),
        storage: "endpointslices".into(),
        columns: const {
            &[
                NAME,
                column("AddressType", "string", |o, _| o["addressType"].clone()),
                column("Ports", "string", |o, _| ports(o).into()),
                column("Endpoints", "string", |o, _| endpoints(o).into()),
                AGE,
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&EndpointSlice),
        sample: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-abc, namespace: default, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: \"\", port: 8080, protocol: TCP}]\nendpoints: [{addresses: [10.244.0.7], conditions: {ready: true}}]\n",
        ..KindDef::BASE
    }
}

fn shorten(mut list: Vec<String>, unset: &str) -> String {
    if list.is_empty() {
        return unset.to_owned();
    }
    let more = list.len().saturating_sub(SHOWN_MAX);
    list.truncate(SHOWN_MAX);
    let shown = list.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn ports(o: &Value) -> String {
    let list = items(o, "ports");
    shorten(
        list.iter().map(|p| p["port"].as_i64().map_or("*".into(), |n| n.to_string())).collect(),
        "<unset>",
    )
}

fn endpoints(o: &Value) -> String {
    let all = items(o, "endpoints").iter().flat_map(|e| items(e, "addresses"));
    shorten(all.filter_map(|a| a.as_str().map(str::to_owned)).collect(), "<unset>")
}

struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, obj: &mut Value) {
        for port in obj.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            object::default_at(port, &[], "name", "");
            object::default_at(port, &[], "protocol", "TCP");
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        drop_topology(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        let changed =
            new["metadata"]["labels"] != old["metadata"]["labels"] || object::spec_differs(new, old, &[]);
        if new["endpoints"] != old["endpoints"] {
            drop_topology(new, old);
        }
        // Labels count, and what is dropped again; where nothing else changed nobody else counts it.
        if changed && !object::spec_differs(new, old, &[]) {
            object::set_meta(new, "generation", object::generation(old) + 1);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validate(obj, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = validate(new, Some(old));
        if new["addressType"] != old["addressType"] {
            errors.push(Error::invalid(&Path::new("addressType"), Value::Null, "field is immutable"));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && text(new, "addressType") == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        if object::label(new, MANAGED_BY).is_some_and(|by| CONTROLLERS.contains(&by)) {
            return out;
        }
        for (i, e) in items(new, "endpoints").iter().enumerate() {
            for (j, a) in items(e, "addresses").iter().filter_map(Value::as_str).enumerate() {
                let at = Path::new("endpoints").index(i).child("addresses").index(j);
                out.extend(ip::warnings(a, &at));
            }
        }
        out
    }
}

/// The old place of a node's name is no longer written; a name that was there before moves to its field
/// (upstream: `dropTopologyOnV1`).
fn drop_topology(new: &mut Value, old: &Value) {
    let host = "kubernetes.io/hostname";
    let known: Vec<&str> =
        items(old, "endpoints").iter().filter_map(|e| e["deprecatedTopology"][host].as_str()).collect();
    let list = new.get_mut("endpoints").and_then(Value::as_array_mut);
    for e in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        let Some(topology) = e.remove("deprecatedTopology") else { continue };
        let node = topology[host].as_str().filter(|n| known.contains(n));
        if let Some(node) = node.filter(|n| helpers::dns_subdomain_errors(n, false).is_empty()) {
            e.entry("nodeName").or_insert_with(|| node.into());
        }
    }
}

fn validate(obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = Vec::new();
    let mut declared = Vec::new();
    let kind = text(obj, "addressType");
    if kind.is_empty() {
        declared.push(Error::required(&Path::new("addressType"), ""));
    }
    one_of(obj, "addressType", &Path::root(), &["FQDN", "IPv4", "IPv6"], &mut declared);
    ports_errors(items(obj, "ports"), &mut errors);
    // Old data that is wrong by today's rules may stay as it is.
    if old.is_none_or(|o| o["endpoints"] != obj["endpoints"]) {
        let (all, path) = (items(obj, "endpoints"), Path::new("endpoints"));
        if all.len() > ENDPOINTS_MAX {
            errors.push(Error::too_many(&path, all.len(), ENDPOINTS_MAX));
        } else {
            for (i, e) in all.iter().enumerate() {
                endpoint(e, kind, &path.index(i), &mut errors, &mut declared);
            }
        }
    }
    errors.extend(declared);
    errors
}

fn ports_errors(all: &[Value], errors: &mut ErrorList) {
    let path = Path::new("ports");
    if all.len() > PORTS_MAX {
        errors.push(Error::too_many(&path, all.len(), PORTS_MAX));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, p) in all.iter().enumerate() {
        let (at, name) = (path.index(i), text(p, "name"));
        if !name.is_empty() {
            let messages = helpers::dns_label_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
        }
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else {
            names.push(name);
        }
        if p["protocol"].is_null() {
            errors.push(Error::required(&at.child("protocol"), ""));
        } else if !matches!(text(p, "protocol"), "SCTP" | "TCP" | "UDP") {
            let allowed = ["SCTP", "TCP", "UDP"];
            errors.push(Error::not_supported(&at.child("protocol"), text(p, "protocol"), &allowed));
        }
        if let Some(protocol) = p["appProtocol"].as_str() {
            let messages = helpers::qualified_name_errors(protocol);
            let at = at.child("appProtocol");
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, protocol, m)));
        }
    }
}

fn endpoint(e: &Value, kind: &str, at: &Path, errors: &mut ErrorList, declared: &mut ErrorList) {
    let addresses = items(e, "addresses");
    let path = at.child("addresses");
    if addresses.is_empty() {
        declared.push(Error::required(&path, ""));
    } else if addresses.len() > ADDRESSES_MAX {
        declared.push(Error::too_many(&path, addresses.len(), ADDRESSES_MAX));
    }
    for (j, a) in addresses.iter().filter_map(Value::as_str).enumerate() {
        address(a, kind, &path, j, errors);
    }
    if let Some(node) = e["nodeName"].as_str() {
        let messages = helpers::dns_subdomain_errors(node, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("nodeName"), node, m)));
    }
    let (topology, topology_at) = (&e["deprecatedTopology"], at.child("deprecatedTopology"));
    let entries = topology.as_object().map_or(0, serde_json::Map::len);
    if entries > TOPOLOGY_MAX {
        errors.push(Error::too_many(&topology_at, entries, TOPOLOGY_MAX));
    }
    labels(topology, &topology_at, errors);
    if let Some(host) = e["hostname"].as_str() {
        let messages = helpers::dns_label_errors(host, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("hostname"), host, m)));
    }
    for (field, check) in HINTS {
        let (list, at) = (items(&e["hints"], field), at.child("hints").child(field));
        if list.len() > HINTS_MAX {
            errors.push(Error::too_many(&at, list.len(), HINTS_MAX));
            return;
        }
        for (i, hint) in list.iter().enumerate() {
            let (at, name) = (at.index(i).child("name"), text(hint, "name"));
            if list[..i].iter().any(|other| text(other, "name") == name) {
                errors.push(Error::duplicate(&at, name));
            }
            errors.extend(check(name).into_iter().map(|m| Error::invalid(&at, name, m)));
        }
    }
}

/// One address of an endpoint; addresses of unknown types are not looked at.
fn address(a: &str, kind: &str, path: &Path, index: usize, errors: &mut ErrorList) {
    let at = path.index(index);
    let before = errors.len();
    match kind {
        "IPv4" => ip::legacy(a, &at, &[], errors),
        "IPv6" => ip::strict(a, &at, errors),
        "FQDN" => return domain(a, &at, errors),
        _ => return,
    }
    if errors.len() > before {
        return;
    }
    if ip::parse(a).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
        errors.push(Error::invalid(path, a, format!("must be an {kind} address")));
    }
    ip::endpoint(a, &at, errors);
}

/// A name of at least two labels (upstream: `IsFullyQualifiedDomainName`).
fn domain(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = helpers::dns_subdomain_errors(name, false);
    if !messages.is_empty() {
        errors.push(Error::invalid(at, name, messages.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(at, name, detail));
    } else {
        let bad =
            name.split('.').map(|l| (l, helpers::dns_label_errors(l, false))).find(|(_, m)| !m.is_empty());
        errors.extend(bad.map(|(label, m)| Error::invalid(at, label, m.join(","))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(kind: &str, endpoint: Value) -> Vec<String> {
        let obj = json!({"addressType": kind, "endpoints": [endpoint]});
        validate(&obj, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_are_checked() {
        assert!(
            found("IPv4", json!({"addresses": ["172.16.1.2"], "hostname": "a", "nodeName": "n"})).is_empty()
        );
        assert!(found("FQDN", json!({"addresses": ["foo.example.com", "bar.example.com."]})).is_empty());
        assert_eq!(
            found("IPv4", json!({"addresses": ["a00:100::4", "127.0.0.1"]})),
            [
                "endpoints[0].addresses: Invalid value: \"a00:100::4\": must be an IPv4 address",
                "endpoints[0].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
            ]
        );
        assert_eq!(
            found("IPv6", json!({"addresses": [], "hints": {"forZones": [{"name": "a"}, {"name": "a"}]}})),
            [
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
                "endpoints[0].addresses: Required value"
            ]
        );
        assert_eq!(found("FQDN", json!({"addresses": ["foo"]})).len(), 1);
        assert_eq!(
            found("other", json!({"addresses": ["x"]})),
            ["addressType: Unsupported value: \"other\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""]
        );
    }

    #[test]
    fn old_topology_is_dropped() {
        let old = json!({"endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"kubernetes.io/hostname": "n1"}}]});
        let mut new = json!({"endpoints": [{"addresses": ["10.0.0.2"], "deprecatedTopology": {"kubernetes.io/hostname": "n1"}}]});
        drop_topology(&mut new, &old);
        assert_eq!(new, json!({"endpoints": [{"addresses": ["10.0.0.2"], "nodeName": "n1"}]}));
    }
}
