//! Questions about identities and permissions, answered in one request and never stored
//! (upstream: `pkg/registry/authentication`, `pkg/registry/authorization`).

use crate::context::Context;
use crate::filters::audit::shown;
use crate::reply::Reply;
use crate::verbs;
use auth::authorize::{Attributes, Decision};
use auth::identity::Identity;
use auth::rbac::Rule;
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object::strings;
use meta::status::{Result, Status};
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    crate::negotiate::accept_object(&ctx.headers)?;
    let mut review = verbs::object_of(ctx, kind)?;
    verbs::record(ctx, &review);
    match &*kind.kind {
        "TokenReview" => token(ctx, &mut review)?,
        "SelfSubjectReview" => {
            let user = user_info(&ctx.user);
            review["status"] = json!({"userInfo": user});
            review["metadata"]["creationTimestamp"] = meta::time::rfc3339(ctx.server.clock.now()).into();
        }
        "SubjectAccessReview" => {
            let user = subject(&review["spec"]);
            access(ctx, kind, &mut review, &user)?;
        }
        "LocalSubjectAccessReview" => {
            let asked = review["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or("");
            if asked != ctx.info.namespace {
                return Err(Status::bad_request(format!(
                    "namespace on path ({:?}) must match spec.resourceAttributes.namespace ({asked:?})",
                    ctx.info.namespace
                )));
            }
            let user = subject(&review["spec"]);
            access(ctx, kind, &mut review, &user)?;
        }
        "SelfSubjectAccessReview" => access(ctx, kind, &mut review, &ctx.user.clone())?,
        "SelfSubjectRulesReview" => rules(ctx, &mut review)?,
        _ => return Err(Status::no_such_resource()),
    }
    Ok(Reply::Document { code: 201, value: review })
}

/// The same form as on the audit record (upstream: `authentication/v1.UserInfo`).
fn user_info(id: &Identity) -> Value {
    json!(shown(id))
}

fn token(ctx: &Context, review: &mut Value) -> Result<()> {
    let text = review["spec"]["token"].as_str().unwrap_or("").to_owned();
    if text.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = strings(&review["spec"]["audiences"]);
    let authenticator = &ctx.server.authenticator;
    let audiences = if asked.is_empty() { authenticator.audiences().to_vec() } else { asked.clone() };
    review["status"] = match authenticator.token(&text, &audiences, ctx.server.clock.now()) {
        Ok((id, matched)) => json!({"authenticated": true, "user": user_info(&id), "audiences": matched}),
        Err(why) => json!({"user": {}, "error": format!("[{why}, token lookup failed]")}),
    };
    Ok(())
}

/// The user that a review asks about.
fn subject(spec: &Value) -> Identity {
    let text = |f: &str| spec[f].as_str().unwrap_or("").to_owned();
    Identity {
        name: text("user"),
        uid: text("uid"),
        groups: strings(&spec["groups"]),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    }
}

fn access(ctx: &Context, kind: &KindDef, review: &mut Value, user: &Identity) -> Result<()> {
    let spec = review["spec"].clone();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let at = Path::new("spec");
    let mut errors = Vec::new();
    match (resource.is_object(), path.is_object()) {
        (true, true) => errors.push(Error::invalid(
            &at.child("nonResourceAttributes"),
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(Error::invalid(
            &at.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let about_others = &*kind.kind != "SelfSubjectAccessReview";
    if about_others && user.name.is_empty() && user.groups.is_empty() {
        errors.push(Error::invalid(&at.child("user"), "", "at least one of user or group must be specified"));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group_kind(), "", &errors));
    }
    let text = |v: &Value, f: &str| v[f].as_str().unwrap_or("").to_owned();
    let decision = if resource.is_object() {
        let (verb, group, name) =
            (text(resource, "verb"), text(resource, "group"), text(resource, "resource"));
        let (sub, namespace, object) =
            (text(resource, "subresource"), text(resource, "namespace"), text(resource, "name"));
        ctx.server.authorizer.authorize(&Attributes {
            subresource: &sub,
            namespace: &namespace,
            name: &object,
            ..Attributes::resource(user, &verb, &group, &name)
        })
    } else {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        ctx.server.authorizer.authorize(&Attributes::non_resource(user, &verb, &path))
    };
    let (allowed, reason) = match decision {
        Decision::Allow(reason) => (true, reason),
        Decision::Deny(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    review["status"] = status;
    Ok(())
}

fn rules(ctx: &Context, review: &mut Value) -> Result<()> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or("").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut held = ctx.server.authorizer.rbac.rules_for(&ctx.user, &namespace);
    if ctx.user.in_group(auth::identity::SYSTEM_MASTERS) {
        let all = || vec!["*".to_owned()];
        held.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
        held.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for r in held {
        if r.non_resource_urls.is_empty() {
            let mut rule = json!({"verbs": r.verbs, "apiGroups": r.api_groups, "resources": r.resources});
            if !r.resource_names.is_empty() {
                rule["resourceNames"] = json!(r.resource_names);
            }
            resources.push(rule);
        } else {
            paths.push(json!({"verbs": r.verbs, "nonResourceURLs": r.non_resource_urls}));
        }
    }
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    Ok(())
}
