//! What else decides where and when a pod runs: tolerations, spread, gates
//! (upstream: `ValidateTolerations`, `validateTopologySpreadConstraints`, `validateSchedulingGates`).

use super::allowed::Allowed;
use crate::helpers::{label_value_errors, qualified_name_errors};
use crate::validate::{items, label_selector, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const POSITIVE: &str = "must be greater than zero";

/// The tolerations in a list.
pub fn tolerations(list: &[Value], allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    for (i, t) in list.iter().enumerate() {
        toleration(t, allowed, &path.index(i), errors);
    }
}

fn toleration(t: &Value, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    let (key, operator, value) = (text(t, "key"), text(t, "operator"), text(t, "value"));
    if !key.is_empty() {
        told(key, qualified_name_errors(key), &at.child("key"), errors);
    }
    let path = at.child("operator");
    if key.is_empty() && operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&path, operator, detail));
    }
    let effect = text(t, "effect");
    if !t["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&at.child("effect"), effect, detail));
    }
    match operator {
        "" | "Equal" => {
            let messages = label_value_errors(value);
            if !messages.is_empty() {
                errors.push(Error::invalid(&path, value, messages.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(&path, value, detail));
            }
        }
        "Lt" | "Gt" if allowed.comparisons => compared(value, &at.child("value"), errors),
        "Lt" | "Gt" => {
            errors.push(Error::not_supported(&path, operator, &["Equal", "Exists", "Lt", "Gt"]));
        }
        other => errors.push(Error::not_supported(&path, other, &["Equal", "Exists"])),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !effects.contains(&effect) {
        errors.push(Error::not_supported(&at.child("effect"), effect, &effects));
    }
}

/// A whole number without anything that it could do without.
fn compared(value: &str, at: &Path, errors: &mut ErrorList) {
    if !value.parse::<i64>().is_ok_and(|n| n.to_string() == value) {
        errors.push(Error::invalid(at, value, "must be a valid decimal integer in canonical form"));
    }
}

/// The gates that hold a pod back.
pub fn gates(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let (name, at) = (text(gate, "name"), path.child("schedulingGates").index(i));
        told(name, qualified_name_errors(name), &at, errors);
        if seen.contains(&name) {
            errors.push(Error::duplicate(&at, name));
        }
        seen.push(name);
    }
}

/// How pods spread over the cluster.
pub fn spread(spec: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    let all = items(spec, "topologySpreadConstraints");
    for (i, c) in all.iter().enumerate() {
        let at = path.child("topologySpreadConstraints").index(i);
        let skew = c["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(Error::invalid(&at.child("maxSkew"), skew, POSITIVE));
        }
        let (key, action) = (text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(Error::required(&at.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(Error::not_supported(&at.child("whenUnsatisfiable"), action, &actions));
        }
        let same = |o: &Value| text(o, "topologyKey") == key && text(o, "whenUnsatisfiable") == action;
        if all[i + 1..].iter().any(same) {
            let at = at.child("{topologyKey, whenUnsatisfiable}");
            errors.push(Error::duplicate(&at, format!("{{{key}, {action}}}")));
        }
        min_domains(c, action, &at.child("minDomains"), errors);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = c[field].as_str().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                errors.push(Error::not_supported(&at.child(field), policy, &["Honor", "Ignore"]));
            }
        }
        if allowed.spread_keys {
            older_label_keys(c, &at.child("matchLabelKeys"), errors);
        } else {
            label_keys(c, &at, errors);
        }
        if !allowed.spread_selectors {
            label_selector(&c["labelSelector"], &at.child("labelSelector"), errors);
        }
    }
}

fn min_domains(c: &Value, action: &str, at: &Path, errors: &mut ErrorList) {
    let Some(n) = c["minDomains"].as_i64() else { return };
    if n <= 0 {
        errors.push(Error::invalid(at, n, POSITIVE));
    }
    if action != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.push(Error::invalid(at, n, detail));
    }
}

/// Keys whose values come from the pod (upstream: `ValidateMatchLabelKeysAndMismatchLabelKeys`). The selector has the
/// expressions that were made of them already.
pub fn label_keys(term: &Value, at: &Path, errors: &mut ErrorList) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (items(term, field), at.child(field));
        if !keys.is_empty() && selector.is_null() {
            errors.push(Error::forbidden(&at, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            told(key, qualified_name_errors(key), &at.index(i), errors);
        }
    }
    let matched: Vec<&str> = items(term, "matchLabelKeys").iter().filter_map(Value::as_str).collect();
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut seen: Vec<&str> = labels.map(|(key, _)| key.as_str()).collect();
    for key in items(selector, "matchExpressions").iter().map(|e| text(e, "key")) {
        if let Some(i) = matched.iter().rposition(|k| *k == key)
            && seen.contains(&key)
        {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(Error::invalid(&at.index(i), key, detail));
        }
        seen.push(key);
    }
    for (i, key) in matched.iter().enumerate() {
        if items(term, "mismatchLabelKeys").iter().any(|k| k == key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(Error::invalid(&at.child("matchLabelKeys").index(i), *key, detail));
        }
    }
}

/// Upstream: `ValidateMatchLabelKeysInTopologySpread`.
fn older_label_keys(c: &Value, at: &Path, errors: &mut ErrorList) {
    let (keys, selector) = (items(c, "matchLabelKeys"), &c["labelSelector"]);
    if !keys.is_empty() && selector.is_null() {
        errors.push(Error::forbidden(at, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        told(key, qualified_name_errors(key), &at.index(i), errors);
        let expressions = items(selector, "matchExpressions");
        if !selector["matchLabels"][key].is_null() || expressions.iter().any(|e| e["key"] == key) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(Error::invalid(&at.index(i), key, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(all: ErrorList) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateTopologySpreadConstraints`.
    #[test]
    fn constraints() {
        let found = |list: Value| {
            let mut all = Vec::new();
            spread(&json!({"topologySpreadConstraints": list}), &Allowed::default(), &Path::root(), &mut all);
            texts(all)
        };
        let one = |more: Value| {
            let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
            c.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            c
        };
        assert!(found(json!([one(json!({"minDomains": 1}))])).is_empty());
        assert_eq!(
            found(json!([one(json!({"maxSkew": 0})), one(json!({"nodeTaintsPolicy": "Nope"}))])),
            [
                "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
                "topologySpreadConstraints[1].nodeTaintsPolicy: Unsupported value: \"Nope\": supported values: \"Honor\", \"Ignore\"",
            ]
        );
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
        assert_eq!(
            found(json!([one(json!({"matchLabelKeys": ["a"], "labelSelector": selector}))])),
            [
                "topologySpreadConstraints[0][0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"
            ]
        );
    }

    #[test]
    fn comparisons_are_not_in_yet() {
        let found = |t: Value, allowed: Allowed| {
            let mut all = Vec::new();
            tolerations(&[t], &allowed, &Path::new("t"), &mut all);
            texts(all)
        };
        let lt = |value: &str| json!({"key": "a", "operator": "Lt", "value": value});
        assert_eq!(
            found(lt("1"), Allowed::default()),
            [
                "t[0].operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\""
            ]
        );
        let allowed = Allowed { comparisons: true, ..Allowed::default() };
        assert!(found(lt("1"), allowed).is_empty());
        assert_eq!(found(lt("01"), allowed).len(), 1);
    }
}
