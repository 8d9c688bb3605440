//! The group `discovery.k8s.io`.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::{immutable, items, one_of, port_name_errors, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Upstream: `pkg/apis/discovery/validation`.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
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

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let kinds = ["IPv4", "IPv6", "FQDN"];
        if text(obj, "addressType").is_empty() {
            errors.push(Error::required(&Path::new("addressType"), ""));
        }
        one_of(obj, "addressType", &Path::root(), &kinds, &mut errors);
        let all = items(obj, "endpoints");
        if all.len() > ENDPOINTS_MAX {
            errors.push(Error::too_many(&Path::new("endpoints"), all.len(), ENDPOINTS_MAX));
            return errors;
        }
        for (i, e) in all.iter().enumerate() {
            endpoint(e, text(obj, "addressType"), &Path::new("endpoints").index(i), &mut errors);
        }
        let all = items(obj, "ports");
        if all.len() > PORTS_MAX {
            errors.push(Error::too_many(&Path::new("ports"), all.len(), PORTS_MAX));
            return errors;
        }
        let mut names: Vec<&str> = Vec::new();
        for (i, p) in all.iter().enumerate() {
            let at = Path::new("ports").index(i);
            let name = text(p, "name");
            if !name.is_empty() {
                let messages = if helpers::dns_label_errors(name, false).is_empty() {
                    Vec::new()
                } else {
                    port_name_errors(name)
                };
                errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
            }
            if names.contains(&name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            names.push(name);
            one_of(p, "protocol", &at, &["SCTP", "TCP", "UDP"], &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        immutable(&new["addressType"], &old["addressType"], &Path::new("addressType"), &mut errors);
        errors
    }
}

fn endpoint(e: &Value, address_type: &str, at: &Path, errors: &mut ErrorList) {
    let addresses = items(e, "addresses");
    let path = at.child("addresses");
    if addresses.is_empty() {
        errors.push(Error::required(&path, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(&path, addresses.len(), ADDRESSES_MAX));
    }
    for (j, a) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let at = path.index(j);
        let ip = a.parse::<std::net::IpAddr>();
        match (address_type, ip) {
            ("IPv4", Ok(ip)) if ip.is_ipv4() => special_ip(ip, a, &at, errors),
            ("IPv6", Ok(ip)) if ip.is_ipv6() => special_ip(ip, a, &at, errors),
            ("IPv4", _) => errors.push(Error::invalid(&at, a, "must be a valid IPv4 address")),
            ("IPv6", _) => errors.push(Error::invalid(&at, a, "must be a valid IPv6 address")),
            ("FQDN", _) => {
                let messages = helpers::dns_subdomain_errors(a.trim_end_matches('.'), false);
                errors.extend(messages.into_iter().map(|m| Error::invalid(&at, a, m)));
            }
            _ => {}
        }
    }
}

/// Addresses that would let a Service reach the node itself (upstream: `ValidateEndpointIP`).
fn special_ip(ip: std::net::IpAddr, shown: &str, at: &Path, errors: &mut ErrorList) {
    let detail = match ip {
        ip if ip.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        ip if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        std::net::IpAddr::V4(v4) if v4.is_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        std::net::IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        std::net::IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0] => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        _ => return,
    };
    errors.push(Error::invalid(at, shown, detail));
}
