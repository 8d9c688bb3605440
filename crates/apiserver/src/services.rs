//! Service addresses and node ports: handed out with a create, kept in step by updates, taken back by deletes
//! (upstream: `pkg/registry/core/service/storage/alloc.go`).
//!
//! Invariant: what a write takes is given back unless the write is stored, and what it frees stays taken unless it is.
//! Several servers may write to one store: an address is an object there, a node port has a claim ([`claims`]).

mod addresses;
pub mod claims;
mod families;
mod metrics;
mod ports;

use addresses::{Addresses, Parent, Refused};
use admission::Loopback;
use async_trait::async_trait;
use kinds::core::service::{gets_node_ports, has_node_ports, needs_cluster_ip, needs_health_check};
use kinds::ip::{self, Cidr};
use kinds::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::status::{Result, Status};
use metrics::{Metrics, Scope};
use ports::{Operation, Ports};
use registry::{Companion, Taking};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use store::Store;

/// A range of service addresses that the operator names.
#[derive(Clone, Debug)]
pub struct Range(Cidr);

impl Range {
    /// Parses `10.96.0.0/16`.
    pub fn parse(cidr: &str) -> std::result::Result<Self, String> {
        let parsed = ip::parse_cidr(cidr);
        let range = parsed.ok_or_else(|| format!("{cidr:?} is not a CIDR such as 10.96.0.0/16"))?;
        if range.bits > if range.is_ipv4() { 30 } else { 126 } {
            return Err(format!("{cidr:?} is too small a range for Services"));
        }
        if !range.is_ipv4() && range.bits < 64 {
            return Err(format!("{cidr:?} is too wide a range for Services: at least 64 bits are fixed"));
        }
        Ok(Self(range))
    }

    pub fn is_ipv4(&self) -> bool {
        self.0.is_ipv4()
    }

