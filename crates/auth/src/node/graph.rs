//! Which objects the pods of each node name (upstream: `plugin/pkg/auth/authorizer/node/graph.go`).

use super::references::{self, MIRROR};
use meta::object;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Counted references of nodes to objects, through their pods.
///
/// Invariant: an object is related to a node exactly as long as a pod with that node names it.
#[derive(Default)]
pub struct NodeGraph {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<String, Pod>,
    /// Node to counted references `resource/namespace/name`.
    nodes: HashMap<String, HashMap<String, usize>>,
}

struct Pod {
    uid: String,
    node: String,
    /// Ephemeral containers are the only references that come later.
    ephemeral: usize,
    references: Vec<String>,
}

impl NodeGraph {
    /// Takes over a pod; one without a node relates to nothing.
    pub fn apply_pod(&self, pod: &Value) {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        if node.is_empty() {
            return;
        }
        let key = format!("{}/{}", object::namespace(pod), object::name(pod));
        let ephemeral = references::items(&pod["spec"]["ephemeralContainers"]).len();
        let known = |p: &Pod| p.node == node && p.uid == object::uid(pod) && p.ephemeral >= ephemeral;
        if self.inner.read().pods.get(&key).is_some_and(known) {
            return;
        }
        let references = all(pod, &key);
        let mut inner = self.inner.write();
        inner.remove(&key);
        let of = inner.nodes.entry(node.to_owned()).or_default();
        for r in &references {
            *of.entry(r.clone()).or_default() += 1;
        }
        inner.pods.insert(
            key,
            Pod { uid: object::uid(pod).to_owned(), node: node.to_owned(), ephemeral, references },
        );
    }

    /// Forgets a pod that no longer exists.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.inner.write().remove(&format!("{namespace}/{name}"));
    }

    /// Takes over a full list: pods that are not in it no longer exist.
    pub fn replace(&self, all: &[Value]) {
        let keep: HashSet<String> =
            all.iter().map(|p| format!("{}/{}", object::namespace(p), object::name(p))).collect();
        let mut inner = self.inner.write();
        let gone: Vec<String> = inner.pods.keys().filter(|k| !keep.contains(*k)).cloned().collect();
        gone.iter().for_each(|key| inner.remove(key));
        drop(inner);
        all.iter().for_each(|p| self.apply_pod(p));
    }

    /// Whether an object is named by a pod of the node. Resources are plural; pods are related to their node too.
    pub fn related(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let key = format!("{resource}/{namespace}/{name}");
        self.inner.read().nodes.get(node).is_some_and(|refs| refs.contains_key(&key))
    }
}

impl Inner {
    fn remove(&mut self, key: &str) {
        let Some(pod) = self.pods.remove(key) else { return };
        let Some(of) = self.nodes.get_mut(&pod.node) else { return };
        for r in pod.references {
            if let Some(n) = of.get_mut(&r) {
                *n -= 1;
                if *n == 0 {
                    of.remove(&r);
                }
            }
        }
        if of.is_empty() {
            self.nodes.remove(&pod.node);
        }
    }
}

/// Everything that a pod relates its node to.
fn all(pod: &Value, key: &str) -> Vec<String> {
    let mut out = vec![format!("pods/{key}")];
    // A node may make mirror pods itself: they must never give it access to anything.
    if object::annotation(pod, MIRROR).is_some() {
        return out;
    }
    let namespace = object::namespace(pod);
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("");
    if !account.is_empty() {
        out.push(format!("serviceaccounts/{namespace}/{account}"));
    }
    out.extend(references::secrets(pod).iter().map(|n| format!("secrets/{namespace}/{n}")));
    out.extend(references::config_maps(pod).iter().map(|n| format!("configmaps/{namespace}/{n}")));
    out.extend(references::claims(pod).iter().map(|n| format!("persistentvolumeclaims/{namespace}/{n}")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, spec: Value) -> Value {
        let mut p = json!({"metadata": {"namespace": "ns", "name": name, "uid": format!("{name}-uid")}, "spec": spec});
        p["spec"]["nodeName"] = node.into();
        p
    }

    #[test]
    fn every_place_that_names_an_object_counts() {
        let g = NodeGraph::default();
        g.apply_pod(&pod("p", "n1", json!({
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "s-pull"}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s-from"}}, {"configMapRef": {"name": "c-from"}}]}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s-env"}}}, {"valueFrom": {"configMapKeyRef": {"name": "c-env"}}}]}],
            "volumes": [
                {"secret": {"secretName": "s-vol"}}, {"configMap": {"name": "c-vol"}}, {"csi": {"nodePublishSecretRef": {"name": "s-csi"}}},
                {"projected": {"sources": [{"secret": {"name": "s-proj"}}, {"configMap": {"name": "c-proj"}}]}},
                {"persistentVolumeClaim": {"claimName": "claim"}}, {"name": "scratch", "ephemeral": {}},
            ],
        })));
        for (resource, names) in [
            ("pods", &["p"][..]),
            ("serviceaccounts", &["sa"]),
            ("secrets", &["s-pull", "s-from", "s-env", "s-vol", "s-csi", "s-proj"]),
            ("configmaps", &["c-from", "c-env", "c-vol", "c-proj"]),
            ("persistentvolumeclaims", &["claim", "p-scratch"]),
        ] {
            for name in names {
                assert!(g.related("n1", resource, "ns", name), "{resource} {name}");
                assert!(!g.related("n2", resource, "ns", name) && !g.related("n1", resource, "other", name));
            }
        }
        g.remove_pod("ns", "p");
        assert!(g.inner.read().nodes.is_empty(), "nothing stays behind");
    }

    #[test]
    fn shared_objects_stay_as_long_as_one_pod_names_them() {
        let g = NodeGraph::default();
        let spec = json!({"volumes": [{"secret": {"secretName": "s"}}]});
        g.apply_pod(&pod("a", "n1", spec.clone()));
        g.apply_pod(&pod("b", "n1", spec.clone()));
        g.remove_pod("ns", "a");
        assert!(g.related("n1", "secrets", "ns", "s"));
        g.apply_pod(&pod("b", "n2", spec));
        assert!(!g.related("n1", "secrets", "ns", "s") && g.related("n2", "secrets", "ns", "s"));
    }

    #[test]
    fn late_references_and_mirror_pods() {
        let g = NodeGraph::default();
        g.apply_pod(&pod("p", "n1", json!({})));
        g.apply_pod(&pod(
            "p",
            "n1",
            json!({"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "late"}}]}]}),
        ));
        assert!(g.related("n1", "secrets", "ns", "late"));
        let mut mirror = pod(
            "m",
            "n1",
            json!({"serviceAccountName": "sa", "volumes": [{"secret": {"secretName": "stolen"}}]}),
        );
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        g.apply_pod(&mirror);
        assert!(g.related("n1", "pods", "ns", "m"));
        assert!(
            !g.related("n1", "secrets", "ns", "stolen") && !g.related("n1", "serviceaccounts", "ns", "sa")
        );
    }
}
