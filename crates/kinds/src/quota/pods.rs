//! Pods (upstream: `pkg/quota/v1/evaluator/core/pods.go`).

use super::{Scope, whole};
use crate::amounts::Amounts;
use crate::core::pod::qos_class;
use crate::pod_resources::{self, Side};
use crate::resources::{is_extended, is_huge_page, is_native};
use crate::validate::{items, text};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Limited, each container must say how much it takes.
const TO_BE_SAID: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Devices of a class that a pod asks for as for an extended resource.
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// Upstream: `podEvaluator.MatchingResources`.
pub(super) fn counts(name: &str) -> bool {
    let of_requests = name.strip_prefix("requests.");
    NAMES.contains(&name)
        || is_huge_page(of_requests.unwrap_or(name))
        || of_requests.is_some_and(|rest| !is_native(name) || rest.starts_with(DEVICE_CLASS))
}

/// Its end is set beforehand (upstream: `IsTerminating`).
pub(super) fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0)
}

/// Upstream: `podMatchesScopeFunc`.
pub(super) fn in_scope(pod: &Value, scope: &Scope<'_>) -> bool {
    let best_effort = || qos_class(&pod["spec"]) == "BestEffort";
    match scope.name {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            scope.accepts(Some(text(&pod["spec"], "priorityClassName")).filter(|n| !n.is_empty()))
        }
        "CrossNamespacePodAffinity" => names_other_namespaces(&pod["spec"]["affinity"]),
        _ => false,
    }
}

/// Upstream: `usesCrossNamespacePodAffinity`.
fn names_other_namespaces(affinity: &Value) -> bool {
    let crosses =
        |term: &Value| !items(term, "namespaces").is_empty() || term["namespaceSelector"].is_object();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let rules = &affinity[*kind];
        items(rules, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || items(rules, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// Upstream: `podEvaluator.Constraints`.
pub(super) fn constraints(required: &[&str], pod: &Value) -> Result<(), String> {
    if pod_resources::is_pod_level_set(pod) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let spec = &pod["spec"];
    for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
        let own = &container["resources"];
        let said = amounts(&Amounts::of(&own["requests"]), &Amounts::of(&own["limits"]));
        for name in required.iter().filter(|n| TO_BE_SAID.contains(n) && said.get(n).is_none()) {
            missing.entry(name).or_default().insert(text(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let each = |(name, containers): (&&str, &BTreeSet<&str>)| {
        format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(","))
    };
    Err(format!("must specify {}", missing.iter().map(each).collect::<Vec<_>>().join("; ")))
}

/// By the names that quotas have for them (upstream: `podComputeUsageHelper`).
fn amounts(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::default();
    out.set("pods", whole(1));
    for (name, amount) in requests.iter() {
        let limited = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
        if limited {
            out.set(name.clone(), amount.clone());
        }
        if limited || is_extended(name) || name.starts_with(DEVICE_CLASS) {
            out.set(format!("requests.{name}"), amount.clone());
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            out.set(format!("limits.{name}"), amount.clone());
        }
    }
    out
}

/// Whether the pod takes anything: it has not ended, and is not overdue to go, as on a lost node
/// (upstream: `QuotaV1Pod`).
fn takes(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded") {
        return false;
    }
    let meta = &pod["metadata"];
    let deleted = text(meta, "deletionTimestamp").parse::<Timestamp>().ok();
    let grace = meta["deletionGracePeriodSeconds"].as_i64();
    let end = deleted.zip(grace).and_then(|(at, s)| at.checked_add(SignedDuration::from_secs(s)).ok());
    end.is_none_or(|end| now <= end)
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut out = match takes(pod, now) {
        false => Amounts::default(),
        true => {
            amounts(&pod_resources::in_use(pod, Side::Requests), &pod_resources::in_use(pod, Side::Limits))
        }
    };
    out.set("count/pods", whole(1));
    out
}

pub(super) fn changed(new: &Value, old: &Value, now: Timestamp) -> bool {
    resized(new, old) || is_terminating(new) != is_terminating(old) || (takes(old, now) && !takes(new, now))
}

/// Upstream: `hasResourcesChanged`.
fn resized(new: &Value, old: &Value) -> bool {
    ["containerStatuses", "initContainerStatuses"].iter().any(|field| {
        items(&old["status"], field).iter().any(|was| {
            let now = items(&new["status"], field).iter().find(|s| s["name"] == was["name"]);
            now.is_some_and(|now| now["resources"] != was["resources"])
        })
    })
}
