//! Objects out of schemas: what form a value has, one that looks right, and the places in it.

use super::dice::Dice;
use serde_json::{Map, Value, json};

/// Schemas can contain themselves.
const DEPTH_MAX: usize = 12;

/// What a schema wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    Map,
    List,
    Text,
    Integer,
    Number,
    Boolean,
    Quantity,
    IntOrText,
    Time,
    Bytes,
    Any,
}

/// A schema with those that it names.
#[derive(Clone, Copy)]
pub struct Schemas<'a>(&'a Value);

/// A place in an object.
pub struct Place<'a> {
    /// As a JSON pointer.
    pub at: String,
    pub schema: &'a Value,
    pub form: Form,
}

impl<'a> Schemas<'a> {
    pub fn of(document: &'a Value) -> Self {
        Self(&document["components"]["schemas"])
    }

    pub fn named(&self, name: &str) -> &'a Value {
        &self.0[name]
    }

    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..DEPTH_MAX {
            let to = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
            match to.and_then(|r| r.strip_prefix("#/components/schemas/")) {
                Some(name) => schema = &self.0[name],
                None => break,
            }
        }
        schema
    }

    /// A value with what the schema requires.
    pub fn value(&self, schema: &'a Value, called: &str, dice: &Dice, depth: usize) -> Value {
        let schema = self.resolve(schema);
        if let Some(known) = known(called) {
            return known;
        }
        match form(schema) {
            Form::Object => {
                let mut out = Map::new();
                let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                for name in required.filter(|_| depth < DEPTH_MAX) {
                    out.insert(name.into(), self.value(&schema["properties"][name], name, dice, depth + 1));
                }
                Value::Object(out)
            }
            Form::Map if depth < DEPTH_MAX => {
                let item = self.value(&schema["additionalProperties"], "", dice, depth + 1);
                let key =
                    if item == "1" { dice.pick(&["cpu", "memory", "storage", "example.com/x"]) } else { "a" };
                json!({ key: item })
            }
            Form::List if depth < DEPTH_MAX => json!([self.value(&schema["items"], "", dice, depth + 1)]),
            Form::Map => json!({}),
            Form::List => json!([]),
            Form::Text => match schema["enum"].as_array() {
                Some(values) => dice.pick_of(values).cloned().unwrap_or_default(),
                None => "x".into(),
            },
            Form::Integer => 1.into(),
            Form::Number => json!(1.5),
            Form::Boolean => true.into(),
            Form::Quantity => "1".into(),
            Form::IntOrText => 80.into(),
            Form::Time => "2026-01-01T00:00:00Z".into(),
            Form::Bytes => "AA==".into(),
            Form::Any => json!({}),
        }
    }

    /// All places of a value that the schema knows.
    pub fn places(&self, schema: &'a Value, value: &Value) -> Vec<Place<'a>> {
        let mut out = Vec::new();
        self.walk(schema, value, &mut String::new(), &mut out, 0);
        out
    }

    fn walk(
        &self,
        schema: &'a Value,
        value: &Value,
        at: &mut String,
        out: &mut Vec<Place<'a>>,
        depth: usize,
    ) {
        let schema = self.resolve(schema);
        let form = form(schema);
        out.push(Place { at: at.clone(), schema, form });
        if depth >= DEPTH_MAX * 2 {
            return;
        }
        let length = at.len();
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let inner = schema["properties"].get(key).or_else(|| schema.get("additionalProperties"));
                    let Some(inner) = inner else { continue };
                    at.push('/');
                    at.push_str(&escape(key));
                    self.walk(inner, value, at, out, depth + 1);
                    at.truncate(length);
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    at.push_str(&format!("/{i}"));
                    self.walk(&schema["items"], value, at, out, depth + 1);
                    at.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// Adds a field that an object in the value could have; tells where.
    pub fn enrich(&self, schema: &'a Value, value: &mut Value, dice: &Dice) -> Option<String> {
        let mut free = Vec::new();
        for place in self.places(schema, value) {
            let there = value.pointer(&place.at).and_then(Value::as_object);
            for (name, inner) in place.schema["properties"].as_object().into_iter().flatten() {
                // what every kind has is tried less often than what only this one has
                let common = place.at.starts_with("/metadata") || matches!(name.as_str(), "status" | "kind");
                if there.is_some_and(|t| !t.contains_key(name)) && (!common || dice.one_in(8)) {
                    free.push((place.at.clone(), name, inner));
                }
            }
        }
        let (at, name, inner) = dice.pick_of(&free)?;
        let made = self.value(inner, name, dice, 0);
        value.pointer_mut(at)?.as_object_mut()?.insert((*name).clone(), made);
        Some(format!("{at}/{}", escape(name)))
    }
}

/// A name as a part of a JSON pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn form(schema: &Value) -> Form {
    let formatted = schema["format"].as_str().unwrap_or("");
    match schema["type"].as_str() {
        Some("object") if schema["properties"].is_object() => Form::Object,
        Some("object") => Form::Map,
        Some("array") => Form::List,
        Some("integer") => Form::Integer,
        Some("number") => Form::Number,
        Some("boolean") => Form::Boolean,
        Some("string") => match formatted {
            "date-time" => Form::Time,
            "byte" => Form::Bytes,
            "int-or-string" => Form::IntOrText,
            _ => Form::Text,
        },
        _ if formatted == "int-or-string" => Form::IntOrText,
        _ if schema["oneOf"].is_array() => Form::Quantity,
        _ => Form::Any,
    }
}

