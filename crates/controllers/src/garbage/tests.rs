//! Cases: the graph by itself, and the collector against a server in memory.

use super::*;
use base::clock::SystemClock;
use client::Client;
use client::fake::FakeApi;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn refs(owner: &str, blocks: bool) -> Value {
    json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": blocks}])
}

fn meta(name: &str, owner: Option<&str>, extra: Value) -> ObjectMeta {
    let mut v = json!({"name": name, "namespace": "n", "uid": name});
    if let Some(o) = owner {
        v["ownerReferences"] = refs(o, true);
    }
    for (k, x) in extra.as_object().into_iter().flatten() {
        v[k] = x.clone();
    }
    serde_json::from_value(v).unwrap()
}

fn delete(uids: &[&str]) -> Vec<Work> {
    uids.iter().map(|u| Work::Delete((*u).to_owned())).collect()
}

#[test]
fn unknown_owners_are_looked_into_and_gone_ones_take_their_dependents() {
    let mut g = Graph::default();
    assert_eq!(g.apply("v1", "Secret", &meta("child", Some("owner"), json!({}))), delete(&["owner"]));
    assert!(!g.view("owner").unwrap().seen);
    assert_eq!(g.apply("v1", "ConfigMap", &meta("owner", None, json!({}))), []);
    assert!(g.view("owner").unwrap().seen);
    assert_eq!(g.remove("owner"), delete(&["child"]));
    assert_eq!(g.remove("child"), []);
}

#[test]
fn a_foreground_deletion_waits_for_what_blocks_it() {
    let mut g = Graph::default();
    g.apply("v1", "ConfigMap", &meta("owner", None, json!({})));
    g.apply("v1", "Secret", &meta("child", Some("owner"), json!({})));
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]});
    assert_eq!(g.apply("v1", "ConfigMap", &meta("owner", None, leaving)), delete(&["child", "owner"]));
    assert!(g.view("owner").unwrap().dependents[0].blocks);
    assert_eq!(g.apply("v1", "Secret", &meta("child", None, json!({}))), delete(&["owner"]));
}

#[test]
fn owners_in_other_namespaces_are_looked_at() {
    let mut g = Graph::default();
    g.apply("v1", "ConfigMap", &meta("owner", None, json!({"namespace": "other"})));
    assert_eq!(g.apply("v1", "Secret", &meta("child", Some("owner"), json!({}))), delete(&["child"]));
}

async fn run(api: &Arc<FakeApi>) -> (Handle, CancellationToken, Client) {
    let verbs = json!(["delete", "list", "watch", "get", "patch"]);
    let one = |n: &str, k: &str| json!({"name": n, "kind": k, "namespaced": true, "verbs": verbs});
    api.rig(Method::GET, "/apis", json!({"groups": []}));
    let all = [one("secrets", "Secret"), one("configmaps", "ConfigMap"), one("events", "Event")];
    api.rig(Method::GET, "/api/v1", json!({"resources": all}));
    let client = Client::new(api.clone());
    let setup = Setup::of_fake(api, SystemClock::shared());
    (start(&setup), setup.cancel.clone(), client)
}

async fn until(what: &str, check: impl Fn() -> bool) {
    for _ in 0..500 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn seed(api: &FakeApi, plural: &str, name: &str, owners: Value, extra: Value) {
    let mut v = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "ownerReferences": owners}});
    for (k, x) in extra.as_object().into_iter().flatten() {
        v["metadata"][k] = x.clone();
    }
    api.seed(&format!("/api/v1/namespaces/n/{plural}"), &v);
}

#[tokio::test]
async fn dependents_follow_their_owners() {
    let api = Arc::new(FakeApi::new());
    seed(&api, "configmaps", "owner", json!([]), json!({}));
    seed(&api, "secrets", "kept", refs("owner", false), json!({}));
    seed(&api, "secrets", "strayed", refs("never-was", false), json!({}));
    let mut both = refs("owner", false).as_array().unwrap().clone();
    both.extend(refs("never-was", false).as_array().unwrap().clone());
    seed(&api, "secrets", "half", both.into(), json!({}));
    let (handle, cancel, client) = run(&api).await;
    let there = |name: &str| api.object(&format!("/api/v1/namespaces/n/secrets/{name}"));
    until("the stray goes", || there("strayed").is_none()).await;
    until("the reference to nothing goes", || {
        there("half")
            .is_some_and(|o| o["metadata"]["ownerReferences"].as_array().is_some_and(|a| a.len() == 1))
    })
    .await;
    assert!(there("kept").is_some());
    let map = client::ApiResource::new("", "v1", "ConfigMap", "configmaps", true);
    client.dynamic(&map).delete("n", "owner", &client::DeleteOptions::default()).await.unwrap();
    until("dependents go", || there("kept").is_none() && there("half").is_none()).await;
    cancel.cancel();
    handle.stopped().await;
}

#[tokio::test]
async fn foreground_and_orphan() {
    let api = Arc::new(FakeApi::new());
    let leaving = |f: &str| json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [f]});
    seed(&api, "configmaps", "front", json!([]), leaving("foregroundDeletion"));
    seed(&api, "secrets", "a", refs("front", true), json!({}));
    seed(&api, "configmaps", "back", json!([]), leaving("orphan"));
    seed(&api, "secrets", "b", refs("back", true), json!({}));
    let (handle, cancel, _) = run(&api).await;
    let there = |path: &str| api.object(&format!("/api/v1/namespaces/n/{path}"));
    until("both owners go", || there("configmaps/front").is_none() && there("configmaps/back").is_none())
        .await;
    assert!(there("secrets/a").is_none());
    assert_eq!(there("secrets/b").unwrap()["metadata"]["ownerReferences"], json!([]));
    cancel.cancel();
    handle.stopped().await;
}
