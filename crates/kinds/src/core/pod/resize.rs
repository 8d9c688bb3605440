//! The subresource `resize`: other amounts of processor and memory for a pod that runs
//! (upstream: `pkg/registry/core/pod/strategy.go#podResizeStrategy`, `ValidatePodResize`).
//!
//! Invariant: nothing but the resources and resize policies of containers, and the pod's own resources, gets through.

use super::{qos_class, validation};
use crate::rest::{keep, keep_metadata};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Map, Value};

const LISTS: [&str; 2] = ["containers", "initContainers"];
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Puts back what a resize does not change.
pub fn prepare(new: &mut Value, old: &Value) {
    // A change of the containers themselves is left for validation to refuse.
    if LISTS.iter().any(|l| items(&new["spec"], l).len() != items(&old["spec"], l).len()) {
        return;
    }
    let mut spec = old["spec"].clone();
    for list in LISTS {
        let wanted = items(&new["spec"], list);
        let Some(all) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        if all.iter().zip(wanted).any(|(c, w)| text(c, "name") != text(w, "name")) {
            *all = wanted.to_vec();
            continue;
        }
        for (container, wanted) in all.iter_mut().zip(wanted) {
            keep(container, wanted, "resources");
            keep(container, wanted, "resizePolicy");
        }
    }
    // Clients that do not know the pod's own resources leave them out.
    if !new["spec"]["resources"].is_null() {
        keep(&mut spec, &new["spec"], "resources");
    }
    new["spec"] = spec;
    keep(new, old, "status");
    keep_metadata(new, old);
}

/// Errors of a resize.
pub fn errors(new: &Value, old: &Value) -> ErrorList {
    let at = Path::new("spec");
    let mut errors = validation::existing(new, old);
    let refused = |why: &str| vec![Error::forbidden(&Path::new(""), why)];
    if object::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return refused("static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return refused("windows pods cannot be resized");
    }
    let class = match text(&old["status"], "qosClass") {
        "" => qos_class(&old["spec"]),
        class => class,
    };
    if class != qos_class(&new["spec"]) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(Error::invalid(&at, text(&new["status"], "qosClass"), detail));
    }
    if !node_can(old) {
        errors.push(Error::forbidden(&at, "Pod running on node without support for resize"));
    }
    let mut rest = new["spec"].clone();
    pod_level(&mut rest, &old["spec"], &at, &mut errors);
    if !in_order(new, old, &at, &mut errors) {
        return errors;
    }
    for list in ["initContainers", "containers"] {
        for (i, (is, was)) in items(&new["spec"], list).iter().zip(items(&old["spec"], list)).enumerate() {
            let at = at.child(list).index(i).child("resources");
            let what = |kind: &str| format!("resource {kind} cannot be removed");
            for kind in ["requests", "limits"] {
                if removed(&is["resources"][kind], &was["resources"][kind]) {
                    errors.push(Error::forbidden(&at.child(kind), what(kind)));
                }
            }
        }
    }
    containers(&mut rest, &old["spec"], &at, &mut errors);
    init_containers(&mut rest, &old["spec"], &at, &mut errors);
    if new["spec"]["volumes"] != old["spec"]["volumes"] {
        let detail = "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled";
        errors.push(Error::forbidden(&at.child("volumes"), detail));
    }
    if errors.is_empty() && rest != old["spec"] {
        errors.push(Error::forbidden(&at, "only cpu and memory resources are mutable"));
    }
    errors
}

/// Whether the node says what its containers have; before any runs, it is taken to.
fn node_can(old: &Value) -> bool {
    let running =
        items(&old["status"], "containerStatuses").iter().find(|c| !c["state"]["running"].is_null());
    running.is_none_or(|c| !c["resources"].is_null())
}

fn len(v: &Value) -> usize {
    v.as_object().map_or(0, Map::len)
}

fn removed(new: &Value, old: &Value) -> bool {
    old.as_object().into_iter().flatten().any(|(name, _)| new[name].is_null())
}

/// Upstream: `validatePodLevelResourcesResize`.
fn pod_level(rest: &mut Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let set = |v: &Value| len(&v["resources"]["requests"]) + len(&v["resources"]["limits"]) > 0;
    if !set(rest) && !set(old) {
        return;
    }
    let at_resources = at.child("resources");
    if !old["resources"].is_null() && rest["resources"].is_null() {
        errors.push(Error::forbidden(&at_resources, "pod-level resources cannot be removed"));
        return;
    }
    for (kind, one) in [("requests", "request"), ("limits", "limit")] {
        if removed(&rest["resources"][kind], &old["resources"][kind]) {
            let detail = format!("pod-level resource {one}s cannot be removed");
            errors.push(Error::forbidden(&at_resources.child(kind), detail));
        }
    }
    put_back(rest, old);
    if rest["resources"] != old["resources"] {
        errors.push(Error::forbidden(at, "only cpu and memory resources are mutable at pod-level"));
    }
}

