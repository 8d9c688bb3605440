//! OpenAPI documents of the second version: cut down to some paths, merged, turned into the third version
//! (upstream: kube-openapi `pkg/aggregator`, `pkg/openapiconv`).
//!
//! Invariant: what a document says of its own paths means the same after merging: a definition whose name is taken by
//! another gets a new name, and whoever refers to it follows.

use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

const KINDS: &str = "x-kubernetes-group-version-kind";
/// What can be referred to: sections of a document, by the start of a reference.
const SECTIONS: [(&str, &str); 2] = [("definitions", "#/definitions/"), ("parameters", "#/parameters/")];

/// The document with the paths under a prefix, and what they refer to.
pub fn of_paths(mut document: Value, prefix: &str) -> Value {
    let mut out = json!({"paths": {}});
    if let Some(paths) = document["paths"].as_object_mut() {
        let kept: Map<String, Value> =
            std::mem::take(paths).into_iter().filter(|(path, _)| path.starts_with(prefix)).collect();
        out["paths"] = kept.into();
    }
    let mut open: Vec<String> = references(&out["paths"]).into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(reference) = open.pop() {
        if !seen.insert(reference.clone()) {
            continue;
        }
        for (section, start) in SECTIONS {
            let Some(name) = reference.strip_prefix(start).map(unescaped) else { continue };
            if let Some(found) = document[section].get_mut(&name).map(Value::take) {
                open.extend(references(&found));
                out[section][&name] = found;
            }
        }
    }
    out
}

/// Adds a document to another. Of a path that both have, the first one's word stands.
pub fn merge(into: &mut Value, other: &Value) {
    let mut renamed: HashMap<String, String> = HashMap::new();
    for (section, start) in SECTIONS {
        for (name, theirs) in other[section].as_object().into_iter().flatten() {
            if let Some(ours) = into[section].get(name)
                && without_kinds(ours) != without_kinds(theirs)
            {
                let new = free_name(&into[section], &other[section], name);
                renamed.insert(format!("{start}{}", escaped(name)), format!("{start}{}", escaped(&new)));
            }
        }
    }
    let followed = |value: &Value| {
        let mut value = value.clone();
        rename(&mut value, &renamed);
        value
    };
    for (section, start) in SECTIONS {
        for (name, theirs) in other[section].as_object().into_iter().flatten() {
            let new = renamed.get(&format!("{start}{}", escaped(name)));
            let name = new.map_or_else(|| name.clone(), |n| unescaped(&n[start.len()..]));
            match into[section].get_mut(&name) {
                Some(ours) => join_kinds(ours, theirs),
                None => into[section][&name] = followed(theirs),
            }
        }
    }
    for (path, item) in other["paths"].as_object().into_iter().flatten() {
        if into["paths"].get(path).is_none() {
            into["paths"][path] = followed(item);
        }
    }
}

/// All references in a value.
fn references(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    found.insert(reference.to_owned());
                }
                map.values().for_each(|v| walk(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(value, &mut found);
    found
}

fn rename(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(new) = names.get(reference.as_str())
            {
                reference.clone_from(new);
            }
            map.values_mut().for_each(|v| rename(v, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rename(v, names)),
        _ => {}
    }
}

/// A definition as far as it says what a type is like (upstream: `deepEqualDefinitionsModuloGVKs`).
fn without_kinds(definition: &Value) -> Value {
    let mut out = definition.clone();
    if let Some(map) = out.as_object_mut() {
        map.remove(KINDS);
    }
    out
}

fn join_kinds(ours: &mut Value, theirs: &Value) {
    for kind in theirs[KINDS].as_array().into_iter().flatten() {
        match ours[KINDS].as_array_mut() {
            Some(all) if all.contains(kind) => {}
            Some(all) => all.push(kind.clone()),
            None => ours[KINDS] = json!([kind]),
        }
    }
}

fn free_name(ours: &Value, theirs: &Value, name: &str) -> String {
    let taken = |n: &String| ours.get(n).is_some() || theirs.get(n).is_some();
    let mut number = 2u32;
    loop {
        let new = format!("{name}_v{number}");
        if !taken(&new) {
            return new;
        }
        number = number.saturating_add(1);
    }
}

/// A name in a reference (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

/// The document as one of the third version. Like upstream's, it loses what that version has no word for.
pub fn to_v3(document: &Value) -> Value {
    let mut schemas = document["definitions"].clone();
    point_to_components(&mut schemas);
    let shared = &document["parameters"];
    let mut paths = Map::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let mut out = Map::new();
        for (key, value) in item.as_object().into_iter().flatten() {
            let value = match key.as_str() {
                "parameters" => parameters(value, shared).0,
                "get" | "put" | "post" | "delete" | "options" | "head" | "patch" => operation(value, shared),
                _ => value.clone(),
            };
            out.insert(key.clone(), value);
        }
        paths.insert(path.clone(), out.into());
    }
    let info = match document.get("info") {
        Some(info) => info.clone(),
        None => json!({"title": "Generic API Server"}),
    };
    let schemas = if schemas.is_null() { json!({}) } else { schemas };
    json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}})
}

