//! HTTP probes and hooks (upstream: `pkg/probe/http`): one GET per connection, certificates not checked, redirects
//! followed on the same host only.

use super::Outcome;
use super::net::{dial_error, join};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most of a body that is read, in bytes (upstream: `maxRespBodyLength`).
const BODY_MAX: usize = 10 * 1024;
/// Redirects followed (upstream: Go's http.Client).
const REDIRECTS_MAX: usize = 10;

/// A GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub user_agent: String,
}

impl Request {
    /// The URL as error texts show it.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", join(&self.host, self.port), self.path)
    }
}

/// A status and the beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    location: Option<String>,
}

/// A failed GET: whether nobody listened, and Go's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub refused: bool,
    pub text: String,
}

/// Makes the request and judges the answer.
pub async fn probe(request: &Request, timeout: Duration) -> Outcome {
    let url = request.url();
    let mut request = request.clone();
    let work = async {
        for _ in 0..=REDIRECTS_MAX {
            let answer = match exchange(&request).await {
                Ok(answer) => answer,
                Err(f) if f.refused => return Outcome::Refused(f.text),
                Err(f) => return Outcome::Failure(f.text),
            };
            let redirect = (300..400).contains(&answer.status);
            match answer.location.as_deref().filter(|_| redirect && answer.status != 304) {
                Some(to) => match follow(&request, to) {
                    Some(next) => request = next,
                    None => {
                        return Outcome::Warning(format!(
                            "Probe terminated redirects, Response body: {}",
                            answer.body
                        ));
                    }
                },
                None if (200..400).contains(&answer.status) => return Outcome::Success,
                None => {
                    return Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status));
                }
            }
        }
        Outcome::Failure(format!("Get {:?}: stopped after 10 redirects", request.url()))
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// One GET with its own time limit, for hooks.
///
/// # Errors
/// Go's text of what went wrong; any status is an answer.
pub async fn get(request: &Request, timeout: Duration) -> Result<Answer, Failure> {
    match tokio::time::timeout(timeout, exchange(request)).await {
        Ok(result) => result,
        Err(_) => Err(Failure {
            refused: false,
            text: format!("Get {:?}: context deadline exceeded", request.url()),
        }),
    }
}

/// The redirected request; `None` when it leads to another host.
fn follow(from: &Request, location: &str) -> Option<Request> {
    let mut next = from.clone();
    if let Some((scheme, rest)) = location.split_once("://") {
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = authority.rsplit('@').next().unwrap_or(authority);
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port.parse().ok()?),
            _ => (host, if scheme == "https" { 443 } else { 80 }),
        };
        if name.trim_matches(['[', ']']) != from.host {
            return None;
        }
        next.tls = scheme.eq_ignore_ascii_case("https");
        next.port = port;
        next.path = path.to_owned();
    } else if location.starts_with("//") {
        return None;
    } else if location.starts_with('/') {
        next.path = location.to_owned();
    } else {
        let base = from.path.split('?').next().unwrap_or("/");
        let dir = base.rsplit_once('/').map_or("", |(d, _)| d);
        next.path = format!("{dir}/{location}");
    }
    Some(next)
}

async fn exchange(request: &Request) -> Result<Answer, Failure> {
    let address = join(&request.host, request.port);
    let fail =
        |refused: bool, why: String| Failure { refused, text: format!("Get {:?}: {why}", request.url()) };
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|e| fail(e.kind() == std::io::ErrorKind::ConnectionRefused, dial_error(&address, &e)))?;
    if !request.tls {
        return over(stream, request).await.map_err(|e| fail(false, e));
    }
    let name = ServerName::try_from(request.host.clone()).map_err(|e| fail(false, e.to_string()))?;
    let config = TLS.clone().map_err(|e| fail(false, e))?;
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    let tls = tls.map_err(|e| match e.get_ref().map(|i| i.to_string()) {
        Some(text) if text.contains("corrupt message") => {
            fail(false, "http: server gave HTTP response to HTTPS client".into())
        }
        _ => fail(false, e.to_string()),
    })?;
    over(tls, request).await.map_err(|e| fail(false, e))
}

async fn over<S>(stream: S, request: &Request) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let path =
        if request.path.starts_with('/') { request.path.clone() } else { format!("/{}", request.path) };
    let mut builder = http::Request::get(path).header("connection", "close");
    let own = |name: &str| {
        request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    };
    if own("host").is_none() {
        builder = builder.header("host", join(&request.host, request.port));
    }
    if own("user-agent").is_none() {
        builder = builder.header("user-agent", &request.user_agent);
    }
    if own("accept").is_none() {
        builder = builder.header("accept", "*/*");
    }
    for (name, value) in &request.headers {
        if !(name.eq_ignore_ascii_case("accept") && value.is_empty()) {
            builder = builder.header(name, value);
        }
    }
    let message = builder.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = sender.send_request(message).await.map_err(|e| base::error::chain(&e))?;
    let status = response.status().as_u16();
    let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.len() < BODY_MAX {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    text.extend_from_slice(&data[..data.len().min(BODY_MAX - text.len())]);
                }
            }
            Some(Err(e)) => return Err(base::error::chain(&e)),
            None => break,
        }
    }
    drop(driver);
    Ok(Answer { status, body: String::from_utf8_lossy(&text).into_owned(), location })
}

/// Ends the connection's task with the request, so that a probe that is cut short leaves nothing behind.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Probes do not check certificates, as documented for `httpGet` with scheme HTTPS.
static TLS: LazyLock<Result<Arc<rustls::ClientConfig>, String>> =
    LazyLock::new(|| tls::to_any_server().map(Arc::new).map_err(|e| e.to_string()));

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn server(answers: Vec<&'static str>) -> (Request, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut seen = vec![];
            for answer in answers {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut buffer = [0u8; 2048];
                let n = s.read(&mut buffer).await.unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                s.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        let request = Request {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/healthz?x=1".into(),
            headers: vec![("X-A".into(), "b".into())],
            user_agent: "kube-probe/1.37".into(),
        };
        (request, task)
    }

    #[tokio::test]
    async fn judges_answers() {
        let second = Duration::from_secs(2);
        for (answer, want) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Outcome::Success),
            (
                "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n",
                Outcome::Failure("HTTP probe failed with statuscode: 503".into()),
            ),
            (
                "HTTP/1.1 302 X\r\nlocation: http://other.example/\r\ncontent-length: 2\r\n\r\nhi",
                Outcome::Warning("Probe terminated redirects, Response body: hi".into()),
            ),
        ] {
            let (request, task) = server(vec![answer]).await;
            assert_eq!(probe(&request, second).await, want);
            let head = task.await.unwrap().remove(0);
            assert!(head.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{head}");
            assert!(
                head.to_lowercase().contains("user-agent: kube-probe/1.37\r\n") && head.contains("b\r\n"),
                "{head}"
            );
        }
    }

    #[tokio::test]
    async fn follows_on_the_same_host() {
        let (request, task) = server(vec![
            "HTTP/1.1 301 X\r\nlocation: /next\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ])
        .await;
        assert_eq!(probe(&request, Duration::from_secs(2)).await, Outcome::Success);
        assert!(task.await.unwrap()[1].starts_with("GET /next "));
    }

    #[tokio::test]
    async fn nobody_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let request = Request {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/".into(),
            headers: vec![],
            user_agent: "x".into(),
        };
        let Outcome::Refused(text) = probe(&request, Duration::from_secs(1)).await else {
            panic!("not refused")
        };
        assert_eq!(
            text,
            format!(
                "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
