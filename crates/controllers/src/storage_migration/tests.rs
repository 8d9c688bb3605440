//! Migrations against an API in memory.

use super::*;
use base::clock::ManualClock;
use client::Kind;
use client::fake::FakeApi;
use serde_json::{Value, json};
use std::sync::Arc;

const MADE: &str = "2026-01-01T00:00:00Z";
const ALL: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";

fn migration(name: &str, made: &str, conditions: &[(&str, &str)]) -> StorageVersionMigration {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status)| {
            json!({"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": MADE})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": made},
        "spec": {"resource": {"group": "", "resource": "configmaps"}}, "status": {"conditions": conditions},
    }))
    .unwrap()
}

#[test]
fn one_of_a_resource_runs_at_a_time_the_oldest_first() {
    let all = |list: Vec<StorageVersionMigration>| list.into_iter().map(Arc::new).collect::<Vec<_>>();
    let names = |list: Vec<StorageVersionMigration>| {
        let (ended, next) = runner::plan(&all(list));
        let ended: Vec<String> = ended.iter().map(|m| m.name().to_owned()).collect();
        (ended.join(","), next.map(|m| m.name().to_owned()).unwrap_or_default())
    };
    let (a, b) = (migration("a", "2026-01-02T00:00:00Z", &[]), migration("b", MADE, &[]));
    assert_eq!(names(vec![a.clone(), b.clone()]), ("".into(), "b".into()));
    let busy = migration("c", MADE, &[(RUNNING, "True")]);
    assert_eq!(names(vec![a.clone(), busy, b]), ("".into(), "".into()));
    let ended = migration("d", MADE, &[(RUNNING, "True"), (FAILED, "True")]);
    let old = migration("e", MADE, &[(RUNNING, "False"), (SUCCEEDED, "True")]);
    assert_eq!(names(vec![a, ended, old]), ("d".into(), "a".into()));
}

#[test]
fn a_definition_forgets_old_versions_unless_it_was_changed() {
    let crd = |seen: i64| {
        let condition = json!({"type": "StorageMigrating", "status": "True", "observedGeneration": seen});
        json!({
            "metadata": {"generation": 2}, "status": {"conditions": [condition], "storedVersions": ["v1", "v2"]},
            "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
        })
    };
    let (reason, text, stored) = runner::finished(&crd(2), true);
    assert_eq!((reason, stored.as_deref()), ("MigrationSucceeded", Some("v2")));
    assert_eq!(text, "The migration has succeeded and the stored versions have been updated");
    let (_, text, stored) = runner::finished(&crd(1), true);
    assert_eq!(stored, None);
    assert!(text.ends_with("due to a generation mismatch"));
}

#[test]
fn texts() {
    assert_eq!(running_message(None, None), "The migration is running");
    assert_eq!(running_message(Some((0, 0)), None), "The migration is running");
    assert_eq!(
        running_message(Some((2, 5)), Some("busy")),
        "The migration is running, 2/5 objects not yet migrated; transient error: busy"
    );
    assert_eq!(running_message(Some((0, 5)), None), "The migration is running, 5 objects verified migrated");
}

#[tokio::test]
async fn every_object_is_written_once_more() {
    let api = Arc::new(FakeApi::new());
    let resources = json!([{"name": "configmaps", "kind": "ConfigMap", "namespaced": true, "verbs": ["list", "patch", "update"]}]);
    for _ in 0..8 {
        api.rig(http::Method::GET, "/apis", json!({"groups": []}));
        api.rig(http::Method::GET, "/api/v1", json!({"resources": resources}));
    }
    for name in ["a", "b"] {
        api.seed("/api/v1/namespaces/n/configmaps", &json!({"metadata": {"namespace": "n", "name": name}}));
    }
    api.seed(ALL, &migration("m", MADE, &[]));
    let setup = Setup::of_fake(&api, Arc::new(ManualClock::new(MADE.parse().unwrap())));
    let handles = start(&setup);
    let told = |kind: &str| {
        let object = api.object(&format!("{ALL}/m")).unwrap();
        let found =
            object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
        found.map_or(String::new(), |c| {
            format!("{} {}", c["status"].as_str().unwrap(), c["message"].as_str().unwrap())
        })
    };
    for _ in 0..500 {
        if told(RUNNING).starts_with("False") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(told(RUNNING), "False Migration completed", "{:#?}", api.writes());
    assert_eq!(told(SUCCEEDED), "True Migration completed");
    let patched = api.writes().into_iter().filter(|w| w.path.contains("/configmaps/")).count();
    assert_eq!(patched, 2);
    setup.cancel.cancel();
    for handle in handles {
        handle.stopped().await;
    }
}
