//! Protobuf messages of stored objects, made once per revision and kept while they are asked for.
//!
//! What a list copied together stays together: its pieces become the memory of the messages in them, so that the next list of the
//! same objects sends them as they are, and copies what changed.
//!
//! Invariant: a message belongs to the very bytes that it was made of, which live as long as it does; both generations
//! together keep no more than [`GENERATION_BYTES_MAX`] twice, and what else is in the pieces that they are parts of: a message
//! alone leaves its piece when it comes into another generation, and so do runs shorter than [`RUN_BYTES_MIN`].

use bytes::Bytes;
use meta::status::{Result, Status};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use std::collections::HashMap;

/// Bytes of messages after which the older generation goes.
const GENERATION_BYTES_MAX: usize = 32 << 20;
/// Objects of a list that are looked up before others have their turn.
const TURN_OBJECTS: usize = 256;
/// What an entry takes beside its message.
const ENTRY_BYTES: usize = 128;
/// Messages that lie together are sent as they lie when they are as long; shorter ones are copied to others.
const RUN_BYTES_MIN: usize = 16 << 10;

#[derive(Default)]
pub struct Encoded(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
    young_bytes: usize,
}

/// Entries in the order in which they came, which is that of lists.
#[derive(Default)]
struct Generation {
    /// Which entry is that of an object, by the address of its bytes.
    index: HashMap<usize, u32>,
    entries: Vec<Option<Entry>>,
}

impl Generation {
    /// Where the entry of just these bytes is.
    fn position(&self, object: &Bytes) -> Option<usize> {
        let at = *self.index.get(&(object.as_ptr() as usize))? as usize;
        let entry = self.entries.get(at)?.as_ref()?;
        (entry.object.len() == object.len()).then_some(at)
    }

    fn get(&mut self, object: usize) -> Option<&mut Entry> {
        let at = *self.index.get(&object)?;
        self.entries.get_mut(at as usize)?.as_mut()
    }

    fn take(&mut self, object: usize) -> Option<Entry> {
        let at = self.index.remove(&object)?;
        self.entries.get_mut(at as usize)?.take()
    }

    fn put(&mut self, object: usize, entry: Entry) {
        drop(self.take(object));
        // An entry takes more bytes than a generation may have by far before numbers run out.
        if let Ok(at) = u32::try_from(self.entries.len()) {
            self.entries.push(Some(entry));
            self.index.insert(object, at);
        }
    }
}

struct Entry {
    /// Keeps the address from being given to other bytes.
    object: Bytes,
    place: Place,
}

/// Where a message lies.
#[derive(Clone)]
struct Place {
    /// All of the memory.
    memory: Bytes,
    /// Where the message begins as an item of a list; with the message, where it is none.
    item: usize,
    begin: usize,
    end: usize,
}

impl Place {
    fn alone(message: Bytes) -> Self {
        let end = message.len();
        Self { memory: message, item: 0, begin: 0, end }
    }

    fn message(&self) -> Bytes {
        self.memory.slice(self.begin..self.end)
    }

    fn is_item(&self) -> bool {
        self.item < self.begin
    }
}

/// A part of a list.
pub enum Part {
    /// Items as they are sent.
    Run(Bytes),
    /// A message that is to be copied into a piece.
    Single(Single),
}

/// A message, and whose it is.
pub struct Single {
    pub message: Bytes,
    object: usize,
}

/// Where a message was copied to.
pub struct Copied {
    pub single: Single,
    /// Where in the piece it begins as an item, and without what stands before it there.
    pub item: usize,
    pub begin: usize,
}

impl Encoded {
    /// The message of a stored object whose type's definition is `schema`.
    ///
    /// # Errors
    /// The object does not fit its definition.
    pub fn message(&self, schema: &str, object: &Bytes) -> Result<Bytes> {
        if let Some(place) = self.0.lock().find(object, true) {
            return Ok(place.message());
        }
        self.make(schema, object)
    }

    /// The messages of many stored objects of one type, as parts of a list.
    ///
    /// # Errors
    /// An object does not fit its definition.
    pub fn parts(&self, schema: &str, objects: &[Bytes]) -> Result<Vec<Part>> {
        let mut runs = Runs::default();
        let mut kept = self.0.lock();
        for (i, object) in objects.iter().enumerate() {
            if i % TURN_OBJECTS == 0 {
                MutexGuard::bump(&mut kept);
            }
            let address = object.as_ptr() as usize;
            match kept.find(object, false) {
                Some(place) => runs.add(place, address),
                None => {
                    let message = MutexGuard::unlocked(&mut kept, || self.make(schema, object))?;
                    runs.add(&Place::alone(message), address);
                }
            }
        }
        drop(kept);
        Ok(runs.end())
    }

