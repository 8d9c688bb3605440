//! Fakes of everything around the agent, for tests.

use crate::ports::{
    ApiResult, Image, ImageError, ImageSummary, Images, NodeApi, PodChange, PodNet, PodNetRequest,
    PodNetwork, Reference, RegistryAuth,
};
use crate::runtime::{
    ContainerSpec, ContainerState, ExecSpec, Phase, Resources, Runtime, RuntimeError, RuntimeEvent,
    SandboxSpec, Streams, Usage,
};
use async_trait::async_trait;
use base::clock::Clock;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, Pod, Secret, Service};
use meta::{GroupResource, Status};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Containers by pod; they run until told to end. A stop ends them at once with 143.
pub struct FakeRuntime {
    pods: Mutex<BTreeMap<String, BTreeMap<String, ContainerState>>>,
    pub specs: Mutex<Vec<ContainerSpec>>,
    pub log: Mutex<Vec<String>>,
    /// Commands of containers that cannot be executed.
    pub broken: Mutex<BTreeSet<String>>,
    /// Exit codes of `exec_sync` by the first argument; 0 when not listed.
    pub execs: Mutex<BTreeMap<String, i32>>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl FakeRuntime {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pods: Mutex::default(),
            specs: Mutex::default(),
            log: Mutex::default(),
            broken: Mutex::default(),
            execs: Mutex::default(),
            events: broadcast::channel(64).0,
        })
    }

    fn note(&self, text: String) {
        self.log.lock().push(text);
    }

    /// Ends the running container of that name.
    pub fn end(&self, uid: &str, name: &str, exit_code: i32) {
        let id = {
            let mut pods = self.pods.lock();
            let containers = pods.get_mut(uid).into_iter().flat_map(|p| p.values_mut());
            let mut running = containers.filter(|c| c.name == name && c.phase == Phase::Running);
            let c = running.next().expect("a running container");
            c.phase = Phase::Exited;
            c.exit_code = exit_code;
            c.finished_ns = crate::pod::model::to_ns(base::clock::SystemClock::new().now());
            c.id.clone()
        };
        let _ = self.events.send(RuntimeEvent { pod_uid: uid.into(), container_id: id });
    }

    pub fn running(&self, uid: &str) -> Vec<String> {
        let pods = self.pods.lock();
        let all = pods.get(uid).into_iter().flat_map(|p| p.values());
        all.filter(|c| c.phase == Phase::Running).map(|c| c.name.clone()).collect()
    }

    pub fn has_sandbox(&self, uid: &str) -> bool {
        self.pods.lock().contains_key(uid)
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError> {
        self.note(format!("sandbox {} {}", spec.name, spec.cgroup));
        self.pods.lock().entry(spec.pod_uid.clone()).or_default();
        Ok(())
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        self.note("remove sandbox".into());
        self.pods.lock().remove(pod_uid);
        Ok(())
    }

    async fn start_container(
        &self,
        pod_uid: &str,
        spec: &ContainerSpec,
    ) -> Result<ContainerState, RuntimeError> {
        if self.broken.lock().contains(&spec.args[0]) {
            let why = format!("exec {}: no such file or directory", spec.args[0]);
            return Err(RuntimeError { what: format!("start {}", spec.name), why, container_fault: true });
        }
        self.note(format!("start {}", spec.name));
        self.specs.lock().push(spec.clone());
        let state = ContainerState {
            id: spec.id.clone(),
            name: spec.name.clone(),
            phase: Phase::Running,
            pid: 1,
            started_ns: crate::pod::model::to_ns(base::clock::SystemClock::new().now()),
            finished_ns: 0,
            exit_code: 0,
            signal: 0,
            oom_killed: false,
        };
        self.pods.lock().entry(pod_uid.into()).or_default().insert(spec.id.clone(), state.clone());
        Ok(state)
    }

    async fn stop_container(&self, pod_uid: &str, id: &str, grace_seconds: u64) -> Result<(), RuntimeError> {
        let name = {
            let pods = self.pods.lock();
            pods.get(pod_uid)
                .and_then(|p| p.get(id))
                .filter(|c| c.phase == Phase::Running)
                .map(|c| c.name.clone())
        };
        if let Some(name) = name {
            self.note(format!("stop {name} {grace_seconds}"));
            // What made a probe fail is gone with the container.
            self.execs.lock().remove("live");
            self.end(pod_uid, &name, 143);
        }
        Ok(())
    }

    async fn remove_container(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        if let Some(pod) = self.pods.lock().get_mut(pod_uid) {
            pod.remove(id);
        }
        Ok(())
    }

    async fn update_container(&self, _: &str, _: &str, _: &Resources) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn state(&self, pod_uid: &str) -> Result<Option<Vec<ContainerState>>, RuntimeError> {
        Ok(self.pods.lock().get(pod_uid).map(|p| p.values().cloned().collect()))
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxSpec>, RuntimeError> {
        let pods = self.pods.lock();
        Ok(pods
            .keys()
            .map(|uid| SandboxSpec {
                pod_uid: uid.clone(),
                namespace: String::new(),
                name: String::new(),
                hostname: String::new(),
                netns: None,
                host_pid: false,
                host_ipc: false,
                share_pid: false,
                cgroup: String::new(),
                resources: Resources::default(),
                sysctls: BTreeMap::new(),
            })
            .collect())
    }

    async fn exec(&self, _: &str, _: &ExecSpec) -> Result<Streams, RuntimeError> {
        Err(RuntimeError { what: "exec".into(), why: "not faked".into(), container_fault: false })
    }

    async fn exec_wait(&self, _: &str, _: &str) -> Result<i32, RuntimeError> {
        Ok(0)
    }

    async fn exec_sync(
        &self,
        _: &str,
        _: &str,
        args: &[String],
        _: Duration,
    ) -> Result<(i32, Vec<u8>), RuntimeError> {
        self.note(format!("exec {}", args.join(" ")));
        Ok((self.execs.lock().get(&args[0]).copied().unwrap_or(0), b"out".to_vec()))
    }

    async fn attach(&self, _: &str, _: &str) -> Result<Streams, RuntimeError> {
        Err(RuntimeError { what: "attach".into(), why: "not faked".into(), container_fault: false })
    }

    async fn resize(&self, _: &str, _: &str, _: u16, _: u16) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn reopen_log(&self, _: &str, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn usage(&self, _: &str, _: Option<&str>) -> Result<Usage, RuntimeError> {
        Ok(Usage::default())
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}

/// An API that holds pods and objects and notes what was done.
pub struct FakeApi {
    pub pods: Mutex<BTreeMap<String, Pod>>,
    pub config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    pub events: Mutex<Vec<String>>,
    pub deleted: Mutex<Vec<String>>,
    pub nodes: Mutex<BTreeMap<String, Node>>,
    pub leases: Mutex<Vec<Lease>>,
    changes: Mutex<Option<mpsc::Sender<PodChange>>>,
    pub objects: broadcast::Sender<Reference>,
}

impl FakeApi {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pods: Mutex::default(),
            config_maps: Mutex::default(),
            events: Mutex::default(),
            deleted: Mutex::default(),
            nodes: Mutex::default(),
            leases: Mutex::default(),
            changes: Mutex::default(),
            objects: broadcast::channel(16).0,
        })
    }

    fn announce(&self, change: PodChange) {
        if let Some(tx) = &*self.changes.lock() {
            tx.try_send(change).expect("room for a change");
        }
    }

    /// Creates or changes a pod.
    pub fn put(&self, mut pod: Pod) {
        let name = pod.metadata.name.clone().unwrap();
        let mut pods = self.pods.lock();
        let version: u64 =
            pods.get(&name).and_then(|p| p.metadata.resource_version.as_deref()?.parse().ok()).unwrap_or(0);
        pod.metadata.resource_version = Some((version + 1).to_string());
        pods.insert(name, pod.clone());
        drop(pods);
        self.announce(PodChange::Applied(Arc::new(pod)));
    }

    pub fn status(&self, name: &str) -> k8s_openapi::api::core::v1::PodStatus {
        self.pods.lock().get(name).and_then(|p| p.status.clone()).unwrap_or_default()
    }

    fn missing(kind: &str, name: &str) -> Status {
        Status::not_found(&GroupResource { group: String::new(), resource: kind.into() }, name)
    }
}

