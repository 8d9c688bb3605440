//! Label selectors of typed objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use meta::selector::LabelSelector;
use std::collections::BTreeMap;

/// The selector of an object's spec. One that cannot be parsed selects nothing (validation refuses it earlier).
pub fn selector(typed: &Typed) -> LabelSelector {
    let tree = serde_json::to_value(typed).unwrap_or_default();
    LabelSelector::from_value(&tree).unwrap_or_else(|_| LabelSelector::nothing())
}

pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches(|k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// Whether all pairs are among the labels; an empty or absent set matches nothing (upstream: Service selectors).
pub fn matches_set(
    set: Option<&BTreeMap<String, String>>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    set.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}
