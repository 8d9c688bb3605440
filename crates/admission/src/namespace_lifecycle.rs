//! NamespaceLifecycle: nothing is made in a namespace that is missing or ending, and the system's namespaces stay
//! (upstream: apiserver `pkg/admission/plugin/namespace/lifecycle`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::object;
use meta::status::{Cause, Result, Status};
use registry::{Operation, Registry};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle {
    registry: Arc<Registry>,
}

/// What is read of a namespace, for each object that is made in it.
#[derive(Deserialize)]
struct Namespace {
    #[serde(default)]
    status: NamespaceStatus,
}

#[derive(Default, Deserialize)]
struct NamespaceStatus {
    #[serde(default)]
    phase: String,
}

const ENDING: &str = "Terminating";

/// Whether a stored namespace is to go. Most are not, and have the word nowhere: those need not be read.
fn is_ending(stored: &[u8]) -> Result<bool> {
    if memchr::memmem::find(stored, ENDING.as_bytes()).is_none() {
        return Ok(false);
    }
    let namespace: Namespace = serde_json::from_slice(stored).map_err(Status::internal)?;
    Ok(namespace.status.phase == ENDING)
}

impl NamespaceLifecycle {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    async fn check_alive(&self, a: &Attributes<'_>, new: &Value) -> Result<()> {
        let Some(row) = self.registry.kinds().resource("", "v1", "namespaces") else { return Ok(()) };
        // Whatever looks for the namespace later in the chain finds it, too.
        let stored = self.registry.get_stored_live(&a.permit, &row, "", a.namespace).await?;
        if !is_ending(&stored)? {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            a.namespace
        );
        let mut s = a.forbidden(Some(new), &why);
        if let Some(d) = &mut s.details {
            d.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {} is being terminated", a.namespace),
                field: "metadata.namespace".into(),
            });
        }
        Err(s)
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        match (phase, a.operation) {
            // Reviews are answered, not stored: they may ask about a namespace that is going.
            (Phase::Admit, Operation::Create) => {
                a.kind.namespaced() && a.kind.group != "authorization.k8s.io"
            }
            (Phase::Validate, Operation::Delete) => a.is("", "namespaces"),
            _ => false,
        }
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        self.check_alive(a, new).await
    }

    async fn validate(&self, a: &Attributes<'_>, _new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let name = old.map_or(a.name, object::name);
        if IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                &a.kind.group_resource(),
                name,
                "this namespace may not be deleted",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_phase_says_that_a_namespace_ends() {
        let ending = |json: &str| is_ending(json.as_bytes()).unwrap();
        assert!(ending(r#"{"metadata":{"name":"a"},"status":{"phase":"Terminating"}}"#));
        assert!(!ending(
            r#"{"metadata":{"name":"a","labels":{"a":"Terminating"}},"status":{"phase":"Active"}}"#
        ));
        assert!(!ending(r#"{"metadata":{"name":"a"}}"#));
    }
}
