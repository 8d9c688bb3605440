//! What clients see of the protocol: forms, compression, watches from the state on, refusals, deprecations.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use client::https::HttpsApi;
use client::{Api, Client, kubeconfig};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::io::Read as _;
use support::{Cluster, root};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// More than one page of the initial state.
const COUNT: usize = 1100;
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn get(api: &HttpsApi, uri: &str, headers: &[(&str, &str)]) -> (Response<()>, Bytes) {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, body) = api.send(request.body(Bytes::new()).unwrap()).await.expect("answered").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (Response::from_parts(head, ()), body)
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("gzip");
    out
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines.map(|l| serde_json::from_slice(l).expect("an event")).collect()
}

async fn fill(client: &Client) {
    for i in 0..COUNT {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i:04}"), "namespace": "default"},
            "data": {"text": "x".repeat(200)},
        });
        client.raw(Method::POST, MAPS, Some(&map)).await.expect("created");
    }
}

async fn forms(api: &HttpsApi) {
    let gzip = ("accept-encoding", "gzip");
    let (head, body) = get(api, MAPS, &[gzip]).await;
    assert_eq!(head.headers()["content-encoding"], "gzip");
    assert_eq!(head.headers()["vary"], "Accept-Encoding");
    let list: Value = serde_json::from_slice(&unzipped(&body)).expect("JSON");
    assert!(list["items"].as_array().is_some_and(|i| i.len() >= COUNT));
    let (head, body) = get(api, &format!("{MAPS}?limit=5"), &[gzip]).await;
    assert!(head.headers().get("content-encoding").is_none() && body.ends_with(b"}\n"));
    let (_, body) = get(api, &format!("{MAPS}/m0001"), &[("user-agent", "curl/8")]).await;
    assert!(body.starts_with(b"{\n  \""), "{body:?}");

    let partial = |what: &str| format!("application/json;as={what};v=v1;g=meta.k8s.io");
    let (head, body) =
        get(api, &format!("{MAPS}/m0001"), &[("accept", &partial("PartialObjectMetadataList"))]).await;
    assert_eq!(head.status(), StatusCode::NOT_ACCEPTABLE);
    let said: Value = serde_json::from_slice(&body).expect("a Status");
    assert_eq!(
        said["message"],
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)"
    );
    let (_, body) = get(api, &format!("{MAPS}?limit=2"), &[("accept", TABLE)]).await;
    let table: Value = serde_json::from_slice(&body).expect("a Table");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(table["metadata"]["remainingItemCount"].as_u64().is_some_and(|n| n >= COUNT as u64 - 2));
}

async fn watches(api: &HttpsApi) {
    let state =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let uri = format!("{MAPS}?{state}&timeoutSeconds=2");
    let (head, body) = get(api, &uri, &[("accept-encoding", "gzip")]).await;
    assert_eq!(head.headers()["content-encoding"], "gzip");
    let events = lines(&unzipped(&body));
    let added: Vec<&str> = events
        .iter()
        .filter(|e| e["type"] == "ADDED")
        .filter_map(|e| e["object"]["metadata"]["name"].as_str())
        .collect();
    assert!(added.len() >= COUNT && added.is_sorted());
    let marked = |e: &Value| e["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true";
    assert_eq!(events.iter().filter(|e| marked(e)).count(), 1);

    let (_, body) =
        get(api, &format!("{MAPS}?watch=true&timeoutSeconds=1&limit=1"), &[("accept", TABLE)]).await;
    let tables = lines(&body);
    assert!(tables[0]["object"]["columnDefinitions"].is_array());
    assert!(tables[1..].iter().all(|t| t["object"]["columnDefinitions"].is_null()));

    let ahead = format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion=99999999");
    let (head, body) = get(api, &ahead, &[]).await;
    assert!(head.status() == StatusCode::OK && body.is_empty());

    let (head, body) = get(api, &format!("{MAPS}?watch=true&sendInitialEvents=true"), &[]).await;
    assert_eq!(head.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        String::from_utf8_lossy(&body)
            .contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    );
}

async fn refusals(api: &HttpsApi) {
    for (uri, code, said) in [
        (
            format!("{MAPS}?timeout=5"),
            400,
            "invalid timeout specified in the request URL - time: missing unit in duration \"5\"",
        ),
        (
            format!("{MAPS}?fieldSelector=data.x%3D1"),
            400,
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "/api/v1/nodes?fieldSelector=metadata.namespace%3Dx".into(),
            400,
            "field label not supported: metadata.namespace",
        ),
    ] {
        let (head, body) = get(api, &uri, &[]).await;
        let status: Value = serde_json::from_slice(&body).expect("a Status");
        assert_eq!((head.status().as_u16(), status["message"].as_str()), (code, Some(said)), "{uri}");
    }
    let (head, _) = get(api, "/api/v1/namespaces/default/endpoints", &[]).await;
    assert_eq!(
        head.headers()["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
    let (_, metrics) = get(api, "/metrics", &[]).await;
    let metrics = String::from_utf8_lossy(&metrics);
    for line in [
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
        "apiserver_audit_error_total{plugin=\"trail\"} 0",
        "apiserver_audit_requests_rejected_total 0",
        "apiserver_audit_event_total ",
        "apiserver_audit_level_total{level=\"Metadata\"} ",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[test]
fn the_wire() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.up(&[]);
    let file = cluster.data_dir().join("admin.kubeconfig");
    cluster.with(async |client| {
        let api = HttpsApi::new(&kubeconfig::load(&file, None).expect("a kubeconfig")).expect("a client");
        fill(&client).await;
        forms(&api).await;
        watches(&api).await;
        refusals(&api).await;
    });
}
