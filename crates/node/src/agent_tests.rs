//! The whole agent against fakes: API changes in, containers and statuses out.

use super::*;
use crate::testing::{FakeApi, FakeImages, FakeNet, FakeRuntime};
use base::clock::SystemClock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::time::Duration;

struct World {
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    net: Arc<FakeNet>,
    root: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            api: FakeApi::new(),
            runtime: FakeRuntime::new(),
            net: Arc::default(),
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn agent(&self) -> NodeHandle {
        let mut config = NodeConfig::new("n1", self.root.path());
        config.node_ips = vec!["192.0.2.1".parse().unwrap()];
        NodeAgent::start(
            config,
            self.api.clone(),
            self.runtime.clone(),
            Arc::new(FakeImages),
            self.net.clone(),
            SystemClock::shared(),
            &CancellationToken::new(),
        )
        .unwrap()
    }

    fn pod(&self, spec: Value) {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u1",
            "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {"phase": "Pending"}});
        self.api.put(serde_json::from_value(pod).unwrap());
    }

    fn delete(&self, grace: i64) {
        let mut pod = self.api.pods.lock().get("p").cloned().unwrap();
        pod.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.api.put(pod);
    }

    fn phase(&self) -> String {
        self.api.status("p").phase.unwrap_or_default()
    }

