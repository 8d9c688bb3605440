//! Roles and bindings give away no more than their writer has (upstream: `pkg/registry/rbac/*/policybased`, there a
//! storage wrapper). It comes last of the plugins that see the object before it is validated.

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use auth::Authorizer;
use auth::rbac::Rule;
use auth::rbac::escalation::{Write, check};
use meta::status::Result;
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

pub struct Escalation {
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
}

impl Escalation {
    pub fn new(registry: Arc<Registry>, authorizer: Arc<Authorizer>) -> Self {
        Self { registry, authorizer }
    }
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit && a.kind.group == auth::rbac::GROUP
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        let find = |kind: &str, namespace: &str, name: &str| {
            let (plural, namespace) =
                if kind == "Role" { ("roles", namespace) } else { ("clusterroles", "") };
            let row = self.registry.kinds().resource(auth::rbac::GROUP, "v1", plural)?;
            let role = self.registry.get_value(&a.permit, &row, namespace, name).ok()?;
            Some(Rule::of_role(&role))
        };
        let write = Write {
            user: a.user,
            kind: &a.kind.kind,
            namespace: a.namespace,
            name: if a.operation == Operation::Create { "" } else { a.name },
            new,
            old,
        };
        self.authorizer.settle(|z| check(z, &write, &find)).await
    }
}
