//! The status that a node reports (upstream: `ValidatePodStatusUpdate`).

use super::annotations;
use crate::helpers::{dns_label_errors, dns_subdomain_errors, qualified_name_errors};
use crate::ip;
use crate::status::reason_errors;
use crate::validate::{items, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

const STATUSES: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
const ENDED: &str = "may not be transitioned to non-terminated state";
const COUNTED: &str = "must be a non-negative integer";
const MESSAGE_BYTES_MAX: usize = 1024;
const UID_MAX: i64 = u32::MAX as i64;

/// Errors of a new status.
pub fn errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    annotations::update(new, old, &mut errors);
    let path = Path::new("status");
    let (is, was, spec) = (&new["status"], &old["status"], &old["spec"]);
    conditions(is, &path.child("conditions"), &mut errors);
    if text(&new["spec"], "nodeName") != text(spec, "nodeName") {
        errors.push(Error::forbidden(&path.child("nodeName"), "may not be changed directly"));
    }
    let (name, at) = (text(is, "nominatedNodeName"), path.child("nominatedNodeName"));
    if !name.is_empty() && name != text(was, "nominatedNodeName") {
        told(name, dns_subdomain_errors(name, false), &at, &mut errors);
        if !text(spec, "nodeName").is_empty() {
            let detail = "may not be set on pods that are already bound to a node";
            errors.push(Error::forbidden(&at, detail));
        }
    }
    if let Some(n) = is["observedGeneration"].as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child("observedGeneration"), n, COUNTED));
    }
    if text(is, "qosClass") != text(was, "qosClass") {
        errors.push(Error::invalid(&path.child("qosClass"), text(is, "qosClass"), "field is immutable"));
    }
    for (list, containers) in STATUSES.into_iter().zip(["containers", "initContainers", ""]) {
        ended(items(is, list), items(was, list), spec, containers, &path.child(list), &mut errors);
    }
    claims(is, &new["spec"], &path, &mut errors);
    health(is, &new["spec"], &path.child("volumeHealth"), &mut errors);
    addresses(is, was, ("podIP", "podIPs"), &path, &mut errors);
    addresses(is, was, ("hostIP", "hostIPs"), &path, &mut errors);
    let windows = new["spec"]["os"]["name"] == "windows";
    for list in STATUSES {
        users(items(is, list), windows, &path.child(list), &mut errors);
    }
    for (list, containers) in STATUSES.into_iter().zip(["containers", "initContainers"]) {
        allocated(is, list, items(&new["spec"], containers), &path.child(list), &mut errors);
    }
    let (list, at) = (STATUSES[2], path.child(STATUSES[2]));
    for (i, _) in
        items(is, list).iter().enumerate().filter(|(_, s)| !items(s, "allocatedResourcesStatus").is_empty())
    {
        let detail = "must not be specified in container status";
        errors.push(Error::forbidden(&at.index(i).child("allocatedResourcesStatus"), detail));
    }
    errors
}

fn conditions(status: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, c) in items(status, "conditions").iter().enumerate() {
        let (at, kind) = (path.index(i), text(c, "type"));
        if let Some(n) = c["observedGeneration"].as_i64().filter(|n| *n < 0) {
            errors.push(Error::invalid(&at.child("observedGeneration"), n, COUNTED));
        }
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            told(kind, qualified_name_errors(kind), &at.child("Type"), errors);
        }
    }
}

/// What has ended and is not started again stays so (upstream: `ValidateContainerStateTransition`).
fn ended(is: &[Value], was: &[Value], spec: &Value, list: &str, path: &Path, errors: &mut ErrorList) {
    if !list.is_empty() && all_restart(spec) {
        return;
    }
    for (i, before) in was.iter().enumerate() {
        let terminated = &before["state"]["terminated"];
        let same = is.iter().find(|s| s["name"] == before["name"] && s["state"]["terminated"].is_null());
        if terminated.is_null() || same.is_none() {
            continue;
        }
        let container = items(spec, list).iter().find(|c| c["name"] == before["name"]);
        let code = terminated["exitCode"].as_i64().unwrap_or(0);
        if !container.is_some_and(|c| restarts(c, spec, code)) {
            errors.push(Error::forbidden(&path.index(i).child("state"), ENDED));
        }
    }
}

/// Whether a rule of some container starts all again (upstream: `AllContainersCouldRestart`).
fn all_restart(spec: &Value) -> bool {
    let all = items(spec, "containers").iter().chain(items(spec, "initContainers"));
    all.flat_map(|c| items(c, "restartPolicyRules")).any(|r| r["action"] == "RestartAllContainers")
}

