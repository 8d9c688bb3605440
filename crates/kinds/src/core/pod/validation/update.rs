//! What of a pod may change (upstream: `ValidatePodUpdate`).

use super::allowed::Allowed;
use super::{annotations, existing, scheduling};
use crate::internal;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Fields of a pod's spec that an update may change; everything else is fixed at creation.
const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Errors of an update of the pod itself.
pub fn errors(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = existing(new, old);
    annotations::update(new, old, &mut errors);
    let (is, was) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        let at = path.child(list);
        if items(is, list).len() != items(was, list).len() {
            errors.push(Error::forbidden(&at, "pod updates may not add or remove containers"));
            return errors;
        }
        for (i, c) in items(is, list).iter().enumerate() {
            if text(c, "image").is_empty() {
                errors.push(Error::required(&at.index(i).child("image"), ""));
            }
            super::containers::image_of_pod(c, &at.index(i), &mut errors);
        }
    }
    if !deadline(is, was, &path.child("activeDeadlineSeconds"), &mut errors) {
        return errors;
    }
    tolerations(is, was, &path.child("tolerations"), &mut errors);
    gates(is, was, &path.child("schedulingGates"), &mut errors);
    if is == was {
        return errors;
    }
    let mut munged = munged(is, was);
    if !items(was, "schedulingGates").is_empty() {
        while_gated(&mut munged, was, &path, &mut errors);
    }
    if munged != *was {
        let shown = internal::difference("PodSpec", was, &munged);
        errors.push(Error::forbidden(&path, format!("{CHANGEABLE}\n{shown}")));
    }
    errors
}