/// Good enough here: maps are merged, conditions by type, everything else replaced; null removes.
fn merge(into: &mut Value, patch: &Value) {
    let (Some(a), Some(b)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (k, v) in b {
        match (k.as_str(), v) {
            (_, Value::Null) => {
                a.remove(k);
            }
            ("$patch", _) => {}
            ("conditions", Value::Array(list)) => {
                let have = a.entry(k.clone()).or_insert_with(|| Value::Array(vec![]));
                let have = have.as_array_mut().unwrap();
                for c in list {
                    match have.iter_mut().find(|h| h["type"] == c["type"]) {
                        Some(h) => merge(h, c),
                        None => have.push(c.clone()),
                    }
                }
            }
            (_, Value::Object(_)) => {
                merge(a.entry(k.clone()).or_insert_with(|| Value::Object(Default::default())), v)
            }
            (_, Value::Array(list)) => {
                let rest = list.iter().filter(|i| i.get("$patch").is_none()).cloned().collect::<Vec<_>>();
                a.insert(k.clone(), rest.into());
            }
            _ => {
                a.insert(k.clone(), v.clone());
            }
        }
    }
}

#[async_trait]
impl NodeApi for FakeApi {
    async fn synced(&self) {}

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().cloned().map(Arc::new).collect()
    }

    fn pod_changes(&self) -> mpsc::Receiver<PodChange> {
        let (tx, rx) = mpsc::channel(256);
        *self.changes.lock() = Some(tx);
        rx
    }

    fn services(&self) -> Vec<Arc<Service>> {
        Vec::new()
    }

    async fn get_pod(&self, _: &str, name: &str) -> ApiResult<Pod> {
        self.pods.lock().get(name).cloned().ok_or_else(|| Self::missing("pods", name))
    }

    async fn config_map(&self, _: &str, name: &str) -> ApiResult<Arc<ConfigMap>> {
        let found = self.config_maps.lock().get(name).cloned();
        found.map(Arc::new).ok_or_else(|| Self::missing("configmaps", name))
    }

    async fn secret(&self, _: &str, name: &str) -> ApiResult<Arc<Secret>> {
        Err(Self::missing("secrets", name))
    }

    fn track(&self, _: &str, _: BTreeSet<Reference>) {}

    fn object_changes(&self) -> broadcast::Receiver<Reference> {
        self.objects.subscribe()
    }

    async fn patch_pod_status(&self, _: &str, name: &str, patch: &Value) -> ApiResult<Pod> {
        let pod = {
            let mut pods = self.pods.lock();
            let pod = pods.get_mut(name).ok_or_else(|| Self::missing("pods", name))?;
            let mut value = serde_json::to_value(&*pod).unwrap();
            merge(&mut value, patch);
            *pod = serde_json::from_value(value).unwrap();
            pod.clone()
        };
        self.put(pod.clone());
        Ok(pod)
    }

    async fn delete_pod(&self, _: &str, name: &str, uid: &str) -> ApiResult<()> {
        let pod = self.pods.lock().remove(name).ok_or_else(|| Self::missing("pods", name))?;
        assert_eq!(pod.metadata.uid.as_deref(), Some(uid));
        self.deleted.lock().push(name.into());
        self.announce(PodChange::Deleted(Arc::new(pod)));
        Ok(())
    }

    async fn create_token(&self, _: &str, name: &str, _: &TokenRequest) -> ApiResult<TokenRequest> {
        Err(Self::missing("serviceaccounts", name))
    }

    fn event(&self, about: &ObjectReference, _: bool, reason: &str, message: &str) {
        if about.kind.as_deref() == Some("Pod") {
            self.events.lock().push(format!("{reason}: {message}"));
        }
    }

    async fn get_node(&self, name: &str) -> ApiResult<Node> {
        self.nodes.lock().get(name).cloned().ok_or_else(|| Self::missing("nodes", name))
    }

    async fn create_node(&self, node: &Node) -> ApiResult<Node> {
        self.nodes.lock().insert(node.metadata.name.clone().unwrap(), node.clone());
        Ok(node.clone())
    }

    async fn patch_node(&self, name: &str, _: &Value) -> ApiResult<Node> {
        self.get_node(name).await
    }

    async fn patch_node_status(&self, name: &str, _: &Value) -> ApiResult<Node> {
        self.get_node(name).await
    }

    async fn get_lease(&self, _: &str, name: &str) -> ApiResult<Lease> {
        Err(Self::missing("leases", name))
    }

    async fn create_lease(&self, lease: &Lease) -> ApiResult<Lease> {
        self.leases.lock().push(lease.clone());
        Ok(lease.clone())
    }

    async fn update_lease(&self, lease: &Lease) -> ApiResult<Lease> {
        Ok(lease.clone())
    }
}

