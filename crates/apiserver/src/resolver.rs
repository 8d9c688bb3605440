//! Where Services are, for calls of the server's own: webhooks and aggregated API servers
//! (upstream: apiserver `pkg/util/proxy`, kube-aggregator `pkg/apiserver/resolvers.go`).
//!
//! Invariant: what is stored at the moment of a call decides.

use base::rng::Rng;
use client::outbound::Resolve;
use kinds::validate::{items, text};
use meta::object;
use registry::Registry;
use serde_json::Value;
use std::sync::Arc;

const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

/// Finds Services by their cluster address or, when asked to, one of their endpoints.
pub struct Resolver {
    pub registry: Arc<Registry>,
    /// Endpoints instead of cluster addresses (upstream: `--enable-aggregator-routing`).
    pub to_endpoints: bool,
    /// The server itself, which the Service `default/kubernetes` stands for.
    pub own: String,
    pub rng: Arc<Rng>,
}

impl Resolver {
    fn stored(&self, group: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, String> {
        let row = self.registry.kinds().resource(group, "v1", plural);
        let row = row.ok_or_else(|| format!("{plural} are not served"))?;
        let prefix = format!("{}{namespace}/", row.key_prefix());
        let range = store::Range { prefix: &prefix, ..store::Range::default() };
        let page = self.registry.store().list(&range).map_err(|e| e.to_string())?;
        Ok(page.entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect())
    }
}

impl Resolve for Resolver {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String> {
        if (namespace, name, port) == ("default", "kubernetes", 443) {
            return Ok(self.own.clone());
        }
        let row = self.registry.kinds().resource("", "v1", "services").ok_or("services are not served")?;
        let entry = self.registry.store().get(&row.key(namespace, name));
        let entry = entry.ok_or_else(|| format!("service {name:?} not found"))?;
        let service: Value = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
        if !self.to_endpoints {
            return by_cluster_address(&service, port);
        }
        let slices = self.stored("discovery.k8s.io", "endpointslices", namespace)?;
        by_endpoint(&service, port, &slices, &|bound| self.rng.below(bound))
    }
}

/// Upstream: `proxy.ResolveCluster`.
fn by_cluster_address(service: &Value, port: u16) -> Result<String, String> {
    let spec = &service["spec"];
    match (text(spec, "type"), text(spec, "clusterIP")) {
        ("ClusterIP", "None") => Err("cannot route to service with ClusterIP \"None\"".to_owned()),
        ("ClusterIP" | "LoadBalancer" | "NodePort", address) => {
            port_name(service, port)?;
            Ok(join(address, port))
        }
        ("ExternalName", _) => Ok(join(text(spec, "externalName"), port)),
        (other, _) => Err(format!("unsupported service type {other:?}")),
    }
}

/// Upstream: `proxy.ResolveEndpoint`; `below` chooses among those that will do.
fn by_endpoint(
    service: &Value,
    port: u16,
    slices: &[Value],
    below: &dyn Fn(u64) -> u64,
) -> Result<String, String> {
    let (name, spec) = (object::name(service), &service["spec"]);
    if !matches!(text(spec, "type"), "ClusterIP" | "LoadBalancer" | "NodePort") {
        return Err(format!("unsupported service type {:?}", text(spec, "type")));
    }
    let wanted = port_name(service, port)?;
    let own = |s: &&Value| s["metadata"]["labels"][SERVICE_OF_SLICE] == name;
    let family = &spec["ipFamilies"][0];
    let of_family = |first: bool| {
        let all: Vec<String> = slices
            .iter()
            .filter(own)
            .filter(|s| (&s["addressType"] == family) == first)
            .flat_map(|s| ready(s, wanted))
            .collect();
        let index = usize::try_from(below(all.len() as u64)).unwrap_or(0);
        all.into_iter().nth(index)
    };
    of_family(true)
        .or_else(|| of_family(false))
        .ok_or_else(|| format!("no endpoints available for service {name:?}"))
}

/// Addresses of a slice's ready endpoints, with the port of that name.
fn ready<'a>(slice: &'a Value, port_name: &'a str) -> impl Iterator<Item = String> + 'a {
    let port = items(slice, "ports")
        .iter()
        .find(|p| p["name"].as_str().unwrap_or("") == port_name)
        .and_then(|p| p["port"].as_u64())
        .and_then(|p| u16::try_from(p).ok());
    let ready = items(slice, "endpoints").iter().filter(|e| e["conditions"]["ready"] != false);
    ready.filter_map(move |e| Some(join(e["addresses"][0].as_str()?, port?)))
}

fn port_name(service: &Value, port: u16) -> Result<&str, String> {
    let found = items(&service["spec"], "ports").iter().find(|p| p["port"] == port);
    found
        .map(|p| text(p, "name"))
        .ok_or_else(|| format!("no service port {port} found for service {:?}", object::name(service)))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "api", "namespace": "n"}, "spec": spec})
    }

    #[test]
    fn cluster_addresses_and_names() {
        let ports = json!([{"port": 443, "name": "https"}]);
        let of = |spec: Value, port| by_cluster_address(&service(spec), port);
        let plain = json!({"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": ports});
        assert_eq!(of(plain.clone(), 443), Ok("10.96.0.7:443".into()));
        assert_eq!(of(plain, 80), Err("no service port 80 found for service \"api\"".into()));
        let v6 = json!({"type": "NodePort", "clusterIP": "fd00::7", "ports": ports});
        assert_eq!(of(v6, 443), Ok("[fd00::7]:443".into()));
        let none = json!({"type": "ClusterIP", "clusterIP": "None", "ports": ports});
        assert_eq!(of(none, 443), Err("cannot route to service with ClusterIP \"None\"".into()));
        let name = json!({"type": "ExternalName", "externalName": "localhost"});
        assert_eq!(of(name, 6443), Ok("localhost:6443".into()));
    }

    #[test]
    fn endpoints_that_are_ready_the_first_family_first() {
        let s = service(json!({"type": "ClusterIP", "clusterIP": "None", "ipFamilies": ["IPv6"], "ports": [
            {"port": 443, "name": "https"}]}));
        let slice = |family: &str, endpoints: Value| {
            json!({"metadata": {"labels": {SERVICE_OF_SLICE: "api"}}, "addressType": family,
                "ports": [{"name": "https", "port": 6443}], "endpoints": endpoints})
        };
        let v4 = slice("IPv4", json!([{"addresses": ["10.0.0.1"]}]));
        let v6 = slice(
            "IPv6",
            json!([
            {"addresses": ["fd00::1"], "conditions": {"ready": false}}, {"addresses": ["fd00::2"]}]),
        );
        let of = |slices: &[Value]| by_endpoint(&s, 443, slices, &|_| 0);
        assert_eq!(of(&[v4.clone(), v6]), Ok("[fd00::2]:6443".into()));
        assert_eq!(of(std::slice::from_ref(&v4)), Ok("10.0.0.1:6443".into()));
        let mut other = v4;
        other["metadata"]["labels"][SERVICE_OF_SLICE] = "another".into();
        assert_eq!(of(&[other]), Err("no endpoints available for service \"api\"".into()));
    }
}
