//! Event objects: what components tell people, without flooding the server.
//!
//! Recording never waits and never fails: events beyond the bounds are dropped and counted.

mod correlate;

use crate::kind::Kind;
use crate::typed::{Client, Patch};
use base::clock::SharedClock;
use correlate::{Correlator, Outcome};
use jiff::Timestamp;
use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use k8s_openapi::api::events::v1::Event as NewEvent;
use meta::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait to be sent (upstream: `record.maxQueuedEvents`).
const QUEUE: usize = 1000;
/// Attempts to send one event, and the wait between (upstream: `record.maxTriesPerEvent`, `defaultSleepDuration`).
const TRIES: u32 = 12;
const RETRY_WAIT: Duration = Duration::from_secs(10);
/// Longest note of an events.k8s.io event, in bytes (upstream: validation's `NoteLengthLimit`).
const MAX_NOTE: usize = 1024;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Which API the events are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// core/v1, with count: upstream's controllers and kubelet.
    Core,
    /// events.k8s.io/v1, with series: upstream's scheduler.
    Events,
}

/// One thing to tell.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    action: String,
    message: String,
    at: Timestamp,
}

/// Records events as one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Note>,
    clock: SharedClock,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the sender. `component` and `host` are upstream's event source (`kubelet` and the node's name); the
    /// reporting instance of [`Flavor::Events`] is `component-host`.
    pub fn new(client: Client, component: &str, host: &str, flavor: Flavor, clock: SharedClock) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let sink = Sink { client, component: component.to_owned(), host: host.to_owned(), flavor };
        tokio::spawn(sink.run(receiver, Correlator::new(clock.clone())));
        Self { sender, clock, dropped: Arc::default() }
    }

    /// Tells something about an object.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.action(about, kind, reason, "", message);
    }

    /// As [`Self::event`], with what was done or tried (only kept by [`Flavor::Events`]).
    pub fn action(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let note = Note {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: message.into(),
            at: self.clock.now(),
        };
        if self.sender.try_send(note).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Events dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// A reference to an object, as events carry it (upstream: `reference.GetReference`).
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let some = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
    ObjectReference {
        api_version: some(K::API_VERSION),
        kind: some(K::KIND),
        name: some(object.name()),
        namespace: some(object.namespace()),
        uid: some(object.uid()),
        resource_version: some(object.resource_version()),
        field_path: None,
    }
}

struct Sink {
    client: Client,
    component: String,
    host: String,
    flavor: Flavor,
}

impl Sink {
    async fn run(self, mut receiver: mpsc::Receiver<Note>, mut correlator: Correlator) {
        while let Some(note) = receiver.recv().await {
            for attempt in 1.. {
                let outcome = correlator.observe(&note, attempt > 1);
                match self.send(&outcome, &mut correlator).await {
                    Ok(()) => break,
                    // only when nobody answered may it help to try again (upstream: `recordEvent`)
                    Err(e) if e.code == 503 && attempt < TRIES => {
                        tracing::debug!(reason = %note.reason, "event not sent, trying again: {e}");
                        tokio::time::sleep(RETRY_WAIT).await;
                    }
                    Err(e) => {
                        let gone = e.code == 404 || e.message.contains("is being terminated");
                        if !gone {
                            tracing::warn!(reason = %note.reason, "event not recorded: {e}");
                        }
                        break;
                    }
                }
            }
        }
    }

    async fn send(&self, outcome: &Outcome, correlator: &mut Correlator) -> Result<(), Status> {
        match outcome {
            Outcome::Drop => Ok(()),
            Outcome::Create(note, key) => self.create(note, key, correlator).await,
            Outcome::Repeat { note, key, name, count } => match self.repeat(note, name, *count).await {
                // the first one has expired
                Err(e) if e.is_not_found() => self.create(note, key, correlator).await,
                other => other,
            },
        }
    }

    async fn create(&self, note: &Note, key: &str, correlator: &mut Correlator) -> Result<(), Status> {
        let name = event_name(note.about.name.as_deref().unwrap_or(""), note.at);
        let created = match self.flavor {
            Flavor::Core => {
                self.client.raw(http::Method::POST, &self.path(note, ""), Some(&self.core(note, &name))).await
            }
            Flavor::Events => {
                self.client
                    .raw(http::Method::POST, &self.path(note, ""), Some(&self.new_style(note, &name)))
                    .await
            }
        };
        created?;
        correlator.created(key, name);
        Ok(())
    }