/// One image, `img`, whose command is `/run`; `bad` cannot be pulled.
#[derive(Default)]
pub struct FakeImages;

#[async_trait]
impl Images for FakeImages {
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let image = Image {
            id: "sha256:1".into(),
            name: format!("docker.io/library/{reference}:latest"),
            entrypoint: vec!["/run".into()],
            workdir: "/".into(),
            ..Image::default()
        };
        Ok((reference == "img").then_some(image))
    }

    async fn pull(&self, reference: &str, _: &[RegistryAuth]) -> Result<Image, ImageError> {
        Err(ImageError { reason: "ErrImagePull".into(), message: format!("no {reference}") })
    }

    async fn list(&self) -> Vec<ImageSummary> {
        Vec::new()
    }
}

/// Every pod gets 10.0.0.1.
#[derive(Default)]
pub struct FakeNet {
    pub down: Mutex<Vec<String>>,
}

#[async_trait]
impl PodNet for FakeNet {
    async fn setup(&self, _: &PodNetRequest) -> Result<PodNetwork, String> {
        Ok(PodNetwork { netns: "/none".into(), ips: vec!["10.0.0.1".parse().unwrap()] })
    }

    async fn teardown(&self, uid: &str) -> Result<(), String> {
        self.down.lock().push(uid.into());
        Ok(())
    }
}
