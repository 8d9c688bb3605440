//! Service addresses: each is an IPAddress object, and whoever makes the object has the address
//! (upstream: `pkg/registry/core/service/ipallocator`).
//!
//! Nothing is remembered: which ranges there are and which addresses are taken is read from the store at every turn,
//! and written through the API as the API server itself, so that several servers of one store give no address twice.

use admission::Loopback;
use base::rng::Rng;
use client::Client;
use http::Method;
use kinds::ip::{self, Cidr};
use kinds::validate::{items, text};
use meta::object;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use store::Store;

const GROUP: &str = "networking.k8s.io";
const COLLECTION: &str = "/apis/networking.k8s.io/v1/ipaddresses";
/// Whose addresses the repair loop and the ranges' controller look after (upstream: `ipallocator.ControllerName`).
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// Addresses that are asked for one by one before all that are taken are read at once.
const PROBES_MAX: usize = 64;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    Taken,
    /// No ready range has the address.
    NoRange,
    NotReady,
    OutOfRange(IpAddr, Cidr),
    /// What the API said to the object.
    Api(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("range is full"),
            Self::Taken => f.write_str("provided IP is already allocated"),
            Self::NoRange => f.write_str("the provided network does not match the current range"),
            Self::NotReady => f.write_str("allocator not ready"),
            Self::OutOfRange(ip, range) => write!(
                f,
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
            ),
            Self::Api(text) => f.write_str(text),
        }
    }
}

/// For whom an address is.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// A range of ServiceCIDRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Served {
    cidr: Cidr,
    ready: bool,
}

pub struct Addresses {
    store: Arc<dyn Store>,
    loopback: Loopback,
    /// Where ServiceCIDRs and IPAddresses are kept.
    ranges_prefix: String,
    addresses_prefix: String,
    rng: Arc<Rng>,
}

impl Addresses {
    pub fn new(store: Arc<dyn Store>, loopback: Loopback, rng: Arc<Rng>) -> Self {
        let rows = kinds::table();
        let prefix = |plural: &str| {
            let row = rows.iter().find(|r| r.group == GROUP && r.plural == plural);
            row.map(|r| r.key_prefix()).unwrap_or_default()
        };
        let (ranges_prefix, addresses_prefix) = (prefix("servicecidrs"), prefix("ipaddresses"));
        Self { store, loopback, ranges_prefix, addresses_prefix, rng }
    }

    /// Takes an address that was asked for.
    pub async fn take(&self, parent: Parent<'_>, ip: IpAddr) -> Result<(), Refused> {
        let ranges = self.ranges();
        if !ranges.iter().any(|r| r.ready && r.cidr.serves(ip)) {
            return Err(Refused::NoRange);
        }
        self.make(parent, ip).await
    }

    /// Takes any free address of a family.
    pub async fn take_any(&self, parent: Parent<'_>, v4: bool) -> Result<IpAddr, Refused> {
        let ranges: Vec<Cidr> = self.ready(v4).collect();
        let first = self.rng.below(ranges.len().max(1) as u64) as usize;
        for at in 0..ranges.len() {
            match self.take_any_of(parent, ranges[(first + at) % ranges.len()]).await {
                Err(Refused::Full | Refused::NotReady) => {}
                other => return other,
            }
        }
        Err(Refused::Full)
    }

    async fn take_any_of(&self, parent: Parent<'_>, range: Cidr) -> Result<IpAddr, Refused> {
        let mut all: Option<HashSet<IpAddr>> = None;
        for (tried, ip) in walk(range, |bound| self.rng.below(bound)).enumerate() {
            if tried == PROBES_MAX {
                all = Some(self.taken());
            }
            let is_taken = match &all {
                Some(all) => all.contains(&ip),
                None => self.store.get(&self.key(ip)).is_some(),
            };
            if is_taken {
                continue;
            }
            match self.make(parent, ip).await {
                // another was faster
                Err(Refused::Taken) => {}
                Err(e) => return Err(e),
                Ok(()) => return Ok(ip),
            }
        }
        Err(Refused::Full)
    }

