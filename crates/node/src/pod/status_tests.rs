//! Cases of the pod's status: what is known, and what is shown of it in short.

use super::*;
use crate::pod::model::{Exit, Instance, State, Step, to_ns};
use crate::pod::users::User;
use serde_json::{Value, json};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(s).unwrap()
}

fn world(spec: Value) -> (Pod, Local) {
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 4}, "spec": spec}),
    )
    .unwrap();
    let mut local = Local { volumes: Step::Done, sandbox: Step::Done, ..Local::default() };
    local.record.sandbox = 1;
    local.record.ips = vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
    (pod, local)
}

fn add(local: &mut Local, name: &str, restarts: i32, state: State) {
    local.record.instances.push(Instance {
        id: format!("{name}{restarts}"),
        name: name.into(),
        restart_count: restarts,
        sandbox: 1,
        state,
        spec_image: "i".into(),
        image: "docker.io/library/i:latest".into(),
        image_ref: "sha256:1".into(),
        user: User { uid: 5, gid: 6, groups: vec![6, 7] },
        log_path: "/x".into(),
        termination_log: None,
    });
}

fn up(local: &mut Local, name: &str, restarts: i32) {
    add(local, name, restarts, State::Running { started_ns: to_ns(at(50)) });
}

fn down(local: &mut Local, name: &str, restarts: i32, exit_code: i32) {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    let exit = Exit {
        exit_code,
        started_ns: to_ns(at(10)),
        finished_ns: to_ns(at(20)),
        reason: reason.into(),
        message: String::new(),
    };
    add(local, name, restarts, State::Exited(exit));
}

fn make(pod: &Pod, local: &Local, old: &PodStatus, waiting: &[(&str, &str)]) -> PodStatus {
    let waiting = waiting
        .iter()
        .map(|(n, r)| ((*n).to_owned(), Waiting { reason: (*r).into(), message: String::new() }))
        .collect();
    let host = ["192.0.2.1".parse().unwrap()];
    generate(&Inputs { pod, local, old, waiting: &waiting, host_ips: &host, now: at(100) })
}

/// `Running a:running:ready restarts=1 | Ready=True …`
fn show(s: &PodStatus) -> String {
    let mut out = vec![s.phase.clone().unwrap()];
    let lists = [&s.init_container_statuses, &s.container_statuses];
    for c in lists.into_iter().flat_map(|l| l.iter().flatten()) {
        let state = |st: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            let st = st.clone().unwrap_or_default();
            match (st.running, st.terminated, st.waiting) {
                (Some(_), _, _) => "running".to_owned(),
                (_, Some(t), _) => format!("{}({})", t.reason.unwrap_or_default(), t.exit_code),
                (_, _, Some(w)) => w.reason.unwrap_or_default(),
                _ => String::new(),
            }
        };
        let ready = if c.ready { "+" } else { "-" };
        let last = if c.last_state.is_some() { format!("<{}", state(&c.last_state)) } else { String::new() };
        out.push(format!("{}{ready}{}{last}#{}", c.name, state(&c.state), c.restart_count));
    }
    for c in s.conditions.iter().flatten().filter(|c| c.status != "True") {
        out.push(format!("{}:{}", c.type_, c.reason.as_deref().unwrap_or_default()));
    }
    out.join(" ")
}

fn c(name: &str) -> Value {
    json!({"name": name, "image": "i"})
}

