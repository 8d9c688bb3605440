//! A container's environment (upstream: `makeEnvironmentVariables`, `pkg/kubelet/envvars`).
//!
//! The plan is pure: what it needs from ConfigMaps and Secrets is collected before ([`references`]) and handed in.

use super::expand::expand;
use super::field_path::{self, Addresses};
use super::objects::Objects;
use super::resources;
use super::spec::{self, ResourceList};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that the environment of a container is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub objects: &'a Objects,
    pub services: &'a [Arc<Service>],
    pub addresses: &'a Addresses,
    pub allocatable: &'a ResourceList,
}

/// Names of the ConfigMaps and of the Secrets that the container's environment reads.
pub fn references(container: &Container) -> (Vec<&str>, Vec<&str>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.as_deref().unwrap_or_default() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.as_str()));
    }
    for from in container.env.as_deref().unwrap_or_default().iter().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.as_str()));
    }
    (maps, secrets)
}

/// The variables, later ones having replaced earlier ones, without the image's own.
///
/// # Errors
/// Upstream's text of what is missing: the container waits with `CreateContainerConfigError`.
pub fn variables(i: &Inputs<'_>) -> Result<BTreeMap<String, String>, String> {
    let links = spec::spec(i.pod).enable_service_links.unwrap_or(true);
    let service = service_variables(i.services, spec::namespace(i.pod), links);
    let mut vars = BTreeMap::new();
    for from in i.container.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref
            && let Some(map) = i.objects.config_map(&r.name, r.optional.unwrap_or(false))?
        {
            let data = map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone()));
            vars.extend(data);
        }
        if let Some(r) = &from.secret_ref
            && let Some(secret) = i.objects.secret(&r.name, r.optional.unwrap_or(false))?
        {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            vars.extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), text(&v.0))));
        }
    }
    for var in i.container.env.as_deref().unwrap_or_default() {
        let written = var.value.as_deref().unwrap_or_default();
        let value = match (&var.value_from, written) {
            (Some(from), "") => match from_source(i, from)? {
                Some(v) => v,
                None => continue,
            },
            (_, text) => expand(text, |n| vars.get(n).or_else(|| service.get(n)).map(String::as_str)),
        };
        vars.insert(var.name.clone(), value);
    }
    for (name, value) in service {
        vars.entry(name).or_insert(value);
    }
    Ok(vars)
}

