//! Strategic merge patch: lists merge by key where the schema says so, and directives (`$patch`,
//! `$retainKeys`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`) say the rest
//! (upstream: apimachinery `pkg/util/strategicpatch/patch.go#StrategicMergeMapPatch`).

use super::order;
use crate::field::quoted;
use crate::schema::{Field, Schema, Ty};
use crate::status::{Reason, Status};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// Merges a patch into an object of the type.
///
/// # Errors
/// 400 for a malformed patch, 422 for lists of lists, 500 for the rest, as upstream; with upstream's texts.
pub fn apply(doc: &mut Value, patch: &Value, schema: &Schema, ty: &str) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        let what = crate::schema::go_kind(patch);
        let text = format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}");
        return Err(Status::bad_request(text));
    };
    let original = match doc.take() {
        Value::Object(m) => m,
        _ => Object::new(),
    };
    let ty = Ty::Ref(ty.to_owned());
    let at = Meta { schema, ty: Some(&ty) };
    *doc = Value::Object(at.merge_map(original, patch.clone()).map_err(|e| e.status())?);
    Ok(())
}

/// Why a patch cannot be applied.
enum Fault {
    Bad(&'static str),
    ListOfLists,
    Other(String),
}

const BAD_PRIMITIVE_LIST: Fault = Fault::Bad("invalid patch format of primitive list");
const BAD_RETAIN_KEYS: Fault = Fault::Bad("invalid patch format of retainKeys");
const BAD_ELEMENT_ORDER: Fault = Fault::Bad("invalid patch format of setElementOrder list");

impl Fault {
    /// Upstream: `interpretStrategicMergePatchError`.
    fn status(self) -> Status {
        match self {
            Self::Bad(t) => Status::bad_request(t),
            Self::ListOfLists => Status::new(
                422,
                Reason::Invalid,
                "the server rejected our request due to an error in our request",
            ),
            Self::Other(t) => Status::new(500, Reason::Unknown, t),
        }
    }
}

/// The type at some place of the object; `None` where the schema ends.
#[derive(Clone, Copy)]
struct Meta<'a> {
    schema: &'a Schema,
    ty: Option<&'a Ty>,
}

/// Type and merge rules of a field.
struct Below<'a> {
    meta: Meta<'a>,
    strategy: &'a str,
    merge_key: &'a str,
}

