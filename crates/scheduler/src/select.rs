//! Selectors: of node labels and fields, of pod labels, and tolerations.

use client::Kind;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use meta::selector::{LabelSelector, Operator, Requirement};
use std::collections::BTreeMap;

fn matches_one(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match r.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    Requirement { key: r.key.clone(), operator, values: r.values.clone().unwrap_or_default() }.matches(value)
}

/// Whether a node meets all conditions of a term; a term without conditions matches nothing.
pub fn node_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| matches_one(r, node.label(&r.key)))
        && fields.iter().all(|r| matches_one(r, (r.key == "metadata.name").then(|| node.name())))
}

/// A selector of pods; absent selects nothing.
pub fn pods(typed: Option<&Typed>) -> LabelSelector {
    let tree = typed.map(|t| serde_json::to_value(t).unwrap_or_default()).unwrap_or_default();
    LabelSelector::from_value(&tree).unwrap_or_else(|_| LabelSelector::nothing())
}

pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches(|k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// Upstream: `Toleration.ToleratesTaint`.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    tolerations.iter().any(|t| {
        let (effect, key) = (text(&t.effect), text(&t.key));
        if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
            return false;
        }
        match text(&t.operator).as_str() {
            "" | "Equal" => text(&t.value) == text(&taint.value),
            "Exists" => true,
            _ => false,
        }
    })
}
