//! A container's settings for the runtime, from its specification and image
//! (upstream: `kuberuntime_container.go#generateContainerConfig`, `kubelet_pods.go#makeMounts`).

use super::env::{self, Inputs};
use super::expand::expand;
use super::field_path::Addresses;
use super::objects::Objects;
use super::users::{Accounts, User};
use super::{resources, security, spec};
use crate::context::NodeContext;
use crate::ports::Image;
use crate::runtime::{ContainerSpec, Mount, PidNamespace, Propagation};
use crate::{paths, volumes};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which instance of the container is to be made.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: String,
    pub restart_count: i32,
    pub ips: Vec<IpAddr>,
    /// The running container whose processes an ephemeral one joins.
    pub target_id: Option<String>,
}

/// The settings, and what else is to be remembered.
#[derive(Debug, Clone)]
pub struct Settings {
    pub spec: ContainerSpec,
    pub user: User,
    pub termination_log: PathBuf,
}

/// Builds the settings and makes the files that they name.
///
/// # Errors
/// Upstream's text: the container waits with `CreateContainerConfigError`.
pub async fn build(
    ctx: &NodeContext,
    pod: &Pod,
    container: &Container,
    image: &Image,
    attempt: &Attempt,
) -> Result<Settings, String> {
    let vars = environment(ctx, pod, container, &attempt.ips).await?;
    let layers = image.layers.clone();
    let accounts = tokio::task::spawn_blocking(move || Accounts::read(&layers)).await;
    let accounts = accounts.map_err(|e| format!("reading the image's users was cut short: {e}"))??;
    let root = &ctx.config.root_dir;
    let (security, user) = security::security(pod, container, &image.user, &accounts, root)?;
    let pod_dir = ctx.config.pod_dir(spec::uid(pod));
    let mut mounts = volume_mounts(pod, container, &pod_dir, &vars)?;
    let termination_log = termination_file(&pod_dir, container, &attempt.id)?;
    let log_path = paths::container_log(
        &ctx.config.pod_logs_dir,
        spec::namespace(pod),
        spec::name(pod),
        spec::uid(pod),
        &container.name,
        attempt.restart_count,
    );
    if let Some(dir) = log_path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| {
            format!("create container log directory for container {} failed: {e}", container.name)
        })?;
    }
    add_file_mounts(pod, container, &pod_dir, &termination_log, &mut mounts);
    let tty = container.tty.unwrap_or(false);
    let args = arguments(container, image, &vars);
    let signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    let spec = ContainerSpec {
        id: attempt.id.clone(),
        name: container.name.clone(),
        layers: image.layers.clone(),
        args,
        env: merged_env(ctx, pod, image, vars, tty),
        cwd: working_dir(container, image),
        mounts,
        devices: Vec::new(),
        security,
        resources: resources::container_cgroup(pod, container),
        pid: pid_namespace(pod, attempt),
        oom_score_adj: resources::oom_score_adj(pod, container, ctx.memory_capacity),
        log_path,
        tty,
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        stop_signal: security::stop_signal(signal.unwrap_or(&image.stop_signal)),
    };
    Ok(Settings { spec, user, termination_log })
}

async fn environment(
    ctx: &NodeContext,
    pod: &Pod,
    container: &Container,
    ips: &[IpAddr],
) -> Result<BTreeMap<String, String>, String> {
    let (maps, secrets) = env::references(container);
    let objects = Objects::read(ctx.api.as_ref(), spec::namespace(pod), &maps, &secrets).await;
    let host = ctx.config.node_ips.clone();
    let pod_ips = if spec::host_network(pod) { host.clone() } else { ips.to_vec() };
    let allocatable = ctx.allocatable.read().clone();
    env::variables(&Inputs {
        pod,
        container,
        objects: &objects,
        services: &ctx.api.services(),
        addresses: &Addresses { pod: pod_ips, host },
        allocatable: &allocatable,
    })
}

/// Command and arguments as the container or else the image says, references replaced.
fn arguments(container: &Container, image: &Image, vars: &BTreeMap<String, String>) -> Vec<String> {
    let replace = |list: &[String]| -> Vec<String> {
        list.iter().map(|a| expand(a, |n| vars.get(n).map(String::as_str))).collect()
    };
    let command = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [replace(command), replace(args)].concat(),
        (true, false) => [image.entrypoint.clone(), replace(args)].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    }
}

