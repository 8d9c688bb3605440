//! Services and the IPAddresses of their addresses name each other; what does not is mended, and told.
//!
//! upstream: `pkg/registry/core/service/ipallocator/controller/repairip.go`

use super::{FAMILY, MANAGED_BY, MANAGER, family, is_managed, with_address};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Flavor, Recorder, reference};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::ip;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "ipallocator-repair-controller";
/// Upstream: `workers`, of each of its two queues.
const WORKERS: usize = 5;
/// Upstream: `RepairServicesInterval`.
const EVERY: Duration = Duration::from_secs(180);
/// The longest that a request runs: as long an address can be there before its Service is.
const REQUEST: Duration = Duration::from_secs(60);
/// Pause while there is no range at all, at the start of a cluster.
const NO_RANGE: Duration = Duration::from_millis(100);
/// Time for a failed write to give its address back.
const UNDONE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Service(ObjectKey),
    Address(String),
}

/// What is told of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    reason: &'static str,
    action: &'static str,
    text: String,
}

/// What the IPAddress of a Service's address needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    Nothing,
    Create,
    Recreate,
}

/// What is known of one address of a Service.
struct Claim<'a> {
    service: &'a Service,
    ip: IpAddr,
    ranges: &'a [Arc<ServiceCIDR>],
    address: Option<&'a IPAddress>,
    /// The Service that the address names.
    named: Option<&'a Service>,
}

fn allocation(reason: &'static str, text: String) -> Option<Note> {
    Some(Note { reason, action: "ClusterIPAllocation", text })
}

/// Pure (upstream: `syncService`).
fn judge(c: &Claim<'_>) -> (Mend, Option<Note>) {
    let (family, ip) = (family(c.ip.is_ipv4()), c.ip);
    let (ns, name) = (c.service.namespace(), c.service.name());
    if with_address(c.ranges, ip).next().is_none() {
        let text = format!(
            "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
        );
        return (Mend::Nothing, allocation("ClusterIPOutOfRange", text));
    }
    let Some(address) = c.address else {
        let text = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        return (Mend::Create, allocation("ClusterIPNotAllocated", text));
    };
    let wrong = || {
        let text = format!(
            "the ClusterIP [{family}]: {ip} for Service {ns}/{name} has a wrong reference; repairing"
        );
        (Mend::Recreate, allocation("ClusterIPNotAllocated", text))
    };
    let parent = &address.spec.parent_ref;
    if !is_service(parent) {
        return wrong();
    }
    let mut note = None;
    if parent.namespace.as_deref().unwrap_or("") != ns || parent.name != name {
        let Some(named) = c.named else { return wrong() };
        if addresses_of(named).any(|a| a == address.name()) {
            let text = format!(
                "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
            );
            note = allocation("ClusterIPAlreadyAllocated", text);
        }
    }
    let labels = address.label(FAMILY) == Some(family) && is_managed(address);
    (if labels { Mend::Nothing } else { Mend::Recreate }, note)
}

/// What becomes of an address that the allocator made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Wait(Duration),
    Delete(Note),
}

/// Pure (upstream: `syncIPAddress`).
fn fate(address: &IPAddress, service: Option<&Service>, now: Timestamp) -> Fate {
    let gone = |reason, text| Fate::Delete(Note { reason, action: "IPAddressAllocation", text });
    let (name, parent) = (address.name(), &address.spec.parent_ref);
    if !is_managed(address) {
        return Fate::Stays;
    }
    if !is_service(parent) {
        let (group, ns) = (parent.group.as_deref(), parent.namespace.as_deref());
        let text = format!(
            "IPAddress {name} appears to have been modified, not referencing a Service &ParentReference{{Group:{},Resource:{},Namespace:{},Name:{},}}: cleaning up",
            group.unwrap_or(""),
            parent.resource,
            ns.unwrap_or(""),
            parent.name
        );
        return gone("IPAddressNotAllocated", text);
    }
    let (ns, of) = (parent.namespace.as_deref().unwrap_or(""), &parent.name);
    let made = created(&address.metadata).unwrap_or(now);
    let age = Duration::try_from(now.duration_since(made)).unwrap_or_default();
    let Some(service) = service else {
        // it is made before its Service is
        if age <= REQUEST {
            return Fate::Wait((REQUEST - age).max(Duration::from_secs(1)));
        }
        let text = format!("IPAddress: {name} for Service {ns}/{of} appears to have leaked: cleaning up");
        return gone("IPAddressNotAllocated", text);
    };
    if addresses_of(service).any(|a| a == name) {
        return Fate::Stays;
    }
    let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    if external && age < REQUEST {
        // it may be about to get addresses
        return Fate::Wait(REQUEST - age);
    }
    let after = created(&service.metadata).is_some_and(|s| made > s);
    if after && age < UNDONE {
        return Fate::Wait(UNDONE);
    }
    let text = format!("IPAddress: {name} for Service {ns}/{of} has a wrong reference; cleaning up");
    gone("IPAddressWrongReference", text)
}

