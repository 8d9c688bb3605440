//! What is wrong with a definition's schema (upstream: apiextensions
//! `pkg/apis/apiextensions/validation/validation.go#ValidateCustomResourceDefinitionOpenAPISchema`,
//! `pkg/apiserver/schema/defaulting/validation.go`).
//!
//! Rules in CEL are compiled where the schema under them has no other errors.

mod defaults;
mod lists;

use super::rules::{Node, TotalCost};
use super::structural::Structural;
use super::{invariants, json_path};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path, quoted};
use serde_json::Value;

pub use defaults::unpruned;
pub use lists::{bad_map_or_set, has_non_atomic_set};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// Fields that a root may not have when status is a subresource, in the order of upstream's struct.
const NOT_AT_ROOT: &[&str] = &[
    "id",
    "$schema",
    "$ref",
    "nullable",
    "default",
    "maxProperties",
    "minProperties",
    "enum",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
];
const AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";

/// What an update may keep because it was there before (upstream: `validationOptions`).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub require_valid_types: bool,
    pub require_structural: bool,
    pub require_pruned_defaults: bool,
    pub require_atomic_sets: bool,
    pub require_map_keys: bool,
    /// The schema did not change: its expressions may cost what they cost before.
    pub unchanged: bool,
}

impl Options {
    /// For a definition that is new.
    pub const NEW: Self = Self {
        require_valid_types: true,
        require_structural: true,
        require_pruned_defaults: true,
        require_atomic_sets: true,
        require_map_keys: true,
        unchanged: false,
    };
}

/// Errors of a `CustomResourceValidation` at `path` (upstream: `validateCustomResourceDefinitionValidation`).
pub fn check(validation: &Value, has_status: bool, options: &Options, path: &Path, errors: &mut ErrorList) {
    let schema = &validation["openAPIV3Schema"];
    if !schema.is_object() {
        return;
    }
    let before = errors.len();
    let at = path.child("openAPIV3Schema");
    if has_status {
        root(schema, path, errors);
    }
    if schema["nullable"] == true {
        let at = path.child("openAPIV3Schema.nullable");
        errors.push(Error::forbidden(&at, "nullable cannot be true at the root"));
    }
    let (mut not_parsed, mut structural) = (None, None);
    if options.require_structural {
        match Structural::parse(schema) {
            Err(why) => not_parsed = Some(Error::invalid(&at, "", why)),
            Ok(s) => {
                let found = invariants::check(&s, &at);
                let own = errors.len();
                if found.is_empty() {
                    defaults::check(&s, options.require_pruned_defaults, &at, errors);
                } else {
                    errors.extend(found);
                }
                // Expressions are looked at where the schema has a structure.
                structural = (errors.len() == own).then_some(s);
            }
        }
    }
    let mut found = Found::default();
    found.total.unchanged = options.unchanged;
    let rules = structural.as_ref().map(Node::root);
    let walk = Walk { options, inside_meta: false, no_defaults: None, rules, uncorrelated: None };
    walk.node(schema, true, &at, errors, &mut found);
    errors.append(&mut found.rules);
    if errors.len() == before {
        errors.extend(not_parsed);
    }
    found.total.finish(&at, errors);
}

/// What is found of rules, which is told after what is found of schemas.
#[derive(Default)]
struct Found {
    rules: ErrorList,
    total: TotalCost,
}

/// Whether a predicate holds for a schema or any under it (upstream: `SchemaHas`).
pub fn any(schema: &Value, pred: &mut dyn FnMut(&Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    if pred(schema) {
        return true;
    }
    children(schema).into_iter().any(|child| any(child, pred))
}

/// The schemas directly under one.
fn children(schema: &Value) -> Vec<&Value> {
    let mut out = Vec::new();
    match &schema["items"] {
        Value::Array(list) => out.extend(list),
        one => out.push(one),
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        out.extend(items(schema, field));
    }
    out.push(&schema["not"]);
    for field in ["properties", "patternProperties", "definitions", "dependencies"] {
        out.extend(schema[field].as_object().into_iter().flatten().map(|(_, v)| v));
    }
    out.extend([&schema["additionalProperties"], &schema["additionalItems"]]);
    out
}

/// Whether any type is none of OpenAPI's.
pub fn has_bad_types(schema: &Value) -> bool {
    any(schema, &mut |s| !text(s, "type").is_empty() && !TYPES.contains(&text(s, "type")))
}

/// Whether the root says only what is kept when status is looked at alone.
fn root(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let said = |f: &&&str| match &schema[**f] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(m) => !m.is_empty() || matches!(**f, "additionalProperties" | "not"),
        Value::String(s) => !s.is_empty() || f.starts_with("x-kubernetes"),
        _ => true,
    };
    let ty = text(schema, "type");
    let early = NOT_AT_ROOT[..3].iter().find(said);
    if early.is_none() && !ty.is_empty() && ty != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(Error::invalid(&path.child("openAPIV3Schema.type"), ty, detail));
    } else if NOT_AT_ROOT.iter().any(|f| said(&f)) {
        let detail = format!(
            "only {AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.push(Error::invalid(&path.child("openAPIV3Schema"), schema.clone(), detail));
    }
}

