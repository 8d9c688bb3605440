//! One device of a ResourceSlice: attributes, capacities, taints and counters (upstream: `validateDevice`).

use super::common::{self, Found};
use crate::helpers::dns_label_errors;
use crate::node_selector::{self, Values};
use crate::resources;
use crate::validate::{items, text};
use meta::field::{Error, Path};
use meta::quantity::Quantity;
use regex::Regex;
use serde_json::{Map, Value};
use std::sync::LazyLock;

const ENTRIES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 64;
const OPTIONS_MAX: usize = 10;
/// Longest key that a path shows whole, in bytes.
const KEY_SHOWN_MAX: usize = 63 + 1 + 32;
const SCALARS: [&str; 4] = ["int", "bool", "string", "version"];
const LISTS: [&str; 4] = ["ints", "bools", "strings", "versions"];
const UNION: &str = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";

static SEMVER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let number = r"(0|[1-9][0-9]*)";
    let pre = r"(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)";
    let build = "[0-9a-zA-Z-]+";
    Regex::new(&format!(r"^{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$")).ok()
});

/// Errors of a device; lists that are as they were in `old` are not checked again.
pub fn validate(d: &Value, old: Option<&Value>, per_device: bool, path: &Path, found: &mut Found) {
    found.label(text(d, "name"), &path.child("name"));
    let (attributes, capacity) = (members(d, "attributes"), members(d, "capacity"));
    let entries = attributes.len() + capacity.len();
    if entries > ENTRIES_MAX {
        let detail = format!("the total number of attributes and capacities must not exceed {ENTRIES_MAX}");
        found.errors.push(Error::invalid(path, entries, detail));
    }
    let values: usize = attributes.iter().map(|(_, a)| value_count(a)).sum();
    if values > VALUES_MAX {
        let detail = format!("the total number of attribute values must not exceed {VALUES_MAX}");
        found.errors.push(Error::invalid(path, values, detail));
    }
    let at = path.child("attributes");
    for (key, a) in &attributes {
        common::qualified_name(key, &at, found);
        attribute(a, &at.key(&shortened(key)), found);
    }
    if old.is_none_or(|o| o["capacity"] != d["capacity"]) {
        let at = path.child("capacity");
        for (key, c) in &capacity {
            common::qualified_name(key, &at, found);
            let at = at.key(&shortened(key)).child("requestPolicy");
            let policy = &c["requestPolicy"];
            if policy.is_object() && d["allowMultipleAllocations"] != true {
                found.errors.push(Error::forbidden(&at, "allowMultipleAllocations must be true"));
            } else if policy.is_object() {
                request_policy(&resources::quantity(&c["value"]), policy, &at, found);
            }
        }
    }
    if old.is_none_or(|o| o["taints"] != d["taints"]) {
        let (at, taints) = (path.child("taints"), items(d, "taints"));
        if taints.len() > TAINTS_MAX {
            found.errors.push(Error::too_many(&at, taints.len(), TAINTS_MAX));
        } else {
            for (i, t) in taints.iter().enumerate() {
                common::taint(t, None, &at.index(i), found);
            }
        }
    }
    if let Some(list) = found.bounded(d, "consumesCounters", CONSUMPTIONS_MAX, path) {
        let at = path.child("consumesCounters");
        for (i, c) in list.iter().enumerate() {
            counters(c, "counterSet", &at.index(i), found);
        }
        found.unique(list, |c| c["counterSet"].clone(), &at);
    }
    nodes(d, per_device, path, found);
    common::binding_conditions(d, path, found);
}

fn members<'a>(v: &'a Value, field: &str) -> Vec<(&'a String, &'a Value)> {
    v[field].as_object().into_iter().flat_map(Map::iter).collect()
}

fn value_count(a: &Value) -> usize {
    match LISTS.iter().map(|l| items(a, l).len()).sum() {
        0 => 1,
        n => n,
    }
}

/// A key with its middle cut out when it is too long (upstream: `truncateIfTooLong`).
fn shortened(key: &str) -> String {
    if key.len() <= KEY_SHOWN_MAX {
        return key.to_owned();
    }
    let rest = KEY_SHOWN_MAX - 3;
    let (head, tail) = (key.get(..rest.div_ceil(2)), key.get(key.len() - rest / 2..));
    format!("{}...{}", head.unwrap_or(""), tail.unwrap_or(""))
}

