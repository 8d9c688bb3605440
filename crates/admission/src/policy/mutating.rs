//! MutatingAdmissionPolicy (upstream: `plugin/policy/mutating/{dispatcher,compilation}.go`).
//!
//! Policies change the object one after the other, in the order of their names; each sees what those before it did.

use super::conditions::{Conditions, Matched};
use super::hooks::{Hooks, Invocation, select};
use super::scope::{Expression, Facts, Scope, Seen, Variables};
use super::validating::COST_MAX;
use super::{Objects, concerns, is_other, namespace_object, patch};
use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use auth::Authorizer;
use kinds::KindDef;
use kinds::declared::admission::{Has, Returns};
use meta::object;
use meta::status::{Cause, Reason, Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The expressions of a policy.
pub(super) struct Compiled {
    variables: Variables,
    conditions: Conditions,
    mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    reinvoke: bool,
}

enum Mutation {
    Configuration(Expression),
    Patches(Expression),
}

/// Upstream: `compilePolicy`.
pub(super) fn compile(spec: &Value) -> Compiled {
    let has = Has { params: spec["paramKind"].is_object(), ..Has::AUTHORIZER };
    let (variables, compiler) = Variables::compile(spec, has);
    let with_types = Has { patches: true, ..has };
    let expression = |v: &Value, returns: Returns| {
        Expression::new(v["expression"].as_str().unwrap_or(""), &compiler, returns, with_types)
    };
    let mutation = |m: &Value| match m["patchType"].as_str() {
        Some("JSONPatch") => Mutation::Patches(expression(&m["jsonPatch"], Returns::Patches)),
        _ => Mutation::Configuration(expression(&m["applyConfiguration"], Returns::Object)),
    };
    Compiled {
        conditions: Conditions::parse(spec, &compiler, has),
        mutations: spec["mutations"].as_array().into_iter().flatten().map(mutation).collect(),
        reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
        variables,
    }
}

impl Mutation {
    /// The object as the mutation leaves it.
    ///
    /// # Errors
    /// Upstream's words.
    fn run(&self, scope: &Scope<'_>, object: &Value, row: &KindDef) -> std::result::Result<Value, String> {
        let (Self::Configuration(expression) | Self::Patches(expression)) = self;
        if let Err(why) = &expression.program {
            return Err(why.clone());
        }
        let mut budget = COST_MAX;
        let value = scope.evaluate(expression, &mut budget)??;
        match self {
            Self::Configuration(_) => patch::configured(object, &value, row),
            Self::Patches(_) => Ok(patch::patched(object, &value)?.unwrap_or_else(|| object.clone())),
        }
    }
}

/// A policy that did not do its work.
struct Failure {
    message: String,
    reason: Option<Reason>,
}

/// Upstream: `PolicyError.Error`.
fn said(policy: &str, binding: Option<&str>, why: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{policy}' with binding '{binding}' denied request: {why}"),
        None => format!("policy {policy:?} denied request: {why}"),
    }
}

/// The plugin.
pub struct MutatingPolicies {
    hooks: Hooks<Compiled>,
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
}

impl MutatingPolicies {
    pub fn new(registry: &Arc<Registry>, authorizer: &Arc<Authorizer>, cancel: &CancellationToken) -> Self {
        let hooks = Hooks::start(
            registry,
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            compile,
            cancel,
        );
        Self::with(hooks, registry, authorizer)
    }

    pub(super) fn with(
        hooks: Hooks<Compiled>,
        registry: &Arc<Registry>,
        authorizer: &Arc<Authorizer>,
    ) -> Self {
        Self { hooks, registry: registry.clone(), authorizer: authorizer.clone() }
    }

