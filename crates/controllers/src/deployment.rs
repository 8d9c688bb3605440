//! Deployments: one replica set per pod template, scaled up and down against each other.
//!
//! Invariant: at no step are there more pods than desired plus surge, nor fewer available than desired minus
//! maxUnavailable, as far as this controller decides it.
//! upstream: `pkg/controller/deployment`

mod plan;
mod scale;
mod status;
#[cfg(test)]
mod tests;
pub mod util;

pub use plan::{Action, Plan, World, plan};

use crate::common::{claim, select};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use meta::Status;
use std::sync::Arc;

const WORKERS: usize = 5;

struct DeploymentController {
    client: Client,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let deployments = setup.informers.of::<Deployment>();
    let replica_sets = setup.informers.of::<ReplicaSet>();
    let pods = setup.informers.of::<Pod>();
    let client = setup.client("deployment-controller");
    let this = Arc::new(DeploymentController {
        recorder: setup.recorder(&client, "deployment-controller"),
        client,
        deployments: deployments.clone(),
        replica_sets: replica_sets.clone(),
        pods: pods.clone(),
        clock: setup.clock.clone(),
    });
    let (for_sets, for_pods) = (this.clone(), this.clone());
    Controller::new("deployment", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&deployments, |c, q| c.latest().into_iter().for_each(|d| q.add(ObjectKey::of(&**d))))
        .watches(&replica_sets, move |c, q| {
            for rs in c.old.iter().chain(&c.new) {
                for_sets.owners_of(rs).into_iter().for_each(|k| q.add(k));
            }
        })
        .watches(&pods, move |c, q| {
            // only a Recreate rollout waits for pods to be gone
            if let (Some(pod), None) = (&c.old, &c.new)
                && let Some(owner) = pod.controller()
                && let Some(rs) = for_pods.replica_sets.store().get(pod.namespace(), &owner.name)
            {
                for_pods.owners_of(&rs).into_iter().for_each(|k| q.add(k));
            }
        })
        .start(setup.cancel.clone())
}

impl DeploymentController {
    /// The deployments that a replica set belongs to, or may be adopted by.
    fn owners_of(&self, rs: &ReplicaSet) -> Vec<ObjectKey> {
        match rs.controller() {
            Some(owner) if owner.kind == Deployment::KIND => {
                vec![ObjectKey::new(rs.namespace(), &owner.name)]
            }
            Some(_) => Vec::new(),
            None => {
                let all = self.deployments.store().by_namespace(rs.namespace());
                let fits = |d: &&Arc<Deployment>| {
                    let s = select::selector(&d.spec.selector);
                    !s.is_empty() && select::matches(&s, rs.metadata.labels.as_ref())
                };
                all.iter().filter(fits).map(|d| ObjectKey::of(&**d)).collect()
            }
        }
    }

    async fn claimed(&self, d: &Deployment) -> Result<Vec<ReplicaSet>, Status> {
        let candidates = self.replica_sets.store().by_namespace(d.namespace());
        let claims = claim::plan(&d.metadata, &select::selector(&d.spec.selector), candidates);
        let owned = claim::apply(&self.client, d, claims).await?;
        Ok(owned.into_iter().map(|rs| (*rs).clone()).collect())
    }

    async fn execute(&self, d: &Deployment, action: Action) -> Result<(), Status> {
        let about = reference(d);
        match action {
            Action::Create { replica_set, event } => self.create(d, &replica_set, event).await,
            Action::Update { replica_set, event } => {
                self.client.update(&*replica_set).await?;
                if let Some(text) = event {
                    self.recorder.event(&about, EventType::Normal, "ScalingReplicaSet", text);
                }
                Ok(())
            }
            Action::Delete { name } => {
                match self.client.delete::<ReplicaSet>(d.namespace(), &name, &DeleteOptions::default()).await
                {
                    Err(e) if e.is_not_found() => Ok(()),
                    other => other,
                }
            }
            Action::UpdateStatus(new) => self.client.update_status(&*new).await.map(drop),
            Action::UpdateSpec(new) => self.client.update(&*new).await.map(drop),
            Action::Event { kind, reason, message } => {
                self.recorder.event(&about, kind, reason, message);
                Ok(())
            }
        }
    }

    async fn create(&self, d: &Deployment, rs: &ReplicaSet, event: Option<String>) -> Result<(), Status> {
        let error = match self.client.create(rs).await {
            Ok(_) => {
                if let Some(text) = event {
                    self.recorder.event(&reference(d), EventType::Normal, "ScalingReplicaSet", text);
                }
                return Ok(());
            }
            Err(e) => e,
        };
        if error.is_already_exists() {
            let there: ReplicaSet = self.client.get(d.namespace(), rs.name()).await?;
            let ours = there.controller().is_some_and(|c| c.uid == d.uid());
            if ours && util::same_template(&util::template(&there), &d.spec.template) {
                return Ok(());
            }
            // another template has this hash: the next attempt uses another one
            self.client.update_status(&plan::bump_collisions(d)).await?;
            return Err(error);
        }
        if is_terminating_namespace(&error) {
            return Err(error);
        }
        let message = format!("Failed to create new replica set {:?}: {error}", rs.name());
        if let Some(new) = plan::creation_failed(d, &message, self.clock.now()) {
            // the failure itself is what is reported
            let _ = self.client.update_status(&new).await;
        }
        self.recorder.event(&reference(d), EventType::Warning, "ReplicaSetCreateError", message);
        Err(error)
    }
}

/// Whether a creation failed because its namespace is going away, so that trying again is useless.
pub(crate) fn is_terminating_namespace(e: &Status) -> bool {
    e.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "NamespaceTerminating")
}

#[async_trait]
impl Reconcile for DeploymentController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(deployment) = self.deployments.store().get(&key.namespace, &key.name) else {
            return Ok(After::Done);
        };
        let replica_sets = self.claimed(&deployment).await?;
        let mut old_pods = Vec::new();
        if !util::is_rolling(&deployment) {
            for rs in &replica_sets {
                old_pods.extend(
                    self.pods.store().by_owner(rs.uid()).into_iter().map(|p| (rs.uid().to_owned(), p)),
                );
            }
        }
        let world =
            World { deployment: (*deployment).clone(), replica_sets, pods: old_pods, now: self.clock.now() };
        let Plan { actions, again } = plan(world);
        for action in actions {
            self.execute(&deployment, action).await?;
        }
        Ok(again.map_or(After::Done, After::Again))
    }
}
