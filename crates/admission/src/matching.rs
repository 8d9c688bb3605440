//! Which requests a webhook or policy is for: rules and selectors
//! (upstream: apiserver `pkg/admission/plugin/webhook/predicates`, `plugin/policy/matching`).

use crate::chain::Attributes;
use kinds::KindDef;
use meta::object;
use meta::selector::LabelSelector;
use meta::status::{Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

const ALL: &str = "*";

/// Operations and resources, of `rules`, `resourceRules` and `excludeResourceRules`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    /// `Namespaced` or `Cluster`; empty for both.
    scope: String,
    /// Empty for all.
    names: Vec<String>,
}

impl Rule {
    pub fn parse(v: &Value) -> Self {
        let resources = object::strings(&v["resources"]);
        let split = |r: String| match r.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (r, String::new()),
        };
        Self {
            operations: object::strings(&v["operations"]),
            groups: object::strings(&v["apiGroups"]),
            versions: object::strings(&v["apiVersions"]),
            resources: resources.into_iter().map(split).collect(),
            scope: v["scope"].as_str().filter(|s| *s != ALL).unwrap_or("").to_owned(),
            names: object::strings(&v["resourceNames"]),
        }
    }

    /// Whether the rule is for the request, taken as one for `row`.
    pub fn matches(&self, a: &Attributes<'_>, row: &KindDef) -> bool {
        let has = |list: &[String], what: &str| list.iter().any(|i| i == ALL || i == what);
        let resource = |(resource, sub): &(String, String)| {
            (resource == ALL || *resource == row.plural) && (sub == ALL || sub == a.subresource)
        };
        self.in_scope(a)
            && has(&self.operations, a.operation.as_str())
            && has(&self.groups, &row.group)
            && has(&self.versions, &row.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }

    /// A namespace is an object of the cluster, though its own name is the request's namespace.
    fn in_scope(&self, a: &Attributes<'_>) -> bool {
        let cluster = a.namespace.is_empty() || a.is("", "namespaces");
        match self.scope.as_str() {
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => true,
        }
    }
}

/// Selectors over the object and its namespace.
#[derive(Clone, Debug)]
pub struct Selection {
    pub namespace: std::result::Result<LabelSelector, String>,
    pub object: std::result::Result<LabelSelector, String>,
}

impl Selection {
    pub fn parse(v: &Value) -> Self {
        let read = |field: &str| match &v[field] {
            Value::Null => Ok(LabelSelector::everything()),
            selector => LabelSelector::from_value(selector),
        };
        Self { namespace: read("namespaceSelector"), object: read("objectSelector") }
    }

    /// Whether both select.
    pub fn matches(
        &self,
        registry: &Registry,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool> {
        let selector = self.object.as_ref().map_err(Status::internal)?;
        let selects = |obj: Option<&Value>| obj.is_some_and(|o| selector.matches_object(o));
        if !selector.is_empty() && !selects(new) && !selects(old) {
            return Ok(false);
        }
        let selector = self.namespace.as_ref().map_err(Status::internal)?;
        if selector.is_empty() || a.namespace.is_empty() && !a.is("", "namespaces") {
            return Ok(true);
        }
        let own = a.is("", "namespaces") && a.subresource.is_empty() && a.operation != Operation::Delete;
        match new.filter(|_| own) {
            Some(namespace) => Ok(selector.matches_object(namespace)),
            None => Ok(selector.matches_object(&namespace(registry, a)?)),
        }
    }
}

/// Which requests a policy or binding is for: `matchConstraints`, `matchResources`.
#[derive(Clone, Debug)]
pub struct Constraints {
    rules: Vec<Rule>,
    excludes: Vec<Rule>,
    equivalent: bool,
    selection: Selection,
}

impl Constraints {
    pub fn parse(v: &Value) -> Self {
        let rules = |field: &str| v[field].as_array().into_iter().flatten().map(Rule::parse).collect();
        Self {
            rules: rules("resourceRules"),
            excludes: rules("excludeResourceRules"),
            equivalent: v["matchPolicy"] == "Equivalent",
            selection: Selection::parse(v),
        }
    }

    /// The row as which the request matches; `None` when it does not. Without rules every request does.
    ///
    /// # Errors
    /// A selector cannot be read, or the namespace.
    pub fn row(
        &self,
        registry: &Registry,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Arc<KindDef>>> {
        let own = || registry.kinds().resource(&a.kind.group, &a.kind.version, &a.kind.plural);
        let row =
            if self.rules.is_empty() { own() } else { row_for(registry, a, &self.rules, self.equivalent) };
        let Some(row) = row else { return Ok(None) };
        if !self.excludes.is_empty() && row_for(registry, a, &self.excludes, self.equivalent).is_some() {
            return Ok(None);
        }
        Ok(self.selection.matches(registry, a, new, old)?.then_some(row))
    }
}

/// The namespace of a request.
pub fn namespace(registry: &Registry, a: &Attributes<'_>) -> Result<Value> {
    let row = registry.kinds().resource("", "v1", "namespaces").ok_or_else(Status::no_such_resource)?;
    registry.get_value(&a.permit, &row, "", a.namespace)
}

/// The row as which a request matches one of the rules: its own, or (where `equivalent`) another version of the same
/// objects.
pub fn row_for(
    registry: &Registry,
    a: &Attributes<'_>,
    rules: &[Rule],
    equivalent: bool,
) -> Option<Arc<KindDef>> {
    let kinds = registry.kinds();
    if rules.iter().any(|r| r.matches(a, a.kind)) {
        return kinds.resource(&a.kind.group, &a.kind.version, &a.kind.plural);
    }
    if !equivalent || a.kind.storage.is_empty() {
        return None;
    }
    let others: Vec<_> = kinds.rows().iter().filter(|r| r.storage == a.kind.storage).collect();
    rules.iter().find_map(|rule| others.iter().find(|row| rule.matches(a, row)).map(|row| Arc::clone(row)))
}

/// Reviews are no objects, and those who ask must not be held up (upstream: `pkg/kubeapiserver/admission/exclusion`).
pub fn is_excluded(kind: &KindDef) -> bool {
    kind.storage.is_empty() && matches!(&*kind.group, "authentication.k8s.io" | "authorization.k8s.io")
}

/// Policies and webhook configurations are never held up by policies and webhooks: there must be a way to mend them
/// (upstream: `rules.IsExemptAdmissionConfigurationResource`).
pub fn is_exempt(kind: &KindDef) -> bool {
    kind.group == "admissionregistration.k8s.io"
        && matches!(
            &*kind.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}
