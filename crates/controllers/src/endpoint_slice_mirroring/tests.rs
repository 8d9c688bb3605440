//! Cases of mirrored slices (upstream: `pkg/controller/endpointslicemirroring/reconciler_test.go`).

use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};

fn endpoints(subsets: Value) -> Endpoints {
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "uid": "e", "labels": {"a": "b"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "t", "kept": "1"}}, "subsets": subsets}))
    .unwrap()
}

fn stored(mut slice: EndpointSlice, name: &str) -> EndpointSlice {
    slice.metadata.name = Some(name.to_owned());
    slice
}

#[test]
fn one_slice_for_each_family_and_set_of_ports() {
    let e = endpoints(json!([
        {"addresses": [{"ip": "10.0.0.1", "hostname": "h"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "x"}],
         "ports": [{"port": 80, "protocol": "TCP"}]}
    ]));
    let got = plan(&e, Vec::new());
    assert_eq!((got.create.len(), got.invalid, got.skipped), (2, 1, 1));
    let v4 = &got.create[0];
    assert_eq!((v4.address_type.as_str(), v4.metadata.generate_name.as_deref()), ("IPv4", Some("s-")));
    let shown = serde_json::to_value(v4).unwrap();
    assert_eq!(
        shown["endpoints"],
        json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}])
    );
    assert_eq!(shown["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(shown["metadata"]["annotations"], json!({"kept": "1"}));
    assert_eq!(
        shown["metadata"]["labels"],
        json!({"a": "b", "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"})
    );
    let owner = &shown["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["apiVersion"]), (&json!("Endpoints"), &json!("v1")));
    let kept = got.create.iter().enumerate().map(|(i, s)| stored(s.clone(), &i.to_string())).collect();
    let again = plan(&e, kept);
    assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
}

#[test]
fn slices_are_reused_and_surplus_ones_go() {
    let with =
        |ip: &str, port: i64| endpoints(json!([{"addresses": [{"ip": ip}], "ports": [{"port": port}]}]));
    let slice = stored(plan(&with("10.0.0.1", 80), Vec::new()).create.remove(0), "one");
    let other = plan(&with("10.0.0.1", 81), vec![slice.clone()]);
    assert_eq!((other.update[0].name(), other.create.len(), other.delete.len()), ("one", 0, 0));
    let moved = plan(&with("10.0.0.2", 80), vec![slice.clone(), stored(slice.clone(), "two")]);
    assert_eq!((moved.update[0].name(), moved.delete[0].name()), ("one", "two"));
    assert_eq!(moved.update[0].endpoints.as_ref().unwrap()[0].addresses, ["10.0.0.2"]);
    let none = plan(&endpoints(json!([])), vec![slice]);
    assert_eq!((none.delete.len(), none.update.len()), (1, 0));
}

#[test]
fn only_so_many_addresses_of_a_subset() {
    let addresses: Vec<Value> =
        (0..1005).map(|i| json!({"ip": format!("10.0.{}.{}", i / 250, i % 250)})).collect();
    let got = plan(&endpoints(json!([{"addresses": addresses}])), Vec::new());
    assert_eq!((got.create[0].endpoints.as_ref().unwrap().len(), got.skipped), (1000, 5));
}

#[tokio::test]
async fn what_is_mirrored_follows_the_service() {
    let api = Arc::new(FakeApi::new());
    let service = |name: &str, selector: Value| json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"selector": selector}});
    let object = |name: &str, labels: Value| {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": labels},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
    };
    for (name, selector, labels) in [
        ("plain", Value::Null, json!({})),
        ("selects", json!({"a": "b"}), json!({})),
        ("skips", Value::Null, json!({SKIP_LABEL: "true"})),
    ] {
        api.seed("/api/v1/namespaces/n/services", &service(name, selector));
        api.seed("/api/v1/namespaces/n/endpoints", &object(name, labels));
    }
    api.seed("/api/v1/namespaces/n/endpoints", &object("alone", json!({})));
    let setup = Setup::of_fake(&api, Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())));
    let handle = start(&setup);
    let mut made = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        made = api.objects("/apis/discovery.k8s.io/v1/namespaces/n/endpointslices");
        if !made.is_empty() {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    setup.cancel.cancel();
    handle.stopped().await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["metadata"]["labels"][SERVICE_LABEL], "plain");
}
