//! Several servers on one etcd are one cluster: what one writes the others show, nothing is given away twice, one of them
//! runs the controllers, and another takes over. Needs root and `TAFFRAIL_TEST_ETCD`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use client::Client;
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::{Backend, Cluster, Etcd, root, until};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Small enough for two servers to meet in them.
const RANGES: [&str; 2] =
    ["--service-cluster-ip-range=10.96.0.0/26", "--service-node-port-range=30000-30039"];

fn flags(n: u8) -> Vec<String> {
    let ip = Etcd::address(n);
    let own = [format!("--bind-address={ip}"), format!("--advertise-address={ip}"), "--nodes=0".to_owned()];
    own.into_iter().chain(RANGES.map(str::to_owned)).collect()
}

fn up(server: &mut Cluster, n: u8) {
    let flags = flags(n);
    server.up(&flags.iter().map(String::as_str).collect::<Vec<_>>());
}

fn refused(server: &Cluster, n: u8) -> String {
    let flags = flags(n);
    server.refused(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn post(client: &Client, path: &str, body: Value) -> Result<Value, meta::Status> {
    client.raw(Method::POST, path, Some(&body)).await
}

async fn get(client: &Client, path: &str) -> Value {
    client.raw(Method::GET, path, None).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}})
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version")
}

/// Two servers with everything that several tests need; `None` when they cannot run.
fn two() -> Option<(Cluster, Cluster)> {
    if !root() || !Backend::all().contains(&Backend::Etcd) {
        return None;
    }
    let mut a = Cluster::on(Backend::Etcd);
    up(&mut a, 1);
    let mut b = a.another();
    b.copy_keys_of(&a);
    up(&mut b, 2);
    Some((a, b))
}

#[test]
fn what_one_writes_the_other_shows() {
    let Some((a, b)) = two() else { return };
    a.run(async || {
        let (one, two) = (&a.client(None), &b.client(None));
        written_here_is_read_there(one, two).await;
        a_watch_goes_on_at_the_other(one, two).await;
        of_two_updates_one_wins(one, two).await;
        what_was_just_made_counts_at_the_other(&a, &b, one, two).await;
        both_are_endpoints(one).await;
    });
    // Each has the record of what was asked of it, and the chain of both holds.
    for (server, name) in [(&a, "at-a"), (&b, "at-b")] {
        let query = ["audit", "query", "--since", "10m", "--output", "json", "--resource", "configmaps"];
        let found = server.ok(&[&query[..], &["--verb", "create", "--name", name]].concat());
        assert_eq!(found.lines().count(), 1, "{found}");
        server.ok(&["audit", "verify"]);
    }
    let other =
        b.ok(&["audit", "query", "--since", "10m", "--output", "json", "--name", "at-a", "--verb", "create"]);
    assert_eq!(other, "", "each its own");
}

async fn written_here_is_read_there(one: &Client, two: &Client) {
    for n in 0..30 {
        let (from, to) = if n % 2 == 0 { (one, two) } else { (two, one) };
        let made = post(from, MAPS, config_map(&format!("m{n}"), "x")).await.unwrap();
        let path = format!("{MAPS}/m{n}");
        assert_eq!(get(to, &path).await, made);
        let listed = get(to, MAPS).await;
        let found =
            listed["items"].as_array().unwrap().iter().any(|m| m["metadata"]["name"] == format!("m{n}"));
        assert!(found && version(&listed) >= version(&made));
        let not_older = get(to, &format!("{MAPS}?resourceVersion={}", version(&made))).await;
        assert!(version(&not_older) >= version(&made));
        from.raw(Method::DELETE, &path, None).await.unwrap();
        assert_eq!(to.raw(Method::GET, &path, None).await.unwrap_err().code, 404);
    }
    post(one, MAPS, config_map("at-a", "x")).await.unwrap();
    post(two, MAPS, config_map("at-b", "x")).await.unwrap();
}

