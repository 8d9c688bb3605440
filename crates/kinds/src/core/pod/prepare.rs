//! What becomes of a new Pod before it is checked (upstream: `pkg/registry/core/pod/strategy.go#PrepareForCreate`).

use super::validation::{all_containers, apparmor_profile};
use crate::amounts::Amounts;
use crate::pod_resources::{Side, is_whole, of_containers};
use crate::resources::{is_huge_page, is_overcommit_allowed};
use crate::validate::{items, text};
use meta::field::Path;
use meta::object;
use serde_json::{Value, json};

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Adds to selectors the labels of the pod that they name by key (upstream: `mutatePodAffinity`,
/// `mutateTopologySpreadConstraints`).
pub fn label_keys(obj: &mut Value) {
    let labels = obj["metadata"]["labels"].clone();
    let Some(spec) = obj.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(&format!("/affinity/{kind}")).filter(|a| a.is_object()) else {
            continue;
        };
        for field in [
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        ] {
            for term in affinity.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                let inner = field.starts_with("preferred");
                let Some(term) = (if inner { term.get_mut("podAffinityTerm") } else { Some(term) }) else {
                    continue;
                };
                apply(term, &labels);
            }
        }
    }
    let spread = spec.get_mut("topologySpreadConstraints").and_then(Value::as_array_mut);
    spread.into_iter().flatten().for_each(|c| apply(c, &labels));
}

fn apply(term: &mut Value, labels: &Value) {
    let mut more = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(term, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels[key].as_str() {
                more.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if more.is_empty() {
        return;
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(list) = expressions.as_array_mut() {
        list.extend(more);
    }
}

/// The field that an annotation of old stands for, if there is one (upstream: `ApparmorFieldForAnnotation`).
fn profile_of(annotation: &str) -> Option<Value> {
    let field = match annotation {
        "unconfined" => json!({"type": "Unconfined"}),
        "runtime/default" => json!({"type": "RuntimeDefault"}),
        other => {
            let local = other.strip_prefix("localhost/").filter(|l| !l.is_empty())?;
            json!({"type": "Localhost", "localhostProfile": local})
        }
    };
    let mut errors = Vec::new();
    apparmor_profile(&field, &Path::root(), &mut errors);
    errors.is_empty().then_some(field)
}

/// What to do for a container whose profile is an annotation: the field to set, and whether to warn.
fn from_annotation(obj: &Value, c: &Value) -> Option<(String, Option<Value>)> {
    if obj["spec"]["os"]["name"] == "windows" || !c["securityContext"]["appArmorProfile"].is_null() {
        return None;
    }
    let key = format!("{APPARMOR}{}", text(c, "name"));
    let field = profile_of(object::annotation(obj, &key)?);
    match field {
        Some(field) if field == obj["spec"]["securityContext"]["appArmorProfile"] => None,
        field => Some((key, field)),
    }
}

/// Turns annotations of AppArmor into fields (upstream: `applyAppArmorVersionSkew`).
pub fn apparmor(obj: &mut Value) {
    if !object::meta_map(obj, "annotations").is_some_and(|m| m.keys().any(|k| k.starts_with(APPARMOR))) {
        return;
    }
    for list in LISTS {
        for i in 0..items(&obj["spec"], list).len() {
            if let Some((_, Some(field))) = from_annotation(obj, &obj["spec"][list][i]) {
                obj["spec"][list][i]["securityContext"]["appArmorProfile"] = field;
            }
        }
    }
}

/// The warnings of that, told of the Pod as it was sent.
pub fn apparmor_warnings(obj: &Value) -> Vec<String> {
    let annotations = Path::new("metadata").child("annotations");
    let all = all_containers(&obj["spec"], &Path::root());
    let keys = all.into_iter().filter_map(|(c, _)| from_annotation(obj, c)).map(|(key, _)| key);
    keys.map(|key| {
        format!(
            "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            annotations.key(&key)
        )
    })
    .collect()
}

/// What a pod that asks for something as a whole asks for besides (upstream: `DefaultPodLevelResources`).
pub fn whole(spec: &mut Value) {
    let side = |spec: &Value, side: &str| Amounts::of(&spec["resources"][side]);
    let (mut limits, mut requests) = (side(spec, "limits"), side(spec, "requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    let (of_limits, of_requests) = (of_containers(spec, Side::Limits), of_containers(spec, Side::Requests));
    for (name, sum) in of_limits.iter().filter(|(n, _)| is_huge_page(n)) {
        if requests.get(name).is_none() && limits.get(name).is_none() {
            limits.set(name.clone(), sum.clone());
        }
    }
    for (name, sum) in of_requests.iter().filter(|(n, _)| is_whole(n) && is_overcommit_allowed(n)) {
        if requests.get(name).is_none() {
            requests.set(name.clone(), sum.clone());
        }
    }
    for (name, limit) in limits.iter().filter(|(n, _)| is_whole(n)) {
        if requests.get(name).is_none() {
            requests.set(name.clone(), limit.clone());
        }
    }
    let all = |name: &str| {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let mut containers = lists.into_iter().flat_map(|l| items(spec, l));
        containers.all(|c| !c["resources"]["limits"][name].is_null())
    };
    let open: Vec<String> = requests
        .names()
        .filter(|n| is_whole(n) && limits.get(n).is_none() && all(n))
        .map(str::to_owned)
        .collect();
    for name in open {
        let (Some(sum), Some(asked)) = (of_limits.get(&name), requests.get(&name)) else { continue };
        let larger = if asked > sum { asked } else { sum };
        limits.set(name, larger.clone());
    }
    for (field, list) in [("limits", limits), ("requests", requests)] {
        if !list.is_empty() {
            spec["resources"][field] = list.to_value();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_expressions() {
        let mut pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
            "topologySpreadConstraints": [{"matchLabelKeys": ["a", "c"], "labelSelector": {}}],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"podAffinityTerm": {"mismatchLabelKeys": ["b"], "labelSelector": {"matchLabels": {"x": "y"}}}}]}}}});
        label_keys(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]})
        );
        let term =
            &pod["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(
            term["podAffinityTerm"]["labelSelector"]["matchExpressions"],
            json!([{"key": "b", "operator": "NotIn", "values": ["2"]}])
        );
    }

    #[test]
    fn annotations_become_fields() {
        let key = format!("{APPARMOR}c");
        let of = |value: &str| json!({"metadata": {"annotations": {key.as_str(): value}}, "spec": {"containers": [{"name": "c"}]}});
        let mut pod = of("localhost/x");
        assert_eq!(apparmor_warnings(&pod).len(), 1);
        apparmor(&mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"],
            json!({"type": "Localhost", "localhostProfile": "x"})
        );
        assert!(apparmor_warnings(&pod).is_empty());
        let mut odd = of("nope");
        apparmor(&mut odd);
        assert_eq!((apparmor_warnings(&odd).len(), odd.clone()), (1, of("nope")));
    }

    #[test]
    fn the_whole_is_the_sum() {
        let takes = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
        let mut spec =
            json!({"resources": {"limits": {"memory": "1Gi"}}, "containers": [takes("1"), takes("2")]});
        whole(&mut spec);
        assert_eq!(
            spec["resources"],
            json!({"limits": {"cpu": "3", "memory": "1Gi"}, "requests": {"cpu": "3", "memory": "1Gi"}})
        );
    }
}
