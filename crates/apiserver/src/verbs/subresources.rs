//! Subresources: which code answers each.

use super::{body, connect, eviction, patch, scale, write};
use crate::context::{Admission, Context};
use crate::reply::Reply;
use crate::tokens;
use kinds::KindDef;
use meta::object;
use meta::status::{Result, Status};
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn dispatch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let info = &ctx.info;
    let Some(sub) = kind.subresource(&info.subresource) else {
        return Err(Status::no_such_resource());
    };
    if !sub.verbs.contains(&info.verb.as_str()) {
        return Err(Status::method_not_allowed());
    }
    match (info.resource.as_str(), info.subresource.as_str(), info.verb.as_str()) {
        (_, "scale", _) => scale::dispatch(ctx, kind).await,
        ("pods", "binding", "create") => bind(ctx, kind).await,
        ("pods", "eviction", "create") => eviction::create(ctx, kind).await,
        ("pods", "log" | "exec" | "attach" | "portforward" | "proxy", _) => connect::pod(ctx, kind).await,
        ("nodes", "proxy", _) => connect::node(ctx, kind).await,
        ("serviceaccounts", "token", "create") => tokens::request(ctx, kind).await,
        // The rest share the object's body: status, finalize, approval …
        (_, _, "get") => {
            let bytes = ctx.server.registry.get(&ctx.permit, kind, &info.namespace, &info.name, "").await?;
            Ok(Reply::Object { code: 200, kind: Some(kind.clone()), bytes })
        }
        (_, _, "update") => write::update(ctx, kind).await,
        (_, _, "patch") => patch::patch(ctx, kind).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Assigns a pod to a node (upstream: `pkg/registry/core/pod/storage/storage.go#BindingREST`).
async fn bind(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    super::check_create(ctx)?;
    let binding = body::of_type(ctx, "v1", "Binding", "io.k8s.api.core.v1.Binding")?;
    body::record_request(ctx, &binding);
    let node = binding["target"]["name"].as_str().unwrap_or("").to_owned();
    let target_kind = binding["target"]["kind"].as_str().unwrap_or("");
    let mut errors = Vec::new();
    let target = meta::field::Path::new("target");
    if !target_kind.is_empty() && target_kind != "Node" {
        errors.push(meta::field::Error::not_supported(
            &target.child("kind"),
            target_kind,
            &["Node", "<empty>"],
        ));
    }
    if node.is_empty() {
        errors.push(meta::field::Error::required(&target.child("name"), ""));
    }
    let gk = meta::GroupKind { group: String::new(), kind: "Binding".into() };
    if !errors.is_empty() {
        return Err(Status::invalid(&gk, &ctx.info.name, &errors));
    }
    let now = meta::time::rfc3339(ctx.server.clock.now());
    let transform = |old: Option<&Value>| {
        let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &ctx.info.name))?;
        bound(ctx, old, &binding, &node, &now)
    };
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    ctx.server.registry.update(&ctx.write(kind, &ctx.info.name, &admit), &transform, false).await?;
    let value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Reply::Document { code: 201, value })
}

/// The pod with its node set, once (upstream: `setPodNodeAndMetadata`).
fn bound(ctx: &Context, old: &Value, binding: &Value, node: &str, now: &str) -> Result<Value> {
    let refuse = |why: String| {
        Err(Status::conflict(&meta::GroupResource::new("", "pods/binding"), &ctx.info.name, &why))
    };
    let uid = object::uid(binding);
    if !uid.is_empty() && uid != object::uid(old) {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(old)
        ));
    }
    if object::is_deleting(old) {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", ctx.info.name));
    }
    let current = old["spec"]["nodeName"].as_str().unwrap_or("");
    if !current.is_empty() {
        return refuse(format!("pod {} is already assigned to node {current:?}", ctx.info.name));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", ctx.info.name));
    }
    let mut new = old.clone();
    object::remove_meta(&mut new, "resourceVersion");
    new["spec"]["nodeName"] = node.into();
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
