//! Custom resources: the rows of established definitions join those that are served
//! (upstream: apiextensions `pkg/apiserver/customresource_handler.go`).
//!
//! Invariant: what is served is the built-in rows and, for every established definition, a row for each version that it
//! serves; a definition whose schema cannot be read serves nothing and says so in the log.

use admission::webhook::{Caller, ClientConfig, post};
use async_trait::async_trait;
use kinds::custom::names;
use kinds::{Convert, KindDef};
use meta::object;
use meta::status::{Result, Status};
use registry::Registry;
use registry::snapshot::Snapshot;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// How long a conversion webhook may take (upstream: `webhookConverter`, the request's own deadline).
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves what is defined, now and from now on.
pub fn start(registry: &Arc<Registry>, caller: &Arc<Caller>, cancel: CancellationToken) {
    let Some(row) = registry.kinds().resource(GROUP, "v1", "customresourcedefinitions") else { return };
    let built_in: Vec<Arc<KindDef>> = registry.kinds().rows().to_vec();
    let (served, caller) = (registry.clone(), caller.clone());
    // Rows of definitions that did not change are kept: their parsed schemas are not small.
    let known: parking_lot::Mutex<HashMap<String, Vec<Arc<KindDef>>>> = parking_lot::Mutex::default();
    let make = move |definitions: &[Value]| {
        let mut known = known.lock();
        let mut now = HashMap::new();
        let mut rows = built_in.clone();
        for crd in definitions.iter().filter(|crd| names::is_true(crd, "Established")) {
            let id = format!("{}/{}", object::uid(crd), object::resource_version(crd));
            let own = known.remove(&id).unwrap_or_else(|| rows_of(crd, &caller));
            rows.extend(own.iter().cloned());
            now.insert(id, own);
        }
        *known = now;
        served.serve(rows);
    };
    // The snapshot's task keeps itself.
    drop(Snapshot::start(registry, &row, make, cancel));
}

fn rows_of(crd: &Value, caller: &Arc<Caller>) -> Vec<Arc<KindDef>> {
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let storage = kinds::apiextensions::storage_version(crd).unwrap_or("");
    let group = crd["spec"]["group"].as_str().unwrap_or("");
    let convert: Arc<dyn Convert> = match crd["spec"]["conversion"]["strategy"].as_str() {
        Some("Webhook") => Arc::new(Webhook {
            caller: caller.clone(),
            client: ClientConfig::parse(&crd["spec"]["conversion"]["webhook"]["clientConfig"]),
            review_versions: object::strings(
                &crd["spec"]["conversion"]["webhook"]["conversionReviewVersions"],
            ),
            definition: object::name(crd).to_owned(),
        }),
        _ => Arc::new(Relabel),
    };
    let mut rows = Vec::new();
    for version in versions.filter(|v| v["served"] == true).filter_map(|v| v["name"].as_str()) {
        match kinds::custom::row(crd, version) {
            Ok(row) => {
                let stored_as =
                    (version != storage).then(|| (group.to_owned().into(), storage.to_owned().into()));
                rows.push(Arc::new(KindDef { stored_as, convert: Some(convert.clone()), ..row }));
            }
            Err(why) => tracing::error!(definition = object::name(crd), version, "not served: {why}"),
        }
    }
    rows
}

/// Versions that differ by name only.
struct Relabel;

#[async_trait]
impl Convert for Relabel {
    async fn convert(&self, mut objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>> {
        objects.iter_mut().for_each(|o| o["apiVersion"] = api_version.into());
        Ok(objects)
    }
}

/// Conversion by a webhook (upstream: apiextensions `pkg/apiserver/conversion/webhook_converter.go`).
struct Webhook {
    caller: Arc<Caller>,
    client: ClientConfig,
    review_versions: Vec<String>,
    definition: String,
}

#[async_trait]
impl Convert for Webhook {
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>> {
        let from = objects.first().and_then(|o| o["apiVersion"].as_str()).unwrap_or("").to_owned();
        let failed = |why: String| {
            Status::internal(format!(
                "conversion webhook for {from}, {}: {why}",
                objects
                    .first()
                    .map_or(String::new(), |o| format!("Kind={}", o["kind"].as_str().unwrap_or("")))
            ))
        };
        let review = ["v1", "v1beta1"].iter().find(|v| self.review_versions.iter().any(|r| r == *v));
        let Some(review) = review else {
            return Err(failed(format!("{}: no supported ConversionReview versions", self.definition)));
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let answer = post(&self.caller, &self.client, request.to_string().into(), CONVERSION_TIMEOUT).await;
        let (code, body) = answer.map_err(|e| failed(e.to_string()))?;
        if !(200..300).contains(&code) {
            return Err(failed(format!("the webhook answered with code {code}")));
        }
        let mut answer: Value = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
        converted(&mut answer["response"], &uid, &objects, api_version).map_err(failed)
    }
}

/// Reads what a webhook made of the objects; nothing but metadata's labels and annotations and the rest of the object
/// may be changed by it.
fn converted(
    response: &mut Value,
    uid: &str,
    sent: &[Value],
    api_version: &str,
) -> std::result::Result<Vec<Value>, String> {
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        let why = response["result"]["message"].as_str().unwrap_or("");
        return Err(format!("failed: {why}"));
    }
    let Value::Array(mut made) = response["convertedObjects"].take() else {
        return Err("webhook returned no convertedObjects".into());
    };
    if made.len() != sent.len() {
        return Err(format!("webhook returned {} objects, expected {}", made.len(), sent.len()));
    }
    for (i, (new, old)) in made.iter_mut().zip(sent).enumerate() {
        if new["apiVersion"] != api_version {
            let got = new["apiVersion"].as_str().unwrap_or("");
            return Err(format!(
                "webhook returned invalid converted object at index {i}: invalid groupVersion (expected {api_version}, received {got})"
            ));
        }
        if new["kind"] != old["kind"] {
            return Err(format!("webhook returned invalid converted object at index {i}: invalid kind"));
        }
        for field in ["name", "namespace", "uid"] {
            if object::meta_str(new, field) != object::meta_str(old, field) {
                return Err(format!(
                    "webhook returned invalid converted object at index {i}: invalid metadata.{field}"
                ));
            }
        }
        // All other metadata is as it was (upstream: `restoreObjectMeta`).
        let mut metadata = old["metadata"].clone();
        for field in ["labels", "annotations"] {
            match new["metadata"].get(field) {
                Some(v) if !v.is_null() => metadata[field] = v.clone(),
                _ => {
                    if let Some(map) = metadata.as_object_mut() {
                        map.remove(field);
                    }
                }
            }
        }
        new["metadata"] = metadata;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_may_not_change_who_an_object_is() {
        let old = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "1"}}});
        let answer =
            |new: Value| json!({"uid": "i", "result": {"status": "Success"}, "convertedObjects": [new]});
        let read = |new: Value| converted(&mut answer(new), "i", std::slice::from_ref(&old), "g/v2");
        let good = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u"}, "spec": {"b": 1}});
        let expected = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u"}, "spec": {"b": 1}});
        assert_eq!(read(good.clone()), Ok(vec![expected]));
        let mut other = good.clone();
        other["metadata"]["name"] = "b".into();
        assert!(read(other).is_err_and(|e| e.contains("metadata.name")));
        assert!(converted(&mut answer(good.clone()), "x", std::slice::from_ref(&old), "g/v2").is_err());
        assert!(converted(&mut answer(good), "i", &[], "g/v2").is_err());
    }
}
