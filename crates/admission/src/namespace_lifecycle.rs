//! NamespaceLifecycle: nothing is made in a namespace that is missing or ending, and the system's namespaces stay
//! (upstream: apiserver `pkg/admission/plugin/namespace/lifecycle`).

use crate::chain::{Attributes, Plugin};
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

impl NamespaceLifecycle {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    async fn check_alive(&self, a: &Attributes<'_>, new: &Value) -> Result<()> {
        let Some(row) = self.registry.kinds().resource("", "v1", "namespaces") else { return Ok(()) };
        // Whatever looks for the namespace later in the chain finds it, too.
        let namespace: Namespace = self.registry.get_live(&a.permit, &row, "", a.namespace).await?;
        if namespace.status.phase != "Terminating" {
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

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        // Reviews are answered, not stored: they may ask about a namespace that is going.
        let reviewed = a.kind.group == "authorization.k8s.io";
        if a.operation == Operation::Create && a.kind.namespaced() && !reviewed {
            return self.check_alive(a, new).await;
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, _new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let deletes_namespace = a.operation == Operation::Delete && a.is("", "namespaces");
        let name = old.map_or(a.name, object::name);
        if deletes_namespace && IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                &a.kind.group_resource(),
                name,
                "this namespace may not be deleted",
            ));
        }
        Ok(())
    }
}
