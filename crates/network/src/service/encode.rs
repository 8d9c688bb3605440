//! From entries to nf_tables messages: the fixed skeleton of the table, the chains by shape, the elements.
//!
//! Register layout of every key: client address (affinity only), front address, protocol, port, then slot number or
//! endpoint. Addresses take one register or four.

use super::model::{Back, Change, EntryKey, EntryValue, Front, LOCAL_SLOTS, Masquerade, Shape, Target};
use crate::cidr::{Cidr, octets};
use crate::pod::in_block;
use std::collections::BTreeMap;
use std::net::IpAddr;
use sys::nft::expr::{self as e, Expr, REGISTER, Side};
use sys::nft::{Batch, ChainKind, Data, Family, Field, Hook, SetData, SetSpec, Verdict};

/// Clients remembered per family; a new one beyond that is served but not remembered.
const AFFINITY_MAX: u32 = 262_144;
/// upstream: pkg/proxy/nftables/proxier.go (masqueradeBit 14)
const MASQUERADE_MARK: u32 = 0x4000;

const SERVICES: &str = "services";
const SHAPES: &str = "shapes";
const ENDPOINTS: &str = "endpoints";
const MEMBERS: &str = "members";
const AFFINITY: &str = "affinity";
const HAIRPIN: &str = "hairpin";
const CLUSTER_IPS: &str = "cluster-ips";
const DISPATCH: &str = "dispatch";
const REJECT: &str = "reject";
const MARK: &str = "mark-for-masquerade";
const MARK_OFF_CLUSTER: &str = "mark-off-cluster";

/// What the skeleton is made of.
#[derive(Debug, Clone, Default)]
pub struct Skeleton {
    pub cluster_cidrs: Vec<Cidr>,
    pub service_cidrs: Vec<Cidr>,
    pub local_service_ips: Vec<IpAddr>,
}

/// Writes into one table.
pub struct Encoder<'a> {
    pub table: &'a str,
    pub skeleton: &'a Skeleton,
}

