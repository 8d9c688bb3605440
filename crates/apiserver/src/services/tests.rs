//! Cases of Services: what they hold, what is refused, and what goes back.

use super::*;
use base::clock::SystemClock;
use base::rng::Rng;
use client::Client;
use client::fake::FakeApi;
use store::{Expect, Op, Stamped, Txn};

struct World {
    services: Services,
    api: Arc<FakeApi>,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(cidrs: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = store::Options::new(dir.path());
        let disk = Arc::new(store::disk::RealDisk);
        let store: Arc<dyn Store> =
            store::Embedded::open(options, disk, SystemClock::shared()).expect("opens");
        let (api, loopback) = (Arc::new(FakeApi::new()), Loopback::default());
        let _ = loopback.set(Client::new(api.clone()));
        let ranges: Vec<Range> = cidrs.iter().map(|c| Range::parse(c).expect("a range")).collect();
        let rng = Arc::new(Rng::seeded(7));
        let services = Services::new(&ranges, 30_000..=30_002, store.clone(), loopback, rng);
        let world = Self { services, api, store, _dir: dir };
        world.range("kubernetes", cidrs).await;
        world
    }

    async fn range(&self, name: &str, cidrs: &[&str]) {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let value = Stamped { bytes: object.to_string().into_bytes(), stamp: None };
        let key = format!("/registry/servicecidrs/{name}");
        let op = Op::Put { key, value, expect: Expect::Any };
        self.store.commit(Txn { ops: vec![op], record: None }).await.expect("stored");
    }

    /// Makes a Service as a write that is stored does.
    async fn make(&self, mut s: Value) -> Result<Value> {
        self.services.begin(&mut s, None, false).await?.end(true).await;
        Ok(s)
    }

    fn held(&self) -> Vec<String> {
        let all = self.api.objects("/apis/networking.k8s.io/v1/ipaddresses");
        all.iter().map(|a| object::name(a).to_owned()).collect()
    }
}

fn service(name: &str, extra: Value) -> Value {
    let spec =
        json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]});
    let mut s = json!({"metadata": {"namespace": "n", "name": name}, "spec": spec});
    for (k, v) in extra.as_object().into_iter().flatten() {
        s["spec"][k] = v.clone();
    }
    s
}

