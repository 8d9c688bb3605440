//! Permissions that a webhook decides (upstream: apiserver `plugin/pkg/authorizer/webhook/webhook.go`).
//!
//! Invariant: an answer counts for exactly the question that was asked, all of it; errors are not remembered.

use super::{Attributes, Decision};
use crate::authenticate::cache::{Cache, Key};
use crate::remote::{self, Post};
use base::clock::SharedClock;
use jiff::Timestamp;
use meta::selector::Operator;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Bytes of what the requester chose above which answers are not remembered (upstream: `maxControlledAttrCacheSize`).
const CONTROLLED_BYTES_MAX: usize = 10_000;

/// The webhook.
pub struct Webhook {
    post: Arc<dyn Post>,
    /// `v1` or `v1beta1`.
    version: String,
    /// How long answers count, in seconds.
    allowed_seconds: i64,
    denied_seconds: i64,
    clock: SharedClock,
    cache: Cache<Decision>,
}

/// A question in the webhook's words.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub key: Key,
    spec: Value,
    remember: bool,
}

/// What came of it: the error goes beside the decision.
pub(super) type Answer = (Decision, Option<String>);

impl Webhook {
    /// `version` of the reviews sent is `v1` or `v1beta1`; the seconds say how long answers count, 0 is not at all.
    pub fn new(
        post: Arc<dyn Post>,
        version: &str,
        allowed_seconds: i64,
        denied_seconds: i64,
        clock: SharedClock,
    ) -> Self {
        let cache = Cache::default();
        Self { post, version: version.to_owned(), allowed_seconds, denied_seconds, clock, cache }
    }

    pub(super) fn known(&self, question: &Question) -> Option<Decision> {
        self.cache.get(&question.key, self.clock.now())
    }

    pub(super) async fn ask(&self, question: &Question) -> Answer {
        let mut spec = question.spec.clone();
        // upstream: v1beta1 calls the groups `group`.
        if self.version == "v1beta1"
            && let Some(groups) = spec.as_object_mut().and_then(|s| s.remove("groups"))
        {
            spec["group"] = groups;
        }
        let asked = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.version), "kind": "SubjectAccessReview",
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let status = match remote::review(&*self.post, &asked).await {
            Ok(answer) => answer["status"].clone(),
            // Others may still allow it.
            Err(error) => return (Decision::no_opinion(""), Some(error)),
        };
        let reason = status["reason"].as_str().unwrap_or("").to_owned();
        let (allowed, denied) = (status["allowed"] == true, status["denied"] == true);
        let both = "webhook subject access review returned both allow and deny response";
        let error = (allowed && denied).then(|| both.to_owned());
        let decision = match (allowed, denied) {
            (_, true) => Decision::Deny { reason },
            (true, false) => Decision::Allow { reason },
            (false, false) => Decision::NoOpinion { reason },
        };
        if question.remember && error.is_none() {
            let seconds = if allowed { self.allowed_seconds } else { self.denied_seconds };
            self.cache.put(question.key, decision.clone(), seconds, Timestamp::MAX, self.clock.now());
        }
        (decision, error)
    }
}

impl Question {
    pub(super) fn of(a: &Attributes<'_>) -> Self {
        let mut spec = Map::new();
        let mut put = |name: &str, value: Value, empty: bool| {
            if !empty {
                spec.insert(name.to_owned(), value);
            }
        };
        let user = a.user;
        put("user", json!(user.name), user.name.is_empty());
        put("uid", json!(user.uid), user.uid.is_empty());
        put("groups", json!(user.groups), user.groups.is_empty());
        put("extra", json!(user.extra), user.extra.is_empty());
        match a.is_resource {
            true => put("resourceAttributes", resource(a), false),
            false => put("nonResourceAttributes", json!({"path": a.path, "verb": a.verb}), false),
        }
        let spec = Value::Object(spec);
        let controlled = [
            &a.namespace,
            &a.verb,
            &a.api_group,
            &a.api_version,
            &a.resource,
            &a.subresource,
            &a.name,
            &a.path,
        ];
        let controlled: usize = controlled.iter().map(|t| t.len()).sum();
        let key = Cache::<Decision>::key(spec.to_string().as_bytes(), &[]);
        Self { key, spec, remember: controlled < CONTROLLED_BYTES_MAX }
    }
}

fn resource(a: &Attributes<'_>) -> Value {
    let mut out = Map::new();
    for (name, text) in [
        ("namespace", &a.namespace),
        ("verb", &a.verb),
        ("group", &a.api_group),
        ("version", &a.api_version),
        ("resource", &a.resource),
        ("subresource", &a.subresource),
        ("name", &a.name),
    ] {
        if !text.is_empty() {
            out.insert(name.to_owned(), json!(text));
        }
    }
    let terms = a.field_selector.iter().flat_map(|s| s.terms());
    let fields: Vec<Value> = terms
        .map(|(field, equal, value)| {
            json!({"key": field, "operator": if equal { "In" } else { "NotIn" }, "values": [value]})
        })
        .collect();
    if !fields.is_empty() {
        out.insert("fieldSelector".to_owned(), json!({"requirements": fields}));
    }
    let labels: Vec<Value> = a
        .label_selector
        .iter()
        .flat_map(|s| s.requirements())
        .filter_map(|r| {
            let operator = match r.operator {
                Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
                Operator::NotIn | Operator::NotEquals => "NotIn",
                Operator::Exists => "Exists",
                Operator::DoesNotExist => "DoesNotExist",
                // Leaving a condition out asks for more, which is safe.
                Operator::GreaterThan | Operator::LessThan => return None,
            };
            let mut out = json!({"key": r.key, "operator": operator});
            if !r.values.is_empty() {
                out["values"] = json!(r.values);
            }
            Some(out)
        })
        .collect();
    if !labels.is_empty() {
        out.insert("labelSelector".to_owned(), json!({"requirements": labels}));
    }
    Value::Object(out)
}
