//! The group `policy`: PodDisruptionBudget (upstream: `pkg/registry/policy/poddisruptionbudget`, `pkg/apis/policy/validation`).

use crate::apps::amount;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::status::{self as shared, conditions};
use crate::validate::{items, label_selector, non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub fn pod_disruption_budget() -> KindDef {
    KindDef {
        group: "policy".into(),
        kind: "PodDisruptionBudget".into(),
        plural: "poddisruptionbudgets".into(),
        singular: "poddisruptionbudget".into(),
        short: &["pdb"],
        schema: "io.k8s.api.policy.v1.PodDisruptionBudget".into(),
        storage: "poddisruptionbudgets".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Min Available", "string", |o, _| shown(&o["spec"]["minAvailable"])),
                column("Max Unavailable", "string", |o, _| shown(&o["spec"]["maxUnavailable"])),
                column("Allowed Disruptions", "integer", |o, _| {
                    o["status"]["disruptionsAllowed"].as_i64().unwrap_or(0).into()
                }),
                AGE,
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&Budget),
        sample: "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: b, namespace: default}\nspec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n",
        ..KindDef::BASE
    }
}

fn shown(v: &Value) -> Value {
    match v {
        Value::Null => "N/A".into(),
        Value::String(s) => s.as_str().into(),
        other => other.to_string().into(),
    }
}

/// Sets one of a list of conditions; its transition time is `now` where the status changes, and the old one's otherwise
/// (upstream: apimachinery `pkg/api/meta/conditions.go#SetStatusCondition`).
pub fn set_condition(list: &mut Vec<Value>, mut condition: Value, now: &str) {
    let old = list.iter_mut().find(|c| c["type"] == condition["type"]);
    condition["lastTransitionTime"] = match &old {
        Some(old) if old["status"] == condition["status"] => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    match old {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}

/// The condition that tells whether a budget's status lets a pod be disrupted
/// (upstream: component-helpers `apps/poddisruptionbudget/helpers.go#UpdateDisruptionAllowedCondition`).
pub fn tell_disruption_allowed(status: &mut Value, now: &str) {
    let (value, reason) = match status["disruptionsAllowed"].as_i64().unwrap_or(0) {
        1.. => ("True", "SufficientPods"),
        _ => ("False", "InsufficientPods"),
    };
    tell_disruption(status, value, reason, "", now);
}

/// As [`tell_disruption_allowed`], with a reason of the caller's.
pub fn tell_disruption(status: &mut Value, value: &str, reason: &str, message: &str, now: &str) {
    let mut condition =
        json!({"type": DISRUPTION_ALLOWED, "status": value, "reason": reason, "message": message});
    if let Some(generation) = status["observedGeneration"].as_i64().filter(|g| *g != 0) {
        condition["observedGeneration"] = generation.into();
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(list) = status["conditions"].as_array_mut() {
        set_condition(list, condition, now);
    }
}

/// The type of a budget's one condition.
pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

struct Budget;

fn empty_status() -> Value {
    json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
}

impl Strategy for Budget {
    fn checks_metadata(&self) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "spec", json!({}));
        object::default_at(obj, &[], "status", empty_status());
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = empty_status();
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (spec, at) = (&obj["spec"], Path::new("spec"));
        let (min, max) = (&spec["minAvailable"], &spec["maxUnavailable"]);
        if !min.is_null() && !max.is_null() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(Error::invalid(&at, spec.clone(), detail));
        }
        for (field, value) in [("minAvailable", min), ("maxUnavailable", max)] {
            amount::errors(value, &at.child(field), &mut errors);
            amount::at_most_all(value, &at.child(field), &mut errors);
        }
        if !spec["selector"].is_null() {
            label_selector(&spec["selector"], &at.child("selector"), &mut errors);
        }
        if !spec["unhealthyPodEvictionPolicy"].is_null() {
            let (field, known) = ("unhealthyPodEvictionPolicy", ["AlwaysAllow", "IfHealthyBudget"]);
            if text(spec, field).is_empty() {
                errors.push(Error::not_supported(&at.child(field), "", &known));
            }
            one_of(spec, field, &at, &known, &mut errors);
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return self.validate(new);
        }
        let mut errors = Vec::new();
        let at = Path::new("status");
        conditions(items(&new["status"], "conditions"), &at.child("conditions"), &mut errors);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            non_negative(&new["status"], field, &at, &mut errors);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut status = json!({"disruptionsAllowed": 1, "observedGeneration": 2});
        tell_disruption_allowed(&mut status, "t1");
        status["disruptionsAllowed"] = json!(2);
        tell_disruption_allowed(&mut status, "t2");
        let want = json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "",
            "observedGeneration": 2, "lastTransitionTime": "t1"});
        assert_eq!(status["conditions"], json!([want]));
        status["disruptionsAllowed"] = json!(0);
        tell_disruption_allowed(&mut status, "t3");
        let got = &status["conditions"][0];
        assert_eq!((&got["reason"], &got["lastTransitionTime"]), (&json!("InsufficientPods"), &json!("t3")));
    }
}
