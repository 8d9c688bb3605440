//! Pieces of validation that the kinds of the group share (upstream: `pkg/apis/resource/validation`).

use crate::helpers::{self, DNS_SUBDOMAIN_MAX, dns_label_errors, dns_subdomain_errors};
use crate::status::duplicates;
use crate::storage::attachment::attacher;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Most requests in a claim, results in an allocation, and requests that a constraint or configuration names.
pub const REQUESTS_MAX: usize = 32;
pub const CONFIGS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const PARAMETERS_BYTES_MAX: usize = 10 * 1024;
const BINDING_CONDITIONS_MAX: usize = 4;
/// Longest identifier in the name of an attribute or capacity, in bytes.
const IDENTIFIER_MAX: usize = 32;
const DOMAIN_MAX: usize = 63;
const IDENTIFIER: &str = "[A-Za-z_][A-Za-z0-9_]*";
const IDENTIFIER_TEXT: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";

/// Errors, apart from those that the tags of the types give, which upstream lists last.
#[derive(Default)]
pub struct Found {
    pub errors: ErrorList,
    pub declared: ErrorList,
}

impl Found {
    /// All errors in upstream's order.
    pub fn finish(mut self) -> ErrorList {
        self.errors.append(&mut self.declared);
        self.errors
    }

    pub fn label(&mut self, value: &str, at: &Path) {
        self.add(dns_label_errors(value, false), value, at);
    }

    pub fn subdomain(&mut self, value: &str, at: &Path) {
        self.add(dns_subdomain_errors(value, false), value, at);
    }

    pub fn add(&mut self, messages: Vec<String>, value: &str, at: &Path) {
        self.errors.extend(messages.into_iter().map(|m| Error::invalid(at, value, m)));
    }

    pub fn declare(&mut self, messages: Vec<String>, value: &str, at: &Path) {
        self.declared.extend(messages.into_iter().map(|m| Error::invalid(at, value, m)));
    }

    /// The list when it is not too long; a longer one is an error and not looked at.
    pub fn bounded<'a>(&mut self, v: &'a Value, field: &str, max: usize, path: &Path) -> Option<&'a [Value]> {
        let list = items(v, field);
        if list.len() > max {
            self.declared.push(Error::too_many(&path.child(field), list.len(), max));
            return None;
        }
        Some(list)
    }

    /// Members of a list that have the same key as one before.
    pub fn unique(&mut self, list: &[Value], key: impl Fn(&Value) -> Value, at: &Path) {
        for (i, item) in list.iter().enumerate() {
            if list[..i].iter().any(|other| key(other) == key(item)) {
                self.declared.push(Error::duplicate(&at.index(i), item.clone()));
            }
        }
    }
}

/// The name of a pool: subdomains joined by slashes (upstream: `validatePoolName`).
pub fn pool_name(name: &str, at: &Path, found: &mut Found) {
    if name.is_empty() {
        found.errors.push(Error::required(at, ""));
        return;
    }
    if name.len() > DNS_SUBDOMAIN_MAX {
        found.errors.push(Error::too_long(at, DNS_SUBDOMAIN_MAX));
    }
    name.split('/').for_each(|part| found.subdomain(part, at));
}

/// The same as the tags of the types check it (upstream: `validate.ResourcePoolName`).
pub fn declared_pool_name(name: &str, at: &Path, found: &mut Found) {
    if name.is_empty() {
        found.declared.push(Error::required(at, ""));
        return;
    }
    if name.len() > DNS_SUBDOMAIN_MAX {
        found.declared.push(Error::too_long(at, DNS_SUBDOMAIN_MAX));
    }
    for (i, part) in name.split('/').enumerate() {
        if part.is_empty() {
            let detail = format!("segment {i}: must not be empty");
            found.declared.push(Error::invalid(at, name, detail));
        }
        let messages = if part.is_empty() { Vec::new() } else { dns_subdomain_errors(part, false) };
        let messages = messages.into_iter().map(|m| format!("segment {i}: {m}")).collect();
        found.declare(messages, part, at);
    }
}

/// A UUID in its usual form (upstream: `validate.UUID`).
pub fn uuid(value: &str, at: &Path, found: &mut Found) {
    let good = value.len() == 36
        && value.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        });
    if !good {
        let detail = "must be a lowercase UUID in 8-4-4-4-12 format";
        found.declared.push(Error::invalid(at, value, detail));
    }
}

/// Selectors of devices; `stored` ones were checked when they came.
pub fn selectors(holder: &Value, stored: bool, path: &Path, found: &mut Found) {
    let Some(list) = found.bounded(holder, "selectors", SELECTORS_MAX, path) else { return };
    for (i, s) in list.iter().enumerate() {
        let at = path.child("selectors").index(i).child("cel");
        if !s["cel"].is_object() {
            found.errors.push(Error::required(&at, ""));
            continue;
        }
        if !stored {
            super::selector::check(text(&s["cel"], "expression"), &at.child("expression"), found);
        }
    }
}