    async fn repeat(&self, note: &Note, name: &str, count: u32) -> Result<(), Status> {
        let patch = match self.flavor {
            Flavor::Core => {
                json!({"count": count, "lastTimestamp": meta::time::rfc3339(note.at), "message": note.message})
            }
            Flavor::Events => {
                json!({"series": {"count": count, "lastObservedTime": meta::time::rfc3339_micro(note.at)}})
            }
        };
        self.client.patch_at::<Value>(&self.path(note, name), &Patch::Strategic(patch)).await.map(drop)
    }

    fn path(&self, note: &Note, name: &str) -> String {
        match self.flavor {
            Flavor::Core => crate::kind::path_of::<CoreEvent>(namespace(note), name, ""),
            Flavor::Events => crate::kind::path_of::<NewEvent>(namespace(note), name, ""),
        }
    }

    fn core(&self, note: &Note, name: &str) -> Value {
        let at = meta::time::rfc3339(note.at);
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source["host"] = self.host.as_str().into();
        }
        json!({
            "apiVersion": CoreEvent::API_VERSION, "kind": CoreEvent::KIND,
            "metadata": {"name": name, "namespace": namespace(note)},
            "involvedObject": note.about, "reason": note.reason, "message": note.message,
            "source": source, "firstTimestamp": at, "lastTimestamp": at, "count": 1,
            "type": note.kind.as_str(), "eventTime": null,
            "reportingComponent": self.component, "reportingInstance": self.host,
        })
    }

    /// Upstream: `component-host`; the component alone where no host is known.
    fn instance(&self) -> String {
        if self.host.is_empty() {
            self.component.clone()
        } else {
            format!("{}-{}", self.component, self.host)
        }
    }

    fn new_style(&self, note: &Note, name: &str) -> Value {
        let mut text = note.message.clone();
        if text.len() > MAX_NOTE {
            let cut = (0..=MAX_NOTE - 3).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(cut);
            text.push_str("...");
        }
        json!({
            "apiVersion": NewEvent::API_VERSION, "kind": NewEvent::KIND,
            "metadata": {"name": name, "namespace": namespace(note)},
            "eventTime": meta::time::rfc3339_micro(note.at),
            "reportingController": self.component, "reportingInstance": self.instance(),
            "action": note.action, "reason": note.reason, "regarding": note.about, "note": text,
            "type": note.kind.as_str(),
        })
    }
}

/// Events about cluster-scoped objects are in `default`.
fn namespace(note: &Note) -> &str {
    note.about.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default")
}

/// Upstream: `util.GenerateEventName`: the object's name, when it can be part of a name, and the time in hex.
fn event_name(object: &str, at: Timestamp) -> String {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let usable = !object.is_empty() && object.bytes().all(ok) && !object.contains("..");
    let first = if usable { object } else { "event" };
    format!("{}.{:x}", first.get(..first.len().min(236)).unwrap_or("event"), at.as_nanosecond() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeApi;
    use base::clock::ManualClock;

    fn about() -> ObjectReference {
        let s = |t: &str| Some(t.to_owned());
        ObjectReference {
            kind: s("Pod"),
            name: s("p"),
            namespace: s("n"),
            uid: s("u"),
            ..ObjectReference::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_count_up_in_one_object() {
        let api = Arc::new(FakeApi::new());
        let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let recorder =
            Recorder::new(Client::new(api.clone()), "kubelet", "node-1", Flavor::Core, clock.clone());
        for _ in 0..3 {
            recorder.event(&about(), EventType::Warning, "BackOff", "again");
            clock.advance(Duration::from_secs(1));
        }
        recorder.event(&about(), EventType::Normal, "Started", "it runs");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = api.objects("/api/v1/namespaces/n/events");
        assert_eq!(events.len(), 2);
        let backoff = events.iter().find(|e| e["reason"] == "BackOff").unwrap();
        assert_eq!(
            (&backoff["count"], &backoff["lastTimestamp"]),
            (&json!(3), &json!("2026-01-01T00:00:02Z"))
        );
        assert_eq!(backoff["source"], json!({"component": "kubelet", "host": "node-1"}));
    }

    #[test]
    fn names() {
        let at = Timestamp::from_nanosecond(255).unwrap();
        assert_eq!(event_name("pod-1", at), "pod-1.ff");
        assert_eq!(event_name("system:node", at), "event.ff");
    }
}
