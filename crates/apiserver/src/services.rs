//! Service addresses and node ports: handed out with a create, kept in step by updates, taken back by deletes
//! (upstream: `pkg/registry/core/service/storage/alloc.go`, `ipallocator`, `portallocator`).
//!
//! The pools live in memory and are filled from the stored Services at start. Node ports are claimed in the store as well
//! ([`claims`]), since several servers may write to it.

pub mod claims;

use kinds::core::service::{has_node_ports, needs_cluster_ip};
use kinds::validate::{items, text};
use meta::field::{Error, Path};
use meta::object;
use meta::status::{Result, Status};
use parking_lot::Mutex;
use registry::Companion;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What a node port may be for.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// How many addresses are tried at random before the range is walked.
const RANDOM_TRIES: usize = 32;

/// A range of service addresses.
#[derive(Clone, Debug)]
pub struct Range {
    base: IpAddr,
    prefix: u8,
}

impl Range {
    /// Parses `10.96.0.0/16`; prefixes wider than /12 (IPv4) or /108 (IPv6) use their first million addresses.
    pub fn parse(cidr: &str) -> std::result::Result<Self, String> {
        let bad = || format!("{cidr:?} is not a CIDR such as 10.96.0.0/16");
        let (base, prefix) = cidr.split_once('/').ok_or_else(bad)?;
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > if base.is_ipv4() { 30 } else { 126 } {
            return Err(format!("{cidr:?} is too small a range for Services"));
        }
        let range = Self { base, prefix };
        Ok(Self { base: range.mask(base), prefix })
    }

    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    fn bits(&self) -> u8 {
        let bits = if self.base.is_ipv4() { 32 } else { 128 };
        (bits - self.prefix).min(20)
    }

    fn mask(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && self.mask(ip) == self.base
    }