/// Upstream: `pkg/api/v1/pod/util.go#ContainerShouldRestart`.
fn restarts(c: &Value, spec: &Value, code: i64) -> bool {
    for rule in items(c, "restartPolicyRules") {
        let codes = &rule["exitCodes"];
        let listed = items(codes, "values").iter().any(|v| v.as_i64() == Some(code));
        let matched = match text(codes, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matched && rule["action"] == "Restart" {
            return true;
        }
    }
    let policy = c["restartPolicy"].as_str().unwrap_or(text(spec, "restartPolicy"));
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn claims(status: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    let at = path.child("resourceClaimStatuses");
    for (i, s) in items(status, "resourceClaimStatuses").iter().enumerate() {
        let (at, name) = (at.index(i), text(s, "name"));
        if !items(spec, "resourceClaims").iter().any(|c| text(c, "name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(Error::invalid(&at.child("name"), name, detail));
        }
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
        if let Some(claim) = s["resourceClaimName"].as_str() {
            told(claim, dns_subdomain_errors(claim, false), &at.child("resourceClaimName"), errors);
        }
    }
    let extended = &status["extendedResourceClaimStatus"];
    if extended.is_object() {
        extended_claim(extended, spec, &path.child("extendedResourceClaimStatus"), errors);
    }
}

/// Upstream: `validatePodExtendedResourceClaimStatus`.
fn extended_claim(status: &Value, spec: &Value, at: &Path, errors: &mut ErrorList) {
    let list = at.child("requestMappings");
    let mappings = items(status, "requestMappings");
    if mappings.is_empty() {
        errors.push(Error::required(&list, "at least one request mapping is required"));
    }
    for (i, m) in mappings.iter().enumerate() {
        let path = list.index(i);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|f| text(m, f));
        let mut all = items(spec, "containers").iter().chain(items(spec, "initContainers"));
        match all.find(|c| text(c, "name") == container) {
            None => {
                let detail =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.push(Error::invalid(&path.child("containerName"), container, detail));
            }
            Some(c) if c["resources"]["requests"][resource].is_null() => {
                let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.push(Error::invalid(&path.child("resourceName"), resource, detail));
            }
            Some(_) => {}
        }
        told(request, dns_label_errors(request, false), &at.child("requestName"), errors);
        if mappings[..i].contains(m) {
            for (field, value) in
                [("containerName", container), ("resourceName", resource), ("requestName", request)]
            {
                errors.push(Error::duplicate(&path.child(field), value));
            }
        }
    }
    let (name, at) = (text(status, "resourceClaimName"), at.child("resourceClaimName"));
    if name.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        told(name, dns_subdomain_errors(name, false), &at, errors);
    }
}

fn health(status: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, h) in items(status, "volumeHealth").iter().enumerate() {
        let (at, name) = (path.index(i), text(h, "name"));
        if !name.is_empty() && !items(spec, "volumes").iter().any(|v| text(v, "name") == name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        for (j, c) in
            items(h, "healthConditions").iter().enumerate().filter(|(_, c)| !text(c, "reason").is_empty())
        {
            let (reason, at) = (text(c, "reason"), at.child("healthConditions").index(j).child("reason"));
            errors.extend(reason_errors(reason).map(|m| Error::invalid(&at, reason, m)));
        }
    }
}

/// One address of each family, the first of which has a field of its own.
fn addresses(is: &Value, was: &Value, (one, list): (&str, &str), path: &Path, errors: &mut ErrorList) {
    let (at, of_host) = (path.child(list), list == "hostIPs");
    let (single, all) = (text(is, one), items(is, list));
    if of_host && all.is_empty() {
        return;
    }
    let texts: Vec<&str> = all.iter().map(|a| text(a, "ip")).collect();
    let before: Vec<&str> = items(was, list).iter().map(|a| text(a, "ip")).collect();
    let first = texts.first().copied();
    let differs = |errors: &mut ErrorList| {
        if let Some(first) = first.filter(|f| *f != single) {
            let detail = format!("must be equal to `{one}`");
            errors.push(Error::invalid(&at.index(0).child("ip"), first, detail));
        }
    };
    if of_host {
        differs(errors);
    }
    for (i, value) in texts.iter().enumerate() {
        ip::legacy(value, &at.index(i), &before, errors);
    }
    if texts.len() > 1 {
        let families: Vec<Option<bool>> = texts.iter().map(|t| ip::parse(t).map(|a| a.is_ipv4())).collect();
        if let Some(i) = families.iter().position(Option::is_none) {
            let detail = format!("failed to check for dual stack with error:invalid IP[{i}]: {}", texts[i]);
            errors.push(Error::internal(&at, detail));
        }
        let dual =
            families.contains(&Some(true)) && families.contains(&Some(false)) && !families.contains(&None);
        if !dual || texts.len() > 2 {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(Error::invalid(&at, shown(all), detail));
        }
    }
    if of_host {
        return;
    }
    if single.is_empty() != texts.is_empty() {
        let detail = "podIP and podIPs must either both be set or both be unset";
        errors.push(Error::invalid(&at, shown(all), detail));
    } else {
        differs(errors);
    }
}

/// Addresses as upstream's internal types have them.
fn shown(all: &[Value]) -> Value {
    let list: Vec<Value> = all.iter().map(|a| json!({"IP": text(a, "ip")})).collect();
    if list.is_empty() { Value::Null } else { list.into() }
}

/// Upstream: `validateContainerStatusUsers`.
fn users(list: &[Value], windows: bool, path: &Path, errors: &mut ErrorList) {
    for (i, s) in list.iter().enumerate() {
        let user = &s["user"]["linux"];
        if user.is_null() {
            continue;
        }
        let at = path.index(i).child("user").child("linux");
        if windows {
            errors.push(Error::forbidden(&at, "cannot be set for a windows pod"));
            continue;
        }
        let uid = user["uid"].as_i64().unwrap_or(0);
        if !(0..=UID_MAX).contains(&uid) {
            let detail = format!("must be between 0 and {UID_MAX}, inclusive");
            errors.push(Error::invalid(&at.child("uid"), uid, detail));
        }
        super::security::id(&user["gid"], &at.child("gid"), errors);
        for (j, group) in items(user, "supplementalGroups").iter().enumerate() {
            super::security::id(group, &at.child("supplementalGroups").index(j), errors);
        }
    }
}

/// Upstream: `validateContainerStatusAllocatedResourcesStatus`.
fn allocated(status: &Value, list: &str, containers: &[Value], path: &Path, errors: &mut ErrorList) {
    for (i, s) in items(status, list).iter().enumerate() {
        let container = containers.iter().find(|c| c["name"] == s["name"]);
        for (j, a) in items(s, "allocatedResourcesStatus").iter().enumerate() {
            let (at, name) = (path.index(i).child("allocatedResourcesStatus").index(j), text(a, "name"));
            if container.is_some_and(|c| !is_asked(name, c, status)) {
                let detail = if name.starts_with("claim:") {
                    "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"
                } else {
                    "must match one of the container's resource requests"
                };
                errors.push(Error::invalid(&at.child("name"), name, detail));
            }
            let mut seen: Vec<&str> = Vec::new();
            for (k, r) in items(a, "resources").iter().enumerate() {
                one_resource(r, &mut seen, &at.child("resources").index(k), errors);
            }
        }
    }
}

fn one_resource<'a>(r: &'a Value, seen: &mut Vec<&'a str>, at: &Path, errors: &mut ErrorList) {
    let healths = ["Healthy", "Unhealthy", "Unknown"];
    let (health, id) = (text(r, "health"), text(r, "resourceID"));
    if !healths.contains(&health) {
        errors.push(Error::not_supported(&at.child("health"), health, &healths));
    }
    match r["message"].as_str() {
        Some("") => errors.push(Error::required(&at.child("message"), "must be non-empty if specified")),
        Some(m) if m.len() > MESSAGE_BYTES_MAX => {
            errors.push(Error::too_long(&at.child("message"), MESSAGE_BYTES_MAX));
        }
        _ => {}
    }
    if seen.contains(&id) {
        errors.push(Error::duplicate(&at.child("resourceID"), id));
    }
    seen.push(id);
}

