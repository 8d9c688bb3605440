//! One call of one webhook.

use super::Caller;
use super::hook::{ClientConfig, Hook, Place};
use super::review::{self, Sent};
use crate::chain::Attributes;
use bytes::Bytes;
use client::outbound::{CallError, Server};
use meta::status::Status;
use serde_json::Value;
use std::time::Duration;

/// What came of asking.
#[derive(Debug)]
pub struct Answer {
    pub patch: Option<Value>,
}

/// Why a webhook did not agree.
#[derive(Debug)]
pub enum Failure {
    /// It could not be asked, or did not answer sensibly: its failure policy decides.
    Calling(String),
    Refused(Status),
}

pub async fn call(
    caller: &Caller,
    hook: &Hook,
    sent: &Sent<'_>,
    a: &Attributes<'_>,
    mutating: bool,
) -> Result<Answer, Failure> {
    if a.dry_run && !hook.dry_run_safe {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Refused(Status::bad_request(why)));
    }
    let Some(version) = review::version(&hook.review_versions) else {
        return Err(Failure::Calling(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .into(),
        ));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::request(version, &uid, sent, a).to_string();
    let begun = tokio::time::Instant::now();
    let posted = post(caller, &hook.client, body.into(), hook.timeout).await;
    a.notes.webhook_took(mutating, begun.elapsed());
    let (code, body) = posted.map_err(|e| Failure::Calling(format!("failed to call webhook: {e}")))?;
    if !(200..300).contains(&code) {
        return Err(Failure::Calling(format!("failed to call webhook: {}", unexpected(code, &body))));
    }
    let verdict = review::verdict(version, &uid, mutating, &body)
        .map_err(|why| Failure::Calling(format!("received invalid webhook response: {why}")))?;
    for (key, value) in &verdict.annotations {
        a.notes.annotate(&format!("{}/{key}", hook.name), value.as_str().unwrap_or(""));
    }
    verdict.warnings.iter().for_each(|w| a.notes.warn(w));
    if !verdict.allowed {
        return Err(Failure::Refused(review::refusal(&hook.name, &verdict.result)));
    }
    Ok(Answer { patch: verdict.patch })
}

/// Posts to where a `clientConfig` says.
pub async fn post(
    caller: &Caller,
    config: &ClientConfig,
    body: Bytes,
    timeout: Duration,
) -> Result<(u16, Bytes), CallError> {
    let query = format!("timeout={}s", timeout.as_secs());
    let (server, path, shown) = match &config.place {
        Place::Url(url) => {
            let shown = format!("{url}?{query}");
            let rest = url.splitn(4, '/').nth(3).unwrap_or("");
            let base = url.strip_suffix(rest).unwrap_or(url).trim_end_matches('/').to_owned();
            (
                Server { url: base, ca_pem: config.ca_pem.clone(), ..Server::default() },
                format!("/{rest}?{query}"),
                shown,
            )
        }
        Place::Service { namespace, name, path, port } => {
            let host = format!("{name}.{namespace}.svc");
            let path = format!("/{}?{query}", path.trim_start_matches('/'));
            let shown = format!("https://{host}:{port}{path}");
            let at = caller
                .resolve
                .resolve(namespace, name, *port)
                .map_err(|why| CallError::Failed { url: shown.clone(), why })?;
            let server = Server {
                url: format!("https://{host}:{port}"),
                ca_pem: config.ca_pem.clone(),
                service: Some((at, host)),
                ..Server::default()
            };
            (server, path, shown)
        }
    };
    caller.outbound.post(&server, &path, &shown, body, timeout).await
}

/// As client-go says it (upstream: `errors.NewGenericServerResponse`).
fn unexpected(code: u16, body: &Bytes) -> String {
    match code {
        404 => "the server could not find the requested resource".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 => "the server does not allow this method on the requested resource".into(),
        _ => {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim())
        }
    }
}
