//! `/openapi/v2` and `/openapi/v3`, built from the table once, when first asked for.

use crate::context::Context;
use crate::reply::Reply;
use bytes::Bytes;
use meta::status::{Result, Status};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The documents; built on first use, since most runs never need them.
#[derive(Default)]
pub struct OpenApi {
    v2: OnceLock<Bytes>,
    v3: OnceLock<V3>,
}

struct V3 {
    index: Bytes,
    by_path: BTreeMap<String, Bytes>,
}

pub fn serve(ctx: &Context, path: &str) -> Result<Reply> {
    let kinds: Vec<&kinds::KindDef> = ctx.server.registry.kinds().rows().iter().map(|r| &**r).collect();
    let docs = &ctx.server.openapi;
    if path == "/openapi/v2" {
        let body = docs.v2.get_or_init(|| json(&kinds::openapi::v2(&kinds, kinds::schema::schema()))).clone();
        return Ok(Reply::Text { code: 200, content_type: "application/json", body });
    }
    let v3 = docs.v3.get_or_init(|| build_v3(&kinds));
    let rest = path.strip_prefix("/openapi/v3").unwrap_or("");
    let body = match rest.trim_start_matches('/') {
        "" => v3.index.clone(),
        key => v3.by_path.get(key).cloned().ok_or_else(Status::no_such_resource)?,
    };
    Ok(Reply::Text { code: 200, content_type: "application/json", body })
}

fn build_v3(rows: &[&kinds::KindDef]) -> V3 {
    let mut by_path = BTreeMap::new();
    let mut paths = serde_json::Map::new();
    for (key, document) in kinds::openapi::v3(rows, kinds::schema::schema()) {
        let body = json(&document);
        let hash = ring::digest::digest(&ring::digest::SHA256, &body);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        let url = format!("/openapi/v3/{key}?hash={hex}");
        paths.insert(key.clone(), serde_json::json!({"serverRelativeURL": url}));
        by_path.insert(key, body);
    }
    V3 { index: json(&serde_json::json!({"paths": paths})), by_path }
}

fn json(value: &serde_json::Value) -> Bytes {
    Bytes::from(value.to_string())
}