impl<'a> Meta<'a> {
    fn below(self, key: &str) -> Result<Below<'a>, Fault> {
        match self.ty {
            Some(Ty::Ref(name)) => {
                let def = self.schema.types.get(name);
                let Some(field) = def.and_then(|d| d.fields.get(key)) else {
                    let name = def.map_or(name.as_str(), |d| d.go_name.as_str());
                    let text = format!(
                        "unable to find api field in struct {name} for the json field {key}",
                        key = quoted(key)
                    );
                    return Err(Fault::Other(text));
                };
                let meta = Meta { schema: self.schema, ty: Some(&field.ty) };
                Ok(Below { meta, strategy: strategy(field), merge_key: &field.patch_merge_key })
            }
            // upstream: `forkedjson.LookupPatchMetadataForStruct`
            Some(Ty::Map(_)) => Err(Fault::Other(
                "merging an object in json but data type is not struct, instead is: map".to_owned(),
            )),
            // Free-form JSON merges without rules.
            _ => Ok(Below { meta: Self { ty: None, ..self }, strategy: "", merge_key: "" }),
        }
    }

    fn element(self) -> Self {
        let ty = match self.ty {
            Some(Ty::List(inner)) => Some(&**inner),
            _ => None,
        };
        Self { schema: self.schema, ty }
    }

    fn merge_map(self, mut original: Object, mut patch: Object) -> Result<Object, Fault> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(DIRECTIVE);
                    Ok(patch)
                }
                Some("delete") => Ok(Object::new()),
                _ => Err(bad_patch_type(directive, &patch)),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.set_element_orders(&mut original, &mut patch)?;
        for (key, value) in patch {
            let (key, deletes) = match key.strip_prefix(DELETE_FROM_LIST) {
                Some(rest) => (rest.strip_prefix('/').ok_or(BAD_PRIMITIVE_LIST)?.to_owned(), true),
                None => (key, false),
            };
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let merged = match (original.remove(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let below = self.below(&key)?;
                    Some(Value::Object(if below.strategy == "replace" {
                        new
                    } else {
                        below.meta.merge_map(old, new)?
                    }))
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    Some(self.merge_list(&key, old, new, deletes)?)
                }
                // A deletion from what is no list does nothing.
                (old, _) if deletes => old,
                (None, new) => added(new),
                (Some(old), new) if same_type(&old, &new) => cleaned(new),
                (Some(_), new) => added(new),
            };
            if let Some(v) = merged {
                original.insert(key, v);
            }
        }
        Ok(original)
    }

    fn merge_list(self, key: &str, old: Vec<Value>, new: Vec<Value>, deletes: bool) -> Result<Value, Fault> {
        let below = self.below(key)?;
        let merges = below.strategy == "merge" || deletes;
        let list =
            if merges { below.meta.element().merge_slice(old, new, below.merge_key, deletes)? } else { new };
        Ok(Value::Array(list))
    }

    fn merge_slice(
        self,
        original: Vec<Value>,
        patch: Vec<Value>,
        merge_key: &str,
        deletes: bool,
    ) -> Result<Vec<Value>, Fault> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        if !element_type(&[&original, &patch])? {
            if deletes {
                return Ok(original.into_iter().filter(|v| !patch.contains(v)).collect());
            }
            let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
            let mut seen = std::collections::HashSet::new();
            for v in original.iter().chain(&patch) {
                if seen.insert(v.to_string()) {
                    merged.push(v.clone());
                }
            }
            let (in_patch, server_only) = partition(merged, &patch, "")?;
            return Ok(order::normalize(in_patch, server_only, &patch, &original, ""));
        }
        if merge_key.is_empty() {
            return Err(Fault::Other("cannot merge lists without merge key for struct".to_owned()));
        }
        let (original, patch) = special_elements(original, patch, merge_key)?;
        let server_order = original.clone();
        let merged = self.merge_elements(original, &patch, merge_key)?;
        let (in_patch, server_only) = partition(merged, &patch, merge_key)?;
        Ok(order::normalize(in_patch, server_only, &patch, &server_order, merge_key))
    }

    fn merge_elements(
        self,
        mut original: Vec<Value>,
        patch: &[Value],
        merge_key: &str,
    ) -> Result<Vec<Value>, Fault> {
        for v in patch {
            let Value::Object(new) = v else { return Err(arg_type(v)) };
            let id = new.get(merge_key).ok_or_else(|| no_merge_key(new, merge_key))?;
            let found = original.iter_mut().find(|o| o.get(merge_key) == Some(id));
            match found {
                Some(slot) => {
                    let Value::Object(old) = slot.take() else { return Err(arg_type(v)) };
                    *slot = Value::Object(self.merge_map(old, new.clone())?);
                }
                None => original.push(v.clone()),
            }
        }
        Ok(original)
    }

    /// Applies `$setElementOrder/x` lists, and with them the patches of those lists
    /// (upstream: `mergePatchIntoOriginal`).
    fn set_element_orders(self, original: &mut Object, patch: &mut Object) -> Result<(), Fault> {
        let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in keys {
            let wanted = patch.remove(&directive).unwrap_or_default();
            let Value::Array(wanted) = wanted else { return Err(arg_list(&wanted)) };
            let key = directive
                .strip_prefix(ELEMENT_ORDER)
                .and_then(|r| r.strip_prefix('/'))
                .ok_or(BAD_ELEMENT_ORDER)?;
            let list = |v: Option<&Value>| match v {
                None => Ok(None),
                Some(Value::Array(a)) => Ok(Some(a.clone())),
                Some(other) => Err(arg_list(other)),
            };
            let (old, new) = (list(original.get(key))?, list(patch.get(key))?);
            let below = self.below(key)?;
            check_order(new.as_deref().unwrap_or(&[]), &wanted, below.merge_key)?;
            let server_order = old.clone().unwrap_or_default();
            let new_elements = new.clone().unwrap_or_default();
            let merged = match (old, new) {
                (Some(old), None) => old,
                (None, Some(new)) => new.into_iter().filter_map(cleaned).collect(),
                (Some(old), Some(new)) if below.strategy == "merge" => {
                    below.meta.element().merge_slice(old, new, below.merge_key, false)?
                }
                (Some(_), Some(new)) => new,
                (None, None) => continue,
            };
            let (in_patch, server_only) = partition(merged, &wanted, below.merge_key)?;
            element_type(&[&server_order, &new_elements])?;
            let ordered = order::normalize(in_patch, server_only, &wanted, &server_order, below.merge_key);
            original.insert(key.to_owned(), Value::Array(ordered));
            patch.remove(key);
        }
        Ok(())
    }
}

/// The strategy of a field but for `retainKeys`.
fn strategy(field: &Field) -> &str {
    field.patch_strategy.split(',').find(|s| *s != "retainKeys").unwrap_or("")
}

/// Applies `$retainKeys`: keys that it does not list go.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Fault> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return Err(BAD_RETAIN_KEYS) };
    let listed = |k: &str| list.iter().any(|v| v.as_str() == Some(k));
    let directive = |k: &str| k.starts_with(DELETE_FROM_LIST) || k.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(k, v)| !v.is_null() && !directive(k) && !listed(k)) {
        return Err(BAD_RETAIN_KEYS);
    }
    original.retain(|k, _| listed(k));
    Ok(())
}

