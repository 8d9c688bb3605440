//! Values with their type: which fields they have, how two differ, merging and removing.
//!
//! Nothing here goes deeper than [`MAX_DEPTH`]; what lies deeper counts as one leaf.

use crate::element::{Element, compare_values};
use crate::schema::{Shape, Type};
use crate::set::{FieldSet, MAX_DEPTH};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What changed from one value to another (upstream: structured-merge-diff `typed/compare.go#Comparison`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
    /// A list that changed has an entry that cannot be told from others, so that it has no fields.
    pub(crate) unfit: bool,
}

impl Comparison {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves out the fields and all below them.
    pub(crate) fn exclude(&mut self, fields: &FieldSet) {
        if !fields.is_empty() {
            self.added.subtract_recursive(fields);
            self.modified.subtract_recursive(fields);
            self.removed.subtract_recursive(fields);
        }
    }

    fn attach(&mut self, element: impl FnOnce() -> Element, mark: Mark, below: Self) {
        self.unfit |= below.unfit;
        if mark == Mark::default() && below.is_empty() {
            return;
        }
        let element = element();
        self.added.attach(element.clone(), mark.added, below.added);
        self.modified.attach(element.clone(), mark.modified, below.modified);
        self.removed.attach(element, mark.removed, below.removed);
    }
}

/// What happened to a value itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    added: bool,
    modified: bool,
    removed: bool,
}

const ADDED: Mark = Mark { added: true, modified: false, removed: false };
const MODIFIED: Mark = Mark { added: false, modified: true, removed: false };
const REMOVED: Mark = Mark { added: false, modified: false, removed: true };

fn same(a: &Value, b: &Value) -> bool {
    a == b || compare_values(a, b) == Ordering::Equal
}

fn is_empty(v: Option<&Value>) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Every leaf and entry of the value (upstream: structured-merge-diff `typed/tofieldset.go`).
pub(crate) fn to_set(value: &Value, ty: Type<'_>) -> FieldSet {
    fields_of(value, ty, 0).1
}

/// Whether the value itself is a member, and what is below it.
fn fields_of(value: &Value, ty: Type<'_>, depth: usize) -> (bool, FieldSet) {
    let mut out = FieldSet::default();
    if depth > MAX_DEPTH {
        return (true, out);
    }
    match (ty.shape(value), value) {
        (Shape::Map, Value::Object(map)) => {
            for (name, child) in map {
                let (child_ty, declared) = ty.field(name);
                let (member, below) = fields_of(child, child_ty, depth + 1);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                out.attach(Element::field(name), member || empty || !declared, below);
            }
            (false, out)
        }
        (Shape::List, Value::Array(list)) => {
            for (element, entries) in index(list, ty) {
                let below = match entries.as_slice() {
                    [entry] => fields_of(entry, ty.item(), depth + 1).1,
                    _ => FieldSet::default(),
                };
                out.attach(element, true, below);
            }
            (false, out)
        }
        (Shape::Leaf, _) => (true, out),
        _ => (false, out),
    }
}

/// The entries by element; an entry that has no element is left out.
fn index<'v>(list: &'v [Value], ty: Type<'_>) -> BTreeMap<Element, Vec<&'v Value>> {
    let mut out: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for entry in list {
        if let Ok(element) = ty.element(entry) {
            out.entry(element).or_default().push(entry);
        }
    }
    out
}

/// What changed from `old` to `new`. Equal parts cost no allocation.
pub(crate) fn compare(old: &Value, new: &Value, ty: Type<'_>) -> Comparison {
    let mut out = Comparison::default();
    let _ = differ(Some(old), Some(new), ty, &mut out, 0);
    out
}

