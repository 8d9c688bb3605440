//! The end of definitions against an API in memory.

use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::json;

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OBJECTS: &str = "/apis/a.com/v1/foos";

fn seeded(api: &FakeApi, established: &str) {
    api.seed(
        PATH,
        &json!({
            "metadata": {"name": "foos.a.com", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLEANUP_FINALIZER]},
            "spec": {
                "group": "a.com", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"},
                "versions": [{"name": "v1", "served": true, "storage": true}],
            },
            "status": {
                "acceptedNames": {"plural": "foos", "kind": "Foo"},
                "conditions": [{"type": "Established", "status": established}],
            },
        }),
    );
}

/// What is told of a deletion, in order, until it was told twice.
async fn told(api: &Arc<FakeApi>) -> Vec<String> {
    let setup = Setup::of_fake(api, Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())));
    let handle = start(&setup);
    let puts = || api.writes().iter().filter(|w| w.method == Method::PUT).count();
    for _ in 0..300 {
        if puts() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    setup.cancel.cancel();
    handle.stopped().await;
    let writes = api.writes().into_iter().filter(|w| w.method == Method::PUT);
    let reasons = writes.filter_map(|w| {
        let list = w.body["status"]["conditions"].as_array()?.clone();
        list.iter().find(|c| c["type"] == "Terminating")?["reason"].as_str().map(str::to_owned)
    });
    reasons.collect()
}

#[tokio::test]
async fn a_definition_without_objects_goes_at_once() {
    for (established, last) in [("True", "InstanceDeletionCompleted"), ("False", "NeverEstablished")] {
        let api = Arc::new(FakeApi::new());
        seeded(&api, established);
        // this server does not let a definition go by its status, so that all is told again
        let reasons = told(&api).await;
        assert_eq!(reasons[..2], ["InstanceDeletionInProgress", last], "{established}");
    }
}

#[tokio::test]
async fn a_failed_list_is_told() {
    let api = Arc::new(FakeApi::new());
    seeded(&api, "True");
    let refused = Status::internal("no").to_value();
    api.rig(Method::GET, OBJECTS, refused);
    let reasons = told(&api).await;
    assert_eq!(reasons[..2], ["InstanceDeletionInProgress", "InstanceDeletionFailed"]);
}
