//! A ServiceCIDR says whether it is ready, and stays until no address needs it.
//!
//! Invariant: an address of a Service is always in some range that is there.
//! upstream: `pkg/controller/servicecidrs/servicecidrs_controller.go`

use super::{FAMILY, READY, cidrs_of, family, is_managed, ready, with_address};
use crate::common::time;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, Kind, Patch};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Upstream: `startServiceCIDRsController`.
const WORKERS: usize = 5;
/// Time from a deletion until the allocators of all API servers surely know of it.
const GRACE: Duration = Duration::from_secs(10);

/// What a range that is to go waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Addresses.
    Blocked,
    Wait(Duration),
    Free,
}

/// Pure. `addresses` are all that there are.
fn ending(
    range: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: &[Arc<IPAddress>],
    now: Timestamp,
) -> Ending {
    if !can_go(range, all, addresses) {
        return Ending::Blocked;
    }
    let since = range.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match GRACE.saturating_sub(passed) {
        Duration::ZERO => Ending::Free,
        left => Ending::Wait(left),
    }
}

/// Whether other ranges have all of this one's addresses, or it has none of its own (upstream: `canDeleteCIDR`).
fn can_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let covered = |own: &kinds::ip::Cidr| {
        let mut covering = all.iter().filter(|o| cidrs_of(o).any(|c| c.covers(own)));
        covering.any(|o| o.name() != range.name())
    };
    if cidrs_of(range).all(|own| covered(&own)) {
        return true;
    }
    let families: Vec<&str> = cidrs_of(range).map(|c| family(c.is_ipv4())).collect();
    let counted =
        |a: &&Arc<IPAddress>| is_managed(a) && a.label(FAMILY).is_some_and(|f| families.contains(&f));
    !addresses.iter().filter(counted).any(|address| {
        let Ok(ip) = address.name().parse() else { return false };
        let mut of = with_address(all, ip);
        of.next().is_some_and(|o| o.name() == range.name()) && of.next().is_none()
    })
}

fn condition(is_ready: bool, now: Timestamp) -> Condition {
    let (status, reason, message) = match is_ready {
        true => ("True", "", "Kubernetes Service CIDR is ready"),
        false => (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        ),
    };
    Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: time(now),
        observed_generation: None,
    }
}

struct Ranges {
    client: Client,
    recorder: Recorder,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    clock: SharedClock,
}

pub(super) fn start(setup: &Setup) -> Handle {
    let (ranges, addresses) = (setup.informers.of::<ServiceCIDR>(), setup.informers.of::<IPAddress>());
    let client = setup.client("service-cidrs-controller");
    let this = Ranges {
        recorder: setup.recorder(&client, NAME),
        client,
        ranges: ranges.clone(),
        addresses: addresses.clone(),
        clock: setup.clock.clone(),
    };
    let (near, of) = (ranges.store().clone(), ranges.store().clone());
    Controller::new(NAME, Arc::new(this), setup.clock.clone())
        .workers(WORKERS)
        .watches(&ranges, move |c, q| {
            let Some(range) = c.latest() else { return };
            q.add(range.name().to_owned());
            // a new range may set others free
            if c.old.is_none() {
                let overlaps = |o: &ServiceCIDR| cidrs_of(o).any(|a| cidrs_of(range).any(|b| a.overlaps(&b)));
                near.list().iter().filter(|o| overlaps(o)).for_each(|o| q.add(o.name().to_owned()));
            }
        })
        .watches(&addresses, move |c, q| {
            if c.old.is_some() == c.new.is_some() {
                return;
            }
            let Some(address) = c.latest().filter(|a| is_managed(a)) else { return };
            if let Ok(ip) = address.name().parse() {
                with_address(&of.list(), ip).for_each(|o| q.add(o.name().to_owned()));
            }
        })
        .start(setup.cancel.clone())
}

impl Ranges {
    async fn patch(&self, name: &str, subresource: Option<&str>, patch: Patch) -> Result<(), Error> {
        match self.client.patch::<ServiceCIDR>("", name, subresource, patch).await {
            Err(e) if subresource.is_some() || !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Sets the condition where it is another.
    async fn tell(&self, range: &ServiceCIDR, new: Condition) -> Result<(), Error> {
        let same = |old: &Condition| {
            (&old.status, &old.reason, &old.message) == (&new.status, &new.reason, &new.message)
        };
        if ready(range).is_some_and(same) {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": range.name()},
            "status": {"conditions": [new]},
        });
        self.patch(range.name(), Some("status"), Patch::Apply { manager: NAME, object }).await
    }

    async fn end(&self, range: &ServiceCIDR) -> Result<After, Error> {
        let (all, addresses) = (self.ranges.store().list(), self.addresses.store().list());
        match ending(range, &all, &addresses, self.clock.now()) {
            Ending::Blocked => {
                self.tell(range, condition(false, self.clock.now())).await?;
                Ok(After::Done)
            }
            Ending::Wait(left) => Ok(After::Again(left)),
            Ending::Free => {
                if holds(range) {
                    let change: Value = json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]});
                    let patch = Patch::Strategic(json!({"metadata": change}));
                    self.patch(range.name(), None, patch).await?;
                }
                Ok(After::Done)
            }
        }
    }
}

fn holds(range: &ServiceCIDR) -> bool {
    range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

#[async_trait]
impl Reconcile for Ranges {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<After, Error> {
        let Some(range) = self.ranges.store().get("", name) else { return Ok(After::Done) };
        if range.is_deleting() {
            return self.end(&range).await;
        }
        if !holds(&range) {
            let patch = Patch::Strategic(json!({"metadata": {"finalizers": [FINALIZER]}}));
            self.patch(name, None, patch).await?;
        }
        if let Err(e) = self.tell(&range, condition(true, self.clock.now())).await {
            let text = "The ServiceCIDR Status can not be set to Ready=True";
            self.recorder.event(&reference(&*range), EventType::Warning, "KubernetesServiceCIDRError", text);
            return Err(e);
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, range};
    use super::*;

    #[test]
    fn a_range_goes_when_no_address_is_left_without_one() {
        let deleted: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = deleted + Duration::from_secs(4);
        let late = deleted + Duration::from_secs(10);
        let mut going = range("b", &["10.1.0.0/24"]);
        going.metadata.deletion_timestamp = Some(time(deleted));
        let all = [Arc::new(range("a", &["10.0.0.0/16"])), Arc::new(going.clone())];
        let held = [Arc::new(address("10.1.0.5", "n", "s"))];
        assert_eq!(ending(&going, &all, &held, late), Ending::Blocked);
        assert_eq!(ending(&going, &all, &[], now), Ending::Wait(Duration::from_secs(6)));
        assert_eq!(ending(&going, &all, &[], late), Ending::Free);
        // not the allocator's
        let mut foreign = address("10.1.0.5", "n", "s");
        foreign.metadata.labels = None;
        assert_eq!(ending(&going, &all, &[Arc::new(foreign)], late), Ending::Free);
        // a wider one has it, or the same once more
        for other in [range("c", &["10.1.0.0/16"]), range("c", &["10.1.0.0/24"])] {
            let all = [Arc::new(going.clone()), Arc::new(other)];
            assert_eq!(ending(&going, &all, &held, late), Ending::Free);
        }
        // a narrower one that has just this address
        let all = [Arc::new(going.clone()), Arc::new(range("c", &["10.1.0.0/28"]))];
        assert_eq!(ending(&going, &all, &held, late), Ending::Free);
    }
}
