//! The record of one request while it is served: one event, sent again at each stage.

use crate::event::{
    AuthenticationMetadata, Content, Event, Level, ObjectRef, RawJson, ResponseStatus, Stage, User, compact,
    strip_managed_fields, without_managed_fields,
};
use crate::policy::RuleDecision;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::BTreeMap;

/// Marks an event that was completed after a crash from what the commit carried.
pub const RECOVERED: &str = "audit.taffrail.io/recovered";

/// What is known of a request when it arrives.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    pub audit_id: String,
    pub request_uri: String,
    pub verb: String,
    pub user: User,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub object_ref: Option<ObjectRef>,
    pub received: Timestamp,
}

/// The growing record.
#[derive(Clone, Debug)]
pub struct AuditContext {
    event: Event,
    decision: RuleDecision,
}

/// What a commit carries of its request, to complete the event after a crash.
#[derive(Deserialize)]
struct Core {
    event: Event,
}

impl AuditContext {
    pub fn begin(arrival: Arrival, decision: RuleDecision) -> Self {
        let event = Event {
            kind: "Event".into(),
            api_version: "audit.k8s.io/v1".into(),
            level: decision.level,
            audit_id: arrival.audit_id,
            stage: Stage::RequestReceived,
            request_uri: arrival.request_uri,
            verb: arrival.verb,
            user: arrival.user,
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: arrival.source_ips,
            user_agent: arrival.user_agent,
            object_ref: arrival.object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            omit_managed_fields: false,
            request_received_timestamp: arrival.received,
            stage_timestamp: arrival.received,
            annotations: BTreeMap::new(),
            settled: None,
        };
        Self { event, decision }
    }

    pub fn id(&self) -> &str {
        &self.event.audit_id
    }

    pub fn level(&self) -> Level {
        self.decision.level
    }

    pub fn wants_request(&self) -> bool {
        self.decision.level >= Level::Request
    }

