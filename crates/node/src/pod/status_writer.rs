//! Writes a pod's status to the API: only what changed, the latest state wins, failures are retried
//! (upstream: `status/status_manager.go`).

use super::spec;
use super::status::conditions::OWNED;
use crate::ports::NodeApi;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// First pause after a failed write; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Hands statuses to the task that writes them.
pub struct StatusWriter {
    wanted: watch::Sender<(u64, PodStatus)>,
    written: watch::Receiver<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StatusWriter {
    /// Starts the task. `pod` is the pod as the API has it.
    pub fn start(api: Arc<dyn NodeApi>, pod: &Pod) -> Self {
        let old = pod.status.clone().unwrap_or_default();
        let (wanted, wanted_rx) = watch::channel((0, old.clone()));
        let (written_tx, written) = watch::channel(0);
        let place = Place {
            namespace: spec::namespace(pod).to_owned(),
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
        };
        let task = tokio::spawn(write_all(api, place, to_value(&old), wanted_rx, written_tx));
        Self { wanted, written, task }
    }

    /// This is the status from now on.
    pub fn set(&self, status: PodStatus) {
        self.wanted.send_modify(|w| *w = (w.0 + 1, status));
    }

    /// A handle that tells when the latest status has been written.
    pub fn flushed(&self) -> Flushed {
        Flushed { version: self.wanted.borrow().0, written: self.written.clone() }
    }
}

/// Waits for a status to be written, or to be known unwritable.
pub struct Flushed {
    version: u64,
    written: watch::Receiver<u64>,
}

impl Flushed {
    pub async fn wait(mut self) {
        let version = self.version;
        // The sender is gone when there is nothing left to write to.
        let _ = self.written.wait_for(|v| *v >= version).await;
    }
}

struct Place {
    namespace: String,
    name: String,
    uid: String,
}

async fn write_all(
    api: Arc<dyn NodeApi>,
    place: Place,
    mut last: Value,
    mut wanted: watch::Receiver<(u64, PodStatus)>,
    written: watch::Sender<u64>,
) {
    let mut pause = PAUSE_MIN;
    while wanted.changed().await.is_ok() {
        loop {
            let (version, status) = wanted.borrow_and_update().clone();
            let new = to_value(&status);
            let Some(patch) = patch(&place.uid, &last, &new) else {
                written.send_replace(version);
                break;
            };
            match api.patch_pod_status(&place.namespace, &place.name, &patch).await {
                Ok(_) => {
                    pause = PAUSE_MIN;
                    last = new;
                    written.send_replace(version);
                    break;
                }
                // Gone, or another pod of the same name.
                Err(e) if e.is_not_found() || e.is_conflict() => {
                    tracing::debug!(pod = place.name, "status not written: {e}");
                    written.send_replace(u64::MAX);
                    return;
                }
                Err(e) => {
                    tracing::warn!(
                        pod = place.name,
                        namespace = place.namespace,
                        "writing the status failed: {e}"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

fn to_value(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// The strategic merge patch from one status to the next; nothing when they are equal. Conditions of others are not
/// touched, fields of others neither.
fn patch(uid: &str, old: &Value, new: &Value) -> Option<Value> {
    const FOREIGN: &[&str] = &[
        "nominatedNodeName",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
        "volumeHealth",
        "resize",
    ];
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut out = Map::new();
    for key in old.keys().chain(new.keys()) {
        if FOREIGN.contains(&key.as_str()) || out.contains_key(key) {
            continue;
        }
        let (before, after) = (old.get(key), new.get(key));
        match key.as_str() {
            "conditions" => conditions(before, after, &mut out),
            _ if before == after => {}
            "podIPs" | "hostIPs" => {
                let mut list = after.and_then(Value::as_array).cloned().unwrap_or_default();
                if before.is_some_and(|b| b.as_array().is_some_and(|a| !a.is_empty())) {
                    list.insert(0, json!({"$patch": "replace"}));
                }
                out.insert(key.clone(), list.into());
            }
            // Maps are merged by the server: say it whole.
            "allocatedResources" | "resources" if before.is_some() && after.is_some() => {
                let mut map = after.and_then(Value::as_object).cloned().unwrap_or_default();
                map.insert("$patch".into(), "replace".into());
                out.insert(key.clone(), map.into());
            }
            _ => {
                out.insert(key.clone(), after.cloned().unwrap_or(Value::Null));
            }
        }
    }
    if out.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": out}))
}

/// Conditions that changed, of those that the node owns; the server merges them by type.
fn conditions(before: Option<&Value>, after: Option<&Value>, out: &mut Map<String, Value>) {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list(before);
    let changed: Vec<Value> = list(after)
        .into_iter()
        .filter(|c| c["type"].as_str().is_some_and(|t| OWNED.contains(&t)) && !before.contains(c))
        .map(|mut c| {
            // A merge keeps what is not said: say that it is gone.
            let old = before.iter().find(|b| b["type"] == c["type"]);
            for field in ["reason", "message"] {
                if c.get(field).is_none() && old.is_some_and(|o| o.get(field).is_some()) {
                    c[field] = Value::Null;
                }
            }
            c
        })
        .collect();
    if !changed.is_empty() {
        out.insert("conditions".into(), changed.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed() {
        let old = json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "a"}], "nominatedNodeName": "n",
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Mine", "status": "True"},
                {"type": "PodScheduled", "status": "True"}]});
        let new = json!({"phase": "Running", "podIPs": [{"ip": "b"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]});
        assert_eq!(
            patch("u", &old, &new).unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "b"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]}})
        );
        assert_eq!(patch("u", &new, &new), None);
    }
}
