//! TaintNodesByCondition and DefaultTolerationSeconds: new nodes start tainted, pods bear a dead node for five minutes
//! (upstream: `plugin/pkg/admission/nodetaint`, `plugin/pkg/admission/defaulttolerationseconds`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::object;
use meta::status::Result;
use registry::Operation;
use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Upstream: `--default-not-ready-toleration-seconds` and its sibling.
const TOLERATION_SECONDS: i64 = 300;

pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let new_node = a.operation == Operation::Create && a.is("", "nodes") && a.subresource.is_empty();
        phase == Phase::Admit && new_node
    }

    async fn admit(&self, _a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        let Some(spec) = object::map_at(new, &["spec"]) else { return Ok(()) };
        let taints = spec.entry("taints").or_insert_with(|| json!([]));
        if taints.is_null() {
            *taints = json!([]);
        }
        if let Some(list) = taints.as_array_mut()
            && !list.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule")
        {
            list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let pod = a.operation != Operation::Delete && a.is("", "pods") && a.subresource.is_empty();
        phase == Phase::Admit && pod
    }

    async fn admit(&self, _a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        let Some(spec) = object::map_at(new, &["spec"]) else { return Ok(()) };
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        let Some(list) = list.as_array_mut() else { return Ok(()) };
        for key in [NOT_READY, UNREACHABLE] {
            let covers = |t: &Value| {
                let (k, effect) = (t["key"].as_str().unwrap_or(""), t["effect"].as_str().unwrap_or(""));
                (k == key || k.is_empty()) && matches!(effect, "NoExecute" | "")
            };
            if !list.iter().any(covers) {
                list.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
                }));
            }
        }
        Ok(())
    }
}
