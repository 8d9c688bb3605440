//! A small API server in memory, for tests of what is built on [`Client`](crate::Client).
//!
//! It serves every path alike: collections hold JSON trees, writes are numbered and watched. It knows no kinds, so
//! there are no defaults, no validation and no conflicts beyond names and resource versions.

use crate::api::{Api, Body, BoxError};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use meta::{GroupResource, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::mpsc;

/// A request that was served.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub body: Value,
}

#[derive(Default)]
struct State {
    /// By collection path without namespace, then namespace and name.
    objects: HashMap<String, BTreeMap<(String, String), Value>>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// Every event so far, so that a watch can begin in the past.
    history: Vec<(u64, String, Bytes)>,
    version: u64,
    seen: Vec<Seen>,
    /// Answers to give instead, by method and path.
    rigged: HashMap<(Method, String), Vec<Value>>,
}

/// The server.
#[derive(Default)]
pub struct FakeApi(Mutex<State>);

struct Target {
    collection: String,
    namespace: String,
    name: String,
    sub: String,
}

impl FakeApi {
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an object there, as if its collection path (with namespace) had been posted to.
    pub fn seed<T: serde::Serialize>(&self, collection: &str, object: &T) -> Value {
        let value = serde_json::to_value(object).unwrap_or_default();
        let t = target(collection);
        self.0.lock().put(&t.collection, value, "ADDED")
    }

    /// The objects of a collection path, with or without namespace.
    pub fn objects(&self, collection: &str) -> Vec<Value> {
        let t = target(collection);
        let state = self.0.lock();
        let all = state.objects.get(&t.collection).into_iter().flatten();
        all.filter(|((ns, _), _)| t.namespace.is_empty() || *ns == t.namespace)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// One object by its full path.
    pub fn object(&self, path: &str) -> Option<Value> {
        let t = target(path);
        self.0.lock().objects.get(&t.collection)?.get(&(t.namespace, t.name)).cloned()
    }

    /// The requests so far that were no reads.
    pub fn writes(&self) -> Vec<Seen> {
        self.0.lock().seen.iter().filter(|s| s.method != Method::GET).cloned().collect()
    }

    /// Answers the next request of this method and path so. A `Status` tree answers with its code.
    pub fn rig(&self, method: Method, path: &str, answer: Value) {
        self.0.lock().rigged.entry((method, path.to_owned())).or_default().push(answer);
    }

    fn answer(&self, method: Method, path: &str, body: Value, patch: bool) -> (u16, Value) {
        let mut state = self.0.lock();
        state.seen.push(Seen { method: method.clone(), path: path.to_owned(), body: body.clone() });
        if let Some(list) = state.rigged.get_mut(&(method.clone(), path.to_owned()))
            && !list.is_empty()
        {
            let answer = list.remove(0);
            let code = if answer["kind"] == "Status" { answer["code"].as_u64().unwrap_or(200) } else { 200 };
            return (code as u16, answer);
        }
        let t = target(path);
        let result = match method {
            Method::GET if t.name.is_empty() => Ok(state.list(&t)),
            Method::GET => state.get(&t),
            Method::POST if t.sub == "binding" => state.bind(&t, &body),
            Method::POST => state.create(&t, body),
            Method::DELETE => state.delete(&t),
            _ => state.change(&t, body, patch),
        };
        result.map_or_else(|s| (s.code, s.to_value()), |v| (200, v))
    }

    fn watch(&self, collection: &str, since: u64) -> Body {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut state = self.0.lock();
        for (_, _, frame) in state.history.iter().filter(|(v, c, _)| *v > since && c == collection) {
            let _ = tx.send(frame.clone());
        }
        state.watchers.push((collection.to_owned(), tx));
        let stream = futures::stream::unfold(rx, |mut rx| async {
            rx.recv().await.map(|b| (Ok(http_body::Frame::data(b)), rx))
        });
        StreamBody::new(stream).boxed_unsync()
    }
}

impl State {
    fn list(&self, t: &Target) -> Value {
        let all = self.objects.get(&t.collection).into_iter().flatten();
        let items: Vec<_> =
            all.filter(|((ns, _), _)| t.namespace.is_empty() || *ns == t.namespace).map(|(_, v)| v).collect();
        json!({"kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn get(&self, t: &Target) -> Result<Value, Status> {
        let found =
            self.objects.get(&t.collection).and_then(|m| m.get(&(t.namespace.clone(), t.name.clone())));
        found.cloned().ok_or_else(|| not_found(t))
    }

    fn create(&mut self, t: &Target, mut body: Value) -> Result<Value, Status> {
        if meta::object::name(&body).is_empty() {
            let name = format!("{}{}", meta::object::meta_str(&body, "generateName"), self.version);
            meta::object::set_meta(&mut body, "name", name);
        }
        if !t.namespace.is_empty() {
            meta::object::set_meta(&mut body, "namespace", t.namespace.as_str());
        }
        let key = (t.namespace.clone(), meta::object::name(&body).to_owned());
        if self.objects.get(&t.collection).is_some_and(|m| m.contains_key(&key)) {
            return Err(Status::already_exists(&resource(t), &key.1));
        }
        Ok(self.put(&t.collection, body, "ADDED"))
    }

    fn bind(&mut self, t: &Target, body: &Value) -> Result<Value, Status> {
        let mut pod = self.get(t)?;
        pod["spec"]["nodeName"] = body["target"]["name"].clone();
        self.put(&t.collection, pod, "MODIFIED");
        Ok(json!({"kind": "Status", "status": "Success", "code": 201}))
    }

    fn change(&mut self, t: &Target, body: Value, patch: bool) -> Result<Value, Status> {
        let old = self.get(t)?;
        let claimed = meta::object::resource_version(&body);
        if !claimed.is_empty() && claimed != meta::object::resource_version(&old) {
            return Err(Status::modified(&resource(t), &t.name));
        }
        let mut new = if patch { merged(old.clone(), &body) } else { body };
        if t.sub == "status" {
            let status = new["status"].take();
            new = old.clone();
            new["status"] = status;
        }
        meta::object::set_meta(&mut new, "uid", meta::object::uid(&old));
        let gone = meta::object::is_deleting(&new) && meta::object::finalizers(&new).is_empty();
        Ok(self.put(&t.collection, new, if gone { "DELETED" } else { "MODIFIED" }))
    }

    fn delete(&mut self, t: &Target) -> Result<Value, Status> {
        let mut old = self.get(t)?;
        if meta::object::finalizers(&old).is_empty() {
            return Ok(self.put(&t.collection, old, "DELETED"));
        }
        meta::object::set_meta(&mut old, "deletionTimestamp", "2026-01-01T00:00:00Z");
        Ok(self.put(&t.collection, old, "MODIFIED"))
    }

    fn put(&mut self, collection: &str, mut object: Value, event: &str) -> Value {
        self.version += 1;
        meta::object::set_meta(&mut object, "resourceVersion", self.version.to_string());
        if meta::object::uid(&object).is_empty() {
            meta::object::set_meta(&mut object, "uid", format!("uid-{}", self.version));
        }
        let key = (meta::object::namespace(&object).to_owned(), meta::object::name(&object).to_owned());
        let all = self.objects.entry(collection.to_owned()).or_default();
        match event {
            "DELETED" => drop(all.remove(&key)),
            _ => drop(all.insert(key, object.clone())),
        }
        let frame = Bytes::from(format!("{}\n", json!({"type": event, "object": object})));
        self.history.push((self.version, collection.to_owned(), frame.clone()));
        self.watchers.retain(|(c, tx)| c != collection || tx.send(frame.clone()).is_ok());
        object
    }
}

/// Merge-patches; lists are replaced whole, also for strategic patches, but values can be deleted from them.
fn merged(mut old: Value, patch: &Value) -> Value {
    let Some(changes) = patch.as_object() else { return patch.clone() };
    if !old.is_object() {
        old = json!({});
    }
    for (k, v) in changes {
        if let Some(list) = k.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(left), Some(gone)) = (old[list].as_array_mut(), v.as_array()) {
                left.retain(|item| !gone.contains(item));
            }
        } else if v.is_null() {
            old.as_object_mut().map(|m| m.remove(k));
        } else {
            let slot = old[k].take();
            old[k] = merged(slot, v);
        }
    }
    old
}

fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let base = if parts.first() == Some(&"api") { 2 } else { 3 };
    let (head, mut rest) = parts.split_at(base.min(parts.len()));
    let mut namespace = "";
    if rest.first() == Some(&"namespaces") && rest.len() > 2 && rest[2] != "finalize" && rest[2] != "status" {
        namespace = rest[1];
        rest = &rest[2..];
    }
    let part = |i: usize| rest.get(i).copied().unwrap_or("").to_owned();
    let collection = format!("/{}/{}", head.join("/"), part(0));
    Target { collection, namespace: namespace.to_owned(), name: part(1), sub: part(2) }
}

