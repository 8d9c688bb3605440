//! Annotations of pods and templates that mean something (upstream: `ValidatePodSpecificAnnotations`).

use super::allowed::Allowed;
use super::containers::all;
use super::mounts::descending;
use super::scheduling;
use crate::validate::text;
use meta::field::{Error, ErrorList, Path, quoted};
use meta::yaml;
use serde_json::Value;

/// Marks a pod that a node runs by itself.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Where the profile of a container used to be named.
pub const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Errors of the annotations of a pod or template; `old` are those of the object before an update.
pub fn errors(obj: &Value, old: Option<&Value>, at: &Path, errors: &mut ErrorList) {
    let (map, spec) = (&obj["metadata"]["annotations"], &obj["spec"]);
    if let Some(source) = map[MIRROR].as_str()
        && text(spec, "nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(Error::invalid(&at.key(MIRROR), source, detail));
    }
    if let Some(list) = map[TOLERATIONS].as_str().filter(|l| !l.is_empty()) {
        match yaml::parse_json(list.as_bytes()) {
            Err(e) => errors.push(Error::invalid(at, TOLERATIONS, e.to_string())),
            Ok((list, _)) => {
                let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
                scheduling::tolerations(list, &Allowed::default(), &at.child(TOLERATIONS), errors);
            }
        }
    }
    let bad = |map: &Value| map[COST].as_str().filter(|cost| !is_cost(cost)).map(str::to_owned);
    let kept = old.is_some_and(|old| bad(&old["metadata"]["annotations"]).is_some());
    if let Some(cost) = bad(map).filter(|_| !kept) {
        errors.push(Error::invalid(&at.key(COST), cost, "must be a 32bit integer"));
    }
    for (key, profile) in map.as_object().into_iter().flatten() {
        let profile = profile.as_str().unwrap_or("");
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(profile, &at.child(key), errors);
        }
    }
    apparmor(map, spec, at, errors);
}

/// A number that fits into 32 bits, without anything before its digits but a minus.
fn is_cost(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b == b'-' || (b'1'..=b'9').contains(&b));
    (first || text == "0") && text.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, at: &Path, errors: &mut ErrorList) {
    if let Some(local) = profile.strip_prefix("localhost/") {
        descending(local, at, errors);
    } else if !matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        errors.push(Error::invalid(at, profile, "must be a valid seccomp profile"));
    }
}

fn apparmor(map: &Value, spec: &Value, at: &Path, errors: &mut ErrorList) {
    for (key, profile) in map.as_object().into_iter().flatten() {
        let Some(container) = key.strip_prefix(APPARMOR) else { continue };
        let (at, profile) = (at.key(key), profile.as_str().unwrap_or(""));
        if !all(spec, &Path::root()).iter().any(|(c, _)| text(c, "name") == container) {
            errors.push(Error::invalid(&at, container, "container not found"));
        }
        let known = matches!(profile, "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {profile}", profile = quoted(profile));
            errors.push(Error::invalid(&at, profile, detail));
        }
    }
}

/// Annotations and fields that name the same profile name the same one (upstream:
/// `validateSeccompAnnotationsAndFields`, `validateAppArmorAnnotationsAndFieldsMatchOnCreate`).
pub fn agree(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let (map, spec) = (&obj["metadata"]["annotations"], &obj["spec"]);
    let context = &spec["securityContext"];
    let mut seccomp = |key: &str, context: &Value, at: &Path| {
        let own = &context["seccompProfile"];
        if let Some(told) = map[key].as_str().filter(|_| own.is_object()) {
            matches(
                told,
                own,
                &["runtime/default", "docker/default"],
                "seccomp",
                &at.child("seccompProfile"),
                errors,
            );
        }
    };
    seccomp(SECCOMP_POD, context, &path.child("securityContext"));
    for (c, at) in all(spec, path) {
        let key = format!("{SECCOMP_CONTAINER}{}", text(c, "name"));
        seccomp(&key, &c["securityContext"], &at.child("securityContext"));
    }
    if spec["os"]["name"] == "windows" {
        return;
    }
    for (c, at) in all(spec, path) {
        let own = &c["securityContext"]["appArmorProfile"];
        let own = if own.is_null() { &context["appArmorProfile"] } else { own };
        let key = format!("{APPARMOR}{}", text(c, "name"));
        if let Some(told) = map[key.as_str()].as_str().filter(|_| own.is_object()) {
            let at = at.child("securityContext").child("appArmorProfile");
            matches(told, own, &["runtime/default"], "apparmor", &at, errors);
        }
    }
}