fn created(meta: &ObjectMeta) -> Option<Timestamp> {
    meta.creation_timestamp.as_ref().map(|t| t.0)
}

fn is_service(parent: &ParentReference) -> bool {
    parent.group.as_deref().unwrap_or("").is_empty() && parent.resource == "services"
}

fn addresses_of(service: &Service) -> impl Iterator<Item = &str> {
    let list = service.spec.as_ref().and_then(|s| s.cluster_ips.as_deref()).unwrap_or_default();
    list.iter().map(String::as_str)
}

/// Whether it has addresses of its own (upstream: `IsServiceIPSet`).
fn has_addresses(service: &Service) -> bool {
    let first = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
    !matches!(first, "" | "None")
}

fn new_address(ip: IpAddr, service: &Service) -> IPAddress {
    let labels = [(FAMILY, family(ip.is_ipv4())), (MANAGED_BY, MANAGER)];
    let parent_ref = ParentReference {
        group: None,
        resource: "services".into(),
        namespace: Some(service.namespace().to_owned()),
        name: service.name().to_owned(),
    };
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec { parent_ref },
    }
}

struct Repair {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    clock: SharedClock,
}

pub(super) fn start(setup: &Setup) -> Handle {
    let (services, ranges) = (setup.informers.of::<Service>(), setup.informers.of::<ServiceCIDR>());
    let addresses = setup.informers.of::<IPAddress>();
    let client = setup.system.clone();
    let this = Repair {
        recorder: Recorder::new(client.clone(), NAME, "", Flavor::Events, setup.clock.clone()),
        client,
        services: services.clone(),
        ranges: ranges.clone(),
        addresses: addresses.clone(),
        clock: setup.clock.clone(),
    };
    let (all_services, all_addresses) = (services.store().clone(), addresses.store().clone());
    Controller::new(NAME, Arc::new(this), setup.clock.clone())
        .workers(2 * WORKERS)
        .needs(&ranges)
        .watches(&services, |c, q| {
            let new = c.new.iter().filter(|s| has_addresses(s));
            new.for_each(|s| q.add(Work::Service(ObjectKey::of(&**s))));
        })
        .watches(&addresses, |c, q| {
            c.new.iter().for_each(|a| q.add(Work::Address(a.name().to_owned())));
        })
        .resync(EVERY, move || {
            let services = all_services.list().into_iter().map(|s| Work::Service(ObjectKey::of(&*s)));
            let addresses = all_addresses.list().into_iter().map(|a| Work::Address(a.name().to_owned()));
            services.chain(addresses).collect()
        })
        .start(setup.cancel.clone())
}

impl Repair {
    fn tell(&self, about: &ObjectReference, note: Option<Note>) {
        if let Some(note) = note {
            self.recorder.action(about, EventType::Warning, note.reason, note.action, note.text);
        }
    }

