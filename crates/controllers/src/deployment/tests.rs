//! Cases: a deployment and its replica sets in, writes out.

use super::*;
use client::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

fn deployment(replicas: i32, image: &str, extra: Value) -> Deployment {
    let mut d = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 2},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"a": "1"}}, "template": template(image),
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        },
    });
    for (k, v) in extra.as_object().into_iter().flatten() {
        d["spec"][k] = v.clone();
    }
    serde_json::from_value(d).unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// `desired` is the annotation: what the deployment wanted when this set was last sized.
fn set(image: &str, revision: i64, size: i32, available: i32, desired: i32) -> ReplicaSet {
    let annotations = json!({
        util::REVISION: revision.to_string(), util::DESIRED_REPLICAS: desired.to_string(),
        util::MAX_REPLICAS: (desired + (desired + 3) / 4).to_string(),
    });
    let made = format!("2026-01-01T00:00:{revision:02}Z");
    serde_json::from_value(json!({
        "metadata": {"name": format!("web-{image}"), "namespace": "n", "uid": image, "generation": 1,
            "annotations": annotations, "creationTimestamp": made},
        "spec": {"replicas": size, "selector": {}, "template": template(image)},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1,
            "terminatingReplicas": 0},
    }))
    .unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn run(deployment: Deployment, replica_sets: Vec<ReplicaSet>) -> Plan {
    plan(World { deployment, replica_sets, pods: Vec::new(), now: now() })
}

/// `+NAME=SIZE` created, `NAME=SIZE` resized, `-NAME` deleted.
fn sizes(p: &Plan) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Create { replica_set, .. } => {
            let hash = replica_set.label(util::HASH_LABEL).unwrap_or("");
            assert_eq!(replica_set.name(), format!("web-{hash}"));
            Some(format!("+{}", util::spec_replicas(replica_set)))
        }
        Action::Update { replica_set, .. } => {
            Some(format!("{}={}", replica_set.name(), util::spec_replicas(replica_set)))
        }
        Action::Delete { name } => Some(format!("-{name}")),
        _ => None,
    };
    p.actions.iter().filter_map(one).collect()
}

fn status(p: &Plan) -> Deployment {
    let found = p.actions.iter().find_map(|a| match a {
        Action::UpdateStatus(d) => Some((**d).clone()),
        _ => None,
    });
    found.expect("a status update")
}

fn reason(d: &Deployment, kind: &str) -> String {
    let c = super::status::get(d.status.as_ref(), kind).cloned();
    c.map(|c| format!("{}/{}", c.status.unwrap_or_default(), c.reason.unwrap_or_default()))
        .unwrap_or_default()
}

#[test]
fn a_new_deployment_gets_its_replica_set() {
    let p = run(deployment(3, "a", json!({})), vec![]);
    assert_eq!(sizes(&p), ["+3"]);
    let Action::Create { replica_set, event } = &p.actions[0] else { panic!("{:?}", p.actions) };
    assert_eq!(replica_set.annotation(util::REVISION), Some("1"));
    assert_eq!(replica_set.annotation(util::MAX_REPLICAS), Some("4"));
    assert_eq!(event.as_deref(), Some(&*format!("Scaled up replica set {} from 0 to 3", replica_set.name())));
    let d = status(&p);
    assert_eq!(d.annotation(util::REVISION), Some("1"));
    assert_eq!(
        (reason(&d, "Progressing"), reason(&d, "Available")),
        ("True/NewReplicaSetCreated".into(), "False/MinimumReplicasUnavailable".into())
    );
    assert_eq!(d.status.unwrap().unavailable_replicas, Some(3));
}

