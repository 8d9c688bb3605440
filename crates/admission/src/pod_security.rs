//! PodSecurity: pods keep to the level that their namespace's labels ask for
//! (upstream: `plugin/pkg/admission/security/podsecurity`, pod-security-admission `admission/admission.go`).
//!
//! Invariants: only a pod is ever refused, and a namespace whose labels say nothing sensible; workloads that make pods
//! are warned of and recorded. What the plugin found is on the record also when it refuses.

mod baseline;
mod checks;
mod existing;
mod pod;
mod policy;
mod restricted;

use crate::chain::{Attributes, Notes, Phase, Plugin};
use async_trait::async_trait;
use checks::evaluate;
use kinds::KindDef;
use meta::field::{ErrorList, aggregate};
use meta::object;
use meta::status::{Result, Status};
use pod::{Pod, list_of, text};
use policy::{Level, LevelVersion, Policy};
use registry::{ListQuery, Match, Operation, Registry, Selectors};
use serde_json::Value;
use std::sync::Arc;

/// Audit annotations, under [`policy::PREFIX`].
const ENFORCE_POLICY: &str = "enforce-policy";
const AUDIT_VIOLATIONS: &str = "audit-violations";
const ERROR: &str = "error";

/// Subresources of pods that change nothing of what is judged. All others are judged: one that is made later is
/// then not a way around.
const IGNORED_SUBRESOURCES: &[&str] =
    &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Where a workload keeps its pod template.
struct Templated {
    group: &'static str,
    plural: &'static str,
    path: &'static [&'static str],
}

/// Upstream: `admission/admission.go#DefaultPodSpecExtractor`.
const TEMPLATED: &[Templated] = &[
    Templated { group: "", plural: "podtemplates", path: &["template"] },
    Templated { group: "", plural: "replicationcontrollers", path: &["spec", "template"] },
    Templated { group: "apps", plural: "daemonsets", path: &["spec", "template"] },
    Templated { group: "apps", plural: "deployments", path: &["spec", "template"] },
    Templated { group: "apps", plural: "replicasets", path: &["spec", "template"] },
    Templated { group: "apps", plural: "statefulsets", path: &["spec", "template"] },
    Templated { group: "batch", plural: "cronjobs", path: &["spec", "jobTemplate", "spec", "template"] },
    Templated { group: "batch", plural: "jobs", path: &["spec", "template"] },
];

/// The plugin. Exempts nobody; namespaces without labels are privileged.
pub struct PodSecurity {
    registry: Arc<Registry>,
    /// Of namespaces without labels.
    defaults: Policy,
}

/// The answer to a request, and what is said about it.
#[derive(Debug, Default, PartialEq)]
struct Response {
    annotations: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    refusal: Option<Status>,
}

