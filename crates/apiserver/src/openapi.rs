//! `/openapi/v2` and `/openapi/v3`, built from the rows and from what other API servers tell, when first asked for and
//! again when either has changed.

mod document;

use crate::aggregator::Specs;
use crate::context::Context;
use crate::reply::Reply;
use bytes::Bytes;
use document::Document;
use jiff::Timestamp;
use kinds::openapi::Dialect;
use meta::status::Result;
use parking_lot::Mutex;
use registry::Kinds;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The documents of the rows that are served; built on first use, since most runs never need them.
#[derive(Default)]
pub struct OpenApi(Mutex<Arc<Documents>>);

#[derive(Default)]
struct Documents {
    /// Of the rows, and of the other servers' documents, from which these were made.
    generation: (u64, u64),
    v2: OnceLock<Document>,
    v3: OnceLock<V3>,
}

struct V3 {
    index: Bytes,
    by_path: BTreeMap<String, Document>,
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
    let now = ctx.server.clock.now();
    if path == "/openapi/v2" {
        let build = || {
            let mut document = kinds::openapi::v2(&kinds, kinds::schema::schema());
            let groups = aggregator.table().groups(&served);
            let others = groups.into_iter().flat_map(|g| g.1).filter_map(|v| v.backend);
            let order: Vec<String> = others.map(|b| b.name.clone()).collect();
            aggregator.specs.merge_into(&mut document, &order);
            Document::new(Dialect::V2, json(&document), now)
        };
        return Ok(Reply::Raw(docs.v2.get_or_init(build).answer("", "", &ctx.headers, now)));
    }
    let v3 = docs.v3.get_or_init(|| build_v3(&kinds, &aggregator.specs, now));
    let hash = ctx.info.query.get("hash");
    let rest = path.strip_prefix("/openapi/v3").unwrap_or("");
    let made;
    let document = match rest.trim_start_matches('/') {
        "" => {
            return Ok(Reply::Text { code: 200, content_type: "application/json", body: v3.index.clone() });
        }
        key => match v3.by_path.get(key) {
            Some(document) => Some((key, document)),
            None => {
                made = aggregator.specs.made(key).map(|body| Document::new(Dialect::V3, body, now));
                made.as_ref().map(|document| (key, document))
            }
        },
    };
    Ok(match document {
        Some((key, document)) => Reply::Raw(document.answer(key, hash, &ctx.headers, now)),
        None => Reply::Text { code: 404, content_type: "", body: Bytes::new() },
    })
}

/// What the list of documents says of one: where it is, with what changes when it does.
pub fn v3_path(key: &str, body: &Bytes) -> Value {
    listed(key, &Document::new(Dialect::V3, body.clone(), Timestamp::UNIX_EPOCH))
}

fn listed(key: &str, document: &Document) -> Value {
    serde_json::json!({"serverRelativeURL": document.path(key)})
}

fn build_v3(rows: &[&kinds::KindDef], specs: &Specs, now: Timestamp) -> V3 {
    let mut by_path = BTreeMap::new();
    let mut paths = serde_json::Map::new();
    for (key, document) in kinds::openapi::v3(rows, kinds::schema::schema()) {
        let document = Document::new(Dialect::V3, json(&document), now);
        paths.insert(key.clone(), listed(&key, &document));
        by_path.insert(key, document);
    }
    specs.add_paths(&mut paths);
    V3 { index: json(&serde_json::json!({"paths": paths})), by_path }
}

fn json(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
