//! The policies that are bound, kept in step with the store.

use super::params::{ParamKind, ParamRef};
use crate::chain::Attributes;
use crate::matching::Constraints;
use crate::webhook::GROUP;
use kinds::KindDef;
use meta::object;
use parking_lot::Mutex;
use registry::Registry;
use registry::snapshot::Snapshot;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// A policy with what its expressions compile to.
pub struct Policy<C> {
    pub name: String,
    pub spec: Value,
    pub constraints: Constraints,
    /// `failurePolicy: Fail`.
    pub fails: bool,
    pub param_kind: Option<ParamKind>,
    compile: fn(&Value) -> C,
    compiled: OnceLock<C>,
}

impl<C> Policy<C> {
    pub fn new(policy: &Value, compile: fn(&Value) -> C) -> Self {
        let spec = policy["spec"].clone();
        Self {
            name: object::name(policy).to_owned(),
            constraints: Constraints::parse(&spec["matchConstraints"]),
            fails: spec["failurePolicy"] != "Ignore",
            param_kind: ParamKind::parse(&spec["paramKind"]),
            compile,
            compiled: OnceLock::new(),
            spec,
        }
    }

    /// The expressions, compiled at their first use.
    pub fn compiled(&self) -> &C {
        self.compiled.get_or_init(|| (self.compile)(&self.spec))
    }
}

/// Where a policy is in force.
pub struct Binding {
    pub name: String,
    pub policy: String,
    /// `None` where the policy's own constraints are enough.
    pub constraints: Option<Constraints>,
    pub param_ref: Option<ParamRef>,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

impl Binding {
    pub fn new(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let resources = Some(&spec["matchResources"]).filter(|r| r.is_object());
        Self {
            name: object::name(binding).to_owned(),
            policy: spec["policyName"].as_str().unwrap_or("").to_owned(),
            constraints: resources.map(Constraints::parse),
            param_ref: ParamRef::parse(&spec["paramRef"]),
            actions: object::strings(&spec["validationActions"]),
        }
    }
}

type Bindings = Arc<Vec<Arc<Binding>>>;
type ByPolicy = HashMap<String, Bindings>;

/// Policies and bindings, as the store has them.
pub struct Hooks<C> {
    policies: Arc<Snapshot<Vec<Arc<Policy<C>>>>>,
    bindings: Arc<Snapshot<ByPolicy>>,
}

/// What keeps a policy from being asked: it counts by the failure policy.
pub struct Misconfigured {
    pub binding: Option<Arc<Binding>>,
    pub why: String,
}

impl<C: Send + Sync + 'static> Hooks<C> {
    /// `plural` is the policies' resource, `bindings` that of their bindings.
    pub fn start(
        registry: &Arc<Registry>,
        plural: &str,
        bindings: &str,
        compile: fn(&Value) -> C,
        cancel: &CancellationToken,
    ) -> Self {
        // Policies that did not change keep what was compiled.
        let known: Mutex<HashMap<String, Arc<Policy<C>>>> = Mutex::default();
        let make = move |objects: &[Value]| {
            let mut known = known.lock();
            let mut now = HashMap::new();
            let mut list: Vec<Arc<Policy<C>>> = Vec::with_capacity(objects.len());
            for policy in objects {
                let id = format!("{}/{}", object::uid(policy), object::generation(policy));
                let kept = known.remove(&id).unwrap_or_else(|| Arc::new(Policy::new(policy, compile)));
                now.insert(id, kept.clone());
                list.push(kept);
            }
            *known = now;
            list.sort_by(|a, b| a.name.cmp(&b.name));
            list
        };
        let row = |plural: &str| registry.kinds().resource(GROUP, "v1", plural);
        let policies = match row(plural) {
            Some(row) => Snapshot::start(registry, &row, make, cancel.clone()),
            None => Snapshot::fixed(Vec::new()),
        };
        let bindings = match row(bindings) {
            Some(row) => Snapshot::start(registry, &row, by_policy, cancel.clone()),
            None => Snapshot::fixed(HashMap::new()),
        };
        Self { policies, bindings }
    }

    /// Whether no policy has a binding.
    pub fn is_empty(&self) -> bool {
        self.bindings.get().is_empty()
    }

    /// The policies that have bindings, by name, with these.
    pub fn bound(&self) -> Vec<(Arc<Policy<C>>, Bindings)> {
        let bindings = self.bindings.get();
        let policies = self.policies.get();
        let bound = |p: &Arc<Policy<C>>| Some((p.clone(), bindings.get(&p.name)?.clone()));
        policies.iter().filter_map(bound).collect()
    }

    /// For tests.
    #[cfg(test)]
    pub fn fixed(policies: &[Value], bindings: &[Value], compile: fn(&Value) -> C) -> Self {
        let policies = policies.iter().map(|p| Arc::new(Policy::new(p, compile))).collect();
        Self { policies: Snapshot::fixed(policies), bindings: Snapshot::fixed(by_policy(bindings)) }
    }
}

fn by_policy(objects: &[Value]) -> ByPolicy {
    let mut out: HashMap<String, Vec<Arc<Binding>>> = HashMap::new();
    let mut sorted: Vec<Arc<Binding>> = objects.iter().map(|b| Arc::new(Binding::new(b))).collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for binding in sorted {
        out.entry(binding.policy.clone()).or_default().push(binding);
    }
    out.into_iter().map(|(policy, list)| (policy, Arc::new(list))).collect()
}

/// A policy, a binding and its parameters, which are for a request.
pub struct Invocation<C> {
    pub policy: Arc<Policy<C>>,
    pub binding: Arc<Binding>,
    /// The version as which the policy wants the objects.
    pub row: Arc<KindDef>,
    pub params: Vec<Option<Value>>,
}

/// What of one policy is for the request (upstream: `policyDispatcher.Dispatch`).
pub async fn select<C>(
    registry: &Registry,
    a: &Attributes<'_>,
    (policy, bindings): (&Arc<Policy<C>>, &[Arc<Binding>]),
    new: Option<&Value>,
    old: Option<&Value>,
) -> (Vec<Invocation<C>>, Vec<Misconfigured>) {
    let (mut due, mut wrong) = (Vec::new(), Vec::new());
    let for_policy = |why: String| Misconfigured { binding: None, why };
    let row = match policy.constraints.row(registry, a, new, old) {
        Ok(Some(row)) => row,
        Ok(None) => return (due, wrong),
        Err(e) => return (due, vec![for_policy(format!("failed to configure policy: {}", e.message))]),
    };
    let param_row = match policy.param_kind.as_ref().map(|k| k.row(registry)).transpose() {
        Ok(row) => row,
        Err(why) => return (due, vec![for_policy(format!("failed to configure policy: {why}"))]),
    };
    for binding in bindings {
        let for_binding = |why: String| Misconfigured {
            binding: Some(binding.clone()),
            why: format!("failed to configure binding: {why}"),
        };
        let matches = binding.constraints.as_ref().map(|c| c.row(registry, a, new, old)).transpose();
        match matches {
            Ok(Some(None)) => continue,
            Ok(_) => {}
            Err(e) => {
                wrong.push(for_binding(e.message));
                continue;
            }
        }
        let params = match (&param_row, &binding.param_ref) {
            (Some(row), Some(reference)) => reference.collect(registry, a, row).await,
            _ => Ok(vec![None]),
        };
        match params {
            Ok(params) if params.is_empty() => {}
            Ok(params) => due.push(Invocation {
                policy: policy.clone(),
                binding: binding.clone(),
                row: row.clone(),
                params,
            }),
            Err(why) => wrong.push(for_binding(why)),
        }
    }
    (due, wrong)
}
