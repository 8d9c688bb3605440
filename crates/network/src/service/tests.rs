//! Cases of [`super`].

use super::encode::{Encoder, Skeleton};
use super::model::{Back, Change, EntryKey, EntryValue, Front, LOCAL_SLOTS, Masquerade, Shape, Target};
use super::render::{self, Rules};
use super::table::{Owner, Table, merge};
use crate::spec::{
    Endpoint, EndpointPort, HostPort, Key, Policy, Protocol, ServicePort, ServiceSpec, SliceSpec,
};
use std::net::IpAddr;
use sys::nft::Batch;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service() -> ServiceSpec {
    ServiceSpec {
        namespace: "n".into(),
        name: "s".into(),
        cluster_ips: vec![ip("10.96.0.5")],
        ports: vec![ServicePort { port: 80, node_port: 30080, ..ServicePort::default() }],
        ..ServiceSpec::default()
    }
}

/// Endpoints: address, node, "ready", "serving" (while terminating) or "terminating".
fn slice(endpoints: &[(&str, &str, &str)]) -> SliceSpec {
    SliceSpec {
        namespace: "n".into(),
        name: "s-1".into(),
        service: "s".into(),
        ports: vec![EndpointPort { port: 8080, ..EndpointPort::default() }],
        endpoints: endpoints
            .iter()
            .map(|(address, node, state)| Endpoint {
                addresses: vec![ip(address)],
                ready: *state == "ready",
                serving: *state != "terminating",
                terminating: *state != "ready",
                node_name: Some((*node).into()),
                hostname: None,
            })
            .collect(),
    }
}

fn rules() -> Rules {
    Rules { node_name: "me".into(), pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()], ..Rules::default() }
}

fn render(service: &ServiceSpec, slice: &SliceSpec) -> super::Fragment {
    render::service(service, [slice].into_iter(), &rules())
}

const VIP: Front =
    Front { address: IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 5)), protocol: 6, port: 80 };
const PORT: Front = Front { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), protocol: 6, port: 30080 };

fn target(fragment: &super::Fragment, front: Front) -> Option<Target> {
    match fragment.get(&EntryKey::Front(front)) {
        Some(EntryValue::Target(t)) => Some(*t),
        _ => None,
    }
}

fn shape(fragment: &super::Fragment, front: Front) -> Shape {
    match target(fragment, front) {
        Some(Target::Chain(shape)) => shape,
        other => panic!("{other:?}"),
    }
}

