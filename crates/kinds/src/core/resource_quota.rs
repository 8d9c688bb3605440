//! ResourceQuota (upstream: `pkg/registry/core/resourcequota`, `ValidateResourceQuota`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::resources;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const TYPE: &str = "io.k8s.api.core.v1.ResourceQuota";
const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

pub fn kind() -> KindDef {
    KindDef {
        kind: "ResourceQuota".into(),
        plural: "resourcequotas".into(),
        singular: "resourcequota".into(),
        short: &["quota"],
        schema: TYPE.into(),
        storage: "resourcequotas".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Request", "string", |o, _| amounts(o, false).into()),
                column("Limit", "string", |o, _| amounts(o, true).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&ResourceQuota),
        sample: include_str!("samples/resource_quota.yaml"),
        ..KindDef::BASE
    }
}

fn amounts(o: &Value, limits: bool) -> String {
    let status = &o["status"];
    let hard = resources::entries(&status["hard"]).filter(|(name, _)| name.starts_with("limits.") == limits);
    let list: Vec<String> = hard
        .map(|(name, hard)| format!("{name}: {}/{hard}", resources::quantity(&status["used"][name])))
        .collect();
    list.join(", ")
}

struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        for (part, list) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            resources::round(obj.get_mut(part).and_then(|p| p.get_mut(list)));
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        spec(&obj["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if ctx.subresource == "status" {
            for list in ["hard", "used"] {
                hard(&new["status"][list], &Path::new("status").child(list), &mut errors);
            }
            return errors;
        }
        spec(&new["spec"], &Path::new("spec"), &mut errors);
        let (scopes, had) = (items(&new["spec"], "scopes"), items(&old["spec"], "scopes"));
        if scopes.iter().any(|s| !had.contains(s)) || had.iter().any(|s| !scopes.contains(s)) {
            let at = Path::new("spec").child("scopes");
            errors.push(Error::invalid(&at, new["spec"]["scopes"].clone(), "field is immutable"));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let hard = &new["spec"]["hard"];
        let mut out = Vec::new();
        for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let (long, limit) = (format!("requests.{resource}"), format!("limits.{resource}"));
            let mut name = long.as_str();
            if hard[name].is_null() && matches!(resource, "cpu" | "memory") {
                name = resource;
            }
            if let (Some(r), Some(l)) = (resources::amount(&hard[name]), resources::amount(&hard[&limit]))
                && r > l
            {
                out.push(format!("ResourceQuota {name} ({r}) should be less than {limit} ({l})"));
            }
        }
        out
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn hard(list: &Value, path: &Path, errors: &mut ErrorList) {
    for (name, q) in resources::entries(list) {
        let at = path.key(name);
        resources::quota_name(name, &at, errors);
        resources::value(name, &q, &at, errors);
    }
}

fn spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    hard(&spec["hard"], &path.child("hard"), errors);
    let at = path.child("scopes");
    let shown = &spec["scopes"];
    let scopes: Vec<&str> = items(spec, "scopes").iter().filter_map(Value::as_str).collect();
    for scope in &scopes {
        if !is_scope(scope) {
            errors.push(Error::invalid(&at, shown.clone(), "unsupported scope"));
        }
        for _ in unfit(spec, scope) {
            errors.push(Error::invalid(&at, shown.clone(), "unsupported scope applied to resource"));
        }
    }
    conflicts(&scopes, shown, &at, errors);
    if spec["scopeSelector"].is_object() {
        selector(spec, &path.child("scopeSelector").child("matchExpressions"), errors);
    }
}

fn selector(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let selector = &spec["scopeSelector"];
    let mut scopes = Vec::new();
    for e in items(selector, "matchExpressions") {
        let (scope, operator) = (text(e, "scopeName"), text(e, "operator"));
        if !is_scope(scope) {
            errors.push(Error::invalid(&at.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in unfit(spec, scope) {
            errors.push(Error::invalid(at, selector.clone(), "unsupported scope applied to resource"));
        }
        let alone = matches!(
            scope,
            "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
        );
        if alone && operator != "Exists" {
            errors.push(Error::invalid(&at.child("operator"), operator, EXISTS_ONLY));
        }
        let values = items(e, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(Error::required(&at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(Error::invalid(&at.child("values"), values.to_vec(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::named_invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        scopes.push(scope);
    }
    conflicts(&scopes, &spec["scopes"], at, errors);
}

fn conflicts(scopes: &[&str], shown: &Value, at: &Path, errors: &mut ErrorList) {
    for (a, b) in [("BestEffort", "NotBestEffort"), ("NotTerminating", "Terminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            errors.push(Error::invalid(at, shown.clone(), "conflicting scopes"));
        }
    }
}

fn is_scope(scope: &str) -> bool {
    matches!(
        scope,
        "Terminating"
            | "NotTerminating"
            | "BestEffort"
            | "NotBestEffort"
            | "PriorityClass"
            | "VolumeAttributesClass"
            | "CrossNamespacePodAffinity"
    )
}

/// The resources of a quota to which a scope cannot apply (upstream: `IsResourceQuotaScopeValidForResource`).
fn unfit<'a>(spec: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a String> {
    let fits = move |name: &str| match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => {
            matches!(
                name,
                "pods"
                    | "cpu"
                    | "memory"
                    | "limits.cpu"
                    | "limits.memory"
                    | "requests.cpu"
                    | "requests.memory"
            )
        }
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    };
    let names = spec["hard"].as_object().into_iter().flat_map(|m| m.keys());
    names.filter(move |n| resources::is_standard_quota(n) && !fits(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Vec<String> {
        ResourceQuota.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn specs() {
        assert!(
            found(json!({"hard": {"cpu": "100", "count/jobs.batch": "10", "requests.example.com/gpu": "1"}}))
                .is_empty()
        );
        assert!(found(json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]})).is_empty());
        assert_eq!(
            found(json!({"hard": {"pods": "-10", "cpu": "100"}, "scopes": ["BestEffort"]})),
            [
                "spec.hard[pods]: Invalid value: \"-10\": must be greater than or equal to 0",
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"
            ]
        );
        assert_eq!(
            found(json!({"hard": {"pods": ".5"}})),
            ["spec.hard[pods]: Invalid value: \"500m\": must be an integer"]
        );
        assert_eq!(
            found(json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]})),
            ["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"]
        );
        assert_eq!(
            found(
                json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}})
            ),
            [
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            ]
        );
    }

    #[test]
    fn cells_and_warnings() {
        let o = json!({"status": {"hard": {"limits.cpu": "2", "pods": "4"}, "used": {"pods": "1"}}});
        assert_eq!(
            (amounts(&o, false), amounts(&o, true)),
            ("pods: 1/4".to_owned(), "limits.cpu: 0/2".to_owned())
        );
        let o = json!({"spec": {"hard": {"requests.cpu": "2", "limits.cpu": "1"}}});
        assert_eq!(
            ResourceQuota.warnings(&o, None),
            ["ResourceQuota requests.cpu (2) should be less than limits.cpu (1)"]
        );
    }
}
