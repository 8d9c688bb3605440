//! Values without a type made fit for one: what upstream does where it goes from maps to structs without JSON between
//! (upstream: apimachinery `pkg/runtime/converter.go#fromUnstructured`). Values that read themselves are changed by
//! [`Schema::decode`] alone; here they are only refused in their turn.

use super::{Schema, Ty, TypeDef, go_kind};
use crate::quantity::Quantity;
use crate::time;
use serde_json::Value;

/// Deeper values are left as they are.
const DEPTH_MAX: usize = 64;

impl Schema {
    /// Makes whole floats integers and cuts integers to the size that the type has room for, as Go does.
    ///
    /// # Errors
    /// Upstream's words for the first value of a wrong type.
    pub fn from_unstructured(&self, value: &mut Value, ty: &str) -> Result<(), String> {
        match self.types.get(ty) {
            Some(def) => self.fit_struct(value, def, 0),
            None => Ok(()),
        }
    }

    fn fit_struct(&self, value: &mut Value, def: &TypeDef, depth: usize) -> Result<(), String> {
        let kind = kind(value);
        let Some(fields) = value.as_object_mut() else {
            return Err(format!("cannot restore struct from: {kind}"));
        };
        for (name, field) in def.in_order() {
            if let Some(value) = fields.get_mut(name) {
                self.fit(value, &field.ty, field.go_type().trim_start_matches('*'), depth + 1)?;
            }
        }
        Ok(())
    }

    fn fit(&self, value: &mut Value, ty: &Ty, go: &str, depth: usize) -> Result<(), String> {
        if value.is_null() || depth > DEPTH_MAX {
            return Ok(());
        }
        let kind = kind(value);
        let unrecognized = |what: &str| Err(format!("unrecognized type: {what}"));
        match ty {
            Ty::String if kind == "int64" => Err(format!("cannot convert int64 to {go}")),
            Ty::String if kind != "string" => unrecognized("string"),
            Ty::Bool if kind != "bool" => unrecognized("bool"),
            Ty::Double if !value.is_number() => unrecognized("float64"),
            Ty::Int32 | Ty::Int64 => integer(value, *ty == Ty::Int32, go),
            Ty::Bytes => match value.as_str().map(super::decode::base64) {
                None => Err(format!("cannot restore slice from {kind}")),
                Some(Err(why)) => Err(format!("error decoding from json: {why}")),
                Some(Ok(_)) => Ok(()),
            },
            Ty::Time | Ty::MicroTime | Ty::Duration => match (value.as_str(), ty) {
                (Some(text), Ty::MicroTime) => time::parse_micro(text).map(drop),
                (Some(text), Ty::Time) => time::parse(text).map(drop),
                (Some(text), _) => time::parse_duration(text.strip_prefix('-').unwrap_or(text)).map(drop),
                (None, _) => unread(go_kind(value), "string"),
            },
            Ty::Quantity => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Quantity::parse(text.trim()).map(drop).map_err(|e| e.to_string())
            }
            Ty::IntOrString => match &*value {
                Value::String(_) => Ok(()),
                Value::Number(n) if n.as_i64().is_some_and(|i| i32::try_from(i).is_ok()) => Ok(()),
                Value::Number(n) => unread(&format!("number {n}"), "int32"),
                other => unread(go_kind(other), "int32"),
            },
            Ty::Ref(name) => match self.types.get(name) {
                Some(def) => self.fit_struct(value, def, depth),
                None => Ok(()),
            },
            Ty::List(inner) => {
                let Some(list) = value.as_array_mut() else {
                    return Err(format!("cannot restore slice from {kind}"));
                };
                let own = inner.go();
                let go = go.strip_prefix("[]").unwrap_or(&own);
                list.iter_mut().try_for_each(|item| self.fit(item, inner, go, depth + 1))
            }
            Ty::Map(inner) => {
                let Some(map) = value.as_object_mut() else {
                    return Err(format!("cannot restore map from {kind}"));
                };
                map.values_mut().try_for_each(|item| self.fit(item, inner, &inner.go(), depth + 1))
            }
            _ => Ok(()),
        }
    }
}

