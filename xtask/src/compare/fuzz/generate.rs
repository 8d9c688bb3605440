//! One request: an operation, an object for it, mistakes in it, options. Pure: the same dice make the same request.

use super::catalog::{Catalog, Operation, Resource};
use super::dice::Dice;
use super::mutate::{Mutated, mutate, write};
use super::schema::Schemas;
use super::{options, patch};
use crate::compare::http::Ask;
use crate::compare::requests::NAMESPACE;
use serde::Deserialize;
use serde_json::{Value, json};

const BASES: &str = include_str!("bases.yaml");
/// The name of objects that were made before.
pub const BASE: &str = "base";
/// The name of objects that are not there.
const NEW: &str = "new";
/// Mistakes and additions in one object.
const CHANGES_MAX: usize = 4;

/// What an object of a kind needs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    kind: String,
    /// Only in this version.
    #[serde(rename = "in")]
    version: Option<String>,
    /// It can be made for real.
    #[serde(default)]
    kept: bool,
    object: Value,
}

pub struct Generator<'a> {
    catalog: &'a Catalog,
    bases: Vec<Base>,
}

impl<'a> Generator<'a> {
    pub fn new(catalog: &'a Catalog) -> Result<Self, String> {
        let bases = serde_saphyr::from_str(BASES).map_err(|e| format!("bases.yaml: {e}"))?;
        Ok(Self { catalog, bases })
    }

    /// Makes the objects that later requests patch and replace.
    pub fn first(&self) -> Vec<Ask> {
        let dice = Dice::seeded(0);
        let of = |resource: &&'a Resource| {
            let made = resource.operations.iter().find(|o| o.action == "post" && !o.on_part)?;
            self.base(made).filter(|b| b.kept)?;
            let object = self.object(resource, made, BASE, &dice)?;
            Some(Ask { body: object.to_string().into(), ..ask(made, &made.path, "") })
        };
        self.catalog.resources.iter().filter_map(|r| of(&r)).collect()
    }

    pub fn request(&self, dice: &Dice) -> Option<Ask> {
        let resource = dice.pick_of(&self.catalog.resources)?;
        let weights: Vec<_> = resource.operations.iter().map(|o| (weight(o), o)).collect();
        let operation = dice.weighted(&weights)?;
        let mutating = operation.method != "GET";
        if mutating && !operation.parameters.contains("dryRun") {
            return None;
        }
        let name = match dice.below(20) {
            0 => dice.pick(&["missing", "UPPER_case", "a%20b", "-", "%00"]),
            1..4 => NEW,
            _ => BASE,
        };
        let name_in_body = if operation.named() { name } else { NEW };
        let changed = match operation.action.as_str() {
            "post" | "put" | "patch" => self.changed(resource, operation, name_in_body, dice)?,
            "delete" | "deletecollection" if dice.one_in(2) => self.changed(resource, operation, "", dice)?,
            _ => Vec::new(),
        };
        let patch = match operation.action.as_str() {
            "patch" => Some(patch::patch(&changed, dice)?),
            _ => None,
        };
        let body = match (&patch, changed.last()) {
            (Some(patch), _) => patch.body.clone(),
            (None, Some(last)) => body(last, dice),
            (None, None) => String::new(),
        };
        let body = if operation.action.starts_with("delete") { tried(body) } else { body };
        let apply = patch.as_ref().is_some_and(|p| p.is_apply);
        let query = options::query(operation, apply, dice);
        let headers = options::headers(operation, patch.as_ref().map(|p| p.content_type), dice);
        let made = ask(operation, &operation.path.replace("{name}", name), &query);
        Some(Ask { headers, body: body.into(), ..made })
    }

    fn base(&self, operation: &Operation) -> Option<&Base> {
        let of_version = |b: &&Base| b.version.as_ref().is_none_or(|v| *v == operation.api_version);
        self.bases.iter().find(|b| b.kind == operation.kind && of_version(b))
    }

    /// An object without mistakes, as far as is known.
    fn object(&self, resource: &Resource, operation: &Operation, name: &str, dice: &Dice) -> Option<Value> {
        let schemas = Schemas::of(&self.catalog.documents[resource.document]);
        let mut out = schemas.value(schemas.named(operation.body.as_ref()?), "", dice, 0);
        if !name.is_empty() {
            out["apiVersion"] = operation.api_version.as_str().into();
            out["kind"] = operation.kind.as_str().into();
            out["metadata"]["name"] = name.into();
            if operation.path.contains(NAMESPACE) && dice.one_in(4) {
                out["metadata"]["namespace"] = NAMESPACE.into();
            }
            if let Some(base) = self.base(operation) {
                overlay(&mut out, &base.object);
            }
        }
        Some(out)
    }

    /// An object with additions and mistakes, one after the other: the last has all.
    fn changed(
        &self,
        resource: &Resource,
        operation: &Operation,
        name: &str,
        dice: &Dice,
    ) -> Option<Vec<Mutated>> {
        let schemas = Schemas::of(&self.catalog.documents[resource.document]);
        let schema = schemas.named(operation.body.as_ref()?);
        let mut value = self.object(resource, operation, name, dice)?;
        let mut out = Vec::new();
        for _ in 0..dice.below(CHANGES_MAX) {
            if let Some(at) = schemas.enrich(schema, &mut value, dice) {
                out.push(Mutated { value: value.clone(), at, twice: None });
            }
        }
        for _ in 0..1 + dice.below(CHANGES_MAX - 1) {
            if let Some(made) = mutate(schemas, schema, value.clone(), dice) {
                value = made.value.clone();
                out.push(made);
            }
        }
        if out.is_empty() {
            out.push(Mutated { value, at: "/metadata/labels".into(), twice: None });
        }
        Some(out)
    }
}