impl PodSecurity {
    /// With the cluster's default, which is that anything goes.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, defaults: Policy::PRIVILEGED }
    }

    fn policy_of(&self, namespace: &Value) -> (Policy, ErrorList) {
        Policy::of_labels(object::meta_map(namespace, "labels"), self.defaults)
    }

    fn namespace_of(&self, a: &Attributes<'_>) -> Result<Value> {
        let row = self.registry.kinds().resource("", "v1", "namespaces");
        let row = row.ok_or_else(Status::no_such_resource)?;
        self.registry.get_value(&a.permit, &row, "", a.namespace)
    }

    fn judge_pod(&self, a: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Response {
        if IGNORED_SUBRESOURCES.contains(&a.subresource) {
            return Response::default();
        }
        let namespace = match self.namespace_of(a) {
            Ok(namespace) => namespace,
            Err(e) => {
                let failure = Status::internal(format!("failed to lookup namespace {:?}", a.namespace));
                let told = format!("{failure}: {e}");
                return Response::error(told, Some(failure));
            }
        };
        let (policy, errors) = self.policy_of(&namespace);
        if errors.is_empty() && policy.fully_privileged() {
            // Whatever the version: none has rules for it.
            let told = (ENFORCE_POLICY, LevelVersion::PRIVILEGED.to_string());
            return Response { annotations: vec![told], ..Response::default() };
        }
        if a.kind.subresource(a.subresource).is_some_and(|s| s.body.is_some()) {
            let failure = Status::bad_request("failed to decode pod");
            return Response::error(failure.to_string(), Some(failure));
        }
        let changed = |old| a.operation != Operation::Update || is_significant(new, old);
        if !old.is_none_or(changed) {
            return Response::default();
        }
        let name = if a.name.is_empty() { object::name(new) } else { a.name };
        let refuse = |why: &str| Status::forbidden(&a.kind.group_resource(), name, why);
        judge(&policy, &errors, &Pod::new(new), Some(&refuse))
    }

    fn judge_workload(&self, a: &Attributes<'_>, new: &Value, template: &[&str]) -> Response {
        if !a.subresource.is_empty() {
            return Response::default();
        }
        let namespace = match self.namespace_of(a) {
            Ok(namespace) => namespace,
            Err(e) => {
                return Response::error(format!("failed to lookup namespace {:?}: {e}", a.namespace), None);
            }
        };
        let (policy, errors) = self.policy_of(&namespace);
        let silent = [policy.warn, policy.audit].iter().all(|lv| lv.level == Level::Privileged);
        if errors.is_empty() && silent {
            return Response::default();
        }
        match object::at(new, template) {
            Some(template) => judge(&policy, &errors, &Pod::new(template), None),
            None => Response::default(),
        }
    }

    async fn judge_namespace(&self, a: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Response {
        if !a.subresource.is_empty() {
            return Response::default();
        }
        let name = if a.name.is_empty() { object::name(new) } else { a.name };
        let (policy, errors) = self.policy_of(new);
        let (old_policy, old_errors) = match old {
            Some(old) => self.policy_of(old),
            None => (policy, ErrorList::new()),
        };
        // Labels that were wrong before may stay so.
        if !errors.is_empty() && errors != old_errors {
            let refusal = Status::invalid(&a.kind.group_kind(), name, &errors);
            return Response { refusal: Some(refusal), ..Response::default() };
        }
        if !is_tightened(old_policy.enforce, policy.enforce) {
            return Response::default();
        }
        let warnings = self.warnings_of_existing(a, name, policy.enforce).await;
        Response { warnings, ..Response::default() }
    }

    async fn warnings_of_existing(
        &self,
        a: &Attributes<'_>,
        name: &str,
        enforce: LevelVersion,
    ) -> Vec<String> {
        let Some(row) = self.registry.kinds().resource("", "v1", "pods") else { return Vec::new() };
        let query = ListQuery {
            selectors: Selectors::default(),
            limit: 0,
            resume: None,
            resource_version: String::new(),
            matching: Match::Unset,
        };
        match self.registry.list(&a.permit, &row, Some(name), &query).await {
            Ok(listed) => {
                existing::warnings(name, enforce, &listed.items, self.registry.clock().as_ref()).await
            }
            Err(_) => vec![existing::UNREADABLE.to_owned()],
        }
    }
}

impl Response {
    /// Something that went wrong, which refuses only if it says with what.
    fn error(told: String, refusal: Option<Status>) -> Self {
        Self { annotations: vec![(ERROR, told)], warnings: Vec::new(), refusal }
    }

    fn give(self, notes: &dyn Notes) -> Result<()> {
        for warning in &self.warnings {
            notes.warn(warning);
        }
        for (key, value) in &self.annotations {
            notes.annotate(&format!("{}{key}", policy::PREFIX), value);
        }
        self.refusal.map_or(Ok(()), Err)
    }
}

/// Judges a pod in all modes; `refuse` is absent where nothing is enforced
/// (upstream: `admission/admission.go#EvaluatePod`).
fn judge(
    policy: &Policy,
    errors: &ErrorList,
    pod: &Pod<'_>,
    refuse: Option<&dyn Fn(&str) -> Status>,
) -> Response {
    let mut response = Response::default();
    if !errors.is_empty() {
        let told = format!("Failed to parse policy: {}", aggregate(errors));
        response.annotations.push((ERROR, told));
    }
    if let Some(refuse) = refuse {
        response.annotations.push((ENFORCE_POLICY, policy.enforce.to_string()));
        let verdict = evaluate(policy.enforce, pod);
        if !verdict.allowed() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, verdict.details());
            response.refusal = Some(refuse(&why));
        }
    }
    let would = |lv: LevelVersion| {
        let verdict = evaluate(lv, pod);
        (!verdict.allowed()).then(|| format!("would violate PodSecurity \"{lv}\": {}", verdict.details()))
    };
    response.annotations.extend(would(policy.audit).map(|told| (AUDIT_VIOLATIONS, told)));
    // Who is refused needs no warning.
    if response.refusal.is_none() {
        response.warnings.extend(would(policy.warn));
    }
    response
}

/// Whether pods that the old policy let in may break the new one.
fn is_tightened(old: LevelVersion, new: LevelVersion) -> bool {
    let relaxed = new.version == old.version && new.level <= old.level;
    new != old && new.level != Level::Privileged && !relaxed
}

/// Whether an update of a pod touches what is judged: containers come or get another image
/// (upstream: `admission/admission.go#isSignificantPodUpdate`).
fn is_significant(new: &Value, old: &Value) -> bool {
    let (new, old) = (&new["spec"], &old["spec"]);
    let fixed = ["containers", "initContainers"].into_iter().any(|list| {
        let (new, old) = (list_of(&new[list]), list_of(&old[list]));
        !new.map(|c| text(&c["image"])).eq(old.map(|c| text(&c["image"])))
    });
    fixed
        || list_of(&new["ephemeralContainers"]).any(|c| {
            let before = list_of(&old["ephemeralContainers"]).find(|o| o["name"] == c["name"]);
            before.is_none_or(|o| text(&o["image"]) != text(&c["image"]))
        })
}

fn template_of(kind: &KindDef) -> Option<&'static [&'static str]> {
    TEMPLATED.iter().find(|t| t.group == kind.group && t.plural == kind.plural).map(|t| t.path)
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let judged = || a.is("", "namespaces") || a.is("", "pods") || template_of(a.kind).is_some();
        phase == Phase::Validate && a.operation != Operation::Delete && judged()
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let Some(new) = new else { return Ok(()) };
        let response = if a.is("", "namespaces") {
            self.judge_namespace(a, new, old).await
        } else if a.is("", "pods") {
            self.judge_pod(a, new, old)
        } else if let Some(template) = template_of(a.kind) {
            self.judge_workload(a, new, template)
        } else {
            return Ok(());
        };
        response.give(a.notes)
    }
}

#[cfg(test)]
mod tests;
