//! `PodResizeValidator`: a pod on a node takes no more than the node has (upstream: `plugin/pkg/admission/podresize`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use kinds::amounts::Amounts;
use kinds::pod_resources::{Side, of_spec};
use meta::field::quoted;
use meta::object;
use meta::quantity::Quantity;
use meta::status::{Cause, Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

const SYSTEM: &str = "kubernetes.io/os";

pub struct PodResize {
    registry: Arc<Registry>,
}

impl PodResize {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate
            && a.operation == Operation::Update
            && a.is("", "pods")
            && a.subresource == "resize"
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        let node = new["spec"]["nodeName"].as_str().filter(|n| !n.is_empty());
        let Some(name) = node else { return Ok(()) };
        // only a change of the spec counts the generation up
        if object::generation(new) == object::generation(old) {
            return Ok(());
        }
        let refused = |why: &str| Status::forbidden(&a.kind.group_resource(), a.name, why);
        let row = self.registry.kinds().resource("", "v1", "nodes").ok_or_else(Status::no_such_resource)?;
        let node = match self.registry.get_value(&a.permit, &row, "", name) {
            Err(e) if e.is_not_found() => {
                return Err(refused(&format!("node {name} not found", name = quoted(name))));
            }
            found => found?,
        };
        match judge(new, &node) {
            None => Ok(()),
            Some((reason, why)) => {
                let cause = Cause { reason: reason.to_owned(), ..Cause::default() };
                let mut status = refused(&why);
                if let Some(details) = &mut status.details {
                    details.causes.push(cause);
                }
                Err(status)
            }
        }
    }
}

/// Why a node cannot take the pod as it asks to be.
fn judge(pod: &Value, node: &Value) -> Option<(&'static str, String)> {
    if let Some(system) = object::label(node, SYSTEM).filter(|s| *s != "linux") {
        let name = object::name(node);
        let why = format!(
            "pod resize is only supported on linux nodes, node {name} is {system}",
            name = quoted(name),
            system = quoted(system)
        );
        return Some(("UnsupportedPlatform", why));
    }
    let mut asked = of_spec(pod, Side::Requests);
    asked.add(&Amounts::of(&pod["spec"]["overhead"]));
    let there = Amounts::of(&node["status"]["allocatable"]);
    let mut short = Vec::new();
    for (name, count) in [
        ("cpu", Quantity::milli as fn(&Quantity) -> i64),
        ("memory", Quantity::value as fn(&Quantity) -> i64),
    ] {
        let of = |list: &Amounts| list.get(name).cloned().unwrap_or_default();
        let (asked, there) = (of(&asked), of(&there));
        if asked > there {
            short.push(format!("{name}, requested: {}, allocatable: {}", count(&asked), count(&there)));
        }
    }
    (!short.is_empty()).then(|| {
        let why = format!("node didn't have enough allocatable resources: {}", short.join("; "));
        ("NodeCapacity", why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidateNodeAllocatable`, `TestValidateLinuxNode`.
    #[test]
    fn what_a_node_can_take() {
        let node = |system: &str| json!({"metadata": {"name": "n", "labels": {SYSTEM: system}}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
        let pod = |cpu: &str| json!({"spec": {"overhead": {"cpu": "100m"}, "containers": [{"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}});
        assert_eq!(judge(&pod("900m"), &node("linux")), None);
        let why = "node didn't have enough allocatable resources: cpu, requested: 1001, allocatable: 1000";
        assert_eq!(judge(&pod("901m"), &node("linux")), Some(("NodeCapacity", why.to_owned())));
        assert_eq!(judge(&pod("1"), &node("windows")).map(|j| j.0), Some("UnsupportedPlatform"));
    }
}