    fn ready(&self) -> bool {
        self.api.status("p").conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    fn events(&self, reason: &str) -> Vec<String> {
        self.api.events.lock().iter().filter(|e| e.starts_with(reason)).cloned().collect()
    }
}

async fn until(what: &str, mut f: impl FnMut() -> bool) {
    for _ in 0..500 {
        if f() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

fn c(name: &str) -> Value {
    json!({"name": name, "image": "img"})
}

#[tokio::test]
async fn from_creation_to_deletion() {
    let w = World::new();
    let agent = w.agent();
    w.pod(json!({"initContainers": [c("i")], "containers": [c("a")]}));
    until("init runs", || w.runtime.running("u1") == ["i"]).await;
    w.runtime.end("u1", "i", 0);
    until("ready", || w.ready()).await;
    assert_eq!(w.phase(), "Running");
    assert_eq!(w.api.status("p").pod_ip.as_deref(), Some("10.0.0.1"));
    let hosts = w.root.path().join("kubelet/pods/u1/etc/hosts");
    assert!(std::fs::read_to_string(&hosts).unwrap().ends_with("10.0.0.1\tp\n"));
    assert_eq!(agent.pod("n", "p").unwrap().running("a").unwrap().restart_count, 0);
    w.delete(5);
    until("deleted", || !w.api.deleted.lock().is_empty()).await;
    until("files are gone", || !w.root.path().join("kubelet/pods/u1").exists()).await;
    until("no view", || agent.pod("n", "p").is_none()).await;
    assert!(w.runtime.log.lock().contains(&"stop a 5".to_owned()));
    assert!(!w.runtime.has_sandbox("u1"));
    assert_eq!(*w.net.down.lock(), ["u1"]);
    assert!(w.root.path().join("pods").read_dir().unwrap().next().is_none(), "logs are gone");
    agent.stop().await;
    assert_eq!(w.events("Killing"), ["Killing: Stopping container a"]);
}

#[tokio::test]
async fn restarts_and_keeps_the_last_end() {
    let w = World::new();
    let agent = w.agent();
    w.pod(json!({"containers": [c("a")]}));
    until("ready", || w.ready()).await;
    w.runtime.end("u1", "a", 3);
    until("restarted", || {
        let s = w.api.status("p").container_statuses.unwrap_or_default();
        s.first().is_some_and(|s| s.restart_count == 1 && s.ready)
    })
    .await;
    let status = w.api.status("p").container_statuses.unwrap().remove(0);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    w.runtime.end("u1", "a", 3);
    until("backs off", || !w.events("BackOff").is_empty()).await;
    assert_eq!(w.events("BackOff"), ["BackOff: Back-off restarting failed container a in pod p_n(u1)"]);
    let view = agent.pod("n", "p").unwrap();
    assert!(view.container("a").unwrap().log_path.ends_with("n_p_u1/a/1.log"));
    assert!(view.previous("a").unwrap().log_path.ends_with("n_p_u1/a/0.log"));
    agent.stop().await;
}

#[tokio::test]
async fn a_completed_pod_stays_until_it_is_deleted() {
    let w = World::new();
    let agent = w.agent();
    w.pod(json!({"restartPolicy": "Never", "containers": [c("a")]}));
    until("runs", || w.runtime.running("u1") == ["a"]).await;
    until("shown", || w.phase() == "Running").await;
    w.runtime.end("u1", "a", 0);
    until("succeeded", || w.phase() == "Succeeded").await;
    until("sandbox is gone", || !w.runtime.has_sandbox("u1")).await;
    assert!(w.api.deleted.lock().is_empty());
    w.delete(0);
    until("deleted", || !w.api.deleted.lock().is_empty()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs() {
    let w = World::new();
    let agent = w.agent();
    w.pod(json!({"containers": [c("a")]}));
    until("ready", || w.ready()).await;
    let id = agent.pod("n", "p").unwrap().running("a").unwrap().id.clone();
    agent.stop().await;
    assert_eq!(w.runtime.running("u1"), ["a"], "it runs on");
    let agent = w.agent();
    until("adopted", || agent.pod("n", "p").is_some_and(|p| p.running("a").is_some())).await;
    assert_eq!(agent.pod("n", "p").unwrap().running("a").unwrap().id, id);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(w.runtime.log.lock().iter().filter(|l| *l == "start a").count(), 1);
    agent.stop().await;
    // Deleted while no agent ran: the next one ends it.
    w.api.pods.lock().clear();
    let agent = w.agent();
    until("ended", || !w.runtime.has_sandbox("u1")).await;
    until("files are gone", || !w.root.path().join("kubelet/pods/u1").exists()).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_start_waits_with_a_reason() {
    let w = World::new();
    w.runtime.broken.lock().insert("/nope".into());
    let agent = w.agent();
    let env = json!([{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]);
    w.pod(json!({"containers": [{"name": "a", "image": "bad"}, {"name": "b", "image": "img", "command": ["/nope"]},
        {"name": "c", "image": "img", "env": env}]}));
    let waiting = |name: &str| {
        let statuses = w.api.status("p").container_statuses.unwrap_or_default();
        let state = statuses.into_iter().find(|s| s.name == name)?.state?.waiting?;
        Some((state.reason?, state.message.unwrap_or_default()))
    };
    let is = |n: &str, r: &str, m: &str| waiting(n) == Some((r.into(), m.into()));
    until("pull error", || is("a", "ErrImagePull", "no bad")).await;
    until("exec error", || {
        waiting("b").is_some_and(|w| w.0 == "RunContainerError" || w.0 == "CrashLoopBackOff")
    })
    .await;
    until("config error", || is("c", "CreateContainerConfigError", "configmaps \"cm\" not found")).await;
    let map = json!({"metadata": {"name": "cm"}, "data": {"k": "v"}});
    w.api.config_maps.lock().insert("cm".into(), serde_json::from_value(map).unwrap());
    w.api.objects.send(Reference::ConfigMap { namespace: "n".into(), name: "cm".into() }).unwrap();
    until("c runs", || w.runtime.running("u1").contains(&"c".to_owned())).await;
    assert!(w.runtime.specs.lock()[0].env.contains(&"V=v".to_owned()));
    until("pull waits", || {
        is("a", "ImagePullBackOff", "Back-off pulling image \"bad\": ErrImagePull: no bad")
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn missing_volumes_and_live_updates() {
    let w = World::new();
    let agent = w.agent();
    let volumes = json!([{"name": "v", "configMap": {"name": "cm", "defaultMode": 420}}]);
    let container = json!({"name": "a", "image": "img", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    w.pod(json!({"volumes": volumes, "containers": [container]}));
    until("event", || !w.events("FailedMount").is_empty()).await;
    assert_eq!(
        w.events("FailedMount")[0],
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmaps \"cm\" not found"
    );
    let put = |text: &str| {
        let map = json!({"metadata": {"name": "cm"}, "data": {"k": text}});
        w.api.config_maps.lock().insert("cm".into(), serde_json::from_value(map).unwrap());
        w.api.objects.send(Reference::ConfigMap { namespace: "n".into(), name: "cm".into() }).unwrap();
    };
    put("one");
    until("runs", || w.runtime.running("u1") == ["a"]).await;
    let mount = w.runtime.specs.lock()[0].mounts.iter().find(|m| m.target == "/v").unwrap().clone();
    assert!(mount.read_only);
    let file = mount.source.join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    put("two");
    until("updated", || std::fs::read_to_string(&file).is_ok_and(|t| t == "two")).await;
    agent.stop().await;
}

#[tokio::test]
async fn probes_and_hooks() {
    let w = World::new();
    w.runtime.execs.lock().insert("ready".into(), 1);
    let agent = w.agent();
    let exec = |c: &str| json!({"exec": {"command": [c]}, "periodSeconds": 1, "failureThreshold": 1});
    w.pod(json!({"terminationGracePeriodSeconds": 3, "containers": [{"name": "a", "image": "img",
        "readinessProbe": exec("ready"), "livenessProbe": exec("live"),
        "lifecycle": {"postStart": {"exec": {"command": ["post"]}}, "preStop": {"exec": {"command": ["pre"]}}}}]}));
    until("unhealthy", || {
        w.events("Unhealthy").contains(&"Unhealthy: Readiness probe failed: out".to_owned())
    })
    .await;
    assert!(!w.ready());
    w.runtime.execs.lock().insert("ready".into(), 0);
    until("ready", || w.ready()).await;
    w.runtime.execs.lock().insert("live".into(), 1);
    until("killed", || !w.events("Killing").is_empty()).await;
    assert_eq!(w.events("Killing"), ["Killing: Container a failed liveness probe, will be restarted"]);
    until("restarted", || {
        w.api.status("p").container_statuses.is_some_and(|s| s[0].restart_count == 1 && s[0].ready)
    })
    .await;
    let log = w.runtime.log.lock().clone();
    let at = |t: &str| log.iter().position(|l| l == t).unwrap_or(usize::MAX);
    assert!(
        at("start a") < at("exec post")
            && at("exec post") < at("exec pre")
            && at("exec pre") < at("stop a 3"),
        "{log:?}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn refused_pods_fail() {
    let w = World::new();
    let agent = w.agent();
    w.pod(json!({"containers": [{"name": "a", "image": "img", "resources": {"requests": {"cpu": "9999"}}}]}));
    until("failed", || w.phase() == "Failed").await;
    let s = w.api.status("p");
    assert_eq!(s.reason.as_deref(), Some("OutOfcpu"));
    assert!(s.message.unwrap().starts_with("Pod was rejected: Node didn't have enough resource: cpu"));
    assert!(w.runtime.log.lock().is_empty());
    w.delete(0);
    until("deleted", || !w.api.deleted.lock().is_empty()).await;
    agent.stop().await;
}
