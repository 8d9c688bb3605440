//! What the cluster's names resolve to. Pure: a directory's state and a question give an answer.
//!
//! upstream: kubernetes/dns docs/specification.md, version 1.1.0; where it is silent, CoreDNS' kubernetes plugin.

use crate::cidr::Cidr;
use crate::directory::State;
use crate::spec::{Endpoint, Key, ServiceSpec};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds that an answer, also a negative one, may be kept.
pub const TTL_SECONDS: u32 = 5;
const SCHEMA_VERSION: &str = "1.1.0";
const SRV_WEIGHT: u16 = 100;

/// The zone that is served.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The cluster domain's labels in lower case: `["cluster", "local"]`.
    pub domain: Vec<String>,
    /// Addresses of the DNS service: what `ns.dns.<domain>` is.
    pub service_ips: Vec<IpAddr>,
    /// Pod and Service blocks: their reverse names are ours.
    pub own_cidrs: Vec<Cidr>,
}

/// What a question gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Not ours.
    Forward,
    /// The name exists; no records mean that it has none of the type.
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// An alias, whose target's addresses are to be added.
    Alias {
        record: Box<Record>,
        target: Name,
    },
    NoSuchName,
}

/// Records of a name, with the addresses of the names that they mention.
type Records = Vec<(RData, Vec<(Name, IpAddr)>)>;

impl Zone {
    pub fn new(domain: &str, service_ips: Vec<IpAddr>, own_cidrs: Vec<Cidr>) -> Self {
        let domain = domain.trim_matches('.').split('.').map(str::to_ascii_lowercase).collect();
        Self { domain, service_ips, own_cidrs }
    }

    /// Answers a question of class IN.
    pub fn answer(&self, state: &State, name: &Name, kind: RecordType) -> Answer {
        let labels: Vec<String> =
            name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
        let found = match labels.strip_suffix(self.domain.as_slice()) {
            Some(rest) => {
                let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
                self.forward_records(state, &rest)
            }
            None => match reverse_address(&labels) {
                Some(ip) => match self.pointers(state, ip) {
                    Some(records) => Some(records),
                    None if self.own_cidrs.iter().any(|c| c.contains(ip)) => None,
                    None => return Answer::Forward,
                },
                None => return Answer::Forward,
            },
        };
        let Some(records) = found else { return Answer::NoSuchName };
        if let [(RData::CNAME(target), _)] = records.as_slice() {
            let target = target.0.clone();
            let record = record(name, RData::CNAME(CNAME(target.clone())));
            if kind == RecordType::CNAME {
                return Answer::Found { answers: vec![record], additionals: vec![] };
            }
            return Answer::Alias { record: Box::new(record), target };
        }
        let mut answers = vec![];
        let mut additionals = BTreeSet::new();
        for (data, more) in records {
            if kind == RecordType::ANY || data.record_type() == kind {
                answers.push(record(name, data));
                additionals.extend(more);
            }
        }
        let additionals = additionals.iter().map(|(n, ip)| record(n, address(*ip))).collect();
        Answer::Found { answers, additionals }
    }

    /// The record that goes with a negative answer.
    pub fn authority(&self, name: &Name) -> Option<Record> {
        let under_domain = {
            let labels: Vec<String> =
                name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
            labels.ends_with(&self.domain)
        };
        // For a reverse name the zone is the whole reverse tree: `in-addr.arpa` or `ip6.arpa`.
        let owner = if under_domain { self.name(&[])? } else { name.trim_to(2) };
        Some(record(&owner, self.soa()?))
    }

    fn soa(&self) -> Option<RData> {
        const SERIAL: u32 = 1;
        let (mname, rname) = (self.name(&["ns", "dns"])?, self.name(&["hostmaster"])?);
        Some(RData::SOA(SOA::new(mname, rname, SERIAL, 7200, 1800, 86400, TTL_SECONDS)))
    }

