//! Elections against an API in memory.

use super::*;
use crate::events::Flavor;
use crate::fake::FakeApi;
use http::Method;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/work";

/// A candidate whose work counts how many do it at once.
struct Candidate {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn stand(api: &Arc<FakeApi>, me: &str, working: &Arc<AtomicUsize>) -> Candidate {
    let client = Client::new(api.clone());
    let clock = base::clock::SystemClock::shared();
    let recorder = Recorder::new(client.clone(), "work", "", Flavor::Core, clock);
    let elector = Elector::new(client, ("kube-system", "work"), me.to_owned(), recorder);
    let (cancel, working) = (CancellationToken::new(), working.clone());
    let stop = cancel.clone();
    let task = tokio::spawn(elector.run(stop, move |term| {
        let working = working.clone();
        async move {
            assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            term.cancelled().await;
            working.fetch_sub(1, Ordering::SeqCst);
        }
    }));
    Candidate { cancel, task }
}

fn spec(api: &FakeApi) -> Value {
    api.object(PATH).map(|o| o["spec"].clone()).unwrap_or_default()
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over_when_it_stops_or_dies() {
    let api = Arc::new(FakeApi::new());
    let working = Arc::new(AtomicUsize::new(0));
    let one = stand(&api, "one", &working);
    seconds(1).await;
    let two = stand(&api, "two", &working);
    seconds(60).await;
    assert_eq!((spec(&api)["holderIdentity"].clone(), working.load(Ordering::SeqCst)), (json!("one"), 1));
    assert_eq!(spec(&api)["leaseTransitions"], 0);
    assert_eq!(spec(&api)["leaseDurationSeconds"], 15);

    // Stopped in order it gives the lease up: the other waits for its next try only.
    one.cancel.cancel();
    one.task.await.unwrap();
    assert_eq!(spec(&api)["holderIdentity"], "");
    seconds(5).await;
    assert_eq!(
        (spec(&api)["holderIdentity"].clone(), spec(&api)["leaseTransitions"].clone()),
        (json!("two"), json!(1))
    );

    // Dead it leaves the lease as it is, for as long as that says.
    let three = stand(&api, "three", &working);
    seconds(5).await;
    two.task.abort();
    let _ = two.task.await;
    working.store(0, Ordering::SeqCst);
    seconds(10).await;
    assert_eq!(spec(&api)["holderIdentity"], "two");
    seconds(10).await;
    assert_eq!(spec(&api)["holderIdentity"], "three");
    three.cancel.cancel();
    three.task.await.unwrap();
    let told: Vec<Value> = api.objects("/api/v1/events");
    let said = |what: &str| told.iter().any(|e| e["message"] == what && e["reason"] == "LeaderElection");
    assert!(
        said("one became leader") && said("one stopped leading") && said("three became leader"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_before_others_may_take_over() {
    let api = Arc::new(FakeApi::new());
    let working = Arc::new(AtomicUsize::new(0));
    let one = stand(&api, "one", &working);
    seconds(5).await;
    assert_eq!(working.load(Ordering::SeqCst), 1);
    for _ in 0..40 {
        for method in [Method::PUT, Method::GET] {
            let down = json!({"kind": "Status", "code": 503, "message": "down"});
            api.rig(method, PATH, down);
        }
    }
    seconds(13).await;
    assert_eq!(working.load(Ordering::SeqCst), 0, "it works on without the lease");
    one.cancel.cancel();
    one.task.await.unwrap();
}

#[test]
fn times_that_cannot_work_are_refused() {
    let s = Duration::from_secs;
    let times = |l, d, r| Times { lease_duration: s(l), renew_deadline: s(d), retry_period: s(r) };
    assert_eq!(Times::default().check(), Ok(()));
    assert!(times(10, 10, 2).check().unwrap_err().contains("leaseDuration"));
    assert!(times(15, 2, 2).check().unwrap_err().contains("retryPeriod"));
    assert!(times(15, 10, 0).check().is_err());
    assert!(times(0, 0, 0).check().is_err());
}