/// What a driver is told of devices (upstream: `validateDeviceConfiguration`).
pub fn configuration(config: &Value, stored: bool, path: &Path, found: &mut Found) {
    let (opaque, at) = (&config["opaque"], path.child("opaque"));
    if !opaque.is_object() {
        found.errors.push(Error::required(&at, ""));
        return;
    }
    attacher(text(opaque, "driver"), &at.child("driver"), &mut found.declared);
    let bytes = if stored { usize::MAX } else { PARAMETERS_BYTES_MAX };
    raw(&opaque["parameters"], bytes, &at.child("parameters"), found);
}

/// A value of any shape that must be an object (upstream: `validateRawExtension`).
pub fn raw(value: &Value, bytes_max: usize, at: &Path, found: &mut Found) {
    if value.is_null() {
        found.errors.push(Error::required(at, ""));
    } else if bytes_max < usize::MAX && value.to_string().len() > bytes_max {
        found.errors.push(Error::too_long(at, bytes_max));
    } else if !value.is_object() {
        found.errors.push(Error::invalid(at, "<value omitted>", "must be a valid JSON object"));
    }
}

/// The names of the requests of a claim; `request/sub` for alternatives.
pub fn request_names(devices: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for request in items(devices, "requests") {
        let name = text(request, "name");
        out.push(name.to_owned());
        let alternatives = items(request, "firstAvailable").iter();
        out.extend(alternatives.map(|s| format!("{name}/{}", text(s, "name"))));
    }
    out
}

/// A name that must be a request's (upstream: `validateRequestNameRef`).
pub fn request_ref(name: &str, known: &[String], at: &Path, found: &mut Found) {
    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let segments = name.split('/').count();
    if segments <= 2 {
        name.split('/').for_each(|part| found.label(part, at));
    }
    if segments > 2 || !known.iter().any(|k| k == name) {
        found.errors.push(Error::invalid(at, name, detail));
    }
}

/// The list `requests` of a constraint or configuration.
pub fn request_refs(holder: &Value, known: &[String], path: &Path, found: &mut Found) {
    let Some(list) = found.bounded(holder, "requests", REQUESTS_MAX, path) else { return };
    let at = path.child("requests");
    for (i, name) in list.iter().filter_map(Value::as_str).enumerate() {
        request_ref(name, known, &at.index(i), found);
    }
    for (i, name) in duplicates(holder, "requests") {
        found.declared.push(Error::duplicate(&at.index(i), name));
    }
}

fn identifier(id: &str, at: &Path, errors: &mut ErrorList) {
    if id.len() > IDENTIFIER_MAX {
        errors.push(Error::too_long(at, IDENTIFIER_MAX));
    }
    let b = id.as_bytes();
    let good = b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_')
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_');
    if !good {
        let detail = helpers::regex_error(IDENTIFIER_TEXT, IDENTIFIER, &["my_name", "MY_NAME", "MyName"]);
        errors.push(Error::invalid(at, id, detail));
    }
}

/// The name of an attribute or capacity, with or without a domain (upstream: `validateQualifiedName`, which lets
/// names with more than one slash pass).
pub fn qualified_name(name: &str, at: &Path, found: &mut Found) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(id, at, &mut found.errors),
        [domain, id] => {
            if domain.is_empty() {
                found.errors.push(Error::invalid(at, "", "the domain must not be empty"));
            } else {
                helpers::driver_name(domain, at, &mut found.errors);
            }
            if id.is_empty() {
                found.errors.push(Error::invalid(at, "", "the name must not be empty"));
            } else {
                identifier(id, at, &mut found.errors);
            }
        }
        _ => {}
    }
}

/// A name with its domain, as the tags of the types check it (upstream: `validate.ResourceFullyQualifiedName`).
pub fn full_name(name: &str, at: &Path, found: &mut Found) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(id, at, &mut found.declared),
        [domain, id] => {
            if domain.is_empty() {
                found.declared.push(Error::invalid(at, "", "prefix must not be empty"));
            } else {
                if domain.len() > DOMAIN_MAX {
                    found.declared.push(Error::too_long(at, DOMAIN_MAX));
                }
                let messages = dns_subdomain_errors(domain, false);
                found.declare(messages.into_iter().map(|m| format!("prefix: {m}")).collect(), domain, at);
            }
            if id.is_empty() {
                found.declared.push(Error::invalid(at, "", "name must not be empty"));
            } else {
                identifier(id, at, &mut found.declared);
            }
        }
        _ => {}
    }
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        found.declared.push(Error::invalid(at, name, detail));
    }
}

