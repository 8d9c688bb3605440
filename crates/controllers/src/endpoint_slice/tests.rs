//! Cases: a Service, its pods and slices in, writes out.

use super::*;
use serde_json::{Value, json};

fn service(spec: Value) -> Service {
    let mut v = json!({"metadata": {"name": "s", "namespace": "n", "uid": "S", "labels": {"l": "1"}}, "spec": {
        "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"a": "1"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
    for (k, x) in spec.as_object().into_iter().flatten() {
        v["spec"][k] = x.clone();
    }
    serde_json::from_value(v).unwrap()
}

fn pod(i: usize, ready: bool) -> Arc<Pod> {
    let ips = json!([{"ip": format!("10.1.0.{i}")}, {"ip": format!("fd00::{i:x}")}]);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i}"), "labels": {"a": "1"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.0.{i}"), "podIPs": ips,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap(),
    )
}

fn run(service: &Service, pods: &[Arc<Pod>], slices: Vec<EndpointSlice>) -> Plan {
    let zones = HashMap::from([("node".to_owned(), Some("z".to_owned()))]);
    plan(&World { service, pods, slices, zones: &zones, trigger: "2026-01-01T00:00:00Z".parse().ok() })
}

/// Plans, leaves the slices as the server would have them then, and counts creations, updates and deletions.
fn step(slices: &mut Vec<EndpointSlice>, service: &Service, pods: &[Arc<Pod>]) -> (usize, usize, usize) {
    let p = run(service, pods, slices.clone());
    let counts = (p.create.len(), p.update.len(), p.delete.len());
    slices.retain(|s| p.delete.iter().chain(&p.update).all(|d| d.name() != s.name()));
    for (i, mut s) in p.create.into_iter().enumerate() {
        s.metadata.name = Some(format!("s-{}{i}", slices.len()));
        slices.push(s);
    }
    slices.extend(p.update);
    counts
}

#[test]
fn endpoints_follow_their_pods() {
    let s = service(json!({}));
    let mut slices = Vec::new();
    assert_eq!(step(&mut slices, &s, &[]), (1, 0, 0), "a placeholder");
    assert_eq!(step(&mut slices, &s, &[]), (0, 0, 0));
    assert_eq!(step(&mut slices, &s, &[pod(1, true), pod(2, false)]), (0, 1, 0), "it is filled");
    let slice = &slices[0];
    let endpoints = slice.endpoints.as_ref().unwrap();
    assert_eq!(endpoints.len(), 2);
    let (a, b) = (endpoints[0].conditions.as_ref().unwrap(), endpoints[1].conditions.as_ref().unwrap());
    assert_eq!((a.ready, a.serving, b.ready, b.serving), (Some(true), Some(true), Some(false), Some(false)));
    assert_eq!((endpoints[0].zone.as_deref(), endpoints[0].node_name.as_deref()), (Some("z"), Some("node")));
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let label = |k: &str| slice.label(k);
    assert_eq!(
        (label("l"), label(SERVICE_LABEL), label(MANAGED_BY_LABEL)),
        (Some("1"), Some("s"), Some(MANAGER))
    );
    assert_eq!(
        slice.annotation("endpoints.kubernetes.io/last-change-trigger-time"),
        Some("2026-01-01T00:00:00Z")
    );
    assert_eq!(step(&mut slices, &s, &[pod(1, true), pod(2, false)]), (0, 0, 0));
    assert_eq!(step(&mut slices, &s, &[pod(1, true), pod(2, true)]), (0, 1, 0));
    assert_eq!(step(&mut slices, &s, &[]), (0, 1, 0), "back to a placeholder");
    assert!(slices[0].endpoints.as_ref().unwrap().is_empty());
}

#[test]
fn a_hundred_endpoints_per_slice_and_few_writes() {
    let s = service(json!({}));
    let pods: Vec<_> = (1..=250).map(|i| pod(i, true)).collect();
    let ips: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let mut p = (**p).clone();
            let ip = json!([{"ip": format!("10.1.{}.{}", i / 200, i % 200)}]);
            p.status.as_mut().unwrap().pod_ips = serde_json::from_value(ip).unwrap();
            Arc::new(p)
        })
        .collect();
    let mut slices = Vec::new();
    assert_eq!(step(&mut slices, &s, &ips), (3, 0, 0));
    let sizes: Vec<_> = slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let mut more = ips.clone();
    more.push(pod(7, true));
    assert_eq!(step(&mut slices, &s, &more), (0, 1, 0));
}

#[test]
fn both_families_terminating_and_unready_addresses() {
    let s = service(
        json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIP": "None", "publishNotReadyAddresses": true}),
    );
    let mut leaving = (*pod(1, true)).clone();
    leaving.metadata.deletion_timestamp = Some(crate::common::time(jiff::Timestamp::UNIX_EPOCH));
    let p = run(&s, &[Arc::new(leaving)], vec![]);
    let types: Vec<_> = p
        .create
        .iter()
        .map(|s| (s.address_type.as_str(), s.endpoints.as_ref().unwrap()[0].addresses[0].as_str()))
        .collect();
    assert_eq!(types, [("IPv4", "10.1.0.1"), ("IPv6", "fd00::1")]);
    let c = p.create[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    assert_eq!((c.ready, c.serving, c.terminating), (Some(true), Some(true), Some(true)));
    assert_eq!(p.create[0].label("service.kubernetes.io/headless"), Some(""));
}

#[test]
fn pods_of_unknown_nodes_are_left_out() {
    let s = service(json!({}));
    let mut p = (*pod(1, true)).clone();
    p.spec.as_mut().unwrap().node_name = Some("elsewhere".into());
    let p = run(&s, &[Arc::new(p)], vec![]);
    assert_eq!(p.unknown_nodes, ["skipping Pod p1 for Service n/s: Node elsewhere Not Found"]);
}

#[test]
fn stale_copies_are_waited_for() {
    let (t, key) = (Tracker::default(), ObjectKey::new("n", "s"));
    let slice = |rv: &str| -> EndpointSlice {
        let v = json!({"metadata": {"name": "x", "uid": "x", "resourceVersion": rv}, "addressType": "IPv4", "endpoints": []});
        serde_json::from_value(v).unwrap()
    };
    t.wrote(&key, &slice("9"));
    assert!(t.is_stale(&key, &[]) && t.is_stale(&key, &[slice("8")]));
    assert!(!t.is_stale(&key, &[slice("9")]));
    t.deleted(&key, &slice("9"));
    assert!(t.is_stale(&key, &[slice("9")]));
    assert!(!t.is_stale(&key, &[]));
    t.wrote(&key, &slice("12"));
    t.gone(&key, "x");
    assert!(!t.is_stale(&key, &[]));
}
