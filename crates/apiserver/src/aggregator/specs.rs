//! OpenAPI documents of other API servers, asked for again every minute
//! (upstream: kube-aggregator `pkg/controllers/{openapi,openapiv3}`).
//!
//! Invariant: a document of another server says something of its own group versions only; its size is bounded.

use super::{Aggregator, Backend, Question, v2};
use async_trait::async_trait;
use auth::identity::Identity;
use bytes::Bytes;
use http::header;
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Upstream: `specDownloadTimeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is known, by the APIService's name. There is an entry for each APIService with a Service, and no more.
#[derive(Default)]
pub struct Specs(RwLock<State>);

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    generation: u64,
}

#[derive(Clone, Default, PartialEq)]
struct Known {
    /// The paths of `/openapi/v3`, by key (`apis/GROUP/VERSION`).
    v3: Map<String, Value>,
    /// What of `/openapi/v2` is of the group version.
    v2: Arc<Value>,
    etag: String,
    /// The third-version document made of the second, for a server that has none of its own.
    made: Option<(String, Bytes)>,
}

impl Specs {
    /// Changes whenever a document did.
    pub fn generation(&self) -> u64 {
        self.0.read().generation
    }

    /// The APIService whose server has the third-version document of a key.
    pub fn server_of(&self, key: &str) -> Option<String> {
        let state = self.0.read();
        state.known.iter().find(|(_, k)| k.v3.contains_key(key)).map(|(name, _)| name.clone())
    }

    /// The third-version document of a key, where its server has none and ours is made of the second version.
    pub fn made(&self, key: &str) -> Option<Bytes> {
        let state = self.0.read();
        let mut made = state.known.values().filter_map(|k| k.made.as_ref());
        made.find(|(k, _)| k == key).map(|(_, body)| body.clone())
    }

    /// Adds the paths of other servers' third-version documents; what is there stays.
    pub fn add_paths(&self, paths: &mut Map<String, Value>) {
        let state = self.0.read();
        for (key, value) in state.known.values().flat_map(|k| &k.v3) {
            paths.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for (key, body) in state.known.values().filter_map(|k| k.made.as_ref()) {
            paths.entry(key.clone()).or_insert_with(|| crate::openapi::v3_path(key, body));
        }
    }

    /// Adds other servers' second-version documents, in the order of the given APIServices.
    pub fn merge_into(&self, document: &mut Value, order: &[String]) {
        let documents: Vec<Arc<Value>> = {
            let state = self.0.read();
            order.iter().filter_map(|name| state.known.get(name)).map(|k| k.v2.clone()).collect()
        };
        for other in documents.iter().filter(|d| d.is_object()) {
            v2::merge(document, other);
        }
    }

    fn put(&self, name: &str, known: Option<Known>) {
        let mut state = self.0.write();
        if state.known.get(name) == known.as_ref() {
            return;
        }
        match known {
            Some(known) => state.known.insert(name.to_owned(), known),
            None => state.known.remove(name),
        };
        state.generation += 1;
    }

    fn get(&self, name: &str) -> Known {
        self.0.read().known.get(name).cloned().unwrap_or_default()
    }
}

/// The OpenAPI documents of a server.
pub(super) struct OpenApi;

#[async_trait]
impl Question for OpenApi {
    const WHAT: &'static str = "OpenAPI";
    const RETRY: Duration = Duration::from_secs(1);

    fn forget(aggregator: &Aggregator, name: &str) {
        aggregator.specs.put(name, None);
    }

    async fn ask(aggregator: &Aggregator, backend: &Backend) -> Result<(), String> {
        if !backend.available {
            // Its condition will change the object, and so bring it here again.
            return Ok(());
        }
        let (known, failed) = aggregator.documents(backend, aggregator.specs.get(&backend.name)).await;
        aggregator.specs.put(&backend.name, Some(known));
        failed.map_or(Ok(()), Err)
    }
}

impl Aggregator {
    /// Both documents; of what could not be had, what was known before.
    async fn documents(&self, backend: &Backend, before: Known) -> (Known, Option<String>) {
        let user = Identity::new("system:aggregator", &[]);
        let mut known = before;
        let mut failed = None;
        let mut fail = |why: String| failed = Some(why);
        match self.ask(backend, "/openapi/v2", "application/json", &known.etag, &user, TIMEOUT).await {
            Ok(a) if a.code == 200 => match serde_json::from_slice::<Value>(&a.body) {
                Ok(document) => {
                    let prefix = format!("/apis/{}/{}/", backend.group, backend.version);
                    known.v2 = Arc::new(v2::of_paths(document, &prefix));
                    known.etag = a.header(header::ETAG).to_owned();
                }
                Err(e) => fail(format!("/openapi/v2: {e}")),
            },
            Ok(a) if matches!(a.code, 304 | 404) => {}
            Ok(a) => fail(format!("/openapi/v2: code {}", a.code)),
            Err(e) => fail(format!("/openapi/v2: {e}")),
        }
        match self.ask(backend, "/openapi/v3", "application/json", "", &user, TIMEOUT).await {
            Ok(a) if a.code == 200 => match serde_json::from_slice::<Value>(&a.body) {
                Ok(root) => {
                    known.v3 = own_paths(&root, backend);
                    known.made = None;
                }
                Err(e) => fail(format!("/openapi/v3: {e}")),
            },
            Ok(a) if a.code == 404 => {
                known.v3 = Map::new();
                let key = format!("apis/{}/{}", backend.group, backend.version);
                let made = known.v2.is_object().then(|| v2::to_v3(&known.v2).to_string());
                known.made = made.map(|text| (key, text.into()));
            }
            Ok(a) => fail(format!("/openapi/v3: code {}", a.code)),
            Err(e) => fail(format!("/openapi/v3: {e}")),
        }
        (known, failed)
    }
}

/// The paths of a server's document that are of its APIService.
fn own_paths(root: &Value, backend: &Backend) -> Map<String, Value> {
    let key = format!("apis/{}/{}", backend.group, backend.version);
    let path = &root["paths"][&key];
    match path["serverRelativeURL"].as_str() {
        Some(url) => {
            let hash = url.split_once('?').map_or(String::new(), |(_, query)| format!("?{query}"));
            let url = format!("/openapi/v3/{key}{hash}");
            Map::from_iter([(key, json!({"serverRelativeURL": url}))])
        }
        None => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_speaks_for_its_own_group_version() {
        let backend = Backend { group: "g".into(), version: "v1".into(), ..Backend::default() };
        let url = |key: &str| json!({"serverRelativeURL": format!("/openapi/v3/{key}?hash=1")});
        let root = json!({"paths": {"apis/g/v1": url("apis/g/v1"), "apis/apps/v1": url("apis/apps/v1")}});
        let specs = Specs::default();
        specs.put("v1.g", Some(Known { v3: own_paths(&root, &backend), ..Known::default() }));
        assert_eq!(specs.server_of("apis/g/v1").as_deref(), Some("v1.g"));
        assert_eq!(specs.server_of("apis/apps/v1"), None);
        let mut paths = Map::new();
        specs.add_paths(&mut paths);
        assert_eq!(Value::Object(paths), json!({"apis/g/v1": url("apis/g/v1")}));
        let before = specs.generation();
        specs.put("v1.g", None);
        assert!(specs.server_of("apis/g/v1").is_none() && specs.generation() > before);
    }
}
