//! What objects count against a ResourceQuota (upstream: `pkg/quota/v1/evaluator/core`, apiserver
//! `pkg/quota/v1/generic`).
//!
//! Invariant: pure functions of the object and the time; the admission plugin and the controller count alike.

mod claims;
mod pods;
#[cfg(test)]
mod tests;

use crate::amounts::Amounts;
use crate::validate::{items, text};
use jiff::Timestamp;
use meta::quantity::{Format, Quantity};
use serde_json::{Value, json};

/// Virtual kinds, and events (upstream: `DefaultIgnoredResources`).
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("", "events"),
    ("events.k8s.io", "events"),
];
/// Kinds that quotas count by another name too (upstream: `legacyObjectCountAliases`).
const ALIASED: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
const SERVICES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];

/// Counts the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    VolumeClaims,
    ResourceClaims,
    /// Objects are counted, by these names.
    Count(Vec<String>),
}

/// A scope of a quota as a requirement (upstream: `ScopedResourceSelectorRequirement`).
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub name: &'a str,
    pub operator: &'a str,
    pub values: &'a Value,
}

impl Scope<'_> {
    /// Whether a value, if any, is as required; NotIn holds without one, as in label selectors.
    fn accepts(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.as_array().is_some_and(|a| a.iter().any(|x| x == v));
        match self.operator {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// The scopes of a quota: all of them must match (upstream: `getScopeSelectorsFromQuota`).
pub fn scopes(quota: &Value) -> Vec<Scope<'_>> {
    let spec = &quota["spec"];
    let named = items(spec, "scopes").iter().filter_map(Value::as_str);
    let mut out: Vec<_> =
        named.map(|name| Scope { name, operator: "Exists", values: &Value::Null }).collect();
    out.extend(items(&spec["scopeSelector"], "matchExpressions").iter().map(|r| Scope {
        name: text(r, "scopeName"),
        operator: text(r, "operator"),
        values: &r["values"],
    }));
    out
}

impl Evaluator {
    /// Whether the objects of a kind ever count.
    pub fn is_counted(group: &str, plural: &str) -> bool {
        !IGNORED.contains(&(group, plural))
    }

    /// Of a kind; `None` when its objects never count.
    pub fn of(group: &str, plural: &str) -> Option<Self> {
        if !Self::is_counted(group, plural) {
            return None;
        }
        Some(match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::VolumeClaims,
            ("resource.k8s.io", "resourceclaims") => Self::ResourceClaims,
            ("", plural) if ALIASED.contains(&plural) => {
                Self::Count(vec![format!("count/{plural}"), plural.to_owned()])
            }
            ("", plural) => Self::Count(vec![format!("count/{plural}")]),
            (group, plural) => Self::Count(vec![format!("count/{plural}.{group}")]),
        })
    }

    /// Whether a create, or else an update from an `old` object, can change what is used.
    pub fn handles(&self, subresource: &str, new: &Value, old: Option<&Value>) -> bool {
        match (self, subresource, old) {
            (Self::Pods, "", Some(old)) => pods::is_terminating(old) != pods::is_terminating(new),
            (Self::Pods, "resize", old) => old.is_some(),
            (Self::VolumeClaims, "status", Some(old)) => claims::needs_recount(new, old),
            (Self::Count(_), "", old) => old.is_none(),
            (_, subresource, _) => subresource.is_empty(),
        }
    }

    /// Whether a name of a quota is one that this counts.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Self::Pods => pods::counts(name),
            Self::Services => SERVICES.contains(&name),
            Self::VolumeClaims => claims::counts(name),
            Self::ResourceClaims => claims::counts_devices(name),
            Self::Count(names) => names.iter().any(|n| n == name),
        }
    }

    pub fn in_scope(&self, object: &Value, scope: &Scope<'_>) -> bool {
        match self {
            Self::Pods => pods::in_scope(object, scope),
            Self::VolumeClaims => claims::in_scope(object, scope),
            _ => false,
        }
    }

    /// Whether a quota is about an object: it limits something that this counts, and the object is in all scopes.
    pub fn matches(&self, quota: &Value, object: &Value) -> bool {
        let hard = quota["status"]["hard"].as_object();
        hard.is_some_and(|h| h.keys().any(|name| self.counts(name)))
            && scopes(quota).iter().all(|s| self.in_scope(object, s))
    }

    /// What an object must say about itself when `required` names are limited.
    ///
    /// # Errors
    /// It does not; the text tells which containers lack what.
    pub fn constraints(&self, required: &[&str], object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pods::constraints(required, object),
            _ => Ok(()),
        }
    }

    /// What an object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Self::Pods => pods::usage(object, now),
            Self::Services => service(object),
            Self::VolumeClaims => claims::usage(object),
            Self::ResourceClaims => claims::devices(object),
            Self::Count(names) => names.iter().map(|n| (n.clone(), whole(1))).collect(),
        }
    }

    /// What all objects of a namespace use together, of the names that a quota limits (upstream: `CalculateUsageStats`).
    pub fn total<'a>(
        &self,
        quota: &Value,
        objects: impl Iterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Amounts {
        let hard = quota["spec"]["hard"].as_object();
        let names = hard.into_iter().flat_map(|h| h.keys()).filter(|name| self.counts(name));
        let mut used: Amounts = names.map(|name| (name.clone(), whole(0))).collect();
        let scopes = scopes(quota);
        for object in objects.filter(|o| scopes.iter().all(|s| self.in_scope(o, s))) {
            used.add(&self.usage(object, now));
        }
        used
    }

    /// Whether a change of an object can free or take something that no request was asked for
    /// (upstream: `DefaultUpdateFilter`).
    pub fn changed(&self, new: &Value, old: &Value, now: Timestamp) -> bool {
        match self {
            Self::Pods => pods::changed(new, old, now),
            Self::Services => service_type(new) != service_type(old),
            Self::VolumeClaims => claims::needs_recount(new, old),
            _ => false,
        }
    }
}

fn whole(n: i64) -> Quantity {
    Quantity::new(n, Format::DecimalSi)
}

/// The type, as far as quotas tell types apart (upstream: `GetQuotaServiceType`).
fn service_type(service: &Value) -> &str {
    Some(text(&service["spec"], "type")).filter(|t| matches!(*t, "NodePort" | "LoadBalancer")).unwrap_or("")
}

/// Upstream: `serviceEvaluator.Usage`. Node ports are not given out yet: what counts is the intent.
fn service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = items(spec, "ports");
    let named = ports.iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (balancers, node_ports) = match service_type(service) {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == json!(false) => (1, named),
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    SERVICES.iter().zip([1, 1, node_ports, balancers]).map(|(n, v)| ((*n).to_owned(), whole(v))).collect()
}
