//! `RuntimeClass`: pods name a class that exists, and take its overhead and scheduling
//! (upstream: `plugin/pkg/admission/runtimeclass`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::field::quoted;
use meta::object;
use meta::status::{Result, Status};
use registry::{Operation, Registry};
use serde_json::Value;
use std::sync::Arc;

pub struct RuntimeClass {
    registry: Arc<Registry>,
}

impl RuntimeClass {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The class that a pod names; `None` when it names none.
    fn class(&self, a: &Attributes<'_>, pod: &Value) -> Result<Option<Value>> {
        let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
        let row = self.registry.kinds().resource("node.k8s.io", "v1", "runtimeclasses");
        let row = row.ok_or_else(Status::no_such_resource)?;
        match self.registry.get_value(&a.permit, &row, "", name) {
            Ok(class) => Ok(Some(class)),
            Err(e) if e.is_not_found() => {
                let why = format!("pod rejected: RuntimeClass {} not found", quoted(name));
                Err(a.forbidden(Some(pod), &why))
            }
            Err(e) => Err(e),
        }
    }
}

fn is_new_pod(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create && a.is("", "pods") && a.subresource.is_empty()
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, _phase: Phase, a: &Attributes<'_>) -> bool {
        is_new_pod(a)
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        let Some(class) = self.class(a, new)? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if overhead.as_object().is_some_and(|o| !o.is_empty()) {
            let own = &new["spec"]["overhead"];
            if own.as_object().is_some_and(|o| !o.is_empty()) && own != overhead {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(a.forbidden(Some(new), why));
            }
            new["spec"]["overhead"] = overhead.clone();
        }
        schedule(new, &class["scheduling"]).map_err(|why| a.forbidden(Some(new), &why))
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, _old: Option<&Value>) -> Result<()> {
        let Some(pod) = new else { return Ok(()) };
        let class = self.class(a, pod)?.unwrap_or_default();
        let given = |v: &Value| v.as_object().is_some_and(|o| !o.is_empty());
        if given(&pod["spec"]["overhead"]) && !given(&class["overhead"]["podFixed"]) {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(a.forbidden(Some(pod), why));
        }
        Ok(())
    }
}

/// Merges the class's node selector and tolerations into the pod's.
fn schedule(pod: &mut Value, scheduling: &Value) -> std::result::Result<(), String> {
    let selector = scheduling["nodeSelector"].as_object().cloned().unwrap_or_default();
    if !selector.is_empty()
        && let Some(own) = object::map_at(pod, &["spec", "nodeSelector"])
    {
        for (key, value) in selector {
            match own.get(&key) {
                Some(other) if *other != value => {
                    return Err(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        value.as_str().unwrap_or(""),
                        other.as_str().unwrap_or("")
                    ));
                }
                _ => drop(own.insert(key, value)),
            }
        }
    }
    let tolerations = scheduling["tolerations"].as_array().cloned().unwrap_or_default();
    if tolerations.is_empty() {
        return Ok(());
    }
    let mut own = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    own.extend(tolerations.into_iter().filter(|t| !own.contains(t)).collect::<Vec<_>>());
    pod["spec"]["tolerations"] = own.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_says_where_its_pods_run() {
        let toleration = json!({"key": "gvisor", "operator": "Exists"});
        let scheduling = json!({"nodeSelector": {"sandbox": "yes"}, "tolerations": [toleration]});
        let mut pod = json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": [toleration]}});
        assert_eq!(schedule(&mut pod, &scheduling), Ok(()));
        let want = json!({"nodeSelector": {"a": "b", "sandbox": "yes"}, "tolerations": [toleration]});
        assert_eq!(pod["spec"], want);
        let mut other = json!({"spec": {"nodeSelector": {"sandbox": "no"}}});
        assert!(schedule(&mut other, &scheduling).is_err_and(|e| e.starts_with("conflict: runtimeClass")));
    }
}