/// A watch at the second server from a version that the first one told, with writes of both.
async fn a_watch_goes_on_at_the_other(one: &Client, two: &Client) {
    let begin = version(&post(one, MAPS, config_map("watched", "0")).await.unwrap());
    let uri = format!("{MAPS}?watch=true&resourceVersion={begin}&timeoutSeconds=60");
    let mut stream = http_body_util::BodyDataStream::new(two.stream(&uri, None).await.unwrap());
    let mut expected = Vec::new();
    for n in 1..=40 {
        let at = if n % 3 == 0 { two } else { one };
        let body = config_map("watched", &n.to_string());
        let path = format!("{MAPS}/watched");
        let changed = at.raw(Method::PUT, &path, Some(&body)).await.unwrap();
        expected.push((version(&changed), n.to_string()));
    }
    let (mut seen, mut buffer) = (Vec::new(), Vec::new());
    while seen.len() < expected.len() {
        let piece = tokio::time::timeout(support::SOON, stream.next()).await.expect("events in time");
        buffer.extend_from_slice(&piece.expect("the watch goes on").unwrap());
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(event["type"], "MODIFIED", "{event}");
            let object = &event["object"];
            seen.push((version(object), object["data"]["v"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(seen, expected);
}

async fn of_two_updates_one_wins(one: &Client, two: &Client) {
    let path = format!("{MAPS}/contested");
    post(one, MAPS, config_map("contested", "")).await.unwrap();
    for round in 0..20 {
        let now = get(if round % 2 == 0 { one } else { two }, &path).await;
        let with = |v: &str| {
            let mut object = now.clone();
            object["data"]["v"] = v.into();
            object
        };
        // A write that changes nothing always succeeds.
        let (of_one, of_two) = (with(&format!("one in {round}")), with(&format!("two in {round}")));
        let (a, b) = tokio::join!(
            one.raw(Method::PUT, &path, Some(&of_one)),
            two.raw(Method::PUT, &path, Some(&of_two)),
        );
        let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
        let lost = lost.expect_err("one of them lost");
        assert_eq!((lost.code, &lost.reason), (409, &meta::Reason::Conflict));
        assert_eq!(get(one, &path).await, won.unwrap());
    }
    // Who names no version gets through, whoever else writes.
    let add = |client: &'static str| json!({"data": {client: "x"}});
    let patch = |client: &Client, what: Value| {
        let (client, path) = (client.clone(), path.clone());
        async move {
            client
                .patch::<k8s_openapi::api::core::v1::ConfigMap>(
                    "default",
                    path.rsplit('/').next().unwrap(),
                    None,
                    client::Patch::Merge(what),
                )
                .await
        }
    };
    for _ in 0..20 {
        let (a, b) = tokio::join!(patch(one, add("a")), patch(two, add("b")));
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
        one.raw(Method::PUT, &path, Some(&config_map("contested", ""))).await.unwrap();
    }
}

/// Namespaces, accounts and tokens made at one server are known at the other at once; Secrets are readable at both, and
/// by nobody in etcd.
async fn what_was_just_made_counts_at_the_other(a: &Cluster, b: &Cluster, one: &Client, two: &Client) {
    for n in 0..10 {
        let name = format!("n{n}");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        post(one, "/api/v1/namespaces", namespace).await.unwrap();
        let maps = format!("/api/v1/namespaces/{name}/configmaps");
        post(two, &maps, config_map("first", "x")).await.unwrap();
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "clerk"}});
        post(one, &accounts, account).await.unwrap();
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let token = post(one, &format!("{accounts}/clerk/token"), request).await.unwrap();
        let clerk = b.client(token["status"]["token"].as_str());
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let me = post(&clerk, "/apis/authentication.k8s.io/v1/selfsubjectreviews", review).await.unwrap();
        assert_eq!(me["status"]["userInfo"]["username"], format!("system:serviceaccount:{name}:clerk"));
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"v": "hunter2-hunter2"},
    });
    let made = post(one, secrets, secret).await.unwrap();
    assert_eq!(get(two, &format!("{secrets}/s")).await, made);
    assert!(!a.etcd().holds(b"aHVudGVyMi1odW50ZXIy"), "the Secret is plain in etcd");
    assert!(a.etcd().holds(b"k8s:enc:aesgcm:v1:taffrail-"));
}

