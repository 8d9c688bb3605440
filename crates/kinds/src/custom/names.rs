//! Which names a definition gets (upstream: apiextensions `pkg/controller/status/naming_controller.go`,
//! `establish`, `apiapproval`).
//!
//! Pure: from all definitions and one of them to that one's new status.

use super::invariants;
use super::structural::Structural;
use crate::validate::{items, text};
use meta::field::{Error, Path, aggregate, quoted};
use meta::object;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The finalizer that waits for a definition's objects to be gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const NON_STRUCTURAL: &str = "NonStructuralSchema";
const APPROVED_ANNOTATION: &str = "api-approved.kubernetes.io";

/// A definition with the names it gets and the conditions `NamesAccepted` and `Established`; `None` when its status
/// says so already. `all` are the definitions of the cluster, `now` goes into conditions that changed.
///
/// `Established` comes a step later, with [`establish`], so that a server can be ready to serve the names first.
pub fn accept(crd: &Value, all: &[&Value], now: jiff::Timestamp) -> Option<Value> {
    if names_equal(&crd["spec"]["names"], &crd["status"]["acceptedNames"]) {
        return None;
    }
    let (names, condition) = judge(crd, all);
    let known = find(crd, "NamesAccepted").is_some_and(|c| equivalent(c, &condition));
    if known && names_equal(&names, &crd["status"]["acceptedNames"]) {
        return None;
    }
    let mut out = crd.clone();
    let accepted = condition["status"] == "True";
    let map = object::map_at(&mut out, &["status"])?;
    map.insert("acceptedNames".to_owned(), names);
    set_condition(&mut out, condition, now);
    if find(crd, "Established").is_none_or(|c| c["status"] != "True") {
        let (reason, message) = if accepted {
            ("Installing", "the initial names have been accepted")
        } else {
            ("NotAccepted", "not all names are accepted")
        };
        if accepted || find(crd, "Established").is_none() {
            set_condition(&mut out, new_condition("Established", "False", reason, message), now);
        }
    }
    Some(out)
}

/// A definition whose accepted names are served now; `None` when there is nothing to do. Needs a server that serves the
/// names.
pub fn establish(crd: &Value, now: jiff::Timestamp) -> Option<Value> {
    if !is_true(crd, "NamesAccepted") || is_true(crd, "Established") {
        return None;
    }
    let bundle = text(&crd["spec"]["conversion"]["webhook"]["clientConfig"], "caBundle");
    let condition = if crate::rest::ca_bundle_error(bundle).is_some() {
        let message = "The conversion webhook CABundle is invalid";
        new_condition("Established", "False", "InvalidCABundle", message)
    } else {
        let message = "the initial names have been accepted";
        new_condition("Established", "True", "InitialNamesAccepted", message)
    };
    if find(crd, "Established").is_some_and(|c| equivalent(c, &condition)) {
        return None;
    }
    let mut out = crd.clone();
    set_condition(&mut out, condition, now);
    Some(out)
}

/// The condition about the approval of groups of the Kubernetes project; `None` for other groups.
pub fn approval_condition(crd: &Value) -> Option<Value> {
    if !is_protected_group(text(&crd["spec"], "group")) {
        return None;
    }
    let (state, message) = approval(object::annotation(crd, APPROVED_ANNOTATION).unwrap_or(""));
    let (status, reason) = match state {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    Some(new_condition("KubernetesAPIApprovalPolicyConformant", status, reason, &message))
}

/// The condition that says what makes schemas not structural; `None` when all are
/// (upstream: `pkg/controller/nonstructuralschema`).
pub fn schema_condition(crd: &Value) -> Option<Value> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if crd["spec"]["preserveUnknownFields"] == true {
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, "must be false"));
    }
    for (i, version) in items(&crd["spec"], "versions").iter().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            continue;
        }
        match Structural::parse(schema) {
            Ok(parsed) => {
                let at = path.child("versions").index(i).child("schema").child("openAPIV3Schema");
                errors.extend(invariants::check(&parsed, &at));
            }
            Err(why) => {
                let name = text(version, "name");
                let message = format!("failed to check validation schema for version {name}: {why}");
                return Some(new_condition(NON_STRUCTURAL, "Unknown", "StructuralError", &message));
            }
        }
    }
    let message = aggregate(&errors);
    (!errors.is_empty()).then(|| new_condition(NON_STRUCTURAL, "True", "Violations", &message))
}

