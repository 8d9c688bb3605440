//! Discovery documents, plain and aggregated, from the rows
//! (upstream: apiserver `pkg/endpoints/discovery`).

use crate::context::Context;
use crate::negotiate;
use crate::reply::Reply;
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::Kinds;
use serde_json::{Value, json};
use std::sync::Arc;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Groups in upstream's order of priority; others follow by name.
const GROUP_ORDER: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// The document at a discovery path; `None` when the path is none.
pub fn serve(ctx: &Context, path: &str) -> Option<Result<Reply>> {
    let kinds = ctx.server.registry.kinds();
    let parts: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let aggregated = accepts_aggregated(ctx);
    if matches!(parts.as_slice(), ["api"] | ["apis"]) && !aggregated && only_other_forms(ctx) {
        return Some(Err(Status::not_acceptable(negotiate::OBJECT_TYPES)));
    }
    let value = match parts.as_slice() {
        ["api"] if aggregated => return Some(Ok(aggregated_reply(&kinds, true))),
        ["apis"] if aggregated => return Some(Ok(aggregated_reply(&kinds, false))),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ctx.server.advertise}],
        }),
        ["apis"] => {
            let groups: Vec<Value> = groups(&kinds).iter().map(|g| group(&kinds, g)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] if !name.is_empty() && kinds.has_group(name) => {
            let mut value = group(&kinds, name);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        ["api", version] => return resources(&kinds, "", version),
        ["apis", name, _] if !kinds.has_group(name) => return None,
        ["apis", name, version] => return resources(&kinds, name, version),
        _ => return None,
    };
    Some(Ok(Reply::Document { code: 200, value }))
}

fn accepts_aggregated(ctx: &Context) -> bool {
    let accept = ctx.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    accept.split(',').any(|clause| {
        let has = |p: &str| clause.split(';').any(|s| s.trim() == p);
        clause.trim_start().starts_with("application/json")
            && has("g=apidiscovery.k8s.io")
            && has("v=v2")
            && has("as=APIGroupDiscoveryList")
    })
}

/// Every clause asks for some form of the document that there is not.
fn only_other_forms(ctx: &Context) -> bool {
    let accept = ctx.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    !accept.is_empty() && accept.split(',').all(|clause| clause.contains("as="))
}

/// Named groups that are served, in order.
pub fn groups(kinds: &Kinds) -> Vec<String> {
    let mut names: Vec<String> =
        kinds.rows().iter().map(|r| r.group.to_string()).filter(|g| !g.is_empty()).collect();
    names.sort();
    names.dedup();
    names.sort_by_key(|n| GROUP_ORDER.iter().position(|g| g == n).unwrap_or(usize::MAX));
    names
}

/// Versions of a group, the preferred one first.
fn versions(kinds: &Kinds, group: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for row in kinds.rows().iter().filter(|r| r.group == group) {
        if !out.contains(&row.version.to_string()) {
            out.push(row.version.to_string());
        }
    }
    out.sort_by(|a, b| kinds::custom::compare_versions(b, a));
    out
}

fn group(kinds: &Kinds, name: &str) -> Value {
    let versions: Vec<Value> = versions(kinds, name)
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn rows<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> Vec<&'a Arc<KindDef>> {
    let mut rows: Vec<_> = kinds.rows().iter().filter(|r| r.group == group && r.version == version).collect();
    rows.sort_by(|a, b| a.plural.cmp(&b.plural));
    rows
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Result<Reply>> {
    let rows = rows(kinds, group, version);
    if rows.is_empty() {
        return Some(Err(Status::no_such_resource()));
    }
    let mut list = Vec::new();
    for row in &rows {
        let mut entry = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced(),
            "kind": row.kind, "verbs": verbs_of(row),
        });
        let (short, categories) = (row.short_names(), row.category_names());
        if !short.is_empty() {
            entry["shortNames"] = json!(short);
        }
        if !categories.is_empty() {
            entry["categories"] = json!(categories);
        }
        if !row.storage.is_empty() {
            entry["storageVersionHash"] = storage_hash(row).into();
        }
        list.push(entry);
        let mut subs: Vec<_> = row.subresources.iter().collect();
        subs.sort_by_key(|s| order_of(row, s.name));
        for sub in subs {
            let mut entry = json!({
                "name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.namespaced(),
                "kind": sub.body.map_or(&*row.kind, |b| b.2), "verbs": sub.verbs,
            });
            if let Some((group, version, _)) = sub.body.filter(|b| (b.0, b.1) != (&*row.group, &*row.version))
            {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            list.push(entry);
        }
    }
    let gv = meta::GroupVersion::new(group, version).to_string();
    let mut value = json!({"kind": "APIResourceList", "groupVersion": gv, "resources": list});
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    Some(Ok(Reply::Document { code: 200, value }))
}