async fn both_are_endpoints(client: &Client) {
    let wanted = json!([Etcd::address(1), Etcd::address(2)]);
    until("both servers are endpoints", async || {
        let endpoints = get(client, "/api/v1/namespaces/default/endpoints/kubernetes").await;
        let all = endpoints["subsets"][0]["addresses"].as_array()?.clone();
        (Value::from_iter(all.iter().map(|a| a["ip"].clone())) == wanted).then_some(())
    })
    .await;
    let slice = get(client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2), "{slice}");
}

fn service(name: &str, port: Option<u64>) -> Value {
    let mut entry = json!({"port": 80});
    if let Some(port) = port {
        entry["nodePort"] = port.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [entry]},
    })
}

#[test]
fn no_address_and_no_port_is_given_twice() {
    const EACH: usize = 15;
    let Some((a, b)) = two() else { return };
    a.run(async || {
        let clients = [a.client(None), b.client(None)];
        let make = |who: usize| {
            let client = clients[who].clone();
            async move {
                let mut made = Vec::new();
                for n in 0..EACH {
                    made.push(post(&client, SERVICES, service(&format!("s{who}-{n}"), None)).await.unwrap());
                }
                made
            }
        };
        let (mut made, more) = tokio::join!(make(0), make(1));
        made.extend(more);
        let ports: BTreeSet<u64> =
            made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).collect();
        assert_eq!(ports.len(), 2 * EACH, "{ports:?}");
        let ips: BTreeSet<&str> = made.iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap()).collect();
        assert_eq!(ips.len(), 2 * EACH, "{ips:?}");

        // A port that one gave away is taken at the other, until it is given back.
        let [one, two] = &clients;
        let port = *ports.first().unwrap();
        let refused = post(two, SERVICES, service("mine", Some(port))).await.unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains("provided port is already allocated"), "{}", refused.message);
        let has = |s: &&Value| s["spec"]["ports"][0]["nodePort"] == port;
        let holder = made.iter().find(has).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        one.raw(Method::DELETE, &format!("{SERVICES}/{holder}"), None).await.unwrap();
        until("the port is free", async || post(two, SERVICES, service("mine", Some(port))).await.ok()).await;
        // No more than there are, and each of them.
        let mut left = 40 - 2 * EACH;
        let full = loop {
            let client = &clients[left % 2];
            match post(client, SERVICES, service(&format!("more-{left}"), None)).await {
                Ok(_) => left -= 1,
                Err(full) => break full,
            }
        };
        assert_eq!(left, 0, "{full}");
        assert!(full.message.contains("range is full"), "{full}");
    });
}

