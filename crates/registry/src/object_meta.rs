//! Checks of `metadata`, the same for all kinds (upstream: apimachinery `pkg/api/validation/objectmeta.go`).

use kinds::{KindDef, helpers};
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use serde_json::Value;

/// Upstream: `TotalAnnotationSizeLimitB`.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;
/// Groups whose metadata is checked by the library's rules only, without those of Kubernetes itself.
const CHECKED_BY_LIBRARY_ALONE: [&str; 5] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Errors of the metadata of an object about to be stored, by the rules of its kind.
pub fn validate(kind: &KindDef, obj: &Value) -> ErrorList {
    let names = |name: &str, prefix| match (prefix, kind.strategy.checks_generate_name()) {
        (_, true) => kind.strategy.name_errors(name, prefix),
        (true, false) => Vec::new(),
        // these kinds have the declared check of a name, which counts in its own words
        (false, false) => {
            let messages = kind.strategy.name_errors(name, prefix).into_iter();
            messages
                .map(|m| m.strip_suffix(" characters").map(|h| format!("{h} bytes")).unwrap_or(m))
                .collect()
        }
    };
    by_kind(kind, obj, &names)
}

/// As [`validate`], of an object that was there before: that its name fits a key is looked at in any case (upstream:
/// `rest.ValidateUpdate`).
pub fn validate_changed(kind: &KindDef, obj: &Value, subresource: &str) -> ErrorList {
    let strategy = &kind.strategy;
    let prefixes = strategy.checks_generate_name() && strategy.checks_names_on_update(subresource);
    let names = |name: &str, prefix| {
        let mut messages = helpers::path_segment_errors(name, prefix);
        if strategy.checks_metadata() && (!prefix || prefixes) {
            let own = kind.strategy.name_errors(name, prefix);
            messages.extend(own.into_iter().filter(|m| !messages.contains(m)).collect::<Vec<_>>());
        }
        messages
    };
    by_kind(kind, obj, &names)
}

fn by_kind(kind: &KindDef, obj: &Value, names: &dyn Fn(&str, bool) -> Vec<String>) -> ErrorList {
    let mut errors = check(kind, obj, names);
    let by_library = !kind.strategy.checks_metadata() || CHECKED_BY_LIBRARY_ALONE.contains(&&*kind.group);
    if !kind.is_custom() && !by_library {
        kube_finalizers(obj, &Path::new("metadata").child("finalizers"), &mut errors);
    }
    errors
}

/// Errors of the metadata of an object in which [`validate`], where the kind has it, and its strategy found nothing: all that
/// a key takes is a name (upstream: `rest.ValidateCreate`).
pub fn validate_common(kind: &KindDef, obj: &Value) -> ErrorList {
    match kind.strategy.checks_metadata() {
        // the rest has the same rules
        true => check_names(obj, &helpers::path_segment_errors),
        false => check(kind, obj, &helpers::path_segment_errors),
    }
}

fn check_names(obj: &Value, names: &dyn Fn(&str, bool) -> Vec<String>) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let generate_name = object::meta_str(obj, "generateName");
    if !generate_name.is_empty() {
        let field = path.child("generateName");
        let messages = names(generate_name, true);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&field, generate_name, m)));
    }
    let name = object::name(obj);
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        let field = path.child("name");
        errors.extend(names(name, false).into_iter().map(|m| Error::invalid(&field, name, m)));
    }
    errors
}

fn check(kind: &KindDef, obj: &Value, names: &dyn Fn(&str, bool) -> Vec<String>) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = check_names(obj, names);
    let namespace = object::namespace(obj);
    if kind.namespaced() {
        if namespace.is_empty() {
            errors.push(Error::required(&path.child("namespace"), ""));
        } else {
            let field = path.child("namespace");
            let messages = helpers::dns_label_errors(namespace, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&field, namespace, m)));
        }
    } else if !namespace.is_empty() {
        errors.push(Error::forbidden(&path.child("namespace"), "not allowed on this type"));
    }
    if object::generation(obj) < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(&path.child("generation"), object::generation(obj), detail));
    }
    labels(object::meta_map(obj, "labels"), &path.child("labels"), &mut errors);
    annotations(object::meta_map(obj, "annotations"), &path.child("annotations"), &mut errors);
    owners(obj, &path.child("ownerReferences"), &mut errors);
    finalizers(obj, &path.child("finalizers"), &mut errors);
    errors
}

/// Finalizers of upstream's own are plain words, all others have a prefix (upstream: `validateKubeFinalizerName`).
fn kube_finalizers(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let detail = "name is neither a standard finalizer name nor is it fully qualified";
    for (i, f) in object::finalizers(obj).into_iter().enumerate() {
        if !f.contains('/') && !matches!(f, "kubernetes" | ORPHAN | FOREGROUND) {
            errors.push(Error::invalid(&path.index(i), f, detail));
        }
    }
}

/// Errors of a change of metadata (upstream: `ValidateObjectMetaAccessorUpdate`).
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    if object::is_deleting(old) {
        let had = object::finalizers(old);
        let mut extra: Vec<&str> = object::finalizers(new).into_iter().filter(|f| !had.contains(f)).collect();
        extra.sort_unstable();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|f| quoted(f).to_string()).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (n, o) = (&new["metadata"][field], &old["metadata"][field]);
        if n != o {
            errors.push(Error::invalid(&path.child(field), n.clone(), "field is immutable"));
        }
    }
    if object::generation(new) < object::generation(old) {
        let detail = "must not be decremented";
        errors.push(Error::invalid(&path.child("generation"), object::generation(new), detail));
    }
    errors
}

