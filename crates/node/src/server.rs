//! The kubelet's HTTPS endpoint: logs, exec, attach, port-forward, health, metrics, pods, under upstream's paths
//! (upstream: `pkg/kubelet/server/server.go`).
//!
//! Every request needs an identity and a permission: a client certificate of the cluster's CA, or a bearer token that
//! the API server knows; what it may do is what the API server says of `nodes/{proxy,log,metrics,stats}`.

pub mod access;
mod logs;
mod port_forward;
mod remote_command;
pub mod spdy;
mod websocket;

use crate::agent::NodeHandle;
use crate::pod::worker::{ContainerView, PodView};
use crate::runtime::{ExecSpec, Runtime, RuntimeError};
use access::Access;
use base::clock::SharedClock;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use remote_command::{Options, Session};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tracing::debug;

type Body = UnsyncBoxBody<Bytes, io::Error>;

const CONNECTIONS_MAX: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// SPDY sub-protocols of exec and attach, the best first.
const SPDY_PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const PORT_FORWARD: &str = "portforward.k8s.io";
const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What the endpoint is made of.
pub struct Server {
    pub node: Arc<NodeHandle>,
    pub runtime: Arc<dyn Runtime>,
    pub access: Access,
    pub clock: SharedClock,
}

/// A refusal in plain text, as kubelets refuse.
struct Refused(StatusCode, String);

impl From<RuntimeError> for Refused {
    fn from(e: RuntimeError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
    }
}

