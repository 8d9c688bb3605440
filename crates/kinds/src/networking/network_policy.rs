//! NetworkPolicy (upstream: `pkg/registry/networking/networkpolicy`, `ValidateNetworkPolicySpec`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::ip;
use crate::validate::{items, label_selector, one_of, port, port_name_errors, text};
use meta::field::{Error, ErrorList, Path};
use meta::object::default_at;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

/// The two directions: the list of rules and the list of peers in a rule.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub fn kind() -> KindDef {
    KindDef {
        kind: "NetworkPolicy".into(),
        plural: "networkpolicies".into(),
        singular: "networkpolicy".into(),
        short: &["netpol"],
        schema: "io.k8s.api.networking.v1.NetworkPolicy".into(),
        storage: "networkpolicies".into(),
        columns: const {
            &[NAME, column("Pod-Selector", "string", |o, _| selector(&o["spec"]["podSelector"]).into()), AGE]
        },
        generation: true,
        strategy: StrategyRef::Static(&NetworkPolicy),
        sample: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: default}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress]\n  ingress: [{from: [{podSelector: {matchLabels: {app: front}}}], ports: [{port: 8080, protocol: TCP}]}]\n",
        ..GROUP
    }
}

fn selector(s: &Value) -> String {
    match LabelSelector::from_value(s) {
        Err(_) => "<error>".to_owned(),
        Ok(s) if s.is_empty() => "<none>".to_owned(),
        Ok(s) => s.to_string(),
    }
}

struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        if items(&obj["spec"], "policyTypes").is_empty() {
            let mut types = vec!["Ingress"];
            if !items(&obj["spec"], "egress").is_empty() {
                types.push("Egress");
            }
            default_at(obj, &["spec"], "policyTypes", json!(types));
            obj["spec"]["policyTypes"] = json!(types);
        }
        for (direction, _) in DIRECTIONS {
            let rules = obj["spec"].get_mut(direction).and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                for p in rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    default_at(p, &[], "protocol", "TCP");
                }
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        spec(&obj["spec"], &[])
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        // Ranges that were there before may stay, wherever they are now.
        let mut known = Vec::new();
        for (_, block) in blocks(&old["spec"]) {
            known.push(text(block, "cidr"));
            known.extend(items(block, "except").iter().filter_map(Value::as_str));
        }
        spec(&new["spec"], &known)
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (at, block) in blocks(&new["spec"]) {
            out.extend(ip::cidr_warnings(text(block, "cidr"), &at.child("cidr")));
            for (i, except) in items(block, "except").iter().filter_map(Value::as_str).enumerate() {
                out.extend(ip::cidr_warnings(except, &at.child("except").index(i)));
            }
        }
        out
    }
}

/// All address blocks of a policy, with their places.
fn blocks(spec: &Value) -> Vec<(Path, &Value)> {
    let mut out = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(spec, direction).iter().enumerate() {
            for (j, peer) in items(rule, peers).iter().enumerate() {
                let at = Path::new("spec").child(direction).index(i).child(peers).index(j).child("ipBlock");
                if peer["ipBlock"].is_object() {
                    out.push((at, &peer["ipBlock"]));
                }
            }
        }
    }
    out
}

fn spec(spec: &Value, known: &[&str]) -> ErrorList {
    let mut errors = Vec::new();
    let mut declared = Vec::new();
    let path = Path::new("spec");
    label_selector(&spec["podSelector"], &path.child("podSelector"), &mut errors);
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let at = path.child(direction).index(i);
            for (j, p) in items(rule, "ports").iter().enumerate() {
                policy_port(p, &at.child("ports").index(j), &mut errors);
            }
            for (j, p) in items(rule, peers).iter().enumerate() {
                peer(p, known, &at.child(peers).index(j), &mut errors, &mut declared);
            }
        }
    }
    let (at, types) = (path.child("policyTypes"), items(spec, "policyTypes"));
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(Error::invalid(&at, types.to_vec(), detail));
    } else {
        for (i, t) in types.iter().filter_map(Value::as_str).enumerate() {
            if !matches!(t, "Ingress" | "Egress") {
                errors.push(Error::not_supported(&at.index(i), t, &["Ingress", "Egress"]));
            }
        }
    }
    errors.extend(declared);
    errors
}