/// The walk over a schema's JSON, which also sees what has no structural form.
struct Walk<'a> {
    options: &'a Options,
    /// Inside the metadata or type of a resource.
    inside_meta: bool,
    /// Why there may be no defaults here.
    no_defaults: Option<String>,
    /// The node as its rules see it; `None` where rules are not looked at.
    rules: Option<Node<'a>>,
    /// The first part above whose old and new values cannot be told to be the same.
    uncorrelated: Option<Path>,
}

impl<'a> Walk<'a> {
    fn node(&self, s: &Value, is_root: bool, path: &Path, errors: &mut ErrorList, found: &mut Found) {
        if !s.is_object() {
            return;
        }
        let before = errors.len();
        self.plain(s, path, errors);
        if s["uniqueItems"] == true {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.push(Error::forbidden(&path.child("uniqueItems"), detail));
        }
        self.additional(s, path, errors, found);
        self.properties(s, is_root, path, errors, found);
        self.nested(s, path, errors, found);
        self.items(s, path, errors, found);
        if s["x-kubernetes-preserve-unknown-fields"] == false {
            let at = path.child("x-kubernetes-preserve-unknown-fields");
            errors.push(Error::invalid(&at, false, "must be true or undefined"));
        }
        lists::check(s, self.options, path, errors);
        for (i, rule) in items(s, "x-kubernetes-validations").iter().enumerate() {
            rule_texts(rule, s, &path.child("x-kubernetes-validations").index(i), errors);
        }
        let has_rules = !items(s, "x-kubernetes-validations").is_empty();
        if let Some(node) = self.rules.filter(|_| has_rules && errors.len() == before) {
            node.check(&mut found.total, self.uncorrelated.as_ref(), path, &mut found.rules);
        }
    }

    /// Schemas that say more of the same value; their rules are not looked at.
    fn nested(&self, s: &Value, path: &Path, errors: &mut ErrorList, found: &mut Found) {
        let below = self.with(None);
        below.node(&s["not"], false, &path.child("not"), errors, found);
        for field in ["allOf", "oneOf", "anyOf"] {
            for (i, nested) in items(s, field).iter().enumerate() {
                below.node(nested, false, &path.child(field).index(i), errors, found);
            }
        }
        for (name, nested) in s["definitions"].as_object().into_iter().flatten() {
            below.node(nested, false, &path.child("definitions").key(name), errors, found);
        }
    }

    fn items(&self, s: &Value, path: &Path, errors: &mut ErrorList, found: &mut Found) {
        let mut below = self.with(self.rules.and_then(|n| n.items()));
        if s["x-kubernetes-list-type"] != "map" {
            below.uncorrelated.get_or_insert_with(|| path.clone());
        }
        match &s["items"] {
            Value::Array(list) => {
                for (i, nested) in list.iter().enumerate() {
                    below.node(nested, false, &path.child("items").index(i), errors, found);
                }
            }
            nested => below.node(nested, false, &path.child("items"), errors, found),
        }
    }

    fn with(&self, rules: Option<Node<'a>>) -> Self {
        Self {
            options: self.options,
            inside_meta: self.inside_meta,
            no_defaults: self.no_defaults.clone(),
            rules,
            uncorrelated: self.uncorrelated.clone(),
        }
    }