/// Errors of a map of labels.
pub fn labels(map: Option<&serde_json::Map<String, Value>>, path: &Path, errors: &mut ErrorList) {
    for (key, value) in map.into_iter().flatten() {
        errors.extend(
            helpers::qualified_name_errors(key).into_iter().map(|m| Error::invalid(path, key.as_str(), m)),
        );
        let value = value.as_str().unwrap_or("");
        errors.extend(helpers::label_value_errors(value).into_iter().map(|m| Error::invalid(path, value, m)));
    }
}

fn annotations(map: Option<&serde_json::Map<String, Value>>, path: &Path, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in map.into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        let messages = helpers::qualified_name_errors(&key.to_lowercase());
        errors.extend(messages.into_iter().map(|m| Error::invalid(path, key.as_str(), m)));
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATION_BYTES_MAX));
    }
}

fn owners(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let refs = obj["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut controller: Option<String> = None;
    for (i, reference) in refs.iter().enumerate() {
        let at = path.index(i);
        let text = |f: &str| reference[f].as_str().unwrap_or("").to_owned();
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            errors.push(Error::required(&at.child("apiVersion"), "must not be empty"));
        } else if meta::GroupVersion::parse(&api_version).is_none_or(|gv| gv.version.is_empty()) {
            let detail = "must be <group>/<version> or <version>";
            errors.push(Error::invalid(&at.child("apiVersion"), api_version.as_str(), detail));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(Error::required(&at.child(field), "must not be empty"));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(&at, reference.clone(), detail));
        }
        if reference["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(Error::invalid(
                        path,
                        refs.iter().map(whole_reference).collect::<Value>(),
                        detail,
                    ));
                }
                None => controller = Some(this),
            }
        }
    }
}

/// A reference as upstream's type writes it: these four are always there.
fn whole_reference(reference: &Value) -> Value {
    let mut whole = serde_json::json!({});
    for field in ["apiVersion", "kind", "name", "uid"] {
        whole[field] = reference[field].as_str().unwrap_or("").into();
    }
    for field in ["controller", "blockOwnerDeletion"] {
        if !reference[field].is_null() {
            whole[field] = reference[field].clone();
        }
    }
    whole
}

fn finalizers(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let list = object::finalizers(obj);
    for f in &list {
        errors.extend(helpers::qualified_name_errors(f).into_iter().map(|m| Error::invalid(path, *f, m)));
    }
    if list.contains(&ORPHAN) && list.contains(&FOREGROUND) {
        let detail = format!("finalizer {FOREGROUND} and {ORPHAN} cannot be both set");
        errors.push(Error::invalid(path, Value::from(list), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metadata_is_checked() {
        let kind = KindDef::BASE;
        let obj = json!({"metadata": {"name": "Bad", "labels": {"a": "b c"}, "finalizers": ["x"]}});
        let found = texts(validate(&kind, &obj));
        assert!(
            found[0].starts_with("metadata.name: Invalid value: \"Bad\": a lowercase RFC 1123 subdomain"),
            "{found:?}"
        );
        assert_eq!(found[1], "metadata.namespace: Required value");
        assert!(found[2].starts_with("metadata.labels: Invalid value: \"b c\""), "{found:?}");
    }

    fn row(kind: &str) -> KindDef {
        kinds::KINDS.iter().map(|row| row()).find(|r| r.kind == kind).expect("a row")
    }

    #[test]
    fn no_name_of_any_kind_leaves_its_place() {
        for row in kinds::KINDS.iter().map(|row| row()) {
            for name in ["a/b", "..", "."] {
                let obj = json!({"metadata": {"name": name}});
                let named = |errors: &ErrorList| errors.iter().any(|e| e.field.as_str() == "metadata.name");
                assert!(named(&validate_common(&row, &obj)), "{} {name}", row.kind);
                assert!(named(&validate_changed(&row, &obj, "")), "{} {name}", row.kind);
            }
        }
    }

    #[test]
    fn only_some_kinds_check_the_begin_of_a_name_again() {
        let obj = json!({"metadata": {"name": "a", "namespace": "b", "generateName": "x_y"}});
        let found = |kind: &str, subresource| texts(validate_changed(&row(kind), &obj, subresource)).len();
        assert_eq!((found("Lease", ""), found("Deployment", ""), found("ConfigMap", "")), (0, 0, 1));
        assert_eq!((found("Pod", ""), found("Pod", "status"), found("Pod", "resize")), (1, 0, 1));
        let obj = json!({"metadata": {"name": "a", "generateName": "x_y"}});
        assert_eq!(texts(validate_changed(&row("Node"), &obj, "status")).len(), 1);
        let obj = json!({"metadata": {"name": "a", "namespace": "b", "generateName": "x/y"}});
        assert_eq!(texts(validate_changed(&row("Lease"), &obj, "")).len(), 1, "no segment of a path");
    }

    #[test]
    fn only_some_kinds_ask_finalizers_for_a_prefix() {
        let obj = json!({"metadata": {"name": "a", "namespace": "b", "finalizers": ["x"]}});
        let found = |kind: &str| texts(validate_changed(&row(kind), &obj, "")).len();
        assert_eq!((found("Lease"), found("PodDisruptionBudget"), found("ConfigMap")), (0, 0, 1));
    }

    #[test]
    fn identity_is_immutable_and_finalizers_are_closed_while_deleting() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t", "finalizers": ["x/a"]}});
        let mut new = old.clone();
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["finalizers"] = json!(["x/a", "x/b"]);
        assert_eq!(
            texts(validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/b\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable"
            ]
        );
    }
}
