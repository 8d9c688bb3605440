//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_rules, match_conditions,
    optional_one_of, rule_with_operations,
};
use super::{row, static_suffix, static_suffix_warning};
use crate::columns::{AGE, NAME, column};
use crate::def::{Column, Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::rest;
use crate::validate::{items, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Reviews that no webhook is asked about (upstream: `pkg/kubeapiserver/admission/exclusion`).
const EXCLUDED: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];
const COLUMNS: &[Column] =
    const { &[NAME, column("Webhooks", "integer", |o, _| items(o, "webhooks").len().into()), AGE] };

pub fn mutating() -> KindDef {
    KindDef {
        columns: COLUMNS,
        strategy: StrategyRef::Static(&Webhooks { mutating: true }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {name: m}\nwebhooks: [{name: m.example.com, clientConfig: {url: \"https://localhost/\"}, sideEffects: None, admissionReviewVersions: [v1], rules: [{operations: [CREATE], apiGroups: [\"\"], apiVersions: [v1], resources: [pods]}]}]\n",
        ..row(
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        )
    }
}

pub fn validating() -> KindDef {
    KindDef {
        columns: COLUMNS,
        strategy: StrategyRef::Static(&Webhooks { mutating: false }),
        sample: "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: v}\nwebhooks: [{name: v.example.com, clientConfig: {service: {name: s, namespace: default}}, sideEffects: None, admissionReviewVersions: [v1], rules: [{operations: [CREATE], apiGroups: [\"\"], apiVersions: [v1], resources: [pods]}]}]\n",
        ..row(
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        )
    }
}

struct Webhooks {
    mutating: bool,
}

/// What an update may keep because it was there before (upstream: `validationOptions`).
struct Options {
    ignore_match_conditions: bool,
    require_no_side_effects: bool,
    require_known_review_version: bool,
    require_unique_names: bool,
    allow_bad_selectors: bool,
}

impl Options {
    const CREATE: Self = Self {
        ignore_match_conditions: false,
        require_no_side_effects: true,
        require_known_review_version: true,
        require_unique_names: true,
        allow_bad_selectors: false,
    };

    fn update(new: &Value, old: &Value) -> Self {
        let (was, is) = (items(old, "webhooks"), items(new, "webhooks"));
        let same = |(a, b): (&Value, &Value)| a["matchConditions"] == b["matchConditions"];
        let known = |w: &Value| {
            let versions = items(w, "admissionReviewVersions");
            versions.is_empty() || versions.iter().any(is_review_version)
        };
        let mut names: Vec<&str> = was.iter().map(|w| text(w, "name")).collect();
        names.sort_unstable();
        names.dedup();
        let mut selector_errors = Vec::new();
        for w in was {
            selectors(w, &Path::root(), &mut selector_errors);
        }
        Self {
            ignore_match_conditions: was.len() == is.len() && was.iter().zip(is).all(same),
            require_no_side_effects: was
                .iter()
                .all(|w| w["sideEffects"].as_str().is_some_and(|s| NO_SIDE_EFFECTS.contains(&s))),
            require_known_review_version: was.iter().all(known),
            require_unique_names: names.len() == was.len(),
            allow_bad_selectors: !selector_errors.is_empty(),
        }
    }
}

fn is_review_version(v: &Value) -> bool {
    v.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v))
}

fn selectors(hook: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(&hook[field], &path.child(field), errors);
    }
}

impl Webhooks {
    fn check(&self, obj: &Value, options: &Options) -> ErrorList {
        let mut errors = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for (i, hook) in items(obj, "webhooks").iter().enumerate() {
            let at = Path::new("webhooks").index(i);
            self.hook(hook, options, &at, &mut errors);
            review_versions(hook, options, &at.child("admissionReviewVersions"), &mut errors);
            let name = text(hook, "name");
            if options.require_unique_names && !name.is_empty() {
                if names.contains(&name) {
                    errors.push(Error::duplicate(&at.child("name"), name));
                } else {
                    names.push(name);
                }
            }
        }
        errors
    }

    /// Upstream: `validateValidatingWebhook`, `validateMutatingWebhook`.
    fn hook(&self, hook: &Value, options: &Options, at: &Path, errors: &mut ErrorList) {
        rest::fully_qualified_name(text(hook, "name"), &at.child("name"), errors);
        for (i, rule) in items(hook, "rules").iter().enumerate() {
            rule_with_operations(rule, &at.child("rules").index(i), errors);
        }
        optional_one_of(&hook["failurePolicy"], &at.child("failurePolicy"), FAILURE_POLICIES, errors);
        optional_one_of(&hook["matchPolicy"], &at.child("matchPolicy"), MATCH_POLICIES, errors);
        let allowed = if options.require_no_side_effects { NO_SIDE_EFFECTS } else { SIDE_EFFECTS };
        match hook["sideEffects"].as_str() {
            None => {
                let detail = format!("must specify one of {}", allowed.join(", "));
                errors.push(Error::required(&at.child("sideEffects"), detail));
            }
            Some(s) if !allowed.contains(&s) => {
                errors.push(Error::not_supported(&at.child("sideEffects"), s, allowed));
            }
            _ => {}
        }
        if let Some(n) = hook["timeoutSeconds"].as_i64().filter(|n| !(1..=30).contains(n)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            errors.push(Error::invalid(&at.child("timeoutSeconds"), n, detail));
        }
        if !options.allow_bad_selectors {
            selectors(hook, at, errors);
        }
        if self.mutating {
            let path = at.child("reinvocationPolicy");
            optional_one_of(&hook["reinvocationPolicy"], &path, REINVOCATION_POLICIES, errors);
        }
        rest::webhook_client(&hook["clientConfig"], &at.child("clientConfig"), errors);
        if !options.ignore_match_conditions {
            match_conditions(items(hook, "matchConditions"), false, &at.child("matchConditions"), errors);
        }
    }
}

/// Upstream: `validateAdmissionReviewVersions`.
fn review_versions(hook: &Value, options: &Options, path: &Path, errors: &mut ErrorList) {
    let versions = items(hook, "admissionReviewVersions");
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::required(path, detail));
        return;
    }
    let mut seen: Vec<&Value> = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        if seen.contains(&version) {
            errors.push(Error::invalid(&path.index(i), version.clone(), "duplicate version"));
            continue;
        }
        seen.push(version);
        let messages = helpers::dns1035_label_errors(version.as_str().unwrap_or(""), false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.index(i), version.clone(), m)));
    }
    if options.require_known_review_version && !versions.iter().any(is_review_version) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(path, hook["admissionReviewVersions"].clone(), detail));
    }
}

