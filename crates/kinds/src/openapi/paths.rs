//! Paths and operations of the rows (upstream: apiserver `pkg/endpoints/installer.go`, kube-openapi `pkg/builder*`).
//!
//! Invariant: what all operations of a path take is said once, with the path.

use super::definitions::{DELETE_OPTIONS, Definitions, PATCH, STATUS, WATCH_EVENT, body_type};
use super::{Dialect, base, gvk};
use crate::{KindDef, Subresource};
use serde_json::{Map, Value, json};

/// A query parameter: name and OpenAPI type.
type Param = (&'static str, &'static str);

const PRETTY: Param = ("pretty", "string");
const WRITE: &[Param] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), PRETTY];
const PATCHES: &[Param] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
    PRETTY,
];
const READ: &[Param] = &[PRETTY];
const LIST: &[Param] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    PRETTY,
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[Param] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    PRETTY,
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[Param] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    PRETTY,
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
];
const ATTACH: &[Param] = &[
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const EXEC: &[Param] = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const PORT_FORWARD: &[Param] = &[("ports", "integer")];
const PROXY: &[Param] = &[("path", "string")];
const LOG: &[Param] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    PRETTY,
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
pub(super) const OBJECT: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const CUSTOM: &[&str] = &["application/json", "application/yaml"];
const LOGS: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const ANY: &[&str] = &["*/*"];

/// One operation, before it is written in a dialect.
struct Operation {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: Value,
    params: &'static [Param],
    body: Option<Value>,
    answer: Value,
    /// Codes beside 200 that come with the same answer.
    also: &'static [u16],
    produces: &'static [&'static str],
}

/// All paths of the rows.
pub(super) fn build(rows: &[&KindDef], defs: &mut Definitions) -> Map<String, Value> {
    let mut paths = Map::new();
    for row in rows {
        add_row(row, defs, &mut paths);
    }
    paths
}

fn own_kind(row: &KindDef) -> Value {
    gvk(&row.group, &row.version, &row.kind)
}

fn object_types(row: &KindDef) -> &'static [&'static str] {
    if row.is_custom() { CUSTOM } else { OBJECT }
}

fn add_row(row: &KindDef, defs: &mut Definitions, paths: &mut Map<String, Value>) {
    let (base, plural) = (base(row), &row.plural);
    let has = |verb: &str| row.verbs.contains(&verb);
    let scope = if row.namespaced() { "namespaces/{namespace}/" } else { "" };
    let scoped = format!("{base}/{scope}{plural}");
    let collection = collection(row, defs);
    put(paths, defs, &scoped, collection);
    if row.namespaced() && has("list") {
        let id = format!("list{}{}ForAllNamespaces", group_part(row), row.kind);
        let list = list(row, defs, id);
        put(paths, defs, &format!("{base}/{plural}"), vec![list]);
    }
    let ty = row.schema.to_string();
    let item = item(row, "", row.verbs, &ty, &own_kind(row), defs);
    let one = format!("{scoped}/{{name}}");
    put(paths, defs, &one, item);
    if has("watch") && !row.is_custom() {
        watches(row, defs, paths, &base, scope);
    }
    for sub in row.subresources {
        let path = format!("{one}/{}", sub.name);
        if let Some(connections) = connections(row, sub, "") {
            put(paths, defs, &path, connections);
            if sub.name == "proxy" {
                let deeper = connections_of(row, sub, "WithPath");
                put(paths, defs, &format!("{path}/{{path}}"), deeper);
            }
            continue;
        }
        let operations = subresource(row, sub, defs);
        put(paths, defs, &path, operations);
    }
    if row.custom.is_some() {
        without_strategic(paths, &one);
        row.subresources.iter().for_each(|sub| without_strategic(paths, &format!("{one}/{}", sub.name)));
    }
}

