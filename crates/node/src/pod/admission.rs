//! Whether a pod fits on the node when it arrives (upstream: `pkg/kubelet/lifecycle/predicate.go`, `sysctl`).
//!
//! A refusal is final: the pod becomes Failed with the reason.

use super::{resources, spec};
use k8s_openapi::api::core::v1::Pod;
use meta::quantity::{Format, Quantity};
use std::collections::BTreeMap;

/// upstream: `sysctl.safeSysctls`
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// Why a pod is not taken or was ended as a whole: `status.reason` and the message behind it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

fn refuse(reason: &str, message: String) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.into(), message })
}

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    pub allocatable: &'a BTreeMap<String, Quantity>,
    pub allowed_unsafe_sysctls: &'a [String],
}

/// Decides on `pod` given the `others` that run or will run here.
///
/// # Errors
/// The reason and message for the pod's status, as upstream words them.
pub fn admit<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, node: &Node<'_>) -> Result<(), Refusal> {
    if let Some(os) = &spec::spec(pod).os
        && os.name != "linux"
    {
        return refuse(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".into(),
        );
    }
    sysctls(pod, node.allowed_unsafe_sysctls)?;
    let others: Vec<&Pod> = others.collect();
    fits(pod, &others, node.allocatable)?;
    ports(pod, &others)
}

fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Result<(), Refusal> {
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let most = allocatable.get("pods").map_or(0, Quantity::value);
    let none = |name: &str, requested: i64, used: i64, capacity: i64| {
        format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    };
    if count + 1 > most {
        return refuse("OutOfpods", none("pods", 1, count, most));
    }
    for (name, want) in resources::pod_requests(pod) {
        let zero = Quantity::new(0, Format::DecimalSi);
        let Some(have) = allocatable.get(&name) else {
            // Extended resources that the node does not know are left out of the decision, as upstream does.
            continue;
        };
        if want.is_zero() {
            continue;
        }
        let mut used = zero;
        for other in others {
            if let Some(q) = resources::pod_requests(other).get(&name) {
                used.add(q);
            }
        }
        let mut after = used.clone();
        after.add(&want);
        if after > *have {
            let number = |q: &Quantity| if name == "cpu" { q.milli() } else { q.value() };
            return refuse(&format!("OutOf{name}"), none(&name, number(&want), number(&used), number(have)));
        }
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let p = spec::spec(pod);
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    sidecars
        .chain(&p.containers)
        .flat_map(|c| c.ports.as_deref().unwrap_or_default())
        .filter_map(|port| {
            let host = port.host_port.filter(|n| *n > 0)?;
            let ip = port.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".into()), host))
        })
        .collect()
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Refusal> {
    let taken: Vec<_> = others.iter().flat_map(|p| host_ports(p)).collect();
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    let clash = host_ports(pod).into_iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(i, p, n)| *n == port && *p == protocol && (*i == ip || any(i) || any(&ip)))
    });
    if clash {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return refuse("NodePorts", message.into());
    }
    Ok(())
}

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let asked =
        spec::spec(pod).security_context.as_ref().and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    for s in asked {
        let name = s.name.replace('/', ".");
        let listed = allowed.iter().any(|a| match a.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *a == name,
        });
        let mut why = None;
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !listed {
            why = Some(format!("{name:?} not allowlisted"));
        } else if name.starts_with("net.") && spec::host_network(pod) {
            why = Some(format!("{name:?} not allowed with host net enabled"));
        } else if name.starts_with("kernel.") && spec::spec(pod).host_ipc.unwrap_or(false) {
            why = Some(format!("{name:?} not allowed with host ipc enabled"));
        }
        if let Some(why) = why {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {why}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn decide(new: Value, old: Value) -> Result<(), Refusal> {
        let allocatable = [("pods", "2"), ("cpu", "1"), ("memory", "1Gi")]
            .map(|(k, v)| (k.to_owned(), Quantity::parse(v).unwrap()))
            .into();
        let others = [pod(old)];
        admit(
            &pod(new),
            others.iter(),
            &Node { allocatable: &allocatable, allowed_unsafe_sysctls: &["net.core.*".into()] },
        )
    }

    #[test]
    fn refusals() {
        let cpu = |c: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": c}}}]});
        let port =
            |n: i32| json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": n}]}]});
        assert_eq!(decide(cpu("600m"), cpu("400m")), Ok(()));
        let over = decide(cpu("700m"), cpu("400m")).unwrap_err();
        assert_eq!(over.reason, "OutOfcpu");
        assert_eq!(
            over.message,
            "Node didn't have enough resource: cpu, requested: 700, used: 400, capacity: 1000"
        );
        assert_eq!(decide(port(8080), port(8081)), Ok(()));
        assert_eq!(decide(port(8080), port(8080)).unwrap_err().reason, "NodePorts");
        let sysctl =
            |n: &str| json!({"containers": [], "securityContext": {"sysctls": [{"name": n, "value": "1"}]}});
        assert_eq!(decide(sysctl("net.core.somaxconn"), cpu("1m")), Ok(()));
        assert_eq!(
            decide(sysctl("kernel.msgmax"), cpu("1m")).unwrap_err().message,
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
    }
}
