//! `PodTopologyLabels`: pods have the zone and region of their node as labels
//! (upstream: `plugin/pkg/admission/podtopologylabels`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::object;
use meta::status::{Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub struct PodTopology {
    registry: Arc<Registry>,
}

impl PodTopology {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for PodTopology {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit && a.is("", "pods")
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        let name = match a.subresource {
            "" if a.operation == Operation::Create => &new["spec"]["nodeName"],
            // a binding's labels become the pod's
            "binding" if new["target"]["kind"] == "Node" => &new["target"]["name"],
            _ => return Ok(()),
        };
        let Some(name) = name.as_str().filter(|n| !n.is_empty()) else { return Ok(()) };
        let row = self.registry.kinds().resource("", "v1", "nodes").ok_or_else(Status::no_such_resource)?;
        match self.registry.get_value(&a.permit, &row, "", name) {
            Ok(node) => take(new, &node),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

fn take(pod: &mut Value, node: &Value) {
    for key in LABELS {
        if let Some(value) = object::label(node, key)
            && let Some(labels) = object::map_at(pod, &["metadata", "labels"])
        {
            labels.insert(key.to_owned(), value.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_where_its_node_is() {
        let node = json!({"metadata": {"labels": {LABELS[0]: "z", "other": "x"}}});
        let mut pod = json!({"metadata": {"labels": {LABELS[0]: "y", "a": "b"}}});
        take(&mut pod, &node);
        assert_eq!(pod, json!({"metadata": {"labels": {LABELS[0]: "z", "a": "b"}}}));
        let mut bare = json!({"metadata": {}});
        take(&mut bare, &json!({"metadata": {}}));
        assert_eq!(bare, json!({"metadata": {}}));
    }
}
