//! What a stricter namespace would refuse of the pods that it has (upstream: pod-security-admission
//! `admission/admission.go#EvaluatePodsInNamespace`).
//!
//! Invariant: the look takes at most [`PODS_MAX`] pods and [`TIME_MAX`], says when that was not all, and lets other
//! tasks run meanwhile.

use super::checks::evaluate;
use super::pod::Pod;
use super::policy::LevelVersion;
use base::clock::Clock;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Most pods that are looked at.
pub const PODS_MAX: usize = 3000;
/// Longest time that is spent.
pub const TIME_MAX: Duration = Duration::from_secs(1);
/// Pods between two chances for other tasks.
const PODS_AT_A_TIME: usize = 64;

/// What is said when the pods cannot be read.
pub const UNREADABLE: &str = "failed to list pods while checking new PodSecurity enforce level";

/// Warnings about the pods of a namespace, which are given as stored.
pub async fn warnings<B>(namespace: &str, enforce: LevelVersion, pods: &[B], clock: &dyn Clock) -> Vec<String>
where
    B: AsRef<[u8]> + Sync,
{
    let deadline = clock.monotonic() + TIME_MAX;
    let mut found = Findings::default();
    let mut checked = 0;
    for at in by_priority(pods, clock, deadline).into_iter().take(PODS_MAX) {
        let Some(pod) = pods.get(at).and_then(|b| serde_json::from_slice::<Value>(b.as_ref()).ok()) else {
            return vec![UNREADABLE.to_owned()];
        };
        let verdict = evaluate(enforce, &Pod::new(&pod));
        if !verdict.allowed() {
            found.add(meta::object::name(&pod), verdict.reasons());
        }
        checked += 1;
        if clock.monotonic() >= deadline {
            break;
        }
        if checked % PODS_AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
    }
    found.warnings(namespace, enforce, checked, pods.len())
}

/// Pods with the same violations are told of together.
#[derive(Default)]
struct Findings {
    /// By reasons: the first name of those pods, and how many they are.
    pods: BTreeMap<String, (String, usize)>,
}

impl Findings {
    fn add(&mut self, name: &str, reasons: String) {
        let (first, count) = self.pods.entry(reasons).or_insert_with(|| (name.to_owned(), 0));
        if name < first.as_str() {
            name.clone_into(first);
        }
        *count += 1;
    }

    fn warnings(&self, namespace: &str, enforce: LevelVersion, checked: usize, total: usize) -> Vec<String> {
        let mut out = Vec::new();
        if checked < total {
            out.push(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
            ));
        }
        if !self.pods.is_empty() {
            out.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let one = |(reasons, (name, count)): (&String, &(String, usize))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            n => format!("{name} (and {} other pods): {reasons}", n - 1),
        };
        let mut pods: Vec<String> = self.pods.iter().map(one).collect();
        pods.sort();
        out.extend(pods);
        out
    }
}

/// As much of a pod as tells its controller.
#[derive(Deserialize)]
struct Owned {
    metadata: OwnedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedMeta {
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    controller: bool,
    uid: String,
}

/// The order of looking: a pod of each controller first, then its others, since those are likely the same.
/// What has not been read by the deadline comes last.
fn by_priority<B: AsRef<[u8]>>(pods: &[B], clock: &dyn Clock, deadline: Duration) -> Vec<usize> {
    let (mut first, mut later, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (at, bytes) in pods.iter().enumerate() {
        if clock.monotonic() >= deadline {
            later.extend(at..pods.len());
            break;
        }
        let owners = serde_json::from_slice::<Owned>(bytes.as_ref()).map(|o| o.metadata.owner_references);
        let controller = owners.unwrap_or_default().into_iter().find(|o| o.controller);
        let another = controller.is_some_and(|o| !seen.insert(o.uid));
        if another { later.push(at) } else { first.push(at) }
    }
    first.append(&mut later);
    first
}

#[cfg(test)]
mod tests {
    use super::super::policy;
    use super::*;
    use base::clock::{ManualClock, SystemClock};
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pod(name: &str, owner: &str, bad: bool) -> Vec<u8> {
        let owners = if owner.is_empty() { json!([]) } else { json!([{"uid": owner, "controller": true}]) };
        let pod = json!({
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"hostPID": bad, "containers": []},
        });
        pod.to_string().into_bytes()
    }

    async fn warn(pods: &[Vec<u8>], clock: &dyn Clock) -> Vec<String> {
        let lv = policy::parse("baseline:latest").expect("a level and a version");
        warnings("n", lv, pods, clock).await
    }

    const HEAD: &str =
        "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"";

    #[tokio::test]
    async fn pods_with_the_same_reasons_are_told_of_together() {
        let clock = SystemClock::new();
        assert_eq!(warn(&[pod("a", "", false)], &clock).await, Vec::<String>::new());
        let mut pods = vec![pod("b", "", true), pod("ok", "", false)];
        assert_eq!(warn(&pods, &clock).await, [HEAD, "b: host namespaces"]);
        pods.push(pod("a", "", true));
        assert_eq!(warn(&pods, &clock).await, [HEAD, "a (and 1 other pod): host namespaces"]);
        pods.push(pod("c", "", true));
        assert_eq!(warn(&pods, &clock).await, [HEAD, "a (and 2 other pods): host namespaces"]);
        pods.push(b"{".to_vec());
        assert_eq!(warn(&pods, &clock).await, [UNREADABLE]);
    }

    #[tokio::test]
    async fn at_most_so_many_pods_are_looked_at_one_of_each_controller_first() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        // The bad ones come last by name, but are the only ones of their controllers.
        let mut pods: Vec<Vec<u8>> = (0..PODS_MAX).map(|i| pod(&format!("p{i:04}"), "u", false)).collect();
        pods.push(pod("x", "v", true));
        pods.push(pod("y", "", true));
        let only = format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            PODS_MAX + 2
        );
        let got = warn(&pods, &clock).await;
        assert_eq!(got, [only.as_str(), HEAD, "x (and 1 other pod): host namespaces"]);
    }

    /// Each look at it takes a tenth of a second.
    struct Slow(AtomicUsize);

    impl Clock for Slow {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(100 * self.0.fetch_add(1, Ordering::Relaxed) as u64)
        }
    }

    #[tokio::test]
    async fn at_most_so_much_time_is_spent() {
        let pods: Vec<Vec<u8>> = (0..6).map(|i| pod(&format!("p{i}"), "", true)).collect();
        let got = warn(&pods, &Slow(AtomicUsize::new(0))).await;
        let only = "new PodSecurity enforce level only checked against the first 4 of 6 existing pods";
        assert_eq!(got, [only, HEAD, "p0 (and 3 other pods): host namespaces"]);
    }
}
