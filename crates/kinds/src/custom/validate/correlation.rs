//! Which part of an old value a part of a new one was (upstream: apiserver `pkg/cel/common/equality.go`).

use crate::custom::list_type::key;
use crate::custom::structural::Structural;
use serde_json::Value;

/// A part of a value with what it was.
#[derive(Clone, Copy)]
pub struct Correlated<'a> {
    new: &'a Value,
    old: &'a Value,
    schema: &'a Structural,
}

impl<'a> Correlated<'a> {
    pub fn new(new: &'a Value, old: &'a Value, schema: &'a Structural) -> Self {
        Self { new, old, schema }
    }

    /// What the part was before.
    pub fn old(&self) -> &'a Value {
        self.old
    }

    /// Whether nothing changed.
    pub fn same(&self) -> bool {
        if self.new == self.old {
            return true;
        }
        // Elements of a map may have changed places.
        match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) if self.is_map() && new.len() == old.len() => {
                (0..new.len()).all(|i| self.index(i).is_some_and(|child| child.same()))
            }
            (Value::Object(new), Value::Object(old)) if new.len() == old.len() => {
                new.keys().all(|k| self.field(k).is_some_and(|child| child.same()))
            }
            _ => false,
        }
    }

    /// The part under a field, when both values have it and the schema knows it.
    pub fn field(&self, name: &str) -> Option<Self> {
        let (new, old) = (self.new.as_object()?.get(name)?, self.old.as_object()?.get(name)?);
        Some(Self { new, old, schema: self.schema.field(name)? })
    }

    /// The element at an index of a list of type `map`, when the old list has one of its key.
    pub fn index(&self, i: usize) -> Option<Self> {
        if !self.is_map() {
            return None;
        }
        let new = self.new.as_array()?.get(i).filter(|v| v.is_object())?;
        let keys = &self.schema.list_map_keys;
        let wanted = key(new, keys);
        let mut same = self.old.as_array()?.iter().filter(|v| v.is_object() && key(v, keys) == wanted);
        let old = same.next()?;
        Some(Self { new, old, schema: self.schema.items.as_deref()? })
    }

    fn is_map(&self) -> bool {
        self.schema.list_type.as_deref() == Some("map")
    }
}
