//! Servers elsewhere that know more: webhooks and identity providers, reached through traits that the program fills in.
//!
//! Invariant: a call is tried a bounded number of times, and what it answers is read as data only.

use async_trait::async_trait;
use serde_json::Value;
use std::time::Duration;

/// Tries of one call and the pause between them, which grows (upstream: `webhook.DefaultRetryBackoffWithInitialDelay`).
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: f64 = 1.5;

/// Why a webhook gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostError {
    pub message: String,
    /// Whether another try may do better: a broken connection, 429, 500, 504 (upstream: `webhook.DefaultShouldRetry`).
    pub retry: bool,
}

/// Sends a review to a webhook and gives the answer's body.
#[async_trait]
pub trait Post: Send + Sync {
    async fn post(&self, review: &Value) -> Result<Value, PostError>;
}

/// Reads a document of an identity provider; an answer other than 200 is an error.
#[async_trait]
pub trait Fetch: Send + Sync {
    async fn get(&self, url: &str) -> Result<Vec<u8>, String>;
}

/// Asks a webhook, again when that may help. The answer must be of the kind that was sent.
pub(crate) async fn review(webhook: &dyn Post, review: &Value) -> Result<Value, String> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match webhook.post(review).await {
            Err(e) if e.retry => tokio::time::sleep(pause).await,
            other => return checked(review, other),
        }
        pause = pause.mul_f64(PAUSE_FACTOR);
    }
    checked(review, webhook.post(review).await)
}

fn checked(asked: &Value, answer: Result<Value, PostError>) -> Result<Value, String> {
    let answer = answer.map_err(|e| e.message)?;
    for field in ["apiVersion", "kind"] {
        if answer[field] != asked[field] {
            return Err(format!(
                "the webhook answered with {field} {:?} instead of {:?}",
                answer[field].as_str().unwrap_or(""),
                asked[field].as_str().unwrap_or("")
            ));
        }
    }
    Ok(answer)
}
