//! Validation of a definition's spec (upstream: apiextensions `pkg/apis/apiextensions/validation/validation.go`).
//!
//! Upstream checks an internal form, in which what all versions share stands once at the top: errors of a schema that
//! every version has are at `spec.validation`.

use crate::custom::names::{Approval, approval, approved_annotation, is_protected_group, is_true};
use crate::custom::schema_errors::{self, Options};
use crate::custom::{Structural, invariants};
use crate::helpers;
use crate::rest;
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Longest deprecation warning, in bytes.
const WARNING_BYTES_MAX: usize = 256;

/// The schemas of a definition, one that all versions share once.
pub(super) fn schemas(crd: &Value) -> Vec<&Value> {
    let versions = items(&crd["spec"], "versions");
    let one = if shared(versions, "schema") { versions.len().min(1) } else { versions.len() };
    versions[..one].iter().map(|v| &v["schema"]["openAPIV3Schema"]).filter(|s| s.is_object()).collect()
}

/// Whether all versions say the same.
fn shared(versions: &[Value], field: &str) -> bool {
    versions.iter().all(|v| v[field] == versions[0][field])
}

/// Errors of a definition (upstream: `ValidateCustomResourceDefinition`, `ValidateCustomResourceDefinitionUpdate`).
pub(super) fn check(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), &crd["spec"]);
    let schema_options = options(spec, old);
    group_and_scope(spec, &path, errors);
    let structural = schema_options.require_structural;
    let require_schemas = old.is_none_or(|o| items(&o["spec"], "versions").iter().all(has_schema));
    let versions = items(spec, "versions");
    let shared_schema = shared(versions, "schema");
    if !(shared_schema && versions.first().is_some_and(has_schema)) {
        for (i, v) in versions.iter().enumerate().filter(|(_, v)| !has_schema(v)) {
            let at = path.child("versions").index(i).child("schema").child("openAPIV3Schema");
            if require_schemas {
                errors.push(Error::required(&at, ""));
            } else if spec["preserveUnknownFields"] != true && v["served"] == true {
                errors.push(Error::required(&at, "because otherwise all fields are pruned"));
            }
        }
    }
    let has = |pred: &mut dyn FnMut(&Value) -> bool| schemas(crd).iter().any(|s| schema_errors::any(s, pred));
    if has(&mut |s| !s["default"].is_null()) && spec["preserveUnknownFields"] == true {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    let context = Context {
        spec,
        old: old.map(|o| &o["spec"]),
        options: Options { require_structural: structural, ..schema_options },
    };
    context.versions(&path, errors);
    context.storage(&path, errors);
    names_required(&spec["names"], &path.child("names"), errors);
    names(&spec["names"], &path.child("names"), errors);
    context.top(&path, errors);
    conversion(spec, old, &path, errors);
    if let Some(old) = old {
        fixed(crd, old, &path, errors);
    }
    let at = Path::new("status");
    names(&crd["status"]["acceptedNames"], &at.child("acceptedNames"), errors);
    stored_versions(crd, &at.child("storedVersions"), errors);
    approved(crd, old, errors);
    if spec["preserveUnknownFields"] == true && old.is_none_or(|o| o["spec"]["preserveUnknownFields"] != true)
    {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
}

fn has_schema(v: &Value) -> bool {
    v["schema"]["openAPIV3Schema"].is_object()
}

/// What an update may keep because the old definition has it.
fn options(spec: &Value, old: Option<&Value>) -> Options {
    let Some(old) = old else { return Options::NEW };
    let old_schemas = schemas(old);
    let none = |pred: &dyn Fn(&Value) -> bool| !old_schemas.iter().any(|s| pred(s));
    let not_structural =
        |s: &Value| Structural::parse(s).map_or(true, |s| !invariants::check(&s, &Path::root()).is_empty());
    let has_unpruned = |s: &Value| {
        Structural::parse(s)
            .is_ok_and(|s| invariants::check(&s, &Path::root()).is_empty() && schema_errors::unpruned(&s))
    };
    let extended = |s: &Value| {
        schema_errors::any(s, &mut |s| {
            s["x-kubernetes-embedded-resource"] == true
                || s["x-kubernetes-int-or-string"] == true
                || !items(s, "x-kubernetes-list-map-keys").is_empty()
                || !items(s, "x-kubernetes-validations").is_empty()
                || !s["x-kubernetes-list-type"].is_null()
                || !s["x-kubernetes-preserve-unknown-fields"].is_null()
        })
    };
    let bad_keys = |s: &Value| {
        schema_errors::any(s, &mut |s| !schema_errors::bad_map_or_set(s, &Path::root()).is_empty())
    };
    Options {
        require_valid_types: none(&schema_errors::has_bad_types),
        // Pruning and extensions need structure, whatever was there before.
        require_structural: spec["preserveUnknownFields"] != true
            || none(&not_structural)
            || items(spec, "versions").iter().any(|v| extended(&v["schema"]["openAPIV3Schema"])),
        require_pruned_defaults: none(&has_unpruned),
        require_atomic_sets: none(&schema_errors::has_non_atomic_set),
        require_map_keys: none(&bad_keys),
        unchanged: false,
    }
}

fn group_and_scope(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (group, at) = (text(spec, "group"), path.child("group"));
    let messages = helpers::dns_subdomain_errors(group, false);
    if group.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !messages.is_empty() {
        rest::joined(&at, group, &messages, "", errors);
    } else if !group.contains('.') {
        errors.push(Error::invalid(&at, group, "should be a domain with at least one dot"));
    }
    enumeration(text(spec, "scope"), &["Cluster", "Namespaced"], &path.child("scope"), errors);
}

fn enumeration(value: &str, accepted: &[&str], path: &Path, errors: &mut ErrorList) {
    match value {
        "" => errors.push(Error::required(path, "")),
        v if !accepted.contains(&v) => errors.push(Error::text_not_supported(path, v, accepted)),
        _ => {}
    }
}

struct Context<'a> {
    spec: &'a Value,
    old: Option<&'a Value>,
    options: Options,
}

