//! The objects that every cluster starts with, made through the API under the API server's own name
//! (upstream: `pkg/controlplane`, `pkg/registry/rbac/rest`, `pkg/registry/scheduling/rest`).

use crate::config::UpOptions;
use apiserver::services::Range;
use auth::bootstrap::{Action, reconcile};
use client::Client;
use http::Method;
use meta::Status;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Offset of the DNS Service's addresses in the Service ranges (upstream: kubeadm's `GetDNSIP`).
pub const DNS_OFFSET: u128 = 10;

/// The namespaces that everything else lives in.
pub async fn namespaces(client: &Client) -> Result<(), String> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(client, "/api/v1/namespaces", &namespace).await.map_err(failed)?;
    }
    Ok(())
}

/// Everything else.
pub async fn run(
    client: &Client,
    ranges: &[Range],
    addresses: &[IpAddr],
    options: &UpOptions,
    now: jiff::Timestamp,
) -> Result<(), String> {
    for object in auth::bootstrap::objects() {
        rbac(client, &object).await.map_err(failed)?;
    }
    for (name, value, about) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": about,
        });
        ensure(client, "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.map_err(failed)?;
    }
    // addresses come from it
    let cidrs: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    controllers::service_cidrs::default::ensure(client, &cidrs, now).await.map_err(failed)?;
    kubernetes_service(client, ranges[0].nth(1), addresses, options).await.map_err(failed)?;
    dns_service(client, ranges).await.map_err(failed)
}

fn failed(e: Status) -> String {
    format!("cannot make the cluster's first objects: {e}")
}

/// Makes an object unless one of its name is there.
async fn ensure(client: &Client, collection: &str, object: &Value) -> Result<(), Status> {
    // Asked first: a Service's address counts as taken before its name does.
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    match client.raw(Method::GET, &format!("{collection}/{name}"), None).await {
        Err(e) if e.is_not_found() => client.raw(Method::POST, collection, Some(object)).await.map(drop),
        other => other.map(drop),
    }
}

/// Makes a bootstrap role or binding, or adds what an existing one lacks.
async fn rbac(client: &Client, object: &Value) -> Result<(), Status> {
    let plural = match object["kind"].as_str().unwrap_or("") {
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        _ => "rolebindings",
    };
    let ns = object["metadata"]["namespace"].as_str().unwrap_or("");
    let path = |name: &str| client::kind::path("rbac.authorization.k8s.io", "v1", plural, ns, name, "");
    let collection = path("");
    let path = path(object["metadata"]["name"].as_str().unwrap_or(""));
    match client.raw(Method::GET, &path, None).await {
        Ok(existing) => match reconcile(&existing, object) {
            Action::None | Action::Protected => Ok(()),
            Action::Update(fixed) => client.raw(Method::PUT, &path, Some(&fixed)).await.map(drop),
            Action::Recreate(fixed) => {
                client.raw(Method::DELETE, &path, None).await?;
                client.raw(Method::POST, &collection, Some(&fixed)).await.map(drop)
            }
        },
        Err(e) if e.is_not_found() => client.raw(Method::POST, &collection, Some(object)).await.map(drop),
        Err(e) => Err(e),
    }
}

/// The Service of the cluster's DNS; the nodes answer on its addresses themselves, so it selects nothing.
async fn dns_service(client: &Client, ranges: &[Range]) -> Result<(), Status> {
    let ips: Vec<String> = ranges.iter().map(|r| r.nth(DNS_OFFSET as u64).to_string()).collect();
    let families: Vec<&str> = ranges.iter().map(|r| if r.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let labels = json!({
        "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families,
            "ipFamilyPolicy": if ranges.len() == 2 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    ensure(client, "/api/v1/namespaces/kube-system/services", &service).await
}

/// The Service by which pods reach this server, and its endpoint.
async fn kubernetes_service(
    client: &Client,
    first_ip: IpAddr,
    addresses: &[IpAddr],
    options: &UpOptions,
) -> Result<(), Status> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let family = if first_ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": first_ip.to_string(), "clusterIPs": [first_ip.to_string()], "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": options.secure_port}],
        },
    });
    ensure(client, "/api/v1/namespaces/default/services", &service).await?;
    // An endpoint may not be a loopback address: a machine with no other has none.
    let of_family = |ip: &&IpAddr| ip.is_ipv4() == first_ip.is_ipv4() && !ip.is_loopback();
    let endpoints = addresses.iter().find(of_family).map_or_else(
        || json!([]),
        |ip| json!([{"addresses": [ip.to_string()], "conditions": {"ready": true}}]),
    );
    let subsets = addresses.iter().find(of_family).map_or_else(
        || json!([]),
        |ip| {
            let port = json!({"name": "https", "port": options.secure_port, "protocol": "TCP"});
            json!([{"addresses": [{"ip": ip.to_string()}], "ports": [port]}])
        },
    );
    // The slice is written here too, and not to be mirrored from this (upstream: `reconcilers.endpointsAdapter`).
    let legacy = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    });
    replace(client, "/api/v1/namespaces/default/endpoints", &legacy).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "https", "port": options.secure_port, "protocol": "TCP"}],
    });
    replace(client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await
}

/// Makes an object, or makes it what it should be.
async fn replace(client: &Client, collection: &str, object: &Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    match client.raw(Method::POST, collection, Some(object)).await {
        Err(e) if e.is_already_exists() => {
            client.raw(Method::PUT, &format!("{collection}/{name}"), Some(object)).await.map(drop)
        }
        other => other.map(drop),
    }
}