impl Encoder<'_> {
    /// The whole table, in place of whatever there is.
    pub fn rebuild(&self, entries: impl Iterator<Item = (EntryKey, EntryValue)>) -> Batch {
        let mut batch = Batch::new();
        for family in Family::BOTH {
            batch.add_table(family, self.table);
            batch.delete_table(family, self.table);
            batch.add_table(family, self.table);
            self.sets(&mut batch, family);
            self.chains(&mut batch, family);
        }
        for family in Family::BOTH {
            let fixed =
                [Target::Reject, Target::Drop].map(|t| (target_bytes(&t), Data::Verdict(verdict_of(&t))));
            batch.add_elements(family, self.table, SHAPES, fixed);
        }
        let changes: Vec<Change> = entries.map(|(k, v)| Change::Add(k, v)).collect();
        self.apply(&mut batch, &changes);
        batch
    }

    /// Changes, in the order that the kernel needs: chains, removals, additions, chains that nothing needs any more.
    pub fn apply(&self, batch: &mut Batch, changes: &[Change]) {
        let mut new_chains: Vec<Shape> = vec![];
        let mut old_chains: Vec<Shape> = vec![];
        for change in changes {
            match change {
                Change::Add(EntryKey::Chain(s), _) => new_chains.push(*s),
                Change::Remove(EntryKey::Chain(s), _) => old_chains.push(*s),
                _ => {}
            }
        }
        for shape in &new_chains {
            batch.add_chain(shape.family, self.table, &shape.name());
        }
        for shape in &new_chains {
            self.shape_rules(batch, *shape);
        }
        let mut removed: BTreeMap<(Family, &str), Vec<Vec<u8>>> = BTreeMap::new();
        let mut added: BTreeMap<(Family, &str), Vec<(Vec<u8>, Data)>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Remove(key, value) => {
                    let e = element(key, value);
                    removed.entry((e.family, e.set)).or_default().push(e.key);
                }
                Change::Add(key, value) => {
                    let e = element(key, value);
                    added.entry((e.family, e.set)).or_default().push((e.key, e.data));
                }
            }
        }
        for ((family, set), keys) in removed {
            batch.delete_elements(family, self.table, set, keys);
        }
        for ((family, set), elements) in added {
            batch.add_elements(family, self.table, set, elements);
        }
        // A chain that leads to another one goes before it.
        old_chains.sort_by_key(|s| s.in_cluster_slots.is_none());
        for shape in &old_chains {
            batch.delete_chain(shape.family, self.table, &shape.name());
        }
    }

    fn sets(&self, batch: &mut Batch, family: Family) {
        let address = Field::address(family);
        let front = [address, Field::Protocol, Field::Port];
        let slot = [address, Field::Protocol, Field::Port, Field::Integer];
        let member = [address, Field::Protocol, Field::Port, address, Field::Port];
        let client = [address, address, Field::Protocol, Field::Port];
        let back = [address, Field::Port];
        let mut add = |name: &str, key: &[Field], data: SetData<'_>, dynamic_size: Option<u32>| {
            batch.add_set(family, self.table, &SetSpec { name, key, data, dynamic_size });
        };
        let shape = [Field::Integer; 4];
        add(SERVICES, &front, SetData::Fields(&shape), None);
        add(SHAPES, &shape, SetData::Verdict, None);
        add(ENDPOINTS, &slot, SetData::Fields(&back), None);
        add(MEMBERS, &member, SetData::None, None);
        add(AFFINITY, &client, SetData::Fields(&back), Some(AFFINITY_MAX));
        add(HAIRPIN, &[address, address], SetData::None, None);
        add(CLUSTER_IPS, &[address], SetData::None, None);
    }

    fn chains(&self, batch: &mut Batch, family: Family) {
        for chain in [MARK, MARK_OFF_CLUSTER, REJECT, DISPATCH] {
            batch.add_chain(family, self.table, chain);
        }
        let nat = ChainKind::Nat;
        batch.add_base_chain(family, self.table, "prerouting", nat, Hook::Prerouting, -100);
        batch.add_base_chain(family, self.table, "output", nat, Hook::Output, -100);
        batch.add_base_chain(family, self.table, "postrouting", nat, Hook::Postrouting, 100);
        let mut rule =
            |chain: &str, expressions: Vec<Expr>| batch.add_rule(family, self.table, chain, expressions);
        let mark = MASQUERADE_MARK.to_ne_bytes();
        let all_but_mark = (!MASQUERADE_MARK).to_ne_bytes();
        let set_mark =
            vec![e::load_mark(REGISTER), e::mask(REGISTER, &all_but_mark, &mark), e::store_mark(REGISTER)];
        rule(MARK, set_mark.clone());
        for cidr in of_family(&self.skeleton.cluster_cidrs, family) {
            let mut inside = in_block(family, Side::Source, &cidr);
            inside.push(e::verdict(Verdict::Return));
            rule(MARK_OFF_CLUSTER, inside);
        }
        rule(MARK_OFF_CLUSTER, set_mark);
        rule(REJECT, vec![e::load_protocol(REGISTER), e::equal(REGISTER, &[e::TCP]), e::reject_tcp()]);
        rule(REJECT, vec![e::reject_unreachable(family)]);
        self.dispatch(&mut rule, family);
        rule("prerouting", vec![e::verdict(Verdict::Jump(DISPATCH.into()))]);
        rule("output", vec![e::verdict(Verdict::Jump(DISPATCH.into()))]);
        // Marked connections; the mark goes so that nobody else acts on it.
        rule(
            "postrouting",
            vec![
                e::load_mark(REGISTER),
                e::mask(REGISTER, &mark, &[0; 4]),
                e::not_equal(REGISTER, &[0; 4]),
                e::load_mark(REGISTER),
                e::mask(REGISTER, &all_but_mark, &[0; 4]),
                e::store_mark(REGISTER),
                e::masquerade(),
            ],
        );
        let words = family.address_len() / 4;
        rule(
            "postrouting",
            vec![
                e::load_address(family, Side::Source, REGISTER),
                e::load_address(family, Side::Destination, REGISTER + words),
                e::lookup(HAIRPIN, REGISTER),
                e::masquerade(),
            ],
        );
        // Own packets to a Service may have taken one of its addresses as their source.
        for cidr in of_family(&self.skeleton.service_cidrs, family) {
            let mut from_service = in_block(family, Side::Source, &cidr);
            from_service.push(e::masquerade());
            rule("postrouting", from_service);
        }
    }

    /// The first look at a new connection.
    fn dispatch(&self, rule: &mut impl FnMut(&str, Vec<Expr>), family: Family) {
        let words = family.address_len() / 4;
        for ip in self.skeleton.local_service_ips.iter().filter(|ip| Family::of(**ip) == family) {
            rule(
                DISPATCH,
                vec![
                    e::load_address(family, Side::Destination, REGISTER),
                    e::equal(REGISTER, &octets(*ip)),
                    e::verdict(Verdict::Return),
                ],
            );
        }
        // A map with verdicts would be checked whole by the kernel at each change; so the big map leads to a shape,
        // and only the small map of shapes leads to chains.
        let shape = REGISTER + words + 2;
        let follow = |mut load: Vec<Expr>| {
            load.push(e::lookup_value(SERVICES, REGISTER, shape));
            load.push(e::lookup_verdict(SHAPES, shape));
            load
        };
        rule(DISPATCH, follow(load_front(family, false, REGISTER)));
        rule(
            DISPATCH,
            vec![
                e::load_address(family, Side::Destination, REGISTER),
                e::lookup(CLUSTER_IPS, REGISTER),
                e::verdict(Verdict::Goto(REJECT.into())),
            ],
        );
        for cidr in of_family(&self.skeleton.service_cidrs, family) {
            let mut nobody = in_block(family, Side::Destination, &cidr);
            nobody.push(e::verdict(Verdict::Drop));
            rule(DISPATCH, nobody);
        }
        // Node ports are not served on loopback addresses: a connection cannot leave from there.
        let loopback: Cidr = match family {
            Family::Ip4 => Cidr { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 },
            Family::Ip6 => Cidr::host(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
        };
        let mut to_loopback = in_block(family, Side::Destination, &loopback);
        to_loopback.push(e::verdict(Verdict::Return));
        rule(DISPATCH, to_loopback);
        let kind = REGISTER + words + 2;
        let mut by_port = vec![e::load_address_kind(Side::Destination, kind), e::equal(kind, &e::LOCAL)];
        by_port.extend(load_front(family, true, REGISTER));
        rule(DISPATCH, follow(by_port));
    }

    fn shape_rules(&self, batch: &mut Batch, shape: Shape) {
        let family = shape.family;
        let name = shape.name();
        let words = family.address_len() / 4;
        let mut rule = |expressions: Vec<Expr>| batch.add_rule(family, self.table, &name, expressions);
        if let Some(other) = shape.in_cluster() {
            let goto = || e::verdict(Verdict::Goto(other.name()));
            for cidr in of_family(&self.skeleton.cluster_cidrs, family) {
                let mut from_pod = in_block(family, Side::Source, &cidr);
                from_pod.push(goto());
                rule(from_pod);
            }
            rule(vec![e::load_address_kind(Side::Source, REGISTER), e::equal(REGISTER, &e::LOCAL), goto()]);
        }
        if shape.slots == 0 {
            rule(vec![e::verdict(Verdict::Drop)]);
            return;
        }
        match shape.masquerade {
            Masquerade::Never => {}
            Masquerade::OffCluster => rule(vec![e::verdict(Verdict::Jump(MARK_OFF_CLUSTER.into()))]),
            Masquerade::Always => rule(vec![e::verdict(Verdict::Jump(MARK.into()))]),
        }
        let offset = if shape.local { LOCAL_SLOTS } else { 0 };
        if let Some(seconds) = shape.affinity_seconds {
            let timeout_ms = u64::from(seconds) * 1000;
            // client, front | endpoint
            let (front, back) = (REGISTER + words, REGISTER + 2 * words + 2);
            let mut known = vec![e::load_address(family, Side::Source, REGISTER)];
            known.extend(load_front(family, shape.any_address, front));
            let mut chosen = known.clone();
            known.extend([
                e::lookup_value(AFFINITY, REGISTER, back),
                e::lookup(MEMBERS, front),
                e::remember(AFFINITY, REGISTER, back, timeout_ms),
                e::dnat(family, back, back + words),
            ]);
            rule(known);
            chosen.extend([
                e::load_random(back, shape.slots, offset),
                e::lookup_value(ENDPOINTS, front, back),
                e::remember(AFFINITY, REGISTER, back, timeout_ms),
                e::dnat(family, back, back + words),
            ]);
            rule(chosen);
        }
        let mut chosen = load_front(family, shape.any_address, REGISTER);
        chosen.extend([
            e::load_random(REGISTER + words + 2, shape.slots, offset),
            e::lookup_value(ENDPOINTS, REGISTER, REGISTER),
            e::dnat(family, REGISTER, REGISTER + words),
        ]);
        rule(chosen);
    }
}