fn working_dir(container: &Container, image: &Image) -> String {
    let own = container.working_dir.as_deref().filter(|d| !d.is_empty());
    let dir = own.unwrap_or(&image.workdir);
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// The image's variables, overridden by the container's.
fn merged_env(
    ctx: &NodeContext,
    pod: &Pod,
    image: &Image,
    vars: BTreeMap<String, String>,
    tty: bool,
) -> Vec<String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    all.insert("PATH".into(), DEFAULT_PATH.into());
    all.insert("HOSTNAME".into(), host_name(ctx, pod));
    if tty {
        all.insert("TERM".into(), "xterm".into());
    }
    all.extend(image.env.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
    all.extend(vars);
    all.into_iter().map(|(k, v)| format!("{k}={v}")).collect()
}

/// The pod's host name; the node's on its network.
pub fn host_name(ctx: &NodeContext, pod: &Pod) -> String {
    if spec::host_network(pod) {
        return ctx.config.node_name.clone();
    }
    let (host, domain) = spec::host_name_and_domain(pod, &ctx.config.cluster_domain);
    let fqdn = spec::spec(pod).set_hostname_as_fqdn.unwrap_or(false) && !domain.is_empty();
    if fqdn { format!("{host}.{domain}") } else { host }
}

fn pid_namespace(pod: &Pod, attempt: &Attempt) -> PidNamespace {
    if spec::spec(pod).host_pid.unwrap_or(false) {
        PidNamespace::Host
    } else if spec::spec(pod).share_process_namespace.unwrap_or(false) {
        PidNamespace::Pod
    } else if let Some(id) = &attempt.target_id {
        PidNamespace::Container(id.clone())
    } else {
        PidNamespace::Own
    }
}

fn volume_mounts(
    pod: &Pod,
    container: &Container,
    pod_dir: &Path,
    vars: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let volumes = spec::spec(pod).volumes.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    for m in container.volume_mounts.as_deref().unwrap_or_default() {
        let volume = volumes.iter().find(|v| v.name == m.name).ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", m.name, container.name)
        })?;
        let (source, must_read_only) = volumes::location(pod_dir, volume)?;
        let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let read_only = m.read_only.unwrap_or(false) || must_read_only;
        out.push(Mount {
            source,
            sub_path: sub_path(m, vars)?,
            target: absolute(&m.mount_path),
            read_only,
            recursive_read_only: recursive && m.read_only.unwrap_or(false),
            propagation: match m.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::None,
            },
        });
    }
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(m: &VolumeMount, vars: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let mut sub = m.sub_path.clone().filter(|s| !s.is_empty());
    if let Some(expr) = m.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        let missing = std::cell::RefCell::new(Vec::new());
        let expanded = expand(expr, |n| {
            let value = vars.get(n).map(String::as_str);
            if value.is_none() {
                missing.borrow_mut().push(n.to_owned());
            }
            value
        });
        if let Some(n) = missing.into_inner().first() {
            return Err(format!("missing value for {n:?}"));
        }
        sub = Some(expanded).filter(|s| !s.is_empty());
    }
    let Some(sub) = sub else { return Ok(None) };
    if sub.starts_with('/') {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if sub.split('/').any(|p| p == "..") {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    Ok(Some(sub))
}

/// The host side of the container's termination message file, writable by any user of the container.
fn termination_file(pod_dir: &Path, container: &Container, id: &str) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let dir = pod_dir.join("containers").join(&container.name);
    let file = dir.join(&id[..id.len().min(8)]);
    let made = std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&file, ""))
        .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)));
    made.map_err(|e| {
        format!("error on creating termination-log file {:?}: {e}", file.display().to_string())
    })?;
    Ok(file)
}

/// Hosts, name, resolver and termination message, where the container mounts nothing itself.
fn add_file_mounts(
    pod: &Pod,
    container: &Container,
    pod_dir: &Path,
    message: &Path,
    mounts: &mut Vec<Mount>,
) {
    let etc = |name: &str| (pod_dir.join("etc").join(name), format!("/etc/{name}"));
    let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let message_path = absolute(message_path.unwrap_or("/dev/termination-log"));
    let read_only_root =
        container.security_context.as_ref().and_then(|s| s.read_only_root_filesystem).unwrap_or(false);
    let mut files = vec![etc("hosts"), etc("resolv.conf")];
    if !spec::host_network(pod) {
        files.push(etc("hostname"));
    }
    files.push((message.to_owned(), message_path.clone()));
    for (source, target) in files {
        if mounts.iter().any(|m| m.target.trim_end_matches('/') == target) {
            continue;
        }
        let own = target == message_path || target == "/etc/hosts";
        mounts.push(Mount {
            source,
            sub_path: None,
            read_only: read_only_root && !own,
            target,
            recursive_read_only: false,
            propagation: Propagation::None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn args(container: Value) -> Vec<String> {
        let c: Container = serde_json::from_value(container).unwrap();
        let image = Image { entrypoint: vec!["e".into()], cmd: vec!["c".into()], ..Image::default() };
        arguments(&c, &image, &[("A".to_owned(), "1".to_owned())].into())
    }

    #[test]
    fn commands() {
        assert_eq!(args(json!({"name": "x"})), ["e", "c"]);
        assert_eq!(args(json!({"name": "x", "args": ["$(A)", "$(B)"]})), ["e", "1", "$(B)"]);
        assert_eq!(args(json!({"name": "x", "command": ["k"]})), ["k"]);
        assert_eq!(args(json!({"name": "x", "command": ["k"], "args": ["a"]})), ["k", "a"]);
    }

    #[test]
    fn sub_paths() {
        let get = |m: Value| {
            let mut v = json!({"name": "v", "mountPath": "/m"});
            v.as_object_mut().unwrap().extend(m.as_object().unwrap().clone());
            sub_path(&serde_json::from_value(v).unwrap(), &[("P".to_owned(), "web".to_owned())].into())
        };
        assert_eq!(get(json!({})), Ok(None));
        assert_eq!(get(json!({"subPathExpr": "$(P)/x"})), Ok(Some("web/x".into())));
        assert_eq!(get(json!({"subPathExpr": "$(Q)"})).unwrap_err(), "missing value for \"Q\"");
        assert!(get(json!({"subPath": "a/../b"})).is_err());
        assert_eq!(
            get(json!({"subPath": "/a"})).unwrap_err(),
            "error SubPath `/a` must not be an absolute path"
        );
    }
}
