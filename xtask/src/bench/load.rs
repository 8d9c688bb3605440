//! The same load for every server: creates, gets, lists, watches, over kept-alive HTTP/1.1 connections with JSON.

use super::side::Side;
use super::{Amounts, Row};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECTIONS: usize = 32;
const NAMESPACE: &str = "bench";
const VALUE_BYTES: usize = 1024;
/// How long all watchers may take to see all events.
const WATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection to a server.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
}

impl Connection {
    pub async fn open(side: &Side) -> Result<Self, String> {
        let stream = TcpStream::connect(side.address).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = rustls::pki_types::ServerName::from(side.address.ip());
        let stream =
            TlsConnector::from(side.tls.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, authorization: format!("Bearer {}", side.token) })
    }

    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        self.sender.ready().await.map_err(|e| e.to_string())?;
        let answer = self.sender.send_request(request).await.map_err(|e| e.to_string())?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let text = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Err(format!("{method} {path}: {code} {}", String::from_utf8_lossy(&text)))
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes, String> {
        let answer = self.send(method, path, body).await?;
        Ok(answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes())
    }

    pub async fn get(&mut self, path: &str) -> Result<Bytes, String> {
        self.call("GET", path, Bytes::new()).await
    }
}

/// The value below which a part of the sorted values lies.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn config_map() -> Bytes {
    let value = "x".repeat(VALUE_BYTES);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"generateName":"b-"}},"data":{{"v":"{value}"}}}}"#
    )
    .into()
}

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

pub async fn all(side: &Side, n: Amounts) -> Result<Vec<Row>, String> {
    let mut c = Connection::open(side).await?;
    for namespace in [NAMESPACE, "bench-list", "bench-watch"] {
        let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{namespace}"}}}}"#);
        c.call("POST", "/api/v1/namespaces", body.into()).await?;
    }
    let named = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"v":"1"}}"#;
    c.call("POST", &path(NAMESPACE), Bytes::from_static(named.as_bytes())).await?;
    let one = format!("{}/one", path(NAMESPACE));
    let (creates, gets) = (path(NAMESPACE), one.as_str());
    let mut rows = Vec::new();
    // Once without counting: caches, connections, code.
    requests(side, "", CONNECTIONS, n.gets / 20, "GET", gets, Bytes::new()).await?;
    for connections in [1, CONNECTIONS] {
        let what = |verb: &str| {
            format!("{verb}, {connections} connection{}", if connections == 1 { "" } else { "s" })
        };
        let share = if connections == 1 { 4 } else { 1 };
        rows.push(
            requests(side, &what("create"), connections, n.creates / share, "POST", &creates, config_map())
                .await?,
        );
        rows.push(
            requests(side, &what("get"), connections, n.gets / share, "GET", gets, Bytes::new()).await?,
        );
    }
    let list = path("bench-list");
    requests(side, "", CONNECTIONS, n.listed, "POST", &list, config_map()).await?;
    let what = format!("list of {}", n.listed);
    rows.push(requests(side, &what, 4, n.lists, "GET", &list, Bytes::new()).await?);
    rows.push(watch(side, n).await?);
    Ok(rows)
}

/// Sends `total` equal requests over some connections, each as fast as answers come.
async fn requests(
    side: &Side,
    what: &str,
    connections: usize,
    total: usize,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<Row, String> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(side).await?);
    }
    let left = AtomicUsize::new(total);
    let (cpu, begun) = (side.cpu(), Instant::now());
    let work = open.into_iter().map(async |mut c| -> Result<Vec<f64>, String> {
        let mut times = Vec::with_capacity(total / connections + 1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            let at = Instant::now();
            c.call(method, path, body.clone()).await?;
            times.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    });
    let times = futures::future::try_join_all(work).await?.concat();
    let took = begun.elapsed().as_secs_f64();
    let cpu = side.cpu() - cpu;
    Ok(Row {
        what: what.to_owned(),
        per_second: Some(total as f64 / took),
        p50_ms: Some(quantile(&times, 0.5)),
        p99_ms: Some(quantile(&times, 0.99)),
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / total as f64),
    })
}

/// Watchers of one namespace, and changes in it: deliveries a second and the server's CPU time for one.
async fn watch(side: &Side, n: Amounts) -> Result<Row, String> {
    let path = path("bench-watch");
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..n.watchers {
        let mut c = Connection::open(side).await?;
        let answer = c.send("GET", &format!("{path}?watch=1"), Bytes::new()).await?;
        let mut body = answer.into_body();
        let events = n.events;
        watchers.spawn(async move {
            // The connection must outlive the stream.
            let _c = c;
            let mut seen = 0;
            while seen < events {
                let frame = body.frame().await.ok_or("a watch ended early")?.map_err(|e| e.to_string())?;
                seen += frame.data_ref().map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
            }
            Ok::<_, String>(())
        });
    }
    let (cpu, begun) = (side.cpu(), Instant::now());
    requests(side, "", CONNECTIONS, n.events, "POST", &path, config_map()).await?;
    let seen = async {
        while let Some(done) = watchers.join_next().await {
            done.map_err(|e| e.to_string())??;
        }
        Ok::<_, String>(())
    };
    tokio::time::timeout(WATCH_TIMEOUT, seen).await.map_err(|_| "watchers did not see all events")??;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), side.cpu() - cpu);
    let deliveries = (n.watchers * n.events) as f64;
    Ok(Row {
        what: format!("watch, {} events to {}", n.events, n.watchers),
        per_second: Some(deliveries / took),
        p50_ms: None,
        p99_ms: None,
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / deliveries),
    })
}
