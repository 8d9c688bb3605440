//! `LimitRanger`: containers, pods and claims of a namespace keep to its limit ranges, and containers take their defaults
//! (upstream: `plugin/pkg/admission/limitranger/admission.go`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use kinds::amounts::Amounts;
use kinds::pod_resources::{self, Side};
use meta::object;
use meta::quantity::Quantity;
use meta::status::{Result, Status};
use registry::{ListQuery, Match, Operation, Registry, Selectors};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Says which defaults were set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Amounts up to here are compared by their thousandths (upstream: `resource.MaxMilliValue`).
const MILLI_MAX: i64 = i64::MAX / 1000;
/// The scale of thousandths.
const MILLI: i32 = -3;

pub struct LimitRanger {
    registry: Arc<Registry>,
}

impl LimitRanger {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The limits of all ranges of the namespace, a range each.
    async fn ranges(&self, a: &Attributes<'_>) -> Result<Vec<Value>> {
        let row =
            self.registry.kinds().resource("", "v1", "limitranges").ok_or_else(Status::no_such_resource)?;
        let query = ListQuery {
            selectors: Selectors::default(),
            limit: 0,
            resume: None,
            resource_version: "0".to_owned(),
            matching: Match::Unset,
        };
        let listed = self.registry.list(&a.permit, &row, Some(a.namespace), &query).await?;
        Ok(listed.items.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect())
    }
}

/// Upstream: `SupportsAttributes`; objects on their way out are left alone.
fn concerns(a: &Attributes<'_>, old: Option<&Value>) -> bool {
    if old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null()) {
        return false;
    }
    let (pod, create) = (a.is("", "pods"), a.operation == Operation::Create);
    match a.subresource {
        "" if create => pod || a.is("", "persistentvolumeclaims"),
        "" => a.operation == Operation::Update && a.is("", "persistentvolumeclaims"),
        "resize" => pod && a.operation == Operation::Update,
        _ => false,
    }
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or("")
}

fn limits(range: &Value) -> impl Iterator<Item = &Value> {
    range["spec"]["limits"].as_array().into_iter().flatten()
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        a.is("", "pods") || (phase == Phase::Validate && a.is("", "persistentvolumeclaims"))
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        if concerns(a, old) {
            for range in self.ranges(a).await? {
                set_defaults(new, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let Some(new) = new.filter(|_| concerns(a, old)) else { return Ok(()) };
        for range in self.ranges(a).await? {
            let errors = if a.is("", "pods") { pod_errors(new, &range) } else { claim_errors(new, &range) };
            let why = match errors.as_slice() {
                [] => continue,
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            return Err(a.forbidden(Some(new), &why));
        }
        Ok(())
    }
}

/// Upstream: `mergePodResourceRequirements`.
fn set_defaults(pod: &mut Value, range: &Value) {
    let mut defaults = [("requests", "request", Map::new()), ("limits", "limit", Map::new())];
    for limit in limits(range).filter(|l| l["type"] == "Container") {
        for ((_, _, amounts), field) in defaults.iter_mut().zip(["defaultRequest", "default"]) {
            amounts.extend(limit[field].as_object().cloned().unwrap_or_default());
        }
    }
    let mut notes = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "name").to_owned();
            for (list, word, amounts) in &defaults {
                let mut set = Vec::new();
                let Some(own) = object::map_at(container, &["resources", list]) else { continue };
                for (resource, amount) in amounts {
                    if !own.contains_key(resource) {
                        own.insert(resource.clone(), amount.clone());
                        set.push(resource.as_str());
                    }
                }
                let empty = own.is_empty();
                set.sort_unstable();
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                } else if empty && let Some(resources) = object::map_at(container, &["resources"]) {
                    resources.remove(*list);
                }
            }
        }
    }
    if !notes.is_empty()
        && let Some(annotations) = object::map_at(pod, &["metadata", "annotations"])
    {
        annotations
            .insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", notes.join("; ")).into());
    }
}

/// What is asked for and what is allowed at most.
struct Usage {
    requests: Amounts,
    limits: Amounts,
}

