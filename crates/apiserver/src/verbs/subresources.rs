//! Subresources: which code answers each.

use super::{bind, connect, eviction, patch, scale, write};
use crate::context::Context;
use crate::reply::Reply;
use crate::tokens;
use kinds::KindDef;
use meta::status::{Result, Status};
use std::sync::Arc;

pub async fn dispatch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let info = &ctx.info;
    let Some(sub) = kind.subresource(&info.subresource) else {
        return Err(Status::no_such_resource());
    };
    if !sub.verbs.contains(&info.verb.as_str()) {
        return Err(Status::method_not_allowed());
    }
    // answers of these are no objects: any `Accept` will do
    if !matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        super::acceptable(ctx, kind)?;
    } else {
        super::deprecated(ctx, kind);
    }
    if !kind.strategy.has_table(&info.subresource) {
        crate::negotiate::without_table(&ctx.headers)?;
    }
    match (info.resource.as_str(), info.subresource.as_str(), info.verb.as_str()) {
        (_, "scale", _) => scale::dispatch(ctx, kind).await,
        ("pods", "binding", "create") => bind::create(ctx, kind).await,
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