/// The old paths of watches.
fn watches(row: &KindDef, defs: &mut Definitions, paths: &mut Map<String, Value>, base: &str, scope: &str) {
    let mut add = |path: String, action, id: String| {
        let answer = defs.reference(WATCH_EVENT);
        let operation = Operation {
            method: "get",
            action,
            id,
            kind: own_kind(row),
            params: LIST,
            body: None,
            answer,
            also: &[],
            produces: STREAMS,
        };
        put(paths, defs, &path, vec![operation]);
    };
    let plural = &row.plural;
    let (part, kind, scoped) = (group_part(row), &row.kind, scope_part(row));
    add(format!("{base}/watch/{scope}{plural}"), "watchlist", format!("watch{part}{scoped}{kind}List"));
    if row.verbs.contains(&"get") {
        let path = format!("{base}/watch/{scope}{plural}/{{name}}");
        add(path, "watch", format!("watch{part}{scoped}{kind}"));
    }
    if row.namespaced() {
        let id = format!("watch{part}{kind}ListForAllNamespaces");
        add(format!("{base}/watch/{plural}"), "watchlist", id);
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

fn collection(row: &KindDef, defs: &mut Definitions) -> Vec<Operation> {
    let has = |verb: &str| row.verbs.contains(&verb);
    let mut out = Vec::new();
    if has("list") {
        out.push(list(row, defs, operation_id("list", row, "")));
    }
    if has("create") {
        let ty = defs.object(&row.schema);
        out.push(create(operation_id("create", row, ""), own_kind(row), ty, object_types(row)));
    }
    if has("deletecollection") {
        out.push(Operation {
            method: "delete",
            action: "deletecollection",
            id: format!("delete{}Collection{}{}", group_part(row), scope_part(row), row.kind),
            kind: own_kind(row),
            params: DELETE_COLLECTION,
            body: Some(defs.reference(DELETE_OPTIONS)),
            answer: defs.reference(STATUS),
            also: &[],
            produces: object_types(row),
        });
    }
    out
}

fn create(id: String, kind: Value, ty: Value, produces: &'static [&'static str]) -> Operation {
    Operation {
        method: "post",
        action: "post",
        id,
        kind,
        params: WRITE,
        body: Some(ty.clone()),
        answer: ty,
        also: &[201, 202],
        produces,
    }
}

fn list(row: &KindDef, defs: &mut Definitions, id: String) -> Operation {
    let produces = if row.is_custom() { CUSTOM } else { STREAMS };
    let answer = defs.list(row);
    Operation {
        method: "get",
        action: "list",
        id,
        kind: own_kind(row),
        params: LIST,
        body: None,
        answer,
        also: &[],
        produces,
    }
}

/// Operations on one object or on a subresource that is read and written like one.
fn item(
    row: &KindDef,
    suffix: &str,
    verbs: &[&str],
    ty: &str,
    kind: &Value,
    defs: &mut Definitions,
) -> Vec<Operation> {
    let mut out = Vec::new();
    for verb in verbs {
        let ty = defs.object(ty);
        let created: &[u16] = &[201];
        let (method, name, params, body, answer, also) = match *verb {
            "get" => ("get", "read", READ, None, ty, &[][..]),
            "update" => ("put", "replace", WRITE, Some(ty.clone()), ty, created),
            "patch" => ("patch", "patch", PATCHES, Some(defs.reference(PATCH)), ty, created),
            "delete" => {
                let options = Some(defs.reference(DELETE_OPTIONS));
                let answer = if row.strategy.returns_deleted() { ty } else { defs.reference(STATUS) };
                ("delete", "delete", DELETE, options, answer, &[202][..])
            }
            _ => continue,
        };
        let id = operation_id(name, row, suffix);
        let (kind, produces) = (kind.clone(), object_types(row));
        out.push(Operation { method, action: method, id, kind, params, body, answer, also, produces });
    }
    out
}

/// The operations of a subresource whose answers are streams and no objects.
fn connections(row: &KindDef, sub: &Subresource, suffix: &str) -> Option<Vec<Operation>> {
    if sub.name == "log" {
        return Some(vec![Operation {
            method: "get",
            action: "get",
            id: operation_id("read", row, "Log"),
            kind: own_kind(row),
            params: LOG,
            body: None,
            answer: json!({"type": "string"}),
            also: &[],
            produces: LOGS,
        }]);
    }
    matches!(sub.name, "exec" | "attach" | "portforward" | "proxy").then(|| connections_of(row, sub, suffix))
}

fn connections_of(row: &KindDef, sub: &Subresource, suffix: &str) -> Vec<Operation> {
    let params = match sub.name {
        "exec" => EXEC,
        "attach" => ATTACH,
        "portforward" => PORT_FORWARD,
        _ => PROXY,
    };
    let methods: &[&'static str] = match sub.name {
        "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
        _ => &["get", "post"],
    };
    let kind = sub.body.map_or_else(|| own_kind(row), |(g, v, k)| gvk(g, v, k));
    let one = |method: &&'static str| Operation {
        method,
        action: "connect",
        id: format!(
            "connect{}{}{}{}{}{suffix}",
            group_part(row),
            camel(method),
            scope_part(row),
            row.kind,
            camel(sub.name)
        ),
        kind: kind.clone(),
        params,
        body: None,
        answer: json!({"type": "string"}),
        also: &[],
        produces: ANY,
    };
    methods.iter().map(one).collect()
}

fn subresource(row: &KindDef, sub: &Subresource, defs: &mut Definitions) -> Vec<Operation> {
    let suffix: String = camel(sub.name);
    let (kind, ty) = match sub.body {
        Some((g, v, k)) => (gvk(g, v, k), body_type(g, v, k)),
        None => (own_kind(row), row.schema.to_string()),
    };
    let mut out = item(row, &suffix, sub.verbs, &ty, &kind, defs);
    if sub.verbs.contains(&"create") {
        let ty = defs.object(&ty);
        out.push(create(operation_id("create", row, &suffix), kind, ty, object_types(row)));
    }
    out
}

