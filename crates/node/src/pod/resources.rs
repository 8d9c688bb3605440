//! From requests and limits to cgroup settings, quality of service and OOM scores
//! (upstream: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, `component-helpers/resource`).

use super::spec::{self, ResourceList};
use crate::runtime::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::quantity::{Format, Quantity};
use std::collections::BTreeMap;

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Microseconds; the kernel takes no shorter quota.
const MIN_QUOTA: u64 = 1000;

/// Quality of service class (upstream: `v1.PodQOSClass`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn limits(r: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    r?.limits.as_ref()
}

fn requests(r: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    r?.requests.as_ref()
}

fn requirements_qos(r: Option<&ResourceRequirements>) -> Qos {
    let positive = |l: Option<&ResourceList>, n: &str| spec::quantity(l, n).filter(|q| q.sign() > 0);
    let (mut some, mut guaranteed) = (false, true);
    for name in ["cpu", "memory"] {
        let (request, limit) = (positive(requests(r), name), positive(limits(r), name));
        some |= request.is_some() || limit.is_some();
        guaranteed &= limit.is_some() && request.as_ref().is_none_or(|q| Some(q) == limit.as_ref());
    }
    match (some, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// upstream: `qos.ComputePodQOS`
pub fn qos(pod: &Pod) -> Qos {
    if let Some(r) = spec::spec(pod).resources.as_ref()
        && (r.limits.as_ref().is_some_and(|l| !l.is_empty())
            || r.requests.as_ref().is_some_and(|l| !l.is_empty()))
    {
        return requirements_qos(Some(r));
    }
    let mut found: Option<Qos> = None;
    for c in spec::init_containers(pod).iter().chain(&spec::spec(pod).containers) {
        let one = requirements_qos(c.resources.as_ref());
        match found {
            _ if one == Qos::Burstable => return Qos::Burstable,
            None => found = Some(one),
            Some(before) if before != one => return Qos::Burstable,
            Some(_) => {}
        }
    }
    found.unwrap_or(Qos::BestEffort)
}

/// Which side of the requirements is summed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

fn side(r: Option<&ResourceRequirements>, s: Side, name: &str) -> Option<Quantity> {
    match s {
        Side::Requests => spec::quantity(requests(r), name),
        Side::Limits => spec::quantity(limits(r), name),
    }
}

/// Sum over the pod as the scheduler counts it: main containers and sidecars together, or the largest init container
/// with the sidecars before it (upstream: `resourcehelper.PodRequests`, `PodLimits`).
fn pod_sum(pod: &Pod, s: Side, name: &str) -> Option<Quantity> {
    if let Some(q) = side(spec::spec(pod).resources.as_ref(), s, name) {
        return Some(q);
    }
    let mut total: Option<Quantity> = None;
    let add = |total: &mut Option<Quantity>, q: &Quantity| match total {
        Some(t) => t.add(q),
        None => *total = Some(q.clone()),
    };
    for c in &spec::spec(pod).containers {
        if let Some(q) = side(c.resources.as_ref(), s, name) {
            add(&mut total, &q);
        }
    }
    let (mut sidecars, mut peak): (Option<Quantity>, Option<Quantity>) = (None, None);
    for c in spec::init_containers(pod) {
        let own = side(c.resources.as_ref(), s, name);
        let mut here = sidecars.clone();
        if let Some(q) = &own {
            add(&mut here, q);
            if spec::is_sidecar(c) {
                add(&mut sidecars, q);
                add(&mut total, q);
            }
        }
        peak = peak.max(here);
    }
    let mut sum = total.max(peak);
    if let (Some(overhead), Some(q)) = (&mut sum, spec::quantity(spec::spec(pod).overhead.as_ref(), name)) {
        overhead.add(&q);
    }
    sum
}

/// Names of all resources that the pod mentions.
fn names(pod: &Pod, s: Side) -> std::collections::BTreeSet<String> {
    let p = spec::spec(pod);
    let all = spec::init_containers(pod).iter().chain(&p.containers).map(|c| c.resources.as_ref());
    all.chain([p.resources.as_ref()])
        .flat_map(|r| match s {
            Side::Requests => requests(r),
            Side::Limits => limits(r),
        })
        .flat_map(|l| l.keys().cloned())
        .collect()
}

/// What the pod requests in all.
pub fn pod_requests(pod: &Pod) -> BTreeMap<String, Quantity> {
    names(pod, Side::Requests)
        .into_iter()
        .filter_map(|n| pod_sum(pod, Side::Requests, &n).map(|q| (n, q)))
        .collect()
}

/// As the API writes it.
pub fn api_list(list: &BTreeMap<String, Quantity>) -> ResourceList {
    list.iter().map(|(k, v)| (k.clone(), ApiQuantity(v.to_string()))).collect()
}

/// upstream: `MilliCPUToShares`
pub fn shares(milli: i64) -> u64 {
    match u64::try_from(milli) {
        Ok(0) | Err(_) => MIN_SHARES,
        Ok(m) => (m * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES),
    }
}

/// Microseconds per 100 ms (upstream: `MilliCPUToQuota`).
pub fn quota(milli: i64) -> Option<u64> {
    u64::try_from(milli).ok().filter(|m| *m > 0).map(|m| (m * 100).max(MIN_QUOTA))
}

fn bytes(q: Option<Quantity>) -> Option<u64> {
    q.and_then(|q| u64::try_from(q.value()).ok()).filter(|b| *b > 0)
}

/// Settings of the pod's cgroup (upstream: `ResourceConfigForPod`).
pub fn pod_cgroup(pod: &Pod, pids_limit: Option<u64>) -> Resources {
    let class = qos(pod);
    let cpu = pod_sum(pod, Side::Requests, "cpu").or_else(|| pod_sum(pod, Side::Limits, "cpu"));
    let mut out = Resources { pids_limit, ..Resources::default() };
    if class == Qos::BestEffort {
        out.cpu_shares = Some(MIN_SHARES);
        return out;
    }
    out.cpu_shares = Some(shares(cpu.map_or(0, |q| q.milli())));
    let all_limited = |name: &str| {
        let p = spec::spec(pod);
        side(p.resources.as_ref(), Side::Limits, name).is_some()
            || spec::init_containers(pod)
                .iter()
                .chain(&p.containers)
                .all(|c| side(c.resources.as_ref(), Side::Limits, name).is_some_and(|q| !q.is_zero()))
    };
    if all_limited("cpu") {
        out.cpu_quota_us = pod_sum(pod, Side::Limits, "cpu").and_then(|q| quota(q.milli()));
    }
    if all_limited("memory") {
        out.memory_limit_bytes = bytes(pod_sum(pod, Side::Limits, "memory"));
    }
    out
}

/// Settings of a container's cgroup (upstream: `generateLinuxContainerResources`).
pub fn container_cgroup(pod: &Pod, container: &Container) -> Resources {
    let own = container.resources.as_ref();
    let whole = spec::spec(pod).resources.as_ref();
    let request = side(own, Side::Requests, "cpu");
    let limit = side(own, Side::Limits, "cpu").or_else(|| side(whole, Side::Limits, "cpu"));
    let cpu = request.or_else(|| limit.clone()).map_or(0, |q| q.milli());
    let memory = side(own, Side::Limits, "memory").or_else(|| side(whole, Side::Limits, "memory"));
    Resources {
        memory_limit_bytes: bytes(memory),
        cpu_quota_us: limit.and_then(|q| quota(q.milli())),
        cpu_shares: Some(shares(cpu)),
        pids_limit: None,
    }
}

/// Parent cgroup of the pod's containers (upstream: `cm.podContainerManagerImpl.GetPodContainerName`).
pub fn cgroup(root: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        Qos::Guaranteed => "kubepods",
        Qos::Burstable => "kubepods/burstable",
        Qos::BestEffort => "kubepods/besteffort",
    };
    let path = format!("{class}/pod{}", spec::uid(pod));
    if root.is_empty() { path } else { format!("{}/{path}", root.trim_matches('/')) }
}

/// upstream: `qos.GetContainerOOMScoreAdjust`
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: u64) -> i32 {
    let critical = spec::spec(pod).priority_class_name.as_deref() == Some("system-node-critical");
    match qos(pod) {
        _ if critical => return -997,
        Qos::Guaranteed => return -997,
        Qos::BestEffort => return 1000,
        Qos::Burstable => {}
    }
    let request = |c: &Container| {
        let q = side(c.resources.as_ref(), Side::Requests, "memory");
        u128::from(bytes(q).unwrap_or(0))
    };
    let capacity = u128::from(memory_capacity.max(1));
    let score = |bytes: u128| 1000 - i128::try_from(1000 * bytes / capacity).unwrap_or(1000);
    let mut adjust = score(request(container));
    if spec::is_sidecar(container) {
        let least = spec::spec(pod).containers.iter().map(request).min().unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    // 2 keeps it above guaranteed containers, 999 below best effort.
    i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
}

/// The value of a `resourceFieldRef`; unset limits are the node's allocatable
/// (upstream: `resource.ExtractContainerResourceValue`).
///
/// # Errors
/// The text of upstream for a resource that is not supported.
pub fn field_value(
    container: &Container,
    resource: &str,
    divisor: Option<&ApiQuantity>,
    allocatable: &ResourceList,
) -> Result<String, String> {
    let one = Quantity::new(1, Format::DecimalSi);
    let divisor = divisor.and_then(|d| Quantity::parse(&d.0).ok()).filter(|d| !d.is_zero()).unwrap_or(one);
    let r = container.resources.as_ref();
    let value = match resource.split_once('.') {
        Some(("limits", name)) => {
            let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
            let set = side(r, Side::Limits, name).filter(|q| !q.is_zero());
            set.or_else(|| standard.then(|| spec::quantity(Some(allocatable), name)).flatten())
        }
        Some(("requests", name)) => side(r, Side::Requests, name),
        _ => return Err(format!("unsupported container resource : {resource}")),
    }
    .unwrap_or_default();
    let whole = match resource.split_once('.').map(|(_, n)| n) {
        Some("cpu") => (value.milli() as f64 / divisor.milli() as f64).ceil(),
        Some("memory" | "ephemeral-storage") => (value.value() as f64 / divisor.value() as f64).ceil(),
        Some(n) if n.starts_with("hugepages-") => (value.value() as f64 / divisor.value() as f64).ceil(),
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    Ok(format!("{whole:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"uid": "u1"}, "spec": {"containers": containers, "initContainers": init}}),
        )
        .unwrap()
    }

    #[test]
    fn classes_and_cgroups() {
        let best = pod(json!([{"name": "a"}]), json!([]));
        assert_eq!(qos(&best), Qos::BestEffort);
        assert_eq!(cgroup("", &best), "kubepods/besteffort/podu1");
        assert_eq!(
            pod_cgroup(&best, Some(9)),
            Resources { cpu_shares: Some(2), pids_limit: Some(9), ..Default::default() }
        );
        let full = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        let guaranteed = pod(json!([{"name": "a", "resources": full}]), json!([]));
        assert_eq!(qos(&guaranteed), Qos::Guaranteed);
        assert_eq!(cgroup("/x/", &guaranteed), "x/kubepods/podu1");
        let g = pod_cgroup(&guaranteed, None);
        assert_eq!(
            (g.cpu_quota_us, g.memory_limit_bytes, g.cpu_shares),
            (Some(50_000), Some(64 << 20), Some(512))
        );
        let mixed = pod(json!([{"name": "a", "resources": full}, {"name": "b"}]), json!([]));
        assert_eq!(qos(&mixed), Qos::Burstable);
        assert_eq!(pod_cgroup(&mixed, None).memory_limit_bytes, None, "one container has no limit");
        assert_eq!(
            oom_score_adj(&mixed, &spec::spec(&mixed).containers[0], 640 << 20),
            999,
            "limits alone are no request here"
        );
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let cpu = |c: &str| json!({"requests": {"cpu": c}});
        let p = pod(
            json!([{"name": "m", "resources": cpu("100m")}]),
            json!([
                {"name": "s", "restartPolicy": "Always", "resources": cpu("50m")},
                {"name": "i", "resources": cpu("400m")},
            ]),
        );
        assert_eq!(pod_requests(&p)["cpu"].to_string(), "450m");
    }

    #[test]
    fn field_values() {
        let c: Container = serde_json::from_value(
            json!({"name": "a", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}),
        )
        .unwrap();
        let node: ResourceList = [("memory".to_owned(), ApiQuantity("1Gi".into()))].into();
        let get =
            |r: &str, d: Option<&str>| field_value(&c, r, d.map(|d| ApiQuantity(d.into())).as_ref(), &node);
        assert_eq!(get("limits.cpu", None).unwrap(), "2");
        assert_eq!(get("limits.cpu", Some("1m")).unwrap(), "1500");
        assert_eq!(get("requests.memory", Some("1Mi")).unwrap(), "100");
        assert_eq!(get("limits.memory", None).unwrap(), "1073741824");
        assert_eq!(get("requests.cpu", None).unwrap(), "0");
        assert_eq!(get("limits.gpu", None).unwrap_err(), "unsupported container resource : limits.gpu");
    }
}
