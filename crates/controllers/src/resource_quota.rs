//! What the quotas of a namespace limit and what is used of it, counted anew when limits change and when something
//! goes that no request asks admission for.
//!
//! Invariant: a status is written only over the one that was counted from; admission may have counted since.
//! upstream: `pkg/controller/resourcequota`

use crate::all_kinds::AllKinds;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Queue, RateLimiter, Reconcile};
use client::informer::Informer;
use client::{Client, Kind};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kinds::amounts::Amounts;
use kinds::quota::Evaluator;
use meta::quantity::{Format, Quantity};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Upstream: `ConcurrentResourceQuotaSyncs`.
const WORKERS: usize = 5;
/// All is counted again this often (upstream: `ResourceQuotaSyncPeriod`).
const PERIOD: Duration = Duration::from_secs(5 * 60);
/// What is due is counted once more after this: the copies of several kinds come by watches of their own, and one may be
/// behind the change that another told of.
const SETTLE: Duration = Duration::from_secs(2);
/// Wait for a kind whose objects are not known yet.
const NOT_KNOWN_RETRY: Duration = Duration::from_secs(1);

struct QuotaController {
    client: Client,
    clock: SharedClock,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    volume_claims: Informer<PersistentVolumeClaim>,
    resource_claims: Informer<ResourceClaim>,
    all: Arc<AllKinds>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let quotas = setup.informers.of::<ResourceQuota>();
    let this = Arc::new(QuotaController {
        client: setup.client("resourcequota-controller"),
        clock: setup.clock.clone(),
        quotas: quotas.clone(),
        pods: setup.informers.of(),
        services: setup.informers.of(),
        volume_claims: setup.informers.of(),
        resource_claims: setup.informers.of(),
        all: setup.all_kinds.clone(),
    });
    let queue = Arc::new(Queue::new(setup.clock.clone(), RateLimiter::default()));
    let (pods, services, claims) = (this.clone(), this.clone(), this.clone());
    let every = quotas.clone();
    let controller = Controller::new("resourcequota-controller", this.clone(), setup.clock.clone())
        .with_queue(queue.clone())
        .workers(WORKERS)
        .watches(&quotas, |change, q| {
            // statuses are ours, or counted by admission
            let hard = |quota: &Option<Arc<ResourceQuota>>| {
                quota.as_ref().and_then(|o| o.spec.as_ref()).map(|s| s.hard.clone())
            };
            if let Some(new) = &change.new
                && (change.old.is_none() || hard(&change.old) != hard(&change.new))
            {
                due(new, q);
            }
        })
        .watches(&this.pods, move |c, q| pods.changed(&Evaluator::Pods, c.old.as_ref(), c.new.as_ref(), q))
        .watches(&this.services, move |c, q| {
            services.changed(&Evaluator::Services, c.old.as_ref(), c.new.as_ref(), q);
        })
        .watches(&this.volume_claims, move |c, q| {
            claims.changed(&Evaluator::VolumeClaims, c.old.as_ref(), c.new.as_ref(), q);
        })
        .needs(&this.resource_claims)
        .resync(PERIOD, move || every.store().list().iter().map(|o| ObjectKey::of(&**o)).collect());
    let mut deletions = setup.all_kinds.deletions();
    let cancel = setup.cancel.clone();
    let task = tokio::spawn(async move {
        let listen = async {
            loop {
                match deletions.recv().await {
                    Ok(d) => {
                        if let Some(evaluator) = Evaluator::of(&d.group, &d.plural) {
                            this.recount(&evaluator, &d.namespace, &queue);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        this.quotas.store().list().iter().for_each(|o| due(o, &queue));
                    }
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = listen => {}
            () = controller.start(cancel).stopped() => {}
        }
    });
    Handle::of_task("resourcequota-controller", task)
}

/// A quota is to be counted, now and when all copies have caught up.
fn due(quota: &ResourceQuota, queue: &Queue<ObjectKey>) {
    let key = ObjectKey::of(quota);
    queue.add_after(key.clone(), SETTLE);
    queue.add(key);
}

fn tree(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn limits(quota: &ResourceQuota) -> impl Iterator<Item = &str> {
    quota.spec.iter().flat_map(|s| &s.hard).flat_map(|h| h.keys()).map(String::as_str)
}

fn whole(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

impl QuotaController {
    /// Quotas of a namespace that limit what an evaluator counts are due (upstream: `replenishQuota`).
    fn recount(&self, evaluator: &Evaluator, namespace: &str, queue: &Queue<ObjectKey>) {
        for quota in self.quotas.store().by_namespace(namespace) {
            if limits(&quota).any(|name| evaluator.counts(name)) {
                due(&quota, queue);
            }
        }
    }

    /// An object changed, or is gone.
    fn changed<K: Kind>(
        &self,
        evaluator: &Evaluator,
        old: Option<&Arc<K>>,
        new: Option<&Arc<K>>,
        queue: &Queue<ObjectKey>,
    ) {
        let Some(old) = old else { return };
        let namespace = old.namespace();
        if self.quotas.store().by_namespace(namespace).is_empty() {
            return;
        }
        if new.is_none_or(|new| evaluator.changed(&tree(&**new), &tree(&**old), self.clock.now())) {
            self.recount(evaluator, namespace, queue);
        }
    }

    fn total<K: Kind>(&self, evaluator: &Evaluator, quota: &Value, ns: &str, copy: &Informer<K>) -> Amounts {
        let objects: Vec<Value> = copy.store().by_namespace(ns).iter().map(|o| tree(&**o)).collect();
        evaluator.total(quota, objects.iter(), self.clock.now())
    }

    /// What is used of what a quota limits, and whether all of it is known (upstream: `CalculateUsage`).
    fn usage(&self, quota: &Value, ns: &str, hard: &Amounts) -> (Amounts, bool) {
        let mut used = Amounts::default();
        let mut complete = true;
        let counts = |e: &Evaluator| hard.names().any(|name| e.counts(name));
        for evaluator in
            [Evaluator::Pods, Evaluator::Services, Evaluator::VolumeClaims, Evaluator::ResourceClaims]
        {
            if !counts(&evaluator) {
                continue;
            }
            used.add(&match &evaluator {
                Evaluator::Pods => self.total(&evaluator, quota, ns, &self.pods),
                Evaluator::Services => self.total(&evaluator, quota, ns, &self.services),
                Evaluator::VolumeClaims => self.total(&evaluator, quota, ns, &self.volume_claims),
                _ => self.total(&evaluator, quota, ns, &self.resource_claims),
            });
        }
        let scoped = !kinds::quota::scopes(quota).is_empty();
        for (group, plural) in self.all.names() {
            let Some(Evaluator::Count(names)) = Evaluator::of(&group, &plural) else { continue };
            if !names.iter().any(|n| hard.get(n).is_some()) {
                continue;
            }
            let count = match (group.as_str(), plural.as_str()) {
                // of what this controller has a copy itself, that is never behind the quota
                ("", "resourcequotas") => Some(self.quotas.store().by_namespace(ns).len()),
                _ => self.all.count(&group, &plural, ns),
            };
            match count {
                // none of these objects is in any scope
                Some(count) => {
                    let count = whole(if scoped { 0 } else { count });
                    used.add(&names.into_iter().map(|n| (n, count.clone())).collect());
                }
                None => complete = false,
            }
        }
        (used.only(|name| hard.get(name).is_some()), complete)
    }
}

#[async_trait]
impl Reconcile for QuotaController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(quota) = self.quotas.store().get(&key.namespace, &key.name) else { return Ok(After::Done) };
        let object = tree(&*quota);
        let hard = Amounts::of(&object["spec"]["hard"]);
        let status = &object["status"];
        let known = Amounts::of(&status["used"]);
        let (counted, complete) = self.usage(&object, &key.namespace, &hard);
        let mut used = known.only(|name| hard.get(name).is_some());
        for (name, amount) in counted.iter() {
            used.set(name.clone(), amount.clone());
        }
        let unset = status["hard"].is_null() || status["used"].is_null();
        if unset || hard != Amounts::of(&status["hard"]) || used != known {
            let list = |amounts: &Amounts| serde_json::from_value(amounts.to_value());
            let mut new = (*quota).clone();
            new.status = Some(ResourceQuotaStatus { hard: Some(list(&hard)?), used: Some(list(&used)?) });
            self.client.update_status(&new).await?;
        }
        Ok(if complete { After::Done } else { After::Again(NOT_KNOWN_RETRY) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use client::ApiResource;
    use client::fake::FakeApi;
    use client::informer::{MetaObject, Store};
    use serde_json::json;

    const QUOTAS: &str = "/api/v1/namespaces/n/resourcequotas";

    async fn until(api: &FakeApi, want: &str) {
        let used = || Amounts::of(&api.object(&format!("{QUOTAS}/q")).unwrap()["status"]["used"]).to_string();
        for _ in 0..200 {
            if used() == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("used: {}, want {want}", used());
    }

    #[tokio::test]
    async fn usage_is_counted_and_freed() {
        let api = Arc::new(FakeApi::new());
        let setup = Setup::of_fake(&api, SystemClock::shared());
        let pod = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}})
        };
        api.seed("/api/v1/namespaces/n/pods", &pod("a"));
        api.seed("/api/v1/namespaces/n/pods", &pod("b"));
        api.seed(
            QUOTAS,
            &json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "q", "namespace": "n"},
            "spec": {"hard": {"cpu": "4", "pods": "5", "services": "2"}}}),
        );
        let handle = start(&setup);
        until(&api, "cpu=1,pods=2,services=0").await;
        let client = Client::new(api.clone());
        client.delete::<Pod>("n", "a", &client::DeleteOptions::default()).await.unwrap();
        until(&api, "cpu=500m,pods=1,services=0").await;
        setup.cancel.cancel();
        handle.stopped().await;
    }

    #[tokio::test]
    async fn a_copy_that_was_behind_is_counted_again() {
        let api = Arc::new(FakeApi::new());
        let setup = Setup::of_fake(&api, SystemClock::shared());
        let copy = |plural: &str, kind: &str| {
            let store = Arc::new(Store::new(|o: &MetaObject| &o.metadata));
            store.replace(Vec::new());
            setup
                .all_kinds
                .add(&ApiResource::new("", "v1", kind, plural, true), Informer::of_store(store.clone()));
            store
        };
        let (maps, _) = (copy("configmaps", "ConfigMap"), copy("resourcequotas", "ResourceQuota"));
        api.seed(
            QUOTAS,
            &json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"},
                "spec": {"hard": {"configmaps": "4", "resourcequotas": "1"}}}),
        );
        let handle = start(&setup);
        until(&api, "configmaps=0,resourcequotas=1").await;
        let mut map = MetaObject::default();
        map.metadata.name = Some("m".into());
        map.metadata.namespace = Some("n".into());
        maps.replace(vec![map]);
        until(&api, "configmaps=1,resourcequotas=1").await;
        setup.cancel.cancel();
        handle.stopped().await;
    }
}