/// Adds what changed below the value to `out` and says what happened to the value itself.
fn differ(
    old: Option<&Value>,
    new: Option<&Value>,
    ty: Type<'_>,
    out: &mut Comparison,
    depth: usize,
) -> Mark {
    let own = match (old, new) {
        (None, _) => ADDED,
        (_, None) => REMOVED,
        _ => Mark::default(),
    };
    let shape_of = |v: Option<&Value>| v.filter(|v| !v.is_null()).map(|v| ty.shape(v));
    let null_shape = || ty.shape(&Value::Null);
    let (a, b) = match (shape_of(old), shape_of(new)) {
        (None, None) => (null_shape(), null_shape()),
        (Some(s), None) | (None, Some(s)) => (s, s),
        (Some(a), Some(b)) => (a, b),
    };
    let leaf = |old: Option<&Value>, new: Option<&Value>| match (old, new) {
        (Some(old), Some(new)) if !same(old, new) => MODIFIED,
        _ => own,
    };
    if depth > MAX_DEPTH || (is_empty(old) && is_empty(new)) {
        return leaf(old, new);
    }
    if a != b {
        // the value became another kind of thing: what was walked is gone or there, and the value itself is new
        for shape in [a, b] {
            walk(shape, old, new, ty, out, depth);
        }
        return MODIFIED;
    }
    if a == Shape::Leaf {
        return leaf(old, new);
    }
    walk(a, old, new, ty, out, depth);
    own
}

fn walk(
    shape: Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    ty: Type<'_>,
    out: &mut Comparison,
    depth: usize,
) {
    match shape {
        Shape::Leaf => {}
        Shape::Map => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let mut visit = |name: &str, old, new| {
                let mut below = Comparison::default();
                let mark = differ(old, new, ty.field(name).0, &mut below, depth + 1);
                out.attach(|| Element::field(name), mark, below);
            };
            for (name, value) in old.into_iter().flatten() {
                visit(name, Some(value), new.and_then(|m| m.get(name)));
            }
            for (name, value) in new.into_iter().flatten() {
                if old.is_none_or(|m| !m.contains_key(name)) {
                    visit(name, None, Some(value));
                }
            }
        }
        Shape::List => {
            let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let new = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if old != new {
                entries_differ(old, new, ty, out, depth);
            }
        }
    }
}

fn entries_differ(old: &[Value], new: &[Value], ty: Type<'_>, out: &mut Comparison, depth: usize) {
    out.unfit |= old.iter().chain(new).any(|entry| ty.element(entry).is_err());
    let (old, mut new) = (index(old, ty), index(new, ty));
    let item = ty.item();
    let mut visit = |element: Element, old: &[&Value], new: &[&Value]| {
        let mut below = Comparison::default();
        let mut mark = Mark::default();
        let one = |entries: &[&'_ Value]| entries.len() == 1;
        match (old, new) {
            ([_, _, ..], [_, _, ..]) => {
                let equal = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(a, b));
                mark.modified = !equal;
            }
            ([_, _, ..], _) => {
                if one(new) {
                    let _ = differ(None, new.first().copied(), item, &mut below, depth + 1);
                    mark.added = true;
                }
                mark.removed = true;
            }
            (_, [_, _, ..]) => {
                if one(old) {
                    let _ = differ(old.first().copied(), None, item, &mut below, depth + 1);
                    mark.removed = true;
                }
                mark.added = true;
            }
            _ => mark = differ(old.first().copied(), new.first().copied(), item, &mut below, depth + 1),
        }
        out.attach(|| element, mark, below);
    };
    for (element, entries) in old {
        let theirs = new.remove(&element).unwrap_or_default();
        visit(element, &entries, &theirs);
    }
    for (element, entries) in new {
        visit(element, &[], &entries);
    }
}

/// The live value with what was applied laid over it (upstream: structured-merge-diff `typed/merge.go`). Removes
/// nothing. Lists keep the live order where the applied one does not ask for another.
///
/// # Errors
/// An applied list has two entries of one key or entries without.
pub(crate) fn merge(live: &Value, applied: &Value, ty: Type<'_>) -> Result<Value, String> {
    lay(Some(live), Some(applied), ty, 0).map(Option::unwrap_or_default)
}

