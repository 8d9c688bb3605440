//! Tokens that a webhook knows (upstream: apiserver `plugin/pkg/authenticator/token/webhook`).
//!
//! Invariant: answers are remembered for the time given, errors never.

use super::cache::Cache;
use super::{Known, TokenSource, list};
use crate::identity::Identity;
use crate::remote::{self, Post};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// The webhook.
pub struct WebhookTokens {
    post: Arc<dyn Post>,
    /// `v1` or `v1beta1`.
    version: String,
    /// How long answers count, in seconds.
    seconds: i64,
    /// The API server's own audiences, for answers that name none.
    audiences: Vec<String>,
    cache: Cache<Option<Known>>,
}

impl WebhookTokens {
    /// `version` of the reviews sent is `v1` or `v1beta1`; `seconds` is how long answers count, 0 for not at all.
    pub fn new(post: Arc<dyn Post>, version: &str, seconds: i64, audiences: Vec<String>) -> Self {
        Self { post, version: version.to_owned(), seconds, audiences, cache: Cache::default() }
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String> {
        let asked = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview",
            "metadata": {}, "spec": {"token": token, "audiences": audiences}, "status": {"user": {}},
        });
        let answer = remote::review(&*self.post, &asked).await?;
        let status = &answer["status"];
        let told = list(&status["audiences"]);
        let good_for = if told.is_empty() { &self.audiences } else { &told };
        let matched: Vec<String> = audiences.iter().filter(|a| good_for.contains(a)).cloned().collect();
        if matched.is_empty() {
            return Ok(None);
        }
        if status["authenticated"] != true {
            return match status["error"].as_str() {
                Some(error) if !error.is_empty() => Err(error.to_owned()),
                _ => Ok(None),
            };
        }
        let identity = Arc::new(user_of(&status["user"]).authenticated());
        Ok(Some(Known { identity, audiences: matched, ..Known::default() }))
    }
}

fn user_of(user: &Value) -> Identity {
    let text = |field: &str| user[field].as_str().unwrap_or("").to_owned();
    let extra = user["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), list(v))).collect();
    Identity { name: text("username"), uid: text("uid"), groups: list(&user["groups"]), extra }
}

#[async_trait]
impl TokenSource for WebhookTokens {
    async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<Known>, String> {
        let key = Cache::<Option<Known>>::key(token.as_bytes(), audiences);
        if let Some(answer) = self.cache.get(&key, now) {
            return Ok(answer);
        }
        let answer = self.ask(token, audiences).await?;
        self.cache.put(key, answer.clone(), self.seconds, Timestamp::MAX, now);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::PostError;
    use jiff::SignedDuration;
    use parking_lot::Mutex;

    /// Gives prepared answers in order, and keeps what it was asked.
    #[derive(Default)]
    struct Fake {
        answers: Mutex<Vec<Result<Value, PostError>>>,
        asked: Mutex<Vec<Value>>,
    }

    #[async_trait]
    impl Post for Fake {
        async fn post(&self, review: &Value) -> Result<Value, PostError> {
            self.asked.lock().push(review.clone());
            let mut answers = self.answers.lock();
            let none = || Err(PostError { message: "no answer".into(), retry: false });
            if answers.is_empty() { none() } else { answers.remove(0) }
        }
    }

    fn fake(statuses: Vec<Value>) -> (Arc<Fake>, WebhookTokens) {
        let fake = Arc::new(Fake::default());
        *fake.answers.lock() = statuses
            .into_iter()
            .map(|s| {
                Ok(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": s}))
            })
            .collect();
        let webhook = WebhookTokens::new(fake.clone(), "v1", 120, vec!["api".into()]);
        (fake, webhook)
    }

    fn ask(w: &WebhookTokens, audience: &str, after: i64) -> Result<Option<Known>, String> {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(after);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(w.token("t", &[audience.to_owned()], at))
    }

    #[test]
    fn users_are_taken_over_and_remembered() {
        let user = json!({"username": "u", "uid": "1", "groups": ["g"], "extra": {"a/b": ["c"]}});
        let (fake, webhook) = fake(vec![json!({"authenticated": true, "user": user})]);
        for after in [0, 119] {
            let known = ask(&webhook, "api", after).expect("answered").expect("known");
            assert_eq!(
                (known.identity.name.as_str(), known.audiences.as_slice()),
                ("u", &["api".to_owned()][..])
            );
            assert_eq!(known.identity.groups, ["g", "system:authenticated"]);
            assert_eq!(known.identity.extra["a/b"], ["c"]);
        }
        assert_eq!(fake.asked.lock().len(), 1);
        assert_eq!(fake.asked.lock()[0]["spec"], json!({"token": "t", "audiences": ["api"]}));
        assert!(ask(&webhook, "api", 120).is_err(), "remembered too long");
    }

    #[test]
    fn refusals_are_remembered_and_errors_not() {
        let (fake, webhook) =
            fake(vec![json!({"authenticated": false, "error": "why"}), json!({"authenticated": false})]);
        assert_eq!(ask(&webhook, "api", 0), Err("why".to_owned()));
        assert_eq!(ask(&webhook, "api", 0), Ok(None));
        assert_eq!(ask(&webhook, "api", 1), Ok(None));
        assert_eq!(fake.asked.lock().len(), 2);
    }

    #[test]
    fn audiences_must_meet() {
        let yes = |audiences: Value| json!({"authenticated": true, "user": {"username": "u"}, "audiences": audiences});
        let (_, webhook) = fake(vec![yes(json!([])), yes(json!(["x"])), yes(json!(["x", "y"]))]);
        assert_eq!(ask(&webhook, "other", 0), Ok(None), "not the server's own");
        assert_eq!(ask(&webhook, "z", 0), Ok(None));
        assert_eq!(ask(&webhook, "y", 0).expect("answered").expect("known").audiences, ["y"]);
    }

    #[test]
    fn only_an_answer_of_the_same_kind_counts() {
        let (fake, webhook) = fake(vec![]);
        fake.answers.lock().push(Ok(json!({"apiVersion": "v1", "kind": "Status"})));
        assert!(ask(&webhook, "api", 0).is_err_and(|e| e.contains("\"v1\"")));
    }

    #[test]
    fn a_broken_connection_is_tried_again() {
        let (fake, webhook) = fake(vec![json!({"authenticated": false})]);
        fake.answers.lock().insert(0, Err(PostError { message: "reset".into(), retry: true }));
        assert_eq!(ask(&webhook, "api", 0), Ok(None));
        assert_eq!(fake.asked.lock().len(), 2);
    }
}
