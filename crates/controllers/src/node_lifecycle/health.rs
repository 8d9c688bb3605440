//! Signs of life (upstream: `tryUpdateNodeHealth`).

use crate::common::time;
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// The conditions that a kubelet reports.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last seen of a node.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) uid: String,
    heartbeat: Option<Time>,
    renewed: Option<Timestamp>,
    /// When a sign of life was last seen, monotonic.
    pub(super) probe: Duration,
}

pub(super) fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

pub(super) fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|c| c.status == "True")
}

/// A new heartbeat or a renewed lease is a sign of life; the first look at a node counts as one.
pub(super) fn observe(known: Option<&Health>, node: &Node, lease: Option<&Lease>, now: Duration) -> Health {
    let heartbeat = ready(node).and_then(|c| c.last_heartbeat_time.clone());
    let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0);
    let probe = match known.filter(|k| k.uid == node.uid()) {
        Some(k) if k.heartbeat == heartbeat && renewed.is_none_or(|r| k.renewed.is_some_and(|s| s >= r)) => {
            k.probe
        }
        _ => now,
    };
    Health { uid: node.uid().to_owned(), heartbeat, renewed, probe }
}

/// The node with all reported conditions Unknown; `None` when they are already.
pub(super) fn unknown(node: &Node, now: Timestamp) -> Option<Node> {
    let mut node = node.clone();
    let made = node.metadata.creation_timestamp.clone();
    let all = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in REPORTED {
        match all.iter_mut().find(|c| c.type_ == kind) {
            None => {
                changed = true;
                all.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: made.clone(),
                    last_transition_time: Some(time(now)),
                });
            }
            Some(c) if c.status != "Unknown" => {
                changed = true;
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(time(now));
            }
            Some(_) => {}
        }
    }
    changed.then_some(node)
}
