//! Node selectors outside pods, and labels of nodes that are no longer used
//! (upstream: `ValidateNodeSelector`, `pkg/api/node/util.go`).

use crate::helpers::{dns_subdomain_errors, label_value_errors, qualified_name_errors};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const DEPRECATED: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to say of a node's label that is no longer used (upstream: `GetNodeLabelDeprecatedMessage`).
pub fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(k, _)| *k == key).map(|(_, message)| *message)
}

/// Warnings of a list of expressions at a path (upstream: `GetWarningsForNodeSelectorTerm`).
pub fn expression_warnings(holder: &Value, path: &Path) -> Vec<String> {
    let expressions = items(holder, "matchExpressions").iter().enumerate();
    expressions
        .filter_map(|(i, e)| {
            let key = text(e, "key");
            let at = path.child("matchExpressions").index(i).child("key");
            deprecated_label(key).map(|message| format!("{at}: {key} is {message}"))
        })
        .collect()
}

/// What the values of an expression may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Values that labels can have.
    Labels,
    /// Any text: what no label has selects nothing.
    Any,
}

/// Errors of a `core/v1` NodeSelector.
pub fn validate(selector: &Value, values: Values, path: &Path, errors: &mut ErrorList) {
    let at = path.child("nodeSelectorTerms");
    let terms = items(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(Error::required(&at, "must have at least one node selector term"));
    }
    for (i, t) in terms.iter().enumerate() {
        term(t, values, &at.index(i), errors);
    }
}

/// Errors of one of its terms (upstream: `ValidateNodeSelectorTerm`).
pub fn term(term: &Value, values: Values, path: &Path, errors: &mut ErrorList) {
    for (i, e) in items(term, "matchExpressions").iter().enumerate() {
        expression(e, values, &path.child("matchExpressions").index(i), errors);
    }
    for (i, e) in items(term, "matchFields").iter().enumerate() {
        field(e, &path.child("matchFields").index(i), errors);
    }
}

fn expression(e: &Value, allowed: Values, at: &Path, errors: &mut ErrorList) {
    let values = items(e, "values");
    match text(e, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(&at.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&at.child("values"), detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(Error::required(&at.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.push(Error::named_invalid(&at.child("operator"), other, "not a valid selector operator"))
        }
    }
    let key = text(e, "key");
    let messages = qualified_name_errors(key);
    errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
    if allowed == Values::Any {
        return;
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let at = at.child("values").index(i);
        errors.extend(label_value_errors(value).into_iter().map(|m| Error::invalid(&at, value, m)));
    }
}

fn field(e: &Value, at: &Path, errors: &mut ErrorList) {
    let values = items(e, "values");
    match text(e, "operator") {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&at.child("values"), detail));
        }
        other => {
            errors.push(Error::named_invalid(&at.child("operator"), other, "not a valid selector operator"))
        }
    }
    let key = text(e, "key");
    if key != "metadata.name" {
        errors.push(Error::invalid(&at.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let at = at.child("values").index(i);
        errors.extend(dns_subdomain_errors(value, false).into_iter().map(|m| Error::invalid(&at, value, m)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors() {
        let good = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a/b", "operator": "In", "values": ["x"]}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
        let mut errors = Vec::new();
        validate(&good, Values::Labels, &Path::new("required"), &mut errors);
        assert_eq!(errors, []);
        let bad = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}],
            "matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}]});
        validate(&bad, Values::Labels, &Path::new("required"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "required.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
                "required.nodeSelectorTerms[0].matchFields[0].operator: Invalid value: \"Exists\": not a valid selector operator",
                "required.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key",
            ]
        );
    }

    #[test]
    fn values_that_no_label_has() {
        let any = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["no label"]}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]});
        let check = |values: Values| {
            let mut errors = Vec::new();
            term(&any, values, &Path::new("t"), &mut errors);
            errors.iter().map(|e| e.field.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(check(Values::Any), ["t.matchFields[0].values"]);
        assert_eq!(check(Values::Labels), ["t.matchExpressions[0].values[0]", "t.matchFields[0].values"]);
    }
}