/// Serves a bound listener until cancelled.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    cancel: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await
            else {
                return;
            };
            let certificate =
                stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
            let service = service_fn(move |request: Request<Incoming>| {
                let (server, certificate) = (server.clone(), certificate.clone());
                async move { Ok::<_, std::convert::Infallible>(server.answer(request, certificate).await) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
                debug!(%error, "a kubelet connection ended");
            }
        });
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut r = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *r.status_mut() = code;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, certificate: Option<Vec<u8>>) -> Response<Body> {
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        let path = request.uri().path().to_owned();
        if path == "/healthz" {
            return text(StatusCode::OK, "ok");
        }
        let token =
            request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        if let Err((code, why)) =
            self.access.check(certificate.as_deref(), token.as_deref(), verb, &path, self.clock.now()).await
        {
            return text(StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN), why);
        }
        match self.route(request, &path).await {
            Ok(response) => response,
            Err(Refused(code, why)) => text(code, why),
        }
    }

    async fn route(&self, request: Request<Incoming>, path: &str) -> Result<Response<Body>, Refused> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            ["pods"] => Ok(self.pods()),
            ["metrics"] => Ok(text(StatusCode::OK, self.metrics())),
            ["containerLogs", ns, pod, container] => self.logs(&request, ns, pod, container),
            ["exec", ns, pod, container] | ["exec", ns, pod, _, container] => {
                self.remote(request, ns, pod, container, true).await
            }
            ["attach", ns, pod, container] | ["attach", ns, pod, _, container] => {
                self.remote(request, ns, pod, container, false).await
            }
            ["portForward", ns, pod] | ["portForward", ns, pod, _] => self.port_forward(request, ns, pod),
            _ => Err(Refused(StatusCode::NOT_FOUND, "404 page not found\n".into())),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<PodView>, Refused> {
        self.node.pod(namespace, name).ok_or_else(|| {
            Refused(StatusCode::NOT_FOUND, format!("pod \"{name}_{namespace}\" does not exist"))
        })
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<serde_json::Value> = self
            .node
            .views()
            .all()
            .iter()
            .filter_map(|v| {
                let mut pod = serde_json::to_value(&*v.pod).ok()?;
                pod["status"] = serde_json::to_value(&v.status).ok()?;
                Some(pod)
            })
            .collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let mut r = text(StatusCode::OK, list.to_string());
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        r
    }

    /// Upstream's names for what is known here.
    fn metrics(&self) -> String {
        let all = self.node.views().all();
        let containers: usize = all.iter().map(|v| v.containers().len()).sum();
        format!(
            "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
             # HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {containers}\n",
            all.iter().filter(|v| v.sandbox).count(),
        )
    }

    fn logs(
        &self,
        request: &Request<Incoming>,
        ns: &str,
        pod: &str,
        container: &str,
    ) -> Result<Response<Body>, Refused> {
        let view = self.pod(ns, pod)?;
        let query = request.uri().query().unwrap_or("");
        let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
        let options = logs::Options::parse(query, self.clock.now()).map_err(bad)?;
        let previous = form_urlencoded::parse(query.as_bytes()).any(|(k, v)| k == "previous" && v != "false");
        let found = container_of(&view, container, previous).map_err(bad)?;
        let current: PathBuf = found.log_path.clone();
        let (node, uid, id) = (self.node.clone(), view.uid.clone(), found.id.clone());
        let running = move || {
            node.views().by_uid(&uid).is_some_and(|v| v.containers().iter().any(|c| c.id == id && c.running))
        };
        let stream = logs::stream(Vec::new(), current, options, running);
        let body = StreamBody::new(stream.map(|r| r.map(Frame::data))).boxed_unsync();
        let mut r = Response::new(body);
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(r)
    }

    /// Exec and attach.
    async fn remote(
        &self,
        mut request: Request<Incoming>,
        ns: &str,
        pod: &str,
        container: &str,
        exec: bool,
    ) -> Result<Response<Body>, Refused> {
        let view = self.pod(ns, pod)?;
        let found = container_of(&view, container, false).map_err(|w| Refused(StatusCode::BAD_REQUEST, w))?;
        if !found.running {
            let why = format!("container {container} is not running");
            return Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, why));
        }
        let query = request.uri().query().unwrap_or("").to_owned();
        let flag = |a: &str, b: &str| {
            form_urlencoded::parse(query.as_bytes())
                .any(|(k, v)| (k == a || k == b) && !matches!(&*v, "0" | "false"))
        };
        let options = Options {
            stdin: flag("input", "stdin"),
            stdout: flag("output", "stdout"),
            stderr: flag("error", "stderr"),
            tty: flag("tty", "tty"),
        };
        let args: Vec<String> = form_urlencoded::parse(query.as_bytes())
            .filter(|(k, _)| k == "command")
            .map(|(_, v)| v.into_owned())
            .collect();
        let (upgrade, response) = upgrade_response(&request)?;
        let (runtime, uid, id) = (self.runtime.clone(), view.uid.clone(), found.id.clone());
        let on_upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = on_upgrade.await else { return };
            let streams = if exec {
                let spec = ExecSpec { container_id: id, args, tty: options.tty, stdin: options.stdin };
                runtime.exec(&uid, &spec).await
            } else {
                runtime.attach(&uid, &id).await
            };
            let session = streams.map(|streams| Session {
                runtime: runtime.clone(),
                pod_uid: uid,
                streams,
                wait: exec,
            });
            match upgrade {
                Upgrade::WebSocket(protocol) => {
                    remote_command::websocket(websocket::accept(upgraded).await, protocol, session, options)
                        .await;
                }
                Upgrade::Spdy(v4) => {
                    remote_command::over_spdy(spdy::serve(TokioIo::new(upgraded)), session, options, v4)
                        .await;
                }
            }
        });
        Ok(response)
    }

    fn port_forward(
        &self,
        mut request: Request<Incoming>,
        ns: &str,
        pod: &str,
    ) -> Result<Response<Body>, Refused> {
        let view = self.pod(ns, pod)?;
        if !view.sandbox {
            return Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("pod {pod} is not running")));
        }
        let dial = self.access.dialer(&view);
        let protocols = header_list(&request, "sec-websocket-protocol");
        let on_upgrade = hyper::upgrade::on(&mut request);
        if is_websocket(&request) {
            if !protocols.iter().any(|p| p == PORT_FORWARD_TUNNEL) {
                return Err(Refused(
                    StatusCode::FORBIDDEN,
                    format!("the websocket sub-protocol must be {PORT_FORWARD_TUNNEL}"),
                ));
            }
            let response = websocket_response(&request, PORT_FORWARD_TUNNEL)?;
            tokio::spawn(async move {
                if let Ok(upgraded) = on_upgrade.await {
                    let tunnel = websocket::Tunnel::new(websocket::accept(upgraded).await);
                    port_forward::serve(spdy::serve(tunnel), dial).await;
                }
            });
            return Ok(response);
        }
        let response = spdy_response(PORT_FORWARD);
        tokio::spawn(async move {
            if let Ok(upgraded) = on_upgrade.await {
                port_forward::serve(spdy::serve(TokioIo::new(upgraded)), dial).await;
            }
        });
        Ok(response)
    }
}

