//! API aggregation, whole: a server of the test's own behind a Service answers a group of the cluster's API.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use base64::Engine as _;
use bytes::Bytes;
use client::https::{Config, HttpsApi, Wire};
use client::{Api as _, Client, kubeconfig};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::sync::Arc;
use support::{Cluster, root, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// Where the server is; a Service's endpoints cannot be local addresses.
const ADDRESS: &str = "10.77.0.9";
const BASE: &str = "/apis/agg.example.com/v1";
const FLUNDERS: &str = "/apis/agg.example.com/v1/namespaces/agg/flunders";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// What the server was asked.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// An API server with one resource, which asks for the front-proxy certificate.
struct Backend {
    port: u16,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Sends events to whoever watches.
    events: Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Serves whoever has a certificate of the authority that the cluster tells of.
    async fn start(client: &Client, address: &str) -> Self {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let trust = until("trust", async || client.raw(Method::GET, path, None).await.ok()).await;
        let trust = &trust["data"];
        assert_eq!(trust["requestheader-allowed-names"], "[\"front-proxy-client\"]");
        assert_eq!(trust["requestheader-uid-headers"], "[\"X-Remote-Uid\"]");
        let clients = trust["requestheader-client-ca-file"].as_str().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["api.agg.svc".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&own, &issuer).unwrap();

        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(clients.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, events) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (for_seen, for_events) = (seen.clone(), events.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen, events) = (acceptor.clone(), for_seen.clone(), for_events.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request| {
                        let (seen, events) = (seen.clone(), events.clone());
                        async move { Ok::<_, std::convert::Infallible>(answer(request, &seen, &events).await) }
                    });
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, ca_pem: ca.pem(), seen, events, serving }
    }

    fn stop(&self) {
        self.serving.abort();
    }

    fn last(&self, path: &str) -> Seen {
        self.seen.lock().iter().rev().find(|s| s.path.starts_with(path)).cloned().expect("asked")
    }
}

fn plain(code: u16, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", content_type)
        .body(Full::new(Bytes::from(body)).boxed())
        .unwrap()
}

async fn answer(
    mut request: Request<Incoming>,
    seen: &Mutex<Vec<Seen>>,
    events: &Mutex<Vec<mpsc::Sender<Bytes>>>,
) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
    seen.lock().push(Seen {
        method: parts.method.clone(),
        path: path.clone(),
        headers: parts.headers.clone(),
        body: body.clone(),
    });
    let accept = parts.headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or("");
    let verbs = ["create", "delete", "get", "list", "watch"];
    let json = |v: Value| plain(200, "application/json", v.to_string());
    match parts.uri.path() {
        "/apis" if accept.contains("apidiscovery.k8s.io") => {
            let kind = json!({"group": "agg.example.com", "version": "v1", "kind": "Flunder"});
            let resources = json!([{"resource": "flunders", "responseKind": kind, "scope": "Namespaced",
                "singularResource": "flunder", "verbs": verbs}]);
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
                {"metadata": {"name": "agg.example.com"}, "versions": [{"version": "v1", "resources": resources}]}]});
            plain(200, AGGREGATED, list.to_string())
        }
        BASE => {
            json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "agg.example.com/v1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                "verbs": verbs}]}))
        }
        "/openapi/v2" => json(json!({"swagger": "2.0",
            "paths": {(FLUNDERS.replace("/agg/", "/{namespace}/")): {"get": {"responses": {"200": {
                "schema": {"$ref": "#/definitions/com.example.Flunder"}}}}}},
            "definitions": {"com.example.Flunder": {"type": "object"}}})),
        "/openapi/v3" => json(json!({"paths": {"apis/agg.example.com/v1": {
            "serverRelativeURL": "/openapi/v3/apis/agg.example.com/v1?hash=AB"}}})),
        "/openapi/v3/apis/agg.example.com/v1" => {
            json(json!({"openapi": "3.0.0", "info": {"title": "flunders"}}))
        }
        FLUNDERS if parts.uri.query().is_some_and(|q| q.contains("watch")) => {
            let (sender, mut receiver) = mpsc::channel(4);
            events.lock().push(sender);
            let pieces = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
            let frames = futures::StreamExt::map(pieces, |b| Ok(http_body::Frame::data(b)));
            Response::builder()
                .header("content-type", "application/json")
                .body(StreamBody::new(frames).boxed())
                .unwrap()
        }
        p if p.ends_with("/redirected") => Response::builder()
            .status(302)
            .header("location", "https://example.com/")
            .body(Full::new(Bytes::new()).boxed())
            .unwrap(),
        p if p.ends_with("/echo") => {
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = io.read(&mut buffer).await {
                    io.write_all(&buffer[..n]).await.unwrap();
                }
            });
            Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "echo")
                .body(Full::new(Bytes::new()).boxed())
                .unwrap()
        }
        p if p.ends_with("/refused") => plain(403, "application/json", "{\"no\":1}".to_owned()),
        _ if parts.method == Method::POST => {
            plain(201, "application/json", String::from_utf8_lossy(&body).into_owned())
        }
        p if p.starts_with(FLUNDERS) || p == format!("{BASE}/flunders") => json(json!({
            "kind": "FlunderList", "apiVersion": "agg.example.com/v1", "metadata": {"resourceVersion": "1"}, "items": []})),
        _ => plain(404, "text/plain", "404 page not found\n".to_owned()),
    }
}

