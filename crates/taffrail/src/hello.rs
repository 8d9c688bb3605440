//! The server in the built-in image: says which pod it is, answers probes, echoes, burns CPU for autoscaling demos.

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const PORT: u16 = 8080;
const ECHO_BYTES_MAX: usize = 1 << 20;
/// The longest burn that one request can ask for, in milliseconds.
const BURN_MS_MAX: u64 = 60_000;

pub fn main() -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("hello: cannot start: {e}");
            return 1;
        }
    };
    runtime.block_on(serve())
}

async fn serve() -> i32 {
    // `::` also takes IPv4; a machine without IPv6 has only the latter.
    let listener = match TcpListener::bind(("::", PORT)).await {
        Ok(listener) => listener,
        Err(_) => match TcpListener::bind(("0.0.0.0", PORT)).await {
            Ok(listener) => listener,
            Err(e) => {
                eprintln!("hello: cannot listen on port {PORT}: {e}");
                return 1;
            }
        },
    };
    println!("listening on port {PORT}");
    let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return 1;
    };
    loop {
        let stream = tokio::select! {
            _ = term.recv() => return 0,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_owned()).unwrap_or_default()
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body: Bytes = match request.uri().path() {
        "/healthz" | "/readyz" => Bytes::from_static(b"ok\n"),
        "/echo" => match Limited::new(request.into_body(), ECHO_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return status(413, "at most 1 MiB is echoed\n"),
        },
        "/burn" => {
            let asked =
                request.uri().query().and_then(|q| q.strip_prefix("ms=")).and_then(|n| n.parse().ok());
            burn(Duration::from_millis(asked.unwrap_or(100).min(BURN_MS_MAX))).await;
            Bytes::from_static(b"done\n")
        }
        "/" | "/hostname" => Bytes::from(format!("Hello from {}\n", name())),
        _ => return status(404, "try /, /healthz, /readyz, /echo or /burn?ms=100\n"),
    };
    Response::new(Full::new(body))
}

fn status(code: u16, text: &'static str) -> Response<Full<Bytes>> {
    let mut r = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *r.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    r
}

/// Uses a processor, in slices, so that probes are still answered.
async fn burn(time: Duration) {
    let end = Instant::now() + time;
    let mut x = 1u64;
    while Instant::now() < end {
        for _ in 0..100_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        std::hint::black_box(x);
        tokio::task::yield_now().await;
    }
}