/// Takes elements that carry directives out of a patch list and follows them.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for v in patch {
        let Value::Object(map) = &v else { return Err(arg_type(&v)) };
        let Some(directive) = map.get(DIRECTIVE) else {
            plain.push(v);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let id = map.get(merge_key).ok_or_else(|| no_merge_key(map, merge_key))?;
                original.retain(|o| o.get(merge_key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(Fault::Other("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => return Err(bad_patch_type(directive, map)),
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// Splits a list into the elements that the other list names and the rest.
fn partition(list: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let named: std::collections::HashSet<String> =
        by.iter().filter_map(|v| order::identity(v, merge_key)).map(Value::to_string).collect();
    let mut out = (Vec::new(), Vec::new());
    for v in list {
        let id = match (&v, order::identity(&v, merge_key)) {
            (_, Some(id)) => id.to_string(),
            (Value::Object(m), None) => return Err(no_merge_key(m, merge_key)),
            (other, None) => return Err(arg_type(other)),
        };
        if named.contains(&id) { out.0.push(v) } else { out.1.push(v) }
    }
    Ok(out)
}

/// The patch list must be in the order that `$setElementOrder` gives (upstream: `validatePatchWithSetOrderList`).
fn check_order(patch: &[Value], wanted: &[Value], merge_key: &str) -> Result<(), Fault> {
    if patch.is_empty() || wanted.is_empty() {
        return Ok(());
    }
    let mut order = wanted.iter();
    for v in patch.iter().filter(|v| v.get(DIRECTIVE).is_none()) {
        let id = |v: &Value| match (order::identity(v, merge_key), v) {
            (Some(id), _) => Ok(id.clone()),
            (None, Value::Object(m)) => Err(no_merge_key(m, merge_key)),
            (None, other) => Err(arg_type(other)),
        };
        let want = id(v)?;
        let mut found = false;
        for w in order.by_ref() {
            if id(w)? == want {
                found = true;
                break;
            }
        }
        if !found {
            let (p, w) = (crate::go::list(patch), crate::go::list(wanted));
            let text = format!("The order in patch list:\n{p}\n doesn't match {ELEMENT_ORDER} list:\n{w}\n");
            return Err(Fault::Other(text));
        }
    }
    Ok(())
}

/// Whether the elements are maps; all must be of one type (upstream: `sliceElementType`).
fn element_type(lists: &[&[Value]]) -> Result<bool, Fault> {
    let mut all = lists.iter().flat_map(|l| l.iter());
    let first =
        all.next().ok_or_else(|| Fault::Other("no elements in any of the given slices".to_owned()))?;
    if first.is_array() {
        return Err(Fault::ListOfLists);
    }
    if !all.all(|v| same_type(first, v)) {
        let shown: Vec<String> = lists.iter().map(|l| crate::go::list(l)).collect();
        return Err(Fault::Other(format!("list element types are not identical: [{}]", shown.join(" "))));
    }
    Ok(first.is_object())
}

fn same_type(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// A value new to the object: without nulls in its maps and without directives; `None` when nothing is left.
fn added(mut v: Value) -> Option<Value> {
    discard_nulls(&mut v);
    cleaned(v)
}

fn discard_nulls(v: &mut Value) {
    match v {
        Value::Object(m) => {
            m.retain(|_, v| !v.is_null());
            m.values_mut().for_each(discard_nulls);
        }
        Value::Array(a) => a.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// Removes maps that carry a directive (upstream: `removeDirectives`).
fn cleaned(v: Value) -> Option<Value> {
    match v {
        Value::Object(m) if m.contains_key(DIRECTIVE) => None,
        Value::Object(m) => {
            Some(Value::Object(m.into_iter().filter_map(|(k, v)| Some((k, cleaned(v)?))).collect()))
        }
        Value::Array(a) => Some(Value::Array(a.into_iter().filter_map(cleaned).collect())),
        other => Some(other),
    }
}

fn bad_patch_type(directive: &Value, map: &Object) -> Fault {
    Fault::Other(format!(
        "unknown patch type: {} in map: {}",
        crate::go::as_text(directive),
        crate::go::map(map)
    ))
}

fn no_merge_key(map: &Object, key: &str) -> Fault {
    Fault::Other(format!("map: {} does not contain declared merge key: {key}", crate::go::map(map)))
}

fn arg_type(v: &Value) -> Fault {
    Fault::Other(format!("expected a map[string]interface {{}}, but received a {}", go_type(v)))
}

fn arg_list(v: &Value) -> Fault {
    Fault::Other(format!("expected a []interface {{}}, but received a {}", go_type(v)))
}

fn go_type(v: &Value) -> &'static str {
    match v {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A patch as Go's `%v` prints it when it was applied: upstream takes the directives out on the way.
pub fn shown(patch: &Value) -> String {
    fn plain(v: &Value) -> Value {
        match v {
            Value::Object(m) => {
                let kept = m.iter().filter(|(k, _)| !k.starts_with('$'));
                Value::Object(kept.map(|(k, v)| (k.clone(), plain(v))).collect())
            }
            Value::Array(list) => list.iter().map(plain).collect(),
            other => other.clone(),
        }
    }
    crate::go::text(&plain(patch))
}