#[test]
fn rolling_steps_keep_within_the_fences() {
    // 4 desired: at most 5 pods, at least 3 available; (old size, old available, new size, new available) -> writes
    let cases: &[(i32, i32, i32, i32, &[&str])] = &[
        (4, 4, 1, 0, &["web-a=3"]),
        (3, 3, 1, 0, &["web-b=2"]),
        (3, 3, 2, 0, &[]),
        (3, 3, 2, 1, &["web-a=2"]),
        (3, 1, 2, 2, &["web-a=1"]),
        (1, 1, 4, 4, &["web-a=0"]),
        (0, 0, 4, 4, &[]),
        (4, 0, 1, 0, &["web-a=3"]),
    ];
    for (old, old_available, new, new_available, want) in cases {
        let sets = vec![set("a", 1, *old, *old_available, 4), set("b", 2, *new, *new_available, 4)];
        let got = sizes(&run(deployment(4, "b", json!({})), sets));
        assert_eq!(got, *want, "{old}/{old_available} {new}/{new_available}");
    }
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let of = |sets: Vec<ReplicaSet>, pods| {
        let deployment = deployment(2, "b", json!({"strategy": {"type": "Recreate"}}));
        plan(World { deployment, replica_sets: sets, pods, now: now() })
    };
    assert_eq!(sizes(&of(vec![set("a", 1, 2, 2, 2)], vec![])), ["web-a=0"]);
    let pod: Pod = serde_json::from_value(json!({"status": {"phase": "Running"}})).unwrap();
    assert!(sizes(&of(vec![set("a", 1, 0, 0, 2)], vec![("a".into(), Arc::new(pod))])).is_empty());
    assert_eq!(sizes(&of(vec![set("a", 1, 0, 0, 2)], vec![])), ["+2"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    // upstream's example: 10 desired, 8 old and 5 new, scaled to 15
    let extra =
        json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}});
    let mut sets = vec![set("a", 1, 8, 8, 10), set("b", 2, 5, 0, 10)];
    for rs in &mut sets {
        util::annotations(&mut rs.metadata).insert(util::MAX_REPLICAS.into(), "13".into());
    }
    assert_eq!(sizes(&run(deployment(15, "b", extra), sets)), ["web-a=11", "web-b=7"]);
}

#[test]
fn paused_deployments_only_scale() {
    let p = run(deployment(5, "c", json!({"paused": true})), vec![set("a", 1, 2, 2, 2)]);
    assert_eq!(sizes(&p), ["web-a=5"]);
    assert_eq!(reason(&status(&p), "Progressing"), "Unknown/DeploymentPaused");
}

#[test]
fn old_revisions_beyond_the_limit_go_when_done() {
    let mut d = deployment(1, "d", json!({}));
    let all = vec![set("a", 1, 0, 0, 1), set("b", 2, 0, 0, 1), set("c", 3, 0, 0, 1), set("d", 4, 1, 1, 1)];
    let p = run(d.clone(), all.clone());
    assert!(sizes(&p).is_empty(), "not before the status says that it is complete");
    d = status(&p);
    assert_eq!(reason(&d, "Progressing"), "True/NewReplicaSetAvailable");
    assert_eq!(sizes(&run(d, all)), ["-web-a", "-web-b"]);
}

#[test]
fn a_rollout_that_stands_still_times_out() {
    let sets = vec![set("a", 1, 1, 0, 1)];
    let mut d = status(&run(deployment(1, "a", json!({})), sets.clone()));
    let p = run(d.clone(), sets.clone());
    assert!(p.actions.is_empty(), "{:?}", p.actions);
    assert_eq!(p.again, Some(std::time::Duration::from_secs(601)));
    let past = "2026-01-01T00:40:00Z".parse::<Timestamp>().unwrap();
    for c in d.status.as_mut().unwrap().conditions.as_mut().unwrap() {
        c.last_update_time = Some(crate::common::time(past));
    }
    assert_eq!(reason(&status(&run(d, sets)), "Progressing"), "False/ProgressDeadlineExceeded");
}

#[test]
fn an_old_template_becomes_the_newest_revision() {
    let p = run(deployment(1, "a", json!({})), vec![set("a", 1, 0, 0, 1), set("b", 2, 1, 1, 1)]);
    let Action::Update { replica_set, .. } = &p.actions[0] else { panic!("{:?}", p.actions) };
    assert_eq!(replica_set.annotation(util::REVISION), Some("3"));
    assert_eq!(replica_set.annotation(util::REVISION_HISTORY), Some("1"));
    assert_eq!(util::spec_replicas(replica_set), 1);
}

#[test]
fn rollback_by_annotation() {
    let mut d = deployment(1, "b", json!({}));
    util::annotations(&mut d.metadata).insert(util::ROLLBACK_TO.into(), "0".into());
    let p = run(d, vec![set("a", 1, 0, 0, 1), set("b", 2, 1, 1, 1)]);
    let new = p.actions.iter().find_map(|a| match a {
        Action::UpdateSpec(d) => Some(d),
        _ => None,
    });
    let new = new.expect("an update");
    assert_eq!(new.spec.template.spec.as_ref().unwrap().containers[0].image.as_deref(), Some("a"));
    assert_eq!(util::rollback_to(new), None);
}