/// What a request puts up with (upstream: `validateDeviceToleration`).
pub fn tolerations(holder: &Value, path: &Path, found: &mut Found) {
    for (i, t) in items(holder, "tolerations").iter().enumerate() {
        let at = path.child("tolerations").index(i);
        let (key, value) = (text(t, "key"), text(t, "value"));
        if !key.is_empty() {
            found.declare(helpers::qualified_name_errors(key), key, &at.child("key"));
        }
        match text(t, "operator") {
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let detail = "must be empty for operator `Exists`";
                found.errors.push(Error::invalid(&at.child("value"), value, detail));
            }
            "Equal" => found.add(helpers::label_value_errors(value), value, &at.child("value")),
            "" => found.declared.push(Error::required(&at.child("operator"), "")),
            other => {
                let allowed = ["Equal", "Exists"];
                found.declared.push(Error::not_supported(&at.child("operator"), other, &allowed));
            }
        }
        effect(text(t, "effect"), &at.child("effect"), found);
    }
}

/// The effect of a taint; an empty one is not checked here.
pub fn effect(value: &str, at: &Path, found: &mut Found) {
    if !matches!(value, "" | "NoExecute" | "NoSchedule" | "None") {
        let allowed = ["NoExecute", "NoSchedule", "None"];
        found.declared.push(Error::not_supported(at, value, &allowed));
    }
}

/// A taint of a device; the effect of one that is as it was is not checked (upstream: `validateDeviceTaint`).
pub fn taint(t: &Value, old: Option<&Value>, at: &Path, found: &mut Found) {
    let (key, value) = (text(t, "key"), text(t, "value"));
    found.add(helpers::qualified_name_errors(key), key, &at.child("key"));
    found.add(helpers::label_value_errors(value), value, &at.child("value"));
    if old.is_none_or(|o| o["effect"] != t["effect"]) {
        if text(t, "effect").is_empty() {
            found.declared.push(Error::required(&at.child("effect"), ""));
        }
        effect(text(t, "effect"), &at.child("effect"), found);
    }
}

/// Conditions of a device that a pod waits for (upstream: `validateDeviceBindingParameters`).
pub fn binding_conditions(holder: &Value, path: &Path, found: &mut Found) {
    let [wanted, failing] = ["bindingConditions", "bindingFailureConditions"];
    for field in [wanted, failing] {
        let list = found.bounded(holder, field, BINDING_CONDITIONS_MAX, path).unwrap_or_default();
        for (i, c) in list.iter().filter_map(Value::as_str).enumerate() {
            found.add(helpers::qualified_name_errors(c), c, &path.child(field).index(i));
        }
    }
    for field in [wanted, failing] {
        for (i, c) in duplicates(holder, field) {
            found.errors.push(Error::duplicate(&path.child(field).index(i), c));
        }
    }
    let (want, fail) = (items(holder, wanted), items(holder, failing));
    for (i, c) in fail.iter().enumerate().filter(|(_, c)| want.contains(c)) {
        let detail = "bindingFailureConditions must not overlap with bindingConditions";
        found.errors.push(Error::invalid(&path.child(failing).index(i), c.clone(), detail));
    }
    let (empty, detail) = match (want.is_empty(), fail.is_empty()) {
        (true, false) => (wanted, "bindingConditions are required to use bindingFailureConditions"),
        (false, true) => (failing, "bindingFailureConditions are required to use bindingConditions"),
        _ => return,
    };
    found.errors.push(Error::invalid(&path.child(empty), Value::Null, detail));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        let fields = |check: fn(&str, &Path, &mut Found), name: &str| {
            let mut found = Found::default();
            check(name, &Path::new("n"), &mut found);
            found.finish().len()
        };
        assert_eq!(fields(pool_name, "a.b/c"), 0);
        assert_eq!(fields(pool_name, "a//b"), 1);
        assert_eq!(fields(qualified_name, "dra.example.com/model"), 0);
        assert_eq!(fields(qualified_name, "no spaces"), 1);
        assert_eq!(fields(full_name, "model"), 1);
        assert_eq!(fields(uuid, "123e4567-e89b-12d3-a456-426614174000"), 0);
        assert_eq!(fields(uuid, "x"), 1);
    }

    #[test]
    fn conditions_come_in_pairs() {
        let mut found = Found::default();
        binding_conditions(&json!({"bindingConditions": ["a", "a"]}), &Path::new("d"), &mut found);
        let fields: Vec<String> = found.finish().iter().map(|e| e.field.to_string()).collect();
        assert_eq!(fields, ["d.bindingConditions[1]", "d.bindingFailureConditions"]);
    }
}
