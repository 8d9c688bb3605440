//! What a node may write: its own Node, status of its own pods, tokens for them, its lease
//! (upstream: `plugin/pkg/admission/noderestriction/admission.go`).
//!
//! The Node authorizer lets a node create and change kinds of objects; only here are their contents known. Invariant:
//! a request by a node either is about itself and its own pods, or is refused.

use crate::authorize::{Attributes, Authorizer};
use crate::identity::Identity;
use crate::node::LEASE_NAMESPACE;
use crate::node::references::{self, MIRROR, items};
use meta::status::Result;
use meta::{GroupResource, Status, object};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The operations of admission, named as refusals show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request in admission.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub user: &'a Identity,
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty on create.
    pub name: &'a str,
    /// The object as it would be written, or the subresource's body; absent on delete.
    pub new: Option<&'a Value>,
    /// The stored object, on update and delete.
    pub old: Option<&'a Value>,
}

/// The cluster's present objects.
pub trait Lookup {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Value>>;
    fn node(&self, name: &str) -> Option<Arc<Value>>;
}

/// Checks a request; those of others than nodes pass.
///
/// # Errors
/// 403 with upstream's words, or 404 when the object that decides does not exist.
pub fn check(r: &Request<'_>, lookup: &dyn Lookup, authorizer: &Authorizer) -> Result<()> {
    let Some(node) = r.user.node_name() else { return Ok(()) };
    if node.is_empty() {
        return Err(r.refused(&format!("could not determine node from user {:?}", r.user.name)));
    }
    let decided = match (r.group, r.resource, r.subresource) {
        ("", "pods", "") if r.operation == Operation::Delete => return delete_pod(r, node, lookup),
        ("", "pods", "") => return write_pod(r, node, lookup),
        ("", "pods", "status") => pod_status(r, node),
        ("", "pods", "eviction") => return evict(r, node, lookup),
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(r, node),
        ("", "persistentvolumeclaims", "status") => claim_status(r, node),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") if r.operation == Operation::Create => {
            return token(r, node, lookup, authorizer);
        }
        ("coordination.k8s.io", "leases", _) => lease(r, node),
        ("storage.k8s.io", "csinodes", _) => csi_node(r, node),
        ("resource.k8s.io", "resourceslices", _) => slice(r, node),
        _ => Ok(()),
    };
    decided.map_err(|why| r.refused(&why))
}

impl Request<'_> {
    /// Upstream: `admission.NewForbidden`.
    fn refused(&self, why: &str) -> Status {
        let name = match (self.name, self.new) {
            ("", Some(new)) if !object::name(new).is_empty() => object::name(new),
            ("", Some(new)) => object::meta_str(new, "generateName"),
            (name, _) => name,
        };
        Status::forbidden(&GroupResource::new(self.group, self.resource), name, why)
    }

    /// The new object's name where there is none in the path yet.
    fn written_name(&self) -> &str {
        if self.operation == Operation::Create { self.new.map_or("", object::name) } else { self.name }
    }

    fn unexpected(&self) -> String {
        format!("unexpected operation {:?}", self.operation.name())
    }
}

fn of(v: Option<&Value>) -> &Value {
    v.unwrap_or(&Value::Null)
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or("")
}

fn no_such(resource: &str, name: &str) -> Status {
    Status::not_found(&GroupResource::new("", resource), name)
}

fn delete_pod(r: &Request<'_>, node: &str, lookup: &dyn Lookup) -> Result<()> {
    let pod = lookup.pod(r.namespace, r.name).ok_or_else(|| no_such("pods", r.name))?;
    if node_of(&pod) == node {
        return Ok(());
    }
    Err(r.refused(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
}

fn write_pod(r: &Request<'_>, node: &str, lookup: &dyn Lookup) -> Result<()> {
    if r.operation != Operation::Create {
        let why = format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            r.operation.name()
        );
        return Err(r.refused(&why));
    }
    let pod = of(r.new);
    let owner = mirror_pod(pod, node).map_err(|why| r.refused(&why))?;
    let stored = lookup.node(node).ok_or_else(|| no_such("nodes", node))?;
    let owner_uid = owner["uid"].as_str().unwrap_or("");
    if owner_uid != object::uid(&stored) {
        let why = format!("node {node} UID mismatch: expected {owner_uid} got {}", object::uid(&stored));
        return Err(r.refused(&why));
    }
    match references::api_object(pod) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(r.refused(&format!("node {node:?} can not create pods that reference {what}"))),
        Err(e) => Err(r.refused(&format!("error checking mirror pod for API references: {e}"))),
    }
}

