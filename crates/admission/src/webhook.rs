//! Mutating and validating webhooks (upstream: apiserver `pkg/admission/plugin/webhook`).
//!
//! Invariant: a webhook that cannot be asked counts as its failure policy says, and what was decided without it is on
//! the audit record.

mod call;
mod hook;
mod review;

use crate::chain::{Attributes, Phase, Plugin};
use crate::matching::{self, row_for};
use crate::policy::conditions::Matched;
use crate::policy::scope::{Facts, Scope, Seen, Variables};
use async_trait::async_trait;
use auth::Authorizer;
pub use call::post;
use call::{Answer, Failure};
use client::outbound::{Outbound, Resolve};
pub use hook::{ClientConfig, Hook};
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::snapshot::Snapshot;
use registry::{Operation, Registry};
pub(crate) use review::kind_of;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The group of webhook configurations and policies.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// How webhooks are reached; shared by both plugins.
pub struct Caller {
    pub outbound: Arc<Outbound>,
    pub resolve: Arc<dyn Resolve>,
}

/// One of the two plugins.
pub struct Webhooks {
    mutating: bool,
    hooks: Arc<Snapshot<Vec<Hook>>>,
    registry: Arc<Registry>,
    caller: Arc<Caller>,
    authorizer: Arc<Authorizer>,
}

impl Webhooks {
    pub fn mutating(
        registry: &Arc<Registry>,
        authorizer: &Arc<Authorizer>,
        caller: Arc<Caller>,
        cancel: CancellationToken,
    ) -> Self {
        Self::new(registry, authorizer, caller, "mutatingwebhookconfigurations", cancel)
    }

    pub fn validating(
        registry: &Arc<Registry>,
        authorizer: &Arc<Authorizer>,
        caller: Arc<Caller>,
        cancel: CancellationToken,
    ) -> Self {
        Self::new(registry, authorizer, caller, "validatingwebhookconfigurations", cancel)
    }

    fn new(
        registry: &Arc<Registry>,
        authorizer: &Arc<Authorizer>,
        caller: Arc<Caller>,
        plural: &str,
        cancel: CancellationToken,
    ) -> Self {
        let hooks = match registry.kinds().resource(GROUP, "v1", plural) {
            Some(row) => Snapshot::start(registry, &row, hook::all, cancel),
            None => Snapshot::fixed(Vec::new()),
        };
        let mutating = plural.starts_with("mutating");
        Self { mutating, hooks, registry: registry.clone(), caller, authorizer: authorizer.clone() }
    }

    /// Hooks that are for the request, each with the row as which it wants it.
    async fn due<'h>(
        &self,
        hooks: &'h [Hook],
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Vec<(usize, &'h Hook, Arc<KindDef>)>> {
        let mut due = Vec::new();
        for (i, hook) in hooks.iter().enumerate() {
            if let Some(row) = self.wants(hook, a, new, old).await? {
                due.push((i, hook, row));
            }
        }
        Ok(due)
    }

    async fn wants(
        &self,
        hook: &Hook,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Arc<KindDef>>> {
        let Some(row) = row_for(&self.registry, a, &hook.rules, hook.equivalent) else { return Ok(None) };
        if !hook.selection.matches(&self.registry, a, new, old)? {
            return Ok(None);
        }
        if hook.conditions.is_empty() {
            return Ok(Some(row));
        }
        match self.conditions(hook, &row, a, new, old).await? {
            Matched::Yes => Ok(Some(row)),
            Matched::No => Ok(None),
            Matched::Unknown(why) => Err(a.forbidden(new, &why)),
        }
    }

    /// Whether the hook's match conditions hold, in the version that it wants.
    async fn conditions(
        &self,
        hook: &Hook,
        row: &KindDef,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Matched> {
        let (new, old) = self.versions(row, a, new, old).await?;
        let seen = Seen {
            a,
            row,
            object: new.as_deref(),
            old: old.as_deref(),
            params: None,
            namespace: &Value::Null,
        };
        let none = Variables::default();
        let decide = |z: &Authorizer| hook.conditions.matches(&Scope::new(&Facts::new(seen, z), &none));
        Ok(self.authorizer.settle(decide).await)
    }

    /// New and old object as another row's, where it is another.
    async fn versions<'v>(
        &self,
        row: &KindDef,
        a: &Attributes<'_>,
        new: Option<&'v Value>,
        old: Option<&'v Value>,
    ) -> Result<(Option<Cow<'v, Value>>, Option<Cow<'v, Value>>)> {
        let other = row.version != a.kind.version || row.group != a.kind.group;
        let turn = async |obj: Option<&'v Value>| match obj {
            Some(obj) if other => {
                self.registry.convert(a.kind, row, obj.clone()).await.map(|o| Some(Cow::Owned(o)))
            }
            obj => Ok(obj.map(Cow::Borrowed)),
        };
        Ok((turn(new).await?, turn(old).await?))
    }

