//! Which events are new, which repeat an earlier one, and which are too many (upstream: `record.EventCorrelator`).

use super::Note;
use base::clock::SharedClock;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Records kept per table (upstream: `maxLruCacheEntries`).
const MAX_ENTRIES: usize = 4096;
/// So many events that differ in their message only, each within the interval of the last, become one.
const AGGREGATE_EVENTS: usize = 10;
const AGGREGATE_INTERVAL: Duration = Duration::from_secs(600);
/// Events of one type about one object, and the time after which one more is allowed.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_SECONDS: f64 = 300.0;

/// What to do with an event.
pub(super) enum Outcome {
    Drop,
    Create(Note, String),
    Repeat { note: Note, key: String, name: String, count: u32 },
}

struct Bucket {
    tokens: f64,
    at: Duration,
}

struct Similar {
    messages: HashSet<String>,
    at: Duration,
}

struct Sent {
    name: String,
    count: u32,
}

/// A map that forgets its oldest entries.
struct Bounded<V> {
    map: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Bounded<V> {
    fn new() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }

    fn entry(&mut self, key: &str, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            self.order.push_back(key.to_owned());
            if self.order.len() > MAX_ENTRIES
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
        }
        self.map.entry(key.to_owned()).or_insert_with(make)
    }
}

pub(super) struct Correlator {
    clock: SharedClock,
    spam: Bounded<Bucket>,
    similar: Bounded<Similar>,
    sent: Bounded<Sent>,
}

impl Correlator {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, spam: Bounded::new(), similar: Bounded::new(), sent: Bounded::new() }
    }

    /// `again` is a second attempt for the same event, which costs nothing.
    pub(super) fn observe(&mut self, note: &Note, again: bool) -> Outcome {
        let now = self.clock.monotonic();
        let object = object_key(note);
        if !again && !self.allowed(&object, now) {
            return Outcome::Drop;
        }
        let group = format!("{object}\n{}", note.reason);
        let mut note = note.clone();
        let mut key = format!("{group}\n{}", note.message);
        let similar = self.similar.entry(&group, || Similar { messages: HashSet::new(), at: now });
        if now.saturating_sub(similar.at) > AGGREGATE_INTERVAL {
            similar.messages.clear();
        }
        similar.at = now;
        similar.messages.insert(note.message.clone());
        if similar.messages.len() >= AGGREGATE_EVENTS {
            // the set need not grow beyond its limit
            if let Some(one) = similar.messages.iter().next().cloned() {
                similar.messages.remove(&one);
            }
            note.message = format!("(combined from similar events): {}", note.message);
            key = group;
        }
        match self.sent.map.get_mut(&key) {
            Some(sent) => {
                sent.count += u32::from(!again);
                Outcome::Repeat { note, key, name: sent.name.clone(), count: sent.count }
            }
            None => Outcome::Create(note, key),
        }
    }

    /// An event object was made for a key.
    pub(super) fn created(&mut self, key: &str, name: String) {
        let sent = self.sent.entry(key, || Sent { name: String::new(), count: 0 });
        *sent = Sent { name, count: 1 };
    }

    fn allowed(&mut self, object: &str, now: Duration) -> bool {
        let bucket = self.spam.entry(object, || Bucket { tokens: SPAM_BURST, at: now });
        let earned = now.saturating_sub(bucket.at).as_secs_f64() / SPAM_REFILL_SECONDS;
        bucket.tokens = (bucket.tokens + earned).min(SPAM_BURST);
        bucket.at = now;
        let ok = bucket.tokens >= 1.0;
        if ok {
            bucket.tokens -= 1.0;
        }
        ok
    }
}

fn object_key(note: &Note) -> String {
    let o = &note.about;
    let part = |p: &Option<String>| p.clone().unwrap_or_default();
    let parts = [
        part(&o.kind),
        part(&o.namespace),
        part(&o.name),
        part(&o.uid),
        part(&o.api_version),
        part(&o.field_path),
    ];
    format!("{}\n{}", parts.join("\n"), note.kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::EventType;
    use super::*;
    use base::clock::ManualClock;
    use k8s_openapi::api::core::v1::ObjectReference;
    use std::sync::Arc;

    fn note(message: &str) -> Note {
        let about = ObjectReference { name: Some("p".into()), ..ObjectReference::default() };
        let (reason, action, at) = ("R".into(), String::new(), jiff::Timestamp::UNIX_EPOCH);
        Note { about, kind: EventType::Normal, reason, action, message: message.into(), at }
    }

    #[test]
    fn ten_similar_messages_become_one_and_spam_is_dropped() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let mut c = Correlator::new(clock.clone());
        for i in 0..9 {
            let Outcome::Create(n, key) = c.observe(&note(&format!("m{i}")), false) else { panic!("{i}") };
            assert_eq!(n.message, format!("m{i}"));
            c.created(&key, format!("e{i}"));
        }
        let Outcome::Create(n, key) = c.observe(&note("m9"), false) else { panic!("the combined one") };
        assert_eq!(n.message, "(combined from similar events): m9");
        c.created(&key, "combined".into());
        for i in 10..25 {
            let Outcome::Repeat { name, count, .. } = c.observe(&note(&format!("m{i}")), false) else {
                panic!("{i}")
            };
            assert_eq!((name.as_str(), count), ("combined", i - 8));
        }
        assert!(matches!(c.observe(&note("m25"), false), Outcome::Drop));
        clock.advance(Duration::from_secs(300));
        assert!(matches!(c.observe(&note("m26"), false), Outcome::Repeat { .. }));
    }
}
