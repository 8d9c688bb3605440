//! How the replica sets of a deployment are sized (upstream: `rolling.go`, `recreate.go`, `sync.go#scale`).

use super::plan::Draft;
use super::{status, util};
use crate::common::{pods, scaled};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Reverse;
use std::sync::Arc;

fn sum<'a>(sets: impl Iterator<Item = &'a ReplicaSet>, of: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.map(of).sum()
}

impl Draft {
    /// The size to which the new replica set may grow now (upstream: `NewRSNewReplicas`).
    pub(super) fn size_of_new(&self) -> i32 {
        let Some(new) = self.new_set() else { return 0 };
        let (desired, size) = (util::desired(&self.d), util::spec_replicas(new));
        if !util::is_rolling(&self.d) {
            return desired;
        }
        let rolling = self.d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let most = desired + scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired, true);
        let room = most - sum(self.all(), util::spec_replicas);
        if room <= 0 { size } else { size + room.min(desired - size) }
    }

    /// One step of a rolling update.
    pub(super) fn roll(&mut self) {
        if !self.grow_new() && !self.shrink_old() && self.is_complete_now() {
            self.clean_up();
        }
        status::sync_rollout(self);
    }

    fn is_complete_now(&self) -> bool {
        self.d.status.as_ref().is_some_and(|s| status::is_complete(&self.d, s))
    }

    fn grow_new(&mut self) -> bool {
        let Some(i) = self.new else { return false };
        let (desired, size) = (util::desired(&self.d), util::spec_replicas(&self.members[i].rs));
        if size == desired {
            return false;
        }
        let target = if size > desired { desired } else { self.size_of_new() };
        // annotations are only written along with a change of size
        target != size && self.resize(i, target)
    }

    /// Scales old replica sets down as far as availability allows: first the pods that are not available anyhow
    /// (upstream: `reconcileOldReplicaSets`).
    fn shrink_old(&mut self) -> bool {
        let mut old = self.active_old();
        let Some(new) = self.new_set() else { return false };
        if old.is_empty() {
            return false;
        }
        let min_available = util::desired(&self.d) - util::max_unavailable(&self.d);
        let new_unavailable = util::spec_replicas(new) - util::available(new);
        let room = sum(self.all(), util::spec_replicas) - min_available - new_unavailable;
        if room <= 0 {
            return false;
        }
        old.sort_by(|a, b| util::by_age(&self.members[*a].rs, &self.members[*b].rs));
        let mut total = 0;
        for i in &old {
            let rs = &self.members[*i].rs;
            let size = util::spec_replicas(rs);
            let cut = (room - total).min(size - util::available(rs));
            if cut > 0 {
                self.resize(*i, size - cut);
                total += cut;
            }
        }
        let spare = sum(self.all(), util::available) - min_available;
        let mut cut_available = 0;
        for i in old {
            let size = util::spec_replicas(&self.members[i].rs);
            let cut = size.min(spare - cut_available);
            if cut > 0 {
                self.resize(i, size - cut);
                cut_available += cut;
            }
        }
        total + cut_available.max(0) > 0
    }

    /// All old pods go before the new replica set comes.
    pub(super) fn recreate(&mut self, pods: &[(String, Arc<Pod>)]) {
        let mut shrunk = false;
        for i in self.active_old() {
            shrunk |= self.resize(i, 0);
        }
        if !shrunk && !self.old_pods_run(pods) {
            if self.new.is_none() {
                self.note_or_make_new();
            }
            if let Some(i) = self.new
                && util::spec_replicas(&self.members[i].rs) != util::desired(&self.d)
            {
                self.resize(i, util::desired(&self.d));
            }
            if self.is_complete_now() {
                self.clean_up();
            }
        }
        status::sync_rollout(self);
    }

    fn old_pods_run(&self, pods: &[(String, Arc<Pod>)]) -> bool {
        let new_uid = self.new_set().and_then(|rs| rs.metadata.uid.as_deref());
        sum(self.old(), util::actual) > 0
            || pods.iter().any(|(owner, pod)| Some(owner.as_str()) != new_uid && !pods::is_terminal(pod))
    }

    /// Whether the desired number changed since the replica sets were last sized.
    pub(super) fn is_scaling(&self) -> bool {
        let desired = util::desired(&self.d);
        let differs = |i: usize| util::replicas_annotation(&self.members[i].rs, util::DESIRED_REPLICAS);
        self.active().into_iter().filter_map(differs).any(|n| n != desired)
    }

    /// Scaling without a rollout step, and all that a paused deployment gets (upstream: `sync`).
    pub(super) fn scale_only(&mut self) {
        self.note_new();
        self.scale();
        if self.d.spec.paused == Some(true) && util::rollback_to(&self.d).is_none() {
            self.clean_up();
        }
        status::sync(self);
    }

    fn scale(&mut self) {
        let desired = util::desired(&self.d);
        let active = self.active();
        if active.len() <= 1 {
            let newest = |d: &Self| {
                (0..d.members.len()).max_by(|a, b| util::by_age(&d.members[*a].rs, &d.members[*b].rs))
            };
            let Some(i) = active.first().copied().or(self.new).or_else(|| newest(self)) else { return };
            if util::spec_replicas(&self.members[i].rs) != desired {
                self.resize(i, desired);
            }
            return;
        }
        if self.new_is_saturated() {
            for i in self.active_old() {
                self.resize(i, 0);
            }
        } else if util::is_rolling(&self.d) {
            self.scale_in_proportion(active);
        }
    }

    fn new_is_saturated(&self) -> bool {
        let desired = util::desired(&self.d);
        self.new_set().is_some_and(|rs| {
            util::spec_replicas(rs) == desired
                && util::available(rs) == desired
                && util::replicas_annotation(rs, util::DESIRED_REPLICAS) == Some(desired)
        })
    }

    /// In the middle of a rollout each replica set gets its share of the change; what rounding leaves goes to the first.
    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let desired = util::desired(&self.d);
        let allowed = if desired > 0 { desired + util::max_surge(&self.d) } else { 0 };
        let to_add = allowed - sum(self.all(), util::spec_replicas);
        let members = &self.members;
        active.sort_by(|a, b| {
            let (a, b) = (&members[*a].rs, &members[*b].rs);
            let size = |rs: &ReplicaSet| Reverse(util::spec_replicas(rs));
            let age = if to_add > 0 { util::by_age(b, a) } else { util::by_age(a, b) };
            size(a).cmp(&size(b)).then(age)
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for i in &active {
            let share = self.share(&self.members[*i].rs, to_add, added);
            added += share;
            sizes.push(util::spec_replicas(&self.members[*i].rs) + share);
        }
        if to_add != 0
            && let Some(first) = sizes.first_mut()
        {
            *first = (*first + to_add - added).max(0);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.resize(i, size);
        }
    }

    /// Upstream: `GetReplicaSetProportion`.
    fn share(&self, rs: &ReplicaSet, to_add: i32, added: i32) -> i32 {
        let size = util::spec_replicas(rs);
        if size == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let desired = util::desired(&self.d);
        let fraction = if desired == 0 {
            -size
        } else {
            let status = self.d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            let before =
                util::replicas_annotation(rs, util::MAX_REPLICAS).filter(|n| *n != 0).unwrap_or(status);
            if before == 0 {
                0
            } else {
                let grown =
                    f64::from(size) * f64::from(desired + util::max_surge(&self.d)) / f64::from(before);
                grown.round() as i32 - size
            }
        };
        let left = to_add - added;
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }
}