fn weight(operation: &Operation) -> usize {
    match (operation.action.as_str(), operation.on_part) {
        ("post", false) => 50,
        ("patch", false) => 20,
        ("put", false) => 6,
        ("delete", _) => 4,
        ("deletecollection", _) => 2,
        ("list", _) => 4,
        ("get", _) => 2,
        ("post" | "put", true) => 5,
        ("patch", true) => 5,
        _ => 0,
    }
}

fn ask(operation: &Operation, path: &str, query: &str) -> Ask {
    let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Ask { method: operation.method.clone(), ..Ask::get(&path) }
}

/// The object's text, rarely a broken one.
fn body(last: &Mutated, dice: &Dice) -> String {
    let text = write(&last.value, last.twice.as_deref());
    match dice.below(120) {
        0 => String::new(),
        1 => dice.pick(&["[]", "null", "5", "\"x\"", "{", "{}", "{}{}", "x: y", "{\"a\":}"]).into(),
        2 => text[..text.floor_char_boundary(text.len() / 2)].into(),
        3 => text + " x",
        _ => text,
    }
}

/// Options of a delete that only tries it: with a body, servers do not look at the query.
fn tried(body: String) -> String {
    let options = match serde_json::from_str(&body) {
        Ok(Value::Null) => json!({}),
        Ok(options @ Value::Object(_)) => options,
        _ => return body,
    };
    let is_set = options["dryRun"].as_array().is_some_and(|all| !all.is_empty());
    if is_set || !(options["dryRun"].is_null() || options["dryRun"].is_array()) {
        return body;
    }
    let mut options = options;
    options["dryRun"] = json!(["All"]);
    options.to_string()
}

fn overlay(to: &mut Value, with: &Value) {
    match (to, with) {
        (Value::Object(to), Value::Object(with)) => {
            for (name, value) in with {
                overlay(to.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (to, with) => *to = with.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/CM"}}});
        let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
        let dry = json!([{"name": "dryRun", "in": "query"}]);
        let of = |action: &str| {
            json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind, "parameters": dry,
            "requestBody": {"content": content}, "responses": {"200": {"content": content}}})
        };
        let path = "/api/v1/namespaces/{namespace}/configmaps";
        let schema = json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "data": {"type": "object", "additionalProperties": {"type": "string"}}}});
        Catalog::read(vec![json!({
            "paths": {path: {"post": of("post")}, format!("{path}/{{name}}"): {"patch": of("patch")}},
            "components": {"schemas": {"CM": schema}}})])
    }

    #[test]
    fn a_seed_makes_the_same_requests_again() {
        let catalog = catalog();
        let generator = Generator::new(&catalog).expect("bases");
        let run = |seed| {
            let dice = Dice::seeded(seed);
            let all = (0..50).filter_map(|_| generator.request(&dice));
            all.map(|a| (a.method, a.path, a.body)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).iter().all(|(_, path, _)| path.contains("dryRun=")));
    }

    #[test]
    fn deletes_are_tried_only() {
        let made = |body: &str| tried(body.to_owned());
        assert_eq!(made("null"), r#"{"dryRun":["All"]}"#);
        assert_eq!(made(r#"{"kind":"x"}"#), r#"{"dryRun":["All"],"kind":"x"}"#);
        for other in ["", "5", "{", r#"{"dryRun":["x"]}"#, r#"{"dryRun":"x"}"#] {
            assert_eq!(made(other), other);
        }
    }

    #[test]
    fn bases_are_whole() {
        let catalog = catalog();
        let first = Generator::new(&catalog).expect("bases").first();
        let [made] = &first[..] else { panic!("one kind") };
        let body: Value = serde_json::from_slice(&made.body).expect("JSON");
        assert_eq!((&body["metadata"]["name"], &body["data"]), (&json!(BASE), &json!({"a": "b"})));
    }
}