/// Upstream: `validateDeviceAttribute`.
fn attribute(a: &Value, at: &Path, found: &mut Found) {
    if let Some(s) = a["string"].as_str() {
        long(s, &at.child("string"), found);
    }
    if let Some(v) = a["version"].as_str() {
        version(v, &at.child("version"), found);
    }
    for list in LISTS {
        if a[list].as_array().is_some_and(Vec::is_empty) {
            let detail = "must not be empty if specified";
            found.errors.push(Error::invalid(&at.child(list), a[list].clone(), detail));
        }
    }
    for (i, s) in items(a, "strings").iter().filter_map(Value::as_str).enumerate() {
        long(s, &at.child("strings").index(i), found);
    }
    for (i, s) in items(a, "versions").iter().filter_map(Value::as_str).enumerate() {
        version(s, &at.child("versions").index(i), found);
    }
    let all = SCALARS.iter().chain(&LISTS);
    let set: Vec<&str> = all.copied().filter(|f| !a[*f].is_null()).collect();
    match set.len() {
        0 => {
            found.declared.push(Error::invalid(at, "", format!("must specify one of: {UNION}")));
        }
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            found.declared.push(Error::invalid(at, shown, format!("must specify exactly one of: {UNION}")));
        }
    }
}

fn long(s: &str, at: &Path, found: &mut Found) {
    if s.len() > VALUE_BYTES_MAX {
        found.errors.push(Error::too_long(at, VALUE_BYTES_MAX));
    }
}

fn version(v: &str, at: &Path, found: &mut Found) {
    if !SEMVER.as_ref().is_some_and(|r| r.is_match(v)) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        found.errors.push(Error::invalid(at, v, detail));
    }
    long(v, at, found);
}

/// A set of counters, or what a device takes of one, under its name.
pub fn counters(c: &Value, name_field: &str, at: &Path, found: &mut Found) {
    let name = text(c, name_field);
    if name.is_empty() {
        found.declared.push(Error::required(&at.child(name_field), ""));
    } else {
        found.declare(dns_label_errors(name, false), name, &at.child(name_field));
    }
    let (at, list) = (at.child("counters"), members(c, "counters"));
    if list.is_empty() {
        found.declared.push(Error::required(&at, ""));
    } else if list.len() > COUNTERS_MAX {
        found.errors.push(Error::too_many(&at, list.len(), COUNTERS_MAX));
    }
    for (key, _) in list {
        found.declare(dns_label_errors(key, false), key, &at);
    }
}