enum Upgrade {
    WebSocket(websocket::Protocol),
    /// Whether errors are Status objects (protocol v4).
    Spdy(bool),
}

/// The container's newest start, or the one before it.
fn container_of(view: &PodView, name: &str, previous: bool) -> Result<ContainerView, String> {
    let found = if previous { view.previous(name) } else { view.container(name) };
    found.cloned().ok_or_else(|| {
        let (ns, pod) = (&view.namespace, &view.name);
        if previous {
            format!("previous terminated container {name:?} in pod {pod:?} not found")
        } else {
            format!("container {name:?} in pod {pod:?} is waiting to start: ContainerCreating ({ns})")
        }
    })
}

fn header_list(request: &Request<Incoming>, name: &str) -> Vec<String> {
    let all = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect()
}

fn is_websocket(request: &Request<Incoming>) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Agrees on a protocol; the response that switches to it.
fn upgrade_response(request: &Request<Incoming>) -> Result<(Upgrade, Response<Body>), Refused> {
    if is_websocket(request) {
        let asked = header_list(request, "sec-websocket-protocol");
        let found = websocket::REMOTE_COMMAND.iter().find(|p| asked.iter().any(|a| a == p.name));
        let protocol = *found.ok_or_else(|| {
            Refused(StatusCode::FORBIDDEN, format!("none of the sub-protocols {asked:?} is supported"))
        })?;
        return Ok((Upgrade::WebSocket(protocol), websocket_response(request, protocol.name)?));
    }
    let spdy = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"));
    if !spdy {
        let why = "unable to upgrade: missing upgrade headers in request".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, why));
    }
    let asked = header_list(request, "x-stream-protocol-version");
    let found = SPDY_PROTOCOLS.iter().find(|p| asked.iter().any(|a| a == *p)).copied();
    let name = match (found, asked.is_empty()) {
        (Some(name), _) => name,
        (None, true) => "channel.k8s.io",
        (None, false) => {
            return Err(Refused(
                StatusCode::FORBIDDEN,
                format!("none of the protocols {asked:?} is supported"),
            ));
        }
    };
    Ok((Upgrade::Spdy(name == "v4.channel.k8s.io"), spdy_response(name)))
}

fn switching(upgrade: &'static str) -> Response<Body> {
    let mut r = text(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    r.headers_mut().remove(header::CONTENT_TYPE);
    r.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    r.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    r
}

fn spdy_response(protocol: &'static str) -> Response<Body> {
    let mut r = switching("SPDY/3.1");
    r.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    r
}

fn websocket_response(
    request: &Request<Incoming>,
    protocol: &'static str,
) -> Result<Response<Body>, Refused> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let key = key
        .ok_or_else(|| Refused(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key header is missing".into()))?;
    let mut r = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    if let Ok(value) = HeaderValue::from_str(&accept) {
        r.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    r.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(r)
}
