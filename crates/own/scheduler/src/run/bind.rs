//! What the scheduler writes: bindings, conditions and events.

use super::NAME;
use crate::message;
use base::clock::SharedClock;
use client::events::{EventType, Flavor, Recorder, reference};
use client::{Client, Kind, Patch};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::sync::Arc;

/// What became of a write.
pub(super) enum Outcome {
    Done,
    /// The pod was not bound.
    Failed {
        pod: Arc<Pod>,
        message: String,
    },
}

/// Writes as the scheduler.
#[derive(Clone)]
pub(super) struct Binder {
    client: Client,
    recorder: Recorder,
    clock: SharedClock,
}

impl Binder {
    pub(super) fn new(client: Client, clock: SharedClock) -> Self {
        let recorder = Recorder::new(client.clone(), NAME, "", Flavor::Core, clock.clone());
        Self { client, recorder, clock }
    }

    /// Gives a pod its node (upstream: `defaultbinder#Bind`).
    pub(super) async fn bind(self, pod: Arc<Pod>, node: String) -> Outcome {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let sent = self.client.create_subresource::<Pod>(pod.namespace(), pod.name(), "binding", &body).await;
        match sent {
            Ok(_) => {
                let text = format!("Successfully assigned {} to {node}", key(&pod));
                self.recorder.action(&reference(&*pod), EventType::Normal, "Scheduled", "Binding", text);
                Outcome::Done
            }
            Err(e) => {
                tracing::warn!(pod = %key(&pod), node, "not bound: {e}");
                let message = format!("running Bind plugin \"DefaultBinder\": {}", e.message);
                Outcome::Failed { pod, message }
            }
        }
    }

    /// Says why a pod has no node: an event each time, the condition when it changed (upstream:
    /// `schedule_one.go#handleSchedulingFailure`).
    pub(super) async fn refuse(self, pod: Arc<Pod>, reason: &'static str, message: String) -> Outcome {
        let text = message::truncated(&message);
        self.recorder.action(&reference(&*pod), EventType::Warning, "FailedScheduling", "Scheduling", text);
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let old = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let same = old.is_some_and(|c| {
            c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(&message)
                && c.observed_generation == pod.metadata.generation
        });
        if same {
            return Outcome::Done;
        }
        let mut condition =
            json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
        if let Some(generation) = pod.metadata.generation {
            condition["observedGeneration"] = generation.into();
        }
        // the time is that of the last change of the status, not of the message
        if old.is_none_or(|c| c.status != "False") {
            condition["lastTransitionTime"] = meta::time::rfc3339(self.clock.now()).into();
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        let sent = self
            .client
            .patch::<Pod>(pod.namespace(), pod.name(), Some("status"), Patch::Strategic(patch))
            .await;
        match sent {
            Err(e) if !e.is_not_found() && !e.is_conflict() => {
                tracing::warn!(pod = %key(&pod), "condition not written: {e}");
            }
            _ => {}
        }
        Outcome::Done
    }
}

/// `namespace/name`.
pub(super) fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}
