//! What OpenAPI says beyond Go: required fields, list and map types, defaults.

use meta::schema::TypeDef;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The published documents.
pub struct Docs {
    v2: Value,
    /// Definitions of all v3 documents; they alone tell defaults.
    v3: HashMap<String, Value>,
}

impl Docs {
    /// Reads `swagger.json` and `v3/*.json`.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let v2 = read(&dir.join("swagger.json"))?;
        let mut v3 = HashMap::new();
        let folder = dir.join("v3");
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
        {
            let mut doc = read(&path)?;
            if let Value::Object(schemas) = doc["components"]["schemas"].take() {
                v3.extend(schemas);
            }
        }
        Ok(Self { v2, v3 })
    }

    /// Definitions of the kinds, and of their lists, in the group versions that `served` picks.
    pub fn kinds(&self, served: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let picked = |def: &Value| {
            let all = def["x-kubernetes-group-version-kind"].as_array();
            all.into_iter()
                .flatten()
                .any(|gvk| served(gvk["group"].as_str().unwrap_or(""), gvk["version"].as_str().unwrap_or("")))
        };
        let all = self.v2["definitions"].as_object().into_iter().flatten();
        // What all groups share is no kind of theirs.
        let own = all.filter(|(name, _)| !name.starts_with("io.k8s.apimachinery."));
        own.filter(|(_, def)| picked(def)).map(|(name, _)| name.clone()).collect()
    }

    /// Adds what the documents say to a definition; types that they lack stay as they are.
    pub fn enrich(&self, name: &str, def: &mut TypeDef) {
        let v2 = &self.v2["definitions"][name];
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or("").to_owned();
        def.map_type = text(v2, "x-kubernetes-map-type");
        let unions = self.v3.get(name).map(|d| &d["x-kubernetes-unions"]);
        def.unions = unions.filter(|u| !u.is_null()).cloned();
        let required: Vec<&str> =
            v2["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, field) in &mut def.fields {
            let p = &v2["properties"][key];
            field.required = required.contains(&key.as_str());
            field.list_type = text(p, "x-kubernetes-list-type");
            field.map_type = text(p, "x-kubernetes-map-type");
            field.list_map_keys = p["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let default = self.v3.get(name).map(|d| &d["properties"][key]["default"]);
            field.default = default.filter(|d| !is_zero(d)).cloned();
            // a nothing that the field's type does not tell
            let zero = default.filter(|d| is_zero(d) && !d.is_null());
            field.shows_zero = zero.is_some() && field.zero_default().is_none();
        }
    }
}

/// Zero values are written as defaults of every field that is no pointer; they say nothing.
fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}
