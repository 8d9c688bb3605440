//! NodeRestriction: a kubelet changes its own Node and the pods bound to it, nothing else
//! (upstream: `plugin/pkg/admission/noderestriction`).

use crate::chain::{Attributes, Plugin};
use async_trait::async_trait;
use meta::object;
use meta::status::{Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

/// Labels that a kubelet may set on its own Node (upstream: `pkg/kubelet/apis/well_known_labels.go`).
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];

pub struct NodeRestriction {
    registry: Arc<Registry>,
}

impl NodeRestriction {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn pod(&self, a: &Attributes<'_>, name: &str) -> Result<Value> {
        let row = self.registry.kinds().resource("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
        self.registry.get_value(&a.permit, row, a.namespace, name)
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let Some(node) = a.user.node_name() else { return Ok(()) };
        let refuse = |why: String| Err(Status::forbidden(&a.kind.group_resource(), a.name, &why));
        let checked = match (&*a.kind.group, &*a.kind.plural, a.subresource) {
            ("", "nodes", _) => node_change(a, node, new, old),
            ("", "pods", "") => pod_change(a, node, new, old),
            ("", "pods", "status") => {
                let own = old.is_some_and(|p| p["spec"]["nodeName"] == node);
                if own {
                    Ok(())
                } else {
                    Err(format!(
                        "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                    ))
                }
            }
            ("", "pods", "eviction") => match self.pod(a, a.name)?["spec"]["nodeName"].as_str() {
                Some(n) if n == node => Ok(()),
                _ => Err(format!("node {node:?} can only evict pods with spec.nodeName set to itself")),
            },
            ("coordination.k8s.io", "leases", _) => {
                let name = new.or(old).map_or(a.name, object::name);
                if a.namespace == "kube-node-lease" && name == node {
                    Ok(())
                } else {
                    Err("can only access node lease with the same name as the requesting node".to_owned())
                }
            }
            _ => Ok(()),
        };
        checked.or_else(refuse)
    }
}

fn node_change(
    a: &Attributes<'_>,
    node: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> std::result::Result<(), String> {
    let name = new.or(old).map_or(a.name, object::name);
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = new else {
        return Err(format!("node {node:?} is not allowed to delete itself"));
    };
    if a.operation == Operation::Create {
        let bad = restricted_labels(new, None);
        if !bad.is_empty() {
            return Err(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                bad.join(", ")
            ));
        }
        return Ok(());
    }
    let Some(old) = old else { return Ok(()) };
    if new["spec"]["taints"] != old["spec"]["taints"] {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    // An owner would let the garbage collector delete the node for it (CVE-2025-5187).
    if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let bad = restricted_labels(new, Some(old));
    if !bad.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", bad.join(", ")));
    }
    Ok(())
}

/// Labels in Kubernetes' own namespaces that the kubelet would add, change or remove without leave.
fn restricted_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |o: &Value| o["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (n, o) = (labels(new), old.map(labels).unwrap_or_default());
    let mut keys: Vec<&String> = n.keys().chain(o.keys()).filter(|k| n.get(*k) != o.get(*k)).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().filter(|k| is_restricted(k)).cloned().collect()
}

fn is_restricted(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let under = |d: &str| domain == d || domain.ends_with(&format!(".{d}"));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    if !(under("kubernetes.io") || under("k8s.io")) || OWN_LABELS.contains(&key) {
        return false;
    }
    !(under("kubelet.kubernetes.io") || under("node.kubernetes.io"))
}

fn pod_change(
    a: &Attributes<'_>,
    node: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> std::result::Result<(), String> {
    match (a.operation, new, old) {
        (Operation::Delete, _, Some(old)) => {
            if old["spec"]["nodeName"] == node {
                Ok(())
            } else {
                Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
        }
        (Operation::Create, Some(new), _) => {
            if object::annotation(new, "kubernetes.io/config.mirror").is_none() {
                let name = object::name(new);
                return Err(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods ({name})"
                ));
            }
            if new["spec"]["nodeName"] != node {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            for field in ["serviceAccountName"] {
                if !new["spec"][field].as_str().unwrap_or("").is_empty() {
                    return Err(format!(
                        "node {node:?} can not create pods that reference a service account"
                    ));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_nodes_may_not_set() {
        for (key, restricted) in [
            ("kubernetes.io/hostname", false),
            ("node-restriction.kubernetes.io/pci", true),
            ("kubernetes.io/other", true),
            ("node.kubernetes.io/fast", false),
            ("example.com/x", false),
            ("plain", false),
        ] {
            assert_eq!(is_restricted(key), restricted, "{key}");
        }
    }
}