impl Context<'_> {
    fn list(&self) -> &[Value] {
        items(self.spec, "versions")
    }

    /// The options for a version's schema (upstream: `findVersionsWithUnchangedSchemas`).
    fn options_of(&self, v: &Value) -> Options {
        let old = self.old.map_or(&[][..], |o| items(o, "versions"));
        let unchanged = old.iter().any(|o| o["name"] == v["name"] && o["schema"] == v["schema"]);
        Options { unchanged, ..self.options }
    }

    fn versions(&self, path: &Path, errors: &mut ErrorList) {
        let list = self.list();
        for (i, v) in list.iter().enumerate() {
            let at = path.child("versions").index(i);
            let name = text(v, "name");
            let messages = helpers::dns1035_label_errors(name, false);
            rest::joined(&at.child("name"), name, &messages, "", errors);
            deprecation(v, &at.child("deprecationWarning"), errors);
            if !shared(list, "schema") {
                let has_status = v["subresources"]["status"].is_object();
                let options = self.options_of(v);
                schema_errors::check(&v["schema"], has_status, &options, &at.child("schema"), errors);
            }
            if !shared(list, "subresources") {
                subresources(&v["subresources"], &at.child("subresources"), errors);
            }
            if !shared(list, "additionalPrinterColumns") {
                columns(v, &at.child("additionalPrinterColumns"), errors);
            }
            if !shared(list, "selectableFields") {
                self.selectable(
                    v,
                    &at,
                    "may only be set when `version.schema.openAPIV3Schema` is not included",
                    errors,
                );
            }
        }
    }

    /// What all versions share stands at the top of upstream's internal form.
    fn top(&self, path: &Path, errors: &mut ErrorList) {
        let list = self.list();
        let Some(first) = list.first() else { return };
        if shared(list, "schema") {
            let has_status = list.iter().any(|v| v["subresources"]["status"].is_object());
            schema_errors::check(
                &first["schema"],
                has_status,
                &self.options_of(first),
                &path.child("validation"),
                errors,
            );
        }
        if shared(list, "subresources") {
            subresources(&first["subresources"], &path.child("subresources"), errors);
        }
        if shared(list, "additionalPrinterColumns") {
            columns(first, &path.child("additionalPrinterColumns"), errors);
        }
        if shared(list, "selectableFields") {
            self.selectable(first, path, "may only be set when validations.schema is included", errors);
        }
    }

    fn selectable(&self, v: &Value, path: &Path, without: &str, errors: &mut ErrorList) {
        let fields = items(v, "selectableFields");
        if fields.is_empty() {
            return;
        }
        let at = path.child("selectableFields");
        if !has_schema(v) {
            errors.push(Error::invalid(&at, "", without));
            return;
        }
        let old = self.old.map_or(&[][..], |o| items(o, "versions"));
        let kept =
            old.iter().any(|o| o["name"] == v["name"] && o["selectableFields"] == v["selectableFields"]);
        let schema = Structural::parse(&v["schema"]["openAPIV3Schema"]);
        if let Err(why) = &schema {
            errors.push(Error::invalid(&path.child("schema.openAPIV3Schema"), "", &**why));
        }
        schema_errors::selectable_fields(fields, schema.as_ref().ok(), kept, &at, errors);
    }

    fn storage(&self, path: &Path, errors: &mut ErrorList) {
        let (list, at) = (self.list(), path.child("versions"));
        let twice = list.iter().enumerate().any(|(i, v)| list[..i].iter().any(|o| o["name"] == v["name"]));
        let shown = || self.spec["versions"].clone();
        if twice {
            errors.push(Error::invalid(&at, shown(), "must contain unique version names"));
        }
        if list.iter().filter(|v| v["storage"] == true).count() != 1 {
            let detail = "must have exactly one version marked as storage version";
            errors.push(Error::invalid(&at, shown(), detail));
        }
        if let Some(first) = list.first().filter(|v| !text(v, "name").is_empty()) {
            // The internal form names its first version once more.
            let name = text(first, "name");
            rest::joined(
                &path.child("version"),
                name,
                &helpers::dns1035_label_errors(name, false),
                "",
                errors,
            );
        }
    }
}

