//! Getting a container's image: pull policy, credentials, events (upstream: `pkg/kubelet/images/image_manager.go`,
//! `pkg/credentialprovider`).
//!
//! Back-off between failed pulls is the pod plan's; this makes one attempt.

use crate::context::NodeContext;
use crate::pod::references::container_reference;
use crate::pod::spec;
use crate::ports::{Image, ImageError, RegistryAuth};
use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// When a pull is made (upstream: `v1.PullPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The container's policy; the API has filled in the default.
    pub fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

/// Makes sure that the image is on the machine, telling the pod's events.
///
/// # Errors
/// Reason and message for the container's waiting state; `ErrImagePull` is worth a back-off.
pub async fn ensure(ctx: &NodeContext, pod: &Pod, container: &Container) -> Result<Image, ImageError> {
    let reference = container.image.as_deref().unwrap_or_default();
    let about = container_reference(pod, &container.name);
    let event = |warning, reason: &str, text: &str| ctx.api.event(&about, warning, reason, text);
    let policy = PullPolicy::of(container);
    let found = match ctx.images.find(reference).await {
        Ok(found) => found,
        Err(e) => {
            let text = if e.reason == "InvalidImageName" {
                format!("Failed to apply default image tag {reference:?}: {}", e.message)
            } else {
                format!("Failed to inspect image {reference:?}: {}", e.message)
            };
            event(true, "InspectFailed", &text);
            return Err(ImageError { reason: e.reason, message: text });
        }
    };
    match (policy, found) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => {
            let text = format!(
                "Container image {reference:?} already present on machine and can be accessed by the pod"
            );
            event(false, "Pulled", &text);
            Ok(image)
        }
        (PullPolicy::Never, None) => {
            let text = format!("Container image {reference:?} is not present with pull policy of Never");
            event(true, "ErrImageNeverPull", &text);
            Err(ImageError { reason: "ErrImageNeverPull".into(), message: text })
        }
        _ => pull(ctx, pod, reference, &event).await,
    }
}

async fn pull(
    ctx: &NodeContext,
    pod: &Pod,
    reference: &str,
    event: &(impl Fn(bool, &str, &str) + Sync),
) -> Result<Image, ImageError> {
    let auth = credentials(ctx, pod, reference).await;
    event(false, "Pulling", &format!("Pulling image {reference:?}"));
    let begin = ctx.clock.monotonic();
    let permit = ctx.pulls.acquire().await;
    let own = ctx.clock.monotonic();
    let result = ctx.images.pull(reference, &auth).await;
    drop(permit);
    let end = ctx.clock.monotonic();
    match result {
        Ok(image) => {
            let text = format!(
                "Successfully pulled image {reference:?} in {} ({} including waiting). Image size: {} bytes.",
                go_duration(end.saturating_sub(own)),
                go_duration(end.saturating_sub(begin)),
                image.size
            );
            event(false, "Pulled", &text);
            Ok(image)
        }
        Err(e) => {
            event(true, "Failed", &format!("Failed to pull image {reference:?}: {}", e.message));
            Err(e)
        }
    }
}

/// Go's text of a duration, in milliseconds.
fn go_duration(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let fraction = format!("{:03}", ms % 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{dot}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{dot}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{dot}{fraction}s"),
    }
}

/// Credentials of the pod's pull secrets that fit the image.
async fn credentials(ctx: &NodeContext, pod: &Pod, reference: &str) -> Vec<RegistryAuth> {
    let (mut out, mut missing) = (Vec::new(), Vec::new());
    for secret in spec::spec(pod).image_pull_secrets.iter().flatten().filter(|s| !s.name.is_empty()) {
        match ctx.api.secret(spec::namespace(pod), &secret.name).await {
            Ok(s) => out.extend(fitting(&entries(&s), reference)),
            Err(_) => missing.push(secret.name.clone()),
        }
    }
    if !missing.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        ctx.api.event(
            &crate::pod::references::pod_reference(pod),
            true,
            "FailedToRetrieveImagePullSecret",
            &text,
        );
    }
    out
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

