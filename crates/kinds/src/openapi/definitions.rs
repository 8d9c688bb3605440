//! Definitions of types, gathered as paths and other definitions name them.

use super::{Dialect, gvk, set};
use crate::KindDef;
use crate::schema::description;
use meta::schema::{Field, Schema, Ty, TypeDef};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const VERSION_INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
/// Types that are any JSON.
const JSON_TYPES: [&str; 4] = [
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
];
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definitions of one document.
pub(super) struct Definitions<'a> {
    pub dialect: Dialect,
    schema: &'a Schema,
    /// Kinds by definition name.
    kinds: BTreeMap<String, Vec<Value>>,
    /// Lists that the schema lacks: definition name and that of the items.
    lists: BTreeMap<String, String>,
    /// Definitions that rows bring themselves (custom resources).
    own: BTreeMap<String, Value>,
    wanted: BTreeSet<String>,
    done: BTreeMap<String, Value>,
}

impl<'a> Definitions<'a> {
    pub fn new(dialect: Dialect, schema: &'a Schema, rows: &[&KindDef]) -> Self {
        let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut versions = BTreeSet::new();
        let mut add = |name: String, value: Value| {
            let list = kinds.entry(name).or_default();
            if !list.contains(&value) {
                list.push(value);
            }
        };
        let mut own = BTreeMap::new();
        for row in rows {
            if let Some(p) = row.custom.as_ref().map(|c| &c.definitions) {
                let (object, list) = match dialect {
                    Dialect::V2 => (&p.v2, &p.list_v2),
                    Dialect::V3 => (&p.v3, &p.list_v3),
                };
                own.insert(p.name.clone(), object.clone());
                own.insert(p.list_name.clone(), list.clone());
                continue;
            }
            let (g, v, k) = (&*row.group, &*row.version, &*row.kind);
            add(row.schema.to_string(), gvk(g, v, k));
            add(format!("{}List", row.schema), gvk(g, v, &format!("{k}List")));
            for (g, v, k) in row.subresources.iter().filter_map(|s| s.body) {
                add(body_type(g, v, k), gvk(g, v, k));
            }
            versions.insert((g.to_owned(), v.to_owned()));
        }
        for row in rows.iter().filter(|row| row.custom.is_some()) {
            for (g, v, k) in row.subresources.iter().filter_map(|s| s.body) {
                add(body_type(g, v, k), gvk(g, v, k));
            }
            versions.insert((row.group.to_string(), row.version.to_string()));
        }
        versions.insert((String::new(), "v1".to_owned()));
        for (g, v) in versions {
            add(DELETE_OPTIONS.to_owned(), gvk(&g, &v, "DeleteOptions"));
            add(WATCH_EVENT.to_owned(), gvk(&g, &v, "WatchEvent"));
        }
        for kind in ["Status", "APIGroup", "APIGroupList", "APIResourceList", "APIVersions"] {
            add(format!("{META}.{kind}"), gvk("", "v1", kind));
        }
        // types of other groups are named too, where fields have them
        for row in crate::KINDS.iter().map(|row| row()) {
            add(row.schema.to_string(), gvk(&row.group, &row.version, &row.kind));
        }
        Self {
            dialect,
            schema,
            kinds,
            lists: BTreeMap::new(),
            own,
            wanted: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// A reference to a definition, which the document will hold.
    pub fn reference(&mut self, name: &str) -> Value {
        if !self.done.contains_key(name) {
            self.wanted.insert(name.to_owned());
        }
        self.dialect.reference(name)
    }

    /// A reference to the type of a row's objects, or any object when the schema does not know it.
    pub fn object(&mut self, name: &str) -> Value {
        let known = self.own.contains_key(name) || self.schema.types.contains_key(name);
        if known { self.reference(name) } else { json!({"type": "object"}) }
    }

    /// A reference to the list of a row's objects.
    pub fn list(&mut self, row: &KindDef) -> Value {
        if let Some(custom) = &row.custom {
            return self.reference(&custom.definitions.list_name);
        }
        let name = format!("{}List", row.schema);
        if !self.schema.types.contains_key(&name) {
            self.lists.insert(name.clone(), row.schema.to_string());
        }
        self.reference(&name)
    }

    /// All definitions that are referred to, from wherever.
    pub fn finish(mut self) -> Value {
        while let Some(name) = self.wanted.pop_first() {
            let mut def = self.define(&name);
            if let (Some(map), Some(kinds)) = (def.as_object_mut(), self.kinds.get(&name)) {
                map.insert("x-kubernetes-group-version-kind".into(), Value::from(kinds.clone()));
            }
            self.done.insert(name, def);
        }
        Value::Object(self.done.into_iter().collect())
    }

    fn define(&mut self, name: &str) -> Value {
        let v3 = self.dialect == Dialect::V3;
        if let Some(own) = self.own.get(name).cloned() {
            for meta in ["ObjectMeta", "ListMeta"] {
                self.reference(&format!("{META}.{meta}"));
            }
            return own;
        }
        match name {
            TIME | MICRO_TIME => json!({"type": "string", "format": "date-time"}),
            name if JSON_TYPES.contains(&name) => json!({}),
            PATCH | FIELDS_V1 | RAW => json!({"type": "object"}),
            VERSION_INFO => version_info(v3),
            QUANTITY if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            QUANTITY => json!({"type": "string"}),
            INT_OR_STRING if v3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            INT_OR_STRING => json!({"type": "string", "format": "int-or-string"}),
            _ => match self.schema.types.get(name) {
                Some(def) => self.structure(name, def),
                None => self.made_list(name),
            },
        }
    }

    fn structure(&mut self, name: &str, def: &TypeDef) -> Value {
        let mut out = Map::new();
        set(&mut out, "description", description(name, "").unwrap_or(""));
        out.insert("type".into(), "object".into());
        let required: Vec<&str> =
            def.fields.iter().filter(|(_, f)| f.required).map(|(k, _)| k.as_str()).collect();
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
        let mut properties = Map::new();
        for (key, field) in &def.fields {
            let text = description(name, key).unwrap_or("");
            let mut property = self.field(field, !text.is_empty());
            set(&mut property, "description", text);
            properties.insert(key.clone(), Value::Object(property));
        }
        if !properties.is_empty() {
            out.insert("properties".into(), Value::Object(properties));
        }
        set(&mut out, "x-kubernetes-map-type", &def.map_type);
        if let Some(unions) = &def.unions {
            out.insert("x-kubernetes-unions".into(), unions.clone());
        }
        Value::Object(out)
    }

    fn made_list(&mut self, name: &str) -> Value {
        let Some(item) = self.lists.get(name).cloned() else { return json!({"type": "object"}) };
        let (items, metadata) = (self.object(&item), self.reference(&format!("{META}.ListMeta")));
        let text = json!({"type": "string"});
        let properties = json!({"apiVersion": text, "kind": text, "metadata": metadata, "items": {"type": "array", "items": items}});
        json!({"type": "object", "required": ["items"], "properties": properties})
    }

    fn field(&mut self, f: &Field, is_described: bool) -> Map<String, Value> {
        let v3 = self.dialect == Dialect::V3;
        let any = match f.go_type().as_ref() {
            "v1.FieldsV1" => Some(FIELDS_V1),
            "runtime.RawExtension" => Some(RAW),
            "v1.JSONSchemaDependencies" => JSON_TYPES.last().copied(),
            go => JSON_TYPES.iter().find(|name| go.rsplit('.').next() == name.rsplit('.').next()).copied(),
        };
        let ty = match (any, &f.ty) {
            (Some(name), Ty::Any) => self.reference(name),
            (Some(name), Ty::List(_)) => json!({"type": "array", "items": self.reference(name)}),
            (Some(name), Ty::Map(_)) => {
                json!({"type": "object", "additionalProperties": self.reference(name)})
            }
            _ => self.ty(&f.ty),
        };
        let default = f.published_default().filter(|_| v3);
        // upstream describes these wherever they are
        let is_described = is_described || matches!(any, Some(FIELDS_V1 | RAW));
        let mut out = match ty {
            // In v3 nothing may stand beside a reference.
            Value::Object(m) if v3 && m.contains_key("$ref") && (is_described || default.is_some()) => {
                Map::from_iter([("allOf".to_owned(), Value::from(vec![Value::Object(m)]))])
            }
            Value::Object(m) => m,
            _ => Map::new(),
        };
        if let Some(default) = default {
            out.insert("default".into(), default);
        }
        if !f.values.is_empty() {
            limit(&mut out, &f.values);
        }
        set(&mut out, "x-kubernetes-list-type", &f.list_type);
        set(&mut out, "x-kubernetes-map-type", &f.map_type);
        set(&mut out, "x-kubernetes-patch-strategy", &f.patch_strategy);
        set(&mut out, "x-kubernetes-patch-merge-key", &f.patch_merge_key);
        if !f.list_map_keys.is_empty() {
            out.insert("x-kubernetes-list-map-keys".into(), f.list_map_keys.clone().into());
        }
        out
    }

    fn ty(&mut self, ty: &Ty) -> Value {
        match ty {
            Ty::String | Ty::Duration => json!({"type": "string"}),
            Ty::Bool => json!({"type": "boolean"}),
            Ty::Int32 => json!({"type": "integer", "format": "int32"}),
            Ty::Int64 => json!({"type": "integer", "format": "int64"}),
            Ty::Double => json!({"type": "number", "format": "double"}),
            Ty::Bytes => json!({"type": "string", "format": "byte"}),
            Ty::Any => json!({"type": "object"}),
            Ty::Time => self.reference(TIME),
            Ty::MicroTime => self.reference(MICRO_TIME),
            Ty::Quantity => self.reference(QUANTITY),
            Ty::IntOrString => self.reference(INT_OR_STRING),
            Ty::Ref(name) => self.object(name),
            Ty::List(inner) => {
                let items = self.ty(inner);
                json!({"type": "array", "items": items})
            }
            Ty::Map(inner) => {
                let values = self.ty(inner);
                json!({"type": "object", "additionalProperties": values})
            }
        }
    }
}

/// What `/version` answers with.
fn version_info(v3: bool) -> Value {
    let always = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let sometimes = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let mut properties = Map::new();
    for name in always.iter().chain(&sometimes) {
        let mut property = json!({"type": "string"});
        if v3 && always.contains(name) {
            property["default"] = "".into();
        }
        properties.insert((*name).to_owned(), property);
    }
    json!({"type": "object", "required": always, "properties": properties})
}

/// Texts that may be nothing else, wherever they are in a type.
fn limit(schema: &mut Map<String, Value>, values: &[String]) {
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner).and_then(Value::as_object_mut) {
            return limit(inner, values);
        }
    }
    schema.insert("enum".into(), values.into());
}

/// The definition of a subresource's body.
pub(super) fn body_type(group: &str, version: &str, kind: &str) -> String {
    let package = match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("io.k8s.api.{package}.{version}.{kind}")
}
