//! `/openapi/v2` and `/openapi/v3`, built from the rows when first asked for and again when other rows are served.

use crate::context::Context;
use crate::reply::{self, Reply};
use bytes::Bytes;
use meta::status::Result;
use parking_lot::Mutex;
use registry::Kinds;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The documents of the rows that are served; built on first use, since most runs never need them.
#[derive(Default)]
pub struct OpenApi(Mutex<Arc<Documents>>);

#[derive(Default)]
struct Documents {
    /// Of the rows from which these were made.
    generation: u64,
    v2: OnceLock<Bytes>,
    /// Compressed, as most clients take it.
    v2_gzip: OnceLock<Bytes>,
    v3: OnceLock<V3>,
}

struct V3 {
    index: Bytes,
    by_path: BTreeMap<String, Bytes>,
}

impl OpenApi {
    fn of(&self, kinds: &Kinds) -> Arc<Documents> {
        let mut now = self.0.lock();
        if now.generation != kinds.generation() {
            *now = Arc::new(Documents { generation: kinds.generation(), ..Documents::default() });
        }
        now.clone()
    }
}

pub fn serve(ctx: &Context, path: &str) -> Result<Reply> {
    let served = ctx.server.registry.kinds();
    let kinds: Vec<&kinds::KindDef> = served.rows().iter().map(|r| &**r).collect();
    let docs = ctx.server.openapi.of(&served);
    if path == "/openapi/v2" {
        let body = docs.v2.get_or_init(|| json(&kinds::openapi::v2(&kinds, kinds::schema::schema()))).clone();
        if ctx.accepted.encoding.gzip {
            let mut out = reply::response(200, "application/json", reply::full(Bytes::new()));
            reply::wire::mark_gzip(out.headers_mut());
            let body = docs.v2_gzip.get_or_init(|| reply::wire::gzip(&body)).clone();
            return Ok(Reply::Raw(out.map(|_| reply::full(body))));
        }
        return Ok(Reply::Text { code: 200, content_type: "application/json", body });
    }
    let v3 = docs.v3.get_or_init(|| build_v3(&kinds));
    let rest = path.strip_prefix("/openapi/v3").unwrap_or("");
    let body = match rest.trim_start_matches('/') {
        "" => v3.index.clone(),
        key => match v3.by_path.get(key) {
            Some(body) => body.clone(),
            None => return Ok(Reply::Text { code: 404, content_type: "", body: Bytes::new() }),
        },
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
