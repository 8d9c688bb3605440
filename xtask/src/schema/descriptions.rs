//! Descriptions of types and fields, from the source of the k8s-openapi crate.
//!
//! The crate's JSON schemas (its feature `schemars`) hold them; reading its generated source, which is regular,
//! spares compiling it.

use meta::schema::Schema;
use std::collections::BTreeMap;
use std::path::Path;

/// Texts by field; that of the type itself is under the empty name.
pub type Texts = BTreeMap<String, String>;

/// Reads the texts of the schema's types from the crate's folder for a version (`src/v1_37`).
pub fn read(dir: &Path, schema: &Schema) -> Result<BTreeMap<String, Texts>, String> {
    let mut out = BTreeMap::new();
    walk(dir, schema, &mut out)?;
    if out.is_empty() { Err(format!("{}: no descriptions found", dir.display())) } else { Ok(out) }
}

fn walk(dir: &Path, schema: &Schema, out: &mut BTreeMap<String, Texts>) -> Result<(), String> {
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
        if path.is_dir() {
            walk(&path, schema, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let name = text.lines().next().and_then(|l| l.strip_prefix("// Generated from definition "));
            if let Some(def) = name.and_then(|n| schema.types.get(n)) {
                let mut texts = texts(&text);
                texts.retain(|k, _| k.is_empty() || def.fields.contains_key(k));
                out.insert(name.unwrap_or("").to_owned(), texts);
            }
        }
    }
    Ok(())
}

/// The descriptions in the `json_schema!` of a file, told apart by their indentation.
fn texts(source: &str) -> Texts {
    const IN_PLACE: &str = "\"description\": ";
    const INSERTED: &str = "schema_obj.ensure_object().insert(\"description\".into(), ";
    let mut out = Texts::new();
    let mut field = String::new();
    for line in source.lines().skip_while(|l| !l.contains("json_schema!(")) {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        if indent == 16 && (body.ends_with(": {") || body.ends_with(": ({")) {
            field = body.split('"').nth(1).unwrap_or("").to_owned();
        }
        let literal = match indent {
            12 | 20 => body.strip_prefix(IN_PLACE).or_else(|| body.strip_prefix(INSERTED)),
            _ => None,
        };
        let Some(literal) = literal else { continue };
        let end = literal.rfind('"').map_or(0, |i| i + 1);
        if let Ok(text) = serde_json::from_str::<String>(&literal[..end]) {
            out.insert(if indent == 12 { String::new() } else { field.clone() }, text);
        }
    }
    out
}
