//! From a request to its verb: which code answers it.

mod bind;
mod body;
pub mod connect;
mod delete;
mod eviction;
mod fields;
mod options;
pub mod owners;
mod patch;
mod read;
mod scale;
mod subresources;
mod watch;
mod write;

use crate::context::Context;
use crate::negotiate;
use crate::reply::Reply;
use crate::reviews;
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::Selectors;
use std::sync::Arc;

/// Answers a resource request.
pub async fn dispatch(ctx: &Context) -> Result<Reply> {
    let info = &ctx.info;
    let kinds = ctx.server.registry.kinds();
    let Some(kind) = kinds.resource(&info.group, &info.version, &info.resource) else {
        return Err(Status::no_such_resource());
    };
    if kind.namespaced() == info.namespace.is_empty() && !all_namespaces(ctx, &kind) {
        let listed = kind.namespaced() && info.name.is_empty() && kind.verbs.contains(&"list");
        return Err(if listed { Status::method_not_allowed() } else { Status::no_such_resource() });
    }
    let served = !info.subresource.is_empty() || routed(&kind, &info.verb, &info.name);
    if !info.subresource.is_empty() {
        return subresources::dispatch(ctx, &kind).await;
    }
    if !served {
        if info.verb == "watch" && kind.verbs.contains(&"list") {
            // the same route, whose handler then knows no watch
            acceptable(ctx, &kind)?;
            watch::check(ctx)?;
            let text = format!("watch is not supported on resources of kind {:?}", kind.plural);
            let mut status = Status::new(405, meta::Reason::MethodNotAllowed, text);
            status.details.get_or_insert_default().kind = kind.group_resource().resource;
            return Err(status);
        }
        return Err(Status::method_not_allowed());
    }
    acceptable(ctx, &kind)?;
    if &*kind.kind == "Binding" && kind.group.is_empty() {
        return bind::create(ctx, &kind).await;
    }
    if kind.storage.is_empty() {
        return reviews::create(ctx, &kind).await;
    }
    match info.verb.as_str() {
        "get" => read::get(ctx, &kind).await,
        "list" => read::list(ctx, &kind).await,
        "watch" => watch::watch(ctx, &kind).await,
        "create" => write::create(ctx, &kind).await,
        "update" => write::update(ctx, &kind).await,
        "patch" => patch::patch(ctx, &kind).await,
        "delete" => delete::delete(ctx, &kind).await,
        "deletecollection" => delete::delete_collection(ctx, &kind).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Refuses a request whose answer the client would not take. What comes so far gets the warnings of its kind.
fn acceptable(ctx: &Context, kind: &KindDef) -> Result<()> {
    if kind.custom.is_none() {
        negotiate::route(&ctx.headers, matches!(ctx.info.verb.as_str(), "list" | "watch"))?;
    }
    deprecated(ctx, kind);
    ctx.unacceptable.clone().map_or(Ok(()), Err)
}

/// Says that the kind is deprecated, where it is.
fn deprecated(ctx: &Context, kind: &KindDef) {
    let own = kind.custom.as_ref().and_then(|c| c.deprecation_warning.as_deref());
    if let Some(warning) = kind.deprecated.or(own) {
        ctx.warnings.add(warning);
        // No kind that is served has a release in which it goes (`k8s.io/removed-release`).
        ctx.audit.annotate("k8s.io/deprecated", "true");
        ctx.server.metrics.deprecated(&ctx.info);
    }
}

/// Whether a verb is one of the collection's or the object's that the path names.
fn routed(kind: &KindDef, verb: &str, name: &str) -> bool {
    let path_fits = match verb {
        "create" => name.is_empty(),
        "get" | "update" | "patch" | "delete" => !name.is_empty(),
        _ => true,
    };
    path_fits && kind.verbs.contains(&verb)
}

/// A request's body as a new object of a review's row.
pub fn new_object(ctx: &Context, kind: &KindDef) -> Result<serde_json::Value> {
    write::new_object(ctx, kind)
}

/// Refuses a create by its media type and options, before its body is looked at.
pub fn check_create(ctx: &Context) -> Result<()> {
    body::check_content_type(ctx)?;
    fields::check(ctx, "CreateOptions", false)
}

/// Refuses a list by its options.
pub fn check_list(ctx: &Context, kind: &KindDef) -> Result<Selectors> {
    let selectors = read::query_without_cursor(ctx)?.selectors;
    selectors.check(kind)?;
    Ok(selectors)
}

/// A request's body as some other type.
pub fn of_type(ctx: &Context, api_version: &str, kind: &str, schema: &str) -> Result<serde_json::Value> {
    body::of_type(ctx, api_version, kind, schema)
}

/// Writes down who set the fields of a new object.
pub fn track(ctx: &Context, kind: &KindDef, obj: &mut serde_json::Value) {
    fields::track(ctx, kind, None, obj);
}

/// Puts a decoded body on the audit record.
pub fn record(ctx: &Context, obj: &serde_json::Value) {
    body::record_request(ctx, obj);
}

/// A namespaced kind may be listed and watched over all namespaces; a namespace is in its own.
fn all_namespaces(ctx: &Context, kind: &Arc<KindDef>) -> bool {
    let across = kind.namespaced() && matches!(ctx.info.verb.as_str(), "list" | "watch");
    across && ctx.info.namespace.is_empty() || kind.plural == "namespaces" && kind.group.is_empty()
}