fn lay(
    live: Option<&Value>,
    applied: Option<&Value>,
    ty: Type<'_>,
    depth: usize,
) -> Result<Option<Value>, String> {
    let Some(applied) = applied else { return Ok(live.cloned()) };
    let shape = match (applied, live) {
        (Value::Null, Some(live)) => ty.shape(live),
        _ => ty.shape(applied),
    };
    // what is there in another shape counts for nothing
    let is_nothing = |value: Option<&Value>| match shape {
        Shape::Map => value.and_then(Value::as_object).is_none_or(Map::is_empty),
        _ => value.and_then(Value::as_array).is_none_or(Vec::is_empty),
    };
    if depth > MAX_DEPTH || shape == Shape::Leaf || (is_nothing(live) && is_nothing(Some(applied))) {
        return Ok(Some(applied.clone()));
    }
    if shape == Shape::Map {
        let live = live.and_then(Value::as_object);
        let mut out = live.cloned_without(applied);
        for (name, value) in applied.as_object().into_iter().flatten() {
            let child = lay(live.and_then(|m| m.get(name)), Some(value), ty.field(name).0, depth + 1)
                .map_err(|e| prefixed(&format!(".{name}"), &e))?;
            if let Some(child) = child {
                out.insert(name.clone(), child);
            }
        }
        return Ok((!out.is_empty()).then_some(Value::Object(out)));
    }
    let empty = Vec::new();
    let live = live.and_then(Value::as_array).unwrap_or(&empty);
    let applied = applied.as_array().unwrap_or(&empty);
    let out = lay_list(live, applied, ty, depth)?;
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

trait ClonedWithout {
    fn cloned_without(self, other: &Value) -> Map<String, Value>;
}

impl ClonedWithout for Option<&Map<String, Value>> {
    /// The entries that `other` does not have.
    fn cloned_without(self, other: &Value) -> Map<String, Value> {
        let entries = self.into_iter().flatten().filter(|(name, _)| other.get(name.as_str()).is_none());
        entries.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

fn prefixed(prefix: &str, error: &str) -> String {
    if error.starts_with(['.', '[']) { format!("{prefix}{error}") } else { format!("{prefix}: {error}") }
}

/// Merges two lists entry by entry (upstream: structured-merge-diff `typed/merge.go#visitListItems`).
fn lay_list(live: &[Value], applied: &[Value], ty: Type<'_>, depth: usize) -> Result<Vec<Value>, String> {
    let mut theirs: BTreeMap<Element, &Value> = BTreeMap::new();
    let mut right = Vec::with_capacity(applied.len());
    for (at, entry) in applied.iter().enumerate() {
        let element = ty.element(entry).map_err(|e| format!("element {at}: {e}"))?;
        if theirs.insert(element.clone(), entry).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
        right.push((element, entry));
    }
    // entries of one key in the live list are not merged with
    let mut ours: BTreeMap<Element, Option<&Value>> = BTreeMap::new();
    let mut left = Vec::with_capacity(live.len());
    for (at, entry) in live.iter().enumerate() {
        let element = ty.element(entry).map_err(|e| format!("element {at}: {e}"))?;
        ours.entry(element.clone()).and_modify(|e| *e = None).or_insert(Some(entry));
        left.push((element, entry));
    }
    let merged = |element: &Element, entry: &Value| {
        let live = ours.get(element).copied().flatten();
        lay(live, Some(entry), ty.item(), depth + 1).map_err(|e| prefixed(&element.to_string(), &e))
    };
    let mut shared = right.iter().map(|(e, _)| e).filter(|e| ours.contains_key(*e));
    let mut next = shared.next();
    let mut done: BTreeMap<&Element, ()> = BTreeMap::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some((ours, _)), Some((element, entry))) = (left.get(l), right.get(r)) {
            if ours == element {
                done.insert(element, ());
                out.extend(merged(element, entry)?);
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            if theirs.contains_key(ours) && next.is_some_and(|next| next != ours) {
                // shared, but another one comes first in the applied order
                l += 1;
                continue;
            }
        }
        if let Some((element, entry)) = left.get(l) {
            if !theirs.contains_key(element) {
                out.push((*entry).clone());
                l += 1;
                continue;
            }
            if done.contains_key(element) {
                l += 1;
            }
        }
        if let Some((element, entry)) = right.get(r) {
            done.insert(element, ());
            out.extend(merged(element, entry)?);
            r += 1;
            if next == Some(element) {
                next = shared.next();
            }
        }
    }
    Ok(out)
}

/// Takes the entries and fields of the set out of the value (upstream: structured-merge-diff `typed/remove.go`). An
/// object or list that has nothing left becomes null.
pub(crate) fn remove(value: &mut Value, set: &FieldSet, ty: Type<'_>) {
    if !set.is_empty() {
        strip(value, set, ty, 0);
    }
}

fn strip(value: &mut Value, set: &FieldSet, ty: Type<'_>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match (ty.shape(value), &mut *value) {
        (Shape::Map, Value::Object(map)) => {
            map.retain(|name, child| {
                let element = Element::field(name);
                if set.has(&element) {
                    return false;
                }
                if let Some(below) = set.below(&element) {
                    strip(child, below, ty.field(name).0, depth + 1);
                }
                true
            });
            if map.is_empty() {
                *value = Value::Null;
            }
        }
        (Shape::List, Value::Array(list)) => {
            list.retain_mut(|entry| {
                let Ok(element) = ty.element(entry) else { return true };
                if set.has(&element) {
                    return false;
                }
                if let Some(below) = set.below(&element) {
                    strip(entry, below, ty.item(), depth + 1);
                }
                true
            });
            if list.is_empty() {
                *value = Value::Null;
            }
        }
        (Shape::Leaf, Value::Object(_) | Value::Array(_)) => *value = Value::Null,
        _ => {}
    }
}

/// The set with the named fields that lead to members as members too (upstream: structured-merge-diff
/// `fieldpath/set.go#EnsureNamedFieldsAreMembers`).
pub(crate) fn with_named(set: &FieldSet, ty: Type<'_>) -> FieldSet {
    named(set, ty, 0)
}

fn named(set: &FieldSet, ty: Type<'_>, depth: usize) -> FieldSet {
    let mut out = FieldSet::default();
    if depth > MAX_DEPTH {
        return out;
    }
    for (element, member, below) in set.entries() {
        let (child, declared) = match element {
            Element::Field(name) => ty.field(name),
            Element::Key(_) => (ty.item(), false),
            _ => (Type::Untyped, false),
        };
        let leads = declared && !below.is_empty();
        out.attach(element.clone(), member || leads, named(below, child, depth + 1));
    }
    out
}

/// Owners of parts of what the type now has as a whole own the whole; a whole that now has parts stays owned as such
/// (upstream: structured-merge-diff `typed/reconcile_schema.go`).
pub(crate) fn reconcile(set: &mut FieldSet, ty: Type<'_>) {
    whole(set, ty, 0);
}

fn whole(set: &mut FieldSet, ty: Type<'_>, depth: usize) {
    set.each_mut(|element, member, below| {
        if below.is_empty() || depth > MAX_DEPTH {
            return;
        }
        let child = match element {
            Element::Field(name) => ty.child(name).map(|(child, _)| child),
            Element::Key(_) | Element::Value(_) => Some(ty.item()),
            Element::Index(_) => None,
        };
        let Some(child) = child else { return };
        if child.is_whole() {
            *member = true;
            *below = FieldSet::default();
        } else {
            whole(below, child, depth + 1);
        }
    });
}
