//! Reading request bodies: JSON or YAML to a typed, normalised, defaulted object, with upstream's refusals
//! (upstream: apiserver `pkg/endpoints/handlers/{create,rest}.go`).

mod types;

use crate::context::Context;
use data_encoding::HEXLOWER;
use kinds::KindDef;
use kinds::custom::Custom;
use meta::GroupVersion;
use meta::field::quoted;
use meta::schema::Strictness;
use meta::status::{Result, Status};
use serde_json::Value;
use types::{conversion, no_object, other_type, type_of, unregistered};

/// The largest request body (upstream: `--max-request-body-bytes` default, 3 MiB).
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// The media type of protobuf bodies.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CBOR: &str = "application/cbor";
/// How much of an unreadable body is shown back.
const SUMMARY_BYTES: usize = 30;

/// Decodes a whole object of a row from a request's body.
pub fn object(ctx: &Context, kind: &KindDef, bytes: &[u8]) -> Result<Value> {
    check_content_type(ctx)?;
    if ctx.content_type() == PROTOBUF && kind.custom.is_some() {
        return Err(Status::unsupported_media_type(&["application/json", "application/yaml"]));
    }
    if ctx.content_type() == PROTOBUF {
        let value = protobuf(bytes, &kind.schema).map_err(|e| unread(kind, &e, bytes))?;
        let obj = decode(ctx, kind, check_type(kind, value, bytes)?, Vec::new(), None)?;
        return Ok(defaulted(ctx, kind, obj));
    }
    let (value, duplicates) = parse(ctx, bytes).map_err(|e| match ctx.content_type() {
        "application/yaml" => unread(kind, &e, bytes),
        _ => unrecognized(kind, &e, bytes),
    })?;
    let value = check_type(kind, value, bytes)?;
    let json = !matches!(ctx.content_type(), "application/yaml" | CBOR);
    let obj = decode(ctx, kind, value, duplicates, json.then_some(bytes))?;
    Ok(defaulted(ctx, kind, obj))
}

/// Types and defaults an object that a patch made.
pub fn typed(ctx: &Context, kind: &KindDef, value: Value) -> Result<Value> {
    Ok(defaulted(ctx, kind, decode(ctx, kind, value, Vec::new(), None)?))
}

/// Brings a custom object into its schema's shape, with the same refusals as a built-in one.
fn decode_custom(
    ctx: &Context,
    kind: &KindDef,
    custom: &Custom,
    mut obj: Value,
    duplicates: Vec<String>,
) -> Result<Value> {
    let strictness = strictness(ctx);
    let unknown = custom.shape(&mut obj).map_err(|e| {
        Status::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: {e}",
            kind.kind, kind.version
        ))
    })?;
    let mut strict = duplicates;
    strict.extend(unknown.iter().map(|path| format!("unknown field {path}", path = quoted(path))));
    match strictness {
        Strictness::Strict if !strict.is_empty() => Err(Status::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
            kind.kind,
            kind.version,
            strict.join(", ")
        ))),
        Strictness::Warn => {
            warn(ctx, &strict);
            Ok(obj)
        }
        _ => Ok(obj),
    }
}

fn defaulted(ctx: &Context, kind: &KindDef, mut obj: Value) -> Value {
    if let Some(map) = obj.as_object_mut() {
        map.insert("kind".into(), Value::from(&*kind.kind));
        map.insert("apiVersion".into(), kind.api_version().into());
    }
    kind.strategy.default(&mut obj);
    kind.strategy.default_times(&mut obj, ctx.server.clock.now());
    obj
}

/// A body that is some other type than the row's object (a review, a Scale, options).
pub fn of_type(ctx: &Context, api_version: &str, kind_name: &str, schema: &str) -> Result<Value> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let row = KindDef {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        kind: kind_name.to_owned().into(),
        schema: schema.to_owned().into(),
        ..KindDef::BASE
    };
    object(ctx, &row, &ctx.body)
}

/// `DeleteOptions` from the body, of whatever group version.
pub fn delete_options(ctx: &Context) -> Result<Value> {
    check_content_type(ctx)?;
    let ty = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let mut value = if ctx.content_type() == PROTOBUF {
        protobuf(&ctx.body, ty).map_err(Status::bad_request)?
    } else {
        let head = match ctx.content_type() {
            "application/yaml" => "",
            _ => "couldn't get version/kind; json parse error: ",
        };
        parse(ctx, &ctx.body).map_err(|e| Status::bad_request(format!("{head}{e}")))?.0
    };
    if !value.is_object() && !value.is_null() {
        return Err(Status::bad_request(no_object(&value)));
    }
    let (api_version, kind) = type_of(&value).map_err(Status::bad_request)?;
    if !kind.is_empty() && kind != "DeleteOptions" {
        let version = if api_version.is_empty() { "meta.k8s.io/v1" } else { &api_version };
        return Err(Status::bad_request(unregistered(&kind, version)));
    }
    if ctx.audit.wants_request() {
        let mut shown = value.clone();
        if let Some(map) = shown.as_object_mut() {
            // Options are recorded in the internal version, as upstream does.
            map.insert("apiVersion".into(), "meta.k8s.io/__internal".into());
            map.insert("kind".into(), "DeleteOptions".into());
        }
        ctx.audit.request_value(&shown);
    }
    let schema = kinds::schema::schema();
    if let Some(map) = value.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    let (value, _) =
        schema.decode(value, ty, Strictness::Ignore).map_err(|e| Status::bad_request(e.to_string()))?;
    Ok(value)
}