/// Parameters of a path that stand in its braces.
fn path_params(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// Writes operations under their path, what all take with the path.
fn put(paths: &mut Map<String, Value>, defs: &Definitions, path: &str, operations: Vec<Operation>) {
    let Some(first) = operations.first() else { return };
    let of_all = |p: &&Param| operations.iter().all(|o| o.params.contains(p));
    let common: Vec<Param> = first.params.iter().filter(of_all).copied().collect();
    let mut shared: Vec<Value> = path_params(path)
        .into_iter()
        .map(|name| match defs.dialect {
            Dialect::V2 => json!({"in": "path", "name": name, "required": true, "type": "string", "uniqueItems": true}),
            Dialect::V3 => json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}}),
        })
        .collect();
    shared.extend(common.iter().map(|p| query(p, defs.dialect)));
    shared.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut entry = Map::new();
    if !shared.is_empty() {
        entry.insert("parameters".into(), shared.into());
    }
    let tag = tag_of(path);
    for op in operations {
        entry.insert(op.method.to_owned(), write(op, &common, &tag, defs.dialect));
    }
    paths.insert(path.to_owned(), Value::Object(entry));
}

fn query((name, ty): &Param, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"in": "query", "name": name, "type": ty, "uniqueItems": true}),
        Dialect::V3 => json!({"in": "query", "name": name, "schema": {"type": ty, "uniqueItems": true}}),
    }
}

fn write(op: Operation, common: &[Param], tag: &str, dialect: Dialect) -> Value {
    let own = op.params.iter().filter(|p| !common.contains(p));
    let mut params: Vec<Value> = own.map(|p| query(p, dialect)).collect();
    let mut out = json!({
        "operationId": op.id,
        "tags": [tag],
        "x-kubernetes-action": op.action,
        "x-kubernetes-group-version-kind": op.kind,
    });
    let v3 = dialect == Dialect::V3;
    if let Some(body) = op.body {
        let required = op.method != "delete";
        let mut sent = if v3 {
            let types = if op.method == "patch" { PATCH_TYPES } else { ANY };
            let content: Map<String, Value> =
                types.iter().map(|t| ((*t).to_owned(), json!({"schema": body}))).collect();
            json!({"content": content})
        } else {
            json!({"in": "body", "name": "body", "schema": body})
        };
        if required {
            sent["required"] = true.into();
        }
        if v3 {
            out["requestBody"] = sent;
        } else {
            params.insert(0, sent);
        }
    }
    if !params.is_empty() {
        out["parameters"] = params.into();
    }
    if !v3 {
        out["consumes"] = json!(if op.method == "patch" && op.action == "patch" { PATCH_TYPES } else { ANY });
        out["produces"] = json!(op.produces);
        out["schemes"] = json!(["https"]);
    }
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for code in [200].iter().chain(op.also) {
        let text = match code {
            201 => "Created",
            202 => "Accepted",
            _ => "OK",
        };
        responses[code.to_string()] = response(text, &op.answer, op.produces, dialect);
    }
    out["responses"] = responses;
    out
}

fn response(text: &str, answer: &Value, produces: &[&str], dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"description": text, "schema": answer}),
        Dialect::V3 => {
            let content: Map<String, Value> =
                produces.iter().map(|t| ((*t).to_owned(), json!({"schema": answer}))).collect();
            json!({"description": text, "content": content})
        }
    }
}

/// A document about the API itself: what a client gets at a path.
pub(super) fn about(
    paths: &mut Map<String, Value>,
    path: &str,
    id: &str,
    tag: &str,
    answer: &Value,
    produces: &'static [&'static str],
    dialect: Dialect,
) {
    let mut get = json!({"operationId": id, "tags": [tag], "responses": {
        "200": response("OK", answer, produces, dialect), "401": {"description": "Unauthorized"}}});
    if dialect == Dialect::V2 {
        get["schemes"] = json!(["https"]);
        get["produces"] = json!(produces);
        if answer["type"] != "string" {
            get["consumes"] = json!(produces);
        }
    }
    paths.insert(path.to_owned(), json!({"get": get}));
}

/// `CoreV1`, `RbacAuthorizationV1`.
pub(super) fn group_part(row: &KindDef) -> String {
    group_name(&row.group) + &camel(&row.version)
}

/// `Core`, `RbacAuthorization`.
pub(super) fn group_name(group: &str) -> String {
    camel(if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") })
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
pub(super) fn tag_of(path: &str) -> String {
    let mut parts = path.trim_start_matches('/').split('/');
    let (group, version) = match parts.next() {
        Some("api") => ("core", parts.next()),
        _ => (parts.next().unwrap_or(""), parts.next()),
    };
    format!("{}_{}", lower_first(&group_name(group)), version.unwrap_or(""))
}

pub(super) fn lower_first(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    text
}
