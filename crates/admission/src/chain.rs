//! The chain and what a plugin is.

use async_trait::async_trait;
use auth::identity::Identity;
use kinds::KindDef;
use meta::permit::Permit;
use meta::status::Result;
use registry::Operation;
use serde_json::Value;
use std::sync::Arc;

/// Where plugins leave audit annotations and client warnings.
pub trait Notes: Send + Sync {
    fn annotate(&self, key: &str, value: &str);
    fn warn(&self, text: &str);
}

/// What is being done, by whom, to what.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a Identity,
    pub kind: &'a KindDef,
    pub namespace: &'a str,
    /// Empty when the name is yet to be generated.
    pub name: &'a str,
    pub subresource: &'a str,
    pub operation: Operation,
    pub dry_run: bool,
    pub notes: &'a dyn Notes,
    /// For the plugins' own reads of the registry, which are part of the request that was permitted.
    pub permit: Permit,
}

impl Attributes<'_> {
    /// Whether this is about the resource itself in a group.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.kind.group == group && self.kind.plural == plural
    }
}

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// May change the new object.
    async fn admit(&self, _a: &Attributes<'_>, _new: &mut Value, _old: Option<&Value>) -> Result<()> {
        Ok(())
    }

    /// Sees the final object; `new` is absent on delete.
    async fn validate(&self, _a: &Attributes<'_>, _new: Option<&Value>, _old: Option<&Value>) -> Result<()> {
        Ok(())
    }
}

/// Plugins in upstream's order.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

impl Chain {
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self { plugins }
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|p| p.name()).collect()
    }

    pub async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        for plugin in &self.plugins {
            plugin.admit(a, new, old).await?;
        }
        Ok(())
    }

    pub async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        for plugin in &self.plugins {
            plugin.validate(a, new, old).await?;
        }
        Ok(())
    }
}
