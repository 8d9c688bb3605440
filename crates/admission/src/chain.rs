//! The chain and what a plugin is.

use async_trait::async_trait;
use auth::identity::Identity;
use kinds::KindDef;
use meta::object;
use meta::permit::Permit;
use meta::status::{Result, Status};
use parking_lot::Mutex;
use registry::Operation;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where plugins leave audit annotations and client warnings.
pub trait Notes: Send + Sync {
    fn annotate(&self, key: &str, value: &str);
    /// As [`Self::annotate`], of what holds parts of the object: only where the policy keeps those.
    fn annotate_at_request(&self, key: &str, value: &str) {
        self.annotate(key, value);
    }
    fn warn(&self, text: &str);
    /// How long a webhook was waited for.
    fn webhook_took(&self, _mutating: bool, _time: std::time::Duration) {}
}

/// What the plugins of one request know of each other's changes
/// (upstream: `pkg/admission/reinvocation.go`).
#[derive(Default)]
pub struct Call {
    rounds: Mutex<Rounds>,
    pub webhooks: Turns,
    pub policies: Turns,
}

#[derive(Default)]
struct Rounds {
    round: u8,
    /// Somebody changed the object: all plugins get to see it once more.
    again: bool,
}

impl Call {
    /// 0, or 1 when all plugins run once more.
    pub fn round(&self) -> u8 {
        self.rounds.lock().round
    }

    /// One of those changed the object: all plugins run once more, and earlier ones that want to know are due again.
    pub fn changed(&self, by: &Turns) {
        self.rounds.lock().again = true;
        by.all_due();
    }

    fn begin_again(&self) -> bool {
        let mut state = self.rounds.lock();
        let again = std::mem::take(&mut state.again) && state.round == 0;
        state.round += u8::from(again);
        again
    }
}

/// Webhooks or policies that may be asked again when others change the object after them
/// (upstream: `webhookReinvokeContext`, `policyReinvokeContext`).
#[derive(Default)]
pub struct Turns(Mutex<TurnsState>);

#[derive(Default)]
struct TurnsState {
    /// Were asked, and want to be asked again.
    callable: BTreeSet<String>,
    due: BTreeSet<String>,
    /// The object as the last of them left it.
    last: Option<Value>,
}

impl Turns {
    fn all_due(&self) {
        let mut state = self.0.lock();
        let due = std::mem::take(&mut state.callable);
        state.due.extend(due);
    }

    /// One was asked that wants to know of later changes.
    pub fn wants_more(&self, id: &str) {
        self.0.lock().callable.insert(id.to_owned());
    }

    /// Whether one is to be asked in the second round.
    pub fn is_due(&self, id: &str) -> bool {
        self.0.lock().due.contains(id)
    }

    /// They begin: what other plugins changed since makes earlier ones due again.
    pub fn begin(&self, round: u8, object: &Value) {
        if round > 0 && self.0.lock().last.as_ref() != Some(object) {
            self.all_due();
        }
    }

    pub fn end(&self, object: &Value) {
        self.0.lock().last = Some(object.clone());
    }
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
    /// The request's options (`CreateOptions`, `UpdateOptions`, `DeleteOptions`), as webhooks and policies see them.
    pub options: &'a Value,
    pub call: &'a Call,
    pub notes: &'a dyn Notes,
    /// For the plugins' own reads of the registry, which are part of the request that was permitted.
    pub permit: Permit,
}

impl Attributes<'_> {
    /// Whether this is about the resource itself in a group.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.kind.group == group && self.kind.plural == plural
    }

    /// The refusal of a request by a plugin, which names the object also where its name is yet to be made (upstream:
    /// `admission.NewForbidden`).
    pub fn forbidden(&self, new: Option<&Value>, why: &str) -> Status {
        Status::forbidden(&self.kind.group_resource(), told_name(self.name, new), why)
    }
}

/// The name in a refusal (upstream: `extractResourceName`).
fn told_name<'a>(name: &'a str, new: Option<&'a Value>) -> &'a str {
    let own = |obj: &'a Value| [object::name(obj), object::meta_str(obj, "generateName")];
    let mut names = std::iter::once(name).chain(new.into_iter().flat_map(own));
    names.find(|n| !n.is_empty()).unwrap_or("Unknown")
}

/// The two rounds of admission (upstream: `MutationInterface`, `ValidationInterface`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Admit,
    Validate,
}

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether the plugin has to be asked at all (upstream: `Interface.Handles`): most are about a kind or two.
    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool;

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
        loop {
            for plugin in self.plugins.iter().filter(|p| p.handles(Phase::Admit, a)) {
                plugin.admit(a, new, old).await?;
            }
            if !a.call.begin_again() {
                return Ok(());
            }
        }
    }

    pub async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        for plugin in self.plugins.iter().filter(|p| p.handles(Phase::Validate, a)) {
            plugin.validate(a, new, old).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_name_what_has_no_name_yet() {
        let of = |name, new: Value| told_name(name, Some(&new)).to_owned();
        assert_eq!(of("a", json!({"metadata": {"name": "b"}})), "a");
        assert_eq!(of("", json!({"metadata": {"generateName": "b-"}})), "b-");
        assert_eq!(of("", json!({"metadata": {}})), "Unknown");
        assert_eq!(told_name("", None), "Unknown");
    }
}