impl Strategy for Webhooks {
    fn default(&self, obj: &mut Value) {
        for hook in obj.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            let mut set = |field: &str, value: Value| {
                if hook[field].is_null() {
                    hook[field] = value;
                }
            };
            set("failurePolicy", "Fail".into());
            set("matchPolicy", "Equivalent".into());
            set("namespaceSelector", json!({}));
            set("objectSelector", json!({}));
            set("timeoutSeconds", 10.into());
            if self.mutating {
                set("reinvocationPolicy", "Never".into());
            }
            if hook["clientConfig"]["service"].is_object()
                && hook["clientConfig"]["service"]["port"].is_null()
            {
                hook["clientConfig"]["service"]["port"] = 443.into();
            }
            default_rules(hook, "rules");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = self.check(obj, &Options::CREATE);
        static_suffix(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        self.check(new, &Options::update(new, old))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings: Vec<String> = old.and_then(|_| static_suffix_warning(new)).into_iter().collect();
        for (i, hook) in items(new, "webhooks").iter().enumerate() {
            for (j, rule) in items(hook, "rules").iter().enumerate() {
                excluded_warnings(
                    rule,
                    &Path::new("webhooks").index(i).child("rules").index(j),
                    &mut warnings,
                );
            }
        }
        warnings
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// Upstream: `warningsForExcludedRules`.
fn excluded_warnings(rule: &Value, at: &Path, warnings: &mut Vec<String>) {
    let (groups, resources) = (items(rule, "apiGroups"), items(rule, "resources"));
    if groups.iter().chain(resources).any(|v| v == "*") {
        return;
    }
    let mut seen = Vec::new();
    for group in groups.iter().filter_map(Value::as_str) {
        for resource in resources.iter().filter_map(Value::as_str) {
            if EXCLUDED.contains(&(group, resource)) && !seen.contains(&(group, resource)) {
                seen.push((group, resource));
                warnings.push(format!(
                    "{at}: {resource}.{group} is excluded from admission webhooks; this rule will have no effect"
                ));
            }
        }
    }
}