/// Loads address, protocol and port of what the packet is sent to.
fn load_front(family: Family, any_address: bool, register: u32) -> Vec<Expr> {
    let words = family.address_len() / 4;
    let address = if any_address {
        e::load_bytes(register, &vec![0; family.address_len() as usize])
    } else {
        e::load_address(family, Side::Destination, register)
    };
    vec![address, e::load_protocol(register + words), e::load_port(register + words + 1)]
}

fn of_family(cidrs: &[Cidr], family: Family) -> Vec<Cidr> {
    cidrs.iter().filter(|c| Family::of(c.address) == family).map(Cidr::network).collect()
}

/// An element of a set, encoded.
struct Element {
    family: Family,
    set: &'static str,
    key: Vec<u8>,
    data: Data,
}

fn element(key: &EntryKey, value: &EntryValue) -> Element {
    let (family, set, bytes) = match key {
        EntryKey::Chain(shape) => (shape.family, SHAPES, target_bytes(&Target::Chain(*shape))),
        EntryKey::Front(f) => (f.family(), SERVICES, front_bytes(f)),
        EntryKey::Slot(f, slot) => {
            let mut bytes = front_bytes(f);
            bytes.extend(slot.to_ne_bytes());
            (f.family(), ENDPOINTS, bytes)
        }
        EntryKey::Member(f, back) => {
            let mut bytes = front_bytes(f);
            bytes.extend(back_bytes(back));
            (f.family(), MEMBERS, bytes)
        }
        EntryKey::Hairpin(ip) => {
            let mut bytes = octets(*ip);
            bytes.extend(octets(*ip));
            (Family::of(*ip), HAIRPIN, bytes)
        }
        EntryKey::ClusterIp(ip) => (Family::of(*ip), CLUSTER_IPS, octets(*ip)),
    };
    let data = match (key, value) {
        (EntryKey::Chain(shape), _) => Data::Verdict(verdict_of(&Target::Chain(*shape))),
        (_, EntryValue::Present) => Data::None,
        (_, EntryValue::Back(back)) => Data::Bytes(back_bytes(back)),
        (_, EntryValue::Target(target)) => Data::Bytes(target_bytes(target)),
    };
    Element { family, set, key: bytes, data }
}

