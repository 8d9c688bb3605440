//! LimitRange (upstream: `pkg/registry/core/limitrange`, `ValidateLimitRange`).

use crate::columns::{CREATED_AT, NAME};
use crate::def::{KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::resources::{self, amount};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object::map_at;
use meta::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
/// Amounts from here on are compared whole, smaller ones in thousandths (upstream: `resource.MaxMilliValue`).
const MILLI_MAX: i64 = i64::MAX / 1000;

pub fn kind() -> KindDef {
    KindDef {
        kind: "LimitRange".into(),
        plural: "limitranges".into(),
        singular: "limitrange".into(),
        short: &["limits"],
        schema: "io.k8s.api.core.v1.LimitRange".into(),
        storage: "limitranges".into(),
        columns: const { &[NAME, CREATED_AT] },
        strategy: StrategyRef::Static(&LimitRange),
        sample: include_str!("samples/limit_range.yaml"),
        ..KindDef::BASE
    }
}

struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, obj: &mut Value) {
        let limits = obj.get_mut("spec").and_then(|s| s.get_mut("limits")).and_then(Value::as_array_mut);
        for limit in limits.into_iter().flatten() {
            if limit["type"] == "Container" {
                for (from, to) in
                    [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
                {
                    inherit(limit, from, to);
                }
            }
            for list in LISTS {
                resources::round(limit.get_mut(list));
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let limits = items(&obj["spec"], "limits");
        let path = Path::new("spec").child("limits");
        for (i, limit) in limits.iter().enumerate() {
            let at = path.index(i);
            let kind = text(limit, "type");
            type_name(kind, &at.child("type"), &mut errors);
            if limits[..i].iter().any(|l| text(l, "type") == kind) {
                errors.push(Error::duplicate(&at.child("type"), kind));
            }
            let keys = names(limit, kind, &at, &mut errors);
            for key in keys {
                compare(limit, key, kind, &at, &mut errors);
            }
        }
        errors
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn names_itself(&self) -> bool {
        true
    }
}

/// What one list has and another lacks becomes the other's.
fn inherit(limit: &mut Value, from: &str, to: &'static str) {
    let source = limit[from].as_object().cloned().unwrap_or_default();
    if source.is_empty() {
        return;
    }
    for (key, value) in source {
        map_at(limit, &[to]).map(|m| m.entry(key).or_insert(value));
    }
}

fn type_name(kind: &str, at: &Path, errors: &mut ErrorList) {
    let messages = helpers::qualified_name_errors(kind);
    if !messages.is_empty() {
        errors.extend(messages.into_iter().map(|m| Error::named_invalid(at, kind, m)));
    } else if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.push(Error::named_invalid(at, kind, "must be a standard limit type or fully qualified"));
    }
}

/// Checks the names in all lists of a limit and gives them.
fn names<'a>(limit: &'a Value, kind: &str, at: &Path, errors: &mut ErrorList) -> BTreeSet<&'a str> {
    let mut keys = BTreeSet::new();
    let check = if matches!(kind, "Pod" | "Container") { resources::container_name } else { resources::name };
    for list in LISTS {
        if list == "maxLimitRequestRatio"
            && kind == "PersistentVolumeClaim"
            && limit["min"]["storage"].is_null()
            && limit["max"]["storage"].is_null()
        {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(Error::required(&at.child("limits"), detail));
        }
        let members = limit[list].as_object();
        if kind == "Pod" && matches!(list, "default" | "defaultRequest") {
            if members.is_some_and(|m| !m.is_empty()) {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(Error::forbidden(&at.child(list), detail));
            }
            continue;
        }
        for key in members.into_iter().flat_map(|m| m.keys()) {
            check(key, &at.child(list).key(key), errors);
            keys.insert(key.as_str());
        }
    }
    keys
}

