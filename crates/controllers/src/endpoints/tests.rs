//! Cases of Endpoints (upstream: `endpoints_controller_test.go`, `pkg/api/v1/endpoints/util_test.go`).

use super::subsets::repack;
use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};

fn of<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).unwrap()
}

fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    Arc::new(of(json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"a": "b"}},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}})))
}

fn service(spec: Value) -> Service {
    let mut s = json!({"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}],
        "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"]});
    for (k, v) in spec.as_object().unwrap() {
        s[k] = v.clone();
    }
    of(json!({"metadata": {"name": "s", "namespace": "n", "labels": {"x": "y"}}, "spec": s}))
}

fn shown(subsets: &[k8s_openapi::api::core::v1::EndpointSubset]) -> Value {
    let mut tree = serde_json::to_value(subsets).unwrap();
    for subset in tree.as_array_mut().unwrap() {
        for list in ["addresses", "notReadyAddresses"] {
            for a in subset.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                *a = a["ip"].clone();
            }
        }
    }
    tree
}

#[test]
fn subsets_are_repacked() {
    let port = |n: i64| json!({"port": n});
    let one = |ip: &str, n: i64| json!({"addresses": [{"ip": ip}], "ports": [port(n)]});
    for (subsets, want) in [
        (json!([{"addresses": [{"ip": "1.1.1.1"}]}]), json!([{"addresses": ["1.1.1.1"]}])),
        (
            json!([one("1.1.1.1", 1), one("1.1.1.1", 2)]),
            json!([{"addresses": ["1.1.1.1"], "ports": [port(1), port(2)]}]),
        ),
        (
            json!([one("2.2.2.2", 1), one("1.1.1.1", 1)]),
            json!([{"addresses": ["1.1.1.1", "2.2.2.2"], "ports": [port(1)]}]),
        ),
        (
            json!([one("1.1.1.1", 1), {"notReadyAddresses": [{"ip": "1.1.1.1"}], "ports": [port(1)]}]),
            json!([{"notReadyAddresses": ["1.1.1.1"], "ports": [port(1)]}]),
        ),
        (
            json!([one("1.1.1.1", 1), one("2.2.2.2", 2)]),
            json!([{"addresses": ["1.1.1.1"], "ports": [port(1)]}, {"addresses": ["2.2.2.2"], "ports": [port(2)]}]),
        ),
        (
            json!([one("1.1.1.1", 1), {"notReadyAddresses": [{"ip": "1.1.1.1"}], "ports": [port(2)]}]),
            json!([{"notReadyAddresses": ["1.1.1.1"], "ports": [port(2)]}, {"addresses": ["1.1.1.1"], "ports": [port(1)]}]),
        ),
    ] {
        let got = repack(&of::<Vec<_>>(subsets.clone()));
        assert_eq!(shown(&got), want, "{subsets}");
        assert_eq!(repack(&got), got);
    }
}

#[test]
fn the_object_follows_pods_and_service() {
    let pods = [pod("p1", "10.0.0.1", true), pod("p2", "10.0.0.2", false)];
    let trigger = "2026-01-01T00:00:00Z".parse().unwrap();
    let new = plan(&service(json!({})), &pods, None, Some(trigger)).unwrap();
    let ports = json!([{"port": 8080, "protocol": "TCP"}]);
    assert_eq!(
        shown(new.subsets.as_ref().unwrap()),
        json!([{"addresses": ["10.0.0.1"], "notReadyAddresses": ["10.0.0.2"], "ports": ports}])
    );
    assert_eq!(new.label("endpoints.kubernetes.io/managed-by"), Some("endpoint-controller"));
    assert_eq!((new.label("x"), new.label("service.kubernetes.io/headless")), (Some("y"), None));
    assert_eq!(
        new.annotation("endpoints.kubernetes.io/last-change-trigger-time"),
        Some("2026-01-01T00:00:00Z")
    );
    assert!(plan(&service(json!({})), &pods, Some(&new), None).is_none());
    let published = service(json!({"publishNotReadyAddresses": true, "clusterIP": "None"}));
    let all = plan(&published, &pods, Some(&new), None).unwrap();
    assert_eq!(all.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), 2);
    assert_eq!(all.label("service.kubernetes.io/headless"), Some(""));
    assert_eq!(all.annotation("endpoints.kubernetes.io/last-change-trigger-time"), None);
    let without_ports = service(json!({"ports": [], "clusterIP": "None"}));
    let got = plan(&without_ports, &pods[..1], None, None).unwrap();
    assert_eq!(shown(got.subsets.as_ref().unwrap()), json!([{"addresses": ["10.0.0.1"]}]));
    let v6 = service(json!({"ipFamilies": ["IPv6"]}));
    assert!(plan(&v6, &pods, None, None).unwrap().subsets.is_none());
}

#[test]
fn too_many_addresses_are_cut_and_told() {
    let pods: Vec<_> =
        (0..1100).map(|i| pod(&format!("p{i}"), &format!("10.0.{}.{}", i / 250, i % 250), i < 900)).collect();
    let new = plan(&service(json!({})), &pods, None, None).unwrap();
    let subset = &new.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 900);
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 100);
    assert_eq!(new.annotation("endpoints.kubernetes.io/over-capacity"), Some("truncated"));
    let fewer = plan(&service(json!({})), &pods[..3], Some(&new), None).unwrap();
    assert_eq!(fewer.annotation("endpoints.kubernetes.io/over-capacity"), None);
}

#[tokio::test]
async fn objects_come_and_go_with_their_services() {
    let api = Arc::new(FakeApi::new());
    api.seed("/api/v1/namespaces/n/services", &service(json!({})));
    api.seed("/api/v1/namespaces/n/pods", &*pod("p", "10.0.0.1", true));
    let left = |name: &str, annotations: Value| json!({"metadata": {"name": name, "namespace": "n", "annotations": annotations}});
    api.seed("/api/v1/namespaces/n/endpoints", &left("left", json!({})));
    api.seed("/api/v1/namespaces/n/endpoints", &left("leader", json!({LEADER: "x"})));
    let setup = Setup::of_fake(&api, Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())));
    let handle = start(&setup);
    let mut names = Vec::new();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let all = api.objects("/api/v1/namespaces/n/endpoints");
        names = all.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        if names == ["leader", "s"] {
            break;
        }
    }
    assert_eq!(names, ["leader", "s"]);
    setup.cancel.cancel();
    handle.stopped().await;
}
