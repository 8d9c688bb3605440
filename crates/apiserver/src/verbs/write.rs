//! Create and update.

use super::{body, fields, owners};
use crate::codec;
use crate::context::{Admission, Context};
use crate::negotiate::{Format, View};
use crate::reply::Reply;
use kinds::KindDef;
use meta::object;
use meta::status::{Result, Status};
use registry::Written;
use serde_json::Value;
use std::sync::Arc;

pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let mut obj = new_object(ctx, kind)?;
    fields::track(ctx, kind, None, &mut obj);
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    let name = object::name(&obj).to_owned();
    let written = ctx.server.registry.create(&ctx.write(kind, &name, &admit), obj).await?;
    reply(ctx, kind, written).await
}

/// The object that a create sends, without what clients cannot set, in the request's namespace.
pub fn new_object(ctx: &Context, kind: &KindDef) -> Result<Value> {
    super::check_create(ctx)?;
    let mut obj = body::object(ctx, kind, &ctx.body)?;
    body::record_request(ctx, &obj);
    registry::wipe_system_fields(&mut obj);
    registry::match_namespace(kind, &ctx.info.namespace, &mut obj)?;
    once(ctx, &mut obj);
    Ok(obj)
}

/// PUT of an object or of a subresource that shares its body.
pub async fn update(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    fields::check(ctx, "UpdateOptions", false)?;
    body::check_content_type(ctx)?;
    let mut obj = body::object(ctx, kind, &ctx.body)?;
    body::record_request(ctx, &obj);
    registry::match_namespace(kind, &ctx.info.namespace, &mut obj)?;
    check_name(ctx, &obj)?;
    once(ctx, &mut obj);
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    let transform = |old: Option<&Value>| {
        let mut new = named(&obj, &ctx.info.name);
        fields::track(ctx, kind, old, &mut new);
        Ok(new)
    };
    let written =
        ctx.server.registry.update(&ctx.write(kind, &ctx.info.name, &admit), &transform, false).await?;
    reply(ctx, kind, written).await
}

/// Keeps each owner once, and says so.
pub fn once(ctx: &Context, obj: &mut Value) {
    if let Some(warning) = owners::dedup(obj, owners::When::AsSent) {
        ctx.warnings.add(&warning);
    }
}

/// The body's name must be the URL's (upstream: `scopeNamer.ObjectName` checks in `update.go`).
pub fn check_name(ctx: &Context, obj: &Value) -> Result<()> {
    let name = object::name(obj);
    if name == ctx.info.name {
        return Ok(());
    }
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            ctx.info.name
        )));
    }
    Err(Status::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({})",
        ctx.info.name
    )))
}

fn named(obj: &Value, name: &str) -> Value {
    let mut obj = obj.clone();
    object::set_meta(&mut obj, "name", name);
    obj
}

/// A stored object in the row's version, with the status code that tells whether it is new.
pub async fn reply(ctx: &Context, kind: &Arc<KindDef>, written: Written) -> Result<Reply> {
    for w in &written.warnings {
        ctx.warnings.add(w);
    }
    let code = if written.created { 201 } else { 200 };
    let mut bytes = ctx.server.registry.in_version(kind, written.bytes).await?;
    if ctx.accepted.view == View::Object
        && ctx.accepted.encoding.format == Format::Protobuf
        && let Some(mut tree) = written.tree
    {
        object::set_meta(&mut tree, "resourceVersion", written.revision.to_string());
        codec::keep_message(kind, &bytes, &tree, &ctx.server.encoded)?;
    }
    if written.created && ctx.dry_run() {
        // what was not stored has no revision, if not that which was sent
        let mut shown: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        if object::resource_version(&shown).is_empty() {
            object::remove_meta(&mut shown, "resourceVersion");
            bytes = shown.to_string().into();
        }
    }
    Ok(Reply::Object { code, kind: Some(kind.clone()), bytes })
}