impl Entry {
    fn credentials(self) -> RegistryAuth {
        let (mut username, mut password) = (self.username, self.password);
        let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok();
        let decoded = decoded.and_then(|d| String::from_utf8(d).ok());
        if let Some((u, p)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
            (username, password) = (u.to_owned(), p.trim_end_matches('\0').to_owned());
        }
        RegistryAuth { username, password, identity_token: self.identitytoken }
    }
}

/// Registry patterns and credentials of a pull secret of either type.
fn entries(secret: &Secret) -> Vec<(String, RegistryAuth)> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    let auths = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .and_then(|d| serde_json::from_slice::<DockerConfig>(d).ok())
            .map(|c| c.auths),
        Some("kubernetes.io/dockercfg") => data(".dockercfg").and_then(|d| serde_json::from_slice(d).ok()),
        _ => None,
    };
    auths.unwrap_or_default().into_iter().map(|(k, e)| (k, e.credentials())).collect()
}

/// Those that fit the image, the longest pattern first (upstream: `BasicDockerKeyring.Lookup`).
fn fitting(entries: &[(String, RegistryAuth)], reference: &str) -> Vec<RegistryAuth> {
    let image = with_registry(reference);
    let mut found: Vec<(String, RegistryAuth)> = entries
        .iter()
        .map(|(k, a)| (canonical(k), a.clone()))
        .filter(|(pattern, _)| fits(pattern, &image))
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found.into_iter().map(|(_, a)| a).collect()
}

/// The image's name with its registry in front.
fn with_registry(reference: &str) -> String {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => reference.to_owned(),
        Some(_) => format!("index.docker.io/{reference}"),
        None => format!("index.docker.io/library/{reference}"),
    }
}

fn canonical(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare {
        "docker.io" | "registry-1.docker.io" => "index.docker.io".into(),
        other => other.to_owned(),
    }
}

/// Host parts may be globs; the path is a prefix.
fn fits(pattern: &str, image: &str) -> bool {
    let split = |t: &str| match t.split_once('/') {
        Some((h, p)) => (h.to_owned(), p.to_owned()),
        None => (t.to_owned(), String::new()),
    };
    let ((host, path), (image_host, image_path)) = (split(pattern), split(image));
    let docker = |h: &str| if h == "docker.io" { "index.docker.io".to_owned() } else { h.to_owned() };
    let image_host = docker(&image_host);
    let (a, b): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), image_host.split('.').collect());
    a.len() == b.len() && a.iter().zip(&b).all(|(p, t)| glob(p, t)) && image_path.starts_with(&path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && glob(after, &rest[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_secrets() {
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "*.example.com/team": {"username": "a", "password": "b"}, "reg:5000": {"username": "c"}}}"#;
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json)}}))
            .unwrap();
        let e = entries(&secret);
        let user = |image: &str| fitting(&e, image).first().map(|a| (a.username.clone(), a.password.clone()));
        assert_eq!(user("busybox"), Some(("u".into(), "p:q".into())));
        assert_eq!(user("docker.io/library/busybox:1"), Some(("u".into(), "p:q".into())));
        assert_eq!(user("r.example.com/team/x:1"), Some(("a".into(), "b".into())));
        assert_eq!(user("r.example.com/other/x"), None);
        assert_eq!(user("a.b.example.com/team/x"), None, "a star is one part of the host");
        assert_eq!(user("reg:5000/x"), Some(("c".into(), String::new())));
    }

    #[test]
    fn durations() {
        let d = |ms| go_duration(Duration::from_millis(ms));
        assert_eq!([d(7), d(1000), d(1250), d(61_005)], ["7ms", "1s", "1.25s", "1m1.005s"]);
    }
}
