//! Ranges and addresses against an API in memory.

use super::*;
use crate::start::Setup;
use base::clock::ManualClock;
use client::fake::FakeApi;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use std::time::Duration;

const MADE: &str = "2026-01-01T00:00:00Z";

pub(super) fn range(name: &str, cidrs: &[&str]) -> ServiceCIDR {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})).unwrap()
}

pub(super) fn address(ip: &str, ns: &str, service: &str) -> IPAddress {
    let labels = json!({FAMILY: family(!ip.contains(':')), MANAGED_BY: MANAGER});
    let parent = json!({"resource": "services", "namespace": ns, "name": service});
    let v = json!({"metadata": {"name": ip, "labels": labels, "creationTimestamp": MADE}, "spec": {"parentRef": parent}});
    serde_json::from_value(v).unwrap()
}

pub(super) fn service(ns: &str, name: &str, ip: &str) -> Service {
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]});
    serde_json::from_value(
        json!({"metadata": {"namespace": ns, "name": name, "creationTimestamp": MADE}, "spec": spec}),
    )
    .unwrap()
}

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

async fn until(api: &FakeApi, what: impl Fn(&FakeApi) -> bool) {
    for _ in 0..500 {
        if what(api) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {:#?}", api.writes());
}

#[tokio::test]
async fn the_three_work_together() {
    let api = Arc::new(FakeApi::new());
    let clock = Arc::new(ManualClock::new(MADE.parse().unwrap()));
    let mut setup = Setup::of_fake(&api, clock.clone());
    setup.config.service_cidrs = vec!["10.0.0.0/16".into()];
    api.seed("/api/v1/namespaces/n/services", &service("n", "s", "10.0.0.5"));
    let handles = start(&setup);
    let ready = |api: &FakeApi| {
        let object = api.object(&format!("{RANGES}/kubernetes")).unwrap_or(Value::Null);
        object["status"]["conditions"][0]["message"] == "Kubernetes Service CIDR is ready"
            && object["metadata"]["finalizers"] == json!(["networking.k8s.io/service-cidr-finalizer"])
    };
    until(&api, ready).await;
    let addressed = |api: &FakeApi| {
        // The Service may have been looked at before there was a range, and is due again then.
        clock.advance(Duration::from_millis(10));
        !api.objects(ADDRESSES).is_empty()
    };
    until(&api, addressed).await;
    let made = &api.objects(ADDRESSES)[0];
    assert_eq!(made["metadata"]["labels"][FAMILY], "IPv4");
    assert_eq!(made["spec"]["parentRef"], json!({"resource": "services", "namespace": "n", "name": "s"}));
    setup.cancel.cancel();
    for handle in handles {
        handle.stopped().await;
    }
}