/// Whether a container asks for the resource, or for the claim that the name is of.
fn is_asked(name: &str, c: &Value, status: &Value) -> bool {
    let requests = &c["resources"]["requests"];
    let Some(claim) = name.strip_prefix("claim:") else { return !requests[name].is_null() };
    let own = items(&c["resources"], "claims").iter().any(|own| match text(own, "request") {
        "" => text(own, "name") == claim,
        request => format!("{}/{request}", text(own, "name")) == claim,
    });
    let extended = &status["extendedResourceClaimStatus"];
    let Some((claim, request)) = claim.split_once('/') else { return own };
    own || !request.is_empty()
        && claim == text(extended, "resourceClaimName")
        && items(extended, "requestMappings").iter().any(|m| {
            m["containerName"] == c["name"]
                && text(m, "requestName") == request
                && !crate::resources::quantity(&requests[text(m, "resourceName")]).is_zero()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(new: Value, old: Value, spec: Value) -> Vec<String> {
        let of = |status: Value| json!({"spec": spec, "status": status});
        errors(&of(new), &of(old)).iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidatePodStatusUpdate`.
    #[test]
    fn statuses() {
        let ended = |code: i64| json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]});
        let running = || json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "c"}]});
        assert!(found(running(), ended(0), spec("Always")).is_empty());
        assert!(found(running(), ended(1), spec("OnFailure")).is_empty());
        let refused =
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"];
        assert_eq!(found(running(), ended(0), spec("OnFailure")), refused);
        assert_eq!(found(running(), ended(1), spec("Never")), refused);
        assert_eq!(
            found(
                json!({"podIP": "x", "podIPs": [{"ip": "x"}], "qosClass": "BestEffort"}),
                json!({}),
                json!({})
            ),
            [
                "status.qosClass: Invalid value: \"BestEffort\": field is immutable",
                "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ]
        );
        let two = json!({"podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]});
        assert_eq!(found(two, json!({}), json!({})).len(), 1);
        assert_eq!(
            found(json!({"nominatedNodeName": "n"}), json!({}), json!({"nodeName": "m"})),
            ["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"]
        );
    }
}