fn verdict_of(target: &Target) -> Verdict {
    match target {
        Target::Chain(shape) => Verdict::Goto(shape.name()),
        Target::Reject => Verdict::Goto(REJECT.into()),
        Target::Drop => Verdict::Drop,
    }
}

/// A target as 16 bytes, different for each: four numbers.
fn target_bytes(target: &Target) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    let numbers = match target {
        Target::Reject => [1, 0, 0, 0],
        Target::Drop => [2, 0, 0, 0],
        Target::Chain(shape) => {
            let masquerade = match shape.masquerade {
                Masquerade::Never => 0,
                Masquerade::OffCluster => 1,
                Masquerade::Always => 2,
            };
            let kind = 3 | u32::from(shape.any_address) << 8 | u32::from(shape.local) << 9 | masquerade << 10;
            [
                kind,
                shape.affinity_seconds.unwrap_or(NONE),
                shape.slots,
                shape.in_cluster_slots.unwrap_or(NONE),
            ]
        }
    };
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn front_bytes(front: &Front) -> Vec<u8> {
    let mut bytes = octets(front.address);
    bytes.extend([front.protocol, 0, 0, 0]);
    bytes.extend(port_bytes(front.port));
    bytes
}

fn back_bytes(back: &Back) -> Vec<u8> {
    let mut bytes = octets(back.address);
    bytes.extend(port_bytes(back.port));
    bytes
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