    /// A piece of a list holds these messages now. Short ones are not kept: they would be copied again.
    pub fn packed(&self, piece: &Bytes, copied: Vec<Copied>) {
        if piece.len() < RUN_BYTES_MIN {
            return;
        }
        let mut kept = self.0.lock();
        for Copied { single: Single { message, object }, item, begin } in copied {
            let Some(entry) = kept.entry(object) else { continue };
            let place = &mut entry.place;
            // Another object may have that address by now; its message is somewhere else, as this one still lives.
            if place.memory.as_ptr() as usize + place.begin == message.as_ptr() as usize {
                *place = Place { memory: piece.clone(), item, begin, end: begin + message.len() };
            }
        }
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
    /// Where an object's message is. One that is asked for alone is kept alone from now on.
    fn find(&mut self, object: &Bytes, alone: bool) -> Option<&Place> {
        if let Some(at) = self.young.position(object) {
            return self.young.entries[at].as_ref().map(|entry| &entry.place);
        }
        self.old.position(object)?;
        let key = object.as_ptr() as usize;
        let mut entry = self.old.take(key)?;
        if alone && entry.place.is_item() {
            entry.place = Place::alone(Bytes::copy_from_slice(&entry.place.message()));
        }
        self.put(key, entry);
        self.entry(key).map(|entry| &entry.place)
    }

    fn entry(&mut self, key: usize) -> Option<&mut Entry> {
        // What was just put may be the last of its generation.
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn keep(&mut self, object: &Bytes, message: Bytes) {
        let entry = Entry { object: object.clone(), place: Place::alone(message) };
        self.put(object.as_ptr() as usize, entry);
    }

    fn put(&mut self, key: usize, entry: Entry) {
        self.young_bytes += entry.place.end - entry.place.begin + ENTRY_BYTES;
        self.young.put(key, entry);
        if self.young_bytes > GENERATION_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

/// Finds messages that lie in the order of the list.
#[derive(Default)]
struct Runs {
    parts: Vec<Part>,
    /// The memory of the open run, where it begins and ends there, and each message with its object.
    memory: Bytes,
    begin: usize,
    end: usize,
    messages: Vec<(usize, usize, usize)>,
}

impl Runs {
    fn add(&mut self, place: &Place, object: usize) {
        let follows = place.item == self.end && place.memory.as_ptr() == self.memory.as_ptr();
        if !(place.is_item() && follows && !self.messages.is_empty()) {
            self.close();
            if !place.is_item() {
                self.parts.push(Part::Single(Single { message: place.message(), object }));
                return;
            }
            (self.memory, self.begin) = (place.memory.clone(), place.item);
        }
        self.end = place.end;
        self.messages.push((place.begin, place.end, object));
    }

    fn close(&mut self) {
        if self.end - self.begin >= RUN_BYTES_MIN && !self.messages.is_empty() {
            self.parts.push(Part::Run(self.memory.slice(self.begin..self.end)));
            self.messages.clear();
        }
        for (begin, end, object) in self.messages.drain(..) {
            self.parts.push(Part::Single(Single { message: self.memory.slice(begin..end), object }));
        }
        (self.begin, self.end) = (0, 0);
    }

    fn end(mut self) -> Vec<Part> {
        self.close();
        self.parts
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
            assert!(all.find(&asked, true).is_some(), "{i}");
            assert!(all.young.index.len() + all.old.index.len() <= 10);
        }
    }

    /// Copies the singles of a list as a piece does; gives the list.
    fn sent(encoded: &Encoded, objects: &[Bytes]) -> (Vec<u8>, usize) {
        let (mut out, mut runs, mut piece, mut copied) = (Vec::new(), 0, Vec::new(), Vec::new());
        for part in encoded.parts(SCHEMA, objects).expect("found") {
            match part {
                Part::Run(bytes) => {
                    assert!(piece.is_empty(), "runs come first here");
                    out.extend_from_slice(&bytes);
                    runs += 1;
                }
                Part::Single(single) => {
                    let item = piece.len();
                    piece.extend_from_slice(b"##");
                    let begin = piece.len();
                    piece.extend_from_slice(&single.message);
                    copied.push(Copied { single, item, begin });
                }
            }
        }
        out.extend_from_slice(&piece);
        encoded.packed(&piece.into(), copied);
        (out, runs)
    }

    #[test]
    fn what_was_copied_together_is_sent_as_it_lies() {
        let encoded = Encoded::default();
        let mut objects: Vec<Bytes> = (0..20).map(|i| object(&format!("{i:0>2000}"))).collect();
        let (first, runs) = sent(&encoded, &objects);
        assert_eq!(runs, 0);
        let (again, runs) = sent(&encoded, &objects);
        assert!(again == first && runs == 1);
        // A message alone is still the same.
        let message = encoded.message(SCHEMA, &objects[3]).expect("kept");
        assert_eq!(message, Encoded::default().message(SCHEMA, &objects[3]).expect("made"));
        // What changed is copied, with what is left of a run that is short.
        objects[14] = object("changed");
        let (changed, runs) = sent(&encoded, &objects);
        assert_eq!(runs, 1);
        assert_eq!(changed, sent(&Encoded::default(), &objects).0);
        assert_eq!(sent(&encoded, &objects).0, changed);
    }

    #[test]
    fn what_is_asked_for_alone_does_not_keep_a_piece() {
        let encoded = Encoded::default();
        let objects: Vec<Bytes> = (0..20).map(|i| object(&format!("{i:0>2000}"))).collect();
        sent(&encoded, &objects);
        let is_item = |o: &Bytes| encoded.0.lock().find(o, false).is_some_and(Place::is_item);
        assert!(is_item(&objects[0]));
        {
            let mut kept = encoded.0.lock();
            kept.old = std::mem::take(&mut kept.young);
        }
        encoded.message(SCHEMA, &objects[0]).expect("kept");
        assert!(!is_item(&objects[0]) && is_item(&objects[1]));
    }
}