    /// The address at an offset from the base.
    pub fn nth(&self, n: u64) -> IpAddr {
        match self.base {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(n as u32))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(u128::from(n)))),
        }
    }

    /// Usable offsets: all but the network's own address and, in IPv4, the last.
    fn offsets(&self) -> std::ops::Range<u64> {
        let size = 1u64 << self.bits();
        1..size - u64::from(self.is_ipv4())
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[derive(Default)]
struct Pools {
    addresses: HashSet<IpAddr>,
    ports: HashSet<(u16, String)>,
}

pub struct Services {
    /// The primary family first.
    ranges: Vec<Range>,
    node_ports: std::ops::RangeInclusive<u16>,
    pools: Mutex<Pools>,
    rng: Arc<base::rng::Rng>,
}

impl Services {
    pub fn new(
        ranges: Vec<Range>,
        node_ports: std::ops::RangeInclusive<u16>,
        rng: Arc<base::rng::Rng>,
    ) -> Self {
        Self { ranges, node_ports, pools: Mutex::default(), rng }
    }

    /// Marks what stored Services hold.
    pub fn restore<'a>(&self, services: impl IntoIterator<Item = &'a Value>) {
        let mut pools = self.pools.lock();
        for s in services {
            pools.addresses.extend(addresses(s));
            pools.ports.extend(node_ports(s));
        }
    }

    /// A server, maybe another one, gave a node port away, or took it back.
    fn claimed(&self, port: u16, is: bool) {
        let mut pools = self.pools.lock();
        for key in PROTOCOLS.map(|p| (port, p.to_owned())) {
            if is {
                pools.ports.insert(key)
            } else {
                pools.ports.remove(&key)
            };
        }
    }

    /// Nothing but these is claimed. What is being written just now is among those only later, and then is refused to
    /// others by its claim.
    fn only_claimed(&self, ports: &HashSet<u16>) {
        self.pools.lock().ports.clear();
        ports.iter().for_each(|port| self.claimed(*port, true));
    }

    fn range(&self, family: &str) -> Option<&Range> {
        self.ranges.iter().find(|r| r.is_ipv4() == (family == "IPv4"))
    }

    /// Decides families and policy (upstream: `initIPFamilyFields`).
    fn families(&self, spec: &mut Value, old: Option<&Value>) -> Result<Vec<String>> {
        let family_of = |ip: &str| {
            ip.parse::<IpAddr>().ok().map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned())
        };
        let mut families = object::strings(&spec["ipFamilies"]);
        let given = families.len();
        let asked: Vec<String> =
            items(spec, "clusterIPs").iter().filter_map(|i| i.as_str()).filter_map(family_of).collect();
        if families.is_empty() {
            families = asked.clone();
        }
        let policy = text(spec, "ipFamilyPolicy").to_owned();
        let headless_free = text(spec, "clusterIP") == "None" && items_empty(spec, "selector");
        let policy = match policy.as_str() {
            "" if headless_free && old.is_none() => "RequireDualStack".to_owned(),
            "" => "SingleStack".to_owned(),
            _ => policy,
        };
        let mut errors = Vec::new();
        let at = Path::new("spec");
        if policy == "SingleStack" && old.is_none() {
            let several = [("cluster IPs", items(spec, "clusterIPs").len()), ("IP families", given)];
            for (what, _) in several.iter().filter(|(_, n)| *n == 2) {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.push(Error::invalid(&at.child("ipFamilyPolicy"), policy.as_str(), detail));
            }
        }
        for (i, family) in asked.iter().enumerate().skip(given).filter(|(_, f)| self.range(f).is_none()) {
            let (at, ips) = (at.child("clusterIPs").index(i), spec["clusterIPs"].clone());
            errors.push(Error::invalid(&at, ips, format!("{family} is not configured on this cluster")));
        }
        if !errors.is_empty() {
            return Err(invalid(errors, ""));
        }
        let primary = if self.ranges.first().is_some_and(Range::is_ipv4) { "IPv4" } else { "IPv6" };
        if families.is_empty() {
            families.push(primary.to_owned());
        }
        let other = |f: &str| if f == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();
        let dual = self.ranges.len() == 2 || headless_free;
        match policy.as_str() {
            "SingleStack" => families.truncate(1),
            "PreferDualStack" if families.len() == 1 && dual => families.push(other(&families[0])),
            "RequireDualStack" if families.len() == 1 && dual => families.push(other(&families[0])),
            "RequireDualStack" if !dual => {
                let at = Path::new("spec").child("ipFamilyPolicy");
                let detail = "this cluster is not configured for dual-stack services";
                return Err(invalid(vec![Error::invalid(&at, "RequireDualStack", detail)], ""));
            }
            _ => {}
        }
        for (i, f) in families.iter().enumerate() {
            if self.range(f).is_none() && !headless_free {
                let at = Path::new("spec").child("ipFamilies").index(i);
                let detail = "not configured on this cluster";
                return Err(invalid(vec![Error::invalid(&at, f.as_str(), detail)], ""));
            }
        }
        spec["ipFamilies"] = json!(families);
        spec["ipFamilyPolicy"] = policy.into();
        Ok(families)
    }

    /// Completes addresses and ports; returns what was newly taken.
    fn complete(&self, obj: &mut Value, old: Option<&Value>) -> Result<Taken> {
        let name = object::name(obj).to_owned();
        let mut taken = Taken::default();
        let result = self.complete_into(obj, old, &mut taken);
        if let Err(mut e) = result {
            self.give_back(&taken);
            if let Some(d) = &mut e.details
                && e.code == 422
            {
                d.name.clone_from(&name);
                e.message = e.message.replace("Service \"\"", &format!("Service {name:?}"));
            }
            return Err(e);
        }
        Ok(taken)
    }

    fn complete_into(&self, obj: &mut Value, old: Option<&Value>, taken: &mut Taken) -> Result<()> {
        if text(&obj["spec"], "type") != "ExternalName" {
            // One address given is the first of the list.
            let one = text(&obj["spec"], "clusterIP").to_owned();
            if !one.is_empty() && items(&obj["spec"], "clusterIPs").is_empty() {
                obj["spec"]["clusterIPs"] = json!([one]);
            }
            let families = self.families(&mut obj["spec"], old)?;
            if needs_cluster_ip(&obj["spec"]) {
                self.take_addresses(obj, old, &families, taken)?;
            } else {
                obj["spec"]["clusterIPs"] = json!(["None"]);
            }
        }
        if has_node_ports(&obj["spec"]) {
            self.take_ports(obj, old, taken)?;
        }
        Ok(())
    }

    fn take_addresses(
        &self,
        obj: &mut Value,
        old: Option<&Value>,
        families: &[String],
        taken: &mut Taken,
    ) -> Result<()> {
        let asked = object::strings(&obj["spec"]["clusterIPs"]);
        let held: Vec<IpAddr> = old.map(|o| addresses(o).collect()).unwrap_or_default();
        let mut ips = Vec::new();
        for (i, family) in families.iter().enumerate() {
            let at = Path::new("spec").child("clusterIPs");
            let Some(range) = self.range(family) else { continue };
            let ip = match asked.get(i).map(|a| a.parse::<IpAddr>()) {
                Some(Ok(ip)) if held.contains(&ip) => ip,
                Some(Ok(ip)) => {
                    self.take_address(range, ip).map_err(|why| {
                        let detail = format!("failed to allocate IP {ip}: {why}");
                        invalid(vec![Error::invalid(&at, json!([ip.to_string()]), detail)], "")
                    })?;
                    taken.addresses.push(ip);
                    ip
                }
                _ => {
                    let ip = self
                        .any_address(range)
                        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
                    taken.addresses.push(ip);
                    ip
                }
            };
            ips.push(ip.to_string());
        }
        if let Some(first) = ips.first() {
            obj["spec"]["clusterIP"] = first.as_str().into();
        }
        obj["spec"]["clusterIPs"] = json!(ips);
        Ok(())
    }

    fn take_address(&self, range: &Range, ip: IpAddr) -> std::result::Result<(), String> {
        if !range.contains(ip) {
            return Err("the provided network does not match the current range".to_owned());
        }
        if self.pools.lock().addresses.insert(ip) {
            Ok(())
        } else {
            Err("provided IP is already allocated".to_owned())
        }
    }

    fn any_address(&self, range: &Range) -> Option<IpAddr> {
        let offsets = range.offsets();
        // Upstream keeps the range's start for addresses that people choose.
        let low = (1u64 << range.bits()).min(4096) / 16;
        let low = low.clamp(16, 256).min(offsets.end / 2);
        let mut pools = self.pools.lock();
        for _ in 0..RANDOM_TRIES {
            let ip = range.nth(low + self.rng.below(offsets.end - low));
            if range.contains(ip) && pools.addresses.insert(ip) {
                return Some(ip);
            }
        }
        offsets.map(|n| range.nth(n)).find(|ip| pools.addresses.insert(*ip))
    }

    fn take_ports(&self, obj: &mut Value, old: Option<&Value>, taken: &mut Taken) -> Result<()> {
        let held: HashSet<(u16, String)> = old.map(|o| node_ports(o).collect()).unwrap_or_default();
        let mut seen: Vec<(i64, u16)> = Vec::new();
        let count = items(&obj["spec"], "ports").len();
        for i in 0..count {
            let at = Path::new("spec").child("ports").index(i).child("nodePort");
            let entry = &mut obj["spec"]["ports"][i];
            let protocol = text(entry, "protocol").to_owned();
            let port = entry["port"].as_i64().unwrap_or(0);
            let asked = entry["nodePort"].as_i64().unwrap_or(0);
            if asked != 0 {
                let number = u16::try_from(asked).unwrap_or(0);
                let key = (number, protocol);
                if held.contains(&key) || taken.ports.contains(&key) {
                    seen.push((port, number));
                    continue;
                }
                if !self.node_ports.contains(&number) {
                    let detail = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        self.node_ports.start(),
                        self.node_ports.end()
                    );
                    return Err(invalid(vec![Error::invalid(&at, asked, detail)], ""));
                }
                if !self.pools.lock().ports.insert(key.clone()) {
                    return Err(invalid(
                        vec![Error::invalid(&at, asked, "provided port is already allocated")],
                        "",
                    ));
                }
                taken.ports.push(key);
                seen.push((port, number));
                continue;
            }
            // The same port in two protocols shares its node port.
            let shared = seen.iter().find(|(p, _)| *p == port).map(|(_, n)| (*n, protocol.clone()));
            let shared = shared.filter(|key| self.pools.lock().ports.insert(key.clone()));
            let key = shared.or_else(|| self.any_port(&protocol));
            let key = key.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
            entry["nodePort"] = key.0.into();
            seen.push((port, key.0));
            taken.ports.push(key);
        }
        Ok(())
    }

    fn any_port(&self, protocol: &str) -> Option<(u16, String)> {
        let (first, last) = (*self.node_ports.start(), *self.node_ports.end());
        let size = u64::from(last - first) + 1;
        let mut pools = self.pools.lock();
        for _ in 0..RANDOM_TRIES {
            let key = (first + self.rng.below(size) as u16, protocol.to_owned());
            if pools.ports.insert(key.clone()) {
                return Some(key);
            }
        }
        self.node_ports.clone().map(|p| (p, protocol.to_owned())).find(|k| pools.ports.insert(k.clone()))
    }

    fn give_back(&self, taken: &Taken) {
        let mut pools = self.pools.lock();
        for a in &taken.addresses {
            pools.addresses.remove(a);
        }
        for p in &taken.ports {
            pools.ports.remove(p);
        }
    }
}

