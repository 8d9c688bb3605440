//! A job from its creation to its end, on a server in memory.

use super::*;
use base::clock::SystemClock;
use client::fake::FakeApi;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/n/pods";
const JOB: &str = "/apis/batch/v1/namespaces/n/jobs/j";

async fn until(what: &str, check: impl Fn() -> bool) {
    for _ in 0..1000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn end(client: &Client, pod: &Value, phase: &str) {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let patch = client::Patch::Merge(json!({"status": {"phase": phase}}));
    client.patch::<Pod>("n", name, None, patch).await.unwrap();
}

#[tokio::test]
async fn a_job_runs_to_its_end() {
    let api = Arc::new(FakeApi::new());
    let labels = json!({"a": "1"});
    let job = json!({"metadata": {"name": "j", "namespace": "n"}, "spec": {"parallelism": 2, "completions": 3,
        "backoffLimit": 6, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": []}}}});
    api.seed("/apis/batch/v1/namespaces/n/jobs", &job);
    // an orphan with the right labels is adopted
    api.seed(PODS, &json!({"metadata": {"name": "orphan", "namespace": "n", "labels": labels}, "status": {"phase": "Running"}}));
    let client = Client::new(api.clone());
    let setup = Setup::of_fake(&api, SystemClock::shared());
    let handle = start(&setup);
    let status = || api.object(JOB).unwrap()["status"].clone();
    until("two active", || status()["active"] == 2).await;
    let pods = api.objects(PODS);
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Job", "{pod}");
        assert_eq!(pod["metadata"]["finalizers"], json!([facts::FINALIZER]));
        end(&client, pod, "Succeeded").await;
    }
    until("two succeeded", || status()["succeeded"] == 2 && status()["active"] == 1).await;
    let last = api.objects(PODS).into_iter().find(|p| p["status"]["phase"].is_null()).unwrap();
    end(&client, &last, "Succeeded").await;
    until("complete", || status()["completionTime"].is_string()).await;
    assert_eq!((&status()["succeeded"], &status()["ready"]), (&json!(3), &json!(0)));
    assert!(api.objects(PODS).iter().all(|p| p["metadata"]["finalizers"] == json!([])));
    until("the event", || {
        api.objects("/api/v1/namespaces/n/events").iter().any(|e| e["reason"] == "Completed")
    })
    .await;
    setup.cancel.cancel();
    handle.stopped().await;
}