    /// The address at an offset from the first.
    pub fn nth(&self, n: u64) -> IpAddr {
        self.0.nth(u128::from(n))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

pub struct Services {
    /// The cluster's families, the default first.
    families: Vec<&'static str>,
    addresses: Arc<Addresses>,
    ports: Arc<Ports>,
    metrics: Arc<Metrics>,
}

impl Services {
    /// `ranges` are the operator's, the default family's first; addresses come from ServiceCIDRs.
    pub fn new(
        ranges: &[Range],
        node_ports: std::ops::RangeInclusive<u16>,
        store: Arc<dyn Store>,
        loopback: Loopback,
        rng: Arc<base::rng::Rng>,
    ) -> Self {
        let family = |r: &Range| if r.is_ipv4() { families::V4 } else { families::V6 };
        let metrics = Arc::<Metrics>::default();
        Self {
            families: ranges.iter().map(family).collect(),
            addresses: Arc::new(Addresses::new(store, loopback, rng.clone())),
            ports: Arc::new(Ports::new(node_ports, rng, metrics.clone())),
            metrics,
        }
    }

    /// What is given out, and what is left (upstream: `ipallocator/metrics.go`, `portallocator/metrics.go`).
    pub fn metrics(&self, out: &mut String) {
        self.metrics.render(out, &self.addresses, &self.ports);
    }

    /// Marks the ports that stored Services hold.
    pub fn restore<'a>(&self, services: impl IntoIterator<Item = &'a Value>) {
        services.into_iter().for_each(|s| self.ports.restore(held_ports(s)));
    }

    /// A server, maybe another one, gave a node port away, or took it back.
    fn claimed(&self, port: u16, is: bool) {
        if is { self.ports.restore([port]) } else { self.ports.release([port]) }
    }

    /// Nothing but these is claimed. What is being written just now is among those only later, and then is refused to
    /// others by its claim.
    fn only_claimed(&self, ports: HashSet<u16>) {
        self.ports.replace(ports);
    }

    async fn complete(&self, new: &mut Value, old: Option<&Value>, write: &mut Write) -> Result<()> {
        families::settle(new, old, &self.families).map_err(|errors| invalid(new, errors))?;
        match old {
            None => {
                self.all_addresses(new, write).await?;
                if has_node_ports(&new["spec"]) {
                    new_ports(new, &mut write.ports)?;
                }
                if needs_health_check(&new["spec"]) {
                    health_port(new, &mut write.ports)?;
                }
            }
            Some(old) => {
                self.changed_addresses(new, old, write).await?;
                changed_ports(new, old, &mut write.ports)?;
            }
        }
        Ok(())
    }

    /// An address for each family (upstream: `allocClusterIPs`).
    async fn all_addresses(&self, new: &mut Value, write: &mut Write) -> Result<()> {
        let mut ips = object::strings(&new["spec"]["clusterIPs"]);
        if text(&new["spec"], "type") == "ExternalName" || ips.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        let families = object::strings(&new["spec"]["ipFamilies"]);
        ips.resize(families.len().max(ips.len()), String::new());
        new["spec"]["clusterIPs"] = json!(ips);
        for (i, family) in families.iter().enumerate() {
            ips[i] = self.address(new, family, &ips[i], write).await?;
        }
        new["spec"]["clusterIP"] = ips.first().map(String::as_str).unwrap_or_default().into();
        new["spec"]["clusterIPs"] = json!(ips);
        Ok(())
    }

    /// upstream: `updateClusterIPs`
    async fn changed_addresses(&self, new: &mut Value, old: &Value, write: &mut Write) -> Result<()> {
        if families::stays(new, Some(old)) {
            return Ok(());
        }
        let external = |s: &Value| text(&s["spec"], "type") == "ExternalName";
        if external(old) {
            return self.all_addresses(new, write).await;
        }
        let held: Vec<IpAddr> = addresses_of(old).collect();
        if held.is_empty() {
            return Ok(());
        }
        let families = |s: &Value| items(&s["spec"], "ipFamilies").len();
        if external(new) {
            write.freed = held;
        } else if families(old) == 1 && families(new) == 2 {
            let mut ips = object::strings(&new["spec"]["clusterIPs"]);
            ips.resize(ips.len().max(2), String::new());
            new["spec"]["clusterIPs"] = json!(ips);
            let family = new["spec"]["ipFamilies"][1].as_str().unwrap_or_default().to_owned();
            ips[1] = self.address(new, &family, &ips[1], write).await?;
            new["spec"]["clusterIPs"] = json!(ips);
        } else if families(old) == 2 && families(new) == 1 {
            write.freed = held.into_iter().skip(1).collect();
        }
        Ok(())
    }

    /// The address asked for, or any of a family when none is.
    async fn address(&self, new: &Value, family: &str, asked: &str, write: &mut Write) -> Result<String> {
        let parent = Parent { namespace: object::namespace(new), name: object::name(new) };
        let v4 = family == families::V4;
        let refused = |detail: String| {
            let at = Path::new("spec").child("clusterIPs");
            invalid(new, vec![Error::invalid(&at, new["spec"]["clusterIPs"].clone(), detail)])
        };
        if asked.is_empty() {
            let taken = match write.dry_run {
                true => self.addresses.could_take_any(v4),
                false => self.addresses.take_any(parent, v4).await,
            };
            if !write.dry_run {
                let range = |ip: &IpAddr| self.addresses.range_of(*ip);
                match &taken {
                    Ok(ip) => self.metrics.address(range(ip), Scope::Dynamic, true),
                    Err(_) => self
                        .addresses
                        .ready(v4)
                        .for_each(|r| self.metrics.address(Some(r), Scope::Dynamic, false)),
                }
            }
            let ip = taken.map_err(|why| match why {
                Refused::Full => {
                    let name = parent.name;
                    Status::internal(format!("failed to allocate a serviceIP for Service {name:?}: {why}"))
                }
                why => refused(format!("failed to allocate IP: {why}")),
            })?;
            write.took(ip);
            return Ok(ip.to_string());
        }
        let ip = ip::parse(asked)
            .ok_or_else(|| Status::internal(format!("failed to parse service IP {asked:?}")))?;
        let taken = match write.dry_run {
            true => self.addresses.could_take(ip),
            false => self.addresses.take(parent, ip).await,
        };
        if !write.dry_run {
            self.metrics.address(self.addresses.range_of(ip), Scope::Static, taken.is_ok());
        }
        taken.map_err(|why| refused(format!("failed to allocate IP {asked}: {why}")))?;
        write.took(ip);
        Ok(asked.to_owned())
    }
}

#[async_trait]
impl Companion for Services {
    async fn begin(&self, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Box<dyn Taking>> {
        let mut write = Box::new(Write {
            addresses: self.addresses.clone(),
            dry_run,
            taken: Vec::new(),
            freed: Vec::new(),
            ports: Operation::new(self.ports.clone(), dry_run),
        });
        match self.complete(new, old, &mut write).await {
            Ok(()) => Ok(write),
            Err(e) => {
                write.end(false).await;
                Err(e)
            }
        }
    }

    async fn deleted(&self, gone: &Value) {
        self.ports.release(held_ports(gone));
        for ip in addresses_of(gone) {
            self.addresses.release(ip).await;
        }
    }

    fn claims(&self, new: Option<&Value>, old: Option<&Value>) -> Vec<store::Op> {
        claims::of(new, old)
    }

    fn contended(&self, key: &str) {
        if let Some(port) = claims::port(key) {
            self.claimed(port, true);
        }
    }
}

/// What one write takes and frees. Dropped without an end it frees its ports; its addresses are the repair loop's then.
struct Write {
    addresses: Arc<Addresses>,
    dry_run: bool,
    taken: Vec<IpAddr>,
    freed: Vec<IpAddr>,
    ports: Operation,
}

impl Write {
    fn took(&mut self, ip: IpAddr) {
        if !self.dry_run {
            self.taken.push(ip);
        }
    }
}

#[async_trait]
impl Taking for Write {
    async fn end(mut self: Box<Self>, written: bool) {
        self.ports.end(written);
        if self.dry_run {
            return;
        }
        for ip in if written { &self.freed } else { &self.taken } {
            self.addresses.release(*ip).await;
        }
    }
}

/// Node ports of a new Service: entries for one port share theirs, whatever their protocols (upstream: `initNodePorts`).
fn new_ports(new: &mut Value, op: &mut Operation) -> Result<()> {
    let mut given: Vec<(i64, i64)> = Vec::new();
    let gets = gets_node_ports(&new["spec"]);
    for i in 0..items(&new["spec"], "ports").len() {
        let (port, asked) = numbers(&new["spec"]["ports"][i]);
        if asked == 0 && !gets {
            continue;
        }
        let known = given.iter().find(|(p, _)| *p == port).map(|(_, number)| *number);
        let number = match known {
            Some(number) if asked == 0 => number,
            Some(number) if asked == number => continue,
            Some(_) => take_port(new, i, asked, op)?,
            None => {
                let listed = items(&new["spec"], "ports").iter().map(numbers);
                let wanted = listed.filter(|(p, n)| *p == port && *n != 0).map(|(_, n)| n).next();
                let number = match wanted {
                    Some(wanted) => take_port(new, i, wanted, op)?,
                    None => any_port(op)?,
                };
                given.push((port, number));
                number
            }
        };
        new["spec"]["ports"][i]["nodePort"] = number.into();
    }
    Ok(())
}

/// upstream: `txnUpdateNodePorts`
fn changed_ports(new: &mut Value, old: &Value, op: &mut Operation) -> Result<()> {
    let held: Vec<u16> = node_ports(old).collect();
    if has_node_ports(&new["spec"]) {
        let gets = gets_node_ports(&new["spec"]);
        let mut seen: Vec<(String, i64)> = Vec::new();
        for i in 0..items(&new["spec"], "ports").len() {
            let entry = &new["spec"]["ports"][i];
            let (protocol, mut number) = (text(entry, "protocol").to_owned(), numbers(entry).1);
            if number == 0 && !gets {
                continue;
            }
            let is_held = held.iter().any(|h| i64::from(*h) == number);
            if number == 0 {
                number = any_port(op)?;
                new["spec"]["ports"][i]["nodePort"] = number.into();
            } else if !is_held && !seen.iter().any(|(_, n)| *n == number) {
                take_port(new, i, number, op)?;
            }
            if seen.iter().any(|(p, n)| (p, *n) == (&protocol, number)) {
                let text = format!("duplicate nodePort: {{{protocol} {number}}}");
                return Err(Status::new(500, meta::Reason::Unknown, text));
            }
            seen.push((protocol, number));
        }
        let kept: Vec<u16> = node_ports(new).collect();
        op.free(held.into_iter().filter(|h| !kept.contains(h)));
    } else if has_node_ports(&old["spec"]) {
        op.free(held);
    }
    match (needs_health_check(&old["spec"]), needs_health_check(&new["spec"])) {
        (false, true) => health_port(new, op)?,
        (true, false) => op.free(health_port_of(old)),
        _ => {}
    }
    Ok(())
}

/// The port under which a node tells whether it has endpoints (upstream: `allocHealthCheckNodePort`).
fn health_port(new: &mut Value, op: &mut Operation) -> Result<()> {
    match new["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) {
        0 => {
            let port = op.take_any().map_err(|why| {
                Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {why}"))
            })?;
            new["spec"]["healthCheckNodePort"] = port.into();
        }
        asked => op.take(asked).map_err(|why| {
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"))
        })?,
    }
    Ok(())
}

fn take_port(new: &Value, index: usize, number: i64, op: &mut Operation) -> Result<i64> {
    let at = Path::new("spec").child("ports").index(index).child("nodePort");
    let refused = |why: ports::Refused| invalid(new, vec![Error::invalid(&at, number, why.to_string())]);
    op.take(number).map_err(refused)?;
    Ok(number)
}

fn any_port(op: &mut Operation) -> Result<i64> {
    let refused = |why| Status::internal(format!("failed to allocate a nodePort: {why}"));
    op.take_any().map(i64::from).map_err(refused)
}

/// A port and its node port.
fn numbers(entry: &Value) -> (i64, i64) {
    (entry["port"].as_i64().unwrap_or(0), entry["nodePort"].as_i64().unwrap_or(0))
}

/// The addresses that a Service holds.
fn addresses_of(s: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let list = if needs_cluster_ip(&s["spec"]) { items(&s["spec"], "clusterIPs") } else { &[] };
    list.iter().filter_map(|i| ip::parse(i.as_str()?))
}

/// The node ports that it has as its type has such; of others they are nothing but numbers.
fn node_ports(s: &Value) -> impl Iterator<Item = u16> + '_ {
    let list = if has_node_ports(&s["spec"]) { items(&s["spec"], "ports") } else { &[] };
    let numbers = list.iter().filter_map(|p| p["nodePort"].as_u64());
    numbers.filter_map(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

fn health_port_of(s: &Value) -> Option<u16> {
    let asked = s["spec"]["healthCheckNodePort"].as_u64().filter(|_| needs_health_check(&s["spec"]));
    asked.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

/// All ports that a Service holds.
fn held_ports(s: &Value) -> impl Iterator<Item = u16> + '_ {
    node_ports(s).chain(health_port_of(s))
}

fn invalid(service: &Value, errors: ErrorList) -> Status {
    let gk = meta::GroupKind { group: String::new(), kind: "Service".into() };
    Status::invalid(&gk, object::name(service), &errors)
}

#[cfg(test)]
mod tests;
