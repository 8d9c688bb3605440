//! Where a pod wants to be (upstream: `validateAffinity`).

use super::allowed::Allowed;
use crate::helpers::{dns_label_errors, label_value_errors, qualified_name_errors};
use crate::node_selector::{self, Values};
use crate::validate::{items, label_selector, labels, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn errors(a: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    let (node, at) = (&a["nodeAffinity"], path.child("nodeAffinity"));
    if node[REQUIRED].is_object() {
        let values = if allowed.node_values { Values::Any } else { Values::Labels };
        node_selector::validate(&node[REQUIRED], values, &at.child(REQUIRED), errors);
    }
    for (i, p) in items(node, PREFERRED).iter().enumerate() {
        let at = at.child(PREFERRED).index(i);
        weight(p, &at, errors);
        node_selector::term(&p["preference"], Values::Any, &at.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(kind);
        for (i, t) in items(&a[kind], REQUIRED).iter().enumerate() {
            pod_term(t, allowed, &at.child(REQUIRED).index(i), errors);
        }
        for (i, t) in items(&a[kind], PREFERRED).iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(t, &at, errors);
            pod_term(&t["podAffinityTerm"], allowed, &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(v: &Value, at: &Path, errors: &mut ErrorList) {
    let n = v["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&n) {
        errors.push(Error::invalid(&at.child("weight"), n, "must be in the range 1-100"));
    }
}

fn pod_term(term: &Value, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector(&term[field], allowed.selector_values, &at.child(field), errors);
    }
    for name in items(term, "namespaces").iter().filter_map(Value::as_str) {
        told(name, dns_label_errors(name, false), &at.child("namespace"), errors);
    }
    super::scheduling::label_keys(term, at, errors);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&at.child("topologyKey"), "can not be empty"));
    }
    told(key, qualified_name_errors(key), &at.child("topologyKey"), errors);
}

/// A label selector, whose expressions may have odd values when an older object had.
fn selector(v: &Value, odd_values: bool, at: &Path, errors: &mut ErrorList) {
    if !odd_values {
        label_selector(v, at, errors);
        return;
    }
    labels(&v["matchLabels"], &at.child("matchLabels"), errors);
    let mut without = v.clone();
    let expressions = without.get_mut("matchExpressions").and_then(Value::as_array_mut);
    for values in expressions.into_iter().flatten().filter_map(|e| e.get_mut("values")?.as_array_mut()) {
        for value in values.iter_mut().filter(|v| !label_value_errors(v.as_str().unwrap_or("")).is_empty()) {
            *value = "".into();
        }
    }
    without.as_object_mut().map(|m| m.remove("matchLabels"));
    label_selector(&without, at, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidatePod`, affinity cases.
    #[test]
    fn terms() {
        let found = |a: Value, allowed: Allowed| {
            let mut all = Vec::new();
            errors(&a, &allowed, &Path::new("a"), &mut all);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let term = json!({"topologyKey": "", "namespaces": ["A"], "matchLabelKeys": ["x"]});
        let texts = found(json!({"podAffinity": {REQUIRED: [term]}}), Allowed::default());
        assert_eq!(texts.len(), 5, "{texts:?}");
        assert_eq!(
            texts[1],
            "a.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
        );
        let odd = json!({"podAffinity": {REQUIRED: [{"topologyKey": "k",
            "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]}}]}});
        assert_eq!(found(odd.clone(), Allowed::default()).len(), 1);
        assert!(found(odd, Allowed { selector_values: true, ..Allowed::default() }).is_empty());
    }
}