async fn get(client: &Client, path: &str) -> Value {
    client.raw(Method::GET, path, None).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

async fn post(client: &Client, path: &str, object: Value) -> Value {
    client.raw(Method::POST, path, Some(&object)).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A request with headers: code, headers and body.
async fn send(client: &Client, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.api().send(request.body(Bytes::new()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned())
}

/// Waits until the condition of the APIService has a reason.
async fn available(client: &Client, reason: &str) -> Value {
    until(reason, async || {
        let service = get(client, &format!("{SERVICES}/v1.agg.example.com")).await;
        let condition = service["status"]["conditions"][0].clone();
        (condition["reason"] == reason).then_some(condition)
    })
    .await
}

/// What the aggregated document says of the group version.
async fn listed(client: &Client) -> Option<Value> {
    let (_, _, text) = send(client, "/apis", &[("accept", AGGREGATED)]).await;
    let document: Value = serde_json::from_str(&text).unwrap();
    let groups = document["items"].as_array().unwrap();
    groups.iter().find(|g| g["metadata"]["name"] == "agg.example.com").map(|g| g["versions"][0].clone())
}

/// Makes the APIService, and a namespace for its Service, which is not there yet.
async fn register(client: &Client, backend: &Backend, port: u16) {
    post(client, "/api/v1/namespaces", json!({"metadata": {"name": "agg"}})).await;
    let bundle = base64::engine::general_purpose::STANDARD.encode(&backend.ca_pem);
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.agg.example.com"}, "spec": {
            "group": "agg.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "service": {"namespace": "agg", "name": "api", "port": port}, "caBundle": bundle}});
    post(client, SERVICES, service).await;
    let condition = available(client, "ServiceNotFound").await;
    assert_eq!(condition["message"], "service/api in \"agg\" is not present");
    // Routes follow APIServices on their own, the condition is written by a controller: either may be first.
    let (headers, text) = until("a route", async || {
        let (code, headers, text) = send(client, FLUNDERS, &[]).await;
        (code == 503).then_some((headers, text))
    })
    .await;
    assert_eq!(text, "service unavailable\n");
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
}

async fn answers(client: &Client) {
    let condition = available(client, "Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));
    // the table that requests are routed by is a watch behind
    until("routed", async || (send(client, FLUNDERS, &[]).await.0 == 200).then_some(())).await;
}

/// Whom the other server sees, and what comes back.
async fn requests_go_on(client: &Client, backend: &Backend) {
    let claims = [
        ("x-remote-user", "root"),
        ("x-remote-extra-scopes", "all"),
        ("accept", "application/vnd.unheard.of"),
        ("x-harmless", "1"),
    ];
    let (code, headers, _) = send(client, &format!("{FLUNDERS}?limit=5&a=b%20c"), &claims).await;
    assert_eq!((code, headers.get_all("audit-id").iter().count()), (200, 1));
    let seen = backend.last(&format!("{FLUNDERS}?a=b+c&limit=5"));
    let of = |name: &str| seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("x-remote-user"), ["kubernetes-admin"]);
    assert_eq!(of("x-remote-group"), ["system:masters", "system:authenticated"]);
    assert!(of("authorization").is_empty() && of("x-remote-extra-scopes").is_empty());
    assert_eq!((of("accept"), of("x-harmless")), (vec!["application/vnd.unheard.of"], vec!["1"]));
    assert_eq!(of("audit-id"), [headers["audit-id"].to_str().unwrap()]);

    let made = json!({"apiVersion": "agg.example.com/v1", "kind": "Flunder", "metadata": {"name": "one"}});
    assert_eq!(post(client, FLUNDERS, made.clone()).await, made);
    let seen = backend.last(FLUNDERS);
    assert_eq!((seen.method, serde_json::from_slice::<Value>(&seen.body).unwrap()), (Method::POST, made));

    let (code, headers, text) = send(client, &format!("{FLUNDERS}/redirected"), &[]).await;
    assert_eq!((code, headers.get("location")), (502, None));
    assert_eq!(text, "the backend attempted to redirect this request, which is not permitted");
    assert_eq!(send(client, &format!("{FLUNDERS}/a%2Fb"), &[]).await.0, 400);

    // A stream comes piece by piece.
    let mut watch = client.stream(&format!("{FLUNDERS}?watch=true"), None).await.expect("a watch");
    for n in 0..3 {
        let line = format!("{{\"type\":\"BOOKMARK\",\"n\":{n}}}\n");
        let sender = backend.events.lock().last().cloned().expect("watched");
        sender.send(Bytes::from(line.clone())).await.unwrap();
        let frame = watch.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), line.as_bytes());
    }
}

/// Another protocol is spoken after a 101, and after nothing else.
async fn upgrades(config: &Config) {
    let api = HttpsApi::new(&Config { wire: Wire::Http1Once, ..config.clone() }).unwrap();
    let ask = |path: &str| {
        let request = Request::get(format!("{FLUNDERS}/{path}"));
        request.header("connection", "Upgrade").header("upgrade", "echo").body(Bytes::new()).unwrap()
    };
    let mut answer = api.send(ask("echo")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    io.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(api.send(ask("refused")).await.unwrap().status(), 403);
    let answer = api.send(ask("one")).await.unwrap();
    assert_eq!(answer.status(), 503);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "invalid upgrade response: status code 200\n");
}

/// What is served is told together.
async fn documents(client: &Client) {
    let entry =
        until("discovery", async || listed(client).await.filter(|e| e["freshness"] == "Current")).await;
    assert_eq!(entry["resources"][0]["resource"], "flunders");
    let plain = get(client, "/apis").await;
    let groups = plain["groups"].as_array().unwrap();
    let place = |name: &str| groups.iter().position(|g| g["name"] == name).expect("listed");
    assert!(place("agg.example.com") > place("flowcontrol.apiserver.k8s.io"));
    let group = get(client, "/apis/agg.example.com").await;
    assert_eq!((&group["kind"], &group["preferredVersion"]["version"]), (&json!("APIGroup"), &json!("v1")));
    assert_eq!(get(client, BASE).await["resources"][0]["name"], "flunders");
    until("OpenAPI", async || {
        let v3 = get(client, "/openapi/v3").await;
        (v3["paths"]["apis/agg.example.com/v1"]["serverRelativeURL"].is_string()).then_some(())
    })
    .await;
    let v3 = get(client, "/openapi/v3/apis/agg.example.com/v1?hash=AB").await;
    assert_eq!(v3["info"]["title"], "flunders");
    let v2 = get(client, "/openapi/v2").await;
    assert!(v2["paths"][FLUNDERS.replace("/agg/", "/{namespace}/")].is_object());
    assert!(v2["definitions"]["com.example.Flunder"].is_object() && v2["paths"]["/api/v1/pods"].is_object());
}

/// The cluster goes on when the other server does not.
async fn goes_down(client: &Client, backend: &Backend) {
    backend.stop();
    let (code, _, text) = until("no answer", async || {
        let answer = send(client, FLUNDERS, &[]).await;
        (answer.0 != 200).then_some(answer)
    })
    .await;
    assert_eq!(code, 503, "{text}");
    post(client, "/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    // its objects are looked at again: the check need not wait for its period
    let patch = client::Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let service =
        client::ApiResource::new("apiregistration.k8s.io", "v1", "APIService", "apiservices", false);
    client.dynamic(&service).patch("", "v1.agg.example.com", "", &patch).await.unwrap();
    let condition = available(client, "FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().unwrap();
    let start = format!("failing or missing response from https://localhost:{}{BASE}: Get ", backend.port);
    assert!(message.starts_with(&start) && message.ends_with("connection refused"), "{message}");
    until("stale", async || listed(client).await.filter(|e| e["freshness"] == "Stale")).await;
    until("unavailable", async || {
        (send(client, FLUNDERS, &[]).await.2 == "service unavailable\n").then_some(())
    })
    .await;

    // What cannot be known to be empty is not deleted; everything else in it is.
    client.raw(Method::DELETE, "/api/v1/namespaces/other", None).await.unwrap();
    let message = until("told", async || {
        let ns = get(client, "/api/v1/namespaces/other").await;
        let conditions = ns["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let failed = |c: &&Value| c["type"] == "NamespaceDeletionDiscoveryFailure" && c["status"] == "True";
        conditions.iter().find(failed).map(|c| c["message"].as_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(
        message,
        "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: agg.example.com/v1: the server is currently unable to handle the request"
    );
    client.raw(Method::DELETE, &format!("{SERVICES}/v1.agg.example.com"), None).await.unwrap();
    until("gone", async || client.raw(Method::GET, "/api/v1/namespaces/other", None).await.err()).await;
    until("unlisted", async || listed(client).await.is_none().then_some(())).await;
    assert_eq!(send(client, FLUNDERS, &[]).await.0, 404);
}

/// This server's own groups have APIServices, those of definitions for as long as they are served.
async fn own_groups(client: &Client) {
    let of = async |name: &str| client.raw(Method::GET, &format!("{SERVICES}/{name}"), None).await;
    let core = until("v1.", async || of("v1.").await.ok()).await;
    let label = "kube-aggregator.kubernetes.io/automanaged";
    assert_eq!(core["metadata"]["labels"][label], "onstart");
    assert_eq!(
        (&core["spec"]["groupPriorityMinimum"], &core["spec"]["version"]),
        (&json!(18_000), &json!("v1"))
    );
    assert_eq!(core["status"]["conditions"][0]["reason"], "Local");
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.custom.example.com"}, "spec": {
            "group": "custom.example.com", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    post(client, crds, definition).await;
    let custom = until("its APIService", async || of("v1.custom.example.com").await.ok()).await;
    assert_eq!(custom["metadata"]["labels"][label], "true");
    client.raw(Method::DELETE, &format!("{crds}/foos.custom.example.com"), None).await.unwrap();
    until("no APIService", async || of("v1.custom.example.com").await.err()).await;
}

#[test]
fn a_server_behind_a_service_answers_a_group() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.link(&format!("{ADDRESS}/24"));
    cluster.up(&["--nodes", "0"]);
    let config = cluster.data_dir().join("admin.kubeconfig");
    cluster.with(async |client| {
        own_groups(&client).await;
        let backend = Backend::start(&client, "127.0.0.1").await;
        register(&client, &backend, backend.port).await;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        post(&client, "/api/v1/namespaces/agg/services", service).await;
        answers(&client).await;
        requests_go_on(&client, &backend).await;
        upgrades(&kubeconfig::load(&config, None).unwrap()).await;
        documents(&client).await;
        goes_down(&client, &backend).await;
    });
    let query = ["audit", "query", "--since", "10m", "--output", "json", "--verb", "create"];
    let out = cluster.ok(&[&query[..], &["--resource", "flunders"]].concat());
    let events: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 1, "{out}");
    let event = &events[0];
    let reference = json!({"resource": "flunders", "namespace": "agg", "apiGroup": "agg.example.com",
        "apiVersion": "v1"});
    assert_eq!((&event["objectRef"], &event["responseStatus"]["code"]), (&reference, &json!(201)));
    assert!(event.get("requestObject").is_none() && event.get("responseObject").is_none());
}

/// An authority of the operator's own, and a certificate of it for whoever speaks for users: the paths of the
/// authority's certificate, of the other and of its key.
fn front_proxy(dir: &std::path::Path) -> [String; 3] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "front-proxy-client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&own, &issuer).unwrap();
    [("proxy-ca.crt", ca.pem()), ("proxy.crt", leaf.pem()), ("proxy.key", own.serialize_pem())].map(
        |(name, pem)| {
            std::fs::write(dir.join(name), pem).unwrap();
            dir.join(name).display().to_string()
        },
    )
}

#[test]
fn endpoints_of_a_service_are_reached_without_its_address_and_shown_the_operators_certificate() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.link(&format!("{ADDRESS}/24"));
    let dir = tempfile::tempdir().unwrap();
    let [authority, certificate, key] = front_proxy(dir.path());
    let shown = ["--proxy-client-cert-file", &certificate, "--proxy-client-key-file"];
    let said = cluster.refused(&[&shown[..], &[&certificate]].concat());
    assert!(said.contains("--proxy-client-cert-file") && said.contains("key"), "{said}");
    let known =
        ["--requestheader-client-ca-file", &authority, "--requestheader-allowed-names", "front-proxy-client"];
    let routing = ["--nodes", "0", "--enable-aggregator-routing"];
    cluster.up(&[&routing[..], &shown, &[&key], &known].concat());
    cluster.with(async |client| {
        // It takes certificates of the authority that the cluster tells of, which is the operator's alone.
        let backend = Backend::start(&client, ADDRESS).await;
        register(&client, &backend, 443).await;
        let of_namespace = |path: &str, plural: &str| format!("{path}/namespaces/agg/{plural}");
        let port = |number: u16| json!([{"name": "https", "port": number, "protocol": "TCP"}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
            "spec": {"ports": port(443)}});
        post(&client, &of_namespace("/api/v1", "services"), service).await;
        let condition = available(&client, "EndpointsNotFound").await;
        assert_eq!(condition["message"], "cannot find endpointslices for service/api in \"agg\"");
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
            "endpoints": [{"addresses": [ADDRESS]}], "ports": port(backend.port)});
        post(&client, &of_namespace("/apis/discovery.k8s.io/v1", "endpointslices"), slice).await;
        answers(&client).await;
        assert_eq!(backend.last(FLUNDERS).headers["x-remote-user"], "kubernetes-admin");
    });
}
