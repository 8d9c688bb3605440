//! What a disruption budget's status says, from its pods and their expected number. Pure.
//!
//! upstream: `pkg/controller/disruption/disruption.go`

use crate::common::{pods, scaled};
use client::Kind;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinds::policy::{DISRUPTION_ALLOWED, tell_disruption, tell_disruption_allowed};
use meta::time::rfc3339;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// How long an evicted pod may take to be marked for deletion (upstream: `DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// How long a pod's condition may announce a disruption that does not come (upstream: `stalePodDisruptionTimeout`).
const STALE_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// Pods of which an eviction was granted that are not yet being deleted.
#[derive(Debug, Default)]
pub struct Disrupted {
    pub pods: BTreeMap<String, Time>,
    /// The first of them that is not believed any more after this time.
    pub recheck: Option<Duration>,
    /// Those that are not believed any more now.
    pub not_deleted: Vec<Arc<Pod>>,
}

/// How many pods there should be, and how many of them healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub pods: i32,
    pub healthy: i32,
}

/// Whether the number of pods is to be learned from what controls them.
pub fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// `scale` is the sum over what controls the pods, where [`needs_scale`] says that it counts
/// (upstream: `getExpectedPodCount`).
pub fn expected(spec: &PodDisruptionBudgetSpec, selected: usize, scale: i32) -> Expected {
    if spec.max_unavailable.is_some() {
        let unavailable = scaled(spec.max_unavailable.as_ref(), scale, true);
        return Expected { pods: scale, healthy: scale.saturating_sub(unavailable).max(0) };
    }
    match &spec.min_available {
        Some(IntOrString::Int(n)) => {
            Expected { pods: i32::try_from(selected).unwrap_or(i32::MAX), healthy: *n }
        }
        percent @ Some(_) => Expected { pods: scale, healthy: scaled(percent.as_ref(), scale, true) },
        None => Expected::default(),
    }
}

/// Forgets granted evictions that came true, or did not in time (upstream: `buildDisruptedPodMap`).
pub fn disrupted(all: &[Arc<Pod>], budget: &PodDisruptionBudget, now: Timestamp) -> Disrupted {
    let mut out = Disrupted::default();
    let Some(granted) = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()) else { return out };
    for pod in all.iter().filter(|p| !p.is_deleting()) {
        let Some(at) = granted.get(pod.name()) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(at.0);
        if left.is_negative() {
            out.not_deleted.push(pod.clone());
            continue;
        }
        let left = Duration::try_from(left).unwrap_or_default();
        out.recheck = Some(out.recheck.map_or(left, |r| r.min(left)));
        out.pods.insert(pod.name().to_owned(), at.clone());
    }
    out
}

/// Ready pods that nobody is about to take away (upstream: `countHealthyPods`).
pub fn healthy(all: &[Arc<Pod>], disrupted: &BTreeMap<String, Time>, now: Timestamp) -> i32 {
    let expected_to_go =
        |p: &Pod| disrupted.get(p.name()).is_some_and(|at| now.duration_since(at.0) < DELETION_TIMEOUT);
    let count = all.iter().filter(|p| !p.is_deleting() && !expected_to_go(p) && pods::is_ready(p)).count();
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The new status, or `None` where it says so already (upstream: `updatePdbStatus`).
pub fn status(
    budget: &PodDisruptionBudget,
    healthy: i32,
    expected: Expected,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let old = budget.status.clone().unwrap_or_default();
    // none for no pods: the first of them shall not be disrupted before they are counted
    let spare = healthy.saturating_sub(expected.healthy).max(0);
    let allowed = if expected.pods <= 0 { 0 } else { spare };
    let generation = budget.metadata.generation.unwrap_or(0);
    let counts = [old.current_healthy, old.desired_healthy, old.expected_pods, old.disruptions_allowed];
    let same = counts.map(|c| c.unwrap_or(0)) == [healthy, expected.healthy, expected.pods, allowed]
        && old.disrupted_pods.clone().unwrap_or_default() == disrupted
        && old.observed_generation.unwrap_or(0) == generation
        && tells(&old, allowed > 0);
    if same {
        return None;
    }
    let new = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        observed_generation: Some(generation),
        conditions: old.conditions,
    };
    Some(changed(new, |s| tell_disruption_allowed(s, &rfc3339(now))))
}

/// The status of a budget whose pods could not be counted: nobody may be disrupted (upstream: `failSafe`).
pub fn failed(old: &PodDisruptionBudgetStatus, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let new = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
    changed(new, |s| tell_disruption(s, "False", "SyncFailed", why, &rfc3339(now)))
}

/// Until when a pod's announced disruption is believed; `None` for a pod that announces none
/// (upstream: `nonTerminatingPodHasStaleDisruptionCondition`).
pub fn believed_for(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, "DisruptionTarget")?;
    let of_kubelet = condition.reason.as_deref() == Some("TerminationByKubelet");
    if pod.is_deleting() || pods::is_terminal(pod) || condition.status != "True" || of_kubelet {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    Some(Duration::try_from(STALE_TIMEOUT - now.duration_since(since)).unwrap_or_default())
}

/// A selector as events print it (upstream: generated `LabelSelector.String`).
pub fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let mut out = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (k, v) in selector.match_labels.iter().flatten() {
        let _ = write!(out, "{k}: {v},");
    }
    out.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for r in selector.match_expressions.iter().flatten() {
        let values = r.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            out,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            r.key, r.operator
        );
    }
    out.push_str("},}");
    out
}

fn tells(status: &PodDisruptionBudgetStatus, allowed: bool) -> bool {
    let want = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == DISRUPTION_ALLOWED);
    condition.is_some_and(|c| (c.status.as_str(), c.reason.as_str()) == want)
}

/// The status after a change of its tree.
fn changed(status: PodDisruptionBudgetStatus, change: impl Fn(&mut Value)) -> PodDisruptionBudgetStatus {
    let mut tree = serde_json::to_value(&status).unwrap_or_default();
    change(&mut tree);
    serde_json::from_value(tree).unwrap_or(status)
}
