//! Binding of pods: a scheduler tells a pod's node, once (upstream: `pkg/registry/core/pod/storage/storage.go#BindingREST`).

use super::{body, eviction::Admitted};
use crate::context::{Admission, Context};
use crate::reply::Reply;
use kinds::KindDef;
use meta::GroupResource;
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use meta::status::{Reason, Result, Status};
use registry::{Admit, Operation};
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers `POST pods/NAME/binding`, and `POST bindings`, where the binding has the pod's name (upstream:
/// `LegacyBindingREST`).
pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    crate::negotiate::without_table(&ctx.headers)?;
    super::check_create(ctx)?;
    let mut binding = body::of_type(ctx, "v1", "Binding", "io.k8s.api.core.v1.Binding")?;
    body::record_request(ctx, &binding);
    let ns = object::namespace(&binding);
    if !ns.is_empty() && ns != ctx.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = match ctx.info.name.as_str() {
        "" => object::name(&binding).to_owned(),
        name => name.to_owned(),
    };
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    admit.mutate(Operation::Create, &name, &mut binding, None).await?;
    if object::name(&binding) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let errors = check(&binding["target"]);
    if !errors.is_empty() {
        return Err(Status::new(500, Reason::Unknown, meta::field::aggregate(&errors)));
    }
    admit.validate(Operation::Create, &name, Some(&binding), None).await?;
    if name.is_empty() {
        // upstream: `NamespaceKeyFunc`
        return Err(Status::bad_request("Name parameter required."));
    }
    let wrong = kinds::helpers::path_segment_errors(&name, false);
    if !wrong.is_empty() {
        let why = format!("Name parameter invalid: {}: {}", quoted(&name), wrong.join(";"));
        return Err(Status::bad_request(why));
    }
    let pods = ctx.server.registry.kinds().resource("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    let now = meta::time::rfc3339(ctx.server.clock.now());
    let transform = |old: Option<&Value>| {
        let old = old.ok_or_else(|| Status::not_found(&pods.group_resource(), &name))?;
        bound(old, &binding, &now)
    };
    let mut request = ctx.write(&pods, &name, &admit);
    // what was admitted is the binding
    (request.subresource, request.admit) = ("binding", &Admitted);
    ctx.server.registry.update(&request, &transform, false).await?;
    let value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Reply::Document { code: 201, value })
}

/// Upstream: `ValidatePodBinding`.
fn check(target: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("target");
    let (kind, name) = (target["kind"].as_str().unwrap_or(""), target["name"].as_str().unwrap_or(""));
    let to_node = matches!(kind, "" | "Node");
    if !to_node {
        errors.push(Error::text_not_supported(&at.child("kind"), kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    } else if to_node {
        let wrong = kinds::helpers::dns_subdomain_errors(name, false);
        errors.extend(wrong.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
    }
    errors
}

/// The pod with its node set, once (upstream: `setPodNodeAndMetadata`).
fn bound(old: &Value, binding: &Value, now: &str) -> Result<Value> {
    let name = object::name(old);
    let refuse =
        |resource: &str, why: String| Err(Status::conflict(&GroupResource::new("", resource), name, &why));
    for (what, asked, is) in [
        ("UID", object::uid(binding), object::uid(old)),
        ("ResourceVersion", object::resource_version(binding), object::resource_version(old)),
    ] {
        if !asked.is_empty() && asked != is {
            let why =
                format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {is}");
            let key = format!("/pods/{}/{name}", object::namespace(old));
            return refuse(
                "pods",
                format!(
                    "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
                ),
            );
        }
    }
    let refuse = |why: String| refuse("pods/binding", why);
    if object::is_deleting(old) {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", name));
    }
    let current = old["spec"]["nodeName"].as_str().unwrap_or("");
    if !current.is_empty() {
        return refuse(format!(
            "pod {} is already assigned to node {current}",
            name,
            current = quoted(current)
        ));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", name));
    }
    let mut new = old.clone();
    object::remove_meta(&mut new, "resourceVersion");
    new["spec"]["nodeName"] = binding["target"]["name"].clone();
    for field in ["labels", "annotations"] {
        if let (Some(from), Some(to)) =
            (object::meta_map(binding, field), object::map_at(&mut new, &["metadata", field]))
        {
            from.iter().for_each(|(k, v)| drop(to.insert(k.clone(), v.clone())));
        }
        if object::meta_map(&new, field).is_some_and(serde_json::Map::is_empty) {
            object::remove_meta(&mut new, field);
        }
    }
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if let Some(status) = object::map_at(&mut new, &["status"]) {
        let list = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.retain(|c| c["type"] != "PodScheduled");
            list.push(condition);
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(name: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "target": {"kind": "Node", "name": name}})
    }

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}, "status": {}});
        let new = bound(&pod, &binding("n"), "now").expect("bound");
        assert_eq!((&new["spec"]["nodeName"], &new["metadata"]["labels"]["a"]), (&json!("n"), &json!("b")));
        assert_eq!(new["status"]["conditions"][0]["status"], "True");
        let again = bound(&new, &binding("m"), "now").expect_err("bound twice");
        assert!(again.message.ends_with("pod p is already assigned to node \"n\""), "{}", again.message);
        let mut other = binding("n");
        other["metadata"]["uid"] = "v".into();
        let other = bound(&pod, &other, "now").expect_err("another pod");
        assert!(other.message.contains("UID in precondition: v, UID in object meta: u"), "{}", other.message);
    }

    #[test]
    fn a_target_is_a_node() {
        assert_eq!(check(&json!({"name": "n"})), []);
        assert_eq!(check(&json!({"kind": "Pod", "name": ""})).len(), 2);
        assert_eq!(check(&json!({"kind": "Node", "name": "A_b"})).len(), 1);
    }
}