/// `None` for an optional source that is not there.
fn from_source(i: &Inputs<'_>, from: &EnvVarSource) -> Result<Option<String>, String> {
    let ns = spec::namespace(i.pod);
    if let Some(f) = &from.field_ref {
        return field_path::value(i.pod, &f.field_path, i.addresses).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return resources::field_value(i.container, &r.resource, r.divisor.as_ref(), i.allocatable).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional.unwrap_or(false);
        let Some(map) = i.objects.config_map(&r.name, optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(v.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {ns}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional.unwrap_or(false);
        let Some(secret) = i.objects.secret(&r.name, optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(String::from_utf8_lossy(&v.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {ns}/{}", r.key, r.name)),
        };
    }
    if from.file_key_ref.is_some() {
        return Err("fileKeyRef is not supported on this node".into());
    }
    Ok(Some(String::new()))
}

/// Variables of the namespace's Services and always of `default/kubernetes` (upstream: `getServiceEnvVarMap`).
fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for s in services {
        let ip = s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        let name = s.metadata.name.as_deref().unwrap_or_default();
        let ns = s.metadata.namespace.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        if ns == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(s);
        } else if ns == namespace && links {
            chosen.insert(name, s);
        }
    }
    chosen.values().flat_map(|s| one_service(s)).collect()
}

fn one_service(service: &Service) -> Vec<(String, String)> {
    let Some(s) = &service.spec else { return Vec::new() };
    let upper = |t: &str| t.replace('-', "_").to_uppercase();
    let ip = s.cluster_ip.as_deref().unwrap_or_default();
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut out = vec![(format!("{prefix}_SERVICE_HOST"), ip.to_owned())];
    let ports = s.ports.as_deref().unwrap_or_default();
    if let Some(first) = ports.first() {
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for p in ports {
        if let Some(name) = p.name.as_deref().filter(|n| !n.is_empty()) {
            out.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), p.port.to_string()));
        }
    }
    for (n, p) in ports.iter().enumerate() {
        let protocol = p.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), p.port);
        if n == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port = format!("{prefix}_PORT_{}_{}", p.port, protocol.to_uppercase());
        out.push((format!("{port}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{port}_PORT"), p.port.to_string()));
        out.push((format!("{port}_ADDR"), ip.to_owned()));
        out.push((port, url));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::objects::Missing;
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};

    fn run(container: Value, pod_extra: Value) -> Result<BTreeMap<String, String>, String> {
        let container: Container = serde_json::from_value(container).unwrap();
        let mut pod =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}});
        if let (Some(spec), Value::Object(extra)) = (pod["spec"].as_object_mut(), pod_extra) {
            spec.extend(extra);
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "cm"}, "data": {"a.b": "1", "X": "2"}}))
                .unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"pw": "c2VjcmV0"}})).unwrap();
        let missing = |t: &str| Missing { not_found: true, message: t.into() };
        let objects = Objects {
            config_maps: [
                ("cm".to_owned(), Ok(Arc::new(map))),
                ("none".to_owned(), Err(missing("configmap \"none\" not found"))),
            ]
            .into(),
            secrets: [("s".to_owned(), Ok(Arc::new(secret)))].into(),
        };
        let service = |ns: &str, name: &str, ip: &str| -> Arc<Service> {
            let ports =
                json!([{"name": "http-x", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": ns},
                    "spec": {"clusterIP": ip, "ports": ports}}))
                .unwrap(),
            )
        };
        let services = [
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "my-db", "fd00::5"),
            service("n", "headless", "None"),
            service("other", "x", "10.0.0.9"),
        ];
        variables(&Inputs {
            pod: &pod,
            container: &container,
            objects: &objects,
            services: &services,
            addresses: &Addresses::default(),
            allocatable: &ResourceList::new(),
        })
    }

    #[test]
    fn sources_and_expansion() {
        let vars = run(
            json!({"name": "c",
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}},
                            {"configMapRef": {"name": "none", "optional": true}}],
                "env": [{"name": "A", "value": "$(P_X)-$(LATER)-$(KUBERNETES_SERVICE_HOST)"},
                        {"name": "LATER", "value": "x"},
                        {"name": "pw", "value": "over"},
                        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a.b"}}},
                        {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}}]}),
            json!({}),
        )
        .unwrap();
        let get = |k: &str| vars.get(k).map(String::as_str);
        assert_eq!(get("P_a.b"), Some("1"), "odd names are kept");
        assert_eq!(get("A"), Some("2-$(LATER)-10.0.0.1"));
        assert_eq!(get("pw"), Some("over"));
        assert_eq!((get("N"), get("K"), get("O")), (Some("p"), Some("1"), None));
        assert_eq!(get("MY_DB_SERVICE_PORT_HTTP_X"), Some("80"));
        assert_eq!(get("MY_DB_PORT"), Some("tcp://[fd00::5]:80"));
        assert_eq!(get("MY_DB_PORT_53_UDP_PROTO"), Some("udp"));
        assert_eq!(get("HEADLESS_SERVICE_HOST"), None);
        assert_eq!(get("X_SERVICE_HOST"), None);
    }

    #[test]
    fn without_links_only_the_api() {
        let vars = run(json!({"name": "c"}), json!({"enableServiceLinks": false})).unwrap();
        assert!(vars.contains_key("KUBERNETES_SERVICE_PORT"));
        assert!(!vars.keys().any(|k| k.starts_with("MY_DB")));
    }

    #[test]
    fn texts_of_what_is_missing() {
        let env = |from: Value| {
            run(json!({"name": "c", "env": [{"name": "V", "valueFrom": from}]}), json!({})).unwrap_err()
        };
        assert_eq!(
            env(json!({"configMapKeyRef": {"name": "none", "key": "k"}})),
            "configmap \"none\" not found"
        );
        assert_eq!(
            env(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})),
            "couldn't find key k in ConfigMap n/cm"
        );
        assert_eq!(
            env(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
            "couldn't find key k in Secret n/s"
        );
    }
}