#[test]
fn the_life_of_a_pod() {
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    let old = PodStatus::default();
    local.sandbox = Step::Todo;
    local.record.sandbox = 0;
    local.record.ips.clear();
    let s = make(&pod, &local, &old, &[]);
    assert_eq!(
        show(&s),
        "Pending a-ContainerCreating#0 PodReadyToStartContainers:PodSandboxNotReady Ready:ContainersNotReady ContainersReady:ContainersNotReady"
    );
    assert_eq!(
        condition(&s, "Ready").unwrap().message.as_deref(),
        Some("containers with unready status: [a]")
    );
    assert_eq!(
        condition(&s, "PodReadyToStartContainers").unwrap().message.as_deref(),
        Some("no pod sandbox exists")
    );
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    up(&mut local, "a", 0);
    let s = make(&pod, &local, &s, &[]);
    assert_eq!(show(&s), "Running a+running#0");
    let cs = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(cs.container_id.as_deref(), Some("taffrail://a0"));
    assert_eq!(
        (cs.image.as_str(), cs.image_id.as_str(), cs.started),
        ("docker.io/library/i:latest", "sha256:1", Some(true))
    );
    assert_eq!(s.pod_ips.as_ref().unwrap().len(), 2);
    assert_eq!(
        (s.host_ip.as_deref(), s.observed_generation, s.qos_class.as_deref()),
        (Some("192.0.2.1"), Some(4), Some("BestEffort"))
    );
    down(&mut local, "a", 1, 1);
    local.record.instances.remove(0);
    assert_eq!(
        show(&make(&pod, &local, &s, &[])),
        "Running a-Error(1)#1 Ready:ContainersNotReady ContainersReady:ContainersNotReady"
    );
    assert_eq!(
        show(&make(&pod, &local, &s, &[("a", "CrashLoopBackOff")])),
        "Running a-CrashLoopBackOff<Error(1)#1 Ready:ContainersNotReady ContainersReady:ContainersNotReady"
    );
    up(&mut local, "a", 2);
    assert_eq!(show(&make(&pod, &local, &s, &[])), "Running a+running<Error(1)#2");
}

#[test]
fn ends() {
    for (policy, code, stopping, want) in [
        ("Never", 0, false, "Succeeded a-Completed(0)#0 Ready:PodCompleted ContainersReady:PodCompleted"),
        ("Never", 2, false, "Failed a-Error(2)#0 Ready:PodFailed ContainersReady:PodFailed"),
        (
            "OnFailure",
            2,
            false,
            "Running a-Error(2)#0 Ready:ContainersNotReady ContainersReady:ContainersNotReady",
        ),
        ("Always", 0, true, "Succeeded a-Completed(0)#0 Ready:PodCompleted ContainersReady:PodCompleted"),
        ("Always", 137, true, "Failed a-Error(137)#0 Ready:PodFailed ContainersReady:PodFailed"),
    ] {
        let (pod, mut local) = world(json!({"restartPolicy": policy, "containers": [c("a")]}));
        down(&mut local, "a", 0, code);
        local.stopping = stopping;
        let old = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
        assert_eq!(show(&make(&pod, &local, &old, &[])), want, "{policy} {code}");
    }
}

#[test]
fn not_shown_as_ended_while_something_runs() {
    let (pod, mut local) = world(json!({"restartPolicy": "Never", "containers": [c("a"), c("b")]}));
    up(&mut local, "a", 0);
    down(&mut local, "b", 0, 0);
    local.record.failed =
        Some(crate::pod::admission::Refusal { reason: "DeadlineExceeded".into(), message: "m".into() });
    let old = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
    assert_eq!(make(&pod, &local, &old, &[]).phase.as_deref(), Some("Running"));
    local.record.instances[0].state = State::Exited(Exit { exit_code: 143, ..Exit::default() });
    let s = make(&pod, &local, &old, &[]);
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    let (mut after, _) = world(json!({"containers": [c("a")]}));
    after.status = Some(s.clone());
    let local = Local::default();
    assert_eq!(make(&after, &local, &s, &[]).phase.as_deref(), Some("Failed"), "the end is final");
}