    fn name(&self, labels: &[&str]) -> Option<Name> {
        let labels = labels.iter().copied().chain(self.domain.iter().map(String::as_str));
        let mut name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    /// `None`: no such name.
    fn forward_records(&self, state: &State, labels: &[&str]) -> Option<Records> {
        match labels {
            [] => {
                let ns = RData::NS(NS(self.name(&["ns", "dns"])?));
                Some(vec![(self.soa()?, vec![]), (ns, vec![])])
            }
            ["dns-version"] => Some(vec![(RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()])), vec![])]),
            ["ns", "dns"] => Some(addresses(self.service_ips.iter().copied())),
            ["dns" | "svc" | "pod"] => Some(vec![]),
            [ns, "svc" | "pod"] => state.has_namespace(ns).then(Vec::new),
            [ip, _, "pod"] => Some(addresses([dashed_address(ip)?])),
            [rest @ .., name, ns, "svc"] => {
                let key = Key::new(*ns, *name);
                self.service_records(state, &key, state.service(&key)?, rest)
            }
            _ => None,
        }
    }

    fn service_records(
        &self,
        state: &State,
        key: &Key,
        service: &ServiceSpec,
        rest: &[&str],
    ) -> Option<Records> {
        if let Some(target) = &service.external_name {
            let target = Name::from_ascii(target).ok().map(|mut n| {
                n.set_fqdn(true);
                n
            })?;
            return rest.is_empty().then(|| vec![(RData::CNAME(CNAME(target)), vec![])]);
        }
        match rest {
            [] => {
                let mut records = if service.headless {
                    addresses(ready(state, key).flat_map(|e| e.addresses.iter().copied()))
                } else {
                    addresses(service.cluster_ips.iter().copied())
                };
                if records.is_empty() {
                    return None;
                }
                records.extend(self.srv(state, key, service, |_, _| true));
                Some(records)
            }
            [proto] if proto.starts_with('_') => {
                let known = |p: &str| p == proto.trim_start_matches('_');
                service.ports.iter().any(|p| known(p.protocol.word())).then(Vec::new)
            }
            [hostname] => {
                let named = ready(state, key).filter(|e| endpoint_name(e).as_deref() == Some(*hostname));
                let records = addresses(named.flat_map(|e| e.addresses.iter().copied()));
                (!records.is_empty()).then_some(records)
            }
            [port, proto] => {
                let (port, proto) = (port.strip_prefix('_')?, proto.strip_prefix('_')?);
                let records = self.srv(state, key, service, |name, word| name == port && word == proto);
                (!records.is_empty()).then_some(records)
            }
            _ => None,
        }
    }

    /// Service records of the ports (name, protocol) that `wanted` takes.
    fn srv(
        &self,
        state: &State,
        key: &Key,
        service: &ServiceSpec,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Records {
        let mut out = vec![];
        let mut put = |labels: &[&str], port: u16, ips: &[IpAddr]| {
            if let Some(target) = self.name(labels) {
                let more = ips.iter().map(|ip| (target.clone(), *ip)).collect();
                out.push((RData::SRV(SRV::new(0, SRV_WEIGHT, port, target)), more));
            }
        };
        if !service.headless {
            for port in service.ports.iter().filter(|p| wanted(&p.name, p.protocol.word())) {
                put(&[&key.name, &key.namespace, "svc"], port.port, &service.cluster_ips);
            }
            return out;
        }
        for slice in state.slices(key) {
            for port in slice.ports.iter().filter(|p| wanted(&p.name, p.protocol.word())) {
                for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                    if let Some(name) = endpoint_name(endpoint) {
                        put(&[&name, &key.name, &key.namespace, "svc"], port.port, &endpoint.addresses);
                    }
                }
            }
        }
        out
    }

    /// The names of an address; `None` when no Service or endpoint has it.
    fn pointers(&self, state: &State, ip: IpAddr) -> Option<Records> {
        let mut names = vec![];
        for key in state.by_address(ip) {
            let Some(service) = state.service(key) else { continue };
            if service.cluster_ips.contains(&ip) {
                return Some(vec![(
                    RData::PTR(PTR(self.name(&[&key.name, &key.namespace, "svc"])?)),
                    vec![],
                )]);
            }
            let endpoints = state.slices(key).flat_map(|s| &s.endpoints);
            for endpoint in endpoints.filter(|e| e.addresses.contains(&ip)) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                names.extend(self.name(&[&host, &key.name, &key.namespace, "svc"]));
            }
        }
        names.dedup();
        (!names.is_empty()).then(|| names.into_iter().map(|n| (RData::PTR(PTR(n)), vec![])).collect())
    }
}

/// A record of ours.
pub fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

fn ready<'a>(state: &'a State, key: &Key) -> impl Iterator<Item = &'a Endpoint> {
    state.slices(key).flat_map(|s| &s.endpoints).filter(|e| e.ready)
}

fn addresses(ips: impl IntoIterator<Item = IpAddr>) -> Records {
    let unique: BTreeSet<IpAddr> = ips.into_iter().collect();
    unique.into_iter().map(|ip| (address(ip), vec![])).collect()
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    }
}

/// The label of an endpoint below its Service: its hostname, or its address with dashes.
fn endpoint_name(endpoint: &Endpoint) -> Option<String> {
    match &endpoint.hostname {
        Some(name) if !name.is_empty() => Some(name.clone()),
        _ => endpoint.addresses.first().map(|ip| dashed(*ip)),
    }
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => {
            let byte = |t: &str| t.parse::<u8>().ok();
            Some(Ipv4Addr::new(byte(a)?, byte(b)?, byte(c)?, byte(d)?).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for nibble in nibbles.iter().rev() {
                let value = u8::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
                bits = bits << 4 | u128::from(value);
            }
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}
