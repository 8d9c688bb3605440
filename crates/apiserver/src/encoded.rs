//! Protobuf messages of stored objects, made once per revision and kept while they are asked for.
//!
//! Invariant: a message belongs to the very bytes that it was made of, which live as long as it does; both generations
//! together keep no more than [`GENERATION_BYTES_MAX`] twice.

use bytes::Bytes;
use meta::status::{Result, Status};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;

/// Bytes of messages after which the older generation goes.
const GENERATION_BYTES_MAX: usize = 32 << 20;
/// Objects of a list that are looked up before others have their turn.
const TURN_OBJECTS: usize = 256;
/// What an entry takes beside its message.
const ENTRY_BYTES: usize = 128;

#[derive(Default)]
pub struct Encoded(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    /// By the address of the object's bytes.
    young: HashMap<usize, Entry>,
    old: HashMap<usize, Entry>,
    young_bytes: usize,
}

struct Entry {
    /// Keeps the address from being given to other bytes.
    object: Bytes,
    message: Bytes,
}

impl Encoded {
    /// The message of a stored object whose type's definition is `schema`.
    ///
    /// # Errors
    /// The object does not fit its definition.
    pub fn message(&self, schema: &str, object: &Bytes) -> Result<Bytes> {
        if let Some(message) = self.0.lock().find(object) {
            return Ok(message);
        }
        self.make(schema, object)
    }

    /// The messages of many stored objects of one type.
    ///
    /// # Errors
    /// An object does not fit its definition.
    pub fn messages(&self, schema: &str, objects: &[Bytes]) -> Result<Vec<Bytes>> {
        let mut messages = Vec::with_capacity(objects.len());
        for some in objects.chunks(TURN_OBJECTS) {
            let begin = messages.len();
            {
                let mut kept = self.0.lock();
                messages.extend(some.iter().map(|object| kept.find(object).unwrap_or_default()));
            }
            // No object's message is empty.
            for (message, object) in messages[begin..].iter_mut().zip(some).filter(|(m, _)| m.is_empty()) {
                *message = self.make(schema, object)?;
            }
        }
        Ok(messages)
    }

    fn make(&self, schema: &str, object: &Bytes) -> Result<Bytes> {
        let value = serde_json::from_slice(object).map_err(Status::internal)?;
        self.make_of(schema, object, &value)
    }

    /// Makes the message of an object that is at hand as a tree too.
    ///
    /// # Errors
    /// The object does not fit its definition.
    pub fn make_of(&self, schema: &str, object: &Bytes, tree: &Value) -> Result<Bytes> {
        // A message is shorter than the text.
        let message = meta::proto::encode_about(kinds::schema::schema(), schema, tree, object.len());
        let message = Bytes::from(message.map_err(Status::internal)?.into_boxed_slice());
        self.0.lock().keep(object, message.clone());
        Ok(message)
    }
}

impl Generations {
    fn find(&mut self, object: &Bytes) -> Option<Bytes> {
        let key = object.as_ptr() as usize;
        let same = |entry: &&Entry| entry.object.len() == object.len();
        if let Some(entry) = self.young.get(&key).filter(same) {
            return Some(entry.message.clone());
        }
        self.old.get(&key).filter(same)?;
        let entry = self.old.remove(&key)?;
        let message = entry.message.clone();
        self.put(key, entry);
        Some(message)
    }

    fn keep(&mut self, object: &Bytes, message: Bytes) {
        self.put(object.as_ptr() as usize, Entry { object: object.clone(), message });
    }

    fn put(&mut self, key: usize, entry: Entry) {
        self.young_bytes += entry.message.len() + ENTRY_BYTES;
        self.young.insert(key, entry);
        if self.young_bytes > GENERATION_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "io.k8s.api.core.v1.ConfigMap";

    fn object(name: &str) -> Bytes {
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#).into()
    }

    #[test]
    fn a_message_is_made_once_for_the_same_bytes() {
        let encoded = Encoded::default();
        let a = object("a");
        let first = encoded.message(SCHEMA, &a).expect("made");
        let again = encoded.message(SCHEMA, &a.clone()).expect("kept");
        assert_eq!(first.as_ptr(), again.as_ptr());
        let other = encoded.message(SCHEMA, &object("a")).expect("made");
        assert!(other == first && other.as_ptr() != first.as_ptr());
        assert!(encoded.message(SCHEMA, &Bytes::from_static(b"{")).is_err());
    }

    #[test]
    fn what_nobody_asks_for_goes_and_what_is_asked_for_stays() {
        let mut all = Generations::default();
        let asked = object("asked");
        all.keep(&asked, Bytes::from_static(b"m"));
        let big = Bytes::from(vec![0; GENERATION_BYTES_MAX / 4]);
        for i in 0..40 {
            all.keep(&object(&i.to_string()), big.clone());
            assert!(all.find(&asked).is_some(), "{i}");
            assert!(all.young.len() + all.old.len() <= 10);
        }
    }
}
