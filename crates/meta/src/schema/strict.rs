//! Unknown and duplicate fields of a JSON text, in the order of the text.
//!
//! A second pass over text that is known to have some; the answer's message lists them as Go's decoder meets them
//! (upstream: sigs.k8s.io/json `UnmarshalStrict`).

use super::{Schema, Ty};
use crate::field::quoted;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

/// Most messages (upstream: `saveStrictError`).
const MAX_MESSAGES: usize = 100;

impl Schema {
    /// `unknown field "spec.foo"` and `duplicate field "spec.replicas"`, in document order, of a JSON text that
    /// parses. For use when [`crate::yaml::parse_json`] found duplicates or [`Schema::decode`] unknown fields;
    /// empty for a type that the table lacks.
    pub fn strict_messages(&self, json: &[u8], ty: &str) -> Vec<String> {
        if !self.types.contains_key(ty) {
            return Vec::new();
        }
        let ty = Ty::Ref(ty.to_owned());
        let found = RefCell::new(Found { path: String::new(), messages: Vec::new() });
        let walk = Walk { schema: self, ty: &ty, found: &found };
        // What went before an error is still right.
        let _ = walk.deserialize(&mut serde_json::Deserializer::from_slice(json));
        found.into_inner().messages
    }
}

struct Found {
    path: String,
    messages: Vec<String>,
}

impl Found {
    fn say(&mut self, what: &str, key: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let message = format!("{what} field {}", quoted(&format!("{}{dot}{key}", self.path)));
        if self.messages.len() < MAX_MESSAGES && !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    fn enter(&mut self, key: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        mark
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    schema: &'a Schema,
    ty: &'a Ty,
    found: &'a RefCell<Found>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Ty::List(inner) = self.ty else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let mark = self.found.borrow().path.len();
        for i in 0usize.. {
            self.found.borrow_mut().path.push_str(&format!("[{i}]"));
            let more = seq.next_element_seed(Walk { ty: inner, ..self })?;
            self.found.borrow_mut().path.truncate(mark);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let def = match self.ty {
            Ty::Ref(name) => self.schema.types.get(name),
            _ => None,
        };
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let below = match (def, self.ty) {
                (Some(def), _) => def.fields.get(&key).map(|f| &f.ty),
                (None, Ty::Map(inner)) => Some(&**inner),
                // Free-form JSON is kept as it is and not looked into.
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let Some(below) = below else {
                self.found.borrow_mut().say("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let mut found = self.found.borrow_mut();
            let mark = if seen.contains(&key) {
                found.say("duplicate", &key);
                found.enter(&key)
            } else {
                let mark = found.enter(&key);
                seen.insert(key);
                mark
            };
            drop(found);
            map.next_value_seed(Walk { ty: below, ..self })?;
            self.found.borrow_mut().path.truncate(mark);
        }
        Ok(())
    }
}