    /// Runs one policy with one parameter; whether it changed the object.
    async fn run(
        &self,
        due: &Invocation<Compiled>,
        param: Option<&Value>,
        namespace: &Value,
        a: &Attributes<'_>,
        new: &mut Value,
        old: Option<&Value>,
        failures: &mut Vec<Failure>,
    ) -> Result<()> {
        let (policy, binding, row) = (&due.policy, &due.binding, &*due.row);
        let compiled = policy.compiled();
        let mut fail = |why: &str| {
            if policy.fails {
                let message = said(&policy.name, Some(&binding.name), why);
                failures.push(Failure { message, reason: Some(Reason::Invalid) });
            }
        };
        let mut objects = Objects::new(&self.registry, a, old);
        let (Some(mut current), before_old) = objects.of(row, Some(new)).await? else { return Ok(()) };
        let seen = Seen { a, row, object: None, old: before_old.as_ref(), params: param, namespace };
        let matched = self
            .authorizer
            .settle(|z| {
                let facts = Facts::new(Seen { object: Some(&current), ..seen }, z);
                compiled.conditions.matches(&Scope::without_namespace(&facts, &compiled.variables))
            })
            .await;
        match matched {
            Matched::Yes => {}
            Matched::No => return Ok(()),
            Matched::Unknown(why) => {
                fail(&why);
                return Ok(());
            }
        }
        let id = id(due, param);
        if a.call.round() > 0 && !a.call.policies.is_due(&id) {
            return Ok(());
        }
        let before = current.clone();
        for mutation in &compiled.mutations {
            let made = self
                .authorizer
                .settle(|z| {
                    let facts = Facts::new(Seen { object: Some(&current), ..seen }, z);
                    mutation.run(&Scope::new(&facts, &compiled.variables), &current, row)
                })
                .await;
            match made {
                Ok(object) => current = row.retype(object).map_err(Status::internal)?,
                Err(why) => fail(&why),
            }
        }
        if current != before {
            *new = if is_other(row, a.kind) {
                self.registry.convert(row, a.kind, current).await?
            } else {
                current
            };
            a.call.changed(&a.call.policies);
        }
        if compiled.reinvoke {
            a.call.policies.wants_more(&id);
        }
        Ok(())
    }
}

/// What is invoked again, if at all.
fn id(due: &Invocation<Compiled>, param: Option<&Value>) -> String {
    let param = param.map_or(String::new(), |p| format!("{}/{}", object::namespace(p), object::name(p)));
    format!("{}\0{}\0{param}", due.policy.name, due.binding.name)
}

/// Upstream: the end of `policyDispatcher.Dispatch`.
fn refusal(a: &Attributes<'_>, new: &Value, failures: Vec<Failure>) -> Result<()> {
    let Some(first) = failures.first() else { return Ok(()) };
    let mut status = a.forbidden(Some(new), "admission request denied by policy");
    status.message = first.message.clone();
    if let Some(reason) = first.reason {
        status.reason = reason;
    }
    let causes = failures.into_iter().map(|f| Cause { message: f.message, ..Cause::default() });
    status.details.get_or_insert_default().causes.extend(causes);
    Err(status)
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit
            && a.operation != Operation::Delete
            && !self.hooks.is_empty()
            && concerns(a.kind)
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        let bound = self.hooks.bound();
        let (mut all, mut failures) = (Vec::new(), Vec::new());
        for (policy, bindings) in &bound {
            let (due, wrong) = select(&self.registry, a, (policy, bindings), Some(new), old).await;
            all.extend(due);
            for w in wrong.into_iter().filter(|_| policy.fails) {
                let binding = w.binding.as_ref().map(|b| b.name.as_str());
                failures.push(Failure { message: said(&policy.name, binding, &w.why), reason: None });
            }
        }
        if !all.is_empty() {
            a.call.policies.begin(a.call.round(), new);
            let namespace = namespace_object(&self.registry, a)?;
            for due in &all {
                for param in &due.params {
                    self.run(due, param.as_ref(), &namespace, a, new, old, &mut failures).await?;
                }
            }
            a.call.policies.end(new);
        }
        refusal(a, new, failures)
    }
}