/// A protobuf body of a type, as the tree that JSON would give.
fn protobuf(bytes: &[u8], ty: &str) -> std::result::Result<Value, String> {
    let envelope = meta::proto::open(bytes)?;
    let mut value = meta::proto::decode(kinds::schema::schema(), ty, envelope.raw)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), envelope.api_version.into());
        map.insert("kind".into(), envelope.kind.into());
    }
    Ok(value)
}

/// JSON without a type.
pub fn json(bytes: &[u8]) -> std::result::Result<Value, String> {
    meta::yaml::parse_json(bytes).map(|(v, _)| v).map_err(|e| e.to_string())
}

/// JSON or YAML, with the paths of duplicate fields.
fn parse(ctx: &Context, bytes: &[u8]) -> std::result::Result<(Value, Vec<String>), String> {
    let parsed = match ctx.content_type() {
        "application/yaml" => meta::yaml::parse_yaml(bytes, BODY_BYTES_MAX),
        // Maps with one key twice are refused by the reader itself.
        CBOR => return crate::codec::from_cbor(bytes).map(|v| (v, Vec::new())),
        _ => meta::yaml::parse_json(bytes),
    };
    parsed.map_err(|e| e.to_string())
}

/// Refuses bodies in formats that are not read.
pub fn check_content_type(ctx: &Context) -> Result<()> {
    match ctx.content_type() {
        "" | "application/json" | "application/yaml" | PROTOBUF | CBOR => Ok(()),
        _ => Err(Status::unsupported_media_type(crate::negotiate::OBJECT_TYPES)),
    }
}

/// The body's own kind and version must be the row's; absent ones are taken from it.
fn check_type(kind: &KindDef, mut value: Value, bytes: &[u8]) -> Result<Value> {
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    if !value.is_object() {
        return Err(unrecognized(kind, &no_object(&value), bytes));
    }
    let (api_version, name) = match type_of(&value) {
        Ok(found) => found,
        Err(why) => return Err(unread(kind, &why, bytes)),
    };
    if kind.is_custom() && name.is_empty() {
        let shown = String::from_utf8_lossy(bytes);
        return Err(unread(kind, &format!("Object 'Kind' is missing in '{}'", shown.trim_end()), bytes));
    }
    let gv = kind.group_version();
    // custom resources are checked with the rest of them
    if kind.is_custom() && GroupVersion::parse(&api_version) == Some(gv.clone()) && name != kind.kind {
        let at = meta::field::Path::new("kind");
        let error = meta::field::Error::invalid(&at, name.as_str(), format!("must be {}", kind.kind));
        let gk = meta::GroupKind { group: kind.group.to_string(), kind: name };
        return Err(Status::invalid(&gk, meta::object::name(&value), &vec![error]));
    }
    let other_version = !api_version.is_empty() && GroupVersion::parse(&api_version) != Some(gv.clone());
    if !other_version && (name.is_empty() || name == kind.kind) {
        return Ok(value);
    }
    Err(Status::bad_request(other_type(kind, &api_version, &name, value)))
}