    fn additional(&self, s: &Value, path: &Path, errors: &mut ErrorList, found: &mut Found) {
        let (a, at) = (&s["additionalProperties"], path.child("additionalProperties"));
        if a.is_null() {
            return;
        }
        let has_properties = s["properties"].as_object().is_some_and(|p| !p.is_empty());
        if has_properties && *a != true {
            errors.push(Error::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        let mut below = self.with(self.rules.and_then(|n| n.additional()));
        if self.inside_meta {
            below.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
        }
        below.node(a, false, &at, errors, found);
    }

    fn properties(&self, s: &Value, is_root: bool, path: &Path, errors: &mut ErrorList, found: &mut Found) {
        let correlates = matches!(s["x-kubernetes-map-type"].as_str(), None | Some("granular" | "atomic"));
        let resource = is_root || s["x-kubernetes-embedded-resource"] == true;
        for (name, nested) in s["properties"].as_object().into_iter().flatten() {
            let at = path.child("properties").key(name);
            let mut below = self.with(self.rules.and_then(|n| n.property(name)));
            if !correlates {
                below.uncorrelated.get_or_insert_with(|| path.clone());
            }
            if resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
                below.inside_meta = true;
                if is_root {
                    below.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            below.node(nested, false, &at, errors, found);
        }
    }

    /// Upstream: `specStandardValidatorV3.validate`.
    fn plain(&self, s: &Value, path: &Path, errors: &mut ErrorList) {
        let ty = text(s, "type");
        if self.options.require_valid_types && !ty.is_empty() && !TYPES.contains(&ty) {
            errors.push(Error::not_supported(&path.child("type"), ty, TYPES));
        }
        if let (Some(reason), false) = (&self.no_defaults, s["default"].is_null()) {
            errors.push(Error::forbidden(&path.child("default"), format!("must not be set {reason}")));
        }
        for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            let said = match &s[field] {
                Value::Null => false,
                Value::String(t) => !t.is_empty() || field == "$ref",
                Value::Object(m) => !m.is_empty() || matches!(field, "additionalItems" | "dependencies"),
                _ => true,
            };
            if said {
                errors.push(Error::forbidden(&path.child(field), format!("{field} is not supported")));
            }
        }
        if ty == "null" {
            let detail = "type cannot be set to null, use nullable as an alternative";
            errors.push(Error::forbidden(&path.child("type"), detail));
        }
        if !items(s, "items").is_empty() {
            let detail = "items must be a schema object and not an array";
            errors.push(Error::forbidden(&path.child("items"), detail));
        }
        if self.inside_meta && s["x-kubernetes-embedded-resource"] == true {
            let at = path.child("x-kubernetes-embedded-resource");
            errors.push(Error::forbidden(&at, "must not be used inside of resource meta"));
        }
    }
}

/// The texts of a rule in CEL.
fn rule_texts(rule: &Value, schema: &Value, path: &Path, errors: &mut ErrorList) {
    let (cel, message) = (text(rule, "rule"), text(rule, "message"));
    let lines = |s: &str| s.contains(['\n', '\r']);
    let at = path.child("message");
    if cel.trim().is_empty() {
        errors.push(Error::required(&path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(&at, message, "must be non-empty if specified"));
    } else if lines(message.trim()) {
        errors.push(Error::invalid(&at, message, "must not contain line breaks"));
    } else if lines(cel.trim()) && message.trim().is_empty() {
        errors.push(Error::required(&at, "message must be specified if rule contains line breaks"));
    }
    let expression = text(rule, "messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        errors.push(Error::required(&path.child("messageExpression"), detail));
    }
    let reasons = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    if let Some(reason) = rule["reason"].as_str().filter(|r| !reasons.contains(r)) {
        errors.push(Error::not_supported(&path.child("reason"), reason, reasons));
    }
    let (field, at) = (text(rule, "fieldPath"), path.child("fieldPath"));
    if field.is_empty() {
        return;
    }
    if field.trim().is_empty() {
        errors.push(Error::invalid(&at, field, "must be non-empty if specified"));
    }
    if lines(field) {
        errors.push(Error::invalid(&at, field, "must not contain line breaks"));
    }
    if Structural::parse(schema).is_ok_and(|s| json_path::schema_at(field, &s, true).is_err()) {
        errors.push(Error::invalid(&at, field, "must be a valid path"));
    }
}

/// Errors of `selectableFields` (upstream: `ValidateCustomResourceSelectableFields`). A schema without a structural form
/// has no fields; the syntax of the paths is looked at all the same.
pub fn selectable_fields(
    list: &[Value],
    schema: Option<&Structural>,
    allow_too_many: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    const FIELDS_MAX: usize = 8;
    let nothing = Structural::default();
    let schema = schema.unwrap_or(&nothing);
    let mut seen: Vec<String> = Vec::new();
    for (i, f) in list.iter().enumerate() {
        let (at, json_path) = (path.index(i).child("jsonPath"), text(f, "jsonPath"));
        if json_path.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let (found, target) = match json_path::schema_at(json_path, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(&at, json_path, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if found.split('.').next() == Some("metadata") {
            errors.push(Error::invalid(&at, json_path, "must not point to fields in metadata"));
        }
        if !matches!(target.ty.as_str(), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(Error::invalid(&at, json_path, detail));
        }
        if seen.contains(&found) {
            errors.push(Error::duplicate(&at, json_path));
        } else {
            seen.push(found);
        }
    }
    if seen.len() > FIELDS_MAX && !allow_too_many {
        errors.push(Error::too_many(path, seen.len(), FIELDS_MAX));
    }
}

/// Warnings about a schema: formats that are not checked, in the order found, and sets of what is no scalar.
pub fn warnings(schema: &Value) -> (Vec<String>, Vec<String>) {
    let (mut unknown, mut sets) = (Vec::new(), Vec::new());
    any(schema, &mut |s| {
        let format = text(s, "format");
        if !format.is_empty() && !super::formats::is_supported(text(s, "type"), format) {
            unknown.push(format!("unrecognized format {format}", format = quoted(format)));
        }
        let ty = text(&s["items"], "type");
        if s["x-kubernetes-list-type"] == "set" && matches!(ty, "object" | "array") {
            let warning = format!(
                "x-kubernetes-list-type: set for items of type {ty} is not supported by server-side apply or CEL validation rules",
                ty = quoted(ty)
            );
            if !sets.contains(&warning) {
                sets.push(warning);
            }
        }
        false
    });
    sets.sort_unstable();
    (unknown, sets)
}
