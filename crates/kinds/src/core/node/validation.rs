//! What a node may say of itself (upstream: `ValidateNode`, `ValidateNodeUpdate`).

use crate::validate::{items, text};
use crate::{helpers, ip, resources};
use meta::field::{Error, ErrorList, Path, quoted};
use serde_json::Value;

const FEATURE_BYTES_MAX: usize = 253;

/// What is wrong with a node, by itself.
pub fn whole(node: &Value) -> ErrorList {
    let mut errors = Vec::new();
    taints(&node["spec"], &mut errors);
    amounts(&node["status"], &mut errors);
    swap(&node["status"]["nodeInfo"]["swap"], &mut errors);
    declared_features(&node["status"], &mut errors);
    pod_cidrs(&node["spec"], &mut errors);
    errors
}

/// What is wrong with a change, besides; upstream looks at some things twice.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    amounts(&new["status"], &mut errors);
    declared_features(&new["status"], &mut errors);
    let addresses = items(&new["status"], "addresses");
    for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
        let at = Path::new("status").child("addresses").index(i);
        errors.push(Error::duplicate(&at, address.clone()));
    }
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::new("spec");
    let had = items(was, "podCIDRs");
    if !had.is_empty() && items(is, "podCIDRs") != had {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(&at.child("podCIDRs"), detail));
    }
    match (text(was, "providerID"), text(is, "providerID")) {
        (was, is) if was.is_empty() || was == is => {}
        (_, "") => {
            let detail = "field cannot be cleared once set";
            errors.push(Error::invalid(&at.child("providerID"), Value::Null, detail));
        }
        _ => {
            let detail = "field cannot be modified once set";
            errors.push(Error::invalid(&at.child("providerID"), Value::Null, detail));
        }
    }
    taints(is, &mut errors);
    if text(is, "externalID") != text(was, "externalID") {
        errors.push(Error::forbidden(&at.child("externalID"), "may not be updated"));
    }
    errors
}

/// Upstream: `validateNodeTaints`, which is given this path.
fn taints(spec: &Value, errors: &mut ErrorList) {
    let path = Path::new("metadata").child("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(spec, "taints").iter().enumerate() {
        let at = path.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        let wrong = helpers::qualified_name_errors(key);
        errors.extend(wrong.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
        let wrong = helpers::label_value_errors(value);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at.child("value"), value, wrong.join(";")));
        }
        match effect {
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            "" => errors.push(Error::required(&at.child("effect"), "")),
            other => {
                let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                errors.push(Error::not_supported(&at.child("effect"), other, &effects));
            }
        }
        if seen.contains(&(key, effect)) {
            let mut error = Error::duplicate(&at, taint.clone());
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
        seen.push((key, effect));
    }
}

/// Upstream: `ValidateNodeResources`.
fn amounts(status: &Value, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in resources::entries(&status[list]) {
            let at = Path::new("status").child(list).child(name.as_str());
            resources::value(name, &amount, &at, errors);
        }
    }
}

/// Upstream: `validateNodeSwapStatus`, which is given this path.
fn swap(swap: &Value, errors: &mut ErrorList) {
    if let Some(capacity) = swap["capacity"].as_i64().filter(|c| *c <= 0) {
        let at = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        errors.push(Error::invalid(&at, capacity, "must be greater than zero"));
    }
}

/// Upstream: `validateNodeDeclaredFeatures`.
fn declared_features(status: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("declaredFeatures");
    let features: Vec<&str> = items(status, "declaredFeatures").iter().filter_map(Value::as_str).collect();
    for (i, feature) in features.iter().enumerate() {
        if let Some(detail) = wrong_feature(feature) {
            errors.push(Error::invalid(&path.index(i), *feature, detail));
        }
        let Some(next) = features.get(i + 1) else { break };
        let at = path.index(i + 1);
        if feature == next {
            errors.push(Error::duplicate(&at, *next));
        } else if feature > next {
            errors.push(Error::invalid(&at, *next, "list must be sorted alphabetically"));
        }
    }
}

fn wrong_feature(name: &str) -> Option<String> {
    if name.len() > FEATURE_BYTES_MAX {
        let max = FEATURE_BYTES_MAX;
        return Some(format!(
            "invalid feature name {name}: must be no more than {max} characters",
            name = quoted(name)
        ));
    }
    let fits = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(|c| c.is_ascii_alphanumeric())
    };
    if name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(fits) {
        return None;
    }
    Some(format!(
        "invalid feature name {name}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
        name = quoted(name)
    ))
}

/// Ranges of one family each.
fn pod_cidrs(spec: &Value, errors: &mut ErrorList) {
    let at = Path::new("spec").child("podCIDRs");
    let ranges: Vec<&str> = items(spec, "podCIDRs").iter().filter_map(Value::as_str).collect();
    let mut bad = None;
    for (i, range) in ranges.iter().enumerate() {
        ip::legacy_cidr(range, &at.index(i), &[], errors);
        if bad.is_none() && ip::parse_cidr(range).is_none() {
            bad = Some((i, range));
        }
    }
    if ranges.len() < 2 {
        return;
    }
    if let Some((i, range)) = bad {
        let detail = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{i}]: <nil> (invalid CIDR address: {range})"
        );
        errors.push(Error::internal(&at, detail));
    }
    let v6 = ranges.iter().filter(|r| r.contains(':')).count();
    if ranges.len() > 2 || v6 == 0 || v6 == ranges.len() || bad.is_some() {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(&at, spec["podCIDRs"].clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_node_says_is_checked() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "Nope"}, {"key": "a", "effect": "Nope"}],
            "podCIDRs": ["x", "10.0.0.0/24"]}, "status": {"declaredFeatures": ["B", "A"], "nodeInfo": {"swap": {"capacity": 0}}}});
        let told = told(&whole(&node));
        assert_eq!(told.len(), 8);
        assert!(told[0].ends_with("supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""));
        assert!(told[2].starts_with("metadata.taints[1]: Duplicate value:"), "{}", told[2]);
        assert!(told[2].ends_with(": taints must be unique by key and effect pair"), "{}", told[2]);
        assert_eq!(told[3], "metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero");
        assert_eq!(
            told[4],
            "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically"
        );
        assert!(told[6].ends_with("invalid CIDR[0]: <nil> (invalid CIDR address: x)"), "{}", told[6]);
    }

    #[test]
    fn an_identity_does_not_change() {
        let old = json!({"spec": {"providerID": "a", "podCIDRs": ["10.0.0.0/24"]}});
        let change = |spec: Value| told(&update(&json!({ "spec": spec }), &old));
        assert_eq!(change(old["spec"].clone()), [""; 0]);
        assert_eq!(
            change(json!({"providerID": "b", "podCIDRs": ["10.0.0.0/24"], "externalID": "x"})),
            [
                "spec.providerID: Invalid value: null: field cannot be modified once set",
                "spec.externalID: Forbidden: may not be updated",
            ]
        );
        assert_eq!(change(json!({})).len(), 2);
    }

    #[test]
    fn features_have_names() {
        assert!(["A", "MyFeature/mySub"].iter().all(|n| wrong_feature(n).is_none()));
        assert!(["", "a", "A/", "A/1", "A-b"].iter().all(|n| wrong_feature(n).is_some()));
    }
}
