//! ValidatingAdmissionPolicy (upstream: `plugin/policy/validating/{dispatcher,validator,policy_decision}.go`).
//!
//! Invariant: what a policy could not decide counts as its failure policy says.

use super::conditions::{Conditions, Matched};
use super::hooks::{Binding, Hooks, Invocation, Policy, select};
use super::scope::{Expression, Facts, Scope, Seen, Variables};
use super::{Objects, concerns, namespace_object};
use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use auth::Authorizer;
use kinds::declared::admission::{Has, Returns};
use kinds::declared::engine;
use meta::status::{Cause, Reason, Result, Status};
use registry::Registry;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the expressions of one binding may cost (upstream: `RuntimeCELCostBudget`).
pub(super) const COST_MAX: u64 = 10_000_000;
/// Failures on the audit record of one request.
const FAILURES_MAX: usize = 50;
/// The longest value of an audit annotation, in bytes.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;
/// The longest message that an expression may make, in bytes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// The expressions of a policy.
pub(super) struct Compiled {
    variables: Variables,
    conditions: Conditions,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

struct Validation {
    expression: Expression,
    message: Option<Expression>,
    text: String,
    reason: String,
}

/// Upstream: `compilePolicy`.
pub(super) fn compile(spec: &Value) -> Compiled {
    let has = Has { params: spec["paramKind"].is_object(), ..Has::AUTHORIZER };
    let (variables, compiler) = Variables::compile(spec, has);
    let text = |v: &Value, field: &str| v[field].as_str().unwrap_or("").to_owned();
    let list = |field: &str| spec[field].as_array().into_iter().flatten();
    let validation = |v: &Value| {
        let message = text(v, "messageExpression");
        let silent = Has { authorizer: false, ..has };
        Validation {
            expression: Expression::new(&text(v, "expression"), &compiler, Returns::Bool, has),
            message: (!message.is_empty())
                .then(|| Expression::new(&message, &compiler, Returns::String, silent)),
            text: text(v, "message"),
            reason: text(v, "reason"),
        }
    };
    let annotation = |v: &Value| {
        let value = Expression::new(&text(v, "valueExpression"), &compiler, Returns::StringOrNull, has);
        (text(v, "key"), value)
    };
    Compiled {
        conditions: Conditions::parse(spec, &compiler, has),
        validations: list("validations").map(validation).collect(),
        annotations: list("auditAnnotations").map(annotation).collect(),
        variables,
    }
}

/// What a policy says of a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// For each validation: `None` when it holds.
    pub decisions: Vec<Option<Denial>>,
    pub annotations: Vec<(String, Annotation)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Denial {
    pub message: String,
    /// Empty for `Invalid`.
    pub reason: String,
}

#[derive(Debug, PartialEq)]
pub(super) enum Annotation {
    Publish(String),
    Exclude,
    Error(String),
}

impl Compiled {
    /// Upstream: `validator.Validate`.
    pub(super) fn validate(&self, fails: bool, facts: &Facts<'_>) -> Verdict {
        let error = |why: String| {
            let decision = fails.then(|| Denial { message: why, reason: String::new() });
            Verdict { decisions: vec![decision], annotations: Vec::new() }
        };
        match self.conditions.matches(&Scope::without_namespace(facts, &self.variables)) {
            Matched::Yes => {}
            Matched::No => return Verdict::default(),
            Matched::Unknown(why) => return error(why),
        }
        let (scope, mut budget) = (Scope::new(facts, &self.variables), COST_MAX);
        let mut results = Vec::with_capacity(self.validations.len());
        for v in &self.validations {
            match scope.evaluate(&v.expression, &mut budget) {
                Ok(result) => results.push(result),
                Err(why) => return error(why),
            }
        }
        let messages = self.messages(&Scope::new(facts, &self.variables), &mut budget);
        let decide = |(i, (v, result)): (usize, (&Validation, _))| match (result, &messages) {
            (Err(why), _) => fails.then(|| Denial { message: why, reason: String::new() }),
            (Ok(_), Err(why)) => fails.then(|| Denial {
                message: format!("failed messageExpression: {why}"),
                reason: String::new(),
            }),
            (Ok(engine::Value::Bool(true)), _) => None,
            (Ok(_), Ok(messages)) => {
                let made = messages.get(i).cloned().flatten();
                Some(Denial { message: v.message(made), reason: v.reason.clone() })
            }
        };
        let decisions = self.validations.iter().zip(results).enumerate().map(decide).collect();
        match self.annotate(&Scope::new(facts, &self.variables), fails) {
            Ok(annotations) => Verdict { decisions, annotations },
            Err(why) => error(why),
        }
    }

