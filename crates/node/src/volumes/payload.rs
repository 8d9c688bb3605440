//! The files of configMap, secret, downwardAPI and projected volumes: pure, from objects already read.

use crate::pod::field_path::{self, Addresses};
use crate::pod::objects::Objects;
use crate::pod::resources;
use crate::pod::spec::{self, ResourceList};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use std::collections::BTreeMap;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub user: Option<u32>,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// A service account token that a volume projects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenRequest {
    pub audience: String,
    pub expiration_seconds: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub objects: &'a Objects,
    pub tokens: &'a BTreeMap<TokenRequest, String>,
    pub addresses: &'a Addresses,
    pub allocatable: &'a ResourceList,
    /// Owner of token files.
    pub fs_user: Option<u32>,
}

fn sources(volume: &Volume) -> &[VolumeProjection] {
    volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default()
}

/// Names of the ConfigMaps and Secrets that a volume reads.
pub fn names(volume: &Volume) -> (Vec<&str>, Vec<&str>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    maps.extend(volume.config_map.as_ref().map(|c| c.name.as_str()));
    secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
    for s in sources(volume) {
        maps.extend(s.config_map.as_ref().map(|c| c.name.as_str()));
        secrets.extend(s.secret.as_ref().map(|s| s.name.as_str()));
    }
    (maps, secrets)
}

/// Tokens that a volume projects.
pub fn tokens(volume: &Volume) -> Vec<TokenRequest> {
    let all = sources(volume).iter().filter_map(|s| s.service_account_token.as_ref());
    all.map(token_request).collect()
}

fn token_request(t: &ServiceAccountTokenProjection) -> TokenRequest {
    TokenRequest {
        audience: t.audience.clone().unwrap_or_default(),
        expiration_seconds: t.expiration_seconds.unwrap_or(3600),
    }
}

/// The files of a volume.
///
/// # Errors
/// Upstream's text of what is missing.
pub fn of(i: &Inputs<'_>, volume: &Volume) -> Result<Payload, String> {
    if let Some(c) = &volume.config_map {
        let optional = c.optional.unwrap_or(false);
        let mode = c.default_mode.unwrap_or(0o644);
        return config_map(i, &c.name, c.items.as_deref(), mode, optional);
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        return secret(
            i,
            name,
            s.items.as_deref(),
            s.default_mode.unwrap_or(0o644),
            s.optional.unwrap_or(false),
        );
    }
    if let Some(d) = &volume.downward_api {
        return downward(i, d.items.as_deref().unwrap_or_default(), d.default_mode.unwrap_or(0o644));
    }
    match &volume.projected {
        Some(p) => projected(i, p),
        None => Ok(Payload::new()),
    }
}

fn file(data: &[u8], mode: i32) -> File {
    File { data: data.to_vec(), mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, user: None }
}