/// The owner of a mirror pod that is well made.
fn mirror_pod<'a>(pod: &'a Value, node: &str) -> std::result::Result<&'a Value, String> {
    if object::annotation(pod, MIRROR).is_none() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_of(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let itself = || format!("node {node:?} can only create pods with an owner reference set to itself");
    let owner = match items(&pod["metadata"]["ownerReferences"]) {
        [] => return Err(itself()),
        [one] => one,
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(itself());
    }
    if owner["controller"] != true {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(owner)
}

fn pod_status(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    if r.operation != Operation::Update {
        return Err(r.unexpected());
    }
    let (old, new) = (of(r.old), of(r.new));
    if node_of(old) != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same(&old["metadata"]["labels"], &new["metadata"]["labels"]) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    for (field, what) in [
        ("resourceClaimStatuses", "resource claim statues"), // upstream's spelling
        ("extendedResourceClaimStatus", "extended resource claim status"),
        ("nodeAllocatableResourceClaimStatuses", "node allocatable resource claim statuses"),
    ] {
        if !same(&old["status"][field], &new["status"][field]) {
            return Err(format!("node {node:?} cannot update {what}"));
        }
    }
    Ok(())
}

fn evict(r: &Request<'_>, node: &str, lookup: &dyn Lookup) -> Result<()> {
    if r.operation != Operation::Create {
        return Err(r.refused(&format!("unexpected operation {}", r.operation.name())));
    }
    let name = if r.name.is_empty() { r.new.map_or("", object::name) } else { r.name };
    if name.is_empty() {
        return Err(r.refused("could not determine pod from request data"));
    }
    let pod = lookup.pod(r.namespace, name).ok_or_else(|| no_such("pods", name))?;
    if node_of(&pod) == node {
        return Ok(());
    }
    Err(r.refused(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn claim_status(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    if r.operation != Operation::Update {
        return Err(r.unexpected());
    }
    let rest = |v: Option<&Value>| {
        let mut v = of(v).clone();
        object::remove_meta(&mut v, "resourceVersion");
        object::remove_meta(&mut v, "managedFields");
        if let Some(status) = v.get_mut("status").and_then(Value::as_object_mut) {
            for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                status.remove(field);
            }
        }
        v
    };
    if rest(r.old) == rest(r.new) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn own_node(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    let name = r.written_name();
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let (old, new) = (of(r.old), of(r.new));
    let config = &new["spec"]["configSource"];
    match r.operation {
        Operation::Create => {
            if !config.is_null() {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let forbidden = forbidden_labels(&Value::Null, new);
            if !forbidden.is_empty() {
                let list = forbidden.join(", ");
                return Err(format!("node {node:?} is not allowed to set the following labels: {list}"));
            }
        }
        Operation::Update => {
            if !config.is_null() && *config != old["spec"]["configSource"] {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if !same(&old["spec"]["taints"], &new["spec"]["taints"]) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            // A node that owns itself by a lost object could have garbage collection delete it, and come back with
            // other labels and taints (CVE-2025-5187).
            if !same(&old["metadata"]["ownerReferences"], &new["metadata"]["ownerReferences"]) {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(old, new);
            if !forbidden.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

/// Absent, null and empty are the same to Go.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| {
        v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(|m| m.is_empty())
    };
    a == b || (empty(a) && empty(b))
}

/// Labels that differ and that no node may touch, sorted.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let labels = |v: &Value| object::meta_map(v, "labels").cloned().unwrap_or_default();
    let (old, new) = (labels(old), labels(new));
    let keys: BTreeSet<&String> =
        old.keys().chain(new.keys()).filter(|k| old.get(*k) != new.get(*k)).collect();
    keys.into_iter().filter(|k| is_forbidden(k)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let namespace = label.split_once('/').map_or("", |(n, _)| n);
    let within = |domain: &str| {
        namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let allowed = OWN.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || (kubernetes && !allowed)
}

fn token(r: &Request<'_>, node: &str, lookup: &dyn Lookup, authorizer: &Authorizer) -> Result<()> {
    let spec = &of(r.new)["spec"];
    let bound = &spec["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or("");
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return Err(r.refused("node requested token not bound to a pod"));
    }
    if text("uid").is_empty() {
        return Err(r.refused("node requested token with a pod binding without a uid"));
    }
    let pod = lookup.pod(r.namespace, text("name")).ok_or_else(|| no_such("pods", text("name")))?;
    if text("uid") != object::uid(&pod) {
        return Err(r.refused(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        )));
    }
    if node_of(&pod) != node {
        return Err(r.refused("node requested token bound to a pod scheduled on a different node"));
    }
    audience(r, spec, &pod, authorizer).map_err(|why| r.refused(&why))
}

/// A node asks only for audiences that the pod's volumes name, unless a role allows it more
/// (upstream: `validateNodeServiceAccountAudience`).
fn audience(
    r: &Request<'_>,
    spec: &Value,
    pod: &Value,
    authorizer: &Authorizer,
) -> std::result::Result<(), String> {
    let audience = match items(&spec["audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let sources = items(&pod["spec"]["volumes"]).iter().flat_map(|v| items(&v["projected"]["sources"]));
    let mut tokens = sources.map(|s| &s["serviceAccountToken"]).filter(|t| t.is_object());
    if tokens.any(|t| t["audience"].as_str().unwrap_or("") == audience) {
        return Ok(());
    }
    let resource = GroupResource::new(r.group, audience);
    let a = Attributes::for_resource(r.user, "request-serviceaccounts-token-audience", resource, r.version)
        .in_namespace(r.namespace)
        .named(r.name);
    if authorizer.authorize(&a).is_allowed() {
        return Ok(());
    }
    Err(format!("{} is not authorized to request tokens for audience {audience:?}", r.user.name))
}

fn lease(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    if r.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if r.written_name() != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    if r.written_name() != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    if r.subresource == "status" {
        return Err("CSIVolumeHealth feature gate is disabled".to_owned());
    }
    Ok(())
}

fn slice(r: &Request<'_>, node: &str) -> std::result::Result<(), String> {
    let own = |v: Option<&Value>| of(v)["spec"]["nodeName"] == node;
    match r.operation {
        Operation::Create if !own(r.new) => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        Operation::Delete if !own(r.old) => {
            Err("can only delete ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
