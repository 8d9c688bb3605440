//! A row of the table from a definition (upstream: apiextensions `pkg/registry/customresource`,
//! `pkg/apiserver/customresource_handler.go`).

use super::json_path::JsonPath;
use super::openapi::{self, Source};
use super::scale::{Scale, nested};
use super::structural::Structural;
use super::{Custom, invariants, list_type, object_meta, prune, schema_errors, validate};
use crate::columns::{AGE, NAME};
use crate::def::{
    Cell, Column, Ctx, KindDef, Scope, Strategy, StrategyRef, Subresource, Text, scale, status,
};
use crate::helpers;
use crate::rest;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, ErrorType, Path, quoted};
use meta::object;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

const STATUS: &[Subresource] = const { &[status()] };
const SCALE: &[Subresource] = const { &[scale()] };
const BOTH: &[Subresource] = const { &[scale(), status()] };

/// The row of one version of a definition. `crd` is a stored, thus valid CustomResourceDefinition.
///
/// # Errors
/// A text, when the definition has no such version or its schema has no structural form.
pub fn row(crd: &Value, version: &str) -> Result<KindDef, String> {
    let spec = &crd["spec"];
    let v = items(spec, "versions")
        .iter()
        .find(|v| v["name"] == version)
        .ok_or_else(|| format!("no version {version}", version = quoted(version)))?;
    let schema = match &v["schema"]["openAPIV3Schema"] {
        Value::Null => None,
        schema => Some(Arc::new(Structural::parse(schema)?)),
    };
    row_of(crd, v, schema)
}

/// As [`row`], of a version whose schema has been parsed.
pub fn row_of(crd: &Value, v: &Value, schema: Option<Arc<Structural>>) -> Result<KindDef, String> {
    let spec = &crd["spec"];
    // Names that were not accepted are not served.
    let names = if crd["status"]["acceptedNames"]["plural"].as_str().is_some_and(|p| !p.is_empty()) {
        &crd["status"]["acceptedNames"]
    } else {
        &spec["names"]
    };
    let owned = |field: &str| -> Text { Cow::Owned(text(names, field).to_owned()) };
    let (group, version) = (text(spec, "group").to_owned(), text(v, "name").to_owned());
    let custom = Arc::new(custom(spec, names, v, schema)?);
    let strategy = Strategist {
        custom: custom.clone(),
        kind: text(names, "kind").to_owned(),
        api_version: format!("{group}/{version}"),
        selectable: selectable_paths(&custom.selectable)?,
        status: custom.schema.as_ref().and_then(|s| s.properties.get("status").cloned()),
    };
    let subresources = match (custom.has_status, custom.scale.is_some()) {
        (true, true) => BOTH,
        (true, false) => STATUS,
        (false, true) => SCALE,
        (false, false) => &[],
    };
    let raw = &v["schema"]["openAPIV3Schema"];
    Ok(KindDef {
        reads_through: schema_errors::any(raw, &mut |s| s.get("default").is_some()),
        storage: format!("{group}/{}", text(names, "plural")).into(),
        schema: custom.definitions.name.clone().into(),
        group: group.into(),
        version: version.into(),
        kind: owned("kind"),
        plural: owned("plural"),
        singular: owned("singular"),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        subresources,
        strategy: StrategyRef::Shared(Arc::new(strategy)),
        custom: Some(custom),
        ..KindDef::BASE
    })
}