impl Usage {
    fn of(resources: &Value) -> Self {
        Self { requests: Amounts::of(&resources["requests"]), limits: Amounts::of(&resources["limits"]) }
    }

    fn check(&self, limit: &Value, errors: &mut Vec<String>) {
        let ty = text(limit, "type");
        let found = |name: &str| (self.requests.get(name), self.limits.get(name));
        for (name, bound) in Amounts::of(&limit["min"]).iter() {
            errors.extend(least(ty, name, bound, found(name)));
        }
        for (name, bound) in Amounts::of(&limit["max"]).iter() {
            errors.extend(most(ty, name, bound, found(name)));
        }
        for (name, bound) in Amounts::of(&limit["maxLimitRequestRatio"]).iter() {
            errors.extend(ratio(ty, name, bound, found(name)));
        }
    }
}

/// Amounts as numbers of the same unit (upstream: `requestLimitEnforcedValues`).
fn comparable<const N: usize>(amounts: [Option<&Quantity>; N]) -> [i64; N] {
    let exact = amounts.iter().flatten().all(|q| q.overflowing(0) <= MILLI_MAX);
    amounts.map(|q| q.map_or(0, |q| q.overflowing(if exact { MILLI } else { 0 })))
}

type Found<'a> = (Option<&'a Quantity>, Option<&'a Quantity>);