fn policy_port(p: &Value, at: &Path, errors: &mut ErrorList) {
    one_of(p, "protocol", at, &["TCP", "UDP", "SCTP"], errors);
    let end = p["endPort"].as_i64();
    let end_at = at.child("endPort");
    let end_is = |detail: &str, errors: &mut ErrorList| {
        errors.extend(end.map(|n| Error::invalid(&end_at, n, detail)));
    };
    match &p["port"] {
        Value::Number(n) => {
            let first = n.as_i64().unwrap_or(0);
            port(first, &at.child("port"), errors);
            if let Some(end) = end {
                if end < first {
                    end_is("must be greater than or equal to `port`", errors);
                }
                port(end, &at.child("endPort"), errors);
            }
        }
        Value::String(name) => {
            end_is("may not be specified when `port` is non-numeric", errors);
            let messages = port_name_errors(name);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("port"), name.as_str(), m)));
        }
        _ => end_is("may not be specified when `port` is not specified", errors),
    }
}

fn peer(p: &Value, known: &[&str], at: &Path, errors: &mut ErrorList, declared: &mut ErrorList) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if p[field].is_object() {
            count += 1;
            label_selector(&p[field], &at.child(field), errors);
        }
    }
    let block = &p["ipBlock"];
    if block.is_object() {
        count += 1;
        ip_block(block, known, &at.child("ipBlock"), errors, declared);
    }
    if count == 0 {
        errors.push(Error::required(at, "must specify a peer"));
    } else if count > 1 && block.is_object() {
        errors.push(Error::forbidden(at, "may not specify both ipBlock and another peer"));
    }
}

fn ip_block(b: &Value, known: &[&str], at: &Path, errors: &mut ErrorList, declared: &mut ErrorList) {
    let cidr = text(b, "cidr");
    if cidr.is_empty() {
        declared.push(Error::required(&at.child("cidr"), ""));
        return;
    }
    ip::legacy_cidr(cidr, &at.child("cidr"), known, errors);
    let Some(outer) = ip::parse_cidr(cidr) else { return };
    for (i, except) in items(b, "except").iter().filter_map(Value::as_str).enumerate() {
        let at = at.child("except").index(i);
        ip::legacy_cidr(except, &at, known, errors);
        let Some(inner) = ip::parse_cidr(except) else { continue };
        if !outer.contains(inner.network()) || outer.bits >= inner.bits {
            errors.push(Error::invalid(&at, except, "must be a strict subset of `cidr`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spec: Value) -> Vec<String> {
        NetworkPolicy.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_are_implied() {
        let mut obj = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}});
        NetworkPolicy.default(&mut obj);
        assert_eq!(obj["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(obj["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn policies() {
        let block = |b: Value| json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": b}]}]});
        assert!(found(block(json!({"cidr": "192.168.0.0/16", "except": ["192.168.3.0/24"]}))).is_empty());
        assert_eq!(
            found(block(json!({"cidr": "192.168.8.0/24", "except": ["192.168.9.1/32"]}))),
            [
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"192.168.9.1/32\": must be a strict subset of `cidr`"
            ]
        );
        assert_eq!(found(block(json!({"cidr": "192.168.0.0/24", "except": ["192.168.0.0/24"]}))).len(), 1);
        assert_eq!(found(block(json!({}))), ["spec.egress[0].to[0].ipBlock.cidr: Required value"]);
        assert_eq!(
            found(
                json!({"ingress": [{"from": [{}], "ports": [{"port": "http", "endPort": 5}, {"port": 10, "endPort": 5, "protocol": "X"}]}]})
            ),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                "spec.ingress[0].ports[1].endPort: Invalid value: 5: must be greater than or equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ]
        );
        assert_eq!(found(json!({"policyTypes": ["a"]})).len(), 1);
    }

    #[test]
    fn an_old_range_may_stay() {
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let old = json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "192.168.1.1/24"}}]}]}});
        assert_eq!(NetworkPolicy.validate_update(&old, &old, &ctx), []);
        assert_eq!(NetworkPolicy.validate(&old).len(), 1);
        assert_eq!(NetworkPolicy.warnings(&old, None).len(), 1);
    }
}