/// The new spec with the old value of all that may change.
fn munged(is: &Value, was: &Value) -> Value {
    let mut out = is.clone();
    for list in ["containers", "initContainers"] {
        let containers = out.get_mut(list).and_then(Value::as_array_mut);
        for (c, was) in containers.into_iter().flatten().zip(items(was, list)) {
            restore(c, was, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut out, was, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if was[grace].as_i64().is_some_and(|s| s < 0) && is[grace] == 1 {
        restore(&mut out, was, grace);
    }
    out
}

fn restore(munged: &mut Value, old: &Value, field: &str) {
    if let Some(map) = munged.as_object_mut() {
        match old.get(field) {
            Some(v) => drop(map.insert(field.to_owned(), v.clone())),
            None => drop(map.remove(field)),
        }
    }
}

/// A deadline may be set and brought nearer.
fn deadline(is: &Value, was: &Value, at: &Path, errors: &mut ErrorList) -> bool {
    let seconds = |spec: &Value| spec["activeDeadlineSeconds"].as_i64();
    let refused = match (seconds(is), seconds(was)) {
        (Some(n), _) if !(0..=DEADLINE_SECONDS_MAX).contains(&n) => {
            Some((n, format!("must be between 0 and {DEADLINE_SECONDS_MAX}, inclusive")))
        }
        (Some(n), Some(o)) if n > o => Some((n, "must be less than or equal to previous value".to_owned())),
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(Error::invalid(at, Value::Null, detail));
            None
        }
        _ => None,
    };
    let fine = refused.is_none();
    errors.extend(refused.map(|(n, detail)| Error::invalid(at, n, detail)));
    fine
}

/// Tolerations may only be added.
fn tolerations(is: &Value, was: &Value, at: &Path, errors: &mut ErrorList) {
    let strip = |v: &Value| {
        let mut v = v.clone();
        v.as_object_mut().map(|m| m.remove("tolerationSeconds"));
        v
    };
    let now: Vec<Value> = items(is, "tolerations").iter().map(strip).collect();
    if items(was, "tolerations").iter().any(|t| !now.contains(&strip(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(at, detail));
        return;
    }
    scheduling::tolerations(items(is, "tolerations"), &Allowed::by(was), at, errors);
}

/// Scheduling gates may only be removed.
fn gates(is: &Value, was: &Value, at: &Path, errors: &mut ErrorList) {
    let (now, before) = (items(is, "schedulingGates"), items(was, "schedulingGates"));
    for (i, gate) in now.iter().enumerate().filter(|(_, g)| !before.contains(g)) {
        let detail =
            format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
        errors.push(Error::forbidden(&at.index(i).child("name"), detail));
    }
}

/// A gated pod may still narrow where it can go.
fn while_gated(munged: &mut Value, was: &Value, path: &Path, errors: &mut ErrorList) {
    let selector = &munged["nodeSelector"];
    let mut kept = was["nodeSelector"].as_object().into_iter().flatten();
    if !kept.all(|(k, v)| selector[k] == *v) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(Error::invalid(&path.child("nodeSelector"), selector.clone(), detail));
    }
    restore(munged, was, "nodeSelector");
    let (now, before) = (&munged["affinity"]["nodeAffinity"], &was["affinity"]["nodeAffinity"]);
    if now == before {
        return;
    }
    node_affinity(now, before, &path.child("affinity").child("nodeAffinity"), errors);
    let alone = munged["affinity"].as_object().is_some_and(|a| a.keys().all(|k| k == "nodeAffinity"));
    if munged["affinity"].is_null() || was["affinity"].is_null() && alone {
        restore(munged, was, "affinity");
        if let Some(affinity) = munged.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.retain(|field, _| field == "nodeAffinity");
        }
    } else if let Some(affinity) = munged.get_mut("affinity") {
        restore(affinity, &was["affinity"], "nodeAffinity");
    }
}

/// Upstream: `validateNodeAffinityMutation`.
fn node_affinity(now: &Value, before: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child(REQUIRED).child("nodeSelectorTerms");
    let (now, before) =
        (items(&now[REQUIRED], "nodeSelectorTerms"), items(&before[REQUIRED], "nodeSelectorTerms"));
    if before.is_empty() {
        return;
    }
    if before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = internal::shown("[]NodeSelectorTerm", &Value::from(now.to_vec()));
        let shown = if now.is_empty() { Value::Null } else { shown };
        errors.push(Error::invalid(&at, shown, detail));
        return;
    }
    for (i, (now, before)) in now.iter().zip(before).enumerate() {
        let lists = ["matchExpressions", "matchFields"];
        let of = |term: &Value| lists.iter().map(|l| items(term, l).len()).sum::<usize>();
        let grows = lists.iter().all(|l| items(now, l).starts_with(items(before, l)));
        if !grows || of(before) == 0 && of(now) > 0 {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(Error::invalid(&at.index(i), internal::shown("NodeSelectorTerm", now), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (field, value) in spec.as_object().unwrap() {
            obj["spec"][field] = value.clone();
        }
        crate::pod_defaults::pod(&mut obj);
        obj
    }

    fn found(new: Value, old: Value) -> Vec<String> {
        errors(&pod(new), &pod(old)).iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidatePodUpdate`.
    #[test]
    fn what_may_change() {
        assert!(
            found(
                json!({"containers": [{"name": "c", "image": "j"}], "activeDeadlineSeconds": 5}),
                json!({})
            )
            .is_empty()
        );
        assert_eq!(
            found(json!({"activeDeadlineSeconds": 6}), json!({"activeDeadlineSeconds": 5})),
            ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"]
        );
        let seconds = |s: i64| json!({"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": s}]});
        assert!(found(seconds(6), seconds(5)).is_empty());
        assert_eq!(found(json!({}), seconds(5)).len(), 1);
        let other = found(json!({"hostname": "x"}), json!({}));
        assert!(other[0].starts_with("spec: Forbidden: pod updates may not change fields"), "{other:?}");
    }

    #[test]
    fn gated_pods_narrow_where_they_can_go() {
        let of = |terms: Value, selector: Value| {
            json!({"schedulingGates": [{"name": "a"}], "nodeSelector": selector,
                "affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}})
        };
        let e = |key: &str| json!({"key": key, "operator": "Exists"});
        let one = json!([{"matchExpressions": [e("a")]}]);
        let two = json!([{"matchExpressions": [e("a"), e("b")]}]);
        assert!(found(of(two.clone(), json!({"x": "y"})), of(one.clone(), json!({}))).is_empty());
        let texts = found(of(one, json!({})), of(two, json!({"x": "y"})));
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            found(
                of(json!([{"matchExpressions": [e("a")]}]), json!({})),
                json!({"schedulingGates": [{"name": "a"}], "nodeSelector": {}})
            )
            .is_empty()
        );
    }
}
