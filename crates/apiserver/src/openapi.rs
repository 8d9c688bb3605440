//! `/openapi/v2` and `/openapi/v3`, built from the rows and from what other API servers tell, when first asked for and
//! again when either has changed.

use crate::aggregator::Specs;
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
    /// Of the rows, and of the other servers' documents, from which these were made.
    generation: (u64, u64),
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
    fn of(&self, kinds: &Kinds, specs: u64) -> Arc<Documents> {
        let generation = (kinds.generation(), specs);
        let mut now = self.0.lock();
        if now.generation != generation {
            *now = Arc::new(Documents { generation, ..Documents::default() });
        }
        now.clone()
    }
}

pub fn serve(ctx: &Context, path: &str) -> Result<Reply> {
    let served = ctx.server.registry.kinds();
    let kinds: Vec<&kinds::KindDef> = served.rows().iter().map(|r| &**r).collect();
    let aggregator = &ctx.server.aggregator;
    let docs = ctx.server.openapi.of(&served, aggregator.specs.generation());
    if path == "/openapi/v2" {
        let build = || {
            let mut document = kinds::openapi::v2(&kinds, kinds::schema::schema());
            let groups = aggregator.table().groups(&served);
            let others = groups.into_iter().flat_map(|g| g.1).filter_map(|v| v.backend);
            let order: Vec<String> = others.map(|b| b.name.clone()).collect();
            aggregator.specs.merge_into(&mut document, &order);
            json(&document)
        };
        let body = docs.v2.get_or_init(build).clone();
        if ctx.accepted.encoding.gzip {
            let mut out = reply::response(200, "application/json", reply::full(Bytes::new()));
            reply::wire::mark_gzip(out.headers_mut());
            let body = docs.v2_gzip.get_or_init(|| reply::wire::gzip(&body)).clone();
            return Ok(Reply::Raw(out.map(|_| reply::full(body))));
        }
        return Ok(Reply::Text { code: 200, content_type: "application/json", body });
    }
    let v3 = docs.v3.get_or_init(|| build_v3(&kinds, &aggregator.specs));
    let rest = path.strip_prefix("/openapi/v3").unwrap_or("");
    let body = match rest.trim_start_matches('/') {
        "" => v3.index.clone(),
        key => match v3.by_path.get(key).cloned().or_else(|| aggregator.specs.made(key)) {
            Some(body) => body,
            None => return Ok(Reply::Text { code: 404, content_type: "", body: Bytes::new() }),
        },
    };
    Ok(Reply::Text { code: 200, content_type: "application/json", body })
}

/// What the list of documents says of one: where it is, with what changes when it does.
pub fn v3_path(key: &str, body: &[u8]) -> serde_json::Value {
    let hash = ring::digest::digest(&ring::digest::SHA256, body);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    serde_json::json!({"serverRelativeURL": format!("/openapi/v3/{key}?hash={hex}")})
}

fn build_v3(rows: &[&kinds::KindDef], specs: &Specs) -> V3 {
    let mut by_path = BTreeMap::new();
    let mut paths = serde_json::Map::new();
    for (key, document) in kinds::openapi::v3(rows, kinds::schema::schema()) {
        let body = json(&document);
        paths.insert(key.clone(), v3_path(&key, &body));
        by_path.insert(key, body);
    }
    specs.add_paths(&mut paths);
    V3 { index: json(&serde_json::json!({"paths": paths})), by_path }
}

fn json(value: &serde_json::Value) -> Bytes {
    Bytes::from(value.to_string())
}
