//! Questions about identities and permissions, answered in one request and never stored
//! (upstream: `pkg/registry/authentication`, `pkg/registry/authorization`).

use crate::context::Context;
use crate::reply::Reply;
use crate::verbs;
use auth::review;
use kinds::KindDef;
use meta::status::{Result, Status};
use std::sync::Arc;

pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    crate::negotiate::accept_object(&ctx.headers)?;
    let asked = verbs::object_of(ctx, kind)?;
    verbs::record(ctx, &asked);
    let (server, user, now) = (&ctx.server, &ctx.user, ctx.server.clock.now());
    let answer = match &*kind.kind {
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
    Ok(Reply::Document { code: 201, value: answer })
}
