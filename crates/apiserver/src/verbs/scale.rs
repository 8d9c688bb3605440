//! The scale subresource of workloads: their replica count as an `autoscaling/v1` Scale
//! (upstream: `pkg/registry/apps/deployment/storage/storage.go#ScaleREST`).

use super::patch::Patch;
use super::{body, patch};
use crate::context::{Admission, Context};
use crate::reply::Reply;
use ::apply::Element;
use kinds::columns::{AGE, NAME, column};
use kinds::{Column, KindDef};
use meta::field::{Error, Path};
use meta::object;
use meta::selector::LabelSelector;
use meta::status::{Result, Status};
use serde_json::{Value, json};
use std::sync::Arc;

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const COLUMNS: &[Column] = &[
    Column { format: "", ..NAME },
    column("Desired", "integer", |o, _| o["spec"]["replicas"].as_i64().unwrap_or(0).into()),
    column("Available", "integer", |o, _| o["status"]["replicas"].as_i64().unwrap_or(0).into()),
    AGE,
];

pub async fn dispatch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let info = &ctx.info;
    if info.verb == "get" {
        let bytes = ctx.server.registry.get(&ctx.permit, kind, &info.namespace, &info.name, "").await?;
        let obj = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        if let Some(scale) = kind.custom.as_ref().and_then(|c| c.scale.as_ref()) {
            let (value, known) = scale.read(&obj).map_err(Status::internal)?;
            return match known {
                true => reply(&value),
                false => Err(Status::internal(scale.missing())),
            };
        }
        return reply(&scale_of(kind, &obj)?);
    }
    let patch = match info.verb.as_str() {
        "patch" => Some(patch::read(ctx)?),
        _ => None,
    };
    let sent = match &patch {
        Some(_) => Value::Null,
        None => {
            body::check_content_type(ctx)?;
            super::fields::check(ctx, "UpdateOptions", false)?;
            let mut scale = body::of_type(ctx, "autoscaling/v1", "Scale", SCALE)?;
            body::record_request(ctx, &scale);
            registry::match_namespace(kind, &info.namespace, &mut scale)?;
            super::write::check_name(ctx, &scale)?;
            super::write::once(ctx, &mut scale);
            scale
        }
    };
    let row = scale_row();
    let admit = Admission { ctx, kind, dry_run: ctx.dry_run() };
    let request = ctx.write(kind, &info.name, &admit);
    let transform = |old: Option<&Value>| {
        let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &info.name))?;
        if patch.is_none() {
            registry::precondition_uid(&request, &sent, object::uid(old))?;
        }
        // Who owns the count is told in the Scale, and back in the object.
        let path = replicas_path(kind);
        let managed = &old["metadata"]["managedFields"];
        let mut was = scale_of(kind, old)?;
        let owned = ::apply::scale::to_scale(managed, &path).map_err(Status::internal)?;
        object::set_meta(&mut was, "managedFields", owned);
        let scale = match &patch {
            Some(Patch::Apply(config, problems)) => patch::applied(ctx, &row, Some(&was), config, problems)?,
            Some(Patch::Unread(status)) => return Err(status.clone()),
            patch => {
                let mut scale = match patch {
                    Some(p) => patch::patched(ctx, &row, p, &was)?,
                    None => sent.clone(),
                };
                super::fields::track(ctx, &row, Some(&was), &mut scale);
                scale
            }
        };
        let mut new = scaled(kind, old, &scale, patch.is_some())?;
        let owners = &scale["metadata"]["managedFields"];
        let owners = ::apply::scale::to_parent(managed, owners, &path, &kind.api_version());
        object::set_meta(&mut new, "managedFields", owners.map_err(Status::internal)?);
        Ok(new)
    };
    let written = ctx.server.registry.update(&request, &transform, false).await?;
    let obj = ctx.server.registry.decode(kind, &written.bytes).await?;
    reply(&scale_of(kind, &obj)?)
}

/// A Scale, which has all views of an object.
fn reply(scale: &Value) -> Result<Reply> {
    let bytes = serde_json::to_vec(scale).map_err(Status::internal)?.into();
    Ok(Reply::Object { code: 200, kind: Some(Arc::new(scale_row())), bytes })
}

/// Where the object keeps the count.
fn replicas_path(kind: &KindDef) -> Vec<Element> {
    let custom = kind.custom.as_ref().and_then(|c| c.scale.as_ref());
    let path = custom.map_or(".spec.replicas", |scale| &scale.spec_replicas);
    path.trim_start_matches('.').split('.').map(Element::field).collect()
}

fn scale_row() -> KindDef {
    KindDef {
        group: "autoscaling".into(),
        kind: "Scale".into(),
        plural: "scales".into(),
        schema: SCALE.into(),
        columns: COLUMNS,
        ..KindDef::BASE
    }
}

/// The workload with the Scale's replica count.
fn scaled(kind: &KindDef, old: &Value, scale: &Value, patched: bool) -> Result<Value> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    // A custom resource says itself what it takes.
    if replicas < 0 && !kind.is_custom() {
        let at = Path::new("spec").child("replicas");
        let error = Error::invalid(&at, replicas, "must be greater than or equal to 0");
        let gk = meta::GroupKind { group: "autoscaling".into(), kind: "Scale".into() };
        return Err(Status::invalid(&gk, object::name(old), &vec![error]));
    }
    let asked = object::resource_version(scale);
    let mut new = old.clone();
    if kind.is_custom() && (asked.is_empty() || patched) {
        // Custom kinds take no update without a version: it is the one that was read.
    } else if asked.is_empty() || patched && asked == object::resource_version(old) {
        object::remove_meta(&mut new, "resourceVersion");
    } else {
        object::set_meta(&mut new, "resourceVersion", asked);
    }
    let uid = object::uid(scale);
    if !uid.is_empty() && uid != object::uid(old) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(old)
        );
        let scales = meta::GroupResource::new(&kind.group, &format!("{}/scale", kind.plural));
        return Err(Status::conflict(&scales, object::name(old), &why));
    }
    match kind.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(scale) => {
            let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
            scale.write(&mut new, replicas).map_err(Status::internal)?;
        }
        None => new["spec"]["replicas"] = replicas.into(),
    }
    Ok(new)
}

fn scale_of(kind: &KindDef, obj: &Value) -> Result<Value> {
    match kind.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(scale) => scale.read(obj).map(|(value, _)| value).map_err(Status::internal),
        None => Ok(of_workload(obj)),
    }
}

fn of_workload(obj: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = obj["metadata"].get(field) {
            metadata[field] = v.clone();
        }
    }
    let mut spec = json!({});
    let replicas = obj["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas != 0 {
        spec["replicas"] = replicas.into();
    }
    let mut status = json!({"replicas": obj["status"]["replicas"].as_i64().unwrap_or(0)});
    // Upstream shows the selector as text, which old clients need.
    let selector = &obj["spec"]["selector"];
    let text = match obj["kind"] == "ReplicationController" {
        true => {
            let pairs = selector.as_object().into_iter().flatten();
            let pairs = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")));
            pairs.collect::<Vec<_>>().join(",")
        }
        false => LabelSelector::from_value(selector).map(|s| s.to_string()).unwrap_or_default(),
    };
    if !text.is_empty() {
        status["selector"] = text.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}