/// Sets or removes the condition about schemas.
pub fn set_schema_condition(crd: &mut Value, now: jiff::Timestamp) {
    let there = find(crd, NON_STRUCTURAL).cloned();
    match (schema_condition(crd), there) {
        (Some(wanted), Some(there)) if equivalent(&wanted, &there) => {}
        (Some(wanted), _) => set_condition(crd, wanted, now),
        (None, Some(_)) => {
            let list = object::map_at(crd, &["status"]).and_then(|s| s.get_mut("conditions"));
            let list = list.and_then(Value::as_array_mut);
            list.into_iter().for_each(|l| l.retain(|c| c["type"] != NON_STRUCTURAL));
        }
        (None, None) => {}
    }
}

/// Says how far the deletion of a definition's objects is (upstream: `pkg/controller/finalizer`).
pub fn set_terminating(crd: &mut Value, going: bool, reason: &str, message: &str, now: jiff::Timestamp) {
    let status = if going { "True" } else { "False" };
    set_condition(crd, new_condition("Terminating", status, reason, message), now);
}

/// Whether a condition of the type is `True`.
pub fn is_true(crd: &Value, ty: &str) -> bool {
    find(crd, ty).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition; its transition time stays unless its status changes (upstream: `SetCRDCondition`).
pub fn set_condition(crd: &mut Value, mut condition: Value, now: jiff::Timestamp) {
    condition["lastTransitionTime"] = meta::time::rfc3339(now).into();
    let Some(status) = object::map_at(crd, &["status"]) else { return };
    let slot = status.entry("conditions").or_insert(Value::Null);
    if !slot.is_array() {
        *slot = json!([]);
    }
    let Some(list) = slot.as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] && !text(old, "lastTransitionTime").is_empty() {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

fn new_condition(ty: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": ty, "status": status, "reason": reason, "message": message})
}

fn find<'a>(crd: &'a Value, ty: &str) -> Option<&'a Value> {
    items(&crd["status"], "conditions").iter().find(|c| c["type"] == ty)
}

fn equivalent(a: &Value, b: &Value) -> bool {
    ["type", "status", "reason", "message"].iter().all(|f| text(a, f) == text(b, f))
}

/// Whether two sets of names say the same, an absent field being an empty one.
fn names_equal(a: &Value, b: &Value) -> bool {
    ["plural", "singular", "kind", "listKind"].iter().all(|f| text(a, f) == text(b, f))
        && ["shortNames", "categories"].iter().all(|f| items(a, f) == items(b, f))
}

/// Upstream: `calculateNamesAndConditions`.
fn judge(crd: &Value, all: &[&Value]) -> (Value, Value) {
    let (resources, kinds) = taken(text(&crd["spec"], "group"), all);
    let (asked, have) = (&crd["spec"]["names"], &crd["status"]["acceptedNames"]);
    let mut names = if have.is_object() { have.clone() } else { json!({"plural": "", "kind": ""}) };
    let mut conflict: Option<(&str, String)> = None;
    for (field, used, reason) in
        [("plural", &resources, "PluralConflict"), ("singular", &resources, "SingularConflict")]
    {
        one_name(field, asked, have, used, reason, &mut names, &mut conflict);
    }
    if items(asked, "shortNames") != items(have, "shortNames") {
        let new = items(asked, "shortNames").iter().filter(|n| !items(have, "shortNames").contains(n));
        let mut errors: Vec<String> = Vec::new();
        for name in new.filter_map(Value::as_str).filter(|n| resources.contains(n)) {
            let text = in_use(name);
            if !errors.contains(&text) {
                errors.push(text);
            }
        }
        match errors.as_slice() {
            [] => set_list(&mut names, asked, "shortNames"),
            [one] => conflict = Some(("ShortNamesConflict", one.clone())),
            many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
        }
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        one_name(field, asked, have, &kinds, reason, &mut names, &mut conflict);
    }
    set_list(&mut names, asked, "categories");
    let condition = match conflict {
        Some((reason, message)) => new_condition("NamesAccepted", "False", reason, &message),
        None => new_condition("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    (names, condition)
}

fn in_use(name: &str) -> String {
    format!("{name} is already in use", name = quoted(name))
}

fn one_name<'r>(
    field: &str,
    asked: &Value,
    have: &Value,
    used: &BTreeSet<&str>,
    reason: &'r str,
    names: &mut Value,
    conflict: &mut Option<(&'r str, String)>,
) {
    let name = text(asked, field);
    if name != text(have, field) && used.contains(name) {
        *conflict = Some((reason, in_use(name)));
    } else if let Some(map) = names.as_object_mut() {
        map.insert(field.to_owned(), name.into());
    }
}

fn set_list(names: &mut Value, asked: &Value, field: &str) {
    if let Some(map) = names.as_object_mut() {
        match items(asked, field) {
            [] => map.remove(field),
            list => map.insert(field.to_owned(), list.to_vec().into()),
        };
    }
}

/// The names that definitions of a group have: of resources, and of kinds.
fn taken<'a>(group: &str, all: &[&'a Value]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for crd in all.iter().filter(|c| text(&c["spec"], "group") == group) {
        let names = &crd["status"]["acceptedNames"];
        resources.extend([text(names, "plural"), text(names, "singular")]);
        resources.extend(items(names, "shortNames").iter().filter_map(Value::as_str));
        kinds.extend([text(names, "kind"), text(names, "listKind")]);
    }
    (resources, kinds)
}

