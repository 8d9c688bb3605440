//! The taints that a node's conditions call for (upstream: `doNoScheduleTaintingPass`, `processTaintBaseEviction`).

use super::health;
use crate::common::time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, its status and the taint that it means.
const MEANINGS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

fn all(node: &Node) -> Vec<Taint> {
    node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default()
}

pub(super) fn no_execute(node: &Node) -> Vec<Taint> {
    all(node).into_iter().filter(|t| t.effect == "NoExecute").collect()
}

/// The node's taints as they must be; `None` when they are so. `may` is asked before a node gets a NoExecute taint that
/// it did not have: `Some(false)` is not yet, `None` is that nobody may have one.
pub(super) fn wanted(
    node: &Node,
    now: Timestamp,
    may: &mut dyn FnMut() -> Option<bool>,
) -> Option<Vec<Taint>> {
    let before = all(node);
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let holds = |kind: &str, status: &str| conditions.iter().any(|c| c.type_ == kind && c.status == status);
    let mut keys: Vec<&str> = MEANINGS.iter().filter(|(k, s, _)| holds(k, s)).map(|(_, _, t)| *t).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    let ours = |key: &str| key == UNSCHEDULABLE || MEANINGS.iter().any(|(_, _, t)| *t == key);
    let mut after: Vec<Taint> = before.clone();
    after.retain(|t| t.effect != "NoSchedule" || !ours(&t.key) || keys.contains(&t.key.as_str()));
    for key in keys {
        add(&mut after, key, "NoSchedule", now);
    }
    evicting(node, &mut after, now, may);
    (after != before).then_some(after)
}

fn add(list: &mut Vec<Taint>, key: &str, effect: &str, now: Timestamp) {
    if !list.iter().any(|t| t.key == key && t.effect == effect) {
        let time_added = Some(time(now));
        list.push(Taint { key: key.into(), effect: effect.into(), time_added, ..Taint::default() });
    }
}

fn evicting(node: &Node, list: &mut Vec<Taint>, now: Timestamp, may: &mut dyn FnMut() -> Option<bool>) {
    let is = |t: &Taint, key: &str| t.effect == "NoExecute" && t.key == key;
    let key = match health::ready(node).map(|c| c.status.as_str()) {
        Some("False") => NOT_READY,
        Some("Unknown") => UNREACHABLE,
        Some("True") => return list.retain(|t| !is(t, NOT_READY) && !is(t, UNREACHABLE)),
        _ => return,
    };
    let other = if key == NOT_READY { UNREACHABLE } else { NOT_READY };
    if list.iter().any(|t| is(t, key)) && !list.iter().any(|t| is(t, other)) {
        return;
    }
    if list.iter().any(|t| is(t, other)) {
        list.retain(|t| !is(t, other));
        return add(list, key, "NoExecute", now);
    }
    match may() {
        Some(true) => add(list, key, "NoExecute", now),
        Some(false) => {}
        None => list.retain(|t| !is(t, NOT_READY) && !is(t, UNREACHABLE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(spec: Value, conditions: &[(&str, &str)], may: Option<bool>) -> Option<Vec<String>> {
        let conditions: Vec<_> = conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect();
        let node: Node =
            serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap();
        let list = wanted(&node, Timestamp::UNIX_EPOCH, &mut || may)?;
        Some(
            list.iter()
                .map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect))
                .collect(),
        )
    }

    #[test]
    fn conditions_become_taints() {
        let yes = Some(true);
        let of = |v: &[&str]| Some(v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(run(json!({}), &[("Ready", "True")], yes), None);
        assert_eq!(
            run(json!({}), &[("Ready", "False")], yes),
            of(&["not-ready:NoSchedule", "not-ready:NoExecute"])
        );
        assert_eq!(run(json!({}), &[("Ready", "Unknown")], Some(false)), of(&["unreachable:NoSchedule"]));
        assert_eq!(
            run(json!({"unschedulable": true}), &[("DiskPressure", "True")], yes),
            of(&["disk-pressure:NoSchedule", "unschedulable:NoSchedule"])
        );
        let taint = |k: &str, e: &str| json!({"key": format!("node.kubernetes.io/{k}"), "effect": e});
        let down = json!({"taints": [taint("not-ready", "NoSchedule"), taint("not-ready", "NoExecute"), {"key": "mine", "effect": "NoExecute"}]});
        assert_eq!(run(down.clone(), &[("Ready", "True")], yes), of(&["mine:NoExecute"]));
        // a change of kind is no new taint, so no leave is asked
        assert_eq!(
            run(down, &[("Ready", "Unknown")], Some(false)),
            of(&["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"])
        );
    }
}