/// What the reader of JSON says of a value that stands alone.
fn unread(what: &str, into: &str) -> Result<(), String> {
    Err(format!("json: cannot unmarshal {what} into Go value of type {into}"))
}

fn integer(value: &mut Value, short: bool, go: &str) -> Result<(), String> {
    let whole = match (value.as_i64(), value.as_f64()) {
        (Some(n), _) => n,
        // what is beyond becomes the least of all, as on the usual processors
        (None, Some(f)) if f.abs() >= 9_223_372_036_854_775_808.0 => i64::MIN,
        (None, Some(f)) if f.trunc() == f => f as i64,
        (None, Some(_)) => return Err(format!("cannot convert float64 to {go}")),
        (None, None) => return Err(format!("unrecognized type: {}", if short { "int32" } else { "int64" })),
    };
    // Go keeps the low bits.
    *value = if short { (whole as i32).into() } else { whole.into() };
    Ok(())
}

/// Go's kind of a value in a map that JSON was read into.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Field;
    use serde_json::json;

    #[test]
    fn values_are_fitted_or_refused() {
        let field = |ty| Field::of(ty);
        let fields = [
            ("port", field(Ty::Int32)),
            ("name", field(Ty::String)),
            ("tags", field(Ty::Map(Box::new(Ty::String)))),
            ("list", field(Ty::List(Box::new(Ty::Bool)))),
            ("when", field(Ty::Time)),
            ("size", field(Ty::Quantity)),
            ("either", field(Ty::IntOrString)),
            ("scopes", Field { go: "[]v1.Scope".into(), ..field(Ty::List(Box::new(Ty::String))) }),
        ];
        let fields = fields.into_iter().map(|(n, f)| (n.to_owned(), f)).collect();
        let types = [("T".to_owned(), TypeDef { fields, ..TypeDef::default() })].into_iter().collect();
        let schema = Schema { types };
        let fit = |mut v: Value| schema.from_unstructured(&mut v, "T").map(|()| v);
        assert_eq!(
            fit(json!({"port": 2_147_483_648_i64, "name": null})),
            Ok(json!({"port": -2_147_483_648, "name": null}))
        );
        assert_eq!(fit(json!({"port": 8.0})), Ok(json!({"port": 8})));
        for (wrong, why) in [
            (json!({"port": 1.5}), "cannot convert float64 to int32"),
            (json!({"port": "x"}), "unrecognized type: int32"),
            (json!({"name": 5}), "cannot convert int64 to string"),
            (json!({"scopes": ["a", 5]}), "cannot convert int64 to v1.Scope"),
            (json!({"name": {}}), "unrecognized type: string"),
            (json!({"tags": []}), "cannot restore map from slice"),
            (json!({"tags": {"a": {}}}), "unrecognized type: string"),
            (json!({"list": "x"}), "cannot restore slice from string"),
            (json!([]), "cannot restore struct from: slice"),
            (json!({"when": 1.5}), "json: cannot unmarshal number into Go value of type string"),
            (json!({"either": {}}), "json: cannot unmarshal object into Go value of type int32"),
            (
                json!({"size": "1KI"}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            assert_eq!(fit(wrong), Err(why.to_owned()));
        }
    }

    #[test]
    fn the_first_wrong_field_of_the_struct_is_told() {
        let field = |proto| Field { proto, ..Field::of(Ty::Bool) };
        let fields = [("a", field(2)), ("b", field(1))].map(|(n, f)| (n.to_owned(), f)).into();
        let mut def = TypeDef { fields, ..TypeDef::default() };
        let names = |def: &TypeDef| def.in_order().map(|(name, _)| name.clone()).collect::<String>();
        assert_eq!(names(&def), "ba");
        def.order = ["a", "b"].map(str::to_owned).into();
        assert_eq!(names(&def), "ab");
    }
}
