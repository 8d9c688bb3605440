//! Policies in CEL, and what webhooks' match conditions share with them
//! (upstream: apiserver `pkg/admission/plugin/policy`, `plugin/cel`).
//!
//! Invariant: expressions are compiled once per generation of their policy; a request that no policy is for compiles and
//! converts nothing.

mod authorizer;
pub mod conditions;
mod hooks;
mod mutating;
mod params;
mod patch;
pub mod scope;
mod validating;

pub use mutating::MutatingPolicies;
pub use validating::ValidatingPolicies;

use crate::chain::Attributes;
use crate::matching;
use crate::webhook::GROUP;
use kinds::KindDef;
use meta::object;
use meta::status::Result;
use registry::Registry;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The objects of a request in the versions that policies want, each converted once.
struct Objects<'a> {
    registry: &'a Registry,
    a: &'a Attributes<'a>,
    old: Option<&'a Value>,
    converted: HashMap<(String, String), (Option<Value>, Option<Value>)>,
}

impl<'a> Objects<'a> {
    fn new(registry: &'a Registry, a: &'a Attributes<'a>, old: Option<&'a Value>) -> Self {
        Self { registry, a, old, converted: HashMap::new() }
    }

    /// New and old object as the row's.
    async fn of(&mut self, row: &KindDef, new: Option<&Value>) -> Result<(Option<Value>, Option<Value>)> {
        let key = (row.group.to_string(), row.version.to_string());
        if let Some(known) = self.converted.get(&key) {
            return Ok(known.clone());
        }
        let other = is_other(row, self.a.kind);
        let turn = async |obj: Option<&Value>| match obj {
            Some(obj) if other => self.registry.convert(self.a.kind, row, obj.clone()).await.map(Some),
            obj => Ok(obj.cloned()),
        };
        let made = (turn(new).await?, turn(self.old).await?);
        self.converted.insert(key, made.clone());
        Ok(made)
    }
}

/// Whether a request for `own` is taken as one for another version or group.
fn is_other(row: &KindDef, own: &KindDef) -> bool {
    row.version != own.version || row.group != own.group
}

/// The namespace of a request's object, as expressions see it; null for objects of the cluster, and namespaces
/// themselves (upstream: `CreateNamespaceObject`).
fn namespace_object(registry: &Registry, a: &Attributes<'_>) -> Result<Value> {
    if a.namespace.is_empty() || a.is("", "namespaces") {
        return Ok(Value::Null);
    }
    let mut namespace = matching::namespace(registry, a)?;
    if let Some(map) = namespace.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    for hidden in ["managedFields", "ownerReferences", "selfLink"] {
        object::remove_meta(&mut namespace, hidden);
    }
    Ok(namespace)
}

/// All requests but those that must always get through: policies are not held up by policies, unlike the configurations of
/// webhooks (upstream: `generic/plugin.go#admissionResources`).
fn concerns(kind: &KindDef) -> bool {
    let policy = kind.kind.ends_with("AdmissionPolicy") || kind.kind.ends_with("AdmissionPolicyBinding");
    !(kind.group == GROUP && policy || matching::is_excluded(kind))
}

/// A row that is looked up by kind.
fn row_of(registry: &Registry, api_version: &str, kind: &str) -> Option<Arc<KindDef>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    registry.kinds().kind(group, version, kind)
}

#[cfg(test)]
mod tests;
