//! Cases of the plan: a pod, what is known of it, and the actions in short.

use super::*;
use crate::pod::model::{Exit, PullFailure, to_ns};
use crate::pod::users::User;
use serde_json::{Value, json};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(s).unwrap()
}

/// A pod that runs: volumes and sandbox stand.
fn world(spec: Value) -> (Pod, Local) {
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
    )
    .unwrap();
    let mut local = Local { volumes: Step::Done, sandbox: Step::Done, ..Local::default() };
    local.record.sandbox = 1;
    (pod, local)
}

fn instance(name: &str, state: State) -> Instance {
    Instance {
        id: format!("id-{name}"),
        name: name.into(),
        restart_count: 0,
        sandbox: 1,
        state,
        spec_image: "i".into(),
        image: "i".into(),
        image_ref: "i".into(),
        user: User { uid: 0, gid: 0, groups: vec![0] },
        log_path: "/x".into(),
        termination_log: None,
    }
}

fn running(local: &mut Local, name: &str) {
    local.record.instances.push(instance(name, State::Running { started_ns: 1 }));
}

fn ended(local: &mut Local, name: &str, exit_code: i32, second: i64) {
    let exit = Exit { exit_code, finished_ns: to_ns(at(second)), ..Exit::default() };
    local.record.instances.push(instance(name, State::Exited(exit)));
}

/// `start a; kill b grace=30 "text" after=[..]; …` and `!` when the pod is over.
fn show(plan: &Plan) -> String {
    let mut out: Vec<String> = plan
        .actions
        .iter()
        .map(|a| match a {
            Action::Start { name } => format!("start {name}"),
            Action::Kill(k) => {
                let after = if k.after.is_empty() { String::new() } else { format!(" after={:?}", k.after) };
                let text = if k.message.is_empty() { String::new() } else { format!(" {:?}", k.message) };
                format!("kill {} grace={}{text}{after}", k.name, k.grace)
            }
            other => format!("{other:?}"),
        })
        .collect();
    out.extend(plan.waiting.iter().map(|(n, w)| format!("wait {n} {}", w.reason)));
    out.extend(plan.wake.map(|w| format!("wake {}", w.as_second())));
    if plan.over {
        out.push("!".into());
    }
    out.join("; ")
}

fn c(name: &str) -> Value {
    json!({"name": name, "image": "i"})
}

#[test]
fn steps_before_containers() {
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    (local.volumes, local.sandbox) = (Step::Todo, Step::Todo);
    assert_eq!(show(&plan(&pod, &local, at(0))), "Prepare");
    local.volumes = Step::Retry(at(9));
    assert_eq!(show(&plan(&pod, &local, at(0))), "wake 9");
    assert_eq!(show(&plan(&pod, &local, at(9))), "Prepare");
    local.volumes = Step::Done;
    assert_eq!(show(&plan(&pod, &local, at(0))), "StartSandbox");
    local.sandbox = Step::Busy;
    assert_eq!(show(&plan(&pod, &local, at(0))), "");
}

#[test]
fn one_start_at_a_time() {
    let (pod, mut local) = world(json!({"containers": [c("a"), c("b")]}));
    assert_eq!(show(&plan(&pod, &local, at(0))), "start a");
    local.track_mut("a").busy = Some(Busy::Starting);
    assert_eq!(show(&plan(&pod, &local, at(0))), "");
    local.track_mut("a").busy = None;
    running(&mut local, "a");
    assert_eq!(show(&plan(&pod, &local, at(0))), "start b");
    // A container that cannot start yet does not hold up the next.
    local.record.instances.clear();
    local.track_mut("a").retry_at = Some(at(7));
    assert_eq!(show(&plan(&pod, &local, at(0))), "start b; wake 7");
}

