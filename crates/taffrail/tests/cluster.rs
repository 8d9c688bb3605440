//! The whole program: a cluster comes up, runs pods, loses its process, goes down, and leaves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use client::typed::DeleteOptions;
use client::{Client, Patch};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use support::{Backend, Cluster, root, until};

fn hello(replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "hello", "image": "taffrail.io/hello:1",
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
                }]},
            },
        },
    }))
    .expect("a deployment")
}

async fn pods(client: &Client) -> Vec<Pod> {
    client.list::<Pod>(Some("default"), &Default::default()).await.expect("pods").items
}

/// Container ids of the running pods by pod name, when that many are ready.
async fn ready(client: &Client, wanted: usize) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    for pod in pods(client).await.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        if status.ready {
            found.push((pod.metadata.name.clone()?, status.container_id.clone()?));
        }
    }
    found.sort();
    (found.len() == wanted).then_some(found)
}

/// A plain HTTP request.
fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().ok()?, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split("\r\n\r\n").nth(1)?.trim().to_owned())
}

#[test]
fn a_deployment_runs_survives_the_program_and_nothing_is_left_of_it() {
    if root() {
        Backend::all().into_iter().for_each(a_deployment_runs_on);
    }
}

fn a_deployment_runs_on(backend: Backend) {
    let mut cluster = Cluster::on(backend);
    cluster.up(&[]);
    let before = cluster.with(async |client| {
        client.create(&hello(2)).await.expect("created");
        let service = json!({
            "metadata": {"name": "hello", "namespace": "default"},
            "spec": {"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let service: Service = serde_json::from_value(service).expect("a service");
        let service: Service = client.create(&service).await.expect("created");
        let before = until("two ready pods", async || ready(&client, 2).await).await;
        let ip = service.spec.and_then(|s| s.cluster_ip).expect("an address");
        let answer = until("an answer of the Service", async || get(&format!("{ip}:80"))).await;
        assert!(answer.starts_with("Hello from hello-"), "{answer}");
        let path = format!("/api/v1/namespaces/default/pods/{}/log", before[0].0);
        let log = client.stream(&path, None).await.expect("a log");
        let log = http_body_util::BodyExt::collect(log).await.expect("a log").to_bytes();
        assert_eq!(log, "listening on port 8080\n");
        before
    });

    // Who did what is on the record, the cluster's own components included.
    let record = |args: &[&str]| -> Vec<Value> {
        let mut all = vec!["audit", "query", "--since", "10m", "--output", "json"];
        all.extend(args);
        cluster.ok(&all).lines().map(|l| serde_json::from_str(l).expect("an event")).collect()
    };
    let created = record(&["--verb", "create", "--resource", "deployments", "--name", "hello"]);
    assert_eq!(created.len(), 1);
    assert_eq!(created[0]["user"]["username"], "kubernetes-admin");
    assert!(
        !record(&["--user", "system:kube-scheduler", "--verb", "create", "--resource", "pods/binding"])
            .is_empty()
    );
    assert!(!record(&["--user", "system:node:*", "--verb", "patch", "--resource", "pods/status"]).is_empty());
    cluster.ok(&["audit", "verify"]);

    // The program dies; its containers do not.
    cluster.kill();
    cluster.up(&[]);
    cluster.with(async |client| {
        let after = until("the same two pods", async || ready(&client, 2).await).await;
        assert_eq!(after, before);
        client
            .patch::<Deployment>("default", "hello", None, Patch::Merge(json!({"spec": {"replicas": 3}})))
            .await
            .expect("scaled");
        until("a third pod", async || ready(&client, 3).await).await;
    });
    cluster.ok(&["status"]);
    cluster.ok(&["audit", "verify"]);

    // Down: nothing runs, everything is kept.
    cluster.ok(&["down"]);
    cluster.ended();
    assert_eq!(cluster.residue(), Default::default());
    cluster.up(&[]);
    cluster.with(async |client| {
        until("three pods again", async || ready(&client, 3).await).await;
        client.delete::<Deployment>("default", "hello", &DeleteOptions::default()).await.expect("deleted");
        until("no pods", async || pods(&client).await.is_empty().then_some(())).await;
        let nodes = client.list::<Node>(None, &Default::default()).await.expect("nodes").items;
        assert_eq!(nodes.len(), 1);
    });

    cluster.ok(&["reset", "--yes"]);
    cluster.ended();
    assert_eq!(cluster.residue(), Default::default());
    assert!(!cluster.data_dir().exists());
}

#[test]
fn what_cannot_work_is_told_in_one_line() {
    if !root() {
        return;
    }
    let cluster = Cluster::new();
    let refused = |args: &[&str]| cluster.refused(args);
    let taken = cluster.inside(|| std::net::TcpListener::bind("[::]:6443").expect("bound"));
    assert!(refused(&[]).contains("cannot listen on"), "a port in use");
    drop(taken);
    assert!(refused(&["--node-cidr", "nonsense"]).contains("--node-cidr"));
    assert!(refused(&["--audit-policy-file", "/no/such"]).contains("/no/such"));
    assert!(refused(&["--hostname-override", "Not_A_Name"]).contains("--hostname-override"));
    assert!(refused(&["--token-auth-file", "/no/such"]).contains("/no/such"));
    assert!(refused(&["--leader-elect-renew-deadline", "20s"]).contains("--leader-elect"));
    assert!(refused(&["--store", "etcd=https://127.0.0.1"]).contains("--etcd-cafile"));
}

#[test]
fn nobody_grants_more_than_they_have() {
    if root() {
        Backend::all().into_iter().for_each(nobody_grants_more_on);
    }
}

fn nobody_grants_more_on(backend: Backend) {
    let mut cluster = Cluster::on(backend);
    cluster.up(&[]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let binding = |name: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "clerk", "namespace": "default"}],
        })
    };
    let token = cluster.with(async |client| {
        let post = async |path: &str, body: Value| {
            client.raw(http::Method::POST, path, Some(&body)).await.expect("created")
        };
        let core = "/api/v1/namespaces/default/serviceaccounts";
        post(core, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "clerk"}})).await;
        let clerk = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "clerk"},
            "rules": [
                {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings", "roles"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
            ],
        });
        post(&format!("{rbac}/clusterroles"), clerk).await;
        post(&format!("{rbac}/namespaces/default/rolebindings"), binding("clerk", "clerk")).await;
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = post(&format!("{core}/clerk/token"), request).await;
        answer["status"]["token"].as_str().expect("a token").to_owned()
    });
    cluster.as_bearer(&token, async |client| {
        let bindings = format!("{rbac}/namespaces/default/rolebindings");
        let post = async |path: &str, body: Value| client.raw(http::Method::POST, path, Some(&body)).await;
        let again = until("the clerk may bind what it has", async || {
            post(&bindings, binding("again", "clerk")).await.ok()
        });
        again.await;
        let refused = post(&bindings, binding("root", "cluster-admin")).await.expect_err("refused");
        assert_eq!(refused.code, 403);
        assert!(
            refused.message.contains("is attempting to grant RBAC permissions not currently held"),
            "{}",
            refused.message
        );
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "mine"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
        });
        let roles = format!("{rbac}/namespaces/default/roles");
        assert_eq!(post(&roles, role).await.expect_err("refused").code, 403);
        let secrets = client.raw(http::Method::GET, "/api/v1/namespaces/default/secrets", None).await;
        assert_eq!(secrets.expect_err("refused").code, 403);
    });
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.on_disk_of("640m");
    cluster.up(&[]);
    let filler = cluster.data_dir().join("filler");
    let path = "/api/v1/namespaces/default/configmaps";
    let config_map = |n: usize| {
        let value = "x".repeat(200_000);
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}")}, "data": {"v": value}})
    };
    // What is left goes to a file of somebody else.
    let mut file = std::fs::File::create(&filler).expect("a file");
    while file.write_all(&[0; 1 << 20]).is_ok() {}
    drop(file);
    let stored = cluster.with(async |client| {
        for n in 0..2000 {
            match client.raw(http::Method::POST, path, Some(&config_map(n))).await {
                Ok(_) => {}
                Err(refused) => {
                    assert!(refused.code >= 500, "{refused}");
                    assert!(client.raw(http::Method::GET, "/version", None).await.is_ok(), "reads go on");
                    return n;
                }
            }
        }
        panic!("the disk never was full");
    });
    assert!(stored > 0);
    std::fs::remove_file(&filler).expect("removed");
    cluster.with(async |client| {
        until("writes again", async || {
            client.raw(http::Method::POST, path, Some(&config_map(stored))).await.ok()
        })
        .await;
    });
    cluster.kill();
    cluster.up(&[]);
    cluster.with(async |client| {
        let all = client.raw(http::Method::GET, path, None).await.expect("a list");
        let ours = all["items"].as_array().expect("items").iter();
        let ours =
            ours.filter(|c| c["metadata"]["name"].as_str().is_some_and(|n| n.starts_with('c'))).count();
        assert_eq!(ours, stored + 1);
    });
    cluster.ok(&["audit", "verify"]);
}

