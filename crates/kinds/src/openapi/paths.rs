//! Paths and operations of the rows.

use super::definitions::{DELETE_OPTIONS, Definitions, PATCH, STATUS, body_type};
use super::{Dialect, base, gvk};
use crate::{KindDef, Subresource};
use serde_json::{Map, Value, json};

/// A query parameter: name and OpenAPI type.
type Param = (&'static str, &'static str);

const WRITE: &[Param] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("pretty", "string")];
const PATCHES: &[Param] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
    ("pretty", "string"),
];
const READ: &[Param] = &[("pretty", "string")];
const LIST: &[Param] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("pretty", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[Param] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("pretty", "string"),
    ("propagationPolicy", "string"),
];
const CONNECT: &[Param] = &[];

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const OBJECT_TYPES: &[&str] = &["application/json", "application/yaml"];

/// One operation, before it is written in a dialect.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: Value,
    tag: &'a str,
    params: &'static [Param],
    body: Option<Value>,
    answer: Option<Value>,
}

/// All paths of the rows.
pub(super) fn build(rows: &[&KindDef], defs: &mut Definitions) -> Value {
    let mut paths = Map::new();
    for row in rows {
        add_row(row, defs, &mut paths);
    }
    Value::Object(paths)
}

fn add_row(row: &KindDef, defs: &mut Definitions, paths: &mut Map<String, Value>) {
    let base = base(row);
    let plural = &row.plural;
    let has = |verb: &str| row.verbs.contains(&verb);
    let scoped = if row.namespaced() {
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    let collection = collection(row, defs);
    put(paths, defs, &scoped, row.namespaced(), false, collection);
    if row.namespaced() && has("list") {
        let id = format!("list{}{}ForAllNamespaces", group_part(row), row.kind);
        let list = list(row, defs, id);
        put(paths, defs, &format!("{base}/{plural}"), false, false, vec![list]);
    }
    let kind = gvk(&row.group, &row.version, &row.kind);
    let ty = row.schema.to_string();
    let item = item(row, "", row.verbs, &ty, &kind, defs);
    let one = format!("{scoped}/{{name}}");
    put(paths, defs, &one, row.namespaced(), true, item);
    for sub in row.subresources {
        let operations = subresource(row, sub, defs);
        put(paths, defs, &format!("{one}/{}", sub.name), row.namespaced(), true, operations);
    }
    if row.custom.is_some() {
        without_strategic(paths, &one);
        row.subresources.iter().for_each(|sub| without_strategic(paths, &format!("{one}/{}", sub.name)));
    }
}

/// Custom resources have no strategic merge patch.
fn without_strategic(paths: &mut Map<String, Value>, path: &str) {
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let Some(patch) = paths.get_mut(path).and_then(|p| p.get_mut("patch")) else { return };
    if let Some(list) = patch.get_mut("consumes").and_then(Value::as_array_mut) {
        list.retain(|t| t != STRATEGIC);
    }
    if let Some(content) = patch.pointer_mut("/requestBody/content").and_then(Value::as_object_mut) {
        content.remove(STRATEGIC);
    }
}

fn collection<'a>(row: &KindDef, defs: &mut Definitions) -> Vec<Operation<'a>> {
    let has = |verb: &str| row.verbs.contains(&verb);
    let mut out = Vec::new();
    if has("list") {
        out.push(list(row, defs, operation_id("list", row, "")));
    }
    if has("create") {
        let ty = defs.object(&row.schema);
        out.push(Operation {
            method: "post",
            action: "post",
            id: operation_id("create", row, ""),
            kind: gvk(&row.group, &row.version, &row.kind),
            tag: "",
            params: WRITE,
            body: Some(ty.clone()),
            answer: Some(ty),
        });
    }
    if has("deletecollection") {
        out.push(Operation {
            method: "delete",
            action: "deletecollection",
            id: format!("delete{}Collection{}{}", group_part(row), scope_part(row), row.kind),
            kind: gvk(&row.group, &row.version, &row.kind),
            tag: "",
            params: LIST,
            body: Some(defs.reference(DELETE_OPTIONS)),
            answer: Some(defs.reference(STATUS)),
        });
    }
    out
}

fn list<'a>(row: &KindDef, defs: &mut Definitions, id: String) -> Operation<'a> {
    let kind = gvk(&row.group, &row.version, &row.kind);
    let answer = Some(defs.list(row));
    Operation { method: "get", action: "list", id, kind, tag: "", params: LIST, body: None, answer }
}

/// Operations on one object or on a subresource that is read and written like one.
fn item<'a>(
    row: &KindDef,
    suffix: &str,
    verbs: &[&str],
    ty: &str,
    kind: &Value,
    defs: &mut Definitions,
) -> Vec<Operation<'a>> {
    let mut out = Vec::new();
    for verb in verbs {
        let ty = defs.object(ty);
        let (method, action, name, params, body, answer) = match *verb {
            "get" => ("get", "get", "read", READ, None, ty),
            "update" => ("put", "put", "replace", WRITE, Some(ty.clone()), ty),
            "patch" => ("patch", "patch", "patch", PATCHES, Some(defs.reference(PATCH)), ty),
            "delete" => (
                "delete",
                "delete",
                "delete",
                DELETE,
                Some(defs.reference(DELETE_OPTIONS)),
                defs.reference(STATUS),
            ),
            _ => continue,
        };
        let id = operation_id(name, row, suffix);
        out.push(Operation {
            method,
            action,
            id,
            kind: kind.clone(),
            tag: "",
            params,
            body,
            answer: Some(answer),
        });
    }
    out
}