fn matches(told: &str, own: &Value, defaults: &[&str], what: &str, at: &Path, errors: &mut ErrorList) {
    let local = told.strip_prefix("localhost/");
    let same = match text(own, "type") {
        "Unconfined" => told == "unconfined",
        "RuntimeDefault" => defaults.contains(&told),
        "Localhost" => local.is_some(),
        _ => true,
    };
    if !same {
        let detail = format!("{what} type in annotation and field must match");
        errors.push(Error::forbidden(&at.child("type"), detail));
    } else if text(own, "type") == "Localhost" && own["localhostProfile"].as_str() != local {
        let detail = format!("{what} profile in annotation and field must match");
        errors.push(Error::forbidden(&at.child("localhostProfile"), detail));
    }
}

/// What an update may not change (upstream: `ValidatePodSpecificAnnotationUpdates`).
pub fn update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let at = Path::new("metadata").child("annotations");
    let (is, was) = (&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
    let keys = |map: &Value| -> Vec<String> {
        let all = map.as_object().into_iter().flatten().map(|(k, _)| k.clone());
        all.filter(|k| k == MIRROR || k.starts_with(APPARMOR)).collect()
    };
    for key in keys(was).iter().filter(|k| is[k.as_str()] != was[k.as_str()]) {
        let detail = match key.as_str() {
            MIRROR => "may not remove or update mirror pod annotation",
            _ => "may not remove or update AppArmor annotations",
        };
        errors.push(Error::forbidden(&at.key(key), detail));
    }
    for key in keys(is).iter().filter(|k| was[k.as_str()].is_null()) {
        let detail = match key.as_str() {
            MIRROR => "may not add mirror pod annotation",
            _ => "may not add AppArmor annotations",
        };
        errors.push(Error::forbidden(&at.key(key), detail));
    }
    self::errors(new, Some(old), &at, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(all: ErrorList) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidatePod`, annotation cases.
    #[test]
    fn annotations_that_mean_something() {
        let pod = |annotations: Value| {
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c",
                "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}}]}})
        };
        let found = |annotations: Value| {
            let mut all = Vec::new();
            errors(&pod(annotations.clone()), None, &Path::new("a"), &mut all);
            agree(&pod(annotations), &Path::new("spec"), &mut all);
            texts(all)
        };
        assert!(found(json!({COST: "-5", format!("{APPARMOR}c"): "unconfined"})).is_empty());
        assert_eq!(
            found(json!({COST: "+5", MIRROR: "", format!("{APPARMOR}d"): "x"})),
            [
                "a[kubernetes.io/config.mirror]: Invalid value: \"\": must set spec.nodeName if mirror pod annotation is set",
                "a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+5\": must be a 32bit integer",
                "a[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"d\": container not found",
                "a[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"x\": invalid AppArmor profile name: \"x\"",
            ]
        );
        assert_eq!(
            found(json!({format!("{SECCOMP_CONTAINER}c"): "localhost/y"})),
            [
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match"
            ]
        );
        let mut all = Vec::new();
        update(&pod(json!({MIRROR: "y"})), &pod(json!({MIRROR: "x", format!("{APPARMOR}c"): ""})), &mut all);
        assert_eq!(all.len(), 3, "{all:?}");
    }
}
