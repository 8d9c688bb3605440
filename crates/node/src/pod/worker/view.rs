//! What the rest of the node may see of its pods: container ids, states, log files.

use crate::pod::model::{Instance, Local};
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// One start of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerView {
    pub name: String,
    pub id: String,
    pub running: bool,
    pub restart_count: i32,
    pub log_path: PathBuf,
}

impl ContainerView {
    fn of(i: &Instance) -> Self {
        Self {
            name: i.name.clone(),
            id: i.id.clone(),
            running: i.running(),
            restart_count: i.restart_count,
            log_path: i.log_path.clone(),
        }
    }
}

/// A pod of this node.
#[derive(Debug, Clone)]
pub struct PodView {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The specification as last read from the API.
    pub pod: Arc<Pod>,
    /// The status as last made, which may be ahead of the API's.
    pub status: PodStatus,
    /// The pod's own addresses; none on the node's network.
    pub ips: Vec<IpAddr>,
    /// Whether a sandbox exists (port forwarding, statistics).
    pub sandbox: bool,
    containers: Vec<ContainerView>,
}

impl PodView {
    pub(super) fn of(pod: &Arc<Pod>, local: &Local, status: &PodStatus) -> Self {
        Self {
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            name: spec::name(pod).to_owned(),
            pod: pod.clone(),
            status: status.clone(),
            ips: local.record.ips.clone(),
            sandbox: local.sandbox == crate::pod::model::Step::Done,
            containers: local.record.instances.iter().map(ContainerView::of).collect(),
        }
    }

    /// All starts on record, at most two per container, the older first.
    pub fn containers(&self) -> &[ContainerView] {
        &self.containers
    }

    /// The latest start of a container.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().rev().find(|c| c.name == name)
    }

    /// The start before the latest: whose log `--previous` shows.
    pub fn previous(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().rev().filter(|c| c.name == name).nth(1)
    }

    /// The container of that name if it runs.
    pub fn running(&self, name: &str) -> Option<&ContainerView> {
        self.container(name).filter(|c| c.running)
    }
}

/// The pods of a node, shared with its HTTPS endpoint. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Views(Arc<RwLock<BTreeMap<String, Arc<PodView>>>>);

impl Views {
    pub(super) fn set(&self, view: PodView) {
        self.0.write().insert(view.uid.clone(), Arc::new(view));
    }

    pub(super) fn remove(&self, uid: &str) {
        self.0.write().remove(uid);
    }

    pub fn by_uid(&self, uid: &str) -> Option<Arc<PodView>> {
        self.0.read().get(uid).cloned()
    }

    /// The pod of that name; of several (one ending, one new) the youngest.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let views = self.0.read();
        let of_name = views.values().filter(|v| v.namespace == namespace && v.name == name);
        of_name.max_by_key(|v| v.pod.metadata.creation_timestamp.as_ref().map(|t| t.0)).cloned()
    }

    pub fn all(&self) -> Vec<Arc<PodView>> {
        self.0.read().values().cloned().collect()
    }
}