/// Picks the items of a map of bytes, or all of it; `absent` words a missing key.
fn pick<'a>(
    data: &BTreeMap<&'a str, &'a [u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    absent: &str,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(k, v)| ((*k).to_owned(), file(v, mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(v) => {
                out.insert(item.path.clone(), file(v, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("{absent}: {}", item.key)),
        }
    }
    Ok(out)
}

fn config_map(
    i: &Inputs<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(map) = i.objects.config_map(name, optional)? else { return Ok(Payload::new()) };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    pick(&text.chain(binary).collect(), items, mode, optional, "configmap references non-existent config key")
}

fn secret(
    i: &Inputs<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(secret) = i.objects.secret(name, optional)? else { return Ok(Payload::new()) };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    pick(&data, items, mode, optional, "references non-existent secret key")
}

fn downward(i: &Inputs<'_>, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
    let (mut out, mut errors) = (Payload::new(), Vec::new());
    for item in items {
        let value = if let Some(f) = &item.field_ref {
            field_path::value(i.pod, &f.field_path, i.addresses)
        } else if let Some(r) = &item.resource_field_ref {
            let name = r.container_name.as_deref().unwrap_or_default();
            match spec::find(i.pod, name) {
                Some((_, c)) => resources::field_value(&c, &r.resource, r.divisor.as_ref(), i.allocatable),
                None => Err(format!("container {name} not found")),
            }
        } else {
            continue;
        };
        match value {
            Ok(v) => {
                out.insert(item.path.clone(), file(v.as_bytes(), item.mode.unwrap_or(mode)));
            }
            Err(e) => errors.push(e),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(aggregate(&errors)) }
}

fn projected(i: &Inputs<'_>, p: &ProjectedVolumeSource) -> Result<Payload, String> {
    let mode = p.default_mode.unwrap_or(0o644);
    let (mut out, mut errors) = (Payload::new(), Vec::new());
    for s in p.sources.as_deref().unwrap_or_default() {
        match projection(i, s, mode) {
            Ok(files) => out.extend(files),
            Err(e) => errors.push(e),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(aggregate(&errors)) }
}

fn projection(i: &Inputs<'_>, s: &VolumeProjection, mode: i32) -> Result<Payload, String> {
    if let Some(x) = &s.secret {
        return secret(i, &x.name, x.items.as_deref(), mode, x.optional.unwrap_or(false));
    }
    if let Some(c) = &s.config_map {
        return config_map(i, &c.name, c.items.as_deref(), mode, c.optional.unwrap_or(false));
    }
    if let Some(d) = &s.downward_api {
        return downward(i, d.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(t) = &s.service_account_token {
        let token = i.tokens.get(&token_request(t)).ok_or("the service account token was not fetched")?;
        let grouped = spec::spec(i.pod).security_context.as_ref().is_some_and(|c| c.fs_group.is_some());
        let mode = if i.fs_user.is_some() || grouped { 0o600 } else { mode };
        let file = File { user: i.fs_user, ..file(token.as_bytes(), mode) };
        return Ok([(t.path.clone(), file)].into());
    }
    if s.cluster_trust_bundle.is_some() {
        return Err("clusterTrustBundle projections are not supported on this node".into());
    }
    if s.pod_certificate.is_some() {
        return Err("podCertificate projections are not supported on this node".into());
    }
    Ok(Payload::new())
}

/// Several errors as one text (upstream: `utilerrors.NewAggregate`).
fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for e in errors {
        if !unique.contains(&e.as_str()) {
            unique.push(e);
        }
    }
    match unique.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::objects::Missing;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn run(volume: Value) -> Result<Vec<(String, String, u32)>, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"l": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}))
            .unwrap();
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}});
        let gone = |t: &str| Missing { not_found: true, message: t.into() };
        let objects = Objects {
            config_maps: [
                ("cm".to_owned(), Ok(Arc::new(serde_json::from_value(map).unwrap()))),
                ("none".to_owned(), Err(gone("configmap \"none\" not found"))),
            ]
            .into(),
            secrets: [("none".to_owned(), Err(gone("secret \"none\" not found")))].into(),
        };
        let tokens =
            [(TokenRequest { audience: String::new(), expiration_seconds: 3607 }, "jwt".to_owned())].into();
        let i = Inputs {
            pod: &pod,
            objects: &objects,
            tokens: &tokens,
            addresses: &Addresses::default(),
            allocatable: &ResourceList::new(),
            fs_user: Some(7),
        };
        let files = of(&i, &volume)?;
        Ok(files
            .into_iter()
            .map(|(p, f)| (p, String::from_utf8_lossy(&f.data).into_owned(), f.mode))
            .collect())
    }

    fn f(p: &str, t: &str, m: u32) -> (String, String, u32) {
        (p.into(), t.into(), m)
    }

    #[test]
    fn config_maps() {
        let all = run(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o600}})).unwrap();
        assert_eq!(all, [f("a", "1", 0o600), f("b", "2", 0o600), f("bin", "\0\x01", 0o600)]);
        let items = json!([{"key": "a", "path": "x/y", "mode": 256}]);
        assert_eq!(
            run(json!({"name": "v", "configMap": {"name": "cm", "items": items}})).unwrap(),
            [f("x/y", "1", 0o400)]
        );
        let key = json!([{"key": "zz", "path": "x"}]);
        assert_eq!(
            run(json!({"name": "v", "configMap": {"name": "cm", "items": key}})).unwrap_err(),
            "configmap references non-existent config key: zz"
        );
        assert_eq!(
            run(json!({"name": "v", "configMap": {"name": "none"}})).unwrap_err(),
            "configmap \"none\" not found"
        );
        assert_eq!(run(json!({"name": "v", "configMap": {"name": "none", "optional": true}})).unwrap(), []);
    }

    #[test]
    fn projected_volumes() {
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}},
        ]);
        let got = run(json!({"name": "v", "projected": {"sources": sources}})).unwrap();
        assert_eq!(
            got,
            [
                f("ca.crt", "1", 0o644),
                f("cpu", "2", 0o644),
                f("namespace", "n", 0o644),
                f("token", "jwt", 0o600)
            ]
        );
        let broken = json!([{"configMap": {"name": "none"}}, {"secret": {"name": "none"}}]);
        assert_eq!(
            run(json!({"name": "v", "projected": {"sources": broken}})).unwrap_err(),
            "[configmap \"none\" not found, secret \"none\" not found]"
        );
    }
}