    /// What [`Self::take`] would say, as far as a dry run looks (upstream: `allocateService`).
    pub fn could_take(&self, ip: IpAddr) -> Result<(), Refused> {
        let range = self.ready(ip.is_ipv4()).next().ok_or(Refused::NotReady)?;
        if range.serves(ip) { Ok(()) } else { Err(Refused::OutOfRange(ip, range)) }
    }

    /// The address that a dry run tells: a range's own, which no Service has.
    pub fn could_take_any(&self, v4: bool) -> Result<IpAddr, Refused> {
        self.ready(v4).next().map(|r| r.network()).ok_or(Refused::NotReady)
    }

    /// Gives an address back. What cannot be given back is the repair loop's.
    pub async fn release(&self, ip: IpAddr) {
        let Some(client) = self.client() else { return };
        if let Err(e) = client.raw(Method::DELETE, &format!("{COLLECTION}/{ip}"), None).await
            && !e.is_not_found()
        {
            tracing::info!(target: "apiserver", %ip, "address not released: {e}");
        }
    }

    async fn make(&self, parent: Parent<'_>, ip: IpAddr) -> Result<(), Refused> {
        let client = self.client().ok_or(Refused::NotReady)?;
        let family = if ip.is_ipv4() { super::families::V4 } else { super::families::V6 };
        let labels = json!({
            "ipaddress.kubernetes.io/ip-family": family,
            "ipaddress.kubernetes.io/managed-by": MANAGED_BY,
        });
        let reference = json!({"resource": "services", "namespace": parent.namespace, "name": parent.name});
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": ip.to_string(), "labels": labels},
            "spec": {"parentRef": reference},
        });
        match client.raw(Method::POST, COLLECTION, Some(&object)).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_already_exists() => Err(Refused::Taken),
            Err(e) => Err(Refused::Api(e.message)),
        }
    }

    fn client(&self) -> Option<&Client> {
        self.loopback.get()
    }

    fn key(&self, ip: IpAddr) -> String {
        format!("{}{ip}", self.addresses_prefix)
    }

    fn taken(&self) -> HashSet<IpAddr> {
        let range = store::Range { prefix: &self.addresses_prefix, ..store::Range::default() };
        let entries = self.store.list(&range).map(|page| page.entries).unwrap_or_default();
        let names = entries.iter().filter_map(|e| e.key.strip_prefix(self.addresses_prefix.as_str()));
        names.filter_map(|name| name.parse().ok()).collect()
    }

    fn ranges(&self) -> Vec<Served> {
        let range = store::Range { prefix: &self.ranges_prefix, ..store::Range::default() };
        let entries = self.store.list(&range).map(|page| page.entries).unwrap_or_default();
        let objects: Vec<Value> =
            entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
        served(&objects)
    }

    /// The range that an address is of: the narrowest ready one.
    pub fn range_of(&self, ip: IpAddr) -> Option<Cidr> {
        let ready = self.ready(ip.is_ipv4()).filter(|r| r.serves(ip));
        ready.max_by_key(|r| r.bits)
    }

    /// Of each ready range, how many addresses are taken, and how many are not.
    pub fn usage(&self) -> Vec<(Cidr, u64, u64)> {
        let taken = self.taken();
        let of = |range: Cidr| {
            let used = taken.iter().filter(|ip| range.contains(**ip)).count() as u64;
            let size = u64::try_from(usable(range)).unwrap_or(u64::MAX);
            (range, used, size.saturating_sub(used))
        };
        self.ranges().into_iter().filter(|r| r.ready).map(|r| of(r.cidr)).collect()
    }

    pub fn ready(&self, v4: bool) -> impl Iterator<Item = Cidr> {
        self.ranges().into_iter().filter(move |r| r.ready && r.cidr.is_ipv4() == v4).map(|r| r.cidr)
    }
}

