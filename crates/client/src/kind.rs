//! The kinds a typed client can handle, and the paths they live at.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::{Debug, Write};

/// Whether objects of a kind live in namespaces.
pub trait Scoped {
    const NAMESPACED: bool;
}

impl Scoped for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl Scoped for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

/// Any object kind of k8s-openapi.
pub trait Kind:
    Resource<Scope: Scoped>
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or("")
    }

    /// The namespace, empty for what has none.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or("")
    }

    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }

    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or("")
    }

    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The owner reference with `controller: true`.
    fn controller(&self) -> Option<&OwnerReference> {
        controller_of(self.metadata())
    }

    /// A reference that makes `self` the managing controller of another object (upstream: `metav1.NewControllerRef`).
    fn controller_ref(&self) -> OwnerReference {
        OwnerReference {
            api_version: Self::API_VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            block_owner_deletion: Some(true),
            controller: Some(true),
        }
    }
}

impl<K> Kind for K where
    K: Resource<Scope: Scoped>
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// The managing controller in some metadata.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|r| r.controller == Some(true))
}

/// Whether objects of the kind live in namespaces.
pub fn namespaced<K: Kind>() -> bool {
    <K as Resource>::Scope::NAMESPACED
}

/// The URL path of a collection or object. An empty namespace means all namespaces (or none, for cluster-scoped kinds);
/// an empty name means the collection.
pub fn path(group: &str, version: &str, plural: &str, ns: &str, name: &str, subresource: &str) -> String {
    let mut p = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if !ns.is_empty() {
        p.push_str("/namespaces/");
        push_escaped(&mut p, ns);
    }
    p.push('/');
    p.push_str(plural);
    if !name.is_empty() {
        p.push('/');
        push_escaped(&mut p, name);
    }
    if !subresource.is_empty() {
        p.push('/');
        p.push_str(subresource);
    }
    p
}

/// [`path`] of a typed kind; the namespace is left out for cluster-scoped kinds.
pub fn path_of<K: Kind>(ns: &str, name: &str, subresource: &str) -> String {
    let ns = if namespaced::<K>() { ns } else { "" };
    path(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, ns, name, subresource)
}

/// Appends `key=value` to a URI, with escaping.
pub fn push_query(uri: &mut String, key: &str, value: &str) {
    uri.push(if uri.contains('?') { '&' } else { '?' });
    uri.push_str(key);
    uri.push('=');
    push_escaped(uri, value);
}

fn push_escaped(out: &mut String, text: &str) {
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => out.push(b as char),
            _ => {
                // writing to a String cannot fail
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use k8s_openapi::api::rbac::v1::ClusterRole;

    #[test]
    fn paths() {
        assert_eq!(path_of::<Pod>("a", "b", "status"), "/api/v1/namespaces/a/pods/b/status");
        assert_eq!(path_of::<Pod>("", "", ""), "/api/v1/pods");
        assert_eq!(path_of::<Node>("ignored", "n", ""), "/api/v1/nodes/n");
        let role = path_of::<ClusterRole>("", "system:a b/c", "");
        assert_eq!(role, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a%20b%2Fc");
        let mut uri = path_of::<Pod>("", "", "");
        push_query(&mut uri, "labelSelector", "a in (b,c)");
        push_query(&mut uri, "limit", "5");
        assert_eq!(uri, "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29&limit=5");
    }
}