/// Kinds that upstream still stores in an older version, which clients see in the hash. Ours are stored as they are served.
const UPSTREAM_STORES: [(&str, &str); 5] = [
    ("ClusterTrustBundle", "v1beta1"),
    ("CustomResourceDefinition", "v1beta1"),
    ("DeviceTaintRule", "v1beta2"),
    ("PodCertificateRequest", "v1beta1"),
    ("StorageVersionMigration", "v1beta1"),
];

/// Upstream: `discovery.StorageVersionHash`, the first 8 bytes of the SHA-256 of `group/version/kind`.
fn storage_hash(row: &KindDef) -> String {
    use base64::Engine as _;
    let (group, version) = match (&row.stored_as, UPSTREAM_STORES.iter().find(|(kind, _)| *kind == row.kind))
    {
        _ if row.is_custom() => (&*row.group, &*row.version),
        (_, Some((_, version))) => (&*row.group, *version),
        (Some((group, version)), None) => (&**group, &**version),
        (None, None) => (&*row.group, &*row.version),
    };
    let text = format!("{group}/{version}/{}", row.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}

fn aggregated_reply(kinds: &Kinds, core: bool) -> Reply {
    let names = if core { vec![String::new()] } else { groups(kinds) };
    let items: Vec<Value> = names.iter().map(|g| aggregated_group(kinds, g)).collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    Reply::Form { content_type: AGGREGATED, value }
}

fn aggregated_group(kinds: &Kinds, group: &str) -> Value {
    let versions: Vec<Value> = versions(kinds, group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                rows(kinds, group, version).into_iter().map(|r| aggregated_resource(r)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({});
    if !group.is_empty() {
        metadata["name"] = group.into();
    }
    json!({"metadata": metadata, "versions": versions})
}

/// Subresources come by name, those of custom resources as upstream lists them.
fn order_of<'a>(row: &KindDef, name: &'a str) -> (bool, &'a str) {
    (row.is_custom() && name == "scale", name)
}

/// Verbs in the order in which upstream tells them.
fn verbs_of(row: &KindDef) -> Vec<&'static str> {
    const CUSTOM: [&str; 8] =
        ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    match row.is_custom() {
        true => CUSTOM.into_iter().filter(|v| row.verbs.contains(v)).collect(),
        false => row.verbs.to_vec(),
    }
}

fn aggregated_resource(row: &KindDef) -> Value {
    // upstream leaves out what is that of the document; not so for custom resources
    let kind = |group: &str, version: &str, kind: &str| {
        let own = !row.is_custom() && (group, version) == (&*row.group, &*row.version);
        let (group, version) = if own { ("", "") } else { (group, version) };
        json!({"group": group, "version": version, "kind": kind})
    };
    let scope = if row.namespaced() { "Namespaced" } else { "Cluster" };
    let mut out = json!({
        "resource": row.plural, "responseKind": kind(&row.group, &row.version, &row.kind), "scope": scope,
        "singularResource": row.singular, "verbs": verbs_of(row),
    });
    let (short, categories) = (row.short_names(), row.category_names());
    if !short.is_empty() {
        out["shortNames"] = json!(short);
    }
    if !categories.is_empty() {
        out["categories"] = json!(categories);
    }
    if !row.subresources.is_empty() {
        let mut subs: Vec<_> = row.subresources.iter().collect();
        subs.sort_by_key(|s| order_of(row, s.name));
        let subs: Vec<Value> = subs
            .into_iter()
            .map(|s| {
                let (g, v, k) = s.body.unwrap_or((&row.group, &row.version, &row.kind));
                json!({"subresource": s.name, "responseKind": kind(g, v, k), "verbs": s.verbs})
            })
            .collect();
        out["subresources"] = subs.into();
    }
    out
}
