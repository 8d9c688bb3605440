//! Who may use the kubelet's endpoint (upstream: `pkg/kubelet/server/auth.go`): the API server decides.

use super::port_forward::Dial;
use crate::pod::worker::PodView;
use auth::authenticate::from_certificate;
use auth::identity::{Identity, SYSTEM_MASTERS};
use client::Client;
use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long an answer of the API server is good for (upstream: `webhook.cacheAuthorizedTTL`, shortened).
const CACHE: Duration = Duration::from_secs(10);
/// Answers kept.
const CACHED_MAX: usize = 1024;

pub struct Access {
    client: Client,
    node: String,
    /// Pins of the pods' network namespaces, by pod uid.
    pins: PathBuf,
    cache: Mutex<HashMap<String, (Instant, bool)>>,
}

impl Access {
    /// `client` acts as the node, which may create reviews.
    pub fn new(client: Client, node: &str, pins: impl Into<PathBuf>) -> Self {
        Self { client, node: node.to_owned(), pins: pins.into(), cache: Mutex::default() }
    }

    /// Refuses with a status code and a text.
    pub async fn check(
        &self,
        certificate: Option<&[u8]>,
        authorization: Option<&str>,
        verb: &str,
        path: &str,
        now: jiff::Timestamp,
    ) -> Result<(), (u16, String)> {
        let user = match certificate.map(|der| from_certificate(der, now)) {
            Some(Ok(Some((user, _)))) => user,
            Some(Err(_)) => return Err((401, "Unauthorized".to_owned())),
            Some(Ok(None)) | None => self.token_user(authorization).await?,
        };
        if user.in_group(SYSTEM_MASTERS) {
            return Ok(());
        }
        let sub = subresource(path);
        if self.may(&user, verb, sub).await {
            Ok(())
        } else {
            Err((
                403,
                format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource={sub})", user.name),
            ))
        }
    }

    async fn token_user(&self, authorization: Option<&str>) -> Result<Identity, (u16, String)> {
        let refused = || (401, "Unauthorized".to_owned());
        let token = authorization.and_then(|a| a.strip_prefix("Bearer ")).ok_or_else(refused)?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = self.client.raw(Method::POST, path, Some(&review)).await.map_err(|_| refused())?;
        if answer["status"]["authenticated"] != true {
            return Err(refused());
        }
        serde_json::from_value(answer["status"]["user"].clone()).map_err(|_| refused())
    }

    async fn may(&self, user: &Identity, verb: &str, sub: &str) -> bool {
        let key = format!("{}\0{:?}\0{verb}\0{sub}", user.name, user.groups);
        if let Some((at, allowed)) = self.cache.lock().get(&key).copied()
            && at.elapsed() < CACHE
        {
            return allowed;
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name, "groups": user.groups, "uid": user.uid,
                "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": sub, "name": self.node},
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        // When the API server cannot be asked, nobody may.
        let allowed = self
            .client
            .raw(Method::POST, path, Some(&review))
            .await
            .is_ok_and(|a| a["status"]["allowed"] == true);
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert(key, (Instant::now(), allowed));
        allowed
    }

    /// Connects to ports on the pod's own loopback.
    pub(super) fn dialer(&self, view: &PodView) -> Dial {
        let pin = (!view.ips.is_empty()).then(|| self.pins.join(&view.uid));
        Arc::new(move |port| {
            let pin = pin.clone();
            Box::pin(async move {
                let stream = tokio::task::spawn_blocking(move || {
                    let connect = move || {
                        std::net::TcpStream::connect(("127.0.0.1", port))
                            .or_else(|_| std::net::TcpStream::connect(("::1", port)))
                    };
                    match pin {
                        // The socket stays in the namespace in which it was made.
                        Some(pin) => {
                            sys::netns::run_in(Some(&pin), connect).map_err(std::io::Error::other)?
                        }
                        None => connect(),
                    }
                })
                .await
                .map_err(std::io::Error::other)??;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            })
        })
    }
}

/// The subresource of `nodes` that a path stands for (upstream: `NodeAuthorizerAttributesGetter`).
fn subresource(path: &str) -> &'static str {
    let under = |p: &str| path == p || path.starts_with(&format!("{p}/"));
    if under("/stats") {
        "stats"
    } else if under("/metrics") {
        "metrics"
    } else if under("/logs") {
        "log"
    } else {
        "proxy"
    }
}
