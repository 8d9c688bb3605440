//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings.
//!
//! Expressions are compiled here for their errors only; admission compiles them for use.

use super::rules::{
    FAILURE_POLICIES, REINVOCATION_POLICIES, STATELESS, compiled, default_match_resources, match_conditions,
    match_resources, mutating_operations, one_of_required, optional_one_of,
};
use super::{row, static_suffix, static_suffix_warning};
use crate::columns::{AGE, NAME, column};
use crate::declared::admission::{Compiler, Has, Returns, is_identifier};
use crate::def::{Column, Ctx, KindDef, Strategy, StrategyRef, status};
use crate::helpers;
use crate::rest;
use crate::validate::{items, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

/// Most audit annotations of a policy.
const AUDIT_ANNOTATIONS_MAX: usize = 20;
/// Longest value expression of an audit annotation, in bytes.
const VALUE_EXPRESSION_BYTES_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
pub fn validating() -> KindDef {
    KindDef {
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Validations", "integer", |o, _| items(&o["spec"], "validations").len().into()),
                column("ParamKind", "string", |o, _| param_kind(o).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&Policy { mutating: false }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: p}\nspec: {matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}, validations: [{expression: object.spec.replicas <= 5}]}\n",
        ..row(
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
            "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        )
    }
}

pub fn mutating() -> KindDef {
    KindDef {
        columns: const {
            &[
                NAME,
                column("Mutations", "integer", |o, _| items(&o["spec"], "mutations").len().into()),
                column("ParamKind", "string", |o, _| param_kind(o).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&Policy { mutating: true }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata: {name: p}\nspec: {reinvocationPolicy: Never, matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: \"Object{}\"}}]}\n",
        ..row(
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
            "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
        )
    }
}

pub fn validating_binding() -> KindDef {
    KindDef {
        columns: BINDING_COLUMNS,
        strategy: StrategyRef::Static(&Binding { mutating: false }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {name: b}\nspec: {policyName: p, validationActions: [Deny]}\n",
        ..row(
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        )
    }
}

pub fn mutating_binding() -> KindDef {
    KindDef {
        columns: BINDING_COLUMNS,
        strategy: StrategyRef::Static(&Binding { mutating: true }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicyBinding\nmetadata: {name: b}\nspec: {policyName: p}\n",
        ..row(
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
            "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
        )
    }
}

const BINDING_COLUMNS: &[Column] = const {
    &[
        NAME,
        column("PolicyName", "string", |o, _| text(&o["spec"], "policyName").into()),
        column("ParamRef", "string", |o, _| param_ref_text(&o["spec"]["paramRef"]).into()),
        AGE,
    ]
};

fn param_kind(o: &Value) -> String {
    let kind = &o["spec"]["paramKind"];
    if kind.is_null() {
        return "<unset>".to_owned();
    }
    format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))
}

fn param_ref_text(r: &Value) -> String {
    match (text(r, "name"), text(r, "namespace")) {
        ("", _) if r["selector"].is_object() => selector_text(&r["selector"]),
        ("", _) => "<unset>".to_owned(),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

/// A label selector as Go's generated code prints it.
fn selector_text(s: &Value) -> String {
    let labels: String = s["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or("")))
        .collect();
    let expressions: String = items(s, "matchExpressions")
        .iter()
        .map(|e| {
            let values = object::strings(&e["values"]).join(" ");
            let (key, operator) = (text(e, "key"), text(e, "operator"));
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
        })
        .collect();
    let (labels, list) =
        (format!("map[string]string{{{labels}}}"), format!("[]LabelSelectorRequirement{{{expressions}}}"));
    format!("&LabelSelector{{MatchLabels:{labels},MatchExpressions:{list},}}")
}

struct Policy {
    mutating: bool,
}

impl Strategy for Policy {
    fn made_by(&self, subresource: &str) -> bool {
        // upstream: `StatusREST`, which hands on whether the request may make what is not there
        !self.mutating && subresource == "status"
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["spec"], "failurePolicy", "Fail");
        obj.pointer_mut("/spec/matchConstraints").map(default_match_resources);
        if !self.mutating {
            object::default_at(obj, &[], "status", json!({}));
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        if !self.mutating {
            obj["status"] = json!({});
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        if ctx.subresource == "status" {
            rest::keep(new, old, "spec");
            rest::keep_metadata(new, old);
        } else if !self.mutating {
            rest::keep(new, old, "status");
        }
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        crate::status::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = self.spec(obj, false);
        static_suffix(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"]);
        }
        let (is, was) = (&new["spec"], &old["spec"]);
        let same = is["paramKind"] == was["paramKind"] && is["matchConditions"] == was["matchConditions"];
        self.spec(new, same)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        old.and_then(|_| static_suffix_warning(new)).into_iter().collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

impl Policy {
    /// Upstream: `validateValidatingAdmissionPolicySpec`, `validateMutatingAdmissionPolicySpec`.
    fn spec(&self, obj: &Value, ignore_match_conditions: bool) -> ErrorList {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        one_of_required(&spec["failurePolicy"], &path.child("failurePolicy"), FAILURE_POLICIES, &mut errors);
        if !spec["paramKind"].is_null() {
            param_kind_errors(&spec["paramKind"], &path.child("paramKind"), &mut errors);
        }
        let (at, constraints) = (path.child("matchConstraints"), &spec["matchConstraints"]);
        if constraints.is_null() {
            errors.push(Error::required(&at, ""));
        } else {
            match_resources(constraints, &at, &mut errors);
            if items(constraints, "resourceRules").is_empty() {
                errors.push(Error::required(&at.child("resourceRules"), ""));
            }
            if self.mutating {
                mutating_operations(constraints, &at, &mut errors);
            }
        }
        let params = !spec["paramKind"].is_null();
        if !ignore_match_conditions {
            let at = path.child("matchConditions");
            match_conditions(items(spec, "matchConditions"), params, &at, &mut errors);
        }
        let variables = items(spec, "variables");
        // Where there are variables, each sees those before it.
        let mut own = (self.mutating || !variables.is_empty()).then(|| Compiler::new(true));
        let has = Has { params, ..Has::AUTHORIZER };
        if let Some(compiler) = &mut own {
            for (i, variable) in variables.iter().enumerate() {
                variable_errors(compiler, variable, has, &path.child("variables").index(i), &mut errors);
            }
        }
        let compiler = own.as_ref().unwrap_or(&STATELESS);
        if self.mutating {
            mutations(compiler, spec, has, &path, &mut errors);
        } else {
            validations(compiler, obj, has, &path, &mut errors);
        }
        errors
    }
}

fn param_kind_errors(v: &Value, path: &Path, errors: &mut ErrorList) {
    let (api_version, kind) = (text(v, "apiVersion"), text(v, "kind"));
    let at = path.child("apiVersion");
    if api_version.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if api_version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {api_version}");
        errors.push(Error::invalid(&at, api_version, detail));
    } else {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if !group.is_empty() {
            rest::joined(&at, group, &helpers::dns_subdomain_errors(group, false), "", errors);
        }
        if version.is_empty() {
            errors.push(Error::invalid(&at, api_version, "version must be specified"));
        } else {
            rest::joined(&at, version, &helpers::dns1035_label_errors(version, false), "", errors);
        }
    }
    if kind.is_empty() {
        errors.push(Error::required(&path.child("kind"), ""));
    } else {
        let messages = helpers::dns1035_label_errors(&kind.to_lowercase(), false);
        let intro = "may have mixed case, but should otherwise match: ";
        rest::joined(&path.child("kind"), kind, &messages, intro, errors);
    }
}

fn variable_errors(compiler: &mut Compiler, v: &Value, has: Has, path: &Path, errors: &mut ErrorList) {
    let name = text(v, "name");
    if name.trim().is_empty() {
        errors.push(Error::required(&path.child("name"), "name is not specified"));
    } else if !is_identifier(name) {
        errors.push(Error::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
    }
    let (expression, at) = (text(v, "expression"), path.child("expression"));
    if expression.trim().is_empty() {
        errors.push(Error::required(&at, "expression is not specified"));
    } else if let Err(why) = compiler.variable(name, expression, has) {
        errors.push(Error::invalid(&at, expression, why));
    }
}

fn validations(compiler: &Compiler, obj: &Value, has: Has, path: &Path, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let (rules, annotations) = (items(spec, "validations"), items(spec, "auditAnnotations"));
    if rules.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(&path.child("validations"), detail));
        errors.push(Error::required(&path.child("auditAnnotations"), detail));
        return;
    }
    for (i, rule) in rules.iter().enumerate() {
        validation(compiler, rule, has, &path.child("validations").index(i), errors);
    }
    let at = path.child("auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.push(Error::invalid(&at, spec["auditAnnotations"].clone(), detail));
    }
    let mut keys: Vec<&str> = Vec::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let key = text(annotation, "key");
        audit_annotation(compiler, object::name(obj), annotation, has, &at.index(i), errors);
        if keys.contains(&key) {
            errors.push(Error::duplicate(&at.index(i).child("key"), key));
        }
        keys.push(key);
    }
}

/// Upstream: `validateValidation`.
fn validation(compiler: &Compiler, v: &Value, has: Has, path: &Path, errors: &mut ErrorList) {
    let (message, expression) = (text(v, "message"), text(v, "messageExpression"));
    let (condition, at) = (text(v, "expression"), path.child("expression"));
    if condition.trim().is_empty() {
        errors.push(Error::required(&at, "expression is not specified"));
    } else {
        compiled(compiler, condition, Returns::Bool, has, &at, errors);
    }
    let at = path.child("messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.push(Error::invalid(&at, expression, "must be non-empty if specified"));
    } else if !expression.is_empty() {
        compiled(compiler, expression, Returns::String, Has { authorizer: false, ..has }, &at, errors);
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(&path.child("message"), message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(Error::invalid(&path.child("message"), message, "must not contain line breaks"));
    }
    optional_one_of(&v["reason"], &path.child("reason"), REASONS, errors);
}

/// Upstream: `validateAuditAnnotation`.
fn audit_annotation(
    compiler: &Compiler,
    policy: &str,
    v: &Value,
    has: Has,
    path: &Path,
    errors: &mut ErrorList,
) {
    let key = text(v, "key");
    if policy.is_empty() {
        errors.push(Error::invalid(&path.child("key"), key, "requires metadata.name be non-empty"));
    } else {
        let full = format!("{policy}/{key}");
        let messages = helpers::qualified_name_errors(&full);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("key"), full.as_str(), m)));
    }
    let at = path.child("valueExpression");
    let expression = text(v, "valueExpression").trim();
    if expression.is_empty() {
        errors.push(Error::required(&at, "valueExpression is not specified"));
    } else if expression.len() > VALUE_EXPRESSION_BYTES_MAX {
        let detail = format!("must not exceed {VALUE_EXPRESSION_BYTES_MAX} bytes in length");
        errors.push(Error::required(&at, detail));
    } else if let Err(why) = compiler.compile(expression, Returns::StringOrNull, has) {
        errors.push(Error::invalid(&at, text(v, "valueExpression"), why));
    }
}

/// Upstream: `validateMutation` for each, and the reinvocation policy.
fn mutations(compiler: &Compiler, spec: &Value, has: Has, path: &Path, errors: &mut ErrorList) {
    let list = items(spec, "mutations");
    if list.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.push(Error::required(&path.child("mutations"), detail));
    }
    for (i, m) in list.iter().enumerate() {
        let at = path.child("mutations").index(i);
        let (own, other, patch, returns) = match text(m, "patchType") {
            "" => {
                errors.push(Error::required(&at.child("patchType"), ""));
                continue;
            }
            "JSONPatch" => ("jsonPatch", "applyConfiguration", "JSONPatch", Returns::Patches),
            "ApplyConfiguration" => {
                ("applyConfiguration", "jsonPatch", "ApplyConfiguration", Returns::Object)
            }
            unknown => {
                let allowed = &["ApplyConfiguration", "JSONPatch"];
                errors.push(Error::not_supported(&at.child("patchType"), unknown, allowed));
                continue;
            }
        };
        if m[own].is_null() {
            let detail = format!("must be specified when patchType is {patch}");
            errors.push(Error::required(&at.child(own), detail));
        } else {
            let at = at.child(own).child("expression");
            match text(&m[own], "expression").trim() {
                "" => errors.push(Error::required(&at, "")),
                expression => {
                    let has = Has { patches: true, ..has };
                    compiled(compiler, expression, returns, has, &at, errors);
                }
            }
        }
        if !m[other].is_null() {
            let detail = format!("must not be specified when patchType is {patch}");
            errors.push(Error::invalid(&at.child(other), format!("{{{other}}}"), detail));
        }
    }
    let at = path.child("reinvocationPolicy");
    match text(spec, "reinvocationPolicy") {
        "" => errors.push(Error::required(&at, "")),
        policy => optional_one_of(&policy.into(), &at, REINVOCATION_POLICIES, errors),
    }
}

/// Upstream: `validateValidatingAdmissionPolicyStatus`.
fn status_errors(status: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let at = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in items(&status["typeChecking"], "expressionWarnings").iter().enumerate() {
        if text(warning, "warning").is_empty() {
            errors.push(Error::required(&at.index(i).child("warning"), ""));
        }
        if text(warning, "fieldRef").trim().is_empty() {
            errors.push(Error::required(&at.index(i).child("fieldRef"), ""));
        }
    }
    crate::status::conditions(items(status, "conditions"), &path.child("conditions"), &mut errors);
    errors
}

struct Binding {
    mutating: bool,
}

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        obj.pointer_mut("/spec/matchResources").map(default_match_resources);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = self.spec(&obj["spec"]);
        static_suffix(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value, _: &Ctx) -> ErrorList {
        self.spec(&new["spec"])
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        old.and_then(|_| static_suffix_warning(new)).into_iter().collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

impl Binding {
    fn spec(&self, spec: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let path = Path::new("spec");
        let policy = text(spec, "policyName");
        if policy.is_empty() {
            errors.push(Error::required(&path.child("policyName"), ""));
        } else {
            let messages = helpers::dns_subdomain_errors(policy, false);
            let at = path.child("policyName");
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, policy, m)));
        }
        param_ref(&spec["paramRef"], &path.child("paramRef"), &mut errors);
        let at = path.child("matchResources");
        match_resources(&spec["matchResources"], &at, &mut errors);
        if self.mutating {
            mutating_operations(&spec["matchResources"], &at, &mut errors);
        } else {
            validation_actions(spec, &path.child("validationActions"), &mut errors);
        }
        errors
    }
}

/// Upstream: `validateParamRef`; absent is well.
fn param_ref(v: &Value, path: &Path, errors: &mut ErrorList) {
    if v.is_null() {
        return;
    }
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(v, "name"), &v["selector"]);
    if !name.is_empty() {
        let messages = helpers::path_segment_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("name"), name, m)));
        if !selector.is_null() {
            errors.push(Error::forbidden(&path.child("name"), BOTH));
        }
    }
    if !selector.is_null() {
        label_selector(selector, &path.child("selector"), errors);
        if !name.is_empty() {
            errors.push(Error::forbidden(&path.child("selector"), BOTH));
        }
    }
    if name.is_empty() && selector.is_null() {
        errors.push(Error::required(path, "one of name or selector must be specified"));
    }
    let at = path.child("parameterNotFoundAction");
    match text(v, "parameterNotFoundAction") {
        "" => errors.push(Error::required(&at, "")),
        action => optional_one_of(&action.into(), &at, &["Deny", "Allow"], errors),
    }
}

/// Upstream: `validateValidationActions`.
fn validation_actions(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let actions = items(spec, "validationActions");
    for (i, action) in actions.iter().enumerate() {
        optional_one_of(action, &path.index(i), &["Audit", "Deny", "Warn"], errors);
        if actions[..i].contains(action) {
            errors.push(Error::duplicate(&path.index(i), action.clone()));
        }
    }
    let has = |a: &str| actions.iter().any(|v| v == a);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, spec["validationActions"].clone(), detail));
    }
    if actions.is_empty() {
        // The declarative check has the word here, without a detail.
        errors.push(Error::required(path, ""));
    }
}