/// What the approval annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    Invalid,
    Missing,
    Approved,
    Bypassed,
}

/// Upstream: `GetAPIApprovalState`.
pub(crate) fn approval(annotation: &str) -> (Approval, String) {
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let must = format!(
        "protected groups must have approval annotation {APPROVED_ANNOTATION}",
        APPROVED_ANNOTATION = quoted(APPROVED_ANNOTATION)
    );
    if annotation.is_empty() {
        return (Approval::Missing, format!("{must}, {SEE}"));
    }
    if annotation.starts_with("unapproved") {
        return (Approval::Bypassed, format!("not approved: {annotation}", annotation = quoted(annotation)));
    }
    let host =
        annotation.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    if !host.is_empty() && super::formats::matches("uri", annotation) {
        return (Approval::Approved, format!("approved in {annotation}"));
    }
    let either = "with either a URL or a reason starting with \"unapproved\"";
    (Approval::Invalid, format!("{must} {either}, {SEE}"))
}

/// Upstream: `IsProtectedCommunityGroup`.
pub(crate) fn is_protected_group(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|g| group.strip_suffix(g).is_some_and(|r| r.is_empty() || r.ends_with('.')))
}

pub(crate) fn approved_annotation() -> &'static str {
    APPROVED_ANNOTATION
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn crd(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"metadata": {"name": format!("{plural}.a.com")}, "spec": {"group": "a.com", "names": {
            "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short}}})
    }

    #[test]
    fn the_first_to_ask_gets_the_names() {
        let first = accept(&crd("foos", "Foo", &["f"]), &[], NOW).unwrap();
        assert!(is_true(&first, "NamesAccepted") && !is_true(&first, "Established"));
        assert_eq!(find(&first, "Established").unwrap()["reason"], "Installing");
        let served = establish(&first, NOW).unwrap();
        assert!(is_true(&served, "Established"));
        assert!(accept(&served, &[&served], NOW).is_none() && establish(&served, NOW).is_none());
        let second = accept(&crd("foos2", "Foo", &["f", "g"]), &[&served], NOW).unwrap();
        let condition = find(&second, "NamesAccepted").unwrap();
        assert_eq!(
            (text(condition, "reason"), text(condition, "message")),
            ("ListKindConflict", "\"FooList\" is already in use")
        );
        assert_eq!(second["status"]["acceptedNames"]["plural"], "foos2");
        assert_eq!(text(&second["status"]["acceptedNames"], "singular"), "");
        assert_eq!(find(&second, "Established").unwrap()["reason"], "NotAccepted");
        assert!(establish(&second, NOW).is_none());
    }

    #[test]
    fn schemas_that_are_not_structural_are_told_until_they_are() {
        let of = |schema: Value, preserve: bool| {
            let version = json!({"name": "v1", "schema": {"openAPIV3Schema": schema}});
            json!({"spec": {"preserveUnknownFields": preserve, "versions": [version]}, "status": {}})
        };
        let mut good = of(json!({"type": "object"}), false);
        set_schema_condition(&mut good, NOW);
        assert_eq!(good["status"], json!({}));
        let mut bad = of(json!({"type": "object", "properties": {"a": {}}}), true);
        set_schema_condition(&mut bad, NOW);
        let condition = find(&bad, NON_STRUCTURAL).unwrap();
        assert_eq!((text(condition, "status"), text(condition, "reason")), ("True", "Violations"));
        assert_eq!(
            text(condition, "message"),
            "[spec.preserveUnknownFields: Invalid value: true: must be false, spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields]"
        );
        bad["spec"] = good["spec"].clone();
        set_schema_condition(&mut bad, NOW);
        assert_eq!(bad["status"]["conditions"], json!([]));
    }

    #[test]
    fn protected_groups_need_approval() {
        assert!(
            is_protected_group("k8s.io")
                && is_protected_group("x.kubernetes.io")
                && !is_protected_group("notk8s.io")
        );
        assert_eq!(approval("https://github.com/kubernetes/kubernetes/pull/1").0, Approval::Approved);
        assert_eq!(approval("unapproved, test").0, Approval::Bypassed);
        assert_eq!(approval("x").0, Approval::Invalid);
        assert_eq!(approval("").0, Approval::Missing);
    }
}