#[test]
fn init_containers_and_gates() {
    let side = json!({"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {}});
    let (mut pod, mut local) = world(
        json!({"initContainers": [c("i"), side], "containers": [c("a")], "readinessGates": [{"conditionType": "x/y"}]}),
    );
    let old = PodStatus::default();
    down(&mut local, "i", 0, 0);
    up(&mut local, "s", 0);
    let s = make(&pod, &local, &old, &[]);
    assert_eq!(
        show(&s),
        "Pending i+Completed(0)#0 s-running#0 a-PodInitializing#0 Initialized:ContainersNotInitialized Ready:ContainersNotReady ContainersReady:ContainersNotReady"
    );
    assert_eq!(
        condition(&s, "Initialized").unwrap().message.as_deref(),
        Some("containers with incomplete status: [s]")
    );
    local.track_mut("s").startup = Some(true);
    up(&mut local, "a", 0);
    let s = make(&pod, &local, &s, &[]);
    assert_eq!(show(&s), "Running i+Completed(0)#0 s+running#0 a+running#0 Ready:ReadinessGatesNotReady");
    assert_eq!(
        condition(&s, "Ready").unwrap().message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    assert_eq!(show(&make(&pod, &local, &s, &[])), "Running i+Completed(0)#0 s+running#0 a+running#0");
}

#[test]
fn probes_decide_readiness() {
    let probed = json!({"name": "a", "image": "i", "readinessProbe": {}, "startupProbe": {}});
    let (pod, mut local) = world(json!({"containers": [probed]}));
    up(&mut local, "a", 0);
    let view = |local: &Local| {
        let s = make(&pod, local, &PodStatus::default(), &[]);
        let c = &s.container_statuses.unwrap()[0];
        (c.started, c.ready)
    };
    local.track_mut("a").readiness = true;
    assert_eq!(view(&local), (Some(false), false), "not before it has started");
    local.track_mut("a").startup = Some(true);
    assert_eq!(view(&local), (Some(true), true));
    local.track_mut("a").readiness = false;
    assert_eq!(view(&local), (Some(true), false));
}

#[test]
fn times_of_conditions_stay_until_they_change() {
    let (pod, mut local) = world(json!({"containers": [c("a")]}));
    up(&mut local, "a", 0);
    let old: PodStatus = serde_json::from_value(json!({"phase": "Running", "startTime": "1970-01-01T00:00:01Z",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"},
                       {"type": "ContainersReady", "status": "False", "lastTransitionTime": "1970-01-01T00:00:07Z"}]}))
    .unwrap();
    let s = make(&pod, &local, &old, &[]);
    let time = |k: &str| condition(&s, k).unwrap().last_transition_time.as_ref().unwrap().0.as_second();
    assert_eq!((time("Ready"), time("ContainersReady")), (7, 100));
    assert_eq!(s.start_time.unwrap().0.as_second(), 1);
}

#[test]
fn a_refused_pod_shows_only_that() {
    let (pod, _) = world(json!({"containers": [c("a")]}));
    let mut local = Local::default();
    local.record.failed = Some(crate::pod::admission::Refusal {
        reason: "OutOfcpu".into(),
        message: "Pod was rejected: x".into(),
    });
    let s = make(&pod, &local, &PodStatus::default(), &[]);
    assert_eq!(
        (s.phase.as_deref(), s.reason.as_deref(), s.message.as_deref()),
        (Some("Failed"), Some("OutOfcpu"), Some("Pod was rejected: x"))
    );
    assert!(s.container_statuses.is_none() && s.conditions.is_none());
}

#[test]
fn messages_share_the_room() {
    let (pod, mut local) = world(json!({"containers": [c("a"), c("b"), c("c"), c("d")]}));
    for n in ["a", "b", "c", "d"] {
        let exit = Exit { exit_code: 1, message: "ü".repeat(4000), ..Exit::default() };
        add(&mut local, n, 0, State::Exited(exit));
    }
    let s = make(&pod, &local, &PodStatus::default(), &[]);
    let lengths: Vec<usize> = s
        .container_statuses
        .iter()
        .flatten()
        .map(|c| c.state.as_ref().unwrap().terminated.as_ref().unwrap().message.as_ref().unwrap().len())
        .collect();
    assert_eq!(lengths, [3072; 4]);
}
