//! What the node agent needs from the rest of the program, as narrow traits.
//!
//! The agent decides what a pod needs; image storage, pod network and the API are behind these traits, so that it
//! can be tested against fakes and wired to the real crates by the program.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, Pod, Secret, Service};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc};

/// An unpacked image and the parts of its configuration that a container takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// The reference in full: `docker.io/library/busybox:1.36`.
    pub name: String,
    /// `repository@sha256:…`, empty for an imported image without one.
    pub digests: Vec<String>,
    /// Directories, uppermost first.
    pub layers: Vec<PathBuf>,
    /// `user`, `user:group`, `1000:1000` or empty.
    pub user: String,
    /// `NAME=value`
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub workdir: String,
    /// `SIGTERM`, `15` or empty.
    pub stop_signal: String,
    /// Size of the image in bytes.
    pub size: u64,
}

impl Image {
    /// What the API shows as `imageID`.
    pub fn image_ref(&self) -> &str {
        self.digests.first().map_or(&self.id, |d| d)
    }
}

/// A row of the node's list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digests and tags.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// A failed image operation. `reason` is upstream's: `ErrImagePull`, `InvalidImageName`, `ImageInspectError`, …
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    pub reason: String,
    pub message: String,
}

/// Credentials of one registry, from an image pull secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// OAuth identity token; empty when none.
    pub identity_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The node's images.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image when it is on this machine, unpacked; no network. A malformed name is `InvalidImageName`.
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError>;

    /// Fetches the image, trying the credentials in order and then none.
    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, ImageError>;

    async fn list(&self) -> Vec<ImageSummary>;
}

/// A port of the node that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

#[derive(Debug, Clone)]
pub struct PodNetRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub host_ports: Vec<HostPort>,
    /// Addresses that the pod had before a restart of the program: to be kept.
    pub existing: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// File that pins the network namespace.
    pub netns: PathBuf,
    /// One per family, the primary family first.
    pub ips: Vec<IpAddr>,
}

/// The pod network. Both calls are idempotent; `setup` of a pod that is set up returns what it has.
#[async_trait]
pub trait PodNet: Send + Sync + 'static {
    async fn setup(&self, request: &PodNetRequest) -> Result<PodNetwork, String>;

    async fn teardown(&self, uid: &str) -> Result<(), String>;

    /// Why pods cannot be connected yet; the node is not Ready as long as there is a reason.
    fn not_ready(&self) -> Option<String> {
        None
    }
}

/// An object that a pod of this node reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    ConfigMap { namespace: String, name: String },
    Secret { namespace: String, name: String },
}

/// A change of a pod that is bound to this node.
#[derive(Debug, Clone)]
pub enum PodChange {
    Applied(Arc<Pod>),
    Deleted(Arc<Pod>),
    /// Changes were left out: look at [`NodeApi::pods`].
    Resync,
}

pub type ApiResult<T> = Result<T, meta::Status>;

/// The API as the node agent uses it, acting as `system:node:<name>`.
#[async_trait]
pub trait NodeApi: Send + Sync + 'static {
    /// Waits until pods and services have been read once.
    async fn synced(&self);

    /// Pods bound to this node, from the local copy.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// Changes from now on.
    fn pod_changes(&self) -> mpsc::Receiver<PodChange>;

    /// All services, from the local copy.
    fn services(&self) -> Vec<Arc<Service>>;

    /// Asks the API for a pod: what is decided on it must not rest on an old copy.
    async fn get_pod(&self, namespace: &str, name: &str) -> ApiResult<Pod>;

    async fn config_map(&self, namespace: &str, name: &str) -> ApiResult<Arc<ConfigMap>>;

    async fn secret(&self, namespace: &str, name: &str) -> ApiResult<Arc<Secret>>;

    /// The objects whose changes matter to a pod; replaces what was said before, an empty set ends it.
    fn track(&self, pod_uid: &str, references: BTreeSet<Reference>);

    /// Changes of tracked objects.
    fn object_changes(&self) -> broadcast::Receiver<Reference>;

    /// Strategic merge patch of the pod's status subresource.
    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> ApiResult<Pod>;

    /// Deletes with grace 0 and the uid as precondition.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> ApiResult<()>;

    async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        request: &TokenRequest,
    ) -> ApiResult<TokenRequest>;

    /// Tells something about an object, without waiting; equal events are counted by the sink.
    fn event(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str);

    async fn get_node(&self, name: &str) -> ApiResult<Node>;

    async fn create_node(&self, node: &Node) -> ApiResult<Node>;

    /// Strategic merge patch of labels, taints and the like.
    async fn patch_node(&self, name: &str, patch: &serde_json::Value) -> ApiResult<Node>;

    /// Strategic merge patch of the status subresource.
    async fn patch_node_status(&self, name: &str, patch: &serde_json::Value) -> ApiResult<Node>;

    async fn get_lease(&self, namespace: &str, name: &str) -> ApiResult<Lease>;

    async fn create_lease(&self, lease: &Lease) -> ApiResult<Lease>;

    async fn update_lease(&self, lease: &Lease) -> ApiResult<Lease>;
}
