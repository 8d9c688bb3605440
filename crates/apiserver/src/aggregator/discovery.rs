//! What other API servers say that they serve, asked again every minute
//! (upstream: kube-aggregator `pkg/apiserver/handler_discovery.go`).
//!
//! Invariant: a group version of an APIService is always listed; when its server does not answer, with what it last
//! told, marked as stale.

use super::{Aggregator, Answer, Backend, Question};
use async_trait::async_trait;
use auth::identity::{Identity, SYSTEM_MASTERS};
use http::header;
use parking_lot::RwLock;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What is known, by the APIService's name. There is an entry for each APIService with a Service, and no more.
#[derive(Default)]
pub struct Discovered(RwLock<HashMap<String, Known>>);

#[derive(Clone, Default)]
struct Known {
    /// `resources` of the group version.
    resources: Value,
    etag: String,
    stale: bool,
}

impl Discovered {
    /// The group version's entry in the aggregated document.
    pub fn entry(&self, backend: &Backend) -> Value {
        let known = self.0.read().get(&backend.name).cloned();
        let known = known.unwrap_or(Known { stale: true, ..Known::default() });
        let mut entry = json!({"version": backend.version});
        if known.resources.as_array().is_some_and(|r| !r.is_empty()) {
            entry["resources"] = known.resources;
        }
        entry["freshness"] = if known.stale { "Stale" } else { "Current" }.into();
        entry
    }
}

/// What a server serves.
pub(super) struct Discovery;

#[async_trait]
impl Question for Discovery {
    const WHAT: &'static str = "discovery";
    const RETRY: Duration = Duration::from_millis(500);

    fn forget(aggregator: &Aggregator, name: &str) {
        aggregator.discovered.0.write().remove(name);
    }

    async fn ask(aggregator: &Aggregator, backend: &Backend) -> Result<(), String> {
        let before = aggregator.discovered.0.read().get(&backend.name).cloned().unwrap_or_default();
        let (known, failed) = match aggregator.discover(backend, &before).await {
            Ok(known) => (known, Ok(())),
            Err(why) => (Known { stale: true, ..before }, Err(why)),
        };
        aggregator.discovered.0.write().insert(backend.name.clone(), known);
        failed
    }
}

impl Aggregator {
    /// Upstream: `fetchFreshDiscoveryForService`.
    async fn discover(&self, backend: &Backend, before: &Known) -> Result<Known, String> {
        let user = Identity::new("system:kube-aggregator", &[SYSTEM_MASTERS]);
        let all = self.ask(backend, "/apis", ACCEPT, &before.etag, &user, TIMEOUT).await?;
        match all.code {
            304 if !before.etag.is_empty() => Ok(Known { stale: false, ..before.clone() }),
            503 => Err("service returned non-success response code: 503".to_owned()),
            200 if is_aggregated(all.header(header::CONTENT_TYPE)) => aggregated(&all, backend),
            _ => {
                let path = group_version_path(backend);
                let user = Identity::new("system:kube-aggregator", &[]);
                let own = self.ask(backend, &path, "application/json", "", &user, TIMEOUT).await?;
                if own.code != 200 {
                    return Err(format!("failed to download legacy discovery for {path}: code {}", own.code));
                }
                let list: Value = serde_json::from_slice(&own.body).map_err(|e| e.to_string())?;
                let resources = from_plain(&list, &backend.group, &backend.version);
                Ok(Known { resources, ..Known::default() })
            }
        }
    }
}

/// The path of a group version.
pub(super) fn group_version_path(backend: &Backend) -> String {
    match backend.group.as_str() {
        "" => format!("/api/{}", backend.version),
        group => format!("/apis/{group}/{}", backend.version),
    }
}

/// Upstream: client-go `discovery.ContentTypeIsGVK`.
fn is_aggregated(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let params: Vec<&str> = content_type.split(';').map(str::trim).collect();
    let wanted = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"];
    parts.next() == Some("application/json") && wanted.iter().all(|w| params.contains(w))
}

fn aggregated(answer: &Answer, backend: &Backend) -> Result<Known, String> {
    let document: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    let groups = document["items"].as_array().into_iter().flatten();
    let versions = groups
        .filter(|g| g["metadata"]["name"].as_str().unwrap_or("") == backend.group)
        .flat_map(|g| g["versions"].as_array().into_iter().flatten());
    let mut resources =
        versions.filter(|v| v["version"] == backend.version.as_str()).map(|v| v["resources"].clone());
    let mut resources = resources.next().unwrap_or_default();
    for r in resources.as_array_mut().into_iter().flatten() {
        // Old clients cannot do without (upstream: kubernetes/kubernetes issue 118361).
        let kind = |r: &mut Value| {
            if r["responseKind"].is_null() {
                r["responseKind"] = json!({"group": "", "version": "", "kind": ""});
            }
        };
        kind(r);
        r["subresources"].as_array_mut().into_iter().flatten().for_each(kind);
    }
    let etag = answer.header(header::ETAG).to_owned();
    Ok(Known { resources, etag, stale: false })
}

