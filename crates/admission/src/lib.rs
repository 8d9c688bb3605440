//! Admission: the ordered chain of plugins that may change or refuse a write after it was authorised
//! (upstream: `pkg/kubeapiserver/options/plugins.go`).
//!
//! Plugins see an object's tree and decide from it and from the registry; they do not know HTTP.

pub mod certificates;
pub mod chain;
pub mod escalation;
pub mod limit_ranger;
mod matching;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_resize;
pub mod pod_security;
pub mod pod_topology;
pub mod policy;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage;
pub mod taints;
#[cfg(test)]
mod testing;
pub mod webhook;

pub use chain::{Attributes, Call, Chain, Notes, Plugin};
pub use resource_quota::Loopback;

use auth::Authorizer;
use base::clock::SharedClock;
use registry::Registry;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The default plugins, in upstream's order.
pub fn default_chain(
    registry: &Arc<Registry>,
    authorizer: &Arc<Authorizer>,
    caller: &Arc<webhook::Caller>,
    loopback: &Loopback,
    clock: &SharedClock,
    cancel: &CancellationToken,
) -> Chain {
    Chain::new(vec![
        Arc::new(certificates::PodCertificateSigning::new(authorizer.clone())),
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(registry.clone())),
        Arc::new(limit_ranger::LimitRanger::new(registry.clone())),
        Arc::new(service_account::ServiceAccount::new(registry.clone())),
        Arc::new(node_restriction::NodeRestriction::new(registry.clone(), authorizer.clone())),
        Arc::new(taints::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity::new(registry.clone())),
        Arc::new(priority::Priority::new(registry.clone())),
        Arc::new(taints::DefaultTolerationSeconds),
        Arc::new(storage::DefaultStorageClass::new(registry.clone())),
        Arc::new(storage::StorageObjectInUseProtection),
        Arc::new(storage::PersistentVolumeClaimResize::new(registry.clone())),
        Arc::new(runtime_class::RuntimeClass::new(registry.clone())),
        Arc::new(certificates::Signers::approval(authorizer)),
        Arc::new(certificates::Signers::signing(authorizer)),
        Arc::new(certificates::Signers::attest(authorizer)),
        Arc::new(certificates::SubjectRestriction),
        Arc::new(storage::DefaultIngressClass::new(registry.clone())),
        Arc::new(pod_topology::PodTopology::new(registry.clone())),
        Arc::new(pod_resize::PodResize::new(registry.clone())),
        Arc::new(escalation::Escalation::new(registry.clone(), authorizer.clone())),
        Arc::new(policy::MutatingPolicies::new(registry, authorizer, cancel)),
        Arc::new(webhook::Webhooks::mutating(registry, authorizer, caller.clone(), cancel.clone())),
        Arc::new(policy::ValidatingPolicies::new(registry, authorizer, cancel)),
        Arc::new(webhook::Webhooks::validating(registry, authorizer, caller.clone(), cancel.clone())),
        Arc::new(resource_quota::ResourceQuota::new(registry.clone(), loopback.clone(), clock.clone())),
    ])
}
