//! Names and amounts of compute and quota resources (upstream: `pkg/apis/core/helper/helpers.go`,
//! `pkg/apis/core/validation/validation.go`).
//!
//! Amounts come here decoded: a text that is no quantity counts as zero.

use crate::helpers::qualified_name_errors;
use meta::field::{Error, ErrorList, Path};
use meta::quantity::{Format, Quantity};
use serde_json::Value;

/// Upstream's words for a negative amount.
pub const NEGATIVE: &str = "must be greater than or equal to 0";

const MILLI: i32 = -3;

const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const MEASURED: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// The amount in a field, zero when absent.
pub fn quantity(v: &Value) -> Quantity {
    v.as_str().and_then(|s| Quantity::parse(s).ok()).unwrap_or_default()
}

/// The amount in a field, when present.
pub fn amount(v: &Value) -> Option<Quantity> {
    v.as_str().and_then(|s| Quantity::parse(s).ok())
}

/// The members of a list of resources.
pub fn entries(list: &Value) -> impl Iterator<Item = (&String, Quantity)> {
    list.as_object().into_iter().flatten().map(|(k, v)| (k, quantity(v)))
}

/// Rounds the amounts of a list of resources up to thousandths (upstream: `SetDefaults_ResourceList`).
pub fn round(list: Option<&mut Value>) {
    for v in list.and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut()) {
        if let Some(q) = amount(v) {
            let milli = q.scaled(MILLI);
            let rounded = Quantity::from_milli(milli);
            // Amounts that do not fit are too large to have thousandths.
            if milli.unsigned_abs() < i64::MAX.unsigned_abs() && q != rounded {
                *v = rounded.to_string().into();
            }
        }
    }
}

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-")
}

pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name_errors(&format!("requests.{name}")).is_empty()
}

/// Whether more may be promised than there is (upstream: `IsOvercommitAllowed`).
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub fn is_standard_quota(name: &str) -> bool {
    COUNTED.contains(&name) || MEASURED.contains(&name) || is_quota_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    is_standard_quota(name) || name == "storage"
}

fn is_standard_container(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// Whether amounts of the resource are whole numbers.
pub fn is_integer(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// A resource's name (upstream: `validateResourceName`).
pub fn name(name: &str, at: &Path, errors: &mut ErrorList) {
    let messages = qualified_name_errors(name);
    if !messages.is_empty() {
        errors.extend(messages.into_iter().map(|m| Error::invalid(at, name, m)));
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(Error::invalid(at, name, "must be a standard resource type or fully qualified"));
    }
}

/// The name of a resource that containers ask for (upstream: `ValidateContainerResourceName`).
pub fn container_name(value: &str, at: &Path, errors: &mut ErrorList) {
    name(value, at, errors);
    if !value.contains('/') {
        if !is_standard_container(value) {
            errors.push(Error::invalid(at, value, "must be a standard resource for containers"));
        }
    } else if !is_native(value) && !is_extended(value) {
        errors.push(Error::invalid(at, value, "doesn't follow extended resource name standard"));
    }
}

/// The name of a resource that quotas count (upstream: `ValidateResourceQuotaResourceName`).
pub fn quota_name(value: &str, at: &Path, errors: &mut ErrorList) {
    name(value, at, errors);
    if !value.contains('/') && !is_standard_quota(value) {
        errors.push(Error::invalid(at, value, "must be a standard resource for quota"));
    }
}

/// An amount that is not negative.
pub fn non_negative(q: &Quantity, at: &Path, errors: &mut ErrorList) {
    if q.sign() < 0 {
        errors.push(Error::invalid(at, q.to_string(), NEGATIVE));
    }
}

/// An amount of a resource: not negative, whole where the resource is counted
/// (upstream: `ValidateResourceQuantityValue`).
pub fn value(resource: &str, q: &Quantity, at: &Path, errors: &mut ErrorList) {
    non_negative(q, at, errors);
    if is_integer(resource) && !is_whole(q) {
        errors.push(Error::invalid(at, q.to_string(), "must be an integer"));
    }
}

/// Whether the amount has no fraction.
pub fn is_whole(q: &Quantity) -> bool {
    q.overflowing(-3) % 1000 == 0
}

/// Upstream: `validateBasicResource`.
pub fn basic(q: &Quantity, at: &Path, errors: &mut ErrorList) {
    let value = q.overflowing(0);
    if value < 0 {
        errors.push(Error::invalid(at, value, "must be a valid resource quantity"));
    }
}

/// What containers are limited to, alone (upstream: `ValidateContainerResourceRequirements` without requests).
pub fn limits(list: &Value, path: &Path, errors: &mut ErrorList) {
    let (mut compute, mut huge) = (false, false);
    for (resource, q) in entries(list) {
        let at = path.child("limits").key(resource);
        container_name(resource, &at, errors);
        value(resource, &q, &at, errors);
        if let Some(size) = resource.strip_prefix("hugepages-") {
            huge = true;
            let page = Quantity::parse(size).unwrap_or_default();
            if page.sign() <= 0 || !is_whole(&page) || q.value() % page.value() != 0 {
                let detail = format!("{q} is not positive integer multiple of {resource}");
                errors.push(Error::invalid(&at, q.to_string(), detail));
            }
        }
        compute |= matches!(resource.as_str(), "cpu" | "memory");
    }
    if huge && !compute {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// The number one.
pub fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(check: fn(&str, &Path, &mut ErrorList), name: &str) -> Vec<String> {
        let mut errors = Vec::new();
        check(name, &Path::new("r"), &mut errors);
        errors.into_iter().map(|e| e.detail).collect()
    }

    #[test]
    fn names() {
        for good in ["cpu", "pods", "requests.hugepages-2Mi", "count/pods", "example.com/gpu"] {
            assert!(found(quota_name, good).is_empty(), "{good}");
        }
        assert_eq!(found(quota_name, "storage"), ["must be a standard resource for quota"]);
        assert_eq!(
            found(quota_name, "gpu"),
            ["must be a standard resource type or fully qualified", "must be a standard resource for quota"]
        );
        assert_eq!(found(container_name, "pods"), ["must be a standard resource for containers"]);
        assert!(is_integer("example.com/gpu") && !is_integer("cpu"));
    }

    #[test]
    fn amounts_are_rounded_up_to_thousandths() {
        let mut list = json!({"cpu": "100u", "memory": "1Gi", "x": "1500n"});
        round(Some(&mut list));
        assert_eq!(list, json!({"cpu": "1m", "memory": "1Gi", "x": "1m"}));
    }
}