/// Who holds a lease.
async fn holder(client: &Client, name: &str) -> String {
    let lease = get(client, &format!("{LEASES}/{name}")).await;
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

async fn deploy(client: &Client, name: &str) {
    let labels = json!({"app": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    post(client, "/apis/apps/v1/namespaces/default/deployments", deployment).await.unwrap();
}

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

/// Pods of a Deployment that were ever made, when there are three.
async fn three_pods(client: &Client, name: &str) {
    let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}");
    let count = async || get(client, &path).await["items"].as_array().map_or(0, Vec::len);
    until("three pods", async || (count().await >= 3).then_some(())).await;
    // Had two made them, there would soon be more, or some that are being taken back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count().await, 3);
    let events = get(client, "/api/v1/namespaces/default/events").await;
    let made = events["items"].as_array().unwrap().iter();
    let of_set = |e: &&Value| {
        let about = e["involvedObject"]["name"].as_str().unwrap_or_default();
        about.starts_with(&format!("{name}-")) && e["reason"] == "SuccessfulCreate"
    };
    assert_eq!(made.filter(of_set).count(), 3);
}

#[test]
fn one_leads_and_the_other_takes_over() {
    let Some((mut a, mut b)) = two() else { return };
    let first = a.run(async || {
        let (one, two) = (&a.client(None), &b.client(None));
        deploy(two, "led").await;
        three_pods(one, "led").await;
        let events = get(two, "/api/v1/namespaces/kube-system/events").await;
        let told: Vec<_> =
            events["items"].as_array().unwrap().iter().filter(|e| e["reason"] == "LeaderElection").collect();
        let mut leaders = Vec::new();
        for (name, source) in
            [("kube-controller-manager", "kube-controller-manager"), ("kube-scheduler", "default-scheduler")]
        {
            let holder = holder(two, name).await;
            let message = format!("{holder} became leader");
            let tells = |e: &&&Value| e["message"] == message && e["source"]["component"] == source;
            assert_eq!(told.iter().filter(tells).count(), 1, "{name}: {told:?}");
            leaders.push(holder);
        }
        assert_eq!(told.len(), 2, "{told:?}");
        leaders.swap_remove(0)
    });
    // The first was there first, so it leads; it dies.
    a.kill();
    let begun = Instant::now();
    b.with(async |two| {
        // What every API server looks after itself goes on without a leader.
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        post(&two, crds, definition()).await.unwrap();
        let things = "/apis/example.com/v1/namespaces/default/things";
        until("served", async || two.raw(Method::GET, things, None).await.ok()).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        deploy(&two, "taken-over").await;
        three_pods(&two, "taken-over").await;
        assert_ne!(holder(&two, "kube-controller-manager").await, first);
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    b.with(async |two| {
        let only = json!([{"ip": Etcd::address(2)}]);
        until("the dead server is no endpoint", async || {
            let endpoints = get(&two, "/api/v1/namespaces/default/endpoints/kubernetes").await;
            (endpoints["subsets"][0]["addresses"] == only).then_some(())
        })
        .await;
    });
    // It comes back, and follows. The other goes in order, and it need not wait for the lease to end.
    up(&mut a, 1);
    let begun = Instant::now();
    b.ok(&["down"]);
    b.ended();
    a.with(async |one| {
        deploy(&one, "handed-over").await;
        three_pods(&one, "handed-over").await;
        let lease = get(&one, &format!("{LEASES}/kube-controller-manager")).await;
        assert_eq!(lease["spec"]["leaseTransitions"], 2, "{lease}");
        let endpoints = get(&one, "/api/v1/namespaces/default/endpoints/kubernetes").await;
        assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": Etcd::address(1)}]));
    });
    assert!(begun.elapsed() < Duration::from_secs(13), "{:?}", begun.elapsed());
    a.ok(&["audit", "verify"]);
}

#[test]
fn who_has_other_keys_is_refused() {
    if !root() || !Backend::all().contains(&Backend::Etcd) {
        return;
    }
    let mut a = Cluster::on(Backend::Etcd);
    up(&mut a, 1);
    let b = a.another();
    let why = refused(&b, 2);
    assert!(why.contains("certificate authority") && why.contains("copy the directory pki"), "{why}");
    b.copy_keys_of(&a);
    let keys = b.data_dir().join("pki/encryption.key");
    std::fs::remove_file(&keys).unwrap();
    let why = refused(&b, 2);
    assert!(why.contains("sealed with the key") && why.contains(keys.to_str().unwrap()), "{why}");
    assert!(!keys.exists(), "a new key beside a store that needs another");
    b.copy_keys_of(&a);
    std::fs::remove_file(b.data_dir().join("pki/sa.key")).unwrap();
    let why = refused(&b, 2);
    assert!(why.contains("sa.key"), "{why}");
}

#[test]
fn without_etcd_nothing_is_answered_wrongly_and_with_it_all_goes_on() {
    if !root() || !Backend::all().contains(&Backend::Etcd) {
        return;
    }
    let mut a = Cluster::on(Backend::Etcd);
    up(&mut a, 1);
    a.with(async |client| {
        let made = post(&client, MAPS, config_map("kept", "x")).await.unwrap();
        a.etcd().kill();
        let path = format!("{MAPS}/kept");
        // What need not be new is still there.
        assert_eq!(get(&client, &format!("{path}?resourceVersion=0")).await, made);
        let refused = client.raw(Method::GET, &path, None).await.expect_err("a stale answer");
        assert_eq!(refused.code, 503, "{refused}");
        let refused = post(&client, MAPS, config_map("lost", "x")).await.expect_err("written nowhere");
        assert_eq!(refused.code, 500, "{refused}");
        until("not ready", async || client.stream("/readyz", None).await.err()).await;
        a.etcd().restart();
        until("writes again", async || post(&client, MAPS, config_map("after", "x")).await.ok()).await;
        assert_eq!(get(&client, &path).await, made);
        until("ready again", async || client.stream("/readyz", None).await.ok()).await;
    });
}
