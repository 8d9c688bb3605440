//! Selectors of typed objects in the form that is matched: labels, and a node's labels and name.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use meta::selector::{LabelSelector, Operator, Requirement};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Labels = BTreeMap<String, String>;

/// An absent selector selects nothing, an empty one everything; one that cannot be parsed selects nothing.
pub(crate) fn compile(typed: Option<&Typed>) -> LabelSelector {
    let Some(typed) = typed else { return LabelSelector::nothing() };
    let mut out = LabelSelector::everything();
    for (key, value) in typed.match_labels.iter().flatten() {
        out = out.with(equals(key, value));
    }
    for e in typed.match_expressions.iter().flatten() {
        let operator = match e.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return LabelSelector::nothing(),
        };
        match Requirement::new(&e.key, operator, e.values.clone().unwrap_or_default()) {
            Ok(requirement) => out = out.with(requirement),
            Err(_) => return LabelSelector::nothing(),
        }
    }
    out
}

pub(crate) fn equals(key: &str, value: &str) -> Requirement {
    Requirement { key: key.to_owned(), operator: Operator::Equals, values: vec![value.to_owned()] }
}

pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.matches(|k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// One alternative of a node affinity.
#[derive(Clone, Debug)]
pub(crate) struct NodeTerm {
    labels: Option<LabelSelector>,
    /// Names that the node must and must not have.
    names: Vec<(bool, String)>,
}

impl NodeTerm {
    /// `None`: the term is empty or cannot be parsed and selects no node (upstream: `newNodeSelectorTerm`).
    pub(crate) fn compile(term: &NodeSelectorTerm) -> Option<Self> {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return None;
        }
        let mut labels = None;
        for e in expressions {
            let selector = labels.take().unwrap_or_else(LabelSelector::everything);
            labels = Some(selector.with(requirement(e)?));
        }
        let mut names = Vec::new();
        for f in fields {
            let value = f.values.as_deref().unwrap_or_default();
            match (f.key.as_str(), f.operator.as_str(), value) {
                ("metadata.name", "In", [one]) => names.push((true, one.clone())),
                ("metadata.name", "NotIn", [one]) => names.push((false, one.clone())),
                _ => return None,
            }
        }
        Some(Self { labels, names })
    }

    pub(crate) fn matches(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or("");
        self.names.iter().all(|(wanted, n)| (n == name) == *wanted)
            && self.labels.as_ref().is_none_or(|l| matches(l, node.metadata.labels.as_ref()))
    }
}

fn requirement(e: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match e.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Requirement::new(&e.key, operator, e.values.clone().unwrap_or_default()).ok()
}

/// The nodes that a pod's node selector and required node affinity allow (upstream: `GetRequiredNodeAffinity`).
#[derive(Clone, Debug, Default)]
pub(crate) struct RequiredNode {
    labels: Labels,
    /// Alternatives; `None` when there is no affinity.
    terms: Option<Vec<NodeTerm>>,
    /// Names outside which no node can match; `None` when names do not matter.
    pub(crate) names: Option<BTreeSet<String>>,
}

impl RequiredNode {
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let labels = spec.node_selector.clone().unwrap_or_default();
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.map(|r| r.node_selector_terms.as_slice());
        Self {
            labels,
            names: terms.and_then(pinned_names),
            terms: terms.map(|t| t.iter().filter_map(NodeTerm::compile).collect()),
        }
    }

    pub(crate) fn matches(&self, node: &Node) -> bool {
        let has =
            |(k, v): (&String, &String)| node.metadata.labels.as_ref().and_then(|l| l.get(k)) == Some(v);
        self.labels.iter().all(has) && self.terms.as_ref().is_none_or(|t| t.iter().any(|t| t.matches(node)))
    }
}

/// Upstream: `nodeaffinity#PreFilter`: when every alternative names nodes, only those need a look.
fn pinned_names(terms: &[NodeSelectorTerm]) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in terms {
        let mut own: Option<BTreeSet<String>> = None;
        for f in term.match_fields.iter().flatten() {
            if f.key == "metadata.name" && f.operator == "In" {
                let values: BTreeSet<String> = f.values.iter().flatten().cloned().collect();
                own = Some(own.map_or(values.clone(), |o| o.intersection(&values).cloned().collect()));
            }
        }
        all.extend(own?);
    }
    (!terms.is_empty()).then_some(all)
}