#[derive(Default)]
struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
}

impl Companion for Services {
    fn creating(&self, new: &mut Value) -> Result<()> {
        self.complete(new, None).map(drop)
    }

    fn updating(&self, new: &mut Value, old: &Value) -> Result<()> {
        self.complete(new, Some(old)).map(drop)
    }

    fn released(&self, gone: &Value, kept: Option<&Value>) {
        let keep: HashSet<IpAddr> = kept.map(|k| addresses(k).collect()).unwrap_or_default();
        let keep_ports: HashSet<(u16, String)> = kept.map(|k| node_ports(k).collect()).unwrap_or_default();
        let mut pools = self.pools.lock();
        for a in addresses(gone).filter(|a| !keep.contains(a)) {
            pools.addresses.remove(&a);
        }
        for p in node_ports(gone).filter(|p| !keep_ports.contains(p)) {
            pools.ports.remove(&p);
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

fn items_empty(v: &Value, field: &str) -> bool {
    v[field].as_object().is_none_or(serde_json::Map::is_empty)
}

fn addresses(s: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    items(&s["spec"], "clusterIPs").iter().filter_map(|i| i.as_str()?.parse().ok())
}

fn node_ports(s: &Value) -> impl Iterator<Item = (u16, String)> + '_ {
    items(&s["spec"], "ports").iter().filter_map(|p| {
        let port = u16::try_from(p["nodePort"].as_i64()?).ok().filter(|n| *n != 0)?;
        Some((port, text(p, "protocol").to_owned()))
    })
}

fn invalid(errors: Vec<Error>, name: &str) -> Status {
    let gk = meta::GroupKind { group: String::new(), kind: "Service".into() };
    Status::invalid(&gk, name, &errors)
}

/// Finds Services for calls of the server's own (upstream: `aggregator.NewClusterIPServiceResolver`).
pub struct Resolver(pub Arc<registry::Registry>);

impl client::outbound::Resolve for Resolver {
    fn resolve(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> std::result::Result<std::net::SocketAddr, String> {
        let row = self.0.kinds().resource("", "v1", "services").ok_or("services are not served")?;
        let entry = self.0.store().get(&row.key(namespace, name));
        let entry = entry.ok_or_else(|| format!("service {name:?} not found"))?;
        let service: Value = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
        let served = items(&service["spec"], "ports").iter().any(|p| p["port"] == port);
        if !served {
            return Err(format!("no service port {port} found for service {name:?}"));
        }
        match text(&service["spec"], "clusterIP").parse() {
            Ok(ip) => Ok(std::net::SocketAddr::new(ip, port)),
            Err(_) => Err(format!("service {name:?} has no cluster IP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Services {
        let ranges =
            vec![Range::parse("10.96.0.0/24").expect("v4"), Range::parse("fd00:96::/112").expect("v6")];
        Services::new(ranges, 30000..=30002, Arc::new(base::rng::Rng::seeded(7)))
    }

    fn service(extra: Value) -> Value {
        let mut s = json!({"metadata": {"name": "a"}, "spec": {"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
        for (k, v) in extra.as_object().into_iter().flatten() {
            s["spec"][k] = v.clone();
        }
        s
    }

    #[test]
    fn one_address_by_default_and_two_when_asked() {
        let pool = pool();
        let mut s = service(json!({}));
        pool.creating(&mut s).expect("made");
        assert_eq!(items(&s["spec"], "clusterIPs").len(), 1);
        let old = s.clone();
        s["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        pool.updating(&mut s, &old).expect("updated");
        assert_eq!(s["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(s["spec"]["clusterIPs"][0], old["spec"]["clusterIPs"][0], "the first address stays");
        assert!(s["spec"]["clusterIPs"][1].as_str().is_some_and(|a| a.starts_with("fd00:96::")));
    }

    #[test]
    fn an_address_is_given_once_until_it_is_back() {
        let pool = pool();
        let mut a = service(json!({"clusterIP": "10.96.0.50"}));
        pool.creating(&mut a).expect("made");
        let refused = pool.creating(&mut service(json!({"clusterIP": "10.96.0.50"}))).expect_err("taken");
        assert_eq!((refused.code, refused.message.contains("provided IP is already allocated")), (422, true));
        pool.released(&a, None);
        pool.creating(&mut service(json!({"clusterIP": "10.96.0.50"}))).expect("free again");
    }

    #[test]
    fn node_ports_run_out_and_a_failed_write_takes_none() {
        let pool = pool();
        let node = || service(json!({"type": "NodePort"}));
        for _ in 0..3 {
            pool.creating(&mut node()).expect("made");
        }
        let before = pool.pools.lock().addresses.len();
        pool.creating(&mut node()).expect_err("full");
        assert_eq!(pool.pools.lock().addresses.len(), before);
    }
}
