//! Patch: JSON, merge and strategic merge (upstream: apiserver `pkg/endpoints/handlers/patch.go`).

use super::{body, fields, write};
use crate::context::{Admission, Context};
use crate::filters::authorization::attributes;
use crate::reply::Reply;
use kinds::KindDef;
use meta::object;
use meta::status::{Reason, Result, Status};
use serde_json::Value;
use std::sync::Arc;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch read from a body.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// An applied configuration, and what is wrong with its text for strict readers.
    Apply(Value, Vec<String>),
    /// A configuration that cannot be read, which is told of an object that is there or may be made.
    Unread(Status),
}

pub async fn patch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let patch = read(ctx)?;
    let is_apply = matches!(patch, Patch::Apply(..) | Patch::Unread(_));
    if kind.is_custom() && matches!(patch, Patch::Strategic(_)) {
        return Err(Status::unsupported_media_type(&[JSON, MERGE, APPLY]));
    }
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    let transform = |old: Option<&Value>| {
        match &patch {
            Patch::Apply(config, problems) => return applied(ctx, kind, old, config, problems),
            Patch::Unread(status) => return Err(status.clone()),
            _ => {}
        }
        let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &ctx.info.name))?;
        let mut new = patched(ctx, kind, &patch, old)?;
        fields::track(ctx, kind, Some(old), &mut new);
        Ok(new)
    };
    // What is applied is made when it is not there; a subresource has no object of its own to make. One that goes
    // meanwhile is not made anew: nobody asked whether that is permitted.
    let there = ctx.server.registry.store().get(&kind.key(&ctx.info.namespace, &ctx.info.name)).is_some();
    let own = ctx.info.subresource.is_empty() || kind.strategy.made_by(&ctx.info.subresource);
    let creates = is_apply && !there && own;
    if is_apply && !there && !own && kind.strategy.create_on_update() {
        // Upstream makes an object of its status then, and only finds later that nothing comes of it.
        transform(None)?;
    }
    if creates {
        // Upstream: `withAuthorization` in `patch.go`.
        let mut attributes = attributes(&ctx.info, &ctx.user);
        attributes.verb = "create".into();
        ctx.server.authorizer.require(&attributes).await?;
    }
    let written =
        ctx.server.registry.update(&ctx.write(kind, &ctx.info.name, &admit), &transform, creates).await?;
    write::reply(ctx, kind, written).await
}

/// Checks the options, reads the patch and puts it on the audit record.
pub fn read(ctx: &Context) -> Result<Patch> {
    let content_type = ctx.content_type().to_owned();
    let is_apply = matches!(content_type.as_str(), APPLY | APPLY_CBOR);
    if is_apply {
        fields::check(ctx, "PatchOptions", true)?;
        return read_config(ctx, &content_type);
    }
    if !matches!(content_type.as_str(), JSON | MERGE | STRATEGIC) {
        // the router's own answer
        let mut status = Status::unsupported_media_type(&[]);
        status.message = "415: Unsupported Media Type".into();
        status.details = Some(meta::status::Details::default());
        return Err(status);
    }
    fields::check(ctx, "PatchOptions", false)?;
    let value: Value = body::json(&ctx.body).map_err(|_| Status::bad_request("invalid JSON patch"))?;
    ctx.audit.request_object(&ctx.body);
    Ok(match content_type.as_str() {
        JSON => Patch::Json(value),
        MERGE => Patch::Merge(value),
        _ => Patch::Strategic(value),
    })
}

fn read_config(ctx: &Context, content_type: &str) -> Result<Patch> {
    // What looks like JSON goes onto the record as it is, and is read as YAML when it is applied.
    let json = ctx.body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let wrong = |head: &str, e: String| Status::bad_request(format!("{head}{e}"));
    let (value, duplicates) = match content_type {
        APPLY_CBOR => {
            let read = crate::codec::from_cbor(&ctx.body);
            (read.map_err(|e| wrong("error decoding patch: ", e))?, Vec::new())
        }
        _ => match meta::yaml::parse_yaml(&ctx.body, body::BODY_BYTES_MAX).map_err(|e| e.to_string()) {
            Ok(read) => read,
            Err(e) if !e.starts_with("yaml: ") => return Err(wrong("error decoding patch: ", e)),
            Err(e) if json => {
                ctx.audit.request_object(&ctx.body);
                return Ok(Patch::Unread(wrong("error decoding patch: error converting YAML to JSON: ", e)));
            }
            Err(e) => return Err(wrong("error encoding patch: ", e)),
        },
    };
    ctx.audit.request_value(&value);
    Ok(Patch::Apply(value, duplicates))
}