/// The ranges of all ServiceCIDRs, each once: it is ready if one of those that name it is (upstream: `syncAllocators`).
fn served(objects: &[Value]) -> Vec<Served> {
    let mut out: Vec<Served> = Vec::new();
    for object in objects {
        let ready = is_ready(object) && !object::is_deleting(object);
        let cidrs = items(&object["spec"], "cidrs").iter().filter_map(|c| ip::parse_cidr(c.as_str()?));
        // upstream: `NewIPAllocator` takes no IPv6 range that is wider
        for cidr in cidrs.filter(|c| c.is_ipv4() || c.bits >= 64) {
            match out.iter_mut().find(|r| r.cidr == cidr) {
                Some(known) => known.ready |= ready,
                None => out.push(Served { cidr, ready }),
            }
        }
    }
    out
}

/// A range that nobody judged yet counts as ready.
fn is_ready(object: &Value) -> bool {
    let conditions = items(&object["status"], "conditions");
    conditions.iter().find(|c| text(c, "type") == "Ready").is_none_or(|c| text(c, "status") == "True")
}

/// How many addresses of a range Services may have.
fn usable(range: Cidr) -> u128 {
    let unusable = if range.is_ipv4() { 2 } else { 1 };
    range.last_offset().saturating_add(1).saturating_sub(unusable)
}

/// All addresses of a range that a Service may have, each once: from anywhere in the upper part round, then from
/// anywhere in the lower, which is for addresses that people choose (upstream: `allocateNextService`).
fn walk(range: Cidr, below: impl Fn(u64) -> u64) -> impl Iterator<Item = IpAddr> {
    // offsets from the first usable address
    let size = usable(range);
    let low = reserved(range.last_offset().saturating_add(1)).min(size);
    let start = |count: u128| u128::from(below(u64::try_from(count).unwrap_or(u64::MAX).max(1)));
    let parts = [(low, size - low), (0, low)].map(|(from, count)| (from, count, start(count)));
    let offsets = parts
        .into_iter()
        .flat_map(|(from, count, start)| (0..count).map(move |n| from + (start + n) % count));
    offsets.map(move |n| range.nth(n + 1))
}

/// How many addresses at the start of a range are given only when asked for (upstream: `calculateRangeOffset`).
fn reserved(size: u128) -> u128 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(name: &str, cidrs: &[&str], ready: Option<&str>) -> Value {
        let conditions: Vec<Value> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}, "status": {"conditions": conditions}})
    }

    #[test]
    fn a_range_is_ready_while_one_that_names_it_is() {
        let mut going = cidr("c", &["10.2.0.0/16"], Some("True"));
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let all = [
            cidr("a", &["10.0.0.0/16", "fd00::/112"], Some("False")),
            cidr("b", &["10.0.0.0/16"], None),
            going,
            cidr("d", &["fd00::/48"], None),
        ];
        let shown: Vec<(String, bool)> = served(&all).iter().map(|r| (r.cidr.to_string(), r.ready)).collect();
        let expected = [("10.0.0.0/16", true), ("fd00::/112", false), ("10.2.0.0/16", false)];
        assert_eq!(shown, expected.map(|(c, r)| (c.to_owned(), r)));
    }

    #[test]
    fn every_address_once_and_the_low_ones_last() {
        let all: Vec<IpAddr> = walk(ip::parse_cidr("10.0.0.0/24").unwrap(), |b| b / 2).collect();
        let distinct: HashSet<&IpAddr> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (254, 254));
        assert!(all[..238].iter().all(|ip| *ip > "10.0.0.16".parse::<IpAddr>().unwrap()));
        assert!(!all.contains(&"10.0.0.255".parse().unwrap()));
        let tiny: Vec<IpAddr> = walk(ip::parse_cidr("10.0.0.0/30").unwrap(), |_| 0).collect();
        assert_eq!(tiny.len(), 2);
        assert_eq!(walk(ip::parse_cidr("10.0.0.0/32").unwrap(), |_| 0).count(), 0);
        let wide = walk(ip::parse_cidr("fd00::/64").unwrap(), |b| b - 1).next().unwrap();
        assert!(ip::parse_cidr("fd00::/64").unwrap().contains(wide), "{wide}");
    }
}
