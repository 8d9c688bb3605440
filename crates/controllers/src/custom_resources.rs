//! Definitions of custom resources: which names they get, when they are served, and that their objects go with them.
//!
//! Runs as the API server itself, as upstream's do (upstream: apiextensions `pkg/controller/{status,establish,finalizer,
//! apiapproval}`).

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Kind, Patch};
use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kinds::custom::names::{self, CLEANUP_FINALIZER};
use meta::object;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Objects that are listed at a time while a definition is cleaned up.
const PAGE: usize = 500;
/// Pause before it is looked again whether all objects are gone.
const PAUSE: Duration = Duration::from_secs(1);

struct Definitions {
    client: Client,
    definitions: Informer<CustomResourceDefinition>,
    clock: base::clock::SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let definitions = setup.informers.of::<CustomResourceDefinition>();
    let this = Definitions {
        client: setup.system.clone(),
        definitions: definitions.clone(),
        clock: setup.clock.clone(),
    };
    let all = definitions.clone();
    Controller::new("custom-resource-definitions", Arc::new(this), setup.clock.clone())
        .watches(&definitions, move |c, q| {
            // A name that one gives up is another's of the same group.
            let group = c.latest().map(|d| d.spec.group.clone());
            for d in all.store().list() {
                if Some(&d.spec.group) == group.as_ref() {
                    q.add(ObjectKey::of(&*d));
                }
            }
            c.new.iter().for_each(|d| q.add(ObjectKey::of(&**d)));
        })
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Definitions {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(there) = self.definitions.store().get("", &key.name) else { return Ok(After::Done) };
        let mut crd = serde_json::to_value(&*there)?;
        crd["apiVersion"] = "apiextensions.k8s.io/v1".into();
        if there.is_deleting() {
            return self.clean_up(&crd).await;
        }
        let now = self.clock.now();
        let others: Vec<Value> =
            self.definitions.store().list().iter().filter_map(|d| serde_json::to_value(&**d).ok()).collect();
        let others: Vec<&Value> = others.iter().collect();
        let mut new = names::accept(&crd, &others, now).unwrap_or_else(|| crd.clone());
        new = names::establish(&new, now).unwrap_or(new);
        if let Some(condition) = names::approval_condition(&new) {
            names::set_condition(&mut new, condition, now);
        }
        if new["status"] != crd["status"] {
            self.status(&key.name, &new).await?;
        }
        Ok(After::Done)
    }
}

impl Definitions {
    async fn patch(&self, name: &str, subresource: Option<&str>, patch: Value) -> Result<(), Error> {
        let patch = Patch::Merge(patch);
        match self.client.patch::<CustomResourceDefinition>("", name, subresource, patch).await {
            // Somebody else was faster; its change comes by the watch.
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }

    async fn status(&self, name: &str, crd: &Value) -> Result<(), Error> {
        let metadata = json!({"resourceVersion": object::resource_version(crd)});
        self.patch(name, Some("status"), json!({"metadata": metadata, "status": crd["status"]})).await
    }

    /// Deletes all objects of a definition that goes, then lets it go (upstream: `crd_finalizer.go`).
    async fn clean_up(&self, crd: &Value) -> Result<After, Error> {
        let name = object::name(crd);
        if !object::finalizers(crd).contains(&CLEANUP_FINALIZER) {
            return Ok(After::Done);
        }
        if !names::is_true(crd, "Terminating") {
            let mut new = crd.clone();
            let condition = json!({
                "type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
                "message": "CustomResource deletion is in progress",
            });
            names::set_condition(&mut new, condition, self.clock.now());
            self.status(name, &new).await?;
            return Ok(After::Done);
        }
        if !self.all_gone(crd).await? {
            return Ok(After::Again(PAUSE));
        }
        let left: Vec<&str> =
            object::finalizers(crd).into_iter().filter(|f| *f != CLEANUP_FINALIZER).collect();
        let metadata = json!({"finalizers": left, "resourceVersion": object::resource_version(crd)});
        self.patch(name, None, json!({"metadata": metadata})).await?;
        Ok(After::Done)
    }

    /// Asks for the deletion of what is left; whether nothing was.
    async fn all_gone(&self, crd: &Value) -> Result<bool, Error> {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
        let served = versions.filter(|v| v["served"] == true).map(|v| text(&v["name"])).next();
        // What was never served has no objects.
        let (Some(version), true) = (served, names::is_true(crd, "Established")) else { return Ok(true) };
        let base = format!("/apis/{}/{version}", text(&crd["spec"]["group"]));
        let plural = text(&crd["status"]["acceptedNames"]["plural"]);
        let list = match self.client.raw(Method::GET, &format!("{base}/{plural}?limit={PAGE}"), None).await {
            Err(e) if e.is_not_found() => return Ok(true),
            other => other?,
        };
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let namespaces: BTreeSet<&str> = items.iter().map(object::namespace).collect();
        for namespace in namespaces {
            let path = match namespace {
                "" => format!("{base}/{plural}"),
                namespace => format!("{base}/namespaces/{namespace}/{plural}"),
            };
            self.client.raw(Method::DELETE, &path, None).await?;
        }
        Ok(items.is_empty())
    }
}