/// What a field of this name usually has.
fn known(name: &str) -> Option<Value> {
    Some(match name {
        "labels" | "matchLabels" => json!({"a": "b"}),
        "mountPath" | "path" | "devicePath" => "/x".into(),
        "cidr" | "podCIDR" => "10.1.0.0/16".into(),
        "podCIDRs" | "cidrs" => json!(["10.1.0.0/16"]),
        "ip" | "podIP" | "hostIP" => "10.1.0.1".into(),
        "topologyKey" => "kubernetes.io/hostname".into(),
        "schedule" => "* * * * *".into(),
        "timeZone" => "Etc/UTC".into(),
        "driver" | "provisioner" | "attacher" | "driverName" => "x.example.com".into(),
        "signerName" | "controller" => "example.com/x".into(),
        "expression" | "rule" => "true".into(),
        "apiGroup" => "rbac.authorization.k8s.io".into(),
        "accessModes" => json!(["ReadWriteOnce"]),
        "url" => "https://x.example.com".into(),
        "finalizers" => json!(["example.com/x"]),
        "ownerReferences" => json!([{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({"components": {"schemas": {
            "Toy": {"type": "object", "required": ["size", "parts"], "properties": {
                "size": {"type": "integer"},
                "color": {"type": "string", "enum": ["red"]},
                "parts": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/Part"}], "default": {}}}}},
            "Part": {"type": "object", "properties": {
                "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
                "amount": {"oneOf": [{"type": "string"}, {"type": "number"}]},
                "toy": {"$ref": "#/components/schemas/Toy"}}}}}})
    }

    #[test]
    fn a_value_has_what_is_required_and_grows() {
        let document = document();
        let (schemas, dice) = (Schemas::of(&document), Dice::seeded(1));
        let schema = schemas.named("Toy");
        let mut value = schemas.value(schema, "", &dice, 0);
        assert_eq!(value, json!({"size": 1, "parts": [{}]}));
        for _ in 0..20 {
            let at = schemas.enrich(schema, &mut value, &dice).expect("a free field");
            assert!(value.pointer(&at).is_some(), "{at}");
        }
        assert_eq!(value["color"], "red");
        let places = schemas.places(schema, &value);
        let form = |at: &str| places.iter().find(|p| p.at == at).map(|p| p.form);
        assert_eq!(form("/size"), Some(Form::Integer));
        assert_eq!(form("/parts/0"), Some(Form::Object));
    }

    #[test]
    fn forms() {
        let document = document();
        let part = Schemas::of(&document).named("Part");
        assert_eq!(form(&part["properties"]["port"]), Form::IntOrText);
        assert_eq!(form(&part["properties"]["amount"]), Form::Quantity);
        assert_eq!(form(&json!({"type": "object", "additionalProperties": {"type": "string"}})), Form::Map);
        assert_eq!(form(&json!({})), Form::Any);
    }
}
