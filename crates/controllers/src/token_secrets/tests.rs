//! Cases of tokens in Secrets (upstream: `tokens_controller_test.go`).

use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};
use std::time::Duration;

const SECRETS: &str = "/api/v1/namespaces/n/secrets";

fn secret(name: &str, account: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "annotations": {ACCOUNT: account, ACCOUNT_UID: uid}}, "type": TYPE})
}

#[test]
fn what_belongs_and_what_lacks() {
    let of = |v: Value| serde_json::from_value::<Secret>(v).unwrap();
    assert!(belongs(&of(secret("s", "robot", "u")), "robot", "u"));
    assert!(belongs(&of(secret("s", "robot", "")), "robot", "u"));
    assert!(!belongs(&of(secret("s", "robot", "v")), "robot", "u"));
    let mut opaque = secret("s", "robot", "u");
    opaque["type"] = json!("Opaque");
    assert!(!belongs(&of(opaque), "robot", "u"));
    let mut full = secret("s", "robot", "u");
    full["data"] = json!({"ca.crt": "Y2E=", "namespace": "bg==", "token": "dA=="});
    assert_eq!(lacks(&of(full.clone()), b"ca", true), None);
    let want = Lacks { ca: true, namespace: false, token: false };
    assert_eq!(lacks(&of(full), b"new", true), Some(want));
}

#[tokio::test]
async fn secrets_are_filled_and_go_with_their_accounts() {
    let api = Arc::new(FakeApi::new());
    let account = json!({"metadata": {"name": "robot", "namespace": "n", "uid": "u"}});
    api.seed("/api/v1/namespaces/n/serviceaccounts", &account);
    for (name, account, uid) in [("good", "robot", ""), ("other", "robot", "v"), ("orphan", "gone", "")] {
        api.seed(SECRETS, &secret(name, account, uid));
    }
    let mut setup = Setup::of_fake(&api, Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())));
    setup.config.root_ca_pem = "ca".into();
    let handle = start(&setup);
    let mut all = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        all = api.objects(SECRETS);
        if all.len() == 1 && !all[0]["data"].is_null() {
            break;
        }
    }
    setup.cancel.cancel();
    handle.stopped().await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["metadata"]["annotations"][ACCOUNT_UID], "u");
    assert_eq!(all[0]["data"], json!({"ca.crt": "Y2E=", "namespace": "bg=="}));
}
