//! What events are about.

use super::spec;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

/// The pod itself.
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A container of the pod (upstream: `kubecontainer.GenerateContainerRef`).
pub fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let list = match spec::find(pod, container) {
        Some((spec::Role::Init | spec::Role::Sidecar, _)) => "initContainers",
        Some((spec::Role::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod_reference(pod) }
}

/// The node.
pub fn node_reference(name: &str) -> ObjectReference {
    // The kubelet uses the node's name as its uid.
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
