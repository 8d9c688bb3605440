//! Clients that ask for much and read nothing cost bounded memory, and the others are served.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use client::https::HttpsApi;
use client::{Client, kubeconfig};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Cluster, root};

const WATCHERS: usize = 500;
/// Streams of one connection; the server takes 250.
const WATCHERS_PER_CONNECTION: usize = 100;
const OBJECT_BYTES: usize = 900 << 10;
const WRITES: usize = 60;
/// What all of it may cost: the written versions are kept for a while, and each watcher has what one batch has.
const GROWTH_MAX_BYTES: u64 = 320 << 20;

fn object(i: usize) -> Value {
    // Each version is another text.
    let text = format!("{i:08}").repeat(OBJECT_BYTES / 8);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big", "namespace": "default"}, "data": {"text": text}})
}

#[test]
fn watchers_that_never_read_cost_bounded_memory() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.up(&[]);
    let file = cluster.data_dir().join("admin.kubeconfig");
    let cluster = &cluster;
    cluster.with(async |client| {
        let path = "/api/v1/namespaces/default/configmaps";
        client.raw(Method::POST, path, Some(&object(0))).await.expect("created");
        let mut unread = Vec::new();
        let mut others = Vec::new();
        for _ in 0..WATCHERS / WATCHERS_PER_CONNECTION {
            let config = kubeconfig::load(&file, None).expect("a kubeconfig");
            let other = Client::new(Arc::new(HttpsApi::new(&config).expect("a client")));
            for _ in 0..WATCHERS_PER_CONNECTION {
                let watch = format!("{path}?watch=true&allowWatchBookmarks=true");
                unread.push(other.stream(&watch, None).await.expect("a watch"));
            }
            others.push(other);
        }
        assert_eq!(unread.len(), WATCHERS);
        let before = cluster.resident_bytes();
        let mut most = before;
        for i in 1..=WRITES {
            let begun = Instant::now();
            client.raw(Method::PUT, &format!("{path}/big"), Some(&object(i))).await.expect("written");
            assert!(begun.elapsed() < Duration::from_secs(20), "others wait: {:?}", begun.elapsed());
            most = most.max(cluster.resident_bytes());
        }
        // Lists that nobody reads, as many as the server starts.
        let mut lists = Vec::new();
        for _ in 0..50 {
            lists.push(client.stream(path, None).await.expect("a list"));
            most = most.max(cluster.resident_bytes());
        }
        let growth = most - before;
        println!("{} MiB for {WATCHERS} watchers and {WRITES} writes", growth >> 20);
        assert!(growth < GROWTH_MAX_BYTES, "{} MiB more than before", growth >> 20);
        drop((unread, lists));
        let one = client.raw(Method::GET, &format!("{path}/big"), None).await.expect("still served");
        assert!(one["data"]["text"].as_str().is_some_and(|t| t.starts_with(&format!("{WRITES:08}"))));
    });
}