    /// The IPAddress, from the server itself where our copy lacks it: a new Service's may only be on its way.
    async fn address(&self, ip: IpAddr) -> Result<Option<IPAddress>, Error> {
        let name = ip.to_string();
        if let Some(known) = self.addresses.store().get("", &name) {
            return Ok(Some((*known).clone()));
        }
        match self.client.get::<IPAddress>("", &name).await {
            Err(e) if e.is_not_found() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    async fn service(&self, service: &Service) -> Result<(), Error> {
        let ranges = self.ranges.store().list();
        for text in addresses_of(service) {
            let Some(ip) = ip::parse(text) else {
                let text = "Cluster IP <nil> is not a valid IP; please recreate Service".to_owned();
                let note = Note { reason: "ClusterIPNotValid", action: "ClusterIPValidation", text };
                self.tell(&reference(service), Some(note));
                continue;
            };
            let address = self.address(ip).await?;
            let named = address.as_ref().and_then(|a| {
                let parent = &a.spec.parent_ref;
                self.services.store().get(parent.namespace.as_deref().unwrap_or(""), &parent.name)
            });
            let claim =
                Claim { service, ip, ranges: &ranges, address: address.as_ref(), named: named.as_deref() };
            let (mend, note) = judge(&claim);
            self.tell(&reference(service), note);
            if mend == Mend::Recreate {
                self.delete(&ip.to_string()).await?;
            }
            if mend != Mend::Nothing {
                self.client.create(&new_address(ip, service)).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.client.delete::<IPAddress>("", name, &DeleteOptions::default()).await {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Reconcile for Repair {
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<After, Error> {
        match work {
            Work::Service(key) => {
                // the default range is awaited (upstream: `RunUntil`)
                if self.ranges.store().is_empty() {
                    return Ok(After::Again(NO_RANGE));
                }
                let service = self.services.store().get(&key.namespace, &key.name);
                if let Some(service) = service.filter(|s| has_addresses(s)) {
                    self.service(&service).await?;
                }
            }
            Work::Address(name) => {
                let Some(address) = self.addresses.store().get("", name) else { return Ok(After::Done) };
                let parent = &address.spec.parent_ref;
                let ns = parent.namespace.as_deref().unwrap_or("");
                let service = self.services.store().get(ns, &parent.name);
                match fate(&address, service.as_deref(), self.clock.now()) {
                    Fate::Stays => {}
                    Fate::Wait(time) => return Ok(After::Again(time)),
                    Fate::Delete(note) => {
                        self.tell(&reference(&*address), Some(note));
                        self.delete(name).await?;
                    }
                }
            }
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, range, service};
    use super::*;

    fn judged(service: &Service, address: Option<&IPAddress>, named: Option<&Service>) -> (Mend, String) {
        let ranges = [Arc::new(range("kubernetes", &["10.0.0.0/16"]))];
        let ip = addresses_of(service).next().unwrap().parse().unwrap();
        let (mend, note) = judge(&Claim { service, ip, ranges: &ranges, address, named });
        (mend, note.map_or(String::new(), |n| format!("{}: {}", n.reason, n.text)))
    }

    #[test]
    fn a_service_has_its_address() {
        let own = service("n", "s", "10.0.0.5");
        let good = address("10.0.0.5", "n", "s");
        assert_eq!(judged(&own, Some(&good), Some(&own)), (Mend::Nothing, String::new()));
        assert_eq!(
            judged(&own, None, None),
            (
                Mend::Create,
                "ClusterIPNotAllocated: Cluster IP [IPv4]: 10.0.0.5 is not allocated; repairing".into()
            )
        );
        let mut unlabelled = good.clone();
        unlabelled.metadata.labels = None;
        assert_eq!(judged(&own, Some(&unlabelled), Some(&own)).0, Mend::Recreate);
        let other = address("10.0.0.5", "n", "other");
        assert_eq!(
            judged(&own, Some(&other), None),
            (
                Mend::Recreate,
                "ClusterIPNotAllocated: the ClusterIP [IPv4]: 10.0.0.5 for Service n/s has a wrong reference; repairing".into()
            )
        );
        let twin = service("n", "other", "10.0.0.5");
        assert_eq!(
            judged(&own, Some(&other), Some(&twin)),
            (
                Mend::Nothing,
                "ClusterIPAlreadyAllocated: Cluster IP [IPv4]:10.0.0.5 was assigned to multiple services; please recreate service".into()
            )
        );
        let outside = service("n", "s", "10.9.0.5");
        assert_eq!(
            judged(&outside, None, None),
            (
                Mend::Nothing,
                "ClusterIPOutOfRange: Cluster IP [IPv4]: 10.9.0.5 is not within any configured Service CIDR; please recreate service".into()
            )
        );
    }

    #[test]
    fn an_address_without_a_service_goes_after_a_minute() {
        let at = |s: i64| Timestamp::from_second(1_767_225_600 + s).unwrap();
        let leaked = address("10.0.0.5", "n", "s");
        assert_eq!(fate(&leaked, None, at(20)), Fate::Wait(Duration::from_secs(40)));
        let Fate::Delete(note) = fate(&leaked, None, at(61)) else { panic!("goes") };
        assert_eq!(
            (note.reason, note.text.as_str()),
            (
                "IPAddressNotAllocated",
                "IPAddress: 10.0.0.5 for Service n/s appears to have leaked: cleaning up"
            )
        );
        let has = service("n", "s", "10.0.0.5");
        assert_eq!(fate(&leaked, Some(&has), at(61)), Fate::Stays);
        let has_not = service("n", "s", "10.0.0.6");
        assert!(
            matches!(fate(&leaked, Some(&has_not), at(61)), Fate::Delete(n) if n.reason == "IPAddressWrongReference")
        );
        let mut external = has_not.clone();
        external.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
        assert_eq!(fate(&leaked, Some(&external), at(50)), Fate::Wait(Duration::from_secs(10)));
        let mut gateway = leaked.clone();
        gateway.spec.parent_ref.resource = "gateways".into();
        let Fate::Delete(note) = fate(&gateway, None, at(0)) else { panic!("goes") };
        assert!(note.text.contains("&ParentReference{Group:,Resource:gateways,Namespace:n,Name:s,}"));
        gateway.metadata.labels = None;
        assert_eq!(fate(&gateway, None, at(1000)), Fate::Stays, "somebody else's");
    }
}