/// Looks at the type that an object calls itself after a patch: what is known is read as that type first, and then does
/// not become another (upstream: `runtime.DecodeInto`).
///
/// # Errors
/// Upstream's words.
pub fn check_patched_type(
    ctx: &Context,
    kind: &KindDef,
    value: &mut Value,
) -> std::result::Result<(), String> {
    let (api_version, name) = type_of(value)?;
    let expected = kind.group_version();
    let own = |text: &str, own: &str| if text.is_empty() { own.to_owned() } else { text.to_owned() };
    let (api_version, name) = (own(&api_version, &expected.to_string()), own(&name, &kind.kind));
    if api_version == expected.to_string() && name == kind.kind {
        if value["apiVersion"].as_str().unwrap_or("").is_empty() {
            // read as upstream's form without a version, whose fields have other names, but for those of the metadata,
            // which stand right in it
            let meta = kinds::schema::schema().types.get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
            let inline = |field: &str| meta.is_some_and(|def| def.fields.contains_key(field));
            let fields: Vec<String> = value.as_object().into_iter().flat_map(|m| m.keys().cloned()).collect();
            let unknown: Vec<String> = fields
                .iter()
                .filter(|field| !matches!(field.as_str(), "apiVersion" | "kind") && !inline(field))
                .map(|field| format!("unknown field {field}", field = quoted(field)))
                .collect();
            match strictness(ctx) {
                Strictness::Strict => return Err(format!("strict decoding error: {}", unknown.join(", "))),
                Strictness::Warn => warn(ctx, &unknown),
                Strictness::Ignore => {}
            }
            *value = serde_json::json!({});
        }
        return Ok(());
    }
    let gv = GroupVersion::parse(&api_version);
    let row = kinds::KINDS.iter().map(|row| row()).find(|r| Some(r.group_version()) == gv && r.kind == name);
    let Some(row) = row else {
        return Err(unregistered(&name, &api_version));
    };
    row.retype(value.clone())?;
    Err(conversion(&row.version, &name, kind))
}

/// `json` is the text that the value was read from: it tells problems in the order in which they stand.
fn decode(
    ctx: &Context,
    kind: &KindDef,
    value: Value,
    duplicates: Vec<String>,
    json: Option<&[u8]>,
) -> Result<Value> {
    if let Some(custom) = &kind.custom {
        return decode_custom(ctx, kind, custom, value, duplicates);
    }
    let strictness = strictness(ctx);
    let schema = kinds::schema::schema();
    let wrong = |e: String| {
        Status::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: {e}",
            kind.kind, kind.version
        ))
    };
    let (obj, unknown) = schema.decode(value, &kind.schema, strictness).map_err(|e| wrong(e.to_string()))?;
    let mut strict: Vec<String> = duplicates;
    strict.extend(unknown);
    if let Some(text) = json.filter(|_| !strict.is_empty()) {
        strict = schema.strict_messages(text, &kind.schema);
    }
    match strictness {
        Strictness::Strict if !strict.is_empty() => {
            Err(wrong(format!("strict decoding error: {}", strict.join(", "))))
        }
        Strictness::Warn => {
            warn(ctx, &strict);
            Ok(obj)
        }
        _ => Ok(obj),
    }
}

/// Tells what a strict reader would refuse.
pub fn warn(ctx: &Context, problems: &[String]) {
    problems.iter().flat_map(|p| warnings(p)).for_each(|w| ctx.warnings.add(w));
}

/// What the reader of YAML says comes in one text, and is a warning a line (upstream: `parseYAMLWarnings`).
fn warnings(problem: &str) -> Vec<&str> {
    let lines = problem.strip_prefix("yaml: unmarshal errors:\n");
    lines.map_or_else(|| vec![problem], |lines| lines.split('\n').map(str::trim).collect())
}

/// The `fieldValidation` parameter; the default is Warn.
fn strictness(ctx: &Context) -> Strictness {
    match ctx.info.query.get("fieldValidation") {
        "Strict" => Strictness::Strict,
        "Ignore" => Strictness::Ignore,
        _ => Strictness::Warn,
    }
}

fn unrecognized(kind: &KindDef, why: &str, bytes: &[u8]) -> Status {
    let why = if why.starts_with("couldn't") {
        why.to_owned()
    } else {
        format!("couldn't get version/kind; json parse error: {why}")
    };
    unread(kind, &why, bytes)
}

/// The body is not even of its own format.
fn unread(kind: &KindDef, why: &str, bytes: &[u8]) -> Status {
    let shown = summary(bytes);
    let kind = &kind.kind;
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({shown})"
    ))
}

/// The begin of a body, as text when it looks like JSON (upstream: `runtime.summarizeData`).
fn summary(bytes: &[u8]) -> String {
    let begin = &bytes[..bytes.len().min(SUMMARY_BYTES)];
    let more = if bytes.len() > SUMMARY_BYTES { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(begin)),
        Some(_) => format!("{}{more}", HEXLOWER.encode(begin)),
    }
}

/// Go's name for the kind of a JSON value, as its decoder prints it.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Puts the decoded object on the audit record, as it was sent (defaults and all, before admission), and fills the
/// object reference from it.
pub fn record_request(ctx: &Context, obj: &Value) {
    ctx.audit.reference_from(obj);
    ctx.audit.request_value(obj);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_yaml_reader_is_a_warning() {
        let text = "yaml: unmarshal errors:\n  line 1: key \"a\" already set in map\n  line 2: x";
        assert_eq!(warnings(text), ["line 1: key \"a\" already set in map", "line 2: x"]);
        assert_eq!(warnings("unknown field \"a\nb\""), ["unknown field \"a\nb\""]);
    }
}