    pub fn wants_response(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    /// The first value of a key stays. `false` when another one was there.
    pub fn annotate(&mut self, key: &str, value: &str) -> bool {
        if self.decision.level == Level::None {
            return true;
        }
        let kept = self.event.annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        kept == value
    }

    pub fn impersonated(&mut self, user: User, constraint: &str) {
        self.event.settled = None;
        self.event.impersonated_user = Some(user);
        let impersonation_constraint = constraint.to_owned();
        self.event.authentication_metadata = Some(AuthenticationMetadata { impersonation_constraint });
    }

    /// Fills empty fields of the reference from a request's object.
    pub fn reference_from(&mut self, obj: &Value) {
        if self.decision.level < Level::Metadata {
            return;
        }
        self.event.settled = None;
        let reference = self.event.object_ref.get_or_insert_with(ObjectRef::default);
        let fill = |slot: &mut String, field: &str| {
            if slot.is_empty() {
                meta::object::meta_str(obj, field).clone_into(slot);
            }
        };
        fill(&mut reference.namespace, "namespace");
        fill(&mut reference.name, "name");
        fill(&mut reference.uid, "uid");
        fill(&mut reference.resource_version, "resourceVersion");
    }

    /// `json` is what the client sent; what is not valid JSON is not kept.
    pub fn request_object(&mut self, json: &[u8]) {
        if self.wants_request() && serde_json::from_slice::<IgnoredAny>(json).is_ok() {
            self.event.request_object = Some(Content::Whole(compact(json).into()));
        }
    }

    /// As [`Self::request_object`], of an object that was read (upstream: `LogRequestObject`).
    pub fn request_value(&mut self, object: &Value) {
        if !self.wants_request() {
            return;
        }
        let mut json = Vec::with_capacity(1024);
        // Writing a tree into memory cannot fail.
        let _ = match self.decision.omit_managed_fields {
            true => {
                let mut object = object.clone();
                strip_managed_fields(&mut object);
                serde_json::to_writer(&mut json, &object)
            }
            false => serde_json::to_writer(&mut json, object),
        };
        self.event.request_object = Some(Content::Whole(json.into()));
    }

    pub fn response_object(&mut self, answer: Content) {
        if self.wants_response() {
            self.event.omit_managed_fields = self.decision.omit_managed_fields;
            self.event.response_object = Some(match answer {
                Content::Whole(json) if self.decision.omit_managed_fields => {
                    Content::Whole(without_managed_fields(&json).into())
                }
                other => other,
            });
        }
    }

    /// How the request was answered; `status` is a Status object, when the answer was one.
    pub fn response_status(&mut self, code: u16, status: Option<&Value>) {
        let text = |f: &str| status.and_then(|s| s[f].as_str()).unwrap_or("").to_owned();
        self.event.response_status = Some(ResponseStatus {
            metadata: BTreeMap::new(),
            status: text("status"),
            message: text("message"),
            reason: text("reason"),
            details: status
                .and_then(|s| s.get("details"))
                .and_then(|d| RawJson::new(d.to_string().as_bytes()))
                .map(Box::new),
            code,
        });
    }

    /// The event of a stage, unless the policy leaves it out.
    pub fn stage(&mut self, stage: Stage, now: Timestamp) -> Option<&Event> {
        self.event.stage = stage;
        self.event.stage_timestamp =
            if stage == Stage::RequestReceived { self.event.request_received_timestamp } else { now };
        let wanted = self.decision.level > Level::None && !self.decision.omit_stages.contains(&stage);
        wanted.then_some(&self.event)
    }

    /// What the commit of a write carries; `None` when the policy records nothing of it.
    pub fn core(&mut self) -> Option<Vec<u8>> {
        if self.decision.level == Level::None || self.decision.omit_stages.contains(&Stage::ResponseComplete)
        {
            return None;
        }
        Some(self.event.core())
    }

    pub fn event(&self) -> &Event {
        &self.event
    }
}

/// The event of a write whose server died before it could say that it was done: the write is durable, so it was.
pub fn recover(core: &[u8], now: Timestamp) -> Option<Event> {
    let Core { mut event } = serde_json::from_slice(core).ok()?;
    event.stage = Stage::ResponseComplete;
    event.stage_timestamp = now;
    let code = if event.verb == "create" { 201 } else { 200 };
    event.response_status = Some(ResponseStatus { code, ..ResponseStatus::default() });
    event.annotations.insert(RECOVERED.to_owned(), "true".to_owned());
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(level: Level, omit: Vec<Stage>) -> AuditContext {
        let arrival = Arrival { audit_id: "id".into(), verb: "create".into(), ..Arrival::default() };
        AuditContext::begin(arrival, RuleDecision { level, omit_stages: omit, ..RuleDecision::default() })
    }

    #[test]
    fn stages_and_levels() {
        let mut c = begin(Level::Metadata, vec![Stage::RequestReceived]);
        let now = Timestamp::UNIX_EPOCH;
        assert!(c.stage(Stage::RequestReceived, now).is_none());
        c.request_object(b"{}");
        assert!(c.annotate("a/b", "1") && !c.annotate("a/b", "2"));
        c.response_status(201, None);
        let line =
            String::from_utf8(c.stage(Stage::ResponseComplete, now).expect("sent").to_line()).expect("text");
        assert_eq!(
            line,
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id","stage":"ResponseComplete","requestURI":"","verb":"create","user":{},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"1970-01-01T00:00:00.000000Z","stageTimestamp":"1970-01-01T00:00:00.000000Z","annotations":{"a/b":"1"}}"#
        );
    }

    #[test]
    fn what_is_written_once_is_what_would_be_written_again() {
        let mut c = begin(Level::Metadata, Vec::new());
        c.reference_from(&serde_json::json!({"metadata": {"name": "<n>"}}));
        assert!(c.core().is_some() && c.event.settled.is_some());
        c.annotate("a/b", "1");
        let mut other = c.event.clone();
        other.settled = None;
        assert_eq!(c.event.to_line(), other.to_line());
        c.impersonated(User { username: "u".into(), ..User::default() }, "");
        let line = String::from_utf8(c.event.to_line()).expect("text");
        assert!(line.contains(r#""impersonatedUser":{"username":"u"}"#), "{line}");
        assert!(line.contains(r#""objectRef":{"name":"\u003cn\u003e"}"#), "{line}");
    }

    #[test]
    fn managed_fields_of_requests_go_where_the_policy_says_so() {
        let object = serde_json::json!({"metadata": {"managedFields": [{"manager": "m"}], "name": "n"}});
        let mut c = begin(Level::Request, Vec::new());
        c.decision.omit_managed_fields = true;
        c.request_value(&object);
        assert_eq!(c.event.request_object, Some(Content::Whole(r#"{"metadata":{"name":"n"}}"#.into())));
    }

    #[test]
    fn a_commit_can_be_completed_after_a_crash() {
        let mut c = begin(Level::Request, Vec::new());
        c.request_object(b"{\n \"a\": 1\n}\n");
        let event = recover(&c.core().expect("a core"), Timestamp::UNIX_EPOCH).expect("an event");
        assert_eq!(event.response_status.as_ref().map(|s| s.code), Some(201));
        assert_eq!(event.request_object, Some(Content::Whole(r#"{"a":1}"#.into())));
        assert_eq!(event.annotations[RECOVERED], "true");
        assert!(begin(Level::None, Vec::new()).core().is_none());
    }
}