    /// The messages that expressions make, whether they are needed or not; `Err` when the budget is gone.
    fn messages(
        &self,
        scope: &Scope<'_>,
        budget: &mut u64,
    ) -> std::result::Result<Vec<Option<String>>, String> {
        let mut out = Vec::with_capacity(self.validations.len());
        for v in &self.validations {
            let Some(message) = &v.message else {
                out.push(None);
                continue;
            };
            out.push(match scope.evaluate(message, budget)? {
                Ok(value) => engine::as_text(&value),
                Err(_) => None,
            });
        }
        Ok(out)
    }

    fn annotate(
        &self,
        scope: &Scope<'_>,
        fails: bool,
    ) -> std::result::Result<Vec<(String, Annotation)>, String> {
        let mut budget = COST_MAX;
        let mut out = Vec::with_capacity(self.annotations.len());
        for (key, expression) in &self.annotations {
            let annotation = match scope.evaluate(expression, &mut budget)? {
                Ok(engine::Value::Null) => Annotation::Exclude,
                Ok(value) => match engine::as_text(&value).as_deref().map(str::trim) {
                    Some("") => Annotation::Exclude,
                    Some(text) => Annotation::Publish(text.to_owned()),
                    None => Annotation::Error(format!(
                        "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                        expression.text,
                        engine::type_name(&value)
                    )),
                },
                Err(why) if fails => Annotation::Error(why),
                Err(_) => Annotation::Exclude,
            };
            out.push((key.clone(), annotation));
        }
        Ok(out)
    }
}

impl Validation {
    /// The best of what can be said: the expression's message, the fixed one, or the expression itself.
    fn message(&self, made: Option<String>) -> String {
        let made = made.map(|m| m.trim().to_owned()).unwrap_or_default();
        if !made.is_empty() && made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n') {
            return made;
        }
        match self.text.trim() {
            "" => format!("failed expression: {}", self.expression.text.trim()),
            fixed => fixed.to_owned(),
        }
    }
}

/// One failure on the audit record; the order of the fields is upstream's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    message: String,
    policy: String,
    binding: String,
    expression_index: usize,
    validation_actions: Vec<String>,
}

/// What came of all policies.
#[derive(Default)]
struct Tally {
    /// The text of the first refusal, with its reason.
    refused: Option<(String, String)>,
    failures: Vec<Failure>,
    warnings: Vec<String>,
    /// Keys with their values, of one policy after the other.
    annotations: Vec<(String, Vec<String>)>,
}

impl Tally {
    fn refuse(&mut self, policy: &str, binding: Option<&Binding>, denial: Denial) {
        let with = binding.map_or(String::new(), |b| format!(" with binding '{}'", b.name));
        let text = format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {}", denial.message);
        self.refused.get_or_insert((text, denial.reason));
    }

