//! Changing an object by a patch: JSON patch, JSON merge patch, strategic merge patch.
//!
//! A patch that fails leaves the object in an unspecified state: patch a copy. Results are no deeper than
//! [`crate::yaml::MAX_DEPTH`], whatever the patch.

pub mod json;
pub mod merge;
mod order;
pub mod strategic;

use serde_json::Value;

/// Whether a tree is nested deeper than `levels`.
pub(crate) fn deeper_than(v: &Value, levels: usize) -> bool {
    let children = |n: usize, mut it: &mut dyn Iterator<Item = &Value>| {
        n == 0 || (&mut it).any(|c| deeper_than(c, n - 1))
    };
    match v {
        Value::Array(a) => children(levels, &mut a.iter()),
        Value::Object(m) => children(levels, &mut m.values()),
        _ => false,
    }
}