fn deprecation(v: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(warning) = v["deprecationWarning"].as_str() else { return };
    let mut refuse = |detail: String| errors.push(Error::invalid(path, warning, detail));
    if v["deprecated"] != true {
        refuse("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > WARNING_BYTES_MAX {
        refuse(format!("must be <= {WARNING_BYTES_MAX} characters long"));
    }
    if warning.is_empty() {
        refuse("must not be an empty string".to_owned());
    }
    // Go prints letters, marks, numbers, punctuation, symbols and the plain space.
    let printable = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| !printable(*c)) {
        refuse(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

fn subresources(v: &Value, path: &Path, errors: &mut ErrorList) {
    let scale = &v["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (value, at) = (text(scale, field), path.child(&format!("scale.{field}")));
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !value.starts_with('.') {
            errors.push(Error::invalid(&at, value, "must be a simple json path starting with ."));
        } else if !value.starts_with(under) {
            let detail = format!("should be a json path under {}", under.trim_end_matches('.'));
            errors.push(Error::invalid(&at, value, detail));
        }
    }
    let (value, at) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    if !value.is_empty() && !value.starts_with('.') {
        errors.push(Error::invalid(&at, value, "must be a simple json path starting with ."));
    } else if !value.is_empty() && !value.starts_with(".spec.") && !value.starts_with(".status.") {
        errors.push(Error::invalid(&at, value, "should be a json path under either .spec or .status"));
    }
}

/// Upstream: `ValidateCustomResourceColumnDefinition`.
fn columns(v: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, c) in items(v, "additionalPrinterColumns").iter().enumerate() {
        let at = path.index(i);
        if text(c, "name").is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        let (ty, format, json_path) = (text(c, "type"), text(c, "format"), text(c, "jsonPath"));
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if ty.is_empty() {
            errors.push(Error::required(&at.child("type"), types));
        } else if !COLUMN_TYPES.contains(&ty) {
            errors.push(Error::invalid(&at.child("type"), ty, types));
        }
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(Error::invalid(&at.child("format"), format, detail));
        }
        let at = at.child("JSONPath");
        if json_path.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !json_path.starts_with('.') {
            errors.push(Error::invalid(&at, json_path, "must be a simple json path starting with ."));
        }
    }
}

fn names_required(names: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
}

/// Upstream: `ValidateCustomResourceDefinitionNames`.
pub(super) fn names(names: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["plural", "singular"] {
        let name = text(names, field);
        if !name.is_empty() {
            let messages = helpers::dns1035_label_errors(name, false);
            rest::joined(&path.child(field), name, &messages, "", errors);
        }
    }
    for field in ["kind", "listKind"] {
        let name = text(names, field);
        if !name.is_empty() {
            let messages = helpers::dns1035_label_errors(&name.to_lowercase(), false);
            let intro = "may have mixed case, but should otherwise match: ";
            rest::joined(&path.child(field), name, &messages, intro, errors);
        }
    }
    let each = |field: &str, errors: &mut ErrorList| {
        for (i, name) in items(names, field).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let messages = helpers::dns1035_label_errors(name, false);
            rest::joined(&path.child(field).index(i), name, &messages, "", errors);
        }
    };
    each("shortNames", errors);
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(Error::invalid(&path.child("listKind"), list_kind, detail));
    }
    each("categories", errors);
}

