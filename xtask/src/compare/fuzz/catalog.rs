//! What can be asked: the operations that OpenAPI v3 documents describe, by resource.
//!
//! Invariant: the order is that of the documents' paths, so that a seed means the same requests again.

use crate::compare::requests::NAMESPACE;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The documents' methods, as they are spelled there.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

pub struct Operation {
    pub method: String,
    /// With the namespace filled in; `{name}` is left.
    pub path: String,
    /// `x-kubernetes-action`: post, put, patch, delete, deletecollection, list, get.
    pub action: String,
    pub api_version: String,
    pub kind: String,
    /// The schema of what is sent, or for a patch of what is patched.
    pub body: Option<String>,
    pub parameters: BTreeSet<String>,
    /// An operation on a part of an object.
    pub on_part: bool,
}

impl Operation {
    pub fn named(&self) -> bool {
        self.path.contains("{name}")
    }
}

pub struct Resource {
    /// The path of its objects, without a namespace.
    pub path: String,
    /// The document in which its schemas are.
    pub document: usize,
    pub operations: Vec<Operation>,
}

pub struct Catalog {
    pub documents: Vec<Value>,
    pub resources: Vec<Resource>,
}

impl Catalog {
    pub fn read(documents: Vec<Value>) -> Self {
        let mut resources = Vec::new();
        for (index, document) in documents.iter().enumerate() {
            resources.extend(resources_of(index, document));
        }
        Self { documents, resources }
    }
}

fn resources_of(index: usize, document: &Value) -> Vec<Resource> {
    let mut found: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        if path.contains("/watch/") || path.contains("{path}") {
            continue;
        }
        let whole = path.split("/{name}").next().unwrap_or(path);
        let resource = whole.replace("/namespaces/{namespace}/", "/");
        for method in METHODS {
            if let Some(operation) = operation(path, method, item) {
                found.entry(resource.clone()).or_default().push(operation);
            }
        }
    }
    let made = found.into_iter().map(|(path, operations)| Resource { path, document: index, operations });
    made.collect()
}

fn operation(path: &str, method: &str, item: &Value) -> Option<Operation> {
    let described = item.get(method)?;
    let action = described["x-kubernetes-action"].as_str().filter(|a| *a != "connect")?;
    let kind = &described["x-kubernetes-group-version-kind"];
    let text = |field: &str| kind[field].as_str().unwrap_or("").to_owned();
    let api_version = match kind["group"].as_str() {
        Some(group) if !group.is_empty() => format!("{group}/{}", text("version")),
        _ => text("version"),
    };
    let both =
        [&item["parameters"], &described["parameters"]].into_iter().filter_map(Value::as_array).flatten();
    let parameters =
        both.filter(|p| p["in"] == "query").filter_map(|p| Some(p["name"].as_str()?.to_owned())).collect();
    let content = match action {
        "patch" => &described["responses"]["200"]["content"],
        _ => &described["requestBody"]["content"],
    };
    let body = content.as_object().and_then(|c| c.values().next()).and_then(|c| reference(&c["schema"]));
    Some(Operation {
        method: method.to_uppercase(),
        path: path.replace("{namespace}", NAMESPACE),
        action: action.to_owned(),
        api_version,
        kind: text("kind"),
        body,
        parameters,
        on_part: path.contains("/{name}/"),
    })
}

fn reference(schema: &Value) -> Option<String> {
    let name = schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_are_read() {
        let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/T"}}});
        let kind = json!({"group": "g", "version": "v1", "kind": "Toy"});
        let post = json!({"x-kubernetes-action": "post", "x-kubernetes-group-version-kind": kind,
            "parameters": [{"name": "dryRun", "in": "query"}], "requestBody": {"content": content}});
        let patch = json!({"x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind,
            "responses": {"200": {"content": content}}});
        let connect = json!({"x-kubernetes-action": "connect"});
        let document = json!({"paths": {
            "/apis/g/v1/namespaces/{namespace}/toys": {"post": post},
            "/apis/g/v1/namespaces/{namespace}/toys/{name}/status": {"patch": patch, "get": connect},
            "/apis/g/v1/watch/toys": {"post": post},
        }});
        let catalog = Catalog::read(vec![document]);
        assert_eq!(catalog.resources.len(), 1);
        let resource = &catalog.resources[0];
        assert_eq!((resource.path.as_str(), resource.operations.len()), ("/apis/g/v1/toys", 2));
        let [made, patched] = &resource.operations[..] else { panic!("two operations") };
        assert_eq!(made.path, format!("/apis/g/v1/namespaces/{NAMESPACE}/toys"));
        assert_eq!((made.api_version.as_str(), made.body.as_deref()), ("g/v1", Some("T")));
        assert!(made.parameters.contains("dryRun") && !made.named() && !made.on_part);
        assert!(patched.named() && patched.on_part && patched.body.as_deref() == Some("T"));
    }
}
