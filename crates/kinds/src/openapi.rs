//! OpenAPI documents from the rows of the table and their types: v2 as one document, v3 as one per group version.
//!
//! They hold what clients act on: definitions with merge keys, list types and required fields, and operations
//! with their actions, kinds and parameters (by which `kubectl` learns that dry run and field validation are
//! supported). Nothing is kept here; building takes some milliseconds and the caller keeps the result.

mod definitions;
mod paths;
mod protobuf;

use crate::KindDef;
use definitions::{Definitions, META, VERSION_INFO};
use meta::schema::Schema;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The Kubernetes version whose API this is.
pub const VERSION: &str = "1.37";

/// Which form of OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A document of this form in protobuf.
    #[must_use]
    pub fn to_protobuf(self, document: &Value) -> Vec<u8> {
        protobuf::encode(self, document)
    }

    /// The reference to a definition.
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The document of `/openapi/v2`.
pub fn v2(rows: &[&KindDef], schema: &Schema) -> Value {
    let mut defs = Definitions::new(Dialect::V2, schema, rows);
    let mut paths = paths::build(rows, &mut defs);
    for (key, rows) in by_group_version(rows) {
        root(&key, rows.iter().all(|r| r.is_custom()), &mut defs, &mut paths);
    }
    for key in apis(rows) {
        about(&key, &mut defs, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": defs.finish(),
        "securityDefinitions": {"BearerToken": security()},
        "security": [{"BearerToken": []}],
    })
}

/// The documents under `/openapi/v3`, by path without the leading slash (`api/v1`, `apis/apps/v1`).
pub fn v3(rows: &[&KindDef], schema: &Schema) -> BTreeMap<String, Value> {
    let mut out: BTreeMap<String, Value> = by_group_version(rows)
        .into_iter()
        .map(|(key, rows)| (key.clone(), v3_of(&key, &rows, schema)))
        .collect();
    for key in apis(rows) {
        let mut defs = Definitions::new(Dialect::V3, schema, &[]);
        let mut paths = Map::new();
        about(&key, &mut defs, &mut paths);
        out.insert(key, v3_document(defs, paths));
    }
    out
}

/// Rows by the path of their group version, without the leading slash.
fn by_group_version<'a>(rows: &[&'a KindDef]) -> BTreeMap<String, Vec<&'a KindDef>> {
    let mut groups: BTreeMap<String, Vec<&KindDef>> = BTreeMap::new();
    for row in rows {
        groups.entry(base(row).trim_start_matches('/').to_owned()).or_default().push(row);
    }
    groups
}

/// Paths of documents about the API itself.
fn apis(rows: &[&KindDef]) -> Vec<String> {
    let fixed = ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"];
    let mut out: Vec<String> = fixed.map(str::to_owned).into();
    let groups: BTreeSet<&str> =
        rows.iter().filter(|r| !r.is_custom() && !r.group.is_empty()).map(|r| &*r.group).collect();
    out.extend(groups.into_iter().map(|group| format!("apis/{group}")));
    out
}

/// The operation that lists the resources of a group version. Custom ones are described without it.
fn root(key: &str, custom: bool, defs: &mut Definitions, paths: &mut Map<String, Value>) {
    if custom {
        return;
    }
    let (group, version) = match key.split('/').collect::<Vec<_>>()[..] {
        ["apis", group, version] => (group, version),
        _ => ("", "v1"),
    };
    let row = KindDef { group: group.to_owned().into(), version: version.to_owned().into(), ..KindDef::BASE };
    let id = format!("get{}APIResources", paths::group_part(&row));
    let path = format!("/{key}/");
    let answer = defs.reference(&format!("{META}.APIResourceList"));
    paths::about(paths, &path, &id, &paths::tag_of(&path), &answer, paths::OBJECT, defs.dialect);
}

/// A document about the API itself.
fn about(key: &str, defs: &mut Definitions, paths: &mut Map<String, Value>) {
    let (path, dialect) = (format!("/{key}/"), defs.dialect);
    let text = json!({"type": "string"});
    match key {
        "openid/v1/jwks" => {
            let id = "getServiceAccountIssuerOpenIDKeyset";
            paths::about(paths, &path, id, "openid", &text, &["application/jwk-set+json"], dialect);
        }
        ".well-known/openid-configuration" => {
            let id = "getServiceAccountIssuerOpenIDConfiguration";
            paths::about(paths, &path, id, "WellKnown", &text, &["application/json"], dialect);
        }
        "version" => {
            let answer = defs.reference(VERSION_INFO);
            paths::about(paths, &path, "getCodeVersion", "version", &answer, &["application/json"], dialect);
        }
        _ => {
            let group = key.strip_prefix("apis/");
            let (id, tag, ty) = match (key, group) {
                ("api", _) => ("getCoreAPIVersions".to_owned(), "core".to_owned(), "APIVersions"),
                (_, Some(group)) => {
                    let tag = paths::lower_first(&paths::group_name(group));
                    (format!("get{}APIGroup", paths::group_name(group)), tag, "APIGroup")
                }
                _ => ("getAPIVersions".to_owned(), "apis".to_owned(), "APIGroupList"),
            };
            let answer = defs.reference(&format!("{META}.{ty}"));
            paths::about(paths, &path, &id, &tag, &answer, paths::OBJECT, dialect);
        }
    }
}