/// Gives a holder of resources the amounts of processor and memory that it had.
fn put_back(holder: &mut Value, old: &Value) {
    for kind in ["limits", "requests"] {
        let was = &old["resources"][kind];
        let mut list = holder["resources"][kind].as_object().cloned().unwrap_or_default();
        for name in RESIZABLE {
            match was.get(name) {
                Some(amount) => drop(list.insert(name.to_owned(), amount.clone())),
                None => drop(list.remove(name)),
            }
        }
        let Some(resources) = object::map_at(holder, &["resources"]) else { continue };
        if list.is_empty() && was.is_null() {
            resources.remove(kind);
        } else {
            resources.insert(kind.to_owned(), list.into());
        }
    }
    if old.get("resources").is_none() && len(&holder["resources"]) == 0 {
        keep(holder, old, "resources");
    }
}

/// Upstream: `validatePodResizeContainerOrdering`.
fn in_order(new: &Value, old: &Value, at: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    for list in LISTS {
        let (is, was) = (items(&new["spec"], list), items(&old["spec"], list));
        let at = at.child(list);
        if is.len() != was.len() {
            errors.push(Error::forbidden(&at, format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (i, (is, was)) in is.iter().zip(was).enumerate() {
            if text(is, "name") != text(was, "name") {
                let detail = format!("{list} may not be renamed or reordered on resize");
                errors.push(Error::forbidden(&at.index(i).child("name"), detail));
            }
        }
    }
    errors.len() == before
}

fn containers(rest: &mut Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let all = rest.get_mut("containers").and_then(Value::as_array_mut);
    for (container, was) in all.into_iter().flatten().zip(items(old, "containers")) {
        put_back(container, was);
        if container != was {
            errors.push(Error::forbidden(at, "only cpu and memory resources are mutable"));
        }
    }
}

fn init_containers(rest: &mut Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let all = rest.get_mut("initContainers").and_then(Value::as_array_mut);
    for (i, (container, was)) in all.into_iter().flatten().zip(items(old, "initContainers")).enumerate() {
        let at = at.child("initContainers").index(i);
        let modified = container != was;
        put_back(container, was);
        if container != was {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(Error::forbidden(&at, detail));
        }
        let restarts =
            items(container, "resizePolicy").iter().filter(|p| p["restartPolicy"] == "RestartContainer");
        if modified && container["restartPolicy"] != "Always" {
            let detail =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.extend(restarts.map(|_| Error::forbidden(&at, detail)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(requests: Value, limits: Value) -> Value {
        let mut obj = json!({
            "metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}}]},
        });
        crate::pod_defaults::pod(&mut obj);
        obj["status"] = json!({"qosClass": qos_class(&obj["spec"])});
        obj
    }

    fn refused(new: &Value, old: &Value) -> Vec<String> {
        let mut new = new.clone();
        prepare(&mut new, old);
        errors(&new, old).iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidatePodResize`.
    #[test]
    fn what_a_resize_may_change() {
        let old = pod(json!({"cpu": "100m", "memory": "100Mi"}), json!({"cpu": "200m", "memory": "200Mi"}));
        let of = |cpu: &str, memory: &str| {
            pod(json!({"cpu": cpu, "memory": memory}), json!({"cpu": "200m", "memory": "200Mi"}))
        };
        assert!(refused(&of("150m", "100Mi"), &old).is_empty());
        assert!(refused(&of("150m", "50Mi"), &old).is_empty());
        assert_eq!(
            refused(&of("200m", "200Mi"), &old),
            ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]
        );
        let fewer = pod(json!({"memory": "100Mi"}), json!({"cpu": null, "memory": "200Mi"}));
        let messages = refused(&fewer, &old);
        assert!(
            messages.contains(
                &"spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"
                    .to_owned()
            ),
            "{messages:?}"
        );
        let mut disk = of("100m", "100Mi");
        disk["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = "1Gi".into();
        assert_eq!(refused(&disk, &old), ["spec: Forbidden: only cpu and memory resources are mutable"]);
        let mut two = old.clone();
        two["spec"]["containers"] = json!([old["spec"]["containers"][0], old["spec"]["containers"][0]]);
        two["spec"]["containers"][1]["name"] = "d".into();
        assert_eq!(
            refused(&two, &old),
            ["spec.containers: Forbidden: containers may not be added or removed on resize"]
        );
        let mut mirror = old.clone();
        object::set_meta(&mut mirror, "annotations", json!({"kubernetes.io/config.mirror": "x"}));
        assert_eq!(errors(&old, &mirror)[0].body(), "Forbidden: static pods cannot be resized");
        let mut old_node = old.clone();
        old_node["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
        assert_eq!(
            refused(&of("150m", "100Mi"), &old_node),
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
    }

    #[test]
    fn all_else_stays() {
        let old = pod(json!({"cpu": "100m"}), json!({"cpu": "200m"}));
        let mut new = old.clone();
        new["spec"]["nodeName"] = "n".into();
        new["spec"]["containers"][0]["image"] = "other".into();
        new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "150m".into();
        object::set_meta(&mut new, "labels", json!({"x": "y"}));
        prepare(&mut new, &old);
        let mut wanted = old.clone();
        wanted["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "150m".into();
        assert_eq!(new, wanted);
    }
}
