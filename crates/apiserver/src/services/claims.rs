//! Claims of node ports in the store: a key per port, written and removed in the commit of the Service that has it.
//!
//! Invariant: a port that a stored Service has is claimed, so that of two servers of one cluster only one can give it
//! away; the pool in memory only says which ports are worth a try. Upstream keeps a bit map of the whole range and takes
//! from it before the Service is written (upstream: `pkg/registry/core/service/allocator/storage#Etcd`), which leaks
//! ports when a server ends in between; a claim in the same commit does not.

use super::Services;
use meta::object;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Change, Expect, Op, Range, Stamped, Store, Txn, Watched};
use tokio_util::sync::CancellationToken;

/// Where the claims are (upstream has its bit map at `ranges/servicenodeports`).
const PREFIX: &str = "/registry/ranges/servicenodeports/";
/// Claims made in one commit at start; etcd takes 128 operations by default.
const REPAIRS_AT_ONCE: usize = 100;

fn key(port: u16) -> String {
    format!("{PREFIX}{port}")
}

/// The port of a claim's key.
pub fn port(key: &str) -> Option<u16> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

/// All ports of the range that a Service has: one number is one claim, whatever its protocols.
fn ports(service: Option<&Value>) -> BTreeSet<u16> {
    service.into_iter().flat_map(super::held_ports).collect()
}

fn claim(port: u16, service: &Value) -> Op {
    let owner = format!("{}/{}", object::namespace(service), object::name(service));
    let value = Stamped { bytes: owner.into_bytes(), stamp: None };
    Op::Put { key: key(port), value, expect: Expect::Absent }
}

/// What has to be written with the change of a Service from `old` to `new`.
pub fn of(new: Option<&Value>, old: Option<&Value>) -> Vec<Op> {
    let (had, has) = (ports(old), ports(new));
    let made = new.into_iter().flat_map(|new| has.difference(&had).map(|p| claim(*p, new)));
    let gone = had.difference(&has).map(|p| Op::Delete { key: key(*p), last: None, expect: Expect::Any });
    made.chain(gone).collect()
}

/// Claims what stored Services have and nobody claimed: they are older than claims, or were written by another program
/// (upstream: `portallocator/controller#Repair`).
pub async fn repair(store: &dyn Store, services: &[Value]) {
    let missing = services.iter().flat_map(|s| of(Some(s), None));
    let mut seen = BTreeSet::new();
    let missing: Vec<Op> = missing
        .filter(|op| {
            let Op::Put { key, .. } = op else { return false };
            store.get(key).is_none() && seen.insert(key.clone())
        })
        .collect();
    for some in missing.chunks(REPAIRS_AT_ONCE) {
        let txn = Txn { ops: some.to_vec(), record: None };
        if let Err(error) = store.commit(txn).await {
            tracing::warn!(%error, "not all node ports of stored Services could be claimed");
        }
    }
}

/// Keeps the pool in step with the claims of all servers, until cancelled.
pub async fn follow(services: Arc<Services>, store: Arc<dyn Store>, cancel: CancellationToken) {
    loop {
        let Ok(page) = store.list(&Range { prefix: PREFIX, ..Range::default() }) else { return };
        services.only_claimed(page.entries.iter().filter_map(|e| port(&e.key)).collect());
        let Ok(mut watcher) = store.watch(PREFIX, page.revision) else { continue };
        loop {
            let watched = tokio::select! {
                () = cancel.cancelled() => return,
                watched = watcher.next() => watched,
            };
            match watched {
                Watched::Events(events) => {
                    for event in events.iter() {
                        let Some(port) = port(&event.key) else { continue };
                        services.claimed(port, matches!(event.change, Change::Put(_)));
                    }
                }
                Watched::Lagged { .. } => break,
                Watched::Closed => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(ports: &[u16]) -> Value {
        let ports: Vec<Value> = ports.iter().map(|p| json!({"port": 80, "nodePort": p})).collect();
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"type": "LoadBalancer", "ports": ports}})
    }

    fn shown(ops: Vec<Op>) -> Vec<(String, bool)> {
        let show = |op| match op {
            Op::Put { key, value, expect } => {
                assert_eq!((value.bytes, expect), (b"n/a".to_vec(), Expect::Absent));
                (key, true)
            }
            Op::Delete { key, .. } => (key, false),
        };
        ops.into_iter().map(show).collect()
    }

    #[test]
    fn what_comes_is_claimed_and_what_goes_is_given_back() {
        let at = |port: u16| format!("/registry/ranges/servicenodeports/{port}");
        let (a, b) = (service(&[30_001, 30_001, 30_002]), service(&[30_002, 30_003]));
        assert_eq!(shown(of(Some(&a), None)), [(at(30_001), true), (at(30_002), true)]);
        assert_eq!(shown(of(Some(&b), Some(&a))), [(at(30_003), true), (at(30_001), false)]);
        assert_eq!(shown(of(None, Some(&b))), [(at(30_002), false), (at(30_003), false)]);
        assert_eq!(of(Some(&a), Some(&a)), []);
        let mut health = service(&[]);
        health["spec"]["healthCheckNodePort"] = 30_009.into();
        assert_eq!(shown(of(Some(&health), None)), []);
        health["spec"]["externalTrafficPolicy"] = "Local".into();
        assert_eq!(shown(of(Some(&health), None)), [(at(30_009), true)]);
        let mut external = a.clone();
        external["spec"]["type"] = "ExternalName".into();
        assert_eq!(of(Some(&external), None), [], "a number that it does not hold");
        assert_eq!((port(&at(30_001)), port("/registry/ranges/servicenodeports/x")), (Some(30_001), None));
    }
}
