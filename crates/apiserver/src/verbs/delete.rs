//! Delete and deletecollection.

use super::{body, read};
use crate::context::{Admission, Context};
use crate::reply::Reply;
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object;
use meta::status::{Result, Status};
use registry::{DeleteOptions, Deleted};
use serde_json::{Value, json};
use std::sync::Arc;

const IGNORE_READ_ERRORS: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

pub async fn delete(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let options = options(ctx)?;
    if options.ignore_read_errors {
        // what deletes the unreadable knows no kinds (upstream: `CorruptObjectDeleterProvider`)
        if !kind.strategy.deletes_unread() {
            let why =
                "no unsafe deleter provided, can not honor ignoreStoreReadErrorWithClusterBreakingPotential";
            return Err(Status::internal(why));
        }
    } else {
        warn(ctx, kind, &options);
        if let Some(why) = kind.strategy.stays(&ctx.info.name) {
            return Err(Status::forbidden(&kind.group_resource(), &ctx.info.name, why));
        }
    }
    let admit = Admission { ctx, kind, dry_run: options.dry_run };
    let request = ctx.write(kind, &ctx.info.name, &admit);
    let orphan_by_field = options.orphan_dependents == Some(false);
    match ctx.server.registry.delete(&request, &options).await? {
        Deleted::Gone(bytes) if kind.strategy.returns_deleted() => object_reply(ctx, kind, 200, bytes).await,
        Deleted::Gone(bytes) => {
            let obj: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            Ok(Reply::Document { code: 200, value: success(ctx, object::name(&obj), object::uid(&obj)) })
        }
        // Upstream accepts, rather than finishes, a foreground deletion asked for by the old field.
        Deleted::Pending(bytes) => {
            object_reply(ctx, kind, if orphan_by_field { 202 } else { 200 }, bytes).await
        }
    }
}

pub async fn delete_collection(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let selectors = read::query_without_cursor(ctx)?.selectors;
    selectors.fields.keys().try_for_each(|field| kind.check_field(field)).map_err(Status::bad_request)?;
    let options = options(ctx)?;
    if options.ignore_read_errors {
        let text = "is not allowed with DELETECOLLECTION, try again after removing the option";
        let error = Error::invalid(&Path::new(IGNORE_READ_ERRORS), true, text);
        let gk = meta::GroupKind { group: "meta.k8s.io".into(), kind: "DeleteOptions".into() };
        return Err(Status::invalid(&gk, "", &vec![error]));
    }
    let query = read::query(ctx, kind)?;
    warn(ctx, kind, &options);
    let admit = Admission { ctx, kind, dry_run: options.dry_run };
    let request = ctx.write(kind, "", &admit);
    let listed = ctx.server.registry.delete_collection(&request, query, &options).await?;
    Ok(Reply::List { kind: kind.clone(), listed })
}

fn warn(ctx: &Context, kind: &KindDef, options: &DeleteOptions) {
    let unsaid = options.propagation.is_none() && options.orphan_dependents.is_none();
    if let Some(warning) = kind.strategy.delete_warning().filter(|_| unsaid) {
        ctx.warnings.add(warning);
    }
}

async fn object_reply(ctx: &Context, kind: &Arc<KindDef>, code: u16, bytes: bytes::Bytes) -> Result<Reply> {
    let bytes = ctx.server.registry.in_version(kind, bytes).await?;
    Ok(Reply::Object { code, kind: Some(kind.clone()), bytes })
}

/// The options come in the body or, without one, in the query.
pub fn options(ctx: &Context) -> Result<DeleteOptions> {
    if !ctx.body.is_empty() {
        let value = body::delete_options(ctx)?;
        return DeleteOptions::from_value(&value);
    }
    let q = &ctx.info.query;
    let mut value = json!({});
    if let Some(seconds) = read::integer(ctx, "gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = seconds.into();
    }
    if q.has(IGNORE_READ_ERRORS) {
        value[IGNORE_READ_ERRORS] = q.flag(IGNORE_READ_ERRORS).into();
    }
    if q.has("propagationPolicy") {
        value["propagationPolicy"] = q.get("propagationPolicy").into();
    }
    if q.has("orphanDependents") {
        value["orphanDependents"] = q.flag("orphanDependents").into();
    }
    let dry_run: Vec<&str> = q.all("dryRun").collect();
    if !dry_run.is_empty() {
        value["dryRun"] = dry_run.into();
    }
    // upstream: `Convert_url_Values_To_v1_DeleteOptions`
    for field in ["uid", "resourceVersion"] {
        if !q.get(field).is_empty() {
            value["preconditions"][field] = q.get(field).into();
        }
    }
    DeleteOptions::from_value(&value)
}

/// The Status of a finished delete.
fn success(ctx: &Context, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": ctx.info.resource, "uid": uid});
    if !ctx.info.group.is_empty() {
        details["group"] = ctx.info.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
