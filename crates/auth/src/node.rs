//! What a node may see: the objects of the pods that run on it, and its own
//! (upstream: `plugin/pkg/auth/authorizer/node/node_authorizer.go`).
//!
//! Invariant: never a veto, only permissions; what a node may *write* into its objects is
//! [`crate::node_restriction`]'s to say.

mod graph;
pub(crate) mod references;

pub use graph::NodeGraph;
pub use references::secrets;

use crate::authorize::{Attributes, Decision};
use crate::bootstrap;
use crate::rbac::Rule;
use std::sync::{Arc, OnceLock};

/// The namespace of node leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The authoriser of nodes.
pub struct NodeAuthorizer {
    pub graph: Arc<NodeGraph>,
    /// What every node may do alike.
    rules: Vec<Rule>,
    /// Takes over what is stored of a namespace's pods and not in the graph yet.
    catch_up: OnceLock<CatchUp>,
}

type CatchUp = Box<dyn Fn(&str) + Send + Sync>;

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl NodeAuthorizer {
    pub fn new(graph: Arc<NodeGraph>) -> Self {
        Self { graph, rules: bootstrap::node_rules(), catch_up: OnceLock::new() }
    }

    /// Sets what to do before a namespaced object is said to be none of a node's: a node hears of its pods at the same
    /// moment as the graph, and asks for their tokens at once. Only the first call counts.
    pub fn on_miss(&self, catch_up: impl Fn(&str) + Send + Sync + 'static) {
        drop(self.catch_up.set(Box::new(catch_up)));
    }

    /// Decides about a node's request; no opinion on anybody else's.
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let Some(node) = a.user.node_name() else { return Decision::no_opinion("") };
        if node.is_empty() {
            return Decision::no_opinion(format!("unknown node for user {:?}", a.user.name));
        }
        let result = match (a.is_resource, &*a.api_group, &*a.resource) {
            (true, "", "secrets" | "configmaps") => self.read(node, a),
            (true, "", "persistentvolumeclaims") if a.subresource == "status" => self.claim_status(node, a),
            (true, "", "persistentvolumeclaims" | "persistentvolumes")
            | (true, "resource.k8s.io", "resourceclaims")
            | (true, "storage.k8s.io", "volumeattachments") => self.get(node, a),
            (true, "", "serviceaccounts") if a.verb == "get" && a.subresource.is_empty() => {
                self.read(node, a)
            }
            (true, "", "serviceaccounts") => self.token(node, a),
            (true, "coordination.k8s.io", "leases") => lease(node, a),
            (true, "storage.k8s.io", "csinodes") => csi_node(node, a),
            (true, "resource.k8s.io", "resourceslices") => self.slice(node, a),
            (true, "certificates.k8s.io", "podcertificaterequests") => self.certificate_request(node, a),
            (true, "", "nodes") => own_node(node, a),
            (true, "", "pods") => self.pod(node, a),
            _ if self.rules.iter().any(|r| r.allows(a)) => Ok(()),
            _ => Err(String::new()),
        };
        match result {
            Ok(()) => Decision::allow(),
            Err(reason) => Decision::NoOpinion { reason },
        }
    }

    /// Single namespaced objects that the node's pods name.
    fn read(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(matches!(&*a.verb, "get" | "list" | "watch"), "can only read resources of this type")?;
        refuse_unless(a.subresource.is_empty(), "cannot read subresource")?;
        refuse_unless(!a.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related(node, a)
    }

    fn get(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(a.verb == "get", "can only get individual resources of this type")?;
        refuse_unless(a.subresource.is_empty(), "cannot get subresource")?;
        self.related(node, a)
    }

    fn claim_status(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(matches!(&*a.verb, "update" | "patch"), "can only get/update/patch this type")?;
        self.related(node, a)
    }

    fn token(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        let individual = a.verb == "create" && !a.name.is_empty();
        refuse_unless(individual, "can only create tokens for individual service accounts")?;
        refuse_unless(a.subresource == "token", "can only create token subresource of serviceaccount")?;
        self.related(node, a)
    }

    fn slice(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(a.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
        match &*a.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, a),
            "watch" | "list" | "deletecollection" => refuse_unless(
                selects_node(a, "spec.nodeName", node),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn certificate_request(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(
            a.subresource.is_empty(),
            "nodes may not access the status subresource of PodCertificateRequests",
        )?;
        match &*a.verb {
            "create" => Ok(()),
            "get" => self.related(node, a),
            "list" | "watch" => refuse_unless(
                selects_node(a, "spec.nodeName", node),
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        match (&*a.subresource, &*a.verb) {
            ("", "get") => self.get(node, a),
            ("", "list" | "watch") if selects_node(a, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !a.name.is_empty() => self.related(node, a),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // Which of them, admission says.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => refuse(""),
        }
    }

    fn related(&self, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        refuse_unless(!a.name.is_empty(), "No Object name found")?;
        let related = || self.graph.related(node, &a.resource, &a.namespace, &a.name);
        if related() {
            return Ok(());
        }
        if let Some(catch_up) = self.catch_up.get().filter(|_| !a.namespace.is_empty()) {
            catch_up(&a.namespace);
            if related() {
                return Ok(());
            }
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }
}

fn lease(node: &str, a: &Attributes<'_>) -> Result<(), String> {
    refuse_unless(
        matches!(&*a.verb, "get" | "create" | "update" | "patch" | "delete"),
        "can only get, create, update, patch, or delete a node lease",
    )?;
    if a.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    // The name is not known on create: admission checks it then.
    let own = a.verb == "create" || a.name == node;
    refuse_unless(own, "can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Result<(), String> {
    match &*a.subresource {
        "" => refuse_unless(
            matches!(&*a.verb, "get" | "create" | "update" | "patch" | "delete"),
            "can only get, create, update, patch, or delete a CSINode",
        )?,
        "status" => refuse("CSINode status access requires CSIVolumeHealth feature")?,
        _ => refuse("cannot authorize CSINode subresources")?,
    }
    let own = a.verb == "create" || a.name == node;
    refuse_unless(own, "can only access CSINode with the same name as the requesting node")
}

fn own_node(node: &str, a: &Attributes<'_>) -> Result<(), String> {
    match (&*a.subresource, &*a.verb, &*a.name) {
        ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => Ok(()),
        // By name, not by relation: a kubelet looks for its Node before there is one.
        ("", "get" | "list" | "watch", name) if name == node => Ok(()),
        ("", "get" | "list" | "watch", "") => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch", name) => {
            Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => refuse(""),
    }
}

fn selects_node(a: &Attributes<'_>, field: &str, node: &str) -> bool {
    a.field_selector.as_ref().is_some_and(|s| s.requires_exact(field) == Some(node))
}

fn refuse(why: &str) -> Result<(), String> {
    Err(why.to_owned())
}

fn refuse_unless(ok: bool, why: &str) -> Result<(), String> {
    if ok { Ok(()) } else { refuse(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, NODES};
    use meta::GroupResource;
    use serde_json::json;

    fn nodes() -> NodeAuthorizer {
        let n = NodeAuthorizer::default();
        n.graph.apply_pod(&json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"nodeName": "n1",
            "serviceAccountName": "sa", "volumes": [{"secret": {"secretName": "s"}}, {"persistentVolumeClaim": {"claimName": "c"}}]}}));
        n
    }

    /// Request: verb, group/resource/subresource, namespace, name, field selector; then the reason, or `allow`.
    const CASES: &[(&str, &str, &str, &str, &str, &str)] = &[
        ("get", "/secrets", "ns", "s", "", "allow"),
        ("watch", "/secrets", "ns", "s", "", "allow"),
        ("get", "/secrets", "ns", "other", "", "no relationship found between node 'n1' and this object"),
        ("list", "/secrets", "ns", "", "", "No Object name found"),
        ("list", "/secrets", "", "", "", "can only read namespaced object of this type"),
        ("update", "/secrets", "ns", "s", "", "can only read resources of this type"),
        ("get", "/secrets/x", "ns", "s", "", "cannot read subresource"),
        ("get", "/persistentvolumeclaims", "ns", "c", "", "allow"),
        ("list", "/persistentvolumeclaims", "ns", "c", "", "can only get individual resources of this type"),
        ("patch", "/persistentvolumeclaims/status", "ns", "c", "", "allow"),
        ("get", "/persistentvolumeclaims/status", "ns", "c", "", "can only get/update/patch this type"),
        ("get", "/serviceaccounts", "ns", "sa", "", "allow"),
        (
            "get",
            "/serviceaccounts",
            "ns",
            "other",
            "",
            "no relationship found between node 'n1' and this object",
        ),
        ("create", "/serviceaccounts/token", "ns", "sa", "", "allow"),
        (
            "create",
            "/serviceaccounts/token",
            "ns",
            "other",
            "",
            "no relationship found between node 'n1' and this object",
        ),
        ("create", "/serviceaccounts", "ns", "sa", "", "can only create token subresource of serviceaccount"),
        (
            "create",
            "/serviceaccounts/token",
            "ns",
            "",
            "",
            "can only create tokens for individual service accounts",
        ),
        ("get", "/pods", "ns", "p", "", "allow"),
        ("get", "/pods", "ns", "q", "", "no relationship found between node 'n1' and this object"),
        ("list", "/pods", "", "", "spec.nodeName=n1", "allow"),
        ("list", "/pods", "", "", "spec.nodeName=n1,status.phase!=Failed", "allow"),
        (
            "list",
            "/pods",
            "",
            "",
            "spec.nodeName!=n1",
            "can only list/watch pods with spec.nodeName field selector",
        ),
        (
            "list",
            "/pods",
            "",
            "",
            "spec.nodeName=n2",
            "can only list/watch pods with spec.nodeName field selector",
        ),
        ("watch", "/pods", "ns", "p", "", "allow"),
        ("create", "/pods", "ns", "", "", "allow"),
        ("delete", "/pods", "ns", "q", "", "allow"),
        ("update", "/pods", "ns", "p", "", ""),
        ("patch", "/pods/status", "ns", "p", "", "allow"),
        ("create", "/pods/eviction", "ns", "p", "", "allow"),
        ("create", "/pods/binding", "ns", "p", "", ""),
        ("create", "/pods/exec", "ns", "p", "", ""),
        ("create", "/nodes", "", "", "", "allow"),
        ("get", "/nodes", "", "n1", "", "allow"),
        ("get", "/nodes", "", "n2", "", "node 'n1' cannot read 'n2', only its own Node object"),
        ("list", "/nodes", "", "", "", "node 'n1' cannot read all nodes, only its own Node object"),
        ("patch", "/nodes/status", "", "n1", "", "allow"),
        ("delete", "/nodes", "", "n1", "", ""),
        ("get", "coordination.k8s.io/leases", "kube-node-lease", "n1", "", "allow"),
        ("create", "coordination.k8s.io/leases", "kube-node-lease", "", "", "allow"),
        (
            "update",
            "coordination.k8s.io/leases",
            "kube-node-lease",
            "n2",
            "",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "update",
            "coordination.k8s.io/leases",
            "ns",
            "n1",
            "",
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            "list",
            "coordination.k8s.io/leases",
            "kube-node-lease",
            "",
            "",
            "can only get, create, update, patch, or delete a node lease",
        ),
        ("get", "storage.k8s.io/csinodes", "", "n1", "", "allow"),
        (
            "get",
            "storage.k8s.io/csinodes",
            "",
            "n2",
            "",
            "can only access CSINode with the same name as the requesting node",
        ),
        ("list", "/services", "", "", "", "allow"),
        ("create", "/services", "ns", "", "", ""),
        ("create", "/events", "ns", "", "", "allow"),
        ("create", "authorization.k8s.io/subjectaccessreviews", "", "", "", "allow"),
        ("get", "apps/deployments", "ns", "d", "", ""),
    ];

    #[test]
    fn a_node_sees_its_own_and_its_pods_objects() {
        let n = nodes();
        let user = Identity::node("n1");
        for (verb, what, namespace, name, selector, want) in CASES {
            let mut parts = what.split('/');
            let mut next = || parts.next().unwrap_or("");
            let (group, resource, sub) = (next(), next(), next());
            let a = Attributes::for_resource(&user, *verb, GroupResource::new(group, resource), "v1")
                .sub(sub)
                .in_namespace(*namespace)
                .named(*name)
                .selecting(selector, "");
            let want = if *want == "allow" { Decision::allow() } else { Decision::no_opinion(*want) };
            assert_eq!(n.authorize(&a), want, "{verb} {what} {namespace}/{name} {selector}");
        }
    }

    #[test]
    fn others_are_not_nodes() {
        let n = nodes();
        let ask = |user: &Identity| {
            n.authorize(
                &Attributes::for_resource(user, "get", GroupResource::new("", "secrets"), "v1")
                    .in_namespace("ns")
                    .named("s"),
            )
        };
        assert_eq!(ask(&Identity::new("system:node:n1", &[])), Decision::no_opinion(""));
        assert_eq!(ask(&Identity::new("n1", &[NODES])), Decision::no_opinion(""));
        assert_eq!(
            ask(&Identity::new("system:node:", &[NODES])),
            Decision::no_opinion("unknown node for user \"system:node:\"")
        );
        assert!(!ask(&Identity::node("n2")).is_allowed());
    }
}