fn custom(spec: &Value, names: &Value, v: &Value, schema: Option<Arc<Structural>>) -> Result<Custom, String> {
    let selectable: Vec<String> = items(v, "selectableFields")
        .iter()
        .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned())
        .collect();
    let list_kind = text(names, "listKind").to_owned();
    let preserve = spec["preserveUnknownFields"] == true;
    let structural = schema.as_deref().filter(|s| invariants::check(s, &Path::root()).is_empty());
    let definitions = openapi::publish(&Source {
        group: text(spec, "group"),
        version: text(v, "name"),
        kind: text(names, "kind"),
        list_kind: &list_kind,
        plural: text(names, "plural"),
        schema: structural,
        preserve_unknown_fields: preserve,
        selectable: &selectable,
    });
    let scale = v["subresources"]["scale"].as_object().map(|_| {
        let s = &v["subresources"]["scale"];
        Scale {
            spec_replicas: text(s, "specReplicasPath").to_owned(),
            status_replicas: text(s, "statusReplicasPath").to_owned(),
            label_selector: s["labelSelectorPath"].as_str().map(str::to_owned),
        }
    });
    Ok(Custom {
        short: object::strings(&names["shortNames"]),
        categories: object::strings(&names["categories"]),
        columns: columns(items(v, "additionalPrinterColumns")),
        selectable,
        list_kind,
        raw_schema: Some(v["schema"]["openAPIV3Schema"].clone()).filter(|s| s.is_object() && !preserve),
        schema,
        rules: OnceLock::new(),
        preserve_unknown_fields: preserve,
        has_status: v["subresources"]["status"].is_object(),
        scale,
        deprecation_warning: deprecation(spec, names, v),
        definitions,
    })
}