/// A plain resource list in the form of the aggregated document
/// (upstream: apiserver `endpoints.ConvertGroupVersionIntoToDiscovery`).
fn from_plain(list: &Value, group: &str, version: &str) -> Value {
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |r: &Value| {
        let of = |field: &str, default: &str| match r[field].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => default.to_owned(),
        };
        json!({"group": of("group", group), "version": of("version", version), "kind": of("kind", "")})
    };
    let name = |r: &Value| r["name"].as_str().unwrap_or("").to_owned();
    let mut out: Vec<Value> = Vec::new();
    for r in all.iter().filter(|r| !name(r).contains('/')) {
        let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut entry = json!({
            "resource": name(r), "responseKind": kind(r), "scope": scope,
            "singularResource": r["singularName"].as_str().unwrap_or(""), "verbs": r["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if r[field].as_array().is_some_and(|a| !a.is_empty()) {
                entry[field] = r[field].clone();
            }
        }
        out.push(entry);
    }
    for r in all {
        let full = name(r);
        let Some((parent, sub)) = full.split_once('/') else { continue };
        let entry = json!({"subresource": sub, "responseKind": kind(r), "verbs": r["verbs"]});
        let at = out.iter().position(|p| p["resource"] == parent);
        let at = at.unwrap_or_else(|| {
            // a subresource without its resource (upstream: the same)
            let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
            out.push(json!({"resource": parent, "responseKind": kind(&json!({})), "scope": scope,
                "singularResource": "", "verbs": []}));
            out.len() - 1
        });
        match out[at]["subresources"].as_array_mut() {
            Some(subs) => subs.push(entry),
            None => out[at]["subresources"] = json!([entry]),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    fn backend() -> Backend {
        Backend { name: "v1.g".into(), group: "g".into(), version: "v1".into(), ..Backend::default() }
    }

    #[test]
    fn plain_lists_become_the_other_form() {
        let verbs = json!(["get", "list"]);
        let list = json!({"kind": "APIResourceList", "groupVersion": "g/v1", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": verbs,
                "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                "version": "v1", "kind": "Scale", "verbs": ["get"]},
        ]});
        let own = json!({"group": "g", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            from_plain(&list, "g", "v1"),
            json!([{
                "resource": "flunders", "responseKind": own, "scope": "Namespaced",
                "singularResource": "flunder", "verbs": ["get", "list"], "shortNames": ["fl"],
                "subresources": [
                    {"subresource": "status", "responseKind": own, "verbs": ["get"]},
                    {"subresource": "scale", "verbs": ["get"],
                        "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
                ],
            }])
        );
    }

    #[test]
    fn the_own_version_is_taken_from_the_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, HeaderValue::from_static("\"7\""));
        let body = json!({"items": [
            {"metadata": {"name": "other"}, "versions": [{"version": "v1", "resources": [{"resource": "a"}]}]},
            {"metadata": {"name": "g"}, "versions": [
                {"version": "v2", "resources": [{"resource": "b"}]},
                {"version": "v1", "resources": [{"resource": "c", "subresources": [{"subresource": "s"}]}]},
            ]},
        ]});
        let answer = Answer { code: 200, headers, body: Bytes::from(body.to_string()) };
        let known = aggregated(&answer, &backend()).expect("read");
        let none = json!({"group": "", "version": "", "kind": ""});
        assert_eq!(known.etag, "\"7\"");
        assert_eq!(
            known.resources,
            json!([{"resource": "c", "responseKind": none, "subresources": [{"subresource": "s", "responseKind": none}]}])
        );
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json"));
    }

    #[test]
    fn what_did_not_answer_is_stale() {
        let d = Discovered::default();
        assert_eq!(d.entry(&backend()), json!({"version": "v1", "freshness": "Stale"}));
        let known = Known { resources: json!([{"resource": "c"}]), ..Known::default() };
        d.0.write().insert("v1.g".into(), known);
        let current = json!({"version": "v1", "resources": [{"resource": "c"}], "freshness": "Current"});
        assert_eq!(d.entry(&backend()), current);
    }
}
