//! One request to one server, with its answer as it came.

use crate::bench::side::Side;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often and after what time a server is asked again that says that the storage of a new resource is not ready.
const STORAGE_TRIES: usize = 50;
const STORAGE_WAIT: Duration = Duration::from_millis(200);
/// What upstream's watch cache says then, at any time after a definition was made.
const STORAGE_TEXT: &[u8] = b"storage is (re)initializing";

pub struct Ask {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// How long to wait before.
    pub after: Duration,
}

impl Ask {
    pub fn get(path: &str) -> Self {
        Self {
            method: "GET".into(),
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            after: Duration::ZERO,
        }
    }
}

pub struct Answer {
    pub code: u16,
    pub content_type: String,
    pub warnings: Vec<String>,
    pub body: Bytes,
}

impl Answer {
    /// The body, as a string when it is no JSON.
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()))
    }

    fn waits_for_storage(&self) -> bool {
        self.code == 429 && self.body.windows(STORAGE_TEXT.len()).any(|w| w == STORAGE_TEXT)
    }
}

/// A connection that is made anew when it was closed.
pub struct Connection<'a> {
    side: &'a Side,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl<'a> Connection<'a> {
    pub fn new(side: &'a Side) -> Self {
        Self { side, sender: None }
    }

    /// # Errors
    /// The server does not answer, or closes the connection.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer, String> {
        for _ in 0..STORAGE_TRIES {
            let answer = self.send_once(ask).await?;
            if !answer.waits_for_storage() {
                return Ok(answer);
            }
            tokio::time::sleep(STORAGE_WAIT).await;
        }
        self.send_once(ask).await
    }

    async fn send_once(&mut self, ask: &Ask) -> Result<Answer, String> {
        let failed = |why: String| format!("{} {}: {why}", ask.method, ask.path);
        let kept = self.sender.is_some() && ask.method == "GET";
        let mut answer = tokio::time::timeout(TIMEOUT, self.exchange(ask)).await;
        if kept && matches!(answer, Ok(Err(_))) {
            // the server closed a connection that nothing was asked on for a while
            self.sender = None;
            answer = tokio::time::timeout(TIMEOUT, self.exchange(ask)).await;
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => {
                self.sender = None;
                Err(failed(why))
            }
            Err(_) => {
                self.sender = None;
                Err(failed("no answer in time".into()))
            }
        }
    }

    async fn exchange(&mut self, ask: &Ask) -> Result<Answer, String> {
        let mut sender = match self.sender.take().filter(|s| !s.is_closed()) {
            Some(sender) => sender,
            None => open(self.side).await?,
        };
        let mut request = Request::builder().method(ask.method.as_str()).uri(&ask.path);
        request = request.header("host", "127.0.0.1");
        let named = |name: &str| ask.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !named("authorization") {
            request = request.header("authorization", format!("Bearer {}", self.side.token));
        }
        if !named("accept") {
            request = request.header("accept", "application/json");
        }
        if !ask.body.is_empty() && !named("content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in ask.headers.iter().filter(|(_, v)| !v.is_empty()) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(ask.body.clone())).map_err(|e| e.to_string())?;
        sender.ready().await.map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let text = |v: &hyper::header::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let headers = answer.headers();
        let code = answer.status().as_u16();
        let content_type = headers.get("content-type").map(text).unwrap_or_default();
        let warnings = headers.get_all("warning").iter().map(text).collect();
        let closes = headers.get("connection").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        self.sender = Some(sender).filter(|_| !closes);
        Ok(Answer { code, content_type, warnings, body })
    }
}

async fn open(side: &Side) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(side.address).await.map_err(|e| e.to_string())?;
    let name = ServerName::from(side.address.ip());
    let tls = TlsConnector::from(side.tls.clone());
    let stream = tls.connect(name, stream).await.map_err(|e| e.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}
