//! What a deployment needs next, decided without I/O.

use super::status;
use super::util;
use client::Kind;
use client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::sync::Arc;
use std::time::Duration;

/// All that a decision depends on.
pub struct World {
    pub deployment: Deployment,
    /// The replica sets that the deployment owns.
    pub replica_sets: Vec<ReplicaSet>,
    /// The pods of those, each with its replica set's uid; only needed for Recreate.
    pub pods: Vec<(String, Arc<Pod>)>,
    pub now: Timestamp,
}

/// A write or an event.
#[derive(Debug)]
pub enum Action {
    Create { replica_set: Box<ReplicaSet>, event: Option<String> },
    Update { replica_set: Box<ReplicaSet>, event: Option<String> },
    Delete { name: String },
    UpdateStatus(Box<Deployment>),
    UpdateSpec(Box<Deployment>),
    Event { kind: EventType, reason: &'static str, message: String },
}

#[derive(Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Decide again after this time, even if nothing changes.
    pub again: Option<Duration>,
}

/// A replica set being decided about.
pub(super) struct Member {
    pub(super) rs: ReplicaSet,
    pub(super) before: Option<ReplicaSet>,
    event: Option<String>,
}

/// The state of a decision: what is there, with the changes decided so far.
pub(super) struct Draft {
    pub(super) d: Deployment,
    pub(super) before: Deployment,
    pub(super) members: Vec<Member>,
    /// Index of the replica set of the present template.
    pub(super) new: Option<usize>,
    pub(super) now: Timestamp,
    /// Members in the order in which they were touched.
    touched: Vec<usize>,
    deletions: Vec<String>,
    events: Vec<Action>,
    again: Option<Duration>,
}

/// Decides (upstream: `syncDeployment`).
pub fn plan(world: World) -> Plan {
    let World { deployment, mut replica_sets, pods, now } = world;
    let selects_all = deployment.spec.selector == LabelSelector::default();
    replica_sets.sort_by(util::by_age);
    let new = replica_sets
        .iter()
        .position(|rs| util::same_template(&util::template(rs), &deployment.spec.template));
    let members =
        replica_sets.into_iter().map(|rs| Member { before: Some(rs.clone()), rs, event: None }).collect();
    let mut draft = Draft {
        before: deployment.clone(),
        d: deployment,
        members,
        new,
        now,
        touched: Vec::new(),
        deletions: Vec::new(),
        events: Vec::new(),
        again: None,
    };
    if selects_all {
        draft.selects_all();
        return draft.finish();
    }
    if draft.d.metadata.deletion_timestamp.is_some() {
        draft.note_new();
        status::sync(&mut draft);
        return draft.finish();
    }
    status::check_paused(&mut draft);
    if draft.d.spec.paused == Some(true) {
        draft.scale_only();
    } else if let Some(revision) = util::rollback_to(&draft.d) {
        draft.rollback(revision);
        return draft.finish();
    } else if draft.is_scaling() {
        draft.scale_only();
    } else if util::is_rolling(&draft.d) {
        draft.note_or_make_new();
        draft.roll();
    } else {
        draft.note_new();
        draft.recreate(&pods);
    }
    draft.finish()
}

/// The deployment after a name collision.
pub(super) fn bump_collisions(d: &Deployment) -> Deployment {
    let mut d = d.clone();
    let status = d.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    d
}

/// The deployment after its new replica set could not be made, when it has a progress condition.
pub(super) fn creation_failed(d: &Deployment, message: &str, now: Timestamp) -> Option<Deployment> {
    let mut d = d.clone();
    if !util::has_progress_deadline(&d) {
        return None;
    }
    let c = status::condition("Progressing", "False", "ReplicaSetCreateError", message, now);
    status::set(d.status.get_or_insert_default(), c);
    Some(d)
}

impl Draft {
    pub(super) fn old(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.members.iter().enumerate().filter(|(i, _)| Some(*i) != self.new).map(|(_, m)| &m.rs)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.members.iter().map(|m| &m.rs)
    }

