//! Amounts of resources: what pods ask for and nodes have (upstream: `component-helpers/resource#PodRequests`).

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;

/// What a container without requests counts as in scores (upstream: `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource: cpu in thousandths, everything else in its unit (bytes, pieces).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |name: &str, q: &Text| {
            let q = meta::quantity::Quantity::parse(&q.0).ok()?;
            Some(if name == "cpu" { q.milli() } else { q.value() })
        };
        let all = list.into_iter().flatten().filter_map(|(n, q)| Some((n.clone(), amount(n, q)?)));
        Self(all.collect())
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        for (n, v) in &other.0 {
            let slot = self.0.entry(n.clone()).or_insert(0);
            *slot = slot.saturating_add(*v);
        }
    }

    pub fn sub(&mut self, other: &Self) {
        for (n, v) in &other.0 {
            if let Some(slot) = self.0.get_mut(n) {
                *slot -= v;
            }
        }
    }

    /// At least `other` in every resource.
    fn raise(&mut self, other: &Self) {
        for (n, v) in &other.0 {
            let slot = self.0.entry(n.clone()).or_insert(0);
            *slot = (*slot).max(*v);
        }
    }
}

fn requests(c: &Container, default: bool) -> Resources {
    let mut r = Resources::of(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if default {
        r.0.entry("cpu".into()).or_insert(DEFAULT_MILLI_CPU);
        r.0.entry("memory".into()).or_insert(DEFAULT_MEMORY);
    }
    r
}

/// What a pod asks for: its containers and sidecars together, or its largest init step if that is more, and the
/// overhead. With `default`, containers that ask for no cpu or memory count as small ones, as scores want it.
pub fn of_pod(spec: &PodSpec, default: bool) -> Resources {
    let mut total = Resources::default();
    spec.containers.iter().for_each(|c| total.add(&requests(c, default)));
    let (mut sidecars, mut init) = (Resources::default(), Resources::default());
    for c in spec.init_containers.iter().flatten() {
        let mut step = requests(c, default);
        if c.restart_policy.as_deref() == Some("Always") {
            total.add(&step);
            sidecars.add(&step);
            step = sidecars.clone();
        } else {
            step.add(&sidecars);
        }
        init.raise(&step);
    }
    total.raise(&init);
    // amounts given for the whole pod stand instead of the sum
    let whole = Resources::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (n, v) in whole.0 {
        if matches!(n.as_str(), "cpu" | "memory") || n.starts_with("hugepages-") {
            total.0.insert(n, v);
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_sidecars_and_overhead() {
        let c = |cpu: &str, always: bool| {
            json!({"name": "c", "restartPolicy": always.then_some("Always"), "resources": {"requests": {"cpu": cpu}}})
        };
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [c("1", false), c("500m", false)],
            "initContainers": [c("200m", true), c("2", false), c("100m", true)],
            "overhead": {"cpu": "50m", "memory": "1Ki"},
        }))
        .unwrap();
        // steady: 1000 + 500 + 200 + 100; the second init step: 2000 + 200
        assert_eq!(of_pod(&spec, false).get("cpu"), 2250);
        assert_eq!(of_pod(&spec, false).get("memory"), 1024);
        let plain: PodSpec = serde_json::from_value(json!({"containers": [{"name": "c"}]})).unwrap();
        assert_eq!(of_pod(&plain, false), Resources::default());
        assert_eq!(of_pod(&plain, true).get("cpu"), 100);
    }
}
