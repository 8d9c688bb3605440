//! Service account tokens of pods, kept until they are due for renewal (upstream: `pkg/kubelet/token`).

use super::payload::TokenRequest;
use crate::pod::spec;
use crate::ports::NodeApi;
use base::clock::SharedClock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::HashMap;

/// No token is kept longer (upstream: `maxTTL`).
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// When a renewal failed and the old token is still good, it is tried again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Clone)]
struct Kept {
    token: String,
    expires: Timestamp,
    renew: Timestamp,
}

/// Tokens by pod uid and what was asked for. Bounded by the pods of the node; [`Tokens::forget`] drops a pod's.
#[derive(Debug, Default)]
pub struct Tokens {
    kept: Mutex<HashMap<(String, TokenRequest), Kept>>,
}

/// A token is renewed after 80 % of its life or a day (upstream: `requiresRefresh`).
fn renewal(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued);
    let after = (life * 4 / 5).min(LONGEST);
    issued.saturating_add(after).unwrap_or(expires)
}

impl Tokens {
    /// The token and when to ask again.
    ///
    /// # Errors
    /// Upstream's text when none could be had.
    pub async fn get(
        &self,
        api: &dyn NodeApi,
        clock: &SharedClock,
        pod: &Pod,
        request: &TokenRequest,
    ) -> Result<(String, Timestamp), String> {
        let key = (spec::uid(pod).to_owned(), request.clone());
        let now = clock.now();
        let kept = self.kept.lock().get(&key).cloned();
        if let Some(k) = &kept
            && now < k.renew
        {
            return Ok((k.token.clone(), k.renew));
        }
        match fetch(api, pod, request).await {
            Ok((token, expires)) => {
                let renew = renewal(now, expires);
                self.kept.lock().insert(key, Kept { token: token.clone(), expires, renew });
                Ok((token, renew))
            }
            Err(e) => match kept.filter(|k| now < k.expires) {
                Some(k) => Ok((k.token, now.saturating_add(RETRY).unwrap_or(now))),
                None => Err(e),
            },
        }
    }

    /// Drops the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.kept.lock().retain(|(u, _), _| u != uid);
    }
}

async fn fetch(api: &dyn NodeApi, pod: &Pod, request: &TokenRequest) -> Result<(String, Timestamp), String> {
    let account =
        spec::spec(pod).service_account_name.as_deref().filter(|a| !a.is_empty()).unwrap_or("default");
    let audiences = if request.audience.is_empty() { vec![] } else { vec![request.audience.clone()] };
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(spec::name(pod).to_owned()),
        uid: Some(spec::uid(pod).to_owned()),
    };
    let body = ApiRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(request.expiration_seconds),
            ..TokenRequestSpec::default()
        }),
        ..ApiRequest::default()
    };
    let answer = api.create_token(spec::namespace(pod), account, &body).await;
    let answer = answer.map_err(|e| format!("failed to fetch token: {e}"))?;
    let status = answer.status.ok_or("failed to fetch token: the answer has no status")?;
    let token = status.token.ok_or("failed to fetch token: the answer has no token")?;
    let expires = status.expiration_timestamp.ok_or("failed to fetch token: the answer has no expiration")?;
    Ok((token, expires.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_after_most_of_its_life() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(30 * 86400)), at(86400));
    }
}
