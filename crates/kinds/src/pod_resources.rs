//! What a pod takes in all (upstream: component-helpers `resource/helpers.go`).

use crate::amounts::Amounts;
use crate::resources::is_huge_page;
use crate::validate::items;
use serde_json::Value;

/// Requests or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

impl Side {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// Whether it can be asked for by the pod as a whole (upstream: `IsSupportedPodLevelResource`).
pub fn is_whole(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// Whether the pod as a whole asks for something (upstream: `IsPodLevelResourcesSet`).
pub fn is_pod_level_set(pod: &Value) -> bool {
    let own = &pod["spec"]["resources"];
    [Side::Requests, Side::Limits].iter().any(|s| {
        let list = own[s.field()].as_object();
        list.is_some_and(|l| l.keys().any(|name| is_whole(name)))
    })
}

/// All containers and sidecars together, or what one init container needs beside the sidecars before it, if that is
/// more. `of` tells what one container takes.
fn aggregate(pod: &Value, of: &dyn Fn(&Value) -> Amounts) -> Amounts {
    sum(&pod["spec"], of)
}

fn sum(spec: &Value, of: &dyn Fn(&Value) -> Amounts) -> Amounts {
    let mut sum = Amounts::default();
    for container in items(spec, "containers") {
        sum.add(&of(container));
    }
    let (mut sidecars, mut init) = (Amounts::default(), Amounts::default());
    for container in items(spec, "initContainers") {
        let own = of(container);
        if container["restartPolicy"] == "Always" {
            sum.add(&own);
            sidecars.add(&own);
            init.raise(&sidecars);
        } else {
            let mut at_once = own;
            at_once.add(&sidecars);
            init.raise(&at_once);
        }
    }
    sum.raise(&init);
    sum
}

/// What the containers of a spec take together (upstream: `AggregateContainerRequests`, `AggregateContainerLimits`).
pub fn of_containers(spec: &Value, side: Side) -> Amounts {
    sum(spec, &|c| Amounts::of(&c["resources"][side.field()]))
}

/// The amounts that the pod names for all its containers stand instead of theirs.
fn apply_whole(sum: &mut Amounts, list: &Value) {
    for (name, amount) in Amounts::of(list).iter().filter(|(n, _)| is_whole(n)) {
        sum.set(name.clone(), amount.clone());
    }
}

/// As the spec says, without overhead (upstream: `PodRequests`, `PodLimits` with `ExcludeOverhead`).
pub fn of_spec(pod: &Value, side: Side) -> Amounts {
    let mut sum = aggregate(pod, &|c| Amounts::of(&c["resources"][side.field()]));
    apply_whole(&mut sum, &pod["spec"]["resources"][side.field()]);
    sum
}

/// With what running containers have, while a resize is under way, and with overhead (upstream: `PodRequests`,
/// `PodLimits` with `UseStatusResources`).
pub fn in_use(pod: &Value, side: Side) -> Amounts {
    let pending = items(&pod["status"], "conditions").iter().find(|c| c["type"] == "PodResizePending");
    let infeasible = pending.is_some_and(|c| c["reason"] == "Infeasible");
    let spec = |c: &Value| Amounts::of(&c["resources"][side.field()]);
    let asked = |c: &Value| if infeasible { Amounts::default() } else { spec(c) };
    let allocated = |c: &Value| match status(pod, c).map(|s| &s["allocatedResources"]) {
        Some(list) if side == Side::Requests && list.is_object() => Amounts::of(list),
        _ => asked(c),
    };
    let actual = |c: &Value| match status(pod, c).map(|s| &s["resources"][side.field()]) {
        Some(list) if list.is_object() => Amounts::of(list),
        _ => allocated(c),
    };
    let mut sum = aggregate(pod, &actual);
    if side == Side::Requests {
        sum.raise(&aggregate(pod, &allocated));
    }
    if !infeasible {
        sum.raise(&aggregate(pod, &spec));
    }
    apply_whole(&mut sum, &pod["spec"]["resources"][side.field()]);
    let overhead = Amounts::of(&pod["spec"]["overhead"]);
    sum.add(&match side {
        Side::Requests => overhead,
        Side::Limits => overhead.only(|name| sum.get(name).is_some_and(|q| !q.is_zero())),
    });
    sum
}

fn status<'a>(pod: &'a Value, container: &Value) -> Option<&'a Value> {
    let all = ["containerStatuses", "initContainerStatuses"].map(|f| items(&pod["status"], f));
    all.into_iter().flatten().find(|s| s["name"] == container["name"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn takes(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_run_one_after_the_other_beside_sidecars() {
        let mut sidecar = takes("2");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {"containers": [takes("1")], "initContainers": [takes("3"), sidecar, takes("4")],
            "overhead": {"cpu": "100m"}}});
        assert_eq!(of_spec(&pod, Side::Requests).to_string(), "cpu=6");
        assert_eq!(in_use(&pod, Side::Requests).to_string(), "cpu=6100m");
    }

    #[test]
    fn what_a_resize_has_not_given_back_still_counts() {
        let mut pod = json!({"spec": {"containers": [takes("1")]},
            "status": {"containerStatuses": [{"name": "1", "resources": {"requests": {"cpu": "3"}}}]}});
        assert_eq!(in_use(&pod, Side::Requests).to_string(), "cpu=3");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "5".into();
        assert_eq!(in_use(&pod, Side::Requests).to_string(), "cpu=5");
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(in_use(&pod, Side::Requests).to_string(), "cpu=3");
    }

    #[test]
    fn the_pods_own_amounts_stand_instead_of_the_containers() {
        let pod = json!({"spec": {"containers": [takes("1")], "resources": {"requests": {"cpu": "4"}}}});
        assert_eq!(in_use(&pod, Side::Requests).to_string(), "cpu=4");
        assert!(is_pod_level_set(&pod));
    }
}
