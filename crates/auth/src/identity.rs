//! A user as every later step sees it (upstream: apiserver `pkg/authentication/user`).
//!
//! Invariant: the names made here are upstream's, since roles, audit records and clients know them.

use kinds::helpers::{dns_label_errors, dns_subdomain_errors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub const SYSTEM_MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
pub const NODES: &str = "system:nodes";
/// The group of monitoring clients.
pub const MONITORING: &str = "system:monitoring";
pub const APISERVER: &str = "system:apiserver";
pub const SCHEDULER: &str = "system:kube-scheduler";
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
pub const KUBE_PROXY: &str = "system:kube-proxy";
/// The user name with which the API server calls kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const NODE_PREFIX: &str = "system:node:";

/// The extra key that names the credential: `JTI=…` or `X509SHA256=…`.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Extra keys of a token that is bound to a pod or node.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// A user, service account or node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    #[serde(rename = "username", default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// A component or node of the cluster, authenticated by being in this process.
    pub fn system(name: &str, groups: &[&str]) -> Self {
        Self::new(name, groups).authenticated()
    }

    pub fn node(name: &str) -> Self {
        Self::system(&format!("{NODE_PREFIX}{name}"), &[NODES])
    }

    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = service_account_groups(namespace).to_vec();
        Self { name: service_account_name(namespace, name), groups, ..Self::default() }.authenticated()
    }

    /// The account under which one controller of the controller manager acts, such as `deployment-controller`.
    pub fn controller(name: &str) -> Self {
        Self::service_account("kube-system", name)
    }

    /// The API server itself, for its own requests: may do everything.
    pub fn apiserver() -> Self {
        Self::system(APISERVER, &[SYSTEM_MASTERS])
    }

    pub fn scheduler() -> Self {
        Self::system(SCHEDULER, &[])
    }

    pub fn controller_manager() -> Self {
        Self::system(CONTROLLER_MANAGER, &[])
    }

    /// With the group of everybody who has a credential.
    pub fn authenticated(mut self) -> Self {
        if self.name != ANONYMOUS && !self.in_group(AUTHENTICATED) && !self.in_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, when this is a node; empty when it is one that has no name
    /// (upstream: `pkg/auth/nodeidentifier/default.go`).
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.in_group(NODES).then_some(name)
    }

    /// The only value of an extra key; empty when there is none or are several.
    pub fn extra_value(&self, key: &str) -> &str {
        match self.extra.get(key).map(Vec::as_slice) {
            Some([one]) => one,
            _ => "",
        }
    }

    /// The `UserInfo` of reviews and audit events.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The user name of a service account.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// Namespace and name of a service account's user name; `None` when either could not be a real one
/// (upstream: `serviceaccount.SplitUsername`).
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let good = dns_label_errors(namespace, false).is_empty() && dns_subdomain_errors(name, false).is_empty();
    good.then_some((namespace, name))
}

/// The node that a user name stands for; `None` when it could not be a node's name.
pub fn split_node(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_PREFIX)?;
    dns_subdomain_errors(name, false).is_empty().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_come_apart_only_when_they_are_real_ones() {
        assert_eq!(split_service_account("system:serviceaccount:ns:a.b"), Some(("ns", "a.b")));
        for bad in [
            "ns:a",
            "system:serviceaccount:ns",
            "system:serviceaccount::a",
            "system:serviceaccount:ns:a:b",
            "system:serviceaccount:n.s:a",
            "system:serviceaccount:ns:",
            "system:serviceaccount:NS:a",
        ] {
            assert_eq!(split_service_account(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_node_is_one_by_name_and_group() {
        assert_eq!(Identity::node("n1").node_name(), Some("n1"));
        assert_eq!(Identity::new("system:node:n1", &[]).node_name(), None);
        assert_eq!(Identity::new("n1", &[NODES]).node_name(), None);
        assert_eq!(Identity::new("system:node:", &[NODES]).node_name(), Some(""));
    }
}