/// Upstream: `defaultDeprecationWarning`.
fn deprecation(spec: &Value, names: &Value, v: &Value) -> Option<String> {
    if v["deprecated"] != true {
        return None;
    }
    if let Some(own) = v["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let (group, kind, this) = (text(spec, "group"), text(names, "kind"), text(v, "name"));
    let newer = items(spec, "versions")
        .iter()
        .filter(|o| o["served"] == true && o["deprecated"] != true)
        .map(|o| text(o, "name"))
        .filter(|o| compare_versions(this, o) == Ordering::Less)
        .max_by(|a, b| compare_versions(a, b));
    let mut out = format!("{group}/{this} {kind} is deprecated");
    if let Some(newer) = newer {
        out.push_str(&format!("; use {group}/{newer} {kind}"));
    }
    Some(out)
}

/// The order of versions: stable before beta before alpha, then by numbers; others last, by name backwards
/// (upstream: apimachinery `util/version#CompareKubeAwareVersionStrings`).
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse_version(a), parse_version(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stability, major and minor number.
fn parse_version(v: &str) -> Option<(u8, u64, u64)> {
    let rest = v.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = |s: &str| if s.starts_with('0') { None } else { s.parse::<u64>().ok() };
    let major = number(&rest[..end])?;
    let tail = &rest[end..];
    if tail.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((stability, major, number(minor)?))
}

/// Upstream: `tableconvertor.New`; a version without columns shows its age.
fn columns(list: &[Value]) -> Vec<Column> {
    if list.is_empty() {
        return vec![NAME, Column { ty: "date", ..AGE }];
    }
    let mut out = vec![NAME];
    for c in list {
        let json_path = text(c, "jsonPath");
        // A path that is not understood ends the columns, as upstream's converter does.
        let Ok(path) = JsonPath::parse(json_path) else { break };
        let ty = static_of(text(c, "type"), &["integer", "number", "string", "boolean", "date"]);
        let formats = &["int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
        let description = match text(c, "description") {
            "" => format!("Custom resource definition column (in JSONPath format): {json_path}"),
            own => own.to_owned(),
        };
        out.push(Column {
            name: text(c, "name").to_owned().into(),
            ty,
            format: static_of(text(c, "format"), formats),
            description: description.into(),
            priority: c["priority"].as_u64().and_then(|p| u8::try_from(p).ok()).unwrap_or(0),
            cell: Cell::Shared(Arc::new(move |obj, now| {
                let found = path.find(obj).unwrap_or_default();
                found.first().map_or(Value::Null, |v| cell(v, ty, now))
            })),
        });
    }
    out
}

/// The entry of the list that equals the text; empty when there is none.
fn static_of(text: &str, known: &[&'static str]) -> &'static str {
    known.iter().find(|k| **k == text).copied().unwrap_or("")
}

/// Upstream: `cellForJSONValue`, and for texts what JSONPath prints.
fn cell(v: &Value, ty: &str, now: jiff::Timestamp) -> Value {
    match (ty, v) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => v.clone(),
        ("string", Value::Null) => "".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => {
            n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(n)) => n.as_f64().map_or(Value::Null, Value::from),
        ("date", Value::String(s)) => match s.parse::<jiff::Timestamp>() {
            Ok(then) => meta::time::human_duration(now.duration_since(then)).into(),
            Err(_) if s.is_empty() => "<unknown>".into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

fn selectable_paths(fields: &[String]) -> Result<Vec<(String, JsonPath)>, String> {
    fields.iter().map(|f| Ok((f.clone(), JsonPath::parse(&format!(".{f}"))?))).collect()
}

struct Strategist {
    custom: Arc<Custom>,
    kind: String,
    api_version: String,
    selectable: Vec<(String, JsonPath)>,
    /// The schema of `status`, which a status update is checked against.
    status: Option<Arc<Structural>>,
}

impl Strategy for Strategist {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        self.custom.default(obj);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        if self.custom.has_status
            && let Some(map) = obj.as_object_mut()
        {
            map.remove("status");
        }
        object::set_meta(obj, "generation", 1);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        crate::status::reset_with_metadata(subresource)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        if ctx.subresource == "status" {
            let status = new.get("status").cloned();
            rest::keep_all_metadata(new, old);
            let metadata = new["metadata"].take();
            *new = old.clone();
            new["metadata"] = metadata;
            match (status, new.as_object_mut()) {
                (Some(status), Some(map)) => drop(map.insert("status".to_owned(), status)),
                (None, Some(map)) => drop(map.remove("status")),
                _ => {}
            }
            return;
        }
        if self.custom.has_status {
            rest::keep(new, old, "status");
        }
        // Without a status subresource a change of status counts as well.
        if object::spec_differs(new, old, &[]) {
            object::set_meta(new, "generation", object::generation(old) + 1);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = self.type_meta(obj);
        if !errors.is_empty() {
            return errors;
        }
        if let Some(schema) = &self.custom.schema {
            errors.extend(validate::check(obj, schema, &Path::root()));
        }
        self.scale_spec(obj, &mut errors);
        self.scale_status(obj, &mut errors);
        if let Some(schema) = &self.custom.schema {
            object_meta::check(obj, schema, false, &Path::root(), &mut errors);
            list_type::check(obj, schema, &Path::root(), &mut errors);
        }
        self.rules(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        let mut errors = self.type_meta(new);
        if !errors.is_empty() {
            return errors;
        }
        if ctx.subresource == "status" {
            if let (Some(schema), Some(v)) = (&self.status, new.get("status")) {
                let was = old.get("status");
                errors.extend(validate::check_update(v, was, schema, &Path::new("status")));
            }
        } else {
            if let Some(schema) = &self.custom.schema {
                errors.extend(validate::check_update(new, Some(old), schema, &Path::root()));
            }
            self.scale_spec(new, &mut errors);
        }
        self.scale_status(new, &mut errors);
        let Some(schema) = &self.custom.schema else { return errors };
        if ctx.subresource != "status" {
            object_meta::check(new, schema, false, &Path::root(), &mut errors);
        }
        let mut was = Vec::new();
        list_type::check(old, schema, &Path::root(), &mut was);
        if was.is_empty() {
            list_type::check(new, schema, &Path::root(), &mut errors);
        }
        self.rules(new, Some(old), &mut errors);
        errors
    }

    /// What was stored under an older schema takes this one's shape.
    fn decode_stored(&self, obj: &mut Value) {
        let schema = self.custom.schema.as_deref();
        if !self.custom.preserve_unknown_fields {
            prune::prune(obj, schema, true);
            super::default::prune_nulls(obj, schema);
        }
        self.custom.default(obj);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let known = old.map(object::finalizers).unwrap_or_default();
        let mut added: Vec<&str> =
            object::finalizers(new).into_iter().filter(|f| !known.contains(f)).collect();
        added.sort_unstable();
        added.dedup();
        let mut out: Vec<String> = added.into_iter().flat_map(finalizer_warnings).collect();
        // What did not change and breaks a rule is let through, but told.
        if let (Some(rules), Some(old)) = (self.custom.rules(), old) {
            out.extend(rules.check(new, Some(old), super::rules::OBJECT_COST_MAX).warnings);
        }
        out
    }

    fn selected(&self, obj: &Value) -> Vec<(Text, String)> {
        let value = |path: &JsonPath| match path.find(obj).unwrap_or_default().first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        };
        self.selectable.iter().map(|(name, path)| (name.clone().into(), value(path))).collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::dns_subdomain_errors(name, prefix)
    }
}

impl Strategist {
    /// Rules see objects of the right form only (upstream: `hasBlockingErr`).
    fn rules(&self, new: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        let Some(rules) = self.custom.rules() else { return };
        let blocks = |e: &Error| {
            matches!(
                e.kind,
                ErrorType::NotSupported
                    | ErrorType::Required
                    | ErrorType::TooLong
                    | ErrorType::TooMany
                    | ErrorType::TypeInvalid
            )
        };
        if errors.iter().any(blocks) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            // upstream has no path here
            errors.push(Error::invalid(&Path::new("<nil>"), Value::Null, detail));
            return;
        }
        errors.extend(rules.check(new, old, super::rules::OBJECT_COST_MAX).errors);
    }

    /// Upstream: `ValidateTypeMeta`.
    fn type_meta(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        for (field, want) in [("kind", &self.kind), ("apiVersion", &self.api_version)] {
            if text(obj, field) != want {
                let detail = format!("must be {want}");
                errors.push(Error::invalid(&Path::new(field), text(obj, field), detail));
            }
        }
        errors
    }

    fn scale_spec(&self, obj: &Value, errors: &mut ErrorList) {
        if let Some(scale) = &self.custom.scale {
            replicas(obj, &scale.spec_replicas, errors);
        }
    }

    fn scale_status(&self, obj: &Value, errors: &mut ErrorList) {
        let Some(scale) = &self.custom.scale else { return };
        replicas(obj, &scale.status_replicas, errors);
        if let Some(path) = &scale.label_selector
            && let Some(Err(why)) = nested(obj, path, "string").map(|v| v.map(|_| ()))
        {
            errors.push(Error::invalid(&Path::new(path), "", why));
        }
    }
}

/// Upstream: `ValidateScaleSpec`, `ValidateScaleStatus`.
fn replicas(obj: &Value, path: &str, errors: &mut ErrorList) {
    let at = Path::new(path);
    match nested(obj, path, "int64") {
        None => {}
        Some(Err(why)) => errors.push(Error::invalid(&at, 0, why)),
        Some(Ok(v)) => {
            let n = v.as_i64().unwrap_or(0);
            if n < 0 {
                errors.push(Error::invalid(&at, n, "should be a non-negative integer"));
            } else if n > i64::from(i32::MAX) {
                let detail = format!("should be less than or equal to {}", i32::MAX);
                errors.push(Error::invalid(&at, n, detail));
            }
        }
    }
}

/// Upstream: `validateKubeFinalizerName`.
fn finalizer_warnings(name: &str) -> Vec<String> {
    const AT: &str = "metadata.finalizers";
    let mut out: Vec<String> = helpers::qualified_name_errors(name)
        .into_iter()
        .map(|m| format!("{AT}: {name}: {m}", name = quoted(name)))
        .collect();
    let standard = ["orphan", "foregroundDeletion", "kubernetes"].contains(&name);
    if !name.contains('/') && !standard {
        let how = if name.contains('.') { " including a path (/)" } else { "" };
        out.push(format!(
            "{AT}: {name}: prefer a domain-qualified finalizer name{how} to avoid accidental conflicts with other finalizer writers", name = quoted(name)));
    }
    out
}

#[cfg(test)]
mod tests;
