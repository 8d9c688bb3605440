//! Against what upstream makes, and for whether anything is left out.

use super::*;
use base64::Engine as _;

/// Documents and what upstream's Go code (gnostic-models) makes of them.
const DOCUMENTS: [(Dialect, &str, &str); 2] = [
    (Dialect::V2, include_str!("tests/v2.json"), include_str!("tests/v2.base64")),
    (Dialect::V3, include_str!("tests/v3.json"), include_str!("tests/v3.base64")),
];

#[test]
fn documents_are_written_as_upstream_does() {
    for (dialect, document, wanted) in DOCUMENTS {
        let document = serde_json::from_str(document).expect("JSON");
        let wanted: String = wanted.split_whitespace().collect();
        let ours = base64::engine::general_purpose::STANDARD.encode(encode(dialect, &document));
        assert_eq!(ours, wanted, "{dialect:?}");
    }
}

#[test]
fn types_of_fields_are_in_the_tables() {
    const OWN: [&str; 5] = ["string", "bool", "int", "number", "Any"];
    for messages in [&V2, &V3] {
        for (name, message) in &messages.0 {
            let numbers: Vec<u32> = message.fields.iter().map(|f| f.number).collect();
            assert!(!numbers.is_empty() && (message.one_of || numbers.is_sorted()), "{name}");
            for field in &message.fields {
                assert!(OWN.contains(&field.ty) || messages.0.contains_key(field.ty), "{name}: {}", field.ty);
            }
        }
    }
}

/// Nothing of the real documents is lost for want of a field: what is in them is in the message, but for the names of
/// fields.
#[test]
fn our_own_documents_have_a_place_for_everything() {
    let rows: Vec<crate::KindDef> = crate::KINDS.iter().map(|k| k()).collect();
    let rows: Vec<&crate::KindDef> = rows.iter().collect();
    let schema = crate::schema::schema();
    check(&V2, "Document", &super::super::v2(&rows, schema), "v2");
    for (key, document) in super::super::v3(&rows, schema) {
        check(&V3, "Document", &document, &key);
    }
}

fn check(messages: &Messages, ty: &str, value: &Value, at: &str) {
    let Some(message) = messages.0.get(ty) else { return };
    if message.one_of {
        let field = message.fields.iter().find(|f| f.holds(value));
        // A default that is neither number nor text has no form in OpenAPI 3 (upstream: the same).
        assert!(field.is_some() || ty == "DefaultType", "{at}: no {ty}");
        return field.into_iter().for_each(|f| check(messages, f.ty, value, at));
    }
    let each = |field: &Field, value: &Value, at: &str| match value {
        Value::Array(all) => all.iter().for_each(|v| check(messages, field.ty, v, at)),
        one => check(messages, field.ty, one, at),
    };
    if let Some(itself) = message.fields.iter().find(|f| f.key == ".") {
        return each(itself, value, at);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let field = message.fields.iter().find(|f| match f.key {
            "*" | "x-" | "/" | "000" => message.is_pair(f.key, key),
            own => own == key,
        });
        let at = format!("{at}.{key}");
        each(field.unwrap_or_else(|| panic!("{at}: no field in {ty}")), value, &at);
    }
}
