//! What a mutating policy makes of an object (upstream: `plugin/policy/mutating/patch`).

use apply::View;
use kinds::KindDef;
use kinds::declared::engine;
use meta::patch::json::{Failed, apply_each};
use serde_json::{Map, Value, json};

/// The object with an apply configuration laid over it, which an expression gave.
///
/// # Errors
/// Upstream's words.
pub fn configured(object: &Value, config: &engine::Value, row: &KindDef) -> Result<Value, String> {
    engine::check_type_names(config).map_err(|why| format!("type mismatch: {why}"))?;
    let mut config = engine::json(config).map_err(|why| format!("error applying patch: {why}"))?;
    let Some(map) = config.as_object_mut() else {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    };
    for field in ["apiVersion", "kind"] {
        map.insert(field.to_owned(), object[field].clone());
    }
    let types = kinds::schema::schema();
    let view = match &row.custom {
        None => View::Typed { types, definition: &row.schema },
        Some(custom) => match &custom.raw_schema {
            Some(schema) => View::Structural { types, schema },
            None => View::Deduced,
        },
    };
    apply::overlay(object, &config, view).map_err(|why| format!("error applying patch: {why}"))
}

/// The object after JSON patches that an expression gave; `None` when one of their tests does not hold.
///
/// # Errors
/// Upstream's words.
pub fn patched(object: &Value, patches: &engine::Value) -> Result<Option<Value>, String> {
    let list = engine::elements(patches)
        .ok_or("type mismatch: JSONPatchType.expression should evaluate to array")?;
    let mut operations = Vec::with_capacity(list.len());
    for patch in &list {
        operations.push(operation(patch)?);
    }
    let mut out = object.clone();
    match apply_each(&mut out, &operations) {
        Ok(()) => Ok(Some(out)),
        Err(Failed::Test) => Ok(None),
        Err(Failed::Other(why)) => Err(format!("JSON Patch: {why}")),
    }
}

fn operation(patch: &engine::Value) -> Result<Value, String> {
    let text =
        |field: &str| engine::field(patch, field).and_then(|v| engine::as_text(&v)).unwrap_or_default();
    let mut out =
        Map::from_iter([("op".to_owned(), json!(text("op"))), ("path".to_owned(), json!(text("path")))]);
    let from = text("from");
    if !from.is_empty() {
        out.insert("from".to_owned(), from.into());
    }
    if let Some(value) = engine::field(patch, "value") {
        engine::check_type_names(&value).map_err(|why| format!("type mismatch: {why}"))?;
        let value = engine::json(&value).map_err(|why| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}")
        })?;
        out.insert("value".to_owned(), value);
    }
    Ok(Value::Object(out))
}
