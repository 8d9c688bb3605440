//! Replica sets and replication controllers: so many pods of one template.
//!
//! Invariant: pods are created or deleted only while all earlier creations and deletions have been seen.
//! upstream: `pkg/controller/replicaset`, `pkg/controller/replication`

mod plan;
mod rank;
mod replication;
mod status;

pub use plan::{Plan, World, plan};
pub use rank::victims;

use crate::common::{claim, pods, select};
use crate::deployment::is_terminating_namespace;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Expectations, Handle, ObjectKey, Queue, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::{Change, Informer};
use client::{Client, DeleteOptions, Kind};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use meta::Status;
use meta::selector::LabelSelector;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// First batch of creations; each that succeeds doubles it (upstream: `SlowStartInitialBatchSize`).
const FIRST_BATCH: usize = 1;

/// A kind that asks for so many pods, seen as a replica set.
pub(crate) trait Managed: Kind {
    /// Names of the controller in logs, and of its identity and its events.
    const LOGGED_AS: &'static str;
    const IDENTITY: &'static str;
    /// Whether the status has `terminatingReplicas`.
    const COUNTS_TERMINATING: bool;

    fn view(&self) -> Cow<'_, ReplicaSet>;

    fn selector(&self) -> LabelSelector;

    #[must_use]
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Managed for ReplicaSet {
    const LOGGED_AS: &'static str = "replicaset";
    const IDENTITY: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn view(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn selector(&self) -> LabelSelector {
        select::selector(&self.spec.selector)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

struct ReplicaSetController<K> {
    client: Client,
    replica_sets: Informer<K>,
    pods: Informer<Pod>,
    expectations: Expectations<ObjectKey>,
    recorder: Recorder,
    clock: SharedClock,
}

/// Starts the controller of one of the kinds.
pub(crate) fn start<K: Managed>(setup: &Setup) -> Handle {
    let replica_sets = setup.informers.of::<K>();
    let pods = setup.informers.of::<Pod>();
    let client = setup.client(K::IDENTITY);
    let this = Arc::new(ReplicaSetController {
        recorder: setup.recorder(&client, K::IDENTITY),
        client,
        replica_sets: replica_sets.clone(),
        pods: pods.clone(),
        expectations: Expectations::new(setup.clock.clone()),
        clock: setup.clock.clone(),
    });
    let (for_sets, for_pods) = (this.clone(), this.clone());
    Controller::new(K::LOGGED_AS, this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&replica_sets, move |c, q| {
            let Some(rs) = c.latest() else { return };
            // a successor of the same name must not wait for what this one did
            if c.new.as_ref().is_none_or(|n| c.old.as_ref().is_some_and(|o| o.uid() != n.uid())) {
                for_sets.expectations.forget(&ObjectKey::of(&**rs));
            }
            q.add(ObjectKey::of(&**rs));
        })
        .watches(&pods, move |c, q| for_pods.pod_changed(c, q))
        .start(setup.cancel.clone())
}

impl<K: Managed> ReplicaSetController<K> {
    fn owner_of(&self, pod: &Pod) -> Option<Arc<K>> {
        let owner = pod.controller().filter(|c| c.kind == K::KIND)?;
        self.replica_sets.store().get(pod.namespace(), &owner.name).filter(|rs| rs.uid() == owner.uid)
    }

    fn pod_changed(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let Some(pod) = change.latest() else { return };
        if let Some(old) = &change.old
            && old.controller() != pod.controller()
            && let Some(rs) = self.owner_of(old)
        {
            queue.add(ObjectKey::of(&*rs));
        }
        if let Some(rs) = self.owner_of(pod) {
            let key = ObjectKey::of(&*rs);
            if change.new.is_none() || pod.is_deleting() {
                self.expectations.deleted(&key, pod.uid());
            } else if change.old.is_none() {
                self.expectations.created(&key);
            }
            queue.add(key);
        } else if pod.controller().is_none() && change.new.is_some() {
            for rs in self.replica_sets.store().by_namespace(pod.namespace()) {
                if select::matches(&rs.selector(), pod.metadata.labels.as_ref()) {
                    queue.add(ObjectKey::of(&*rs));
                }
            }
        }
    }

    /// The pods that the replica set owns now, active and terminating.
    async fn claimed(&self, rs: &K) -> Result<(Vec<Arc<Pod>>, Vec<Arc<Pod>>), Status> {
        let selector = rs.selector();
        let store = self.pods.store();
        let orphans = store.by_owner("").into_iter().filter(|p| p.namespace() == rs.namespace());
        let all: Vec<_> = store.by_owner(rs.uid()).into_iter().chain(orphans).collect();
        let (active, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| pods::is_active(p));
        let terminating = rest.into_iter().filter(|p| pods::is_terminating(p)).collect();
        let terminating = claim::plan(rs.metadata(), &selector, terminating).owned;
        let active = claim::apply(&self.client, rs, claim::plan(rs.metadata(), &selector, active)).await?;
        Ok((active, terminating))
    }

    /// Pods of all replica sets of the same deployment: what shares a node with them goes first.
    fn related(&self, rs: &K) -> Vec<Arc<Pod>> {
        let Some(owner) = rs.controller() else { return self.pods.store().by_owner(rs.uid()) };
        let siblings = self.replica_sets.store().by_owner(&owner.uid);
        siblings.iter().flat_map(|s| self.pods.store().by_owner(s.uid())).collect()
    }

    async fn create(&self, key: &ObjectKey, rs: &K, count: usize) -> Result<(), Status> {
        let pod = plan::pod(&rs.view(), rs.controller_ref());
        self.expectations.expect(key, count as i64, []);
        let (mut left, mut batch) = (count, FIRST_BATCH);
        while left > 0 {
            batch = batch.min(left);
            let results = join_all((0..batch).map(|_| self.create_one(rs, &pod))).await;
            left -= batch;
            let failed: Vec<Status> = results.into_iter().filter_map(Result::err).collect();
            failed.iter().for_each(|_| self.expectations.created(key));
            if let Some(first) = failed.into_iter().next() {
                (0..left).for_each(|_| self.expectations.created(key));
                // there is no use in trying again in a namespace that goes away
                return if is_terminating_namespace(&first) { Ok(()) } else { Err(first) };
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, rs: &K, pod: &Pod) -> Result<(), Status> {
        match self.client.create(pod).await {
            Ok(made) => {
                let text = format!("Created pod: {}", made.name());
                self.recorder.event(&reference(rs), EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(e) => {
                if !is_terminating_namespace(&e) {
                    let text = format!("Error creating: {e}");
                    self.recorder.event(&reference(rs), EventType::Warning, "FailedCreate", text);
                }
                Err(e)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, rs: &K, victims: &[Arc<Pod>]) -> Result<(), Status> {
        self.expectations.expect(key, 0, victims.iter().map(|p| p.uid().to_owned()));
        let results = join_all(victims.iter().map(|pod| async {
            let result =
                self.client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteOptions::default()).await;
            if let Err(e) = result {
                self.expectations.deleted(key, pod.uid());
                if e.is_not_found() {
                    return Ok(());
                }
                let text = format!("Error deleting: {e}");
                self.recorder.event(&reference(rs), EventType::Warning, "FailedDelete", text);
                return Err(e);
            }
            let text = format!("Deleted pod: {}", pod.name());
            self.recorder.event(&reference(rs), EventType::Normal, "SuccessfulDelete", text);
            Ok(())
        }));
        results.await.into_iter().collect()
    }

    async fn write_status(&self, rs: &K, new: status::NewStatus) -> Result<(), Status> {
        if rs.view().status.as_ref() == Some(&new) {
            return Ok(());
        }
        match self.client.update_status(&rs.with_status(new.clone())).await {
            // once more on the newest (upstream: `statusUpdateRetries`)
            Err(e) if e.is_conflict() => {
                let fresh: K = self.client.get(rs.namespace(), rs.name()).await?;
                self.client.update_status(&fresh.with_status(new)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

#[async_trait]
impl<K: Managed> Reconcile for ReplicaSetController<K> {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(rs) = self.replica_sets.store().get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(After::Done);
        };
        // asked before looking at pods, so that what is seen after cannot be acted on twice
        let may_act = self.expectations.satisfied(key);
        let (active, terminating) = self.claimed(&rs).await?;
        let view = rs.view();
        let mut failure = None;
        if may_act && !rs.is_deleting() {
            let related = || self.related(&rs);
            let decided = plan(&World {
                replica_set: &view,
                active: &active,
                related: &related,
                now: self.clock.now(),
            });
            failure = match decided {
                Plan::Nothing => Ok(()),
                Plan::Create(count) => self.create(key, &rs, count).await,
                Plan::Delete(victims) => self.delete(key, &rs, &victims).await,
            }
            .err();
        }
        let mut new =
            status::calculate(&view, &active, terminating.len(), failure.as_ref(), self.clock.now());
        new.terminating_replicas.take_if(|_| !K::COUNTS_TERMINATING);
        self.write_status(&rs, new.clone()).await?;
        if let Some(e) = failure {
            return Err(e.into());
        }
        Ok(wait_for_availability(&view, &active, &new, &self.clock).map_or(After::Done, After::Again))
    }
}

/// With minReadySeconds a pod becomes available without an event.
fn wait_for_availability(
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    status: &status::NewStatus,
    clock: &SharedClock,
) -> Option<Duration> {
    let min = rs.spec.min_ready_seconds.filter(|s| *s > 0)?;
    if status.ready_replicas.unwrap_or(0) == status.available_replicas.unwrap_or(0) {
        return None;
    }
    let now = clock.now();
    let waits = active.iter().filter_map(|p| pods::until_available(p, min, now)).filter(|d| !d.is_zero());
    Some(
        waits
            .min()
            .unwrap_or(Duration::from_secs(u64::try_from(min).unwrap_or(1)))
            .max(Duration::from_millis(10)),
    )
}

/// Metadata of pods made from a template.
fn pod_meta(template: Option<&ObjectMeta>, rs: &ReplicaSet, owner: OwnerReference) -> ObjectMeta {
    let template = template.cloned().unwrap_or_default();
    ObjectMeta {
        generate_name: Some(format!("{}-", rs.name())),
        namespace: Some(rs.namespace().to_owned()),
        labels: template.labels,
        annotations: template.annotations,
        finalizers: template.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use client::fake::FakeApi;
    use serde_json::json;

    async fn until(what: &str, check: impl Fn() -> bool) {
        for _ in 0..500 {
            if check() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test]
    async fn pods_are_made_adopted_and_deleted() {
        let api = Arc::new(FakeApi::new());
        let labels = json!({"a": "1"});
        api.seed("/api/v1/namespaces/n/pods", &json!({
            "metadata": {"name": "orphan", "namespace": "n", "labels": labels}, "status": {"phase": "Running"},
        }));
        let rs = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"replicas": 5,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": []}}}});
        api.seed("/apis/apps/v1/namespaces/n/replicasets", &rs);
        let setup = Setup::of_fake(&api, SystemClock::shared());
        let handle = start::<ReplicaSet>(&setup);
        let status = || api.object("/apis/apps/v1/namespaces/n/replicasets/r").unwrap()["status"].clone();
        until("five replicas", || status()["replicas"] == 5).await;
        let pods = api.objects("/api/v1/namespaces/n/pods");
        assert_eq!(pods.len(), 5);
        assert!(pods.iter().all(|p| p["metadata"]["ownerReferences"][0]["name"] == "r"), "{pods:?}");
        let client = setup.client("");
        let patch = client::Patch::Merge(json!({"spec": {"replicas": 2}}));
        client.patch::<ReplicaSet>("n", "r", None, patch).await.unwrap();
        until("two replicas", || status()["replicas"] == 2).await;
        let left = api.objects("/api/v1/namespaces/n/pods");
        assert_eq!(left.len(), 2);
        // unassigned and pending pods went first
        assert!(left.iter().any(|p| p["metadata"]["name"] == "orphan"));
        setup.cancel.cancel();
        handle.stopped().await;
    }
}