fn backs(fragment: &super::Fragment, front: Front, first: u32) -> Vec<String> {
    (first..)
        .map_while(|n| fragment.get(&EntryKey::Slot(front, n)))
        .map(|v| match v {
            EntryValue::Back(Back { address, .. }) => address.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn endpoints_are_ready_or_else_serving_else_refused() {
    let s = service();
    let all = [
        ("10.244.0.2", "me", "ready"),
        ("10.244.1.2", "you", "serving"),
        ("10.244.1.3", "you", "terminating"),
    ];
    let f = render(&s, &slice(&all));
    assert_eq!(backs(&f, VIP, 0), ["10.244.0.2"]);
    assert_eq!(shape(&f, VIP).masquerade, Masquerade::OffCluster);
    assert_eq!(shape(&f, PORT).masquerade, Masquerade::Always);
    assert!(f.contains_key(&EntryKey::Hairpin(ip("10.244.0.2"))));
    let f = render(&s, &slice(&all[1..]));
    assert_eq!(backs(&f, VIP, 0), ["10.244.1.2"]);
    assert!(!f.keys().any(|k| matches!(k, EntryKey::Hairpin(_))), "not a pod of this node");
    let f = render(&s, &slice(&all[2..]));
    assert_eq!(target(&f, VIP), Some(Target::Reject));
    assert_eq!(target(&f, PORT), Some(Target::Reject));
}

#[test]
fn local_policies_use_this_nodes_endpoints() {
    let mut s = service();
    s.external_policy = Policy::Local;
    let both = slice(&[("10.244.0.2", "me", "ready"), ("10.244.1.2", "you", "ready")]);
    let f = render(&s, &both);
    let external = shape(&f, PORT);
    assert_eq!((external.slots, external.in_cluster_slots), (1, Some(2)));
    assert_eq!(external.masquerade, Masquerade::Never);
    assert_eq!(backs(&f, PORT, LOCAL_SLOTS), ["10.244.0.2"]);
    assert_eq!(backs(&f, PORT, 0).len(), 2);
    assert!(f.contains_key(&EntryKey::Chain(external.in_cluster().unwrap())));
    assert_eq!(backs(&f, VIP, 0).len(), 2, "within the cluster the policy is another one");
    let elsewhere = slice(&[("10.244.1.2", "you", "ready")]);
    assert_eq!(shape(&render(&s, &elsewhere), PORT).slots, 0, "dropped but for senders in the cluster");
    s.internal_policy = Policy::Local;
    assert_eq!(target(&render(&s, &elsewhere), VIP), Some(Target::Drop));
    assert_eq!(target(&render(&s, &slice(&[])), VIP), Some(Target::Reject));
}

#[test]
fn external_and_local_addresses() {
    let mut s = service();
    s.external_ips = vec![ip("203.0.113.1")];
    s.load_balancer_ips = vec![ip("203.0.113.2")];
    let endpoints = slice(&[("10.244.1.2", "you", "ready")]);
    let at = |address: &str| Front { address: ip(address), ..VIP };
    let f = render(&s, &endpoints);
    assert_eq!(target(&f, at("203.0.113.1")), None, "denied by default");
    assert_eq!(shape(&f, at("203.0.113.2")).masquerade, Masquerade::Always);
    let mut open = rules();
    open.allow_external_ips = true;
    open.local_service_ips.insert(ip("10.96.0.5"));
    let f = render::service(&s, [&endpoints].into_iter(), &open);
    assert!(target(&f, at("203.0.113.1")).is_some());
    assert_eq!(target(&f, VIP), None, "answered by this node itself");
    assert!(!f.contains_key(&EntryKey::ClusterIp(ip("10.96.0.5"))));
}

#[test]
fn changes_are_small_and_owners_never_flap() {
    let mut table = Table::default();
    let mut s = service();
    s.affinity_seconds = Some(10);
    let owner = || Owner::Service(Key::new("n", "s"));
    let two = slice(&[("10.244.1.2", "you", "ready"), ("10.244.1.3", "you", "ready")]);
    table.replace(owner(), render(&s, &two));
    assert!(table.replace(owner(), render(&s, &two)).is_empty());
    // One endpoint moves: per front its slot, and who may be gone back to.
    let moved = slice(&[("10.244.1.2", "you", "ready"), ("10.244.1.9", "you", "ready")]);
    let changes = table.replace(owner(), render(&s, &moved));
    assert_eq!(changes.len(), 8, "{changes:?}");
    assert!(!changes.iter().any(|c| matches!(c, Change::Add(EntryKey::Front(_) | EntryKey::Chain(_), _))));
    // A pod asks for the port that the Service has: the older owner keeps it until it goes.
    let wanted = [HostPort { protocol: Protocol::Tcp, host_port: 30080, host_ip: None, container_port: 1 }];
    let pod = Owner::Pod("p".into());
    let changes = table.replace(pod.clone(), render::host_ports(&[ip("10.244.0.7")], &wanted));
    assert!(!changes.iter().any(|c| matches!(c, Change::Add(EntryKey::Front(_), _))), "{changes:?}");
    table.replace(owner(), super::Fragment::new());
    assert_eq!(
        table.get(&EntryKey::Slot(PORT, 0)),
        Some(EntryValue::Back(Back { address: ip("10.244.0.7"), port: 1 }))
    );
    assert_eq!(table.get(&EntryKey::Front(VIP)), None);
    table.replace(pod, super::Fragment::new());
    assert_eq!(table.all().count(), 0);
}

#[test]
fn merged_changes_touch_each_key_once() {
    let key = EntryKey::ClusterIp(ip("10.96.0.5"));
    let (add, remove) = (Change::Add(key, EntryValue::Present), Change::Remove(key, EntryValue::Present));
    assert_eq!(merge(vec![add, remove]), []);
    assert_eq!(merge(vec![remove, add]), []);
    assert_eq!(merge(vec![remove, add, remove]), [remove]);
}

#[test]
fn chains_are_by_shape_not_by_service() {
    let mut table = Table::default();
    let two = slice(&[("10.244.1.2", "you", "ready"), ("10.244.1.3", "you", "ready")]);
    for n in 0..100u8 {
        let mut s = service();
        s.cluster_ips = vec![ip(&format!("10.96.1.{n}"))];
        s.ports[0].node_port = 30_000 + u16::from(n);
        table.replace(Owner::Service(Key::new("n", n.to_string())), render(&s, &two));
    }
    let chains = table.all().filter(|(k, _)| matches!(k, EntryKey::Chain(_))).count();
    assert_eq!(chains, 2, "one for addresses, one for node ports");
    let skeleton = Skeleton::default();
    let encoder = Encoder { table: "t", skeleton: &skeleton };
    let mut batch = Batch::new();
    let mut s = service();
    s.cluster_ips = vec![ip("10.96.1.7")];
    let changes = table.replace(Owner::Service(Key::new("n", "7")), super::Fragment::new());
    encoder.apply(&mut batch, &changes);
    assert!(batch.len() <= 4, "a few messages for a whole Service: {}", batch.len());
}
