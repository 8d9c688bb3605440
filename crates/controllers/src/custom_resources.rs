//! Definitions of custom resources: which names they get, when they are served, what is wrong with them, and that their
//! objects go with them ([`finalizer`]).
//!
//! Runs as the API server itself, as upstream's do (upstream: apiextensions `pkg/controller/{status,establish,finalizer,
//! apiapproval,nonstructuralschema}`).

mod finalizer;

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Patch};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kinds::custom::names;
use meta::object;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Starts both controllers.
pub(crate) fn start(setup: &Setup) -> [Handle; 2] {
    [start_definitions(setup), finalizer::start(setup)]
}

struct Definitions {
    client: Client,
    definitions: Informer<CustomResourceDefinition>,
    clock: base::clock::SharedClock,
    /// The generations whose schemas were looked at, by name, with the uid.
    judged: Mutex<HashMap<String, (String, i64)>>,
}

fn start_definitions(setup: &Setup) -> Handle {
    let definitions = setup.informers.of::<CustomResourceDefinition>();
    let this = Definitions {
        client: setup.system.clone(),
        definitions: definitions.clone(),
        clock: setup.clock.clone(),
        judged: Mutex::default(),
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
            c.latest().into_iter().for_each(|d| q.add(ObjectKey::of(&**d)));
        })
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Definitions {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(there) = self.definitions.store().get("", &key.name) else {
            self.judged.lock().remove(&key.name);
            return Ok(After::Done);
        };
        let crd = tree(&there)?;
        let now = self.clock.now();
        let others: Vec<Value> =
            self.definitions.store().list().iter().filter_map(|d| serde_json::to_value(&**d).ok()).collect();
        let others: Vec<&Value> = others.iter().collect();
        // Established is a write of its own, after the names (upstream: the establishing controller)
        let named = names::accept(&crd, &others, now);
        let mut new = match named {
            Some(named) => named,
            None => names::establish(&crd, now).unwrap_or_else(|| crd.clone()),
        };
        if let Some(condition) = names::approval_condition(&new) {
            names::set_condition(&mut new, condition, now);
        }
        let seen = (object::uid(&crd).to_owned(), object::generation(&crd));
        if self.judged.lock().get(&key.name) != Some(&seen) {
            names::set_schema_condition(&mut new, now);
        }
        if new["status"] != crd["status"] {
            self.status(&key.name, &new).await?;
        }
        self.judged.lock().insert(key.name.clone(), seen);
        Ok(After::Done)
    }
}

/// A definition as a tree, with its type.
fn tree(definition: &CustomResourceDefinition) -> Result<Value, Error> {
    let mut crd = serde_json::to_value(definition)?;
    crd["apiVersion"] = "apiextensions.k8s.io/v1".into();
    crd["kind"] = "CustomResourceDefinition".into();
    Ok(crd)
}

impl Definitions {
    async fn status(&self, name: &str, crd: &Value) -> Result<(), Error> {
        let metadata = json!({"resourceVersion": object::resource_version(crd)});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": crd["status"]}));
        match self.client.patch::<CustomResourceDefinition>("", name, Some("status"), patch).await {
            // Somebody else was faster; its change comes by the watch.
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }
}