#[test]
fn a_read_only_data_directory_is_refused_by_name() {
    if !root() {
        return;
    }
    let cluster = Cluster::new();
    cluster.on_read_only_disk();
    let data = cluster.data_dir();
    let out = cluster.taffrail(&["up", "--no-kubeconfig", "--data-dir", data.to_str().expect("a path")]);
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains(data.to_str().expect("a path")) && said.contains("Read-only"), "{said}");
}

#[test]
fn two_nodes_share_the_work_and_survive_the_program() {
    if root() {
        Backend::all().into_iter().for_each(two_nodes_share_the_work_on);
    }
}

fn two_nodes_share_the_work_on(backend: Backend) {
    let mut cluster = Cluster::on(backend);
    cluster.up(&["--nodes", "2"]);
    let before = cluster.with(async |client| {
        client.create(&hello(4)).await.expect("created");
        let before = until("four ready pods", async || ready(&client, 4).await).await;
        let nodes: std::collections::BTreeSet<_> =
            pods(&client).await.into_iter().filter_map(|p| p.spec?.node_name).collect();
        assert_eq!(nodes.len(), 2, "{nodes:?}");
        // Every pod is reached from the first node, wherever it is, and its log through its own node's kubelet.
        for pod in pods(&client).await {
            let ip = pod.status.and_then(|s| s.pod_ip).expect("an address");
            let name = pod.metadata.name.expect("a name");
            assert_eq!(get(&format!("{ip}:8080")), Some(format!("Hello from {name}")));
            let log = client.stream(&format!("/api/v1/namespaces/default/pods/{name}/log"), None).await;
            assert!(log.is_ok(), "{name}");
        }
        before
    });
    cluster.kill();
    cluster.up(&["--nodes", "2"]);
    cluster.with(async |client| {
        let after = until("the same four pods", async || ready(&client, 4).await).await;
        assert_eq!(after, before);
    });
    cluster.ok(&["reset", "--yes"]);
    cluster.ended();
    assert_eq!(cluster.residue(), Default::default());
}
