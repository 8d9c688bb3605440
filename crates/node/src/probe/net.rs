//! TCP and gRPC probes (upstream: `pkg/probe/tcp`, `pkg/probe/grpc`).

use super::Outcome;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest answer to a health check, in bytes: a message of a few bytes is expected.
const ANSWER_MAX: usize = 4096;

/// `host:port`, the host bracketed when it is an IPv6 address.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Go's text of a failed connection.
pub fn dial_error(address: &str, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {why}")
}

/// Whether a connection can be made.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    let address = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            Outcome::Refused(dial_error(&address, &e))
        }
        Ok(Err(e)) => Outcome::Failure(dial_error(&address, &e)),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

/// Asks `grpc.health.v1.Health/Check` in plain text.
pub async fn grpc(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(host, port);
    let whole = async {
        let stream = TcpStream::connect(&address).await;
        match stream {
            Ok(stream) => check(stream, &address, service).await,
            Err(e) => {
                let text = format!("error: failed to connect service {address:?} within {timeout:?}: {e}");
                let refused = e.kind() == std::io::ErrorKind::ConnectionRefused;
                if refused { Outcome::Refused(text) } else { Outcome::Failure(text) }
            }
        }
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Outcome::Failure(format!("timeout: failed to connect service {address:?} within {timeout:?}"))
        }
    }
}

async fn check(stream: TcpStream, address: &str, service: &str) -> Outcome {
    let fail = |e: &dyn std::fmt::Display| Outcome::Failure(format!("error: health rpc probe failed: {e}"));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = match handshake {
        Ok(parts) => parts,
        Err(e) => return fail(&e),
    };
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(message(service)));
    let outcome = match request {
        Ok(request) => match sender.send_request(request).await {
            Ok(response) => verdict(response).await,
            Err(e) => fail(&e),
        },
        Err(e) => fail(&e),
    };
    driver.abort();
    outcome
}

/// A length-prefixed HealthCheckRequest.
fn message(service: &str) -> Bytes {
    let mut proto = Vec::new();
    if !service.is_empty() {
        let cut = &service.as_bytes()[..service.len().min(127)];
        proto.push(0x0a);
        proto.push(cut.len() as u8);
        proto.extend_from_slice(cut);
    }
    let mut out = vec![0u8, 0, 0, 0, proto.len() as u8];
    out.extend(proto);
    out.into()
}

async fn verdict(response: http::Response<hyper::body::Incoming>) -> Outcome {
    let code = |h: &http::HeaderMap| h.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut status = code(response.headers());
    let mut body = response.into_body();
    let mut data = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(trailers) = frame.trailers_ref() {
            status = code(trailers).or(status);
        } else if let Some(chunk) = frame.data_ref()
            && data.len() + chunk.len() <= ANSWER_MAX
        {
            data.extend_from_slice(chunk);
        }
    }
    match status.as_deref() {
        Some("0") | None => {}
        Some("12") => {
            return Outcome::Failure(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unimplemented".into(),
            );
        }
        Some(other) => return Outcome::Failure(format!("error: health rpc probe failed with code {other}")),
    }
    match serving(&data) {
        1 => Outcome::Success,
        0 => Outcome::Failure("service unhealthy (responded with \"UNKNOWN\")".into()),
        2 => Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into()),
        _ => Outcome::Failure("service unhealthy (responded with \"SERVICE_UNKNOWN\")".into()),
    }
}

/// Field 1 of the HealthCheckResponse behind the five bytes of the frame.
fn serving(data: &[u8]) -> u8 {
    match data.get(5..) {
        Some([0x08, value, ..]) => *value,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tcp_results() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Success);
        drop(listener);
        let want = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Refused(want));
    }

    #[test]
    fn grpc_messages() {
        assert_eq!(message("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), 1);
        assert_eq!(serving(&[0, 0, 0, 0, 0]), 0);
    }
}
