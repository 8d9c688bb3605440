//! The objects that every cluster starts with, made through the API under the API server's own name
//! (upstream: `pkg/controlplane`, `pkg/registry/rbac/rest`, `pkg/registry/scheduling/rest`).

use crate::config::UpOptions;
use apiserver::services::Range;
use auth::bootstrap::{Action, reconcile};
use client::Client;
use futures::TryStreamExt as _;
use http::Method;
use meta::Status;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// Offset of the DNS Service's addresses in the Service ranges (upstream: kubeadm's `GetDNSIP`).
pub const DNS_OFFSET: u128 = 10;

/// First objects that are made at a time.
const TOGETHER_MAX: usize = 16;
/// How often a first object is looked at anew because another server changed it meanwhile.
const RACES_MAX: usize = 5;
/// How long another server has in between.
const RACE_PAUSE: Duration = Duration::from_millis(500);

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
    options: &UpOptions,
    now: jiff::Timestamp,
) -> Result<(), String> {
    // Together, so that they wait for the disk together.
    let objects = futures::stream::iter(auth::bootstrap::objects().into_iter().map(Ok));
    let made = objects.try_for_each_concurrent(TOGETHER_MAX, async |object| rbac(client, &object).await);
    made.await.map_err(failed)?;
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
    kubernetes_service(client, ranges[0].nth(1), options).await.map_err(failed)?;
    dns_service(client, ranges).await.map_err(failed)
}

fn failed(e: Status) -> String {
    format!("cannot make the cluster's first objects: {e}")
}

/// Makes an object unless one of its name is there.
async fn ensure(client: &Client, collection: &str, object: &Value) -> Result<(), Status> {
    // Asked first: a Service's address counts as taken before its name does.
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    let path = format!("{collection}/{name}");
    let refused = match client.raw(Method::GET, &path, None).await {
        Err(e) if e.is_not_found() => client.raw(Method::POST, collection, Some(object)).await.err(),
        other => return other.map(drop),
    };
    match refused {
        None => Ok(()),
        // Another server that starts just now may have made it.
        Some(e) => client.raw(Method::GET, &path, None).await.map(drop).map_err(|_| e),
    }
}

/// Makes a Service that asks for its addresses, unless it is there. Its addresses are taken just before it is stored: by
/// another server that starts just now, or by one that ended between the two and left them behind.
async fn with_addresses(client: &Client, collection: &str, service: &Value) -> Result<(), Status> {
    for _ in 1..RACES_MAX {
        match ensure(client, collection, service).await {
            Err(e) if e.code == 422 => tokio::time::sleep(RACE_PAUSE).await,
            other => return other,
        }
    }
    for ip in service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}");
        let Ok(left) = client.raw(Method::GET, &path, None).await else { continue };
        if is_for(&left, service) {
            client.raw(Method::DELETE, &path, None).await?;
        }
    }
    ensure(client, collection, service).await
}

/// Whether an IPAddress is that of a Service.
fn is_for(address: &Value, service: &Value) -> bool {
    let (parent, metadata) = (&address["spec"]["parentRef"], &service["metadata"]);
    let same = |field: &str| parent[field] == metadata[field];
    parent["resource"] == "services" && same("namespace") && same("name")
}

/// Makes a bootstrap role or binding, or adds what an existing one lacks; anew when another server that starts just now
/// did something in between.
async fn rbac(client: &Client, object: &Value) -> Result<(), Status> {
    for _ in 1..RACES_MAX {
        match rbac_once(client, object).await {
            Err(e) if e.code == 409 || e.is_not_found() => {}
            other => return other,
        }
    }
    rbac_once(client, object).await
}

async fn rbac_once(client: &Client, object: &Value) -> Result<(), Status> {
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
    with_addresses(client, "/api/v1/namespaces/kube-system/services", &service).await
}

/// The Service by which pods reach the API servers.
async fn kubernetes_service(client: &Client, first_ip: IpAddr, options: &UpOptions) -> Result<(), Status> {
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
    with_addresses(client, "/api/v1/namespaces/default/services", &service).await
}

/// Brings the endpoints of that Service to the addresses of the API servers, which are of one family, in order.
pub async fn endpoints(client: &Client, v4: bool, addresses: &[IpAddr], port: u16) -> Result<(), Status> {
    let (family, empty) = (if v4 { "IPv4" } else { "IPv6" }, addresses.is_empty());
    let ips = addresses.iter().map(ToString::to_string);
    let listed: Vec<Value> = ips.clone().map(|ip| json!({"ip": ip})).collect();
    let port = json!({"name": "https", "port": port, "protocol": "TCP"});
    let subsets = if empty { json!([]) } else { json!([{"addresses": listed, "ports": [port]}]) };
    let endpoints: Vec<Value> =
        ips.map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
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
        "ports": [port],
    });
    replace(client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await
}

/// Makes an object, or makes it what it should be.
async fn replace(client: &Client, collection: &str, object: &Value) -> Result<(), Status> {
    let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or(""));
    match client.raw(Method::GET, &path, None).await {
        Ok(there) if covers(&there, object) => return Ok(()),
        Ok(_) => {}
        Err(e) if e.is_not_found() => match client.raw(Method::POST, collection, Some(object)).await {
            Err(e) if e.is_already_exists() => {}
            other => return other.map(drop),
        },
        Err(e) => return Err(e),
    }
    client.raw(Method::PUT, &path, Some(object)).await.map(drop)
}

/// Whether an object is as wanted in all that is said; what is empty may be left out.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(t), Value::Object(w)) => {
            w.iter().all(|(k, w)| t.get(k).map_or_else(|| *w == json!([]), |t| covers(t, w)))
        }
        (Value::Array(t), Value::Array(w)) => {
            t.len() == w.len() && t.iter().zip(w).all(|(t, w)| covers(t, w))
        }
        (Value::Null, Value::Array(w)) => w.is_empty(),
        (t, w) => t == w,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_as_wanted_is_written() {
        let there = json!({"a": {"b": 1, "more": 2}, "l": [{"x": 1, "y": 2}], "n": null});
        for same in
            [json!({}), json!({"a": {"b": 1}}), json!({"l": [{"x": 1}]}), json!({"n": [], "gone": []})]
        {
            assert!(covers(&there, &same), "{same}");
        }
        for other in [json!({"a": {"b": 2}}), json!({"l": []}), json!({"l": [{"x": 1}, {}]}), json!({"z": 1})]
        {
            assert!(!covers(&there, &other), "{other}");
        }
    }
}
