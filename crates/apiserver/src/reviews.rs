//! Questions about identities and permissions, answered in one request and never stored
//! (upstream: `pkg/registry/authentication`, `pkg/registry/authorization`).

use crate::context::Context;
use crate::negotiate::{self, View};
use crate::reply::{self, Reply};
use crate::table::partial;
use crate::verbs;
use auth::review;
use bytes::Bytes;
use kinds::KindDef;
use meta::object;
use meta::status::{Result, Status};
use registry::Listed;
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    if &*kind.kind == "ComponentStatus" {
        return component_status(ctx, kind);
    }
    let view = negotiate::without_table(&ctx.headers)?;
    let mut asked = verbs::new_object(ctx, kind)?;
    verbs::track(ctx, kind, &mut asked);
    let (server, user, now) = (&ctx.server, &ctx.user, ctx.server.clock.now());
    let mut answer = match &*kind.kind {
        "TokenReview" => server.authenticator.token_review(&asked, now).await?,
        "SelfSubjectReview" => review::self_subject_review(user, now),
        "SubjectAccessReview" => {
            server.authorizer.settle(|z| review::subject_access_review(&asked, z)).await?
        }
        "LocalSubjectAccessReview" => {
            let namespace = &ctx.info.namespace;
            server.authorizer.settle(|z| review::local_subject_access_review(&asked, namespace, z)).await?
        }
        "SelfSubjectAccessReview" => {
            server.authorizer.settle(|z| review::self_subject_access_review(&asked, user, z)).await?
        }
        "SelfSubjectRulesReview" => review::self_subject_rules_review(&asked, user, &server.authorizer)?,
        _ => return Err(Status::no_such_resource()),
    };
    // These two are answered by new objects, the others by what was asked, filled in.
    let anew = matches!(&*kind.kind, "SelfSubjectReview" | "SelfSubjectRulesReview");
    if let Some(managed) = asked["metadata"].get("managedFields").filter(|_| !anew) {
        object::set_meta(&mut answer, "managedFields", managed.clone());
    }
    match view {
        View::Partial => answer = partial(&mut answer, ctx.accepted.view_version()),
        View::PartialList => return Err(reply::no_list(kind)),
        _ => {}
    }
    Ok(Reply::Document { code: 201, value: answer })
}

/// How the parts of the control plane are (upstream: `pkg/registry/core/componentstatus/rest.go`). They are one program:
/// all that answer are as well as the store is.
fn component_status(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let healthy = ctx.server.checks.iter().filter(|c| c.live).all(|c| (c.run)().is_ok());
    let one = |name: &str, kind: bool| {
        let (status, message) = if healthy { ("True", "ok") } else { ("False", "the store does not answer") };
        let mut out = json!({"metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": status, "message": message}]});
        if kind {
            out["kind"] = "ComponentStatus".into();
            out["apiVersion"] = "v1".into();
        }
        out
    };
    let names = ["scheduler", "controller-manager", "etcd-0"];
    let asked = ctx.info.name.as_str();
    let bytes = |name: &str| serde_json::to_vec(&one(name, true)).map(Bytes::from).map_err(Status::internal);
    let plain = ctx.accepted.view == View::Object;
    if ctx.info.verb == "list" {
        let selectors = verbs::check_list(ctx, kind)?;
        let shown = |n: &&&str| bytes(n).is_ok_and(|b| selectors.matches(kind, &b));
        if !plain {
            let items = names.iter().filter(shown).map(|n| bytes(n)).collect::<Result<_>>()?;
            let listed = Listed { items, revision: 0, next: None, remaining: None };
            return Ok(Reply::List { kind: kind.clone(), listed });
        }
        let items: Vec<Value> = names.iter().filter(shown).map(|n| one(n, false)).collect();
        let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
        return Ok(Reply::Document { code: 200, value: list });
    }
    if !names.contains(&asked) {
        return Err(Status::not_found(&meta::GroupResource::new("", "componentstatus"), asked));
    }
    if !plain {
        return Ok(Reply::Object { code: 200, kind: Some(kind.clone()), bytes: bytes(asked)? });
    }
    Ok(Reply::Document { code: 200, value: one(asked, true) })
}
