//! Defaults of a schema must be valid, and pruned as values are.

use crate::custom::rules::Validator;
use crate::custom::structural::Structural;
use crate::custom::{object_meta, prune, validate};
use meta::field::{Error, ErrorList, Path, aggregate};
use serde_json::{Map, Value};

/// Errors of all defaults (upstream: `ValidateDefaults`).
pub(super) fn check(s: &Structural, require_pruned: bool, path: &Path, errors: &mut ErrorList) {
    let walk = Walk { root: s, require_pruned };
    walk.node(s, &mut vec![], false, true, path, errors);
}

/// Whether any default has unknown fields (upstream: `schemaHasUnprunedDefaults`).
pub fn unpruned(s: &Structural) -> bool {
    let own = s.default.as_ref().is_some_and(|d| {
        let mut pruned = d.clone();
        !prune::prune(&mut pruned, Some(s), s.embedded_resource).is_empty()
    });
    own || s.items.as_deref().is_some_and(unpruned)
        || s.additional.as_ref().and_then(|a| a.schema()).is_some_and(|a| unpruned(a))
        || s.properties.values().any(|p| unpruned(p))
}

/// A step from a resource's root to a default.
#[derive(Clone)]
enum Step {
    Field(String),
    Element,
}

struct Walk<'a> {
    /// The resource that the node is part of.
    root: &'a Structural,
    require_pruned: bool,
}

impl<'a> Walk<'a> {
    fn node(
        &self,
        s: &'a Structural,
        steps: &mut Vec<Step>,
        inside_meta: bool,
        is_root: bool,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        if s.embedded_resource && !is_root {
            let inner = Walk { root: s, require_pruned: self.require_pruned };
            inner.node_in(s, &mut vec![], false, true, path, errors);
        } else {
            self.node_in(s, steps, inside_meta, is_root || s.embedded_resource, path, errors);
        }
    }

    fn node_in(
        &self,
        s: &'a Structural,
        steps: &mut Vec<Step>,
        inside_meta: bool,
        resource: bool,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        if let Some(default) = &s.default {
            let at = path.child("default");
            if inside_meta {
                self.in_metadata(default, s, steps, &at, errors);
            } else {
                self.plain(default, s, resource, &at, errors);
            }
        }
        if let Some(items) = &s.items {
            steps.push(Step::Element);
            self.node(items, steps, inside_meta, false, &path.child("items"), errors);
            steps.pop();
        }
        for (name, property) in &s.properties {
            let meta = resource && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            steps.push(Step::Field(name.clone()));
            let at = path.child("properties").key(name);
            self.node(property, steps, inside_meta || meta, false, &at, errors);
            steps.pop();
        }
    }

    fn plain(&self, default: &Value, s: &Structural, resource: bool, at: &Path, errors: &mut ErrorList) {
        if self.require_pruned {
            let mut pruned = default.clone();
            if !prune::prune(&mut pruned, Some(s), resource).is_empty() {
                errors.push(Error::invalid(at, default.clone(), "must not have unknown fields"));
            }
        }
        if let Err(e) = object_meta::coerce(&mut default.clone(), Some(s), resource, false) {
            let field = Path::new(&format!("{}.{}", at.as_str(), e.field.as_str()));
            errors.push(Error { field, ..*e });
            return;
        }
        let mut found = Vec::new();
        object_meta::check(default, s, resource, at, &mut found);
        if found.is_empty() {
            found = validate::check(default, s, at);
        }
        if let (true, Some(rules)) = (found.is_empty(), Validator::of_node(s, resource)) {
            found = rules.check_default(default, at);
        }
        errors.extend(found);
    }

    /// A default in metadata is judged within the whole object that it makes.
    fn in_metadata(
        &self,
        default: &Value,
        s: &Structural,
        steps: &[Step],
        at: &Path,
        errors: &mut ErrorList,
    ) {
        let mut whole = default.clone();
        for step in steps.iter().rev() {
            whole = match step {
                Step::Field(name) => Value::Object(Map::from_iter([(name.clone(), whole)])),
                Step::Element => Value::Array(vec![whole]),
            };
        }
        if let Some(map) = whole.as_object_mut() {
            map.entry("kind").or_insert_with(|| "Validation".into());
            map.entry("apiVersion").or_insert_with(|| "validation/v1".into());
        }
        let must = |why: String| {
            Error::invalid(at, default.clone(), format!("must result in valid metadata: {why}"))
        };
        if let Err(e) = object_meta::coerce(&mut whole, Some(self.root), true, false) {
            errors.push(must(e.to_string()));
            return;
        }
        let mut found = Vec::new();
        object_meta::check(&whole, self.root, true, &Path::root(), &mut found);
        if found.is_empty() {
            errors.extend(validate::check(default, s, at));
        } else {
            errors.push(must(aggregate(&found)));
        }
    }
}
