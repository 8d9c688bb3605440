//! What containers and pods ask for (upstream: `validateResourceRequirements`, `validatePodResources`).

use super::allowed::Allowed;
use crate::helpers::dns_label_errors;
use crate::pod_resources::{self, Side};
use crate::resources::{self, amount, entries, is_huge_page, is_overcommit_allowed};
use crate::validate::{items, text, told};
use meta::field::{Error, ErrorList, Path};
use meta::quantity::Quantity;
use serde_json::{Value, json};

/// Resources of a container; `claims` are the names of the pod's.
pub fn errors(r: &Value, claims: &[&str], allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    amounts(r, resources::container_name, allowed, at, errors);
    claim_names(r, claims, &at.child("claims"), errors);
}

/// The overhead of a pod's sandbox.
pub fn overhead(list: &Value, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    amounts(&json!({ "limits": list }), resources::container_name, allowed, at, errors);
}

/// Amounts that the pod asks for as a whole.
pub fn of_pod(spec: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    let (r, at) = (&spec["resources"], path.child("resources"));
    if r.is_null() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        errors.push(Error::forbidden(&at, "may not be set for a windows pod"));
        return;
    }
    if !r["claims"].is_null() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(Error::forbidden(&at.child("claims"), detail));
    }
    amounts(r, pod_name, allowed, &at, errors);
    let names: Vec<&str> = items(spec, "resourceClaims").iter().map(|c| text(c, "name")).collect();
    claim_names(r, &names, &at.child("claims"), errors);
    consistency(spec, &at, errors);
}

/// The name of a resource that a pod can ask for as a whole (upstream: `validatePodResourceName`).
fn pod_name(name: &str, at: &Path, errors: &mut ErrorList) {
    let before = errors.len();
    resources::name(name, at, errors);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errors.push(Error::not_supported(at, name, &["cpu", "hugepages-", "memory"]));
    }
}

type Name = fn(&str, &Path, &mut ErrorList);

fn amounts(r: &Value, name: Name, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    let (limits, requests) = (at.child("limits"), at.child("requests"));
    let (mut compute, mut huge) = (false, false);
    let mut one = |resource: &str, q: &Quantity, at: &Path, errors: &mut ErrorList| {
        name(resource, at, errors);
        resources::value(resource, q, at, errors);
        huge |= is_huge_page(resource);
        compute |= matches!(resource, "cpu" | "memory");
    };
    let pages = |resource: &str, q: &Quantity, at: &Path, errors: &mut ErrorList| {
        if is_huge_page(resource) && !allowed.odd_huge_pages && !is_whole_pages(resource, q) {
            let detail = format!("{q} is not positive integer multiple of {resource}");
            errors.push(Error::invalid(at, q.to_string(), detail));
        }
    };
    for (resource, q) in entries(&r["limits"]) {
        let at = limits.key(resource);
        one(resource, &q, &at, errors);
        pages(resource, &q, &at, errors);
    }
    for (resource, q) in entries(&r["requests"]) {
        let at = requests.key(resource);
        one(resource, &q, &at, errors);
        let free = is_overcommit_allowed(resource);
        match amount(&r["limits"][resource]) {
            Some(limit) if q != limit && !free => {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&requests, q.to_string(), detail));
            }
            Some(limit) if q > limit => {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&requests, q.to_string(), detail));
            }
            None if !free => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(Error::required(&limits, detail));
            }
            _ => {}
        }
        pages(resource, &q, &at, errors);
    }
    if huge && !compute {
        errors.push(Error::forbidden(at, "HugePages require cpu or memory"));
    }
}

/// Upstream: `IsHugePageResourceValueDivisible`.
fn is_whole_pages(resource: &str, q: &Quantity) -> bool {
    let size = resource.strip_prefix("hugepages-").and_then(|s| Quantity::parse(s).ok());
    let page = size.filter(|p| p.sign() > 0 && resources::is_whole(p));
    page.is_some_and(|page| q.value() % page.value() == 0)
}

/// Whether a container has amounts of huge pages that are no multiple of the page.
pub fn has_odd_huge_pages(r: &Value) -> bool {
    let all = ["limits", "requests"].into_iter().flat_map(|side| entries(&r[side]));
    all.into_iter().any(|(name, q)| is_huge_page(name) && !is_whole_pages(name, &q))
}

