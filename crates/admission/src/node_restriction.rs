//! NodeRestriction: a kubelet changes its own Node and the pods bound to it, nothing else
//! (upstream: `plugin/pkg/admission/noderestriction`). What that means in detail is [`auth::node_restriction`]'s.

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use auth::Authorizer;
use auth::node_restriction::{Lookup, Request, check};
use meta::status::Result;
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

pub struct NodeRestriction {
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
}

impl NodeRestriction {
    pub fn new(registry: Arc<Registry>, authorizer: Arc<Authorizer>) -> Self {
        Self { registry, authorizer }
    }
}

/// The registry, under the permit of the request in question.
struct Present<'a>(&'a Registry, &'a Attributes<'a>);

impl Present<'_> {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let row = self.0.kinds().resource("", "v1", resource)?;
        self.0.get_value(&self.1.permit, &row, namespace, name).ok().map(Arc::new)
    }
}

impl Lookup for Present<'_> {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get("pods", namespace, name)
    }

    fn node(&self, name: &str) -> Option<Arc<Value>> {
        self.get("nodes", "", name)
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate && a.user.node_name().is_some()
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let operation = match a.operation {
            Operation::Create => auth::node_restriction::Operation::Create,
            Operation::Update => auth::node_restriction::Operation::Update,
            Operation::Delete => auth::node_restriction::Operation::Delete,
            // Authorisation alone says who may connect.
            Operation::Connect => return Ok(()),
        };
        let request = Request {
            user: a.user,
            operation,
            group: &a.kind.group,
            version: &a.kind.version,
            resource: &a.kind.plural,
            subresource: a.subresource,
            namespace: a.namespace,
            name: a.name,
            new,
            old,
        };
        let present = Present(&self.registry, a);
        self.authorizer.settle(|z| check(&request, &present, z)).await
    }
}
