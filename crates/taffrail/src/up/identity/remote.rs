//! How webhooks and identity providers are reached: over TLS, with bounded answers and times.

use super::text;
use async_trait::async_trait;
use auth::remote::{Fetch, Post, PostError};
use bytes::Bytes;
use client::Api;
use client::https::{Config, HttpsApi};
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long one request may take (upstream: `webhook.defaultRequestTimeout`, `oidc.go#New`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Servers of one provider that connections are kept to; they are few: its documents name them.
const SERVERS_MAX: usize = 16;
/// A webhook: the server's URL of a kubeconfig is the whole address.
pub struct Hook {
    api: HttpsApi,
    path: String,
}

impl Hook {
    /// Reads the kubeconfig; nothing is sent yet.
    pub fn open(file: &Path) -> Result<Self, String> {
        let mut config = client::kubeconfig::load(file, None).map_err(text)?;
        let path = split(&mut config.server);
        Ok(Self { api: HttpsApi::new(&config).map_err(text)?, path })
    }
}

/// Takes the path off a URL.
fn split(url: &mut String) -> String {
    let host_end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    match url.split_off(host_end) {
        path if path.is_empty() => "/".to_owned(),
        path => path,
    }
}

#[async_trait]
impl Post for Hook {
    async fn post(&self, review: &Value) -> Result<Value, PostError> {
        let failed = |retry: bool| move |message: String| PostError { message, retry };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Bytes::from(review.to_string()))
            .map_err(|e| failed(false)(e.to_string()))?;
        let (code, body) = exchange(&self.api, request).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&code) {
            return Ok(value);
        }
        let told = value["message"].as_str().map(str::to_owned);
        let message = told.unwrap_or_else(|| format!("the webhook answered with status {code}"));
        Err(PostError { message, retry: matches!(code, 429 | 500 | 504) })
    }
}

/// Sends a request and reads all of the answer.
async fn exchange(api: &HttpsApi, request: Request<Bytes>) -> Result<(u16, Bytes), PostError> {
    let whole = async {
        let response = api.send(request).await.map_err(|e| {
            let connect =
                e.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect());
            PostError { message: base::error::chain(&*e), retry: !connect }
        })?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| PostError { message: base::error::chain(&*e), retry: true })?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |d| &d[..]));
            if bytes.len() > ANSWER_BYTES_MAX {
                let message = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(PostError { message, retry: false });
            }
        }
        Ok((code, Bytes::from(bytes)))
    };
    let late = |_| PostError { message: format!("no answer in {} s", TIMEOUT.as_secs()), retry: false };
    tokio::time::timeout(TIMEOUT, whole).await.map_err(late)?
}

/// The documents of an identity provider, which may lie on several servers.
pub struct Documents {
    ca_pem: Vec<u8>,
    servers: Mutex<HashMap<String, Arc<HttpsApi>>>,
}

impl Documents {
    /// With the authority that vouches for the servers, the system's without.
    pub fn new(ca_pem: Option<&str>) -> Result<Self, String> {
        let ca_pem = match ca_pem {
            Some(pem) => pem.as_bytes().to_vec(),
            None => system_authorities()?,
        };
        Ok(Self { ca_pem, servers: Mutex::default() })
    }

    async fn server(&self, address: String) -> Result<Arc<HttpsApi>, String> {
        let mut servers = self.servers.lock().await;
        if let Some(api) = servers.get(&address) {
            return Ok(api.clone());
        }
        let config = Config { server: address.clone(), ca_pem: self.ca_pem.clone(), ..Config::default() };
        let api = Arc::new(HttpsApi::new(&config).map_err(text)?);
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(address, api.clone());
        Ok(api)
    }
}

#[async_trait]
impl Fetch for Documents {
    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        if !url.starts_with("https://") {
            return Err(format!("Get {url:?}: only https is asked"));
        }
        let mut address = url.to_owned();
        let path = split(&mut address);
        let api = self.server(address).await?;
        let request = Request::builder().uri(&path).header(header::ACCEPT, "application/json");
        let request = request.body(Bytes::new()).map_err(|e| format!("Get {url:?}: {e}"))?;
        let (code, body) =
            exchange(&api, request).await.map_err(|e| format!("Get {url:?}: {}", e.message))?;
        if code == 200 { Ok(body.to_vec()) } else { Err(format!("Get {url:?}: status {code}")) }
    }
}

/// The system's certificates of public authorities.
fn system_authorities() -> Result<Vec<u8>, String> {
    client::https::system_authorities().ok_or_else(|| {
        "the system has no certificates of public authorities; name some: --oidc-ca-file, or certificateAuthority \
         of the issuer"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that gives prepared answers, one a connection, and the first lines of what it was sent.
    async fn server(answers: Vec<(u16, Value)>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let run = async move {
            let mut seen = Vec::new();
            for (code, body) in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut bytes = vec![0; 8192];
                let n = stream.read(&mut bytes).await.expect("a request");
                let text = String::from_utf8_lossy(&bytes[..n]);
                seen.push(text.lines().next().unwrap_or("").to_owned());
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {code} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.expect("answered");
            }
            seen
        };
        (port, tokio::spawn(run))
    }

    fn hook(port: u16) -> Hook {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": format!("http://127.0.0.1:{port}/hook?x=y")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        std::fs::write(&file, config.to_string()).expect("written");
        Hook::open(&file).expect("a webhook")
    }

    #[tokio::test]
    async fn webhooks_are_posted_to_at_their_whole_address() {
        let down = json!({"kind": "Status", "message": "overloaded"});
        let (port, seen) = server(vec![(200, json!({"a": 1})), (429, down), (403, json!("x"))]).await;
        let hook = hook(port);
        assert_eq!(hook.post(&json!({})).await, Ok(json!({"a": 1})));
        assert_eq!(hook.post(&json!({})).await, Err(PostError { message: "overloaded".into(), retry: true }));
        let refused = PostError { message: "the webhook answered with status 403".into(), retry: false };
        assert_eq!(hook.post(&json!({})).await, Err(refused));
        assert_eq!(seen.await.expect("served"), ["POST /hook?x=y HTTP/1.1"; 3]);
        assert!(hook.post(&json!({})).await.is_err_and(|e| !e.retry), "nobody listens");
    }

    #[tokio::test]
    async fn documents_are_read_over_tls_only() {
        let documents = Documents { ca_pem: Vec::new(), servers: Mutex::default() };
        let why = documents.get("http://127.0.0.1/x").await.expect_err("refused");
        assert!(why.contains("only https"), "{why}");
    }
}