fn subresource<'a>(row: &KindDef, sub: &Subresource, defs: &mut Definitions) -> Vec<Operation<'a>> {
    let suffix: String = camel(sub.name);
    let (kind, ty) = match sub.body {
        Some((g, v, k)) => (gvk(g, v, k), body_type(g, v, k)),
        None => (gvk(&row.group, &row.version, &row.kind), row.schema.to_string()),
    };
    if matches!(sub.name, "exec" | "attach" | "portforward" | "proxy" | "log") {
        // Streams: what passes is no object.
        let action = if sub.name == "log" { "get" } else { "connect" };
        let verb = if sub.name == "log" { "read" } else { "connectGet" };
        let id = operation_id(verb, row, &suffix);
        return vec![Operation {
            method: "get",
            action,
            id,
            kind,
            tag: "",
            params: CONNECT,
            body: None,
            answer: None,
        }];
    }
    let mut out = item(row, &suffix, sub.verbs, &ty, &kind, defs);
    if sub.verbs.contains(&"create") {
        let ty = defs.object(&ty);
        let id = operation_id("create", row, &suffix);
        let (body, answer) = (Some(ty.clone()), Some(ty));
        out.push(Operation {
            method: "post",
            action: "post",
            id,
            kind,
            tag: "",
            params: WRITE,
            body,
            answer,
        });
    }
    out
}

/// Writes operations under their path.
fn put(
    paths: &mut Map<String, Value>,
    defs: &Definitions,
    path: &str,
    namespaced: bool,
    named: bool,
    operations: Vec<Operation>,
) {
    if operations.is_empty() {
        return;
    }
    let mut entry = Map::new();
    let mut shared = Vec::new();
    for (name, _) in [("name", named), ("namespace", namespaced)].into_iter().filter(|(_, yes)| *yes) {
        shared.push(match defs.dialect {
            Dialect::V2 => json!({"in": "path", "name": name, "required": true, "type": "string", "uniqueItems": true}),
            Dialect::V3 => json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}}),
        });
    }
    if !shared.is_empty() {
        entry.insert("parameters".into(), shared.into());
    }
    let tag = tag_of(path);
    for op in operations {
        let method = op.method.to_owned();
        entry.insert(method, write(Operation { tag: &tag, ..op }, defs.dialect));
    }
    paths.insert(path.to_owned(), Value::Object(entry));
}

fn write(op: Operation, dialect: Dialect) -> Value {
    let mut params: Vec<Value> = Vec::new();
    for (name, ty) in op.params {
        params.push(match dialect {
            Dialect::V2 => json!({"in": "query", "name": name, "type": ty, "uniqueItems": true}),
            Dialect::V3 => json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}}),
        });
    }
    let consumes = if op.method == "patch" { PATCH_TYPES } else { OBJECT_TYPES };
    let mut out = json!({
        "operationId": op.id,
        "tags": [op.tag],
        "x-kubernetes-action": op.action,
        "x-kubernetes-group-version-kind": op.kind,
    });
    let v3 = dialect == Dialect::V3;
    if let Some(body) = op.body {
        let required = op.method != "delete";
        if v3 {
            let types: &[&str] = if op.method == "patch" { PATCH_TYPES } else { &["*/*"] };
            let content: Map<String, Value> =
                types.iter().map(|t| ((*t).to_owned(), json!({"schema": body}))).collect();
            out["requestBody"] = json!({"content": content});
            if required {
                out["requestBody"]["required"] = true.into();
            }
        } else {
            let mut p = json!({"in": "body", "name": "body", "schema": body});
            if required {
                p["required"] = true.into();
            }
            params.push(p);
        }
    }
    if !params.is_empty() {
        out["parameters"] = params.into();
    }
    if !v3 {
        out["consumes"] = json!(consumes);
        out["produces"] = json!(OBJECT_TYPES);
        out["schemes"] = json!(["https"]);
    }
    let ok = response(op.answer, v3);
    out["responses"] = json!({"200": ok, "401": {"description": "Unauthorized"}});
    if op.method == "post" {
        out["responses"]["201"] = ok.clone();
        out["responses"]["202"] = ok;
    } else if matches!(op.method, "put" | "patch") {
        out["responses"]["201"] = ok;
    }
    out
}

fn response(answer: Option<Value>, v3: bool) -> Value {
    let mut out = json!({"description": "OK"});
    match answer {
        Some(schema) if v3 => {
            let content: Map<String, Value> =
                OBJECT_TYPES.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
            out["content"] = Value::Object(content);
        }
        Some(schema) => out["schema"] = schema,
        None => {}
    }
    out
}

/// `CoreV1`, `RbacAuthorizationV1`.
fn group_part(row: &KindDef) -> String {
    let group = if row.group.is_empty() { "core" } else { &row.group };
    format!("{}{}", camel(group.trim_end_matches(".k8s.io")), camel(&row.version))
}

fn scope_part(row: &KindDef) -> &'static str {
    if row.namespaced() { "Namespaced" } else { "" }
}

fn operation_id(verb: &str, row: &KindDef, suffix: &str) -> String {
    format!("{verb}{}{}{}{suffix}", group_part(row), scope_part(row), row.kind)
}

/// The parts of a name, each with a capital.
fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.split(['.', '-']) {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

/// `core_v1`, `rbacAuthorization_v1`.
fn tag_of(path: &str) -> String {
    let mut parts = path.trim_start_matches('/').split('/');
    let (group, version) = match parts.next() {
        Some("api") => ("core", parts.next()),
        _ => (parts.next().unwrap_or(""), parts.next()),
    };
    let mut group = camel(group.trim_end_matches(".k8s.io"));
    if let Some(first) = group.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    format!("{group}_{}", version.unwrap_or(""))
}
