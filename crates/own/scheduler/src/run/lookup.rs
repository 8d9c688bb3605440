//! What decisions need to know about a pod's surroundings: its services, its controller, namespaces.

use crate::pod::{PodInfo, Surroundings};
use crate::selector;
use client::Kind;
use client::informer::{Informer, Informers};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Service};
use meta::selector::LabelSelector;

pub(super) struct Lookup {
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    namespaces: Informer<Namespace>,
}

impl Lookup {
    pub(super) fn new(informers: &Informers) -> Self {
        Self { services: informers.of(), replica_sets: informers.of(), namespaces: informers.of() }
    }

    pub(super) async fn synced(&self) {
        self.services.synced().await;
        self.replica_sets.synced().await;
        self.namespaces.synced().await;
    }

    pub(super) fn surroundings(&self, pod: &PodInfo) -> Surroundings {
        let store = self.namespaces.store();
        // other namespaces matter to terms only
        let all = if pod.terms.is_empty() {
            store.get("", pod.namespace()).into_iter().collect()
        } else {
            store.list()
        };
        let namespaces =
            all.iter().map(|n| (n.name().to_owned(), n.metadata.labels.clone().unwrap_or_default()));
        Surroundings { namespaces: namespaces.collect(), siblings: self.siblings(pod) }
    }

    /// Upstream: `plugins/helper/spread.go#DefaultSelector`, for services and replica sets.
    fn siblings(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let mut out = LabelSelector::everything();
        for service in self.services.store().by_namespace(pod.namespace()) {
            let Some(wanted) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
            if wanted.iter().all(|(k, v)| pod.labels().and_then(|l| l.get(k)) == Some(v)) {
                out = wanted.iter().fold(out, |s, (k, v)| s.with(selector::equals(k, v)));
            }
        }
        let owner = pod.pod().controller().filter(|o| o.kind == "ReplicaSet" && o.api_version == "apps/v1");
        let owner = owner.and_then(|o| self.replica_sets.store().get(pod.namespace(), &o.name));
        if let Some(owner) = owner {
            for requirement in selector::compile(Some(&owner.spec.selector)).requirements() {
                out = out.with(requirement.clone());
            }
        }
        (!out.is_empty()).then_some(out)
    }
}