/// The object after an applied configuration, checked like one that was sent.
pub fn applied(
    ctx: &Context,
    kind: &KindDef,
    old: Option<&Value>,
    config: &Value,
    problems: &[String],
) -> Result<Value> {
    let mut new = fields::apply(ctx, kind, old, config)?;
    let managed = new["metadata"].get("managedFields").cloned();
    // upstream gives what its converter says as it is
    let unfit = |why: &str| {
        let (object, gvk) = (fields::named(config, kind), fields::type_text(kind));
        let text = format!(
            "failed to convert new object ({object}) to proper version: unable to convert unstructured object to {gvk}: {why}"
        );
        Status::new(500, Reason::Unknown, text)
    };
    kinds::schema::schema().from_unstructured(&mut new, &kind.schema).map_err(|why| unfit(&why))?;
    let mut new = body::typed(ctx, kind, new).map_err(|s| match wrong_type(&s, kind) {
        Some(why) => unfit(why),
        None => s,
    })?;
    if let Some(managed) = managed {
        object::set_meta(&mut new, "managedFields", managed);
    }
    match ctx.info.query.get("fieldValidation") {
        "Strict" if !problems.is_empty() => {
            let all = problems.join(", ");
            return Err(Status::bad_request(format!("error strict decoding patch: {all}")));
        }
        "Ignore" => {}
        _ => body::warn(ctx, problems),
    }
    settled(ctx, kind, old, new)
}

/// What upstream looks at last in whatever a patch made (upstream: `patcher.applyPatch`).
fn settled(ctx: &Context, kind: &KindDef, old: Option<&Value>, mut new: Value) -> Result<Value> {
    let uid = object::uid(&new);
    if old.is_none() && !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(&kind.group_resource(), &ctx.info.name, &why));
    }
    registry::match_namespace(kind, &ctx.info.namespace, &mut new)?;
    write::check_name(ctx, &new)?;
    Ok(new)
}

/// Why a tree is not of its type, when that is what a Status says.
fn wrong_type<'s>(status: &'s Status, kind: &KindDef) -> Option<&'s str> {
    let head = format!("cannot be handled as a {}: ", kind.kind);
    let (_, why) = status.message.split_once(&head).filter(|_| status.code == 400)?;
    Some(why)
}

/// The object after the patch, before it is checked.
fn apply(patch: &Patch, old: &Value, kind: &KindDef) -> Result<Value> {
    let mut new = old.clone();
    match patch {
        Patch::Json(p) => meta::patch::json::apply(&mut new, p)?,
        Patch::Apply(..) | Patch::Unread(_) => {
            return Err(Status::internal("an applied configuration is no patch"));
        }
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

/// The object after a patch. It goes through the same decoding as one that was sent.
pub fn patched(ctx: &Context, kind: &KindDef, patch: &Patch, old: &Value) -> Result<Value> {
    if let Patch::Json(p) = patch
        && ctx.info.query.get("fieldValidation") != "Ignore"
    {
        meta::patch::json::check(p)?;
    }
    let mut patched = apply(patch, old, kind)?;
    // Upstream calls a patch that makes an object of the wrong shape unprocessable.
    let wrong = |text: &str, why: &str| {
        let error = meta::field::Error::invalid(&meta::field::Path::new("patch"), text, why);
        let none = meta::GroupKind { group: String::new(), kind: String::new() };
        Status::invalid(&none, "", &vec![error])
    };
    let text = match patch {
        Patch::Strategic(p) => {
            let shown = meta::patch::strategic::shown(p);
            let fitted = kinds::schema::schema().from_unstructured(&mut patched, &kind.schema);
            fitted.map_err(|why| wrong(&shown, &why))?;
            // The result is of the type that was patched, whatever it says.
            for field in ["kind", "apiVersion"] {
                patched[field] = old[field].clone();
            }
            shown
        }
        _ if kind.is_custom() => {
            if patched["kind"] != old["kind"] || patched["apiVersion"] != old["apiVersion"] {
                return Err(Status::bad_request(format!(
                    "the API version in the data ({}) does not match the expected API version ({})",
                    patched["apiVersion"].as_str().unwrap_or(""),
                    kind.api_version()
                )));
            }
            patched.to_string()
        }
        _ => {
            let text = patched.to_string();
            body::check_patched_type(ctx, kind, &mut patched).map_err(|why| wrong(&text, &why))?;
            text
        }
    };
    let new = body::typed(ctx, kind, patched).map_err(|s| match wrong_type(&s, kind) {
        Some(why) => wrong(&text, why),
        None => s,
    })?;
    settled(ctx, kind, Some(old), new)
}