#[test]
fn init_containers_in_order() {
    let spec = json!({"initContainers": [c("i1"), {"name": "s", "image": "i", "restartPolicy": "Always"}, c("i2")],
        "containers": [c("a")]});
    let (pod, mut local) = world(spec);
    let step = |local: &Local| show(&plan(&pod, local, at(100)));
    assert_eq!(step(&local), "start i1");
    running(&mut local, "i1");
    assert_eq!(step(&local), "");
    local.record.instances.clear();
    ended(&mut local, "i1", 1, 0);
    assert_eq!(step(&local), "start i1", "a failed one is tried again");
    local.record.instances.clear();
    ended(&mut local, "i1", 0, 0);
    assert_eq!(step(&local), "start s");
    running(&mut local, "s");
    assert_eq!(step(&local), "start i2");
    ended(&mut local, "i2", 0, 0);
    assert_eq!(step(&local), "start a");
    running(&mut local, "a");
    assert_eq!(step(&local), "");
    local.record.latest_mut("s").unwrap().state = State::Exited(Exit::default());
    assert_eq!(step(&local), "start s", "a sidecar is kept running");
}

#[test]
fn init_failure_is_final_with_never() {
    let (pod, mut local) =
        world(json!({"restartPolicy": "Never", "initContainers": [c("i")], "containers": [c("a")]}));
    ended(&mut local, "i", 3, 0);
    assert_eq!(show(&plan(&pod, &local, at(1))), "!");
}