    /// Upstream: `dispatcher.Dispatch`, of one evaluation.
    fn count(&mut self, policy: &str, binding: &Binding, verdict: Verdict) {
        for (i, denial) in verdict.decisions.into_iter().enumerate() {
            let Some(denial) = denial else { continue };
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.refuse(policy, Some(binding), denial.clone()),
                    "Audit" => self.failures.push(Failure {
                        message: denial.message.clone(),
                        policy: binding.policy.clone(),
                        binding: binding.name.clone(),
                        expression_index: i,
                        validation_actions: binding.actions.clone(),
                    }),
                    "Warn" => self.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{}': {}",
                        binding.name, denial.message
                    )),
                    _ => {}
                }
            }
        }
        for (key, annotation) in verdict.annotations {
            match annotation {
                Annotation::Publish(value) => self.annotate(format!("{policy}/{key}"), value),
                Annotation::Error(message) => {
                    self.refuse(policy, Some(binding), Denial { message, reason: String::new() });
                }
                Annotation::Exclude => {}
            }
        }
    }

    fn annotate(&mut self, key: String, mut value: String) {
        let mut end = value.len().min(ANNOTATION_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        value.truncate(end);
        match self.annotations.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => self.annotations.push((key, vec![value])),
        }
    }

    fn finish(mut self, a: &Attributes<'_>, new: Option<&Value>) -> Result<()> {
        self.warnings.iter().for_each(|w| a.notes.warn(w));
        for (key, values) in &self.annotations {
            a.notes.annotate(key, &values.join(", "));
        }
        if !self.failures.is_empty() {
            self.failures.truncate(FAILURES_MAX);
            let text = serde_json::to_string(&self.failures).map_err(Status::internal)?;
            // As Go's encoder writes it.
            let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
            a.notes.annotate(FAILURES, &text);
        }
        let Some((text, reason)) = self.refused else { return Ok(()) };
        let mut status = a.forbidden(new, &text);
        let (reason, code) = match reason.as_str() {
            "Forbidden" => (Reason::Forbidden, 403),
            "Unauthorized" => (Reason::Unauthorized, 401),
            "RequestEntityTooLarge" => (Reason::RequestEntityTooLarge, 413),
            _ => (Reason::Invalid, 422),
        };
        status.reason = reason;
        status.code = code;
        let cause = Cause { message: text, ..Cause::default() };
        status.details.get_or_insert_default().causes.push(cause);
        Err(status)
    }
}

/// The plugin.
pub struct ValidatingPolicies {
    hooks: Hooks<Compiled>,
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
}

impl ValidatingPolicies {
    pub fn new(registry: &Arc<Registry>, authorizer: &Arc<Authorizer>, cancel: &CancellationToken) -> Self {
        let hooks = Hooks::start(
            registry,
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
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

    async fn run(
        &self,
        due: Invocation<Compiled>,
        objects: &mut Objects<'_>,
        a: &Attributes<'_>,
        new: Option<&Value>,
        tally: &mut Tally,
    ) -> Result<()> {
        let Invocation { policy, binding, row, params } = due;
        let (object, old) = match objects.of(&row, new).await {
            Ok(pair) => pair,
            Err(e) => {
                let why =
                    format!("failed to configure binding: failed to convert object version: {}", e.message);
                misconfigured(&policy, Some(&binding), why, tally);
                return Ok(());
            }
        };
        let namespace = namespace_object(&self.registry, a)?;
        for param in &params {
            let verdict = self
                .authorizer
                .settle(|z| {
                    let seen = Seen {
                        a,
                        row: &row,
                        object: object.as_ref(),
                        old: old.as_ref(),
                        params: param.as_ref(),
                        namespace: &namespace,
                    };
                    policy.compiled().validate(policy.fails, &Facts::new(seen, z))
                })
                .await;
            tally.count(&policy.name, &binding, verdict);
        }
        Ok(())
    }
}

/// A policy that cannot be asked.
fn misconfigured(policy: &Policy<Compiled>, binding: Option<&Binding>, why: String, tally: &mut Tally) {
    if policy.fails {
        tally.refuse(&policy.name, binding, Denial { message: why, reason: String::new() });
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate && !self.hooks.is_empty() && concerns(a.kind)
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let bound = self.hooks.bound();
        let (mut tally, mut objects) = (Tally::default(), Objects::new(&self.registry, a, old));
        for (policy, bindings) in &bound {
            let (due, wrong) = select(&self.registry, a, (policy, bindings), new, old).await;
            for w in wrong {
                misconfigured(policy, w.binding.as_deref(), w.why, &mut tally);
            }
            for invocation in due {
                self.run(invocation, &mut objects, a, new, &mut tally).await?;
            }
        }
        tally.finish(a, new)
    }
}

#[cfg(test)]
mod tests;