fn least(ty: &str, name: &str, bound: &Quantity, (request, limit): Found<'_>) -> Option<String> {
    let [asked, allowed, enforced] = comparable([request, limit, Some(bound)]);
    let head = format!("minimum {name} usage per {ty} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if asked < enforced => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if allowed < enforced => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn most(ty: &str, name: &str, bound: &Quantity, (request, limit): Found<'_>) -> Option<String> {
    let [asked, allowed, enforced] = comparable([request, limit, Some(bound)]);
    let head = format!("maximum {name} usage per {ty} is {bound}");
    match (request, limit) {
        (_, None) => Some(format!("{head}.  No limit is specified")),
        (_, Some(limit)) if allowed > enforced => Some(format!("{head}, but limit is {limit}")),
        (Some(request), _) if asked > enforced => Some(format!("{head}, but request is {request}")),
        _ => None,
    }
}

/// As [`most`], of claims, which have no limits.
fn most_requested(ty: &str, name: &str, bound: &Quantity, request: Option<&Quantity>) -> Option<String> {
    let [asked, enforced] = comparable([request, Some(bound)]);
    let head = format!("maximum {name} usage per {ty} is {bound}");
    match request {
        None => Some(format!("{head}.  No request is specified")),
        Some(request) if asked > enforced => Some(format!("{head}, but request is {request}")),
        Some(_) => None,
    }
}

#[allow(clippy::cast_precision_loss)] // as upstream compares
fn ratio(ty: &str, name: &str, bound: &Quantity, (request, limit): Found<'_>) -> Option<String> {
    let [asked, allowed, _] = comparable([request, limit, Some(bound)]);
    let head = format!("{name} max limit to request ratio per {ty} is {bound}");
    if request.is_none() || asked == 0 {
        return Some(format!("{head}, but no request is specified or request is 0"));
    }
    if limit.is_none() || allowed == 0 {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    }
    let found = allowed as f64 / asked as f64;
    let whole = bound.overflowing(0);
    let too_much = if whole <= MILLI_MAX {
        found * 1000.0 > bound.overflowing(MILLI) as f64
    } else {
        found > whole as f64
    };
    too_much.then(|| format!("{head}, but provided ratio is {found:.6}"))
}

/// Upstream: `PodValidateLimitFunc`.
fn pod_errors(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits(range) {
        match limit["type"].as_str() {
            Some("Container") => {
                for field in ["containers", "initContainers"] {
                    for container in pod["spec"][field].as_array().into_iter().flatten() {
                        Usage::of(&container["resources"]).check(limit, &mut errors);
                    }
                }
            }
            Some("Pod") => {
                let usage = Usage {
                    requests: pod_resources::of_spec(pod, Side::Requests),
                    limits: pod_resources::of_spec(pod, Side::Limits),
                };
                usage.check(limit, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

/// Upstream: `PersistentVolumeClaimValidateLimitFunc`.
fn claim_errors(claim: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = Amounts::of(&claim["spec"]["resources"]["requests"]);
    for limit in limits(range).filter(|l| l["type"] == "PersistentVolumeClaim") {
        let ty = text(limit, "type");
        for (name, bound) in Amounts::of(&limit["min"]).iter() {
            errors.extend(least(ty, name, bound, (requests.get(name), None)));
        }
        for (name, bound) in Amounts::of(&limit["max"]).iter() {
            errors.extend(most_requested(ty, name, bound, requests.get(name)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_take_the_defaults_that_they_lack() {
        let range = range(json!({"type": "Container", "default": {"cpu": "75m", "memory": "10Mi"},
            "defaultRequest": {"cpu": "50m", "memory": "5Mi"}}));
        let mut bare = pod(json!({}));
        set_defaults(&mut bare, &range);
        let want =
            json!({"requests": {"cpu": "50m", "memory": "5Mi"}, "limits": {"cpu": "75m", "memory": "10Mi"}});
        assert_eq!(bare["spec"]["containers"][0]["resources"], want);
        assert_eq!(
            bare["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
        );
        let own = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let mut full = pod(own.clone());
        set_defaults(&mut full, &range);
        assert_eq!(full, pod(own));
    }

    #[test]
    fn containers_keep_to_least_most_and_ratio() {
        let min = range(json!({"type": "Container", "min": {"cpu": "50m"}}));
        let max = range(json!({"type": "Container", "max": {"memory": "1Gi"}}));
        let rate = range(json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}));
        let of = |r: &Value, resources: Value| pod_errors(&pod(resources), r);
        assert_eq!(of(&min, json!({"requests": {"cpu": "50m"}})), [""; 0]);
        assert_eq!(
            of(&min, json!({"requests": {"cpu": "40m"}})),
            ["minimum cpu usage per Container is 50m, but request is 40m"]
        );
        assert_eq!(of(&min, json!({})), ["minimum cpu usage per Container is 50m.  No request is specified"]);
        assert_eq!(
            of(&max, json!({"limits": {"memory": "2Gi"}})),
            ["maximum memory usage per Container is 1Gi, but limit is 2Gi"]
        );
        assert_eq!(
            of(&max, json!({})),
            ["maximum memory usage per Container is 1Gi.  No limit is specified"]
        );
        assert_eq!(of(&rate, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})), [""; 0]);
        assert_eq!(
            of(&rate, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2500m"}})),
            ["cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"]
        );
    }

    #[test]
    fn pods_take_the_larger_of_their_sum_and_an_init_container() {
        let pod = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "100m"}}}, {"resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"resources": {"requests": {"cpu": "400m"}}}]}});
        assert_eq!(pod_resources::of_spec(&pod, Side::Requests).to_string(), "cpu=450m");
        let range = range(json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "500m"}}));
        assert_eq!(
            pod_errors(&pod, &range),
            [
                "minimum cpu usage per Pod is 500m, but request is 450m",
                "maximum cpu usage per Pod is 1.  No limit is specified"
            ]
        );
    }

    #[test]
    fn claims_keep_to_least_and_most() {
        let range = range(
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "10Gi"}}),
        );
        let of =
            |n: &str| claim_errors(&json!({"spec": {"resources": {"requests": {"storage": n}}}}), &range);
        assert_eq!(of("5Gi"), [""; 0]);
        assert_eq!(of("1Mi"), ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]);
        assert_eq!(
            of("1Ti"),
            ["maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 1Ti"]
        );
        let no_least = self::range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Ti"}}));
        assert_eq!(
            claim_errors(&json!({"spec": {"resources": {"requests": {"storage": "1E20"}}}}), &no_least),
            [""; 0],
            "overflows to nothing"
        );
    }
}