fn nodes(d: &Value, per_device: bool, path: &Path, found: &mut Found) {
    let [name, selector, all] = ["nodeName", "nodeSelector", "allNodes"];
    if !per_device {
        if [name, selector, all].iter().any(|f| !d[*f].is_null()) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            found.errors.push(Error::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut set = Vec::new();
    match d[name].as_str() {
        Some("") => found.errors.push(Error::invalid(&path.child(name), "", "must not be empty")),
        Some(node) => {
            set.push("`nodeName`");
            found.subdomain(node, &path.child(name));
        }
        None => {}
    }
    if d[selector].is_object() {
        set.push("`nodeSelector`");
        node_selector::validate(&d[selector], Values::Labels, &path.child(selector), &mut found.errors);
    }
    match d[all].as_bool() {
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            let detail = "must be either unset or set to true";
            found.errors.push(Error::invalid(&path.child(all), false, detail));
        }
        None => {}
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => found.errors.push(Error::required(path, detail)),
        1 => {}
        _ => found.errors.push(Error::invalid(path, format!("{{{}}}", set.join(", ")), detail)),
    }
}

/// How much of a capacity a request may take (upstream: `validateRequestPolicy`).
fn request_policy(most: &Quantity, policy: &Value, at: &Path, found: &mut Found) {
    let values: Vec<Quantity> = items(policy, "validValues").iter().map(resources::quantity).collect();
    let default = resources::amount(&policy["default"]);
    let range = &policy["validRange"];
    let needed =
        |list: &str| Error::required(&at.child("default"), format!("required when {list} is defined"));
    match (values.is_empty(), range.is_object(), default) {
        (false, true, _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            found.errors.push(Error::forbidden(at, detail));
        }
        (false, false, None) => found.errors.push(needed("validValues")),
        (false, false, Some(d)) => valid_values(&d, most, &values, &at.child("validValues"), found),
        (true, true, None) => found.errors.push(needed("validRange")),
        (true, true, Some(d)) => valid_range(&d, most, range, &at.child("validRange"), found),
        (true, false, _) => {}
    }
}

fn valid_values(default: &Quantity, most: &Quantity, values: &[Quantity], at: &Path, found: &mut Found) {
    for (i, pair) in values.windows(2).enumerate().filter(|(_, p)| p[0] > p[1]) {
        let detail = "values must be sorted in ascending order";
        found.errors.push(Error::invalid(&at.index(i + 1), pair[1].to_string(), detail));
    }
    if values.len() > OPTIONS_MAX {
        found.errors.push(Error::too_many(at, values.len(), OPTIONS_MAX));
        return;
    }
    for (i, v) in values.iter().enumerate().filter(|(_, v)| *v > most) {
        let detail = format!("option is larger than capacity value: {most}");
        found.errors.push(Error::invalid(&at.index(i), v.to_string(), detail));
    }
    for (i, v) in values.iter().enumerate() {
        if values[..i].iter().any(|other| other.value() == v.value()) {
            found.errors.push(Error::duplicate(&at.index(i), v.value().to_string()));
        }
    }
    if !values.contains(default) {
        let detail = "default value is not valid according to the requestPolicy";
        found.errors.push(Error::invalid(at, default.to_string(), detail));
    }
}

fn valid_range(default: &Quantity, most: &Quantity, range: &Value, at: &Path, found: &mut Found) {
    let Some(min) = resources::amount(&range["min"]) else {
        found.errors.push(Error::required(&at.child("min"), "required when validRange is defined"));
        return;
    };
    let max = resources::amount(&range["max"]);
    let mut wrong = |field: &str, shown: &Quantity, detail: String| {
        found.errors.push(Error::invalid(&at.child(field), shown.to_string(), detail));
    };
    if min > *most {
        wrong("min", &min, format!("min is larger than capacity value: {most}"));
    }
    if *default < min {
        wrong("default", default, format!("default is less than min: {min}"));
    }
    if let Some(max) = &max {
        if min > *max {
            wrong("max", &min, format!("min is larger than max: {max}"));
        }
        if max > most {
            wrong("max", max, format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = resources::amount(&range["step"]) else { return };
    if step.sign() <= 0 {
        wrong("step", &step, "must be greater than zero".to_owned());
        return;
    }
    let mut next = min.clone();
    next.add(&step);
    if next > *most {
        wrong("step", &step, format!("one step {next} is larger than capacity value: {most}"));
    }
    let largest = Quantity::new(i64::MAX, step.format());
    let mut unsafe_values = false;
    for (field, q) in
        [("default", Some(default)), ("min", Some(&min)), ("max", max.as_ref()), ("step", Some(&step))]
    {
        let Some(q) = q else { continue };
        let detail = match q.sign() < 0 {
            true => resources::NEGATIVE,
            false if *q > largest => "must not be larger than 9223372036854775807",
            false => continue,
        };
        unsafe_values = true;
        wrong(field, q, detail.to_owned());
    }
    if unsafe_values {
        return;
    }
    for q in [Some(default), max.as_ref()].into_iter().flatten() {
        let distance = i128::from(q.value()) - i128::from(min.value());
        if distance % i128::from(step.value().max(1)) != 0 {
            wrong("step", q, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(d: Value) -> Vec<String> {
        let mut found = Found::default();
        validate(&d, None, false, &Path::new("d"), &mut found);
        found.finish().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn attributes() {
        assert!(found(json!({"name": "a", "attributes": {"v": {"version": "1.2.3-alpha+b.1"}, "x.example.com/s": {"string": "a"}}})).is_empty());
        assert_eq!(
            found(
                json!({"name": "a", "attributes": {"a": {"version": "1.2"}, "b": {}, "c": {"int": 1, "bool": true}}})
            ),
            [
                "d.attributes[a].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0",
                "d.attributes[b]: Invalid value: \"\": must specify one of: `int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`",
                "d.attributes[c]: Invalid value: \"{int, bool}\": must specify exactly one of: `int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`",
            ]
        );
    }

    #[test]
    fn capacities() {
        let of = |policy: Value| json!({"name": "a", "allowMultipleAllocations": true, "capacity": {"m": {"value": "10", "requestPolicy": policy}}});
        assert!(found(of(json!({"default": "1", "validValues": ["1", "2"]}))).is_empty());
        assert!(
            found(of(json!({"default": "2", "validRange": {"min": "0", "max": "8", "step": "2"}})))
                .is_empty()
        );
        assert_eq!(
            found(of(json!({"default": "3", "validRange": {"min": "0", "step": "2"}}))),
            [
                "d.capacity[m].requestPolicy.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (2) from (0)"
            ]
        );
        assert_eq!(
            found(of(json!({"default": "5", "validValues": ["2", "1", "11"]}))),
            [
                "d.capacity[m].requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "d.capacity[m].requestPolicy.validValues[2]: Invalid value: \"11\": option is larger than capacity value: 10",
                "d.capacity[m].requestPolicy.validValues: Invalid value: \"5\": default value is not valid according to the requestPolicy",
            ]
        );
        let mut single = of(json!({}));
        single["allowMultipleAllocations"] = json!(false);
        assert_eq!(found(single).len(), 1);
    }

    #[test]
    fn nodes_are_chosen_in_one_place() {
        assert_eq!(found(json!({"name": "a", "nodeName": "n"})).len(), 1);
        assert_eq!(
            found(json!({"name": "a", "consumesCounters": [{"counterSet": "", "counters": {"A": {"value": "1"}}}]})).len(),
            2
        );
    }
}
