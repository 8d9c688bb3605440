//! Cases of [`super`].

use super::*;
use base::clock::SystemClock;
use client::fake::FakeApi;
use serde_json::{Value, json};

struct Bench {
    api: Arc<FakeApi>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        let api = Arc::new(FakeApi::new());
        let client = Client::new(api.clone());
        let clock = SystemClock::shared();
        let informers = Informers::new(client.clone(), clock.clone());
        let cancel = CancellationToken::new();
        let task = start(client, informers, clock, Arc::new(Rng::seeded(1)), cancel.clone());
        Self { api, cancel, task }
    }

    fn node(&self, name: &str) {
        let allocatable = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
        self.api.seed(
            "/api/v1/nodes",
            &json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}}),
        );
    }

    fn pod(&self, name: &str, cpu: &str) {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let meta = json!({"name": name, "namespace": "n"});
        let pod = json!({"metadata": meta, "spec": {"schedulerName": NAME, "containers": [container]}});
        self.api.seed("/api/v1/namespaces/n/pods", &pod);
    }

    fn at(&self, name: &str) -> Value {
        self.api.object(&format!("/api/v1/namespaces/n/pods/{name}")).unwrap_or_default()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never came: {what}; events: {:?}", self.events());
    }

    fn events(&self) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let all = self.api.objects("/api/v1/namespaces/n/events");
        all.iter().map(|e| (text(&e["reason"]), text(&e["message"]))).collect()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_pod_waits_for_room_and_says_so() {
    let b = Bench::start();
    b.pod("early", "600m");
    let refused = |b: &Bench| b.at("early")["status"]["conditions"][0]["reason"] == "Unschedulable";
    b.until("the condition", refused).await;
    assert_eq!(b.at("early")["status"]["conditions"][0]["message"], "no nodes available to schedule pods");
    b.node("node-1");
    b.until("the binding", |b| b.at("early")["spec"]["nodeName"] == "node-1").await;
    let event = ("Scheduled".to_owned(), "Successfully assigned n/early to node-1".to_owned());
    b.until("the event", |b| b.events().contains(&event)).await;

    b.pod("late", "600m");
    let full = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                1 No preemption victims found for incoming pod.";
    let event = ("FailedScheduling".to_owned(), full.to_owned());
    b.until("the refusal", |b| b.events().contains(&event)).await;
    let client = Client::new(b.api.clone());
    client.delete::<Pod>("n", "early", &Default::default()).await.unwrap();
    b.until("the second binding", |b| b.at("late")["spec"]["nodeName"] == "node-1").await;
    b.stop().await;
}

#[tokio::test]
async fn a_refused_binding_is_tried_again() {
    let b = Bench::start();
    b.node("node-1");
    let answer = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "not now", "reason": "InternalError"});
    b.api.rig(http::Method::POST, "/api/v1/namespaces/n/pods/a/binding", answer);
    b.pod("a", "1");
    let reason = |b: &Bench| b.at("a")["status"]["conditions"][0]["reason"] == "SchedulerError";
    b.until("the condition", reason).await;
    // the room promised to it was given back, or it would not fit now
    b.until("the binding", |b| b.at("a")["spec"]["nodeName"] == "node-1").await;
    b.stop().await;
}

#[tokio::test]
async fn pods_of_others_and_leaving_pods_are_left_alone() {
    let b = Bench::start();
    b.node("node-1");
    let pods = "/api/v1/namespaces/n/pods";
    let other = json!({"metadata": {"name": "other", "namespace": "n"}, "spec": {"schedulerName": "x", "containers": []}});
    b.api.seed(pods, &other);
    let meta = json!({"name": "leaving", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    b.api.seed(pods, &json!({"metadata": meta, "spec": {"containers": []}}));
    let spec = json!({"containers": [], "schedulingGates": [{"name": "g"}]});
    b.api.seed(pods, &json!({"metadata": {"name": "gated", "namespace": "n"}, "spec": spec}));
    b.pod("ours", "1m");
    b.until("the binding", |b| b.at("ours")["spec"]["nodeName"] == "node-1").await;
    for name in ["other", "leaving", "gated"] {
        assert!(b.at(name)["spec"]["nodeName"].is_null(), "{name}");
    }
    b.stop().await;
}