#[tokio::test]
async fn an_address_is_an_object_while_its_service_is_there() {
    let world = World::new(&["10.96.0.0/24", "fd00:96::/112"]).await;
    let old = world.make(service("a", json!({}))).await.expect("made");
    let ip = text(&old["spec"], "clusterIP").to_owned();
    assert_eq!((old["spec"]["clusterIPs"].clone(), world.held()), (json!([ip]), vec![ip.clone()]));
    let object = world.api.object(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).expect("there");
    assert_eq!(
        object["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(object["spec"]["parentRef"], json!({"resource": "services", "namespace": "n", "name": "a"}));
    // a second family, which a failed write gives back
    let mut new = old.clone();
    new["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    let write = world.services.begin(&mut new, Some(&old), false).await.expect("begun");
    assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(new["spec"]["clusterIPs"][1].as_str().is_some_and(|a| a.starts_with("fd00:96::")));
    assert_eq!(world.held().len(), 2);
    write.end(false).await;
    assert_eq!(world.held(), std::slice::from_ref(&ip));
    // no address once it has another name
    let mut external = old.clone();
    external["spec"]["type"] = json!("ExternalName");
    let write = world.services.begin(&mut external, Some(&old), false).await.expect("begun");
    assert_eq!(world.held(), [ip]);
    write.end(true).await;
    assert_eq!(world.held(), [""; 0]);
}

#[tokio::test]
async fn what_is_refused() {
    let world = World::new(&["10.96.0.0/24"]).await;
    let asked = |name: &str, ip: &str| service(name, json!({"clusterIP": ip, "clusterIPs": [ip]}));
    let first = world.make(asked("a", "10.96.0.50")).await.expect("made");
    let e = world.make(asked("b", "10.96.0.50")).await.expect_err("taken");
    assert_eq!(
        (e.code, e.message.as_str()),
        (
            422,
            "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.50\"]: failed to allocate IP 10.96.0.50: provided IP is already allocated"
        )
    );
    let e = world.make(asked("b", "10.97.0.50")).await.expect_err("nowhere");
    assert!(e.message.ends_with(
        "failed to allocate IP 10.97.0.50: the provided network does not match the current range"
    ));
    world.range("more", &["10.97.0.0/16"]).await;
    world.make(asked("b", "10.97.0.50")).await.expect("in another range");
    world.services.deleted(&first).await;
    world.make(asked("c", "10.96.0.50")).await.expect("free again");
    let own = service("d", json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    assert_eq!(world.make(own).await.expect("headless")["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn ranges_run_out_one_after_the_other() {
    let world = World::new(&["10.96.0.0/30"]).await;
    for name in ["a", "b"] {
        world.make(service(name, json!({}))).await.expect("made");
    }
    let e = world.make(service("c", json!({}))).await.expect_err("full");
    assert_eq!(
        (e.code, e.message.as_str()),
        (500, "Internal error occurred: failed to allocate a serviceIP for Service \"c\": range is full")
    );
    world.range("more", &["10.97.0.0/30"]).await;
    let third = world.make(service("c", json!({}))).await.expect("made");
    assert!(text(&third["spec"], "clusterIP").starts_with("10.97.0."));
}

#[tokio::test]
async fn node_ports_are_of_all_protocols_and_a_dry_run_takes_none() {
    let world = World::new(&["10.96.0.0/24"]).await;
    let both =
        json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let dns = world.make(service("dns", json!({"type": "NodePort", "ports": both}))).await.expect("made");
    let number = dns["spec"]["ports"][0]["nodePort"].clone();
    assert_eq!(dns["spec"]["ports"][1]["nodePort"], number, "one port, one node port");
    let same = json!([{"port": 1, "protocol": "UDP", "nodePort": number}]);
    let e = world.make(service("b", json!({"type": "NodePort", "ports": same}))).await.expect_err("taken");
    assert!(e.message.ends_with(&format!(
        "spec.ports[0].nodePort: Invalid value: {number}: provided port is already allocated"
    )));
    assert_eq!(world.held().len(), 1, "the address went back with the port");
    let mut dry = service("c", json!({"type": "NodePort"}));
    world.services.begin(&mut dry, None, true).await.expect("told").end(true).await;
    assert_eq!(
        (text(&dry["spec"], "clusterIP"), &dry["spec"]["ports"][0]["nodePort"]),
        ("10.96.0.0", &json!(32_769))
    );
    assert_eq!(world.held().len(), 1);
    for name in ["d", "e"] {
        world.make(service(name, json!({"type": "NodePort"}))).await.expect("made");
    }
    let e = world.make(service("f", json!({"type": "NodePort"}))).await.expect_err("full");
    assert_eq!(e.message, "Internal error occurred: failed to allocate a nodePort: range is full");
    let mut plain = dns.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    world.services.begin(&mut plain, Some(&dns), false).await.expect("begun").end(true).await;
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false});
    let balanced = world.make(service("g", balanced)).await.expect("made");
    assert_eq!(balanced["spec"]["healthCheckNodePort"], number);
    assert_eq!(balanced["spec"]["ports"][0].get("nodePort"), None);
}

#[tokio::test]
async fn what_is_given_out_is_told() {
    let world = World::new(&["10.0.0.0/24"]).await;
    world.make(service("a", json!({"type": "NodePort"}))).await.expect("made");
    world
        .make(service("b", json!({"clusterIPs": ["10.0.0.9"], "clusterIP": "10.0.0.9"})))
        .await
        .expect("made");
    world
        .make(service("c", json!({"clusterIPs": ["10.0.0.9"], "clusterIP": "10.0.0.9"})))
        .await
        .expect_err("taken");
    let mut out = String::new();
    world.services.metrics(&mut out);
    let told =
        |line: &str| assert!(out.lines().any(|l| l == format!("kube_apiserver_{line}")), "{line}\n{out}");
    told("clusterip_allocator_allocation_total{cidr=\"10.0.0.0/24\",scope=\"dynamic\"} 1");
    told("clusterip_allocator_allocation_total{cidr=\"10.0.0.0/24\",scope=\"static\"} 1");
    told("clusterip_allocator_allocation_errors_total{cidr=\"10.0.0.0/24\",scope=\"static\"} 1");
    // The objects of addresses are with the test's API, not in the store.
    told("clusterip_allocator_available_ips{cidr=\"10.0.0.0/24\"} 254");
    told("nodeport_allocator_allocation_total{scope=\"dynamic\"} 1");
    told("nodeport_allocator_allocated_ports 1");
    told("nodeport_allocator_available_ports 2");
}
