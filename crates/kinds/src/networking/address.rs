//! IPAddress and ServiceCIDR (upstream: `pkg/registry/networking/{ipaddress,servicecidr}`).

use super::GROUP;
use crate::columns::{AGE, NAME, age, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::ip;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const CIDR_TYPE: &str = "io.k8s.api.networking.v1.ServiceCIDR";
const IMMUTABLE: &str = "field is immutable";

pub fn ip_address() -> KindDef {
    KindDef {
        kind: "IPAddress".into(),
        plural: "ipaddresses".into(),
        singular: "ipaddress".into(),
        short: &["ip"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.networking.v1.IPAddress".into(),
        storage: "ipaddresses".into(),
        columns: const {
            &[
                NAME,
                column("ParentRef", "string", |o, _| parent(&o["spec"]["parentRef"]).into()),
                column("", "string", |o, now| age(object::meta_str(o, "creationTimestamp"), now).into()),
            ]
        },
        strategy: StrategyRef::Static(&IpAddress),
        sample: "apiVersion: networking.k8s.io/v1\nkind: IPAddress\nmetadata: {name: 10.96.0.7}\nspec: {parentRef: {resource: services, namespace: default, name: web}}\n",
        ..GROUP
    }
}

pub fn service_cidr() -> KindDef {
    KindDef {
        kind: "ServiceCIDR".into(),
        plural: "servicecidrs".into(),
        singular: "servicecidr".into(),
        scope: Scope::Cluster,
        schema: CIDR_TYPE.into(),
        storage: "servicecidrs".into(),
        subresources: const { &[status()] },
        columns: const {
            &[NAME, column("CIDRs", "string", |o, _| texts(&o["spec"], "cidrs").join(",").into()), AGE]
        },
        strategy: StrategyRef::Static(&ServiceCidr),
        sample: "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/16]}\n",
        ..GROUP
    }
}

fn texts<'a>(v: &'a Value, field: &str) -> Vec<&'a str> {
    items(v, field).iter().filter_map(Value::as_str).collect()
}

fn parent(r: &Value) -> String {
    if r.is_null() {
        return "<none>".to_owned();
    }
    let mut out = text(r, "resource").to_lowercase();
    for (field, join) in [("group", '.'), ("namespace", '/')] {
        let value = text(r, field);
        if !value.is_empty() {
            out.push(join);
            out.push_str(&if field == "group" { value.to_lowercase() } else { value.to_owned() });
        }
    }
    format!("{out}/{}", text(r, "name"))
}

struct IpAddress;

impl Strategy for IpAddress {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let mut declared = Vec::new();
        let (path, r) = (Path::new("spec").child("parentRef"), &obj["spec"]["parentRef"]);
        if r.is_null() {
            return vec![Error::required(&path, "")];
        }
        let group = text(r, "group");
        if !group.is_empty() {
            let messages = helpers::dns_subdomain_errors(group, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("group"), group, m)));
        }
        for field in ["resource", "name", "namespace"] {
            let value = text(r, field);
            if value.is_empty() && field != "namespace" {
                declared.push(Error::required(&path.child(field), ""));
            }
            let messages = helpers::path_segment_errors(value, value.is_empty());
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child(field), value, m)));
        }
        errors.extend(declared);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        if new["spec"]["parentRef"] != old["spec"]["parentRef"] {
            let at = Path::new("spec").child("parentRef");
            errors.push(Error::invalid(&at, Value::Null, IMMUTABLE));
        }
        errors
    }

    fn name_errors(&self, name: &str, _: bool) -> Vec<String> {
        let mut errors = Vec::new();
        ip::strict(name, &Path::root(), &mut errors);
        errors.into_iter().map(|e| e.detail).collect()
    }
}

struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, CIDR_TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let path = Path::new("spec").child("cidrs");
        let list = texts(&obj["spec"], "cidrs");
        if list.is_empty() {
            errors.push(Error::required(&path, "at least one CIDR required"));
        } else if list.len() > 2 {
            errors.push(Error::invalid(&path, obj["spec"].clone(), "may only hold up to 2 values"));
        } else {
            for (i, cidr) in list.iter().enumerate() {
                ip::strict_cidr(cidr, &path.index(i), &mut errors);
            }
            let v4: Vec<bool> =
                list.iter().filter_map(|c| ip::parse_cidr(c)).map(|c| c.ip.is_ipv4()).collect();
            if v4.len() == 2 && v4[0] == v4[1] {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.push(Error::invalid(&path, obj["spec"]["cidrs"].clone(), detail));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if ctx.subresource == "status" {
            return errors;
        }
        let path = Path::new("spec").child("cidrs");
        let (now, was) = (texts(&new["spec"], "cidrs"), texts(&old["spec"], "cidrs"));
        let grows = was.len() == 1 && now.len() == 2;
        if now.len() != was.len() && !grows {
            return vec![Error::invalid(&path, new["spec"]["cidrs"].clone(), IMMUTABLE)];
        }
        for (i, (n, _)) in now.iter().zip(&was).enumerate().filter(|(_, (n, o))| n != o) {
            errors.push(Error::invalid(&path.index(i), *n, IMMUTABLE));
        }
        if grows {
            errors.extend(self.validate(new));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses() {
        assert!(IpAddress.name_errors("192.168.1.1", false).is_empty());
        assert!(!IpAddress.name_errors("2001:0db8::1", false).is_empty());
        let obj = json!({"spec": {"parentRef": {"group": "Custom.resource.com", "resource": "services", "name": ""}}});
        assert_eq!(IpAddress.validate(&obj).len(), 2);
        assert_eq!(parent(&json!({"group": "g", "resource": "R", "namespace": "n", "name": "m"})), "r.g/n/m");
        assert_eq!(shown(IpAddress.validate(&json!({"spec": {}}))), ["spec.parentRef: Required value"]);
    }

    #[test]
    fn ranges() {
        let of = |list: Value| json!({"spec": {"cidrs": list}});
        assert_eq!(ServiceCidr.validate(&of(json!(["192.168.0.0/24", "fd00::/64"]))), []);
        assert_eq!(ServiceCidr.validate(&of(json!(["192.168.0.0/24", "10.0.0.0/8"]))).len(), 1);
        assert_eq!(
            shown(ServiceCidr.validate(&of(json!([])))),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let old = of(json!(["192.168.0.0/24"]));
        assert_eq!(ServiceCidr.validate_update(&of(json!(["192.168.0.0/24", "fd00::/64"])), &old, &ctx), []);
        assert_eq!(
            shown(ServiceCidr.validate_update(&of(json!(["192.168.1.0/24"])), &old, &ctx)),
            ["spec.cidrs[0]: Invalid value: \"192.168.1.0/24\": field is immutable"]
        );
        assert_eq!(ServiceCidr.validate_update(&of(json!([])), &old, &ctx).len(), 1);
    }
}
