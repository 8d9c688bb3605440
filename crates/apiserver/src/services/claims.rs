//! Claims of node ports and addresses in the store: a key for each, written and removed in the commit of the Service that
//! has it.
//!
//! Invariant: what a stored Service has is claimed, so that of two servers of one cluster only one can give it away; the
//! pools in memory only say what is worth a try. Upstream keeps a bit map of the whole range and takes
//! from it before the Service is written (upstream: `pkg/registry/core/service/allocator/storage#Etcd`), which leaks
//! some when a server ends in between; a claim in the same commit does not.

use super::Services;
use kinds::validate::{items, text};
use meta::object;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use store::{Change, Expect, Op, Range, Stamped, Store, Txn, Watched};
use tokio_util::sync::CancellationToken;

/// Where the claims are (upstream has its bit maps at `ranges/servicenodeports` and, before IPAddress objects,
/// `ranges/serviceips`).
const PREFIX: &str = "/registry/ranges/";
const PORTS: &str = "servicenodeports/";
const ADDRESSES: &str = "serviceips/";
/// Claims made in one commit at start; etcd takes 128 operations by default.
const REPAIRS_AT_ONCE: usize = 100;

/// What only one Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    Port(u16),
    Address(IpAddr),
}

impl Held {
    fn key(self) -> String {
        match self {
            Self::Port(port) => format!("{PREFIX}{PORTS}{port}"),
            Self::Address(ip) => format!("{PREFIX}{ADDRESSES}{ip}"),
        }
    }

    /// What a claim's key is about.
    pub fn of_key(key: &str) -> Option<Self> {
        let key = key.strip_prefix(PREFIX)?;
        let port = || key.strip_prefix(PORTS)?.parse().ok().map(Self::Port);
        port().or_else(|| key.strip_prefix(ADDRESSES)?.parse().ok().map(Self::Address))
    }
}

/// All that a Service has: one port number is one claim, whatever its protocols.
fn held(service: Option<&Value>) -> BTreeSet<Held> {
    let spec = service.map_or(&Value::Null, |s| &s["spec"]);
    let number = |n: &Value| n.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    let of_ports = items(spec, "ports").iter().filter_map(|p| number(&p["nodePort"]));
    let health = number(&spec["healthCheckNodePort"]).filter(|_| text(spec, "type") == "LoadBalancer");
    let ports = of_ports.chain(health).map(Held::Port);
    ports.chain(service.into_iter().flat_map(super::addresses).map(Held::Address)).collect()
}

fn claim(what: Held, service: &Value) -> Op {
    let owner = format!("{}/{}", object::namespace(service), object::name(service));
    let value = Stamped { bytes: owner.into_bytes(), stamp: None };
    Op::Put { key: what.key(), value, expect: Expect::Absent }
}

/// What has to be written with the change of a Service from `old` to `new`.
pub fn of(new: Option<&Value>, old: Option<&Value>) -> Vec<Op> {
    let (had, has) = (held(old), held(new));
    let made = new.into_iter().flat_map(|new| has.difference(&had).map(|h| claim(*h, new)));
    let gone = had.difference(&has).map(|h| Op::Delete { key: h.key(), last: None, expect: Expect::Any });
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
            tracing::warn!(%error, "not all that stored Services have could be claimed");
        }
    }
}

/// Keeps the pools in step with the claims of all servers, until cancelled.
pub async fn follow(services: Arc<Services>, store: Arc<dyn Store>, cancel: CancellationToken) {
    loop {
        let Ok(page) = store.list(&Range { prefix: PREFIX, ..Range::default() }) else { return };
        services.only_claimed(page.entries.iter().filter_map(|e| Held::of_key(&e.key)));
        let Ok(mut watcher) = store.watch(PREFIX, page.revision) else { continue };
        loop {
            let watched = tokio::select! {
                () = cancel.cancelled() => return,
                watched = watcher.next() => watched,
            };
            match watched {
                Watched::Events(events) => {
                    for event in events {
                        let Some(what) = Held::of_key(&event.key) else { continue };
                        services.claimed(what, matches!(event.change, Change::Put(_)));
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
        assert_eq!(shown(of(Some(&health), None)), [(at(30_009), true)]);
        assert_eq!(Held::of_key(&at(30_001)), Some(Held::Port(30_001)));
        assert_eq!(Held::of_key("/registry/ranges/servicenodeports/x"), None);
        let mut addressed = service(&[]);
        addressed["spec"]["clusterIPs"] = json!(["10.0.0.1", "fd00::1"]);
        let ip = |ip: &str| format!("/registry/ranges/serviceips/{ip}");
        assert_eq!(shown(of(Some(&addressed), None)), [(ip("10.0.0.1"), true), (ip("fd00::1"), true)]);
        assert_eq!(Held::of_key(&ip("fd00::1")), "fd00::1".parse().ok().map(Held::Address));
    }
}