    async fn ask(
        &self,
        hook: &Hook,
        row: &KindDef,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> std::result::Result<Answer, Failure> {
        let (new, old) = self.versions(row, a, new, old).await.map_err(Failure::Refused)?;
        let sent = review::Sent { row, new: new.map(Cow::into_owned), old: old.map(Cow::into_owned) };
        call::call(&self.caller, hook, &sent, a, self.mutating).await
    }

    /// Calls the mutating hooks one after the other.
    async fn mutate(
        &self,
        a: &Attributes<'_>,
        mut new: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        let hooks = self.hooks.get();
        let round = a.call.round();
        if let Some(new) = new.as_deref() {
            a.call.webhooks.begin(round, new);
        }
        for (i, hook) in hooks.iter().enumerate() {
            let Some(row) = self.wants(hook, a, new.as_deref(), old).await? else { continue };
            if round > 0 && !a.call.webhooks.is_due(&hook.id) {
                continue;
            }
            let place = format!("round_{round}_index_{i}");
            let answer = self.ask(hook, &row, a, new.as_deref(), old).await;
            let outcome = match answer {
                Ok(answer) => self.patched(hook, &row, a, &answer, new.as_deref_mut(), &place).await,
                Err(failure) => Err(failure),
            };
            let changed = matches!(outcome, Ok(true));
            let note = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            a.notes.annotate(&format!("mutation.webhook.admission.k8s.io/{place}"), &note.to_string());
            if changed {
                a.call.changed(&a.call.webhooks);
            }
            if hook.reinvoke {
                a.call.webhooks.wants_more(&hook.id);
            }
            if let Err(failure) = outcome {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                hook.failed(failure, a, &key)?;
            }
        }
        if let Some(new) = new {
            a.call.webhooks.end(new);
        }
        Ok(())
    }

    /// Takes a hook's patch over; whether it changed anything.
    async fn patched(
        &self,
        hook: &Hook,
        row: &Arc<KindDef>,
        a: &Attributes<'_>,
        answer: &Answer,
        new: Option<&mut Value>,
        place: &str,
    ) -> std::result::Result<bool, Failure> {
        let Some(patch) = answer.patch.as_ref().filter(|p| p.as_array().is_none_or(|l| !l.is_empty())) else {
            return Ok(false);
        };
        let refused = |why: String| Failure::Refused(Status::internal(why));
        let Some(new) = new else {
            return Err(refused(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        };
        let other = row.version != a.kind.version || row.group != a.kind.group;
        let mut object = if other {
            self.registry.convert(a.kind, row, new.clone()).await.map_err(Failure::Refused)?
        } else {
            new.clone()
        };
        let before = object.clone();
        meta::patch::json::apply(&mut object, patch).map_err(|e| refused(e.message))?;
        let object = row.retype(object).map_err(refused)?;
        let changed = object != before;
        let note = json!({
            "configuration": hook.configuration, "webhook": hook.name, "patch": patch, "patchType": "JSONPatch",
        });
        let key = format!("patch.webhook.admission.k8s.io/{place}");
        a.notes.annotate_at_request(&key, &note.to_string());
        *new = if other {
            self.registry.convert(row, a.kind, object).await.map_err(Failure::Refused)?
        } else {
            object
        };
        Ok(changed)
    }

    /// Asks the validating hooks all at once; the first refusal counts.
    async fn check(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let hooks = self.hooks.get();
        let due = self.due(&hooks, a, new, old).await?;
        let asked = due.iter().map(|(_, hook, row)| self.ask(hook, row, a, new, old));
        let answers = futures::future::join_all(asked).await;
        for (i, ((_, hook, _), answer)) in due.iter().zip(answers).enumerate() {
            if let Err(failure) = answer {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{i}");
                hook.failed(failure, a, &key)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        if self.mutating { "MutatingAdmissionWebhook" } else { "ValidatingAdmissionWebhook" }
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let asked = match phase {
            Phase::Admit => self.mutating,
            // A deletion has no object to change, but mutating webhooks are asked about it.
            Phase::Validate => !self.mutating || a.operation == Operation::Delete,
        };
        asked && !self.hooks.get().is_empty() && !matching::is_exempt(a.kind)
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        self.mutate(a, Some(new), old).await
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        if self.mutating { self.mutate(a, None, old).await } else { self.check(a, new, old).await }
    }
}
