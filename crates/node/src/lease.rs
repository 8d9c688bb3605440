//! The node's Lease: its heartbeat (upstream: `component-helpers/apimachinery/lease`).

use crate::context::NodeContext;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const NAMESPACE: &str = "kube-node-lease";
/// First pause after a failure; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(7);

/// Renews the lease for ever, four times in its life.
pub async fn run(ctx: Arc<NodeContext>, mut node: watch::Receiver<Option<Node>>) {
    // The owner is known once the node is registered; the sender lives as long as the agent.
    let _ = node.wait_for(Option::is_some).await;
    let seconds = u64::try_from(ctx.config.lease_duration_seconds).unwrap_or(40);
    let period = Duration::from_secs(seconds) / 4;
    let mut pause = PAUSE_MIN;
    let mut last: Option<Lease> = None;
    loop {
        let uid = node.borrow().as_ref().and_then(|n| n.metadata.uid.clone());
        match renew(&ctx, last.take(), uid).await {
            Ok(lease) => {
                last = Some(lease);
                pause = PAUSE_MIN;
                tokio::time::sleep(period).await;
            }
            Err(e) => {
                tracing::warn!(node = ctx.config.node_name, "renewing the node's lease failed: {e}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Renews from the lease as last written, or else as the API has it.
async fn renew(ctx: &NodeContext, last: Option<Lease>, uid: Option<String>) -> Result<Lease, meta::Status> {
    let name = &ctx.config.node_name;
    if let Some(last) = last {
        match ctx.api.update_lease(&renewed(last, ctx, uid.as_deref())).await {
            Ok(lease) => return Ok(lease),
            Err(e) if e.is_conflict() || e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    match ctx.api.get_lease(NAMESPACE, name).await {
        Ok(lease) => ctx.api.update_lease(&renewed(lease, ctx, uid.as_deref())).await,
        Err(e) if e.is_not_found() => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            };
            let fresh = Lease { metadata, spec: None };
            ctx.api.create_lease(&renewed(fresh, ctx, uid.as_deref())).await
        }
        Err(e) => Err(e),
    }
}

fn renewed(lease: Lease, ctx: &NodeContext, uid: Option<&str>) -> Lease {
    let now: Timestamp = ctx.clock.now();
    fill(lease, &ctx.config.node_name, ctx.config.lease_duration_seconds, uid, now)
}

fn fill(mut lease: Lease, name: &str, seconds: i32, uid: Option<&str>, now: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = Some(seconds);
    spec.renew_time = Some(MicroTime(now));
    let owned = lease.metadata.owner_references.as_ref().is_some_and(|o| !o.is_empty());
    if let (false, Some(uid)) = (owned, uid) {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_in() {
        let l = fill(Lease::default(), "n", 40, Some("u"), Timestamp::UNIX_EPOCH);
        let s = l.spec.as_ref().unwrap();
        assert_eq!((s.holder_identity.as_deref(), s.lease_duration_seconds), (Some("n"), Some(40)));
        assert_eq!(l.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        let again = fill(l, "n", 40, Some("other"), Timestamp::UNIX_EPOCH);
        assert_eq!(again.metadata.owner_references.unwrap()[0].uid, "u", "the owner stays");
    }
}