fn resource(t: &Target) -> GroupResource {
    GroupResource::new("", t.collection.rsplit('/').next().unwrap_or(""))
}

fn not_found(t: &Target) -> Status {
    Status::not_found(&resource(t), &t.name)
}

#[async_trait]
impl Api for FakeApi {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or("");
        let value = |key: &str| query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
        if value("watch").is_some() {
            let since = value("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return Ok(Response::new(self.watch(&target(head.uri.path()).collection, since)));
        }
        let tree = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        let patch = head.method == Method::PATCH;
        let (code, answer) = self.answer(head.method, head.uri.path(), tree, patch);
        let bytes = Bytes::from(answer.to_string());
        let body = Full::new(bytes).map_err(|e| match e {}).boxed_unsync();
        Ok(Response::builder().status(code).body(body)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::informer::{Event, Informers};
    use crate::{Client, DeleteOptions, Patch};
    use base::clock::SystemClock;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}})).unwrap()
    }

    #[tokio::test]
    async fn an_informer_follows_writes() {
        let api = Arc::new(FakeApi::new());
        api.seed("/api/v1/namespaces/n/configmaps", &map("a"));
        let client = Client::new(api);
        let informers = Informers::new(client.clone(), SystemClock::shared());
        let informer = informers.of::<ConfigMap>();
        informer.synced().await;
        assert!(informer.store().get("n", "a").is_some());
        let mut sub = informers.of::<ConfigMap>().subscribe();
        assert!(matches!(sub.next().await, Some(Event::Resync)));
        client.create(&map("b")).await.unwrap();
        let patch = Patch::Merge(json!({"data": {"k": "v"}}));
        client.patch::<ConfigMap>("n", "b", None, patch).await.unwrap();
        client.delete::<ConfigMap>("n", "a", &DeleteOptions::default()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            match tokio::time::timeout(Duration::from_secs(5), sub.next()).await.unwrap() {
                Some(Event::Applied(m)) => seen.push(format!("+{}", m.metadata.name.as_deref().unwrap())),
                Some(Event::Deleted(m)) => seen.push(format!("-{}", m.metadata.name.as_deref().unwrap())),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, ["+b", "+b", "-a"]);
        let e = client.get::<ConfigMap>("n", "a").await.unwrap_err();
        assert!(e.is_not_found(), "{e:?}");
        assert!(client.create(&map("b")).await.unwrap_err().is_already_exists());
    }
}
