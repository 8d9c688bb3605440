//! What a node may see: the objects of the pods that run on it, and its own
//! (upstream: `plugin/pkg/auth/authorizer/node/node_authorizer.go`, `graph.go`).

use crate::authorize::Attributes;
use crate::rbac::Rule;
use meta::object;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// The namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeDecision {
    Allow,
    /// RBAC decides; the reason is for the log.
    NoOpinion(&'static str),
}

/// Which objects the pods of each node refer to.
#[derive(Default)]
pub struct NodeGraph {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Pod `namespace/name` to its node and the objects that it names.
    pods: HashMap<String, (String, Vec<String>)>,
    /// Node to counted references `resource/namespace/name`.
    nodes: HashMap<String, HashMap<String, usize>>,
}

impl NodeGraph {
    /// Takes over a pod; one without a node refers to nothing.
    pub fn apply_pod(&self, pod: &Value) {
        let key = format!("{}/{}", object::namespace(pod), object::name(pod));
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned();
        let mut inner = self.inner.write();
        if inner.pods.get(&key).is_some_and(|(n, _)| *n == node) {
            // A pod's references do not change once it has a node.
            return;
        }
        inner.remove(&key);
        if node.is_empty() {
            return;
        }
        let mut references: Vec<String> = references(pod).into_iter().collect();
        references.push(format!("pods/{key}"));
        let of = inner.nodes.entry(node.clone()).or_default();
        for r in &references {
            *of.entry(r.clone()).or_default() += 1;
        }
        inner.pods.insert(key, (node, references));
    }

    pub fn remove_pod(&self, pod: &Value) {
        let key = format!("{}/{}", object::namespace(pod), object::name(pod));
        self.inner.write().remove(&key);
    }

    fn has(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let key = format!("{resource}/{namespace}/{name}");
        self.inner.read().nodes.get(node).is_some_and(|refs| refs.contains_key(&key))
    }

    /// Decides for a node's request.
    pub fn authorize(&self, node: &str, a: &Attributes<'_>) -> NodeDecision {
        use NodeDecision::{Allow, NoOpinion};
        if !a.is_resource {
            return NoOpinion("not a resource");
        }
        let allow = |ok: bool, why: &'static str| if ok { Allow } else { NoOpinion(why) };
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps") => {
                let reads = matches!(a.verb, "get" | "list" | "watch")
                    && a.subresource.is_empty()
                    && !a.name.is_empty();
                let found = reads && self.has(node, a.resource, a.namespace, a.name);
                allow(found, "no relationship found between node and this object")
            }
            ("", "serviceaccounts") => {
                let token = a.verb == "create" && a.subresource == "token";
                allow(
                    token && self.has(node, "serviceaccounts", a.namespace, a.name),
                    "can only create tokens for own pods",
                )
            }
            ("", "nodes") => match (a.verb, a.subresource) {
                ("create", "") => Allow,
                ("get" | "list" | "watch", "") => {
                    allow(a.name == node, "node may only read its own Node object")
                }
                ("update" | "patch", "" | "status") => {
                    allow(a.name == node, "node may only change its own Node object")
                }
                _ => NoOpinion("node verb"),
            },
            ("", "pods") => match (a.verb, a.subresource) {
                ("get", "") => allow(self.has(node, "pods", a.namespace, a.name), "pod is not on this node"),
                ("list" | "watch", "") => {
                    let own =
                        a.field_selector.split(',').any(|t| t.strip_prefix("spec.nodeName=") == Some(node));
                    allow(own, "can only list/watch pods with spec.nodeName field selector")
                }
                ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Allow,
                _ => NoOpinion("pod verb"),
            },
            ("coordination.k8s.io", "leases") => {
                let own = a.namespace == LEASE_NAMESPACE
                    && (a.name == node || a.verb == "create" && a.name.is_empty())
                    && matches!(a.verb, "get" | "create" | "update" | "patch" | "delete");
                allow(own, "can only use its own lease")
            }
            _ => allow(node_rules().iter().any(|r| crate::rbac::allows(r, a)), "no node rule"),
        }
    }
}

/// What every node may do alike (upstream: `bootstrappolicy.NodeRules`).
fn node_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        let role = |o: &Value| o["kind"] == "ClusterRole" && object::name(o) == "system:node";
        crate::bootstrap::objects().iter().find(|o| role(o)).map(crate::rbac::rules).unwrap_or_default()
    })
}

impl Inner {
    fn remove(&mut self, key: &str) {
        let Some((node, references)) = self.pods.remove(key) else { return };
        let Some(of) = self.nodes.get_mut(&node) else { return };
        for r in references {
            if let Some(n) = of.get_mut(&r) {
                *n -= 1;
                if *n == 0 {
                    of.remove(&r);
                }
            }
        }
    }
}

/// Objects that a pod's spec names, as `resource/namespace/name` (upstream: `graph.go#AddPod`).
fn references(pod: &Value) -> HashSet<String> {
    let namespace = object::namespace(pod);
    let spec = &pod["spec"];
    let mut out = HashSet::new();
    let mut add = |resource: &str, v: &Value| {
        if let Some(name) = v.as_str().filter(|n| !n.is_empty()) {
            out.insert(format!("{resource}/{namespace}/{name}"));
        }
    };
    add("serviceaccounts", &spec["serviceAccountName"]);
    let items = |v: &Value| v.as_array().cloned().unwrap_or_default();
    for s in items(&spec["imagePullSecrets"]) {
        add("secrets", &s["name"]);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for c in items(&spec[list]) {
            for e in items(&c["env"]) {
                add("secrets", &e["valueFrom"]["secretKeyRef"]["name"]);
                add("configmaps", &e["valueFrom"]["configMapKeyRef"]["name"]);
            }
            for e in items(&c["envFrom"]) {
                add("secrets", &e["secretRef"]["name"]);
                add("configmaps", &e["configMapRef"]["name"]);
            }
        }
    }
    for v in items(&spec["volumes"]) {
        add("secrets", &v["secret"]["secretName"]);
        add("configmaps", &v["configMap"]["name"]);
        for s in items(&v["projected"]["sources"]) {
            add("secrets", &s["secret"]["name"]);
            add("configmaps", &s["configMap"]["name"]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use serde_json::json;

    #[test]
    fn a_node_sees_the_secrets_of_its_pods_only() {
        let g = NodeGraph::default();
        let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "volumes": [{"secret": {"secretName": "s"}}]}});
        g.apply_pod(&pod);
        let user = Identity::node("n1");
        let ask = |node: &str, verb: &str, resource: &str, name: &str, sub: &str| {
            let a = Attributes {
                namespace: "ns",
                name,
                subresource: sub,
                ..Attributes::resource(&user, verb, "", resource)
            };
            g.authorize(node, &a) == NodeDecision::Allow
        };
        assert!(ask("n1", "get", "secrets", "s", ""));
        assert!(ask("n1", "create", "serviceaccounts", "sa", "token"));
        assert!(!ask("n1", "get", "secrets", "other", ""));
        assert!(!ask("n1", "list", "secrets", "", ""));
        assert!(!ask("n2", "get", "secrets", "s", ""));
        g.remove_pod(&pod);
        assert!(!ask("n1", "get", "secrets", "s", ""));
    }
}