/// Upstream: `validateCustomResourceConversion`, with the paths of the internal form.
fn conversion(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let (c, at) = (&spec["conversion"], path.child("conversion"));
    if c.is_null() {
        return;
    }
    let strategy = text(c, "strategy");
    if strategy != "None" && spec["preserveUnknownFields"] == true {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(&at.child("strategy"), strategy, detail));
    }
    enumeration(strategy, &["None", "Webhook"], &at.child("strategy"), errors);
    let (client, client_at) = (&c["webhook"]["clientConfig"], at.child("webhookClientConfig"));
    let (versions, versions_at) =
        (items(&c["webhook"], "conversionReviewVersions"), at.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            errors.push(Error::forbidden(&client_at, detail));
        }
        if !versions.is_empty() {
            errors.push(Error::forbidden(&versions_at, detail));
        }
        return;
    }
    if client.is_null() {
        errors.push(Error::required(&client_at, "required when strategy is set to Webhook"));
    } else {
        rest::webhook_client(client, &client_at, errors);
        let bundle = text(client, "caBundle");
        // Before a definition is established, and where it was wrong before, a bad bundle is let through.
        let was = |o: &Value| {
            rest::ca_bundle_error(text(&o["spec"]["conversion"]["webhook"]["clientConfig"], "caBundle"))
        };
        let strict = old.is_some_and(|o| is_true(o, "Established") && was(o).is_none());
        if let Some(why) = rest::ca_bundle_error(bundle).filter(|_| strict) {
            errors.push(Error::invalid(&client_at.child("caBundle"), bundle, why));
        }
    }
    let known = |v: &Value| v.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v));
    let was = old.map_or(&[][..], |o| items(&o["spec"]["conversion"]["webhook"], "conversionReviewVersions"));
    if versions.is_empty() {
        errors.push(Error::required(&versions_at, ""));
        return;
    }
    for (i, v) in versions.iter().enumerate() {
        if versions[..i].contains(v) {
            errors.push(Error::invalid(&versions_at.index(i), v.clone(), "duplicate version"));
            continue;
        }
        let messages = helpers::dns1035_label_errors(v.as_str().unwrap_or(""), false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&versions_at.index(i), v.clone(), m)));
    }
    if (was.is_empty() || was.iter().any(known)) && !versions.iter().any(known) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(&versions_at, c["webhook"]["conversionReviewVersions"].clone(), detail));
    }
}

/// What an update may not change.
fn fixed(crd: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (is, was) = (&crd["spec"], &old["spec"]);
    if is_true(old, "Established") {
        immutable(&is["scope"], &was["scope"], &path.child("scope"), errors);
        immutable(&is["names"]["kind"], &was["names"]["kind"], &path.child("names").child("kind"), errors);
    }
    immutable(&is["group"], &was["group"], &path.child("group"), errors);
    immutable(&is["names"]["plural"], &was["names"]["plural"], &path.child("names").child("plural"), errors);
}

/// Upstream: `ValidateCustomResourceDefinitionStoredVersions`.
fn stored_versions(crd: &Value, path: &Path, errors: &mut ErrorList) {
    let stored = items(&crd["status"], "storedVersions");
    let shown = crd["status"]["storedVersions"].clone();
    if stored.is_empty() {
        let shown = if shown.is_null() { Value::Array(Vec::new()) } else { shown };
        errors.push(Error::invalid(path, shown, "must have at least one stored version"));
        return;
    }
    let versions = items(&crd["spec"], "versions");
    // a name counts once
    let counts = |i: usize, v: &Value| {
        stored.contains(&v["name"]) && !versions[..i].iter().any(|before| before["name"] == v["name"])
    };
    for (_, v) in versions.iter().enumerate().filter(|(i, v)| v["storage"] == true && !counts(*i, v)) {
        let detail = format!("must have the storage version {}", text(v, "name"));
        errors.push(Error::invalid(path, shown.clone(), detail));
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let v = name.as_str().unwrap_or("");
            let detail = format!(
                "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
            );
            errors.push(Error::invalid(&path.index(i), v, detail));
        }
    }
}

/// Upstream: `validateAPIApproval`: groups of the Kubernetes project need its word.
fn approved(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    if !is_protected_group(text(&crd["spec"], "group")) {
        return;
    }
    let key = approved_annotation();
    let of = |o: &Value| approval(object::annotation(o, key).unwrap_or(""));
    let (state, reason) = of(crd);
    if old.is_some_and(|o| of(o).0 == state) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(key);
    match state {
        Approval::Missing => errors.push(Error::required(&at, reason)),
        Approval::Invalid => {
            errors.push(Error::invalid(&at, object::annotation(crd, key).unwrap_or(""), reason));
        }
        Approval::Approved | Approval::Bypassed => {}
    }
}