    pub(super) fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|i| &self.members[i].rs)
    }

    /// Indexes of replica sets that have or want pods.
    pub(super) fn active(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| util::spec_replicas(&self.members[*i].rs) > 0).collect()
    }

    pub(super) fn active_old(&self) -> Vec<usize> {
        self.active().into_iter().filter(|i| Some(*i) != self.new).collect()
    }

    fn touch(&mut self, i: usize) {
        if !self.touched.contains(&i) {
            self.touched.push(i);
        }
    }

    pub(super) fn again(&mut self, after: Duration) {
        self.again = Some(after);
    }

    fn event(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.events.push(Action::Event { kind, reason, message });
    }

    /// The replica set of the present template takes the deployment's annotations and the next revision
    /// (upstream: first half of `getNewReplicaSet`).
    pub(super) fn note_new(&mut self) {
        let Some(i) = self.new else { return };
        let revision = self.next_revision();
        let min_ready = self.d.spec.min_ready_seconds;
        let rs = &mut self.members[i].rs;
        let annotated = util::annotate(&self.d, rs, revision, true);
        let spec = &mut rs.spec;
        if annotated || spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            spec.min_ready_seconds = min_ready;
            self.touch(i);
        }
        let (name, revision) = {
            let rs = &self.members[i].rs;
            (rs.name().to_owned(), rs.annotation(util::REVISION).unwrap_or("").to_owned())
        };
        util::annotations(&mut self.d.metadata).insert(util::REVISION.to_owned(), revision);
        if util::has_progress_deadline(&self.d)
            && status::get(self.d.status.as_ref(), "Progressing").is_none()
        {
            let message = format!("Found new replica set {name:?}");
            let c = status::condition("Progressing", "True", "FoundNewReplicaSet", &message, self.now);
            status::set(self.d.status.get_or_insert_default(), c);
        }
    }

    fn next_revision(&self) -> i64 {
        self.old().filter_map(util::revision).max().unwrap_or(0).max(0) + 1
    }

    /// As [`Self::note_new`], or makes the replica set when there is none.
    pub(super) fn note_or_make_new(&mut self) {
        if self.new.is_some() {
            return self.note_new();
        }
        let collisions = self.d.status.as_ref().and_then(|s| s.collision_count);
        let mut template = self.d.spec.template.clone();
        let hash = util::template_hash(&template, collisions);
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(util::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.d.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(util::HASH_LABEL.to_owned(), hash.clone());
        let revision = self.next_revision();
        let mut rs = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(util::replica_set_name(self.d.name(), &hash)),
                namespace: Some(self.d.namespace().to_owned()),
                owner_references: Some(vec![self.d.controller_ref()]),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: self.d.spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        util::annotate(&self.d, &mut rs, revision, false);
        let name = rs.name().to_owned();
        self.members.push(Member { rs, before: None, event: None });
        let i = self.members.len() - 1;
        self.new = Some(i);
        let size = self.size_of_new();
        self.members[i].rs.spec.replicas = Some(size);
        if size > 0 {
            self.members[i].event = Some(format!("Scaled up replica set {name} from 0 to {size}"));
        }
        self.touch(i);
        util::annotations(&mut self.d.metadata).insert(util::REVISION.to_owned(), revision.to_string());
        if util::has_progress_deadline(&self.d) {
            let message = format!("Created new replica set {name:?}");
            let c = status::condition("Progressing", "True", "NewReplicaSetCreated", &message, self.now);
            status::set(self.d.status.get_or_insert_default(), c);
        }
    }

    /// Scales one replica set and says whether its size changed (upstream: `scaleReplicaSet`).
    pub(super) fn resize(&mut self, i: usize, size: i32) -> bool {
        let rs = &mut self.members[i].rs;
        let before = util::spec_replicas(rs);
        let mut changed = util::set_replicas_annotations(rs, &self.d);
        if before != size {
            rs.spec.replicas = Some(size);
            let way = if before < size { "up" } else { "down" };
            let event = format!("Scaled {way} replica set {} from {before} to {size}", rs.name());
            self.members[i].event = Some(event);
            changed = true;
        }
        if changed {
            self.touch(i);
        }
        before != size
    }

    /// Deletes replica sets of old revisions beyond the history limit (upstream: `cleanupDeployment`).
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.d.spec.revision_history_limit.filter(|l| *l != i32::MAX) else { return };
        let mut old: Vec<&ReplicaSet> = self.old().filter(|rs| !rs.is_deleting()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by(|a, b| match (util::revision(a), util::revision(b)) {
            (Some(x), Some(y)) if x != y => x.cmp(&y),
            _ => util::by_age(a, b),
        });
        let idle = |rs: &&&ReplicaSet| {
            let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            util::actual(rs) == 0
                && util::spec_replicas(rs) == 0
                && rs.metadata.generation.unwrap_or(0) <= observed
        };
        let names: Vec<String> =
            old.iter().take(surplus).filter(idle).map(|rs| rs.name().to_owned()).collect();
        self.deletions.extend(names);
    }

    fn selects_all(&mut self) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.event(EventType::Warning, "SelectingAll", message.to_owned());
        let generation = self.d.metadata.generation;
        let status = self.d.status.get_or_insert_default();
        if status.observed_generation.unwrap_or(0) < generation.unwrap_or(0) {
            status.observed_generation = generation;
        }
    }

    /// Goes back to an earlier revision's template (upstream: `rollback`).
    fn rollback(&mut self, wanted: i64) {
        self.note_or_make_new();
        let mut revisions: Vec<i64> = self.all().filter_map(util::revision).collect();
        revisions.sort_unstable();
        let last = revisions.len().checked_sub(2).map_or(0, |i| revisions[i]);
        let revision = if wanted == 0 { last } else { wanted };
        let found = self.all().find(|rs| revision != 0 && util::revision(rs) == Some(revision)).cloned();
        match found {
            None => {
                let text = if revision == 0 {
                    "Unable to find last revision."
                } else {
                    "Unable to find the revision to rollback to."
                };
                self.event(EventType::Warning, "DeploymentRollbackRevisionNotFound", text.to_owned());
            }
            Some(rs) if util::same_template(&util::template(&rs), &self.d.spec.template) => {
                let name = self.d.name();
                let text = format!(
                    "The rollback revision contains the same template as current deployment {name:?}"
                );
                self.event(EventType::Warning, "DeploymentRollbackTemplateUnchanged", text);
            }
            Some(rs) => {
                let mut template = util::template(&rs);
                if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
                    labels.remove(util::HASH_LABEL);
                }
                self.d.spec.template = template;
                let map = util::annotations(&mut self.d.metadata);
                map.retain(|k, _| util::is_ours(k));
                let theirs = rs.metadata.annotations.iter().flatten().filter(|(k, _)| !util::is_ours(k));
                map.extend(theirs.map(|(k, v)| (k.clone(), v.clone())));
                let text = format!("Rolled back deployment {:?} to revision {revision}", self.d.name());
                self.event(EventType::Normal, "DeploymentRollback", text);
            }
        }
        util::annotations(&mut self.d.metadata).remove(util::ROLLBACK_TO);
    }

    /// The decided changes as writes.
    fn finish(self) -> Plan {
        let mut actions = Vec::new();
        let mut members: Vec<Option<Member>> = self.members.into_iter().map(Some).collect();
        for i in self.touched {
            let Some(Member { rs, before, event }) = members[i].take() else { continue };
            match before {
                None => actions.push(Action::Create { replica_set: Box::new(rs), event }),
                Some(b) if b != rs => actions.push(Action::Update { replica_set: Box::new(rs), event }),
                Some(_) => {}
            }
        }
        actions.extend(self.deletions.into_iter().map(|name| Action::Delete { name }));
        if self.d.spec != self.before.spec
            || self.d.annotation(util::ROLLBACK_TO) != self.before.annotation(util::ROLLBACK_TO)
        {
            actions.push(Action::UpdateSpec(Box::new(self.d)));
        } else if self.d != self.before {
            actions.push(Action::UpdateStatus(Box::new(self.d)));
        }
        actions.extend(self.events);
        Plan { actions, again: self.again }
    }
}
