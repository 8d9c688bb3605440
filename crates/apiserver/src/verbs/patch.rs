//! Patch: JSON, merge and strategic merge (upstream: apiserver `pkg/endpoints/handlers/patch.go`).

use super::{body, write};
use crate::context::{Admission, Context};
use crate::reply::Reply;
use kinds::KindDef;
use meta::object;
use meta::status::{Result, Status};
use serde_json::Value;
use std::sync::Arc;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch read from a body.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

pub async fn patch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let patch = read(ctx)?;
    if kind.is_custom() && matches!(patch, Patch::Strategic(_)) {
        return Err(Status::unsupported_media_type(&[JSON, MERGE, "application/apply-patch+yaml"]));
    }
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run()? };
    let transform = |old: Option<&Value>| {
        let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &ctx.info.name))?;
        let patched = apply(&patch, old, kind)?;
        checked(ctx, kind, patched, old)
    };
    let written =
        ctx.server.registry.update(&ctx.write(kind, &ctx.info.name, &admit), &transform, false).await?;
    write::reply(ctx, kind, written).await
}

/// Reads the patch and puts it on the audit record.
pub fn read(ctx: &Context) -> Result<Patch> {
    let content_type = ctx.content_type().to_owned();
    if !matches!(content_type.as_str(), JSON | MERGE | STRATEGIC) {
        return Err(Status::unsupported_media_type(&[JSON, MERGE, STRATEGIC]));
    }
    let value: Value = body::json(&ctx.body).map_err(Status::bad_request)?;
    ctx.audit.request_object(&ctx.body);
    Ok(match content_type.as_str() {
        JSON => Patch::Json(value),
        MERGE => Patch::Merge(value),
        _ => Patch::Strategic(value),
    })
}

/// The object after the patch, before it is checked.
pub fn apply(patch: &Patch, old: &Value, kind: &KindDef) -> Result<Value> {
    let mut new = old.clone();
    match patch {
        Patch::Json(p) => meta::patch::json::apply(&mut new, p)?,
        Patch::Merge(p) => {
            if !p.is_object() {
                return Err(Status::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                    body::go_kind(p)
                )));
            }
            meta::patch::merge::apply(&mut new, p);
        }
        Patch::Strategic(p) => {
            let schema = kinds::schema::schema();
            meta::patch::strategic::apply(&mut new, p, schema, &kind.schema)?;
        }
    }
    Ok(new)
}

/// A patched object goes through the same decoding as one that was sent.
fn checked(ctx: &Context, kind: &KindDef, patched: Value, old: &Value) -> Result<Value> {
    let same_kind = patched["kind"] == old["kind"] && patched["apiVersion"] == old["apiVersion"];
    if !same_kind {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            patched["apiVersion"].as_str().unwrap_or(""),
            kind.api_version()
        )));
    }
    if object::name(&patched) != ctx.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object::name(&patched),
            ctx.info.name
        )));
    }
    body::typed(ctx, kind, patched).map_err(|mut s| {
        // Upstream calls a patch that makes an object of the wrong shape unprocessable.
        if s.code == 400 && !s.message.starts_with("strict decoding") {
            s.code = 422;
            s.reason = meta::Reason::Invalid;
        }
        s
    })
}
