//! The endpoints of the Service `kubernetes` where several API servers serve one cluster: each says by a lease of its own
//! that it is there, and each brings the endpoints to those that are.
//!
//! The leases are upstream's identity leases, with the addresses added (upstream: `pkg/controlplane/apiserver/server.go`,
//! `pkg/controlplane/reconcilers/lease.go`, which keeps addresses in keys of etcd that end by themselves). Invariant: a
//! server whose lease was not seen to change for [`GONE_AFTER`] has no endpoint; clocks of two machines are compared only
//! at the first look.

use super::bootstrap;
use base::clock::SharedClock;
use client::Client;
use controllers::apiserver_lease::{self, Identity};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use meta::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ADDRESSES: &str = "taffrail.io/advertise-addresses";
/// upstream: `IdentityLeaseRenewIntervalPeriod`, and `DefaultEndpointReconcilerInterval`.
const EVERY: Duration = Duration::from_secs(10);
/// upstream: `DefaultEndpointReconcilerTTL`.
const GONE_AFTER: Duration = Duration::from_secs(15);
/// By how much clocks may differ for a lease to count at the first look.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_secs(60);

/// A server's lease as it was last seen to change.
#[derive(Clone, Debug)]
struct Seen {
    renewed: Option<Timestamp>,
    /// On this machine's clock; `None`: it was old already at the first look.
    at: Option<Duration>,
}

/// This server among the others.
pub struct Presence {
    client: Client,
    clock: SharedClock,
    lease: Identity,
    port: u16,
    /// The family of the Service's address.
    v4: bool,
    seen: BTreeMap<String, Seen>,
}

impl Presence {
    /// `lease` is this server's, `addresses` are where it is reached, the primary family first.
    pub fn new(
        client: Client,
        clock: SharedClock,
        mut lease: Identity,
        (addresses, port): (&[IpAddr], u16),
        v4: bool,
    ) -> Self {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        lease.annotations.insert(ADDRESSES.to_owned(), addresses.join(","));
        Self { client, clock, lease, port, v4, seen: BTreeMap::new() }
    }

    /// Renews and looks until cancelled, and then takes this server out.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "the endpoints of the Service kubernetes were not looked after");
            }
        }
        let done = match self.lease.end().await {
            Ok(()) => self.reconcile().await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "this server's endpoint stays until the others miss it");
        }
    }

    /// Says that this server is there, and brings the endpoints to those that are.
    pub async fn round(&mut self) -> Result<(), Status> {
        self.lease.renew().await?;
        self.reconcile().await
    }

    async fn reconcile(&mut self) -> Result<(), Status> {
        let leases = apiserver_lease::all(&self.client).await?;
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let there = live(&mut self.seen, &leases, now, wall);
        apiserver_lease::collect(&self.client, &leases, wall).await?;
        let there: BTreeSet<IpAddr> = there.into_iter().filter(|ip| ip.is_ipv4() == self.v4).collect();
        // An endpoint may not be a loopback address: a machine with no other has none.
        let mut there: Vec<IpAddr> = there.into_iter().filter(|ip| !ip.is_loopback()).collect();
        there.sort_by_key(ToString::to_string);
        bootstrap::endpoints(&self.client, self.v4, &there, self.port).await
    }
}

/// The addresses of the servers that are there.
fn live(seen: &mut BTreeMap<String, Seen>, leases: &[Lease], now: Duration, wall: Timestamp) -> Vec<IpAddr> {
    let mut out = Vec::new();
    let mut next = BTreeMap::new();
    for lease in leases {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let renewed = renewed(lease);
        let fresh = renewed.is_some_and(|r| wall.duration_since(r).abs() < CLOCKS_DIFFER_MAX);
        let at = match seen.get(&name) {
            Some(old) if old.renewed == renewed => old.at,
            Some(_) => Some(now),
            None => fresh.then_some(now),
        };
        if at.is_some_and(|at| now < at + GONE_AFTER) {
            let listed = lease.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESSES));
            out.extend(
                listed.into_iter().flat_map(|l| l.split(',')).filter_map(|a| a.parse::<IpAddr>().ok()),
            );
        }
        next.insert(name, Seen { renewed, at });
    }
    *seen = next;
    out
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|t| t.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

    fn lease(name: &str, address: &str, renewed: i64) -> Lease {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some([(ADDRESSES.to_owned(), address.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let renew_time = Some(MicroTime(at(renewed)));
        Lease { metadata, spec: Some(LeaseSpec { renew_time, ..LeaseSpec::default() }) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    #[test]
    fn who_renews_is_there_and_who_does_not_is_not() {
        let s = Duration::from_secs;
        let mut seen = BTreeMap::new();
        let mut look = |leases: &[Lease], now: u64, wall: i64| -> Vec<String> {
            live(&mut seen, leases, s(now), at(wall)).iter().map(ToString::to_string).collect()
        };
        let (a, b) = (lease("a", "10.0.0.1,fd00::1", 0), lease("b", "10.0.0.2", -500));
        assert_eq!(look(&[a.clone(), b.clone()], 0, 5), ["10.0.0.1", "fd00::1"], "b is old");
        // b renews, by a clock that is far behind.
        let b = lease("b", "10.0.0.2", -490);
        assert_eq!(look(&[a.clone(), b.clone()], 10, 15), ["10.0.0.1", "fd00::1", "10.0.0.2"]);
        assert_eq!(look(&[a.clone(), b.clone()], 20, 25), ["10.0.0.2"], "a is gone");
        assert_eq!(look(&[lease("a", "10.0.0.1", 30), b], 30, 35), ["10.0.0.1"], "a is back, b gone");
    }
}
