//! Writes into a Secret on which day its token was last used (upstream: `legacyValidator.patchSecretWithLastUsedDate`).
//!
//! Nobody waits for it: what does not fit in the queue is written down at the token's next use.

use admission::Loopback;
use auth::tokens::LAST_USED_LABEL;
use client::{ApiResource, Patch};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Uses that wait to be written down.
const WAITING_MAX: usize = 64;

struct Use {
    namespace: String,
    name: String,
    uid: String,
    day: String,
}

/// The way to the writer.
pub struct LastUsed(mpsc::Sender<Use>);

impl LastUsed {
    /// Starts the writer, which acts as the API server.
    pub fn start(loopback: Loopback, cancel: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(loopback, receiver, cancel));
        Self(sender)
    }

    pub(super) fn note(&self, namespace: &str, name: &str, uid: &str, day: String) {
        let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
        // one that is full is busy with others; this one comes again
        let _ = self.0.try_send(Use { namespace, name, uid, day });
    }
}

async fn run(loopback: Loopback, mut uses: mpsc::Receiver<Use>, cancel: CancellationToken) {
    let secrets = ApiResource::new("", "v1", "Secret", "secrets", true);
    // a token in use is often shown many times before its Secret is written
    let mut last: Option<(String, String)> = None;
    loop {
        let used = tokio::select! {
            () = cancel.cancelled() => return,
            used = uses.recv() => used,
        };
        let (Some(used), Some(client)) = (used, loopback.get()) else { return };
        let this = (used.uid.clone(), used.day.clone());
        if last.as_ref() == Some(&this) {
            continue;
        }
        let metadata = json!({"uid": used.uid, "labels": {LAST_USED_LABEL: used.day}});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match client.dynamic(&secrets).patch(&used.namespace, &used.name, "", &patch).await {
            Ok(_) => last = Some(this),
            Err(e) => {
                let (namespace, name) = (used.namespace, used.name);
                tracing::warn!(target: "apiserver", namespace, name, "use of a token not written down: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Client;
    use client::fake::FakeApi;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_day_is_written_once() {
        let api = Arc::new(FakeApi::new());
        let secret = json!({"metadata": {"namespace": "n", "name": "s", "uid": "u"}});
        api.seed("/api/v1/namespaces/n/secrets", &secret);
        let loopback = Loopback::default();
        let _ = loopback.set(Client::new(api.clone()));
        let used = LastUsed::start(loopback, CancellationToken::new());
        for _ in 0..3 {
            used.note("n", "s", "u", "2026-01-01".into());
        }
        used.note("n", "s", "u", "2026-01-02".into());
        for _ in 0..500 {
            if api.writes().len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let there = api.object("/api/v1/namespaces/n/secrets/s").expect("there");
        assert_eq!(there["metadata"]["labels"][LAST_USED_LABEL], "2026-01-02");
        assert_eq!(api.writes().len(), 2);
    }
}
