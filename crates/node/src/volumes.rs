//! Volumes of a pod: made before its sandbox, kept up to date while it runs, unmounted at its end.
//!
//! Invariant: everything lies below the pod's directory (hostPath aside) and setting up again is harmless, so that a
//! restarted agent simply sets up what it finds.

pub mod atomic;
pub mod directory;
pub mod host_path;
pub mod payload;
pub mod token;

use crate::paths;
use crate::pod::field_path::Addresses;
use crate::pod::objects::Objects;
use crate::pod::security::fs_user;
use crate::pod::spec::{self, ResourceList};
use crate::ports::{NodeApi, Reference};
use base::clock::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use payload::Payload;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use token::Tokens;

/// What setting up needs besides the pod.
#[derive(Clone)]
pub struct Context {
    pub api: Arc<dyn NodeApi>,
    pub tokens: Arc<Tokens>,
    pub clock: SharedClock,
    pub pod_dir: PathBuf,
    pub addresses: Addresses,
    pub allocatable: ResourceList,
}

/// Volumes that stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounted {
    /// When a token has to be renewed.
    pub refresh_at: Option<Timestamp>,
}

/// A volume that could not be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeError {
    pub volume: String,
    pub message: String,
}

impl VolumeError {
    /// The event's text (upstream: `operation_generator.go`).
    pub fn event(&self) -> String {
        format!("MountVolume.SetUp failed for volume {:?} : {}", self.volume, self.message)
    }
}

/// Sets up all volumes of the pod; all are tried.
///
/// # Errors
/// Those that failed.
pub async fn set_up(ctx: &Context, pod: &Pod) -> Result<Mounted, Vec<VolumeError>> {
    let mut out = Mounted::default();
    let mut errors = Vec::new();
    for volume in spec::spec(pod).volumes.as_deref().unwrap_or_default() {
        match one(ctx, pod, volume).await {
            Ok(None) => {}
            Ok(Some(at)) => out.refresh_at = Some(out.refresh_at.map_or(at, |r: Timestamp| r.min(at))),
            Err(message) => errors.push(VolumeError { volume: volume.name.clone(), message }),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

/// Writes changed objects and tokens into the volumes that project them.
///
/// # Errors
/// Those that failed; what was there stays.
pub async fn refresh(ctx: &Context, pod: &Pod) -> Result<Mounted, Vec<VolumeError>> {
    set_up(ctx, pod).await
}

/// Unmounts everything below the pod's volumes and removes it.
///
/// # Errors
/// What is still mounted or could not be removed.
pub async fn tear_down(pod_dir: &Path) -> Result<(), String> {
    let dir = pod_dir.join("volumes");
    blocking(move || directory::remove(&dir)).await
}

/// Where a volume lies on the host, and whether containers may only read it.
pub fn location(pod_dir: &Path, volume: &Volume) -> Result<(PathBuf, bool), String> {
    let at = |plugin: &str, read_only| Ok((paths::volume(pod_dir, plugin, &volume.name), read_only));
    if volume.empty_dir.is_some() {
        at("kubernetes.io/empty-dir", false)
    } else if let Some(h) = &volume.host_path {
        Ok((PathBuf::from(&h.path), false))
    } else if volume.config_map.is_some() {
        at("kubernetes.io/configmap", true)
    } else if volume.secret.is_some() {
        at("kubernetes.io/secret", true)
    } else if volume.projected.is_some() {
        at("kubernetes.io/projected", true)
    } else if volume.downward_api.is_some() {
        at("kubernetes.io/downward-api", true)
    } else {
        Err(format!(
            "no volume plugin matched: the kind of volume {:?} is not supported on this node",
            volume.name
        ))
    }
}

/// The objects that the pod's volumes and environments read.
pub fn references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = spec::namespace(pod).to_owned();
    let map = |name: &str| Reference::ConfigMap { namespace: namespace.clone(), name: name.to_owned() };
    let secret = |name: &str| Reference::Secret { namespace: namespace.clone(), name: name.to_owned() };
    let mut out = BTreeSet::new();
    for v in spec::spec(pod).volumes.iter().flatten() {
        let (maps, secrets) = payload::names(v);
        out.extend(maps.into_iter().map(map));
        out.extend(secrets.into_iter().map(secret));
    }
    let ephemeral = spec::ephemeral_containers(pod);
    for c in spec::init_containers(pod).iter().chain(&spec::spec(pod).containers).chain(&ephemeral) {
        let (maps, secrets) = crate::pod::env::references(c);
        out.extend(maps.into_iter().map(map));
        out.extend(secrets.into_iter().map(secret));
    }
    out
}

async fn one(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<Option<Timestamp>, String> {
    let (dir, _) = location(&ctx.pod_dir, volume)?;
    let fs_group = spec::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
    let fs_group = fs_group.and_then(|g| u32::try_from(g).ok());
    if let Some(h) = &volume.host_path {
        let (path, kind) = (PathBuf::from(&h.path), h.type_.clone().unwrap_or_default());
        return blocking(move || host_path::check(&path, &kind)).await.map(|()| None);
    }
    if let Some(e) = &volume.empty_dir {
        let medium = directory::Medium::of(e, pod, &ctx.allocatable)?;
        return blocking(move || directory::empty_dir(&dir, &medium, fs_group)).await.map(|()| None);
    }
    let (payload, refresh_at) = collect(ctx, pod, volume).await?;
    let memory = volume.config_map.is_none();
    let now = ctx.clock.now();
    blocking(move || {
        directory::projection_dir(&dir, memory)?;
        atomic::write(&dir, &payload, fs_group, now).map_err(|e| format!("write {}: {e}", dir.display()))
    })
    .await?;
    Ok(refresh_at)
}

/// Reads what a volume projects and computes its files.
async fn collect(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<(Payload, Option<Timestamp>), String> {
    let ns = spec::namespace(pod);
    let (maps, secrets) = payload::names(volume);
    let objects = Objects::read(ctx.api.as_ref(), ns, &maps, &secrets).await;
    let mut tokens = BTreeMap::new();
    let mut refresh_at = None;
    for request in payload::tokens(volume) {
        let (token, at) = ctx.tokens.get(ctx.api.as_ref(), &ctx.clock, pod, &request).await?;
        refresh_at = Some(refresh_at.map_or(at, |r: Timestamp| r.min(at)));
        tokens.insert(request, token);
    }
    let inputs = payload::Inputs {
        pod,
        objects: &objects,
        tokens: &tokens,
        addresses: &ctx.addresses,
        allocatable: &ctx.allocatable,
        fs_user: fs_user(pod),
    };
    payload::of(&inputs, volume).map(|p| (p, refresh_at))
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(format!("volume work was cut short: {e}")),
    }
}