/// Upstream: `validateResourceClaimNames`.
fn claim_names(r: &Value, claims: &[&str], path: &Path, errors: &mut ErrorList) {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for (i, claim) in items(r, "claims").iter().enumerate() {
        let (at, name, request) = (path.index(i), text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        if seen.iter().any(|(key, _)| key == name) {
            errors.push(Error::duplicate(&at, name));
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                told(request, dns_label_errors(request, false), &at.child("request"), errors);
                key = format!("{name}/{request}");
            }
            if seen.iter().any(|(k, _)| *k == key) {
                errors.push(Error::duplicate(&at, key.as_str()));
            } else if request.is_empty() {
                errors.extend(seen.iter().filter(|(_, n)| *n == name).map(|_| Error::duplicate(&at, name)));
            }
            if !seen.iter().any(|(k, _)| *k == key) {
                seen.push((key, name));
            }
        }
        if !claims.contains(&name) {
            let mut error = Error::not_found(&at, name);
            let mut known: Vec<&str> = claims.iter().copied().filter(|c| !c.is_empty()).collect();
            known.sort_unstable();
            known.dedup();
            error.detail = match known.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                known => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            errors.push(error);
        }
    }
}

/// The whole is not less than its parts (upstream: `validatePodResourceConsistency`).
fn consistency(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let own = &spec["resources"];
    let detail = |kind: &str, sum: &Quantity| {
        format!("must be greater than or equal to aggregate container {kind} of {sum}")
    };
    for (name, sum) in pod_resources::of_containers(spec, Side::Requests).iter() {
        if let Some(whole) = amount(&own["requests"][name]).filter(|whole| sum > whole) {
            let at = at.child("requests").key(name);
            errors.push(Error::invalid(&at, whole.to_string(), detail("requests", sum)));
        }
    }
    for (name, sum) in
        pod_resources::of_containers(spec, Side::Limits).iter().filter(|(n, _)| is_huge_page(n))
    {
        if let Some(whole) = amount(&own["limits"][name]).filter(|whole| sum > whole) {
            let at = at.child("limits").key(name);
            errors.push(Error::invalid(&at, whole.to_string(), detail("limits", sum)));
        }
    }
    for (i, c) in items(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(&c["resources"]["limits"]) {
            if let Some(whole) = amount(&own["limits"][name]).filter(|whole| limit > *whole) {
                let at = at.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {whole}");
                errors.push(Error::invalid(&at, limit.to_string(), detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(r: Value, claims: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        errors(&r, claims, &Allowed::default(), &Path::new("r"), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateResourceRequirements`.
    #[test]
    fn amounts_of_containers() {
        assert!(found(json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "1", "hugepages-2Mi": "4Mi"}}), &[]).is_empty());
        assert_eq!(
            found(json!({"requests": {"example.com/x": "1500m", "cpu": "2"}, "limits": {"cpu": "1"}}), &[]),
            [
                "r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "r.requests[example.com/x]: Invalid value: \"1500m\": must be an integer",
                "r.limits: Required value: Limit must be set for non overcommitable resources",
            ]
        );
        assert_eq!(
            found(json!({"limits": {"hugepages-2Mi": "3Mi"}}), &[]),
            [
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "r: Forbidden: HugePages require cpu or memory",
            ]
        );
    }

    #[test]
    fn claims_are_the_pods() {
        let claim = |name: &str, request: &str| json!({"name": name, "request": request});
        assert!(found(json!({"claims": [claim("a", "x"), claim("a", "y")]}), &["a"]).is_empty());
        assert_eq!(
            found(json!({"claims": [claim("a", "x"), claim("a", ""), claim("b", "")]}), &["a"]),
            [
                "r.claims[1]: Duplicate value: \"a\"",
                "r.claims[2]: Not found: \"b\": must be one of the names in pod.spec.resourceClaims: a",
            ]
        );
    }

    /// Upstream: `TestValidatePodResourceConsistency`.
    #[test]
    fn the_whole_and_its_parts() {
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "5"}}}],
            "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1"}, "limits": {"cpu": "3"}}});
        let mut all = Vec::new();
        of_pod(&spec, &Allowed::default(), &Path::new("spec"), &mut all);
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                "spec.resources.containers[0][cpu].limits: Invalid value: \"5\": must be less than or equal to pod limits of 3",
            ]
        );
    }
}
