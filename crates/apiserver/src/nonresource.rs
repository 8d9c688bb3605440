//! Paths that are not resources: discovery, OpenAPI, health, metrics, version, token keys.

use crate::context::Context;
use crate::reply::Reply;
use crate::{discovery, health, openapi, version};
use bytes::Bytes;
use meta::status::{Result, Status};
use serde_json::json;

pub async fn dispatch(ctx: &Context) -> Result<Reply> {
    let path = ctx.info.path.as_str();
    if !matches!(ctx.info.verb.as_str(), "get" | "head") {
        return Err(Status::method_not_allowed());
    }
    if let Some(reply) = discovery::serve(ctx, path) {
        return reply;
    }
    match path {
        "/" => Ok(raw(&json!({"paths": root_paths(ctx)}))),
        "/version" | "/version/" => {
            json_only(ctx)?;
            Ok(raw(&version::document()))
        }
        "/metrics" => {
            let body = Bytes::from(ctx.server.metrics.render(ctx));
            Ok(Reply::Text { code: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body })
        }
        "/.well-known/openid-configuration" => {
            Ok(json_text("application/json", ctx.server.tokens.openid_configuration().to_string()))
        }
        "/openid/v1/jwks" => Ok(json_text("application/jwk-set+json", ctx.server.tokens.jwks().to_string())),
        _ if path.starts_with("/openapi/") => openapi::serve(ctx, path),
        _ => {
            if let Some(reply) = health::serve(ctx, path) {
                return Ok(reply);
            }
            if let Some(extension) = ctx.server.extension(path) {
                return extension.serve(ctx).await;
            }
            // Upstream's mux answers an unknown path as plain text.
            Ok(Reply::Text {
                code: 404,
                content_type: "text/plain; charset=utf-8",
                body: Bytes::from_static(b"404 page not found\n"),
            })
        }
    }
}

/// Paths of the router that have one representation.
fn json_only(ctx: &Context) -> Result<()> {
    let accept = ctx.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = |part: &str| part.split(';').next().unwrap_or("").trim().to_owned();
    if accept.is_empty() || accept.split(',').any(|p| matches!(&*media(p), "*/*" | "application/json")) {
        return Ok(());
    }
    Err(Status::no_representation(&["application/json"]))
}

/// A document that is no object: always for human readers (upstream: `responsewriters.WriteRawJSON`).
fn raw(value: &serde_json::Value) -> Reply {
    let body = crate::reply::wire::pretty(value.to_string().as_bytes());
    Reply::Text { code: 200, content_type: "application/json", body }
}

fn json_text(content_type: &'static str, text: String) -> Reply {
    Reply::Text { code: 200, content_type, body: text.into() }
}

fn root_paths(ctx: &Context) -> Vec<String> {
    let kinds = ctx.server.registry.kinds();
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].map(String::from).to_vec();
    for group in discovery::groups(&kinds) {
        paths.push(format!("/apis/{group}"));
        let mut seen = Vec::new();
        for row in kinds.rows().iter().filter(|r| r.group == group.as_str()) {
            if !seen.contains(&row.version) {
                paths.push(format!("/apis/{group}/{}", row.version));
                seen.push(row.version.clone());
            }
        }
    }
    let rest = [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(rest.map(String::from));
    paths.sort();
    paths
}