#[test]
fn sidecar_with_startup_probe_holds_up_the_rest() {
    let side = json!({"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}});
    let (pod, mut local) = world(json!({"initContainers": [side], "containers": [c("a")]}));
    running(&mut local, "s");
    assert_eq!(show(&plan(&pod, &local, at(1))), "");
    local.track_mut("s").startup = Some(true);
    assert_eq!(show(&plan(&pod, &local, at(1))), "start a");
    local.track_mut("s").startup = Some(false);
    assert_eq!(show(&plan(&pod, &local, at(1))), "kill s grace=30 \"Init container s failed startup probe\"");
}

#[test]
fn restart_policies() {
    for (policy, code, want) in
        [("Always", 0, "start a"), ("OnFailure", 1, "start a"), ("OnFailure", 0, "!"), ("Never", 1, "!")]
    {
        let (pod, mut local) = world(json!({"restartPolicy": policy, "containers": [c("a")]}));
        ended(&mut local, "a", code, 0);
        assert_eq!(show(&plan(&pod, &local, at(1))), want, "{policy} {code}");
    }
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let own = json!({"name": "a", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules});
    let (pod, mut local) = world(json!({"restartPolicy": "Never", "containers": [own]}));
    ended(&mut local, "a", 42, 0);
    assert_eq!(show(&plan(&pod, &local, at(1))), "start a");
}

#[test]
fn crash_loops_wait() {
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    ended(&mut local, "a", 1, 100);
    assert_eq!(show(&plan(&pod, &local, at(100))), "start a", "the first restart is at once");
    local.track_mut("a").crash.next(at(100), at(100));
    let p = plan(&pod, &local, at(101));
    assert_eq!(show(&p), "wait a CrashLoopBackOff; wake 110");
    assert_eq!(p.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(show(&plan(&pod, &local, at(110))), "start a");
}

#[test]
fn failed_pulls_wait() {
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    let track = local.track_mut("a");
    track.pull.next(at(0), at(0));
    track.pull_failure = Some(PullFailure { at: at(0), image: "i".into(), error: "ErrImagePull: no".into() });
    assert_eq!(show(&plan(&pod, &local, at(1))), "wake 2", "the error itself is shown first");
    let p = plan(&pod, &local, at(2));
    assert_eq!(show(&p), "wait a ImagePullBackOff; wake 10");
    assert_eq!(p.waiting["a"].message, "Back-off pulling image \"i\": ErrImagePull: no");
    assert_eq!(show(&plan(&pod, &local, at(10))), "start a");
}

#[test]
fn probes_and_changes_kill() {
    let probed = json!({"name": "a", "image": "i", "livenessProbe": {"terminationGracePeriodSeconds": 5}});
    let (mut pod, mut local) =
        world(json!({"containers": [probed, c("b")], "terminationGracePeriodSeconds": 20}));
    running(&mut local, "a");
    running(&mut local, "b");
    local.track_mut("a").liveness = Some(false);
    assert_eq!(
        show(&plan(&pod, &local, at(1))),
        "kill a grace=5 \"Container a failed liveness probe, will be restarted\""
    );
    local.track_mut("a").busy = Some(Busy::Stopping { grace: 5 });
    assert_eq!(show(&plan(&pod, &local, at(1))), "", "it is under way");
    local.tracks.clear();
    pod.spec.as_mut().unwrap().containers[1].image = Some("new".into());
    assert_eq!(
        show(&plan(&pod, &local, at(1))),
        "kill b grace=20 \"Container b definition changed, will be restarted\""
    );
}

#[test]
fn deletion_goes_step_by_step() {
    let side = |n: &str| json!({"name": n, "image": "i", "restartPolicy": "Always"});
    let (mut pod, mut local) =
        world(json!({"initContainers": [side("s1"), side("s2")], "containers": [c("a")]}));
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    for n in ["s1", "s2", "a"] {
        running(&mut local, n);
    }
    local.stopping = true;
    assert_eq!(
        show(&plan(&pod, &local, at(1))),
        "kill s1 grace=7 after=[\"a\", \"s2\"]; kill s2 grace=7 after=[\"a\"]; kill a grace=7"
    );
    for n in ["s1", "s2", "a"] {
        local.track_mut(n).busy = Some(Busy::Stopping { grace: 7 });
    }
    assert_eq!(show(&plan(&pod, &local, at(1))), "");
    pod.metadata.deletion_grace_period_seconds = Some(0);
    assert!(show(&plan(&pod, &local, at(1))).starts_with("kill s1 grace=1"), "a shorter grace is passed on");
    local.tracks.clear();
    local.record.instances.iter_mut().for_each(|i| i.state = State::Exited(Exit::default()));
    assert_eq!(show(&plan(&pod, &local, at(1))), "Teardown; !");
    local.teardown = Step::Done;
    assert_eq!(show(&plan(&pod, &local, at(1))), "CleanUp; !");
    local.cleanup = Step::Done;
    assert_eq!(show(&plan(&pod, &local, at(1))), "Farewell { delete: true }; !");
    local.gone = true;
    assert_eq!(show(&plan(&pod, &local, at(1))), "Farewell { delete: false }; !");
}

#[test]
fn a_pod_that_ended_by_itself_stays_in_the_api() {
    let (pod, mut local) = world(json!({"restartPolicy": "Never", "containers": [c("a")]}));
    ended(&mut local, "a", 0, 0);
    local.stopping = true;
    (local.teardown, local.cleanup) = (Step::Done, Step::Done);
    assert_eq!(show(&plan(&pod, &local, at(1))), "!");
}

#[test]
fn sidecars_end_with_the_main_containers() {
    let side = json!({"name": "s", "image": "i", "restartPolicy": "Always"});
    let (pod, mut local) =
        world(json!({"restartPolicy": "Never", "initContainers": [side], "containers": [c("a")]}));
    running(&mut local, "s");
    ended(&mut local, "a", 0, 0);
    assert_eq!(show(&plan(&pod, &local, at(1))), "kill s grace=30");
}

#[test]
fn the_deadline_ends_the_pod() {
    let (mut pod, local) = world(json!({"activeDeadlineSeconds": 5, "containers": [c("a")]}));
    pod.status = serde_json::from_value(json!({"startTime": "1970-01-01T00:00:10Z"})).unwrap();
    assert_eq!(show(&plan(&pod, &local, at(12))), "start a; wake 15");
    assert_eq!(show(&plan(&pod, &local, at(15))), "Expire");
}

#[test]
fn a_lost_sandbox() {
    for (policy, want) in [("Always", "StartSandbox"), ("Never", "!")] {
        let (pod, mut local) = world(json!({"restartPolicy": policy, "containers": [c("a")]}));
        ended(&mut local, "a", 137, 0);
        (local.sandbox, local.sandbox_lost) = (Step::Todo, true);
        assert_eq!(show(&plan(&pod, &local, at(1))), want, "{policy}");
    }
}

#[test]
fn ephemeral_containers_start_once() {
    let (pod, mut local) = world(json!({"containers": [c("a")], "ephemeralContainers": [c("e")]}));
    running(&mut local, "a");
    assert_eq!(show(&plan(&pod, &local, at(1))), "start e");
    ended(&mut local, "e", 1, 0);
    assert_eq!(show(&plan(&pod, &local, at(1))), "");
}
