//! The objects of a definition that goes are deleted first; how far that is, the definition says.
//!
//! Invariant: a definition goes only after a list without objects.
//! upstream: apiextensions `pkg/controller/finalizer/crd_finalizer.go`

use super::tree;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{ApiResource, Client, Kind};
use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kinds::custom::names::{self, CLEANUP_FINALIZER};
use meta::Status;
use meta::object;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Upstream: `crdFinalizer.Run(5, …)`.
const WORKERS: usize = 5;
/// Objects that are listed at a time.
const PAGE: usize = 500;
/// Pause before it is looked again whether all objects are gone.
const PAUSE: Duration = Duration::from_secs(1);
/// How long that is waited for before it is told that they are not (upstream: `PollUntilContextTimeout`).
const PATIENCE: Duration = Duration::from_secs(60);
/// Resources of the server's own whose objects would be taken for those of a definition.
const BUILT_IN: [(&str, &str); 2] =
    [("apiregistration.k8s.io", "apiservices"), ("apiextensions.k8s.io", "customresourcedefinitions")];

/// One attempt at a definition's objects.
struct Attempt {
    /// On the monotonic clock.
    since: Duration,
    /// Namespaces in which deletion was asked for.
    asked: BTreeSet<String>,
}

struct Finalizer {
    client: Client,
    definitions: Informer<CustomResourceDefinition>,
    clock: SharedClock,
    /// By uid of the definition.
    attempts: Mutex<HashMap<String, Attempt>>,
}

/// What a definition says next: reason, message, and whether it goes on terminating.
struct Verdict {
    going: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(going: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { going, reason, message: message.into() }
    }
}

pub(super) fn start(setup: &Setup) -> Handle {
    let definitions = setup.informers.of::<CustomResourceDefinition>();
    let this = Finalizer {
        client: setup.system.clone(),
        definitions: definitions.clone(),
        clock: setup.clock.clone(),
        attempts: Mutex::default(),
    };
    Controller::new("crd-finalizer", Arc::new(this), setup.clock.clone())
        .workers(WORKERS)
        .watches(&definitions, |c, q| {
            c.new.iter().filter(|d| d.is_deleting()).for_each(|d| q.add(ObjectKey::of(&**d)));
        })
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Finalizer {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(there) = self.definitions.store().get("", &key.name) else { return Ok(After::Done) };
        let crd = tree(&there)?;
        if !there.is_deleting() || !object::finalizers(&crd).contains(&CLEANUP_FINALIZER) {
            return Ok(After::Done);
        }
        let after = self.clean_up(crd).await;
        if !matches!(after, Ok(After::Again(_))) {
            self.attempts.lock().remove(there.uid());
        }
        after
    }
}

impl Finalizer {
    /// Writes the status, and what else was changed of metadata; `None` when somebody else was faster.
    async fn write(&self, crd: &Value) -> Result<Option<Value>, Error> {
        let resource = ApiResource::new(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            false,
        );
        match self.client.dynamic(&resource).update(crd, "status").await {
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    fn tell(&self, crd: &mut Value, verdict: &Verdict) {
        let Verdict { going, reason, message } = verdict;
        names::set_terminating(crd, *going, reason, message, self.clock.now());
    }

    async fn clean_up(&self, mut crd: Value) -> Result<After, Error> {
        let uid = object::uid(&crd).to_owned();
        if !self.attempts.lock().contains_key(&uid) {
            let text = "CustomResource deletion is in progress";
            self.tell(&mut crd, &Verdict::new(true, "InstanceDeletionInProgress", text));
            let Some(written) = self.write(&crd).await? else { return Ok(After::Done) };
            crd = written;
            let attempt = Attempt { since: self.clock.monotonic(), asked: BTreeSet::new() };
            self.attempts.lock().insert(uid.clone(), attempt);
        }
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let own = (text(&crd["spec"]["group"]), text(&crd["spec"]["names"]["plural"]));
        let verdict = if BUILT_IN.contains(&(own.0.as_str(), own.1.as_str())) {
            let text = "instances overlap with built-in resources in storage";
            Verdict::new(false, "OverlappingBuiltInResource", text)
        } else if names::is_true(&crd, "Established") {
            match self.delete_objects(&crd, &uid).await {
                Ok(true) => Verdict::new(false, "InstanceDeletionCompleted", "removed all instances"),
                Ok(false) => return Ok(After::Again(PAUSE)),
                Err(verdict) => {
                    self.tell(&mut crd, &verdict);
                    self.write(&crd).await?;
                    return Err(verdict.message.into());
                }
            }
        } else {
            Verdict::new(false, "NeverEstablished", "resource was never established")
        };
        self.tell(&mut crd, &verdict);
        let mut left = object::finalizers(&crd);
        left.retain(|f| *f != CLEANUP_FINALIZER);
        let left = Value::from(left);
        object::set_meta(&mut crd, "finalizers", left);
        self.write(&crd).await?;
        Ok(After::Done)
    }

    /// Asks for the deletion of what is left; whether nothing was.
    async fn delete_objects(&self, crd: &Value, uid: &str) -> Result<bool, Verdict> {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let failed = |text: String| Verdict::new(true, "InstanceDeletionFailed", text);
        let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
        let served = versions.filter(|v| v["served"] == true).map(|v| text(&v["name"])).next();
        // What is not served cannot be asked for: it has been served once, and so its objects were listed then.
        let Some(version) = served else { return Ok(true) };
        let base = format!("/apis/{}/{version}", text(&crd["spec"]["group"]));
        let plural = text(&crd["status"]["acceptedNames"]["plural"]);
        let list = match self.client.raw(Method::GET, &format!("{base}/{plural}?limit={PAGE}"), None).await {
            Err(e) if e.is_not_found() => return Ok(true),
            Err(e) => return Err(failed(format!("could not list instances: {}", e.message))),
            Ok(list) => list,
        };
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return Ok(true);
        }
        let all: BTreeSet<String> = items.iter().map(|i| object::namespace(i).to_owned()).collect();
        let since = self.attempts.lock().get(uid).map_or(Duration::ZERO, |a| a.since);
        if self.clock.monotonic().saturating_sub(since) > PATIENCE {
            let text = "could not confirm zero CustomResources remaining: context deadline exceeded";
            return Err(Verdict::new(true, "InstanceDeletionCheck", text));
        }
        let known = self.attempts.lock().get(uid).map(|a| a.asked.clone()).unwrap_or_default();
        let mut errors: Vec<Status> = Vec::new();
        // a page that is full may hide more of a namespace
        for namespace in all.iter().filter(|ns| items.len() >= PAGE || !known.contains(*ns)) {
            let path = match namespace.as_str() {
                "" => format!("{base}/{plural}"),
                namespace => format!("{base}/namespaces/{namespace}/{plural}"),
            };
            errors.extend(self.client.raw(Method::DELETE, &path, None).await.err());
        }
        if let Some(attempt) = self.attempts.lock().get_mut(uid) {
            attempt.asked.extend(all);
        }
        let mut texts: Vec<&str> = errors.iter().map(|e| e.message.as_str()).collect();
        texts.dedup();
        match texts.as_slice() {
            [] => Ok(false),
            [one] => Err(failed(format!("could not issue all deletes: {one}"))),
            many => Err(failed(format!("could not issue all deletes: [{}]", many.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests;
