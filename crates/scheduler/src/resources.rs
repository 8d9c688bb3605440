//! Amounts of resources: what a pod asks for and what a node has.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::quantity::Quantity as Amount;
use std::collections::BTreeMap;

/// What a container without a request counts as in scores, in thousandths of a core and in bytes (upstream:
/// `pkg/scheduler/util#DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

type List = BTreeMap<String, Quantity>;
type Amounts = BTreeMap<String, Amount>;

/// Amounts in the units that the scheduler compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, by name, in their own units.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a node's or pod's list; `pods` is left out, it is no amount that pods ask for.
    pub fn from_list(list: Option<&List>) -> Self {
        Self::from_amounts(&parse(list))
    }

    fn from_amounts(amounts: &Amounts) -> Self {
        let mut out = Self::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                _ if is_scalar(name) => drop(out.scalar.insert(name.clone(), amount.value())),
                _ => {}
            }
        }
        out
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn combine(&mut self, other: &Self, op: fn(i64, i64) -> i64) {
        self.milli_cpu = op(self.milli_cpu, other.milli_cpu);
        self.memory = op(self.memory, other.memory);
        self.ephemeral_storage = op(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let slot = self.scalar.entry(name.clone()).or_default();
            *slot = op(*slot, *amount);
        }
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.get(name).copied().unwrap_or(0)
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.scalar.is_empty()
    }
}

/// What a pod asks for, and the same with defaults in the place of absent CPU and memory requests, for scores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub exact: Resources,
    pub with_defaults: Resources,
}

impl Requests {
    /// Upstream: `pkg/scheduler/framework/types.go#calculateResource`.
    pub fn of(pod: &Pod) -> Self {
        let exact = pod_requests(pod, &Amounts::new());
        let mut defaults = Amounts::new();
        let pod_level = has_pod_level(pod);
        if !(pod_level && exact.contains_key("cpu")) {
            defaults.insert("cpu".into(), Amount::from_milli(DEFAULT_MILLI_CPU));
        }
        if !(pod_level && exact.contains_key("memory")) {
            defaults.insert("memory".into(), Amount::new(DEFAULT_MEMORY, Default::default()));
        }
        let with_defaults = Resources::from_amounts(&pod_requests(pod, &defaults));
        Self { exact: Resources::from_amounts(&exact), with_defaults }
    }
}

/// Containers run together, init containers one after the other beside the sidecars started before; requests of the
/// whole pod replace that sum, overhead comes on top (upstream: `component-helpers/resource#PodRequests`).
fn pod_requests(pod: &Pod, absent: &Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &container_requests(container, absent));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = container_requests(container, absent);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            max(&mut peak, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            max(&mut peak, &together);
        }
    }
    max(&mut total, &peak);
    for (name, amount) in parse(spec.resources.as_ref().and_then(|r| r.requests.as_ref())) {
        if is_pod_level(&name) {
            total.insert(name, amount);
        }
    }
    add(&mut total, &parse(spec.overhead.as_ref()));
    total
}

fn container_requests(container: &Container, absent: &Amounts) -> Amounts {
    let mut out = parse(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (name, amount) in absent {
        out.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    out
}

fn has_pod_level(pod: &Pod) -> bool {
    let requests = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.into_iter().flatten().any(|(name, _)| is_pod_level(name))
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Upstream: `pkg/scheduler/util#IsScalarResourceName`.
fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-")
}

/// An amount that cannot be read counts as nothing: validation refuses it earlier.
fn parse(list: Option<&List>) -> Amounts {
    let all = list.into_iter().flatten();
    all.filter_map(|(name, q)| Some((name.clone(), Amount::parse(&q.0).ok()?))).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        to.entry(name.clone()).or_default().add(amount);
    }
}

fn max(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match to.get_mut(name) {
            Some(slot) if *slot >= *amount => {}
            Some(slot) => *slot = amount.clone(),
            None => drop(to.insert(name.clone(), amount.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: Value) -> Requests {
        Requests::of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let r = of(json!({
            "initContainers": [container("2", "1G"), container("2", "3G")],
            "containers": [container("2", "1G"), container("1", "1G")],
        }));
        assert_eq!((r.exact.milli_cpu, r.exact.memory), (3000, 3_000_000_000));
    }

    #[test]
    fn sidecars_run_beside_what_follows() {
        let mut sidecar = container("1", "1Gi");
        sidecar["restartPolicy"] = "Always".into();
        // before the sidecar: 5; beside it: 1 + 3; afterwards: 1 + 2
        let inits = json!([container("5", "0"), sidecar, container("3", "0")]);
        let r = of(json!({"initContainers": inits, "containers": [container("2", "1Gi")]}));
        assert_eq!((r.exact.milli_cpu, r.exact.memory), (5000, 2 << 30));
        let inits = json!([sidecar, container("3", "0")]);
        let r = of(json!({"initContainers": inits, "containers": [container("2", "1Gi")]}));
        assert_eq!(r.exact.milli_cpu, 4000);
    }

    #[test]
    fn pod_level_requests_replace_and_overhead_adds() {
        let r = of(json!({
            "resources": {"requests": {"cpu": "500m"}},
            "overhead": {"cpu": "250m", "memory": "120Mi"},
            "containers": [container("2", "1Mi")],
        }));
        assert_eq!((r.exact.milli_cpu, r.exact.memory), (750, 121 << 20));
    }

    #[test]
    fn absent_requests_have_defaults_in_scores_only() {
        let r = of(json!({"containers": [{"name": "a"}, container("0", "0"), {"name": "b"}]}));
        assert!(r.exact.is_zero());
        assert_eq!((r.with_defaults.milli_cpu, r.with_defaults.memory), (200, 400 << 20));
    }

    #[test]
    fn other_resources_are_kept_by_name() {
        let requests =
            json!({"a.io/gpu": "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi", "pods": "1"});
        let r = of(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})).exact;
        assert_eq!((r.scalar("a.io/gpu"), r.scalar("hugepages-2Mi")), (2, 4 << 20));
        assert_eq!((r.ephemeral_storage, r.scalar.len()), (1 << 30, 2));
    }
}