fn v3_of(key: &str, rows: &[&KindDef], schema: &Schema) -> Value {
    let mut defs = Definitions::new(Dialect::V3, schema, rows);
    let mut paths = paths::build(rows, &mut defs);
    root(key, rows.iter().all(|r| r.is_custom()), &mut defs, &mut paths);
    v3_document(defs, paths)
}

fn v3_document(defs: Definitions, paths: Map<String, Value>) -> Value {
    let mut components = json!({"securitySchemes": {"BearerToken": security()}});
    let schemas = defs.finish();
    if schemas.as_object().is_some_and(|s| !s.is_empty()) {
        components["schemas"] = schemas;
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": components,
    })
}

fn security() -> Value {
    json!({"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"})
}

/// The URL under which a row's group version is served.
fn base(row: &KindDef) -> String {
    if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Sets a key where the value says something.
fn set(map: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        map.insert(key.to_owned(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KINDS;

    fn rows() -> Vec<KindDef> {
        KINDS.iter().map(|k| k()).collect()
    }

    /// Every `$ref` must lead somewhere.
    fn check_refs(at: &Value, root: &Value) {
        match at {
            Value::Object(m) => {
                if let Some(Value::String(r)) = m.get("$ref") {
                    assert!(root.pointer(r.trim_start_matches('#')).is_some(), "{r}");
                }
                m.values().for_each(|v| check_refs(v, root));
            }
            Value::Array(a) => a.iter().for_each(|v| check_refs(v, root)),
            _ => {}
        }
    }

    #[test]
    fn v2_is_whole() {
        let rows = rows();
        let doc = v2(&rows.iter().collect::<Vec<_>>(), crate::schema::schema());
        check_refs(&doc, &doc);
        let patch = &doc["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk("", "v1", "Pod"));
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        assert!(
            names.contains(&"dryRun") && names.contains(&"fieldValidation") && names.contains(&"body"),
            "{names:?}"
        );
        assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
        let spec = &doc["definitions"]["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(spec["required"], json!(["containers"]));
        assert_eq!(spec["properties"]["containers"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(
            doc["definitions"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
            json!([gvk("", "v1", "Pod")])
        );
    }

    #[test]
    fn custom_resources_are_published() {
        let crd = json!({"spec": {"group": "a.com", "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"scale": {}}, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"x": {"type": "string"}}}}}}}]}});
        let row = crate::custom::row(&crd, "v1").unwrap();
        let doc = v2(&[&row], crate::schema::schema());
        check_refs(&doc, &doc);
        let foo = &doc["definitions"]["com.a.v1.Foo"];
        assert_eq!(foo["properties"]["spec"]["properties"]["x"], json!({"type": "string"}));
        assert_eq!(foo["x-kubernetes-group-version-kind"], json!([gvk("a.com", "v1", "Foo")]));
        let patch = &doc["paths"]["/apis/a.com/v1/namespaces/{namespace}/foos/{name}"]["patch"];
        assert_eq!(
            patch["consumes"],
            json!([
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml"
            ])
        );
        let docs = v3(&[&row], crate::schema::schema());
        let doc = &docs["apis/a.com/v1"];
        check_refs(doc, doc);
        assert!(doc["components"]["schemas"]["com.a.v1.FooList"].is_object());
    }

    #[test]
    fn v3_is_whole() {
        let rows = rows();
        let docs = v3(&rows.iter().collect::<Vec<_>>(), crate::schema::schema());
        assert!(docs.contains_key("api/v1") && docs.contains_key("apis/apps/v1"));
        for (key, doc) in &docs {
            check_refs(doc, doc);
            assert!(doc["paths"].as_object().is_some_and(|p| !p.is_empty()), "{key}");
        }
        let apps = &docs["apis/apps/v1"];
        let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
        assert_eq!(scale["x-kubernetes-group-version-kind"], gvk("autoscaling", "v1", "Scale"));
        let strategy =
            &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
        assert_eq!(
            strategy["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"
        );
        let port = &docs["api/v1"]["components"]["schemas"]["io.k8s.api.core.v1.ContainerPort"]["properties"];
        assert_eq!(port["protocol"]["default"], "TCP");
        let number = &port["containerPort"];
        assert_eq!(
            (&number["type"], &number["format"], &number["default"]),
            (&json!("integer"), &json!("int32"), &json!(0))
        );
        assert!(number["description"].as_str().is_some_and(|d| d.starts_with("Number of port")));
    }
}
