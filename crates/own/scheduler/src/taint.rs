//! Taints of nodes and tolerations of pods.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// The taint that an unschedulable node has or is treated to have.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Upstream: `core/v1#ToleratesTaint`, without the numeric operators of a feature that is off by default.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

pub(crate) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Whether a taint that keeps new pods away is not tolerated.
pub(crate) fn repels(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.iter().filter(hard).any(|t| !tolerated(tolerations, t))
}

/// How many taints ask new pods to stay away and are not tolerated.
pub(crate) fn disliked(taints: &[Taint], tolerations: &[Toleration]) -> usize {
    let relevant = |t: &Toleration| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
    let soft = taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations.iter().any(|t| relevant(t) && tolerates(t, taint))).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn toleration(v: Value) -> Vec<Toleration> {
        vec![serde_json::from_value(v).unwrap()]
    }

    #[test]
    fn what_tolerates_what() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        let cases = [
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "1"}), false),
        ];
        for (t, expected) in cases {
            assert_eq!(!repels(std::slice::from_ref(&taint), &toleration(t.clone())), expected, "{t}");
        }
    }

    #[test]
    fn soft_taints_do_not_repel() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "effect": "PreferNoSchedule"})).unwrap();
        assert!(!repels(std::slice::from_ref(&taint), &[]));
        assert_eq!(disliked(std::slice::from_ref(&taint), &[]), 1);
        assert_eq!(disliked(&[taint], &toleration(json!({"key": "k", "operator": "Exists"}))), 0);
    }
}
