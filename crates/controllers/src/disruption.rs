//! Pod disruption budgets: how many of their pods are healthy, and how many may be disrupted now.
//!
//! Invariant: where the pods of a budget cannot be counted, none of them may be disrupted.
//! upstream: `pkg/controller/disruption`

mod plan;
mod scale;
#[cfg(test)]
mod tests;

use crate::common::{select, time};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Queue, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::{Change, Informer};
use client::{Client, Kind};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodCondition, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use meta::Status;
use meta::selector::LabelSelector;
use scale::Workloads;
use std::sync::Arc;

/// Upstream: `ConcurrentDisruptionSyncs` is 5; the pods with stale conditions have a worker of their own.
const WORKERS: usize = 6;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Budget(ObjectKey),
    /// A pod whose announced disruption may not come.
    Pod(ObjectKey),
}

struct DisruptionController {
    client: Client,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    workloads: Workloads,
    recorder: Recorder,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let client = setup.client("disruption-controller");
    let (budgets, pods) = (setup.informers.of::<PodDisruptionBudget>(), setup.informers.of::<Pod>());
    let workloads = Workloads {
        client: client.clone(),
        deployments: setup.informers.of::<Deployment>(),
        replica_sets: setup.informers.of::<ReplicaSet>(),
        replication_controllers: setup.informers.of::<ReplicationController>(),
        stateful_sets: setup.informers.of::<StatefulSet>(),
    };
    let this = Arc::new(DisruptionController {
        recorder: setup.recorder(&client, "controllermanager"),
        client,
        budgets: budgets.clone(),
        pods: pods.clone(),
        workloads,
        clock: setup.clock.clone(),
    });
    let (of_pods, of_workloads) = (this.clone(), this.clone());
    let w = &of_workloads.workloads;
    Controller::new("disruption", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&budgets, |c, q| {
            c.latest().into_iter().for_each(|b| q.add(Work::Budget(ObjectKey::of(&**b))));
        })
        .watches(&pods, move |c, q| of_pods.pod_changed(c, q))
        .needs(&w.deployments)
        .needs(&w.replica_sets)
        .needs(&w.replication_controllers)
        .needs(&w.stateful_sets)
        .start(setup.cancel.clone())
}

/// The pods that a budget is for. No selector selects none, an empty one all of the namespace.
fn selector_of(budget: &PodDisruptionBudget) -> LabelSelector {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.map_or_else(LabelSelector::nothing, select::selector)
}

impl DisruptionController {
    fn budgets_of(&self, pod: &Pod) -> Vec<Arc<PodDisruptionBudget>> {
        let mut all = self.budgets.store().by_namespace(pod.namespace());
        all.retain(|b| select::matches(&selector_of(b), pod.metadata.labels.as_ref()));
        all
    }

    fn pod_changed(&self, change: &Change<Pod>, queue: &Queue<Work>) {
        let Some(pod) = change.latest() else { return };
        let budgets = self.budgets_of(pod);
        if let [first, _, ..] = &budgets[..]
            && change.new.is_some()
        {
            let (ns, name, chosen) = (pod.namespace(), pod.name(), first.name());
            let text = format!(
                "Pod {ns:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {chosen:?} arbitrarily."
            );
            self.recorder.event(&reference(&**pod), EventType::Warning, "MultiplePodDisruptionBudgets", text);
        }
        // a pod that changed its labels is missed by those that it was of
        let before = change.old.as_ref().filter(|o| o.metadata.labels != pod.metadata.labels);
        let before = before.map(|o| self.budgets_of(o)).unwrap_or_default();
        for budget in budgets.iter().chain(&before) {
            queue.add(Work::Budget(ObjectKey::of(&**budget)));
        }
        if change.new.is_some()
            && let Some(wait) = plan::believed_for(pod, self.clock.now())
        {
            queue.add_after(Work::Pod(ObjectKey::of(&**pod)), wait);
        }
    }

    /// upstream: `trySync`
    async fn count(&self, budget: &PodDisruptionBudget) -> Result<After, Error> {
        let Some(spec) = &budget.spec else { return Ok(After::Done) };
        let selector = selector_of(budget);
        let mut pods = self.pods.store().by_namespace(budget.namespace());
        pods.retain(|p| select::matches(&selector, p.metadata.labels.as_ref()));
        let about = reference(budget);
        if pods.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let mut scale = scale::Scale::default();
        if plan::needs_scale(spec) {
            scale = self.workloads.scale(&pods).await.inspect_err(|e| {
                let text = format!("Failed to calculate the number of expected pods: {e}");
                self.recorder.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", text);
            })?;
        }
        if !scale.unmanaged.is_empty() {
            let text = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, \
                 the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To \
                 account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                plan::selector_text(spec.selector.as_ref())
            );
            self.recorder.event(&about, EventType::Warning, "UnmanagedPods", text);
        }
        let now = self.clock.now();
        let expected = plan::expected(spec, pods.len(), scale.pods);
        let disrupted = plan::disrupted(&pods, budget, now);
        for pod in &disrupted.not_deleted {
            // the namespace twice, as upstream has it
            let ns = budget.namespace();
            let text = format!("Pod was expected by PDB {ns}/{ns} to be deleted but it wasn't");
            self.recorder.event(&reference(&**pod), EventType::Warning, "NotDeleted", text);
        }
        let healthy = plan::healthy(&pods, &disrupted.pods, now);
        if let Some(status) = plan::status(budget, healthy, expected, disrupted.pods, now) {
            let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
            self.client.update_status(&new).await?;
        }
        Ok(disrupted.recheck.map_or(After::Done, After::Again))
    }

    async fn budget(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(budget) = self.budgets.store().get(&key.namespace, &key.name) else {
            return Ok(After::Done);
        };
        let why = match self.count(&budget).await {
            Err(e) if !e.downcast_ref::<Status>().is_some_and(Status::is_conflict) => e,
            other => return other,
        };
        tracing::warn!(budget = %key, "pods not counted: {why}");
        let old = budget.status.clone().unwrap_or_default();
        let status = plan::failed(&old, &why.to_string(), self.clock.now());
        let new = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
        self.client.update_status(&new).await?;
        Ok(After::Done)
    }

    /// upstream: `syncStalePodDisruption`
    async fn pod(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(pod) = self.pods.store().get(&key.namespace, &key.name) else { return Ok(After::Done) };
        let now = self.clock.now();
        match plan::believed_for(&pod, now) {
            None => return Ok(After::Done),
            Some(left) if !left.is_zero() => return Ok(After::Again(left)),
            Some(_) => {}
        }
        let mut new = (*pod).clone();
        let list = new.status.get_or_insert_default().conditions.get_or_insert_default();
        let cleared = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "False".into(),
            last_transition_time: Some(time(now)),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        if let Some(condition) = list.iter_mut().find(|c| c.type_ == cleared.type_) {
            *condition = cleared;
        }
        self.client.update_status(&new).await?;
        Ok(After::Done)
    }
}

#[async_trait]
impl Reconcile for DisruptionController {
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<After, Error> {
        match work {
            Work::Budget(key) => self.budget(key).await,
            Work::Pod(key) => self.pod(key).await,
        }
    }
}