/// The amounts of one resource must fit each other.
fn compare(limit: &Value, key: &str, kind: &str, at: &Path, errors: &mut ErrorList) {
    let own = |list: &str| if kind == "Pod" { None } else { amount(&limit[list][key]) };
    let (min, max) = (amount(&limit["min"][key]), amount(&limit["max"][key]));
    let (default, request) = (own("default"), own("defaultRequest"));
    let ratio = amount(&limit["maxLimitRequestRatio"][key]);
    // (smaller, its name, larger, its name, the field, the amount shown)
    let orders = [
        (&min, "min value", &max, "max value", "min", &min),
        (&min, "min value", &request, "default request value", "defaultRequest", &request),
        (&request, "default request value", &max, "max value", "defaultRequest", &request),
        (&request, "default request value", &default, "default limit value", "defaultRequest", &request),
        (&min, "min value", &default, "default value", "default", &min),
        (&default, "default value", &max, "max value", "default", &max),
    ];
    for (small, small_name, large, large_name, field, bad) in orders {
        if let (Some(s), Some(l), Some(bad)) = (small, large, bad)
            && s > l
        {
            let detail = format!("{small_name} {s} is greater than {large_name} {l}");
            errors.push(Error::invalid(&at.child(field).key(key), bad.to_string(), detail));
        }
    }
    if let Some(r) = &ratio {
        let at = at.child("maxLimitRequestRatio").key(key);
        if *r < resources::one() {
            errors.push(Error::invalid(&at, r.to_string(), format!("ratio {r} is less than 1")));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let (wanted, most) = ratios(r, min, max);
            if wanted > most {
                let detail = format!("ratio {r} is greater than max/min = {most:.6}");
                errors.push(Error::invalid(&at, r.to_string(), detail));
            }
        }
    }
    if let (Some(d), Some(r)) = (&default, &request)
        && !resources::is_overcommit_allowed(key)
        && d != r
    {
        let detail = format!("default value {d} must equal to defaultRequest value {r} in {key}");
        errors.push(Error::invalid(&at.child("defaultRequest").key(key), r.to_string(), detail));
    }
}

/// The ratio asked for and the one that the ends allow.
fn ratios(ratio: &Quantity, min: &Quantity, max: &Quantity) -> (f64, f64) {
    let small = [ratio, min, max].iter().all(|q| q.overflowing(0) < MILLI_MAX);
    if small {
        (ratio.overflowing(-3) as f64 / 1000.0, max.overflowing(-3) as f64 / min.overflowing(-3) as f64)
    } else {
        (ratio.overflowing(0) as f64, max.overflowing(0) as f64 / min.overflowing(0) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(limit: Value) -> Vec<String> {
        LimitRange.validate(&json!({"spec": {"limits": [limit]}})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn containers_inherit_defaults() {
        let mut obj = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}}]}});
        LimitRange.default(&mut obj);
        assert_eq!(
            obj["spec"]["limits"][0],
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}, "default": {"cpu": "2"},
                "defaultRequest": {"cpu": "2", "memory": "1Mi"}})
        );
        assert_eq!(obj["spec"]["limits"][1], json!({"type": "Pod", "max": {"cpu": "2"}}));
    }

    #[test]
    fn amounts_fit_each_other() {
        assert!(found(json!({"type": "Container", "max": {"cpu": "100m"}, "min": {"cpu": "5m"}, "default": {"cpu": "50m"},
            "defaultRequest": {"cpu": "10m"}, "maxLimitRequestRatio": {"cpu": "10"}})).is_empty());
        assert_eq!(
            found(json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}})),
            ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]
        );
        assert_eq!(
            found(
                json!({"type": "Pod", "max": {"memory": "2Gi"}, "min": {"memory": "1Gi"}, "maxLimitRequestRatio": {"memory": "10"}})
            ),
            [
                "spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: \"10\": ratio 10 is greater than max/min = 2.000000"
            ]
        );
        assert_eq!(
            found(json!({"type": "Pod", "default": {"cpu": "1"}})),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
        assert_eq!(
            found(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
        assert_eq!(
            found(json!({"type": "foo"})),
            ["spec.limits[0].type: Invalid value: \"foo\": must be a standard limit type or fully qualified"]
        );
    }
}
