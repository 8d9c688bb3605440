//! Endpoints, deprecated in favour of EndpointSlice (upstream: `pkg/registry/core/endpoint`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::ip;
use crate::validate::{items, port, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Addresses shown in a cell before the rest is counted.
const SHOWN_MAX: usize = 3;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

pub fn kind() -> KindDef {
    KindDef {
        kind: "Endpoints".into(),
        plural: "endpoints".into(),
        singular: "endpoints".into(),
        short: &["ep"],
        schema: "io.k8s.api.core.v1.Endpoints".into(),
        storage: "services/endpoints".into(),
        columns: const { &[NAME, column("Endpoints", "string", |o, _| shown(o).into()), AGE] },
        strategy: StrategyRef::Static(&Endpoints),
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        sample: include_str!("samples/endpoints.yaml"),
        ..KindDef::BASE
    }
}

fn shown(o: &Value) -> String {
    let subsets = items(o, "subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut list = Vec::new();
    let mut count = 0;
    for subset in subsets {
        let addresses = items(subset, "addresses");
        let ports = items(subset, "ports");
        let suffixes: Vec<Option<i64>> = if ports.is_empty() {
            vec![None]
        } else {
            ports.iter().map(|p| Some(p["port"].as_i64().unwrap_or(0))).collect()
        };
        for port in suffixes {
            count += addresses.len();
            let room = SHOWN_MAX.saturating_sub(list.len());
            list.extend(addresses.iter().take(room).map(|a| match (text(a, "ip"), port) {
                (ip, None) => ip.to_owned(),
                (ip, Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
                (ip, Some(port)) => format!("{ip}:{port}"),
            }));
        }
    }
    let out = list.join(",");
    if count > SHOWN_MAX { format!("{out} + {} more...", count - SHOWN_MAX) } else { out }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Value) {
        for subset in obj.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
            for p in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                object::default_at(p, &[], "protocol", "TCP");
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        for (i, subset) in items(obj, "subsets").iter().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(i), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        // Old data that is wrong by today's rules may stay as it is.
        if new["subsets"] == old["subsets"] { Vec::new() } else { self.validate(new) }
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        if object::label(new, MANAGED_BY) == Some(CONTROLLER) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (i, subset) in items(new, "subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (j, a) in items(subset, list).iter().enumerate() {
                    let at = Path::new("subsets").index(i).child(list).index(j).child("ip");
                    out.extend(ip::warnings(text(a, "ip"), &at));
                }
            }
        }
        out
    }

    fn create_on_update(&self) -> bool {
        true
    }
}

fn validate_subset(subset: &Value, at: &Path, errors: &mut ErrorList) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|l| items(subset, l).is_empty()) {
        errors.push(Error::required(at, "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in lists {
        for (i, a) in items(subset, list).iter().enumerate() {
            address(a, &at.child(list).index(i), errors);
        }
    }
    let ports = items(subset, "ports");
    for (i, p) in ports.iter().enumerate() {
        endpoint_port(p, ports.len() > 1, &at.child("ports").index(i), errors);
    }
}

fn address(a: &Value, at: &Path, errors: &mut ErrorList) {
    ip::legacy(text(a, "ip"), &at.child("ip"), &[], errors);
    let hostname = text(a, "hostname");
    if !hostname.is_empty() {
        let messages = helpers::dns_label_errors(hostname, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("hostname"), hostname, m)));
    }
    if let Some(node) = a["nodeName"].as_str() {
        let messages = helpers::dns_subdomain_errors(node, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("nodeName"), node, m)));
    }
    ip::endpoint(text(a, "ip"), &at.child("ip"), errors);
}

fn endpoint_port(p: &Value, named: bool, at: &Path, errors: &mut ErrorList) {
    let name = text(p, "name");
    if !name.is_empty() {
        let messages = helpers::dns_label_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
    } else if named {
        errors.push(Error::required(&at.child("name"), ""));
    }
    port(p["port"].as_i64().unwrap_or(0), &at.child("port"), errors);
    match text(p, "protocol") {
        "" => errors.push(Error::required(&at.child("protocol"), "")),
        "SCTP" | "TCP" | "UDP" => {}
        other => {
            let allowed = ["SCTP", "TCP", "UDP"];
            errors.push(Error::not_supported(&at.child("protocol"), other, &allowed));
        }
    }
    if let Some(protocol) = p["appProtocol"].as_str() {
        let messages = helpers::qualified_name_errors(protocol);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("appProtocol"), protocol, m)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(subset: Value) -> Vec<String> {
        Endpoints.validate(&json!({"subsets": [subset]})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn subsets_are_checked() {
        assert!(
            found(json!({"addresses": [{"ip": "10.10.1.1"}], "ports": [{"port": 8675, "protocol": "TCP"}]}))
                .is_empty()
        );
        assert_eq!(
            found(json!({"ports": [{"name": "a", "port": 309, "protocol": "UDP"}]})),
            ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]
        );
        assert_eq!(
            found(json!({"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 66000, "protocol": "TCP"}]})),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].port: Invalid value: 66000: must be between 1 and 65535, inclusive"
            ]
        );
        assert_eq!(found(json!({"addresses": [{"ip": "[::1]"}]})).len(), 2);
        assert_eq!(
            found(
                json!({"addresses": [{"ip": "1.1.1.1"}], "ports": [{"port": 1, "protocol": "TCP"}, {"name": "b", "port": 2, "protocol": "TCP"}]})
            ),
            ["subsets[0].ports[0].name: Required value"]
        );
    }

    #[test]
    fn the_cell_shows_three_addresses() {
        let o = json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "2.2.2.2"}],
            "ports": [{"port": 80}, {"port": 443}]}]});
        assert_eq!(shown(&o), "1.1.1.1:80,2.2.2.2:80,1.1.1.1:443 + 1 more...");
        assert_eq!(shown(&json!({})), "<none>");
    }
}