fn operation(old: &Value, shared: &Value) -> Value {
    let media = |field: &str| -> Vec<String> {
        let all: Vec<String> = old[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| m.as_str())
            .map(str::to_owned)
            .collect();
        if all.is_empty() { vec!["*/*".to_owned()] } else { all }
    };
    let content = |schema: &Value, media: Vec<String>| -> Value {
        let mut schema = schema.clone();
        point_to_components(&mut schema);
        Value::Object(media.into_iter().map(|m| (m, json!({"schema": schema}))).collect())
    };
    let mut out = old.clone();
    if let Some(map) = out.as_object_mut() {
        ["consumes", "produces", "schemes", "parameters"].iter().for_each(|f| drop(map.remove(*f)));
    }
    let (others, body) = parameters(&old["parameters"], shared);
    if others.as_array().is_some_and(|p| !p.is_empty()) {
        out["parameters"] = others;
    }
    if let Some(body) = body {
        out["requestBody"] = json!({"content": content(&body["schema"], media("consumes"))});
        for field in ["required", "description"] {
            if !body[field].is_null() {
                out["requestBody"][field] = body[field].clone();
            }
        }
    }
    for response in out["responses"].as_object_mut().into_iter().flatten().map(|(_, r)| r) {
        if let Some(schema) = response.as_object_mut().and_then(|r| r.remove("schema")) {
            response["content"] = content(&schema, media("produces"));
        }
    }
    out
}

/// Parameters but for the body, and the body.
fn parameters(old: &Value, shared: &Value) -> (Value, Option<Value>) {
    const OF_SCHEMA: [&str; 14] = [
        "type",
        "format",
        "items",
        "default",
        "enum",
        "maximum",
        "minimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "multipleOf",
    ];
    let mut out: Vec<Value> = Vec::new();
    let mut body = None;
    for p in old.as_array().into_iter().flatten() {
        let named = p["$ref"].as_str().and_then(|r| r.strip_prefix("#/parameters/"));
        let p = named.map_or(p, |name| &shared[unescaped(name)]);
        if p["in"] == "body" {
            body = Some(p.clone());
            continue;
        }
        let mut new = Map::new();
        let mut schema = Map::new();
        for (key, value) in p.as_object().into_iter().flatten() {
            let to = if OF_SCHEMA.contains(&key.as_str()) { &mut schema } else { &mut new };
            to.insert(key.clone(), value.clone());
        }
        new.insert("schema".to_owned(), schema.into());
        out.push(new.into());
    }
    (out.into(), body)
}

fn point_to_components(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/definitions/")
            {
                *reference = format!("#/components/schemas/{name}");
            }
            map.values_mut().for_each(point_to_components);
        }
        Value::Array(list) => list.iter_mut().for_each(point_to_components),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs() -> Value {
        let of = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        json!({
            "swagger": "2.0",
            "paths": {
                "/apis/g/v1/flunders": {"post": {
                    "consumes": ["application/json"], "produces": ["application/json"],
                    "parameters": [
                        {"in": "body", "name": "body", "required": true, "schema": of("Flunder")},
                        {"in": "query", "name": "pretty", "type": "string"},
                        {"$ref": "#/parameters/dry-1"},
                    ],
                    "responses": {"200": {"description": "OK", "schema": of("Flunder")}},
                }},
                "/apis/other/v1/": {"get": {"responses": {"200": {"schema": of("Other")}}}},
            },
            "parameters": {"dry-1": {"in": "query", "name": "dryRun", "type": "string"}},
            "definitions": {
                "Flunder": {"properties": {"metadata": of("ObjectMeta"), "status": of("Status")}},
                "ObjectMeta": {"type": "object", KINDS: [{"kind": "theirs"}]},
                "Status": {"type": "object", "description": "old"},
                "Other": {},
            },
        })
    }

    #[test]
    fn a_document_is_cut_to_its_paths() {
        let cut = of_paths(theirs(), "/apis/g/v1/");
        let keys =
            |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        assert_eq!(keys(&cut["paths"]), ["/apis/g/v1/flunders"]);
        let mut names = keys(&cut["definitions"]);
        names.sort();
        assert_eq!(names, ["Flunder", "ObjectMeta", "Status"]);
        assert_eq!(keys(&cut["parameters"]), ["dry-1"]);
    }

    #[test]
    fn names_that_are_taken_change() {
        let mut ours = json!({
            "paths": {"/api": {}},
            "definitions": {
                "ObjectMeta": {"type": "object", KINDS: [{"kind": "ours"}]},
                "Status": {"type": "object", "description": "new"},
            },
        });
        merge(&mut ours, &of_paths(theirs(), "/apis/g/v1/"));
        let d = &ours["definitions"];
        assert_eq!(d["ObjectMeta"][KINDS], json!([{"kind": "ours"}, {"kind": "theirs"}]));
        assert_eq!(d["Status"]["description"], "new");
        assert_eq!(d["Status_v2"]["description"], "old");
        let properties = &d["Flunder"]["properties"];
        assert_eq!(properties["status"]["$ref"], "#/definitions/Status_v2");
        assert_eq!(properties["metadata"]["$ref"], "#/definitions/ObjectMeta");
        assert!(ours["paths"]["/apis/g/v1/flunders"]["post"].is_object());
        let before = ours.clone();
        merge(&mut ours, &of_paths(theirs(), "/apis/none/"));
        assert_eq!(ours, before);
    }

    #[test]
    fn the_third_version_is_made_of_the_second() {
        let v3 = to_v3(&of_paths(theirs(), "/apis/g/v1/"));
        let post = &v3["paths"]["/apis/g/v1/flunders"]["post"];
        let flunder = json!({"schema": {"$ref": "#/components/schemas/Flunder"}});
        assert_eq!(post["requestBody"]["content"]["application/json"], flunder);
        assert_eq!(post["responses"]["200"]["content"]["application/json"], flunder);
        assert_eq!(
            post["parameters"],
            json!([
                {"in": "query", "name": "pretty", "schema": {"type": "string"}},
                {"in": "query", "name": "dryRun", "schema": {"type": "string"}},
            ])
        );
        let meta = &v3["components"]["schemas"]["Flunder"]["properties"]["metadata"]["$ref"];
        assert_eq!(meta, "#/components/schemas/ObjectMeta");
    }
}
