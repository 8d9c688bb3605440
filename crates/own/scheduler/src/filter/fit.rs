//! Whether a node has what a pod asks for (upstream: `noderesources/fit.go#fitsRequest`).

use super::Refusal;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub(super) fn check(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let mut refusal = Refusal { reasons: Vec::new(), unresolvable: false };
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.max_pods {
        refusal.reasons.push("Too many pods".to_owned());
    }
    let (wanted, has, used) = (&pod.requests.exact, &node.allocatable, &node.requested);
    let mut compare = |name: &str, wanted: i64, has: i64, used: i64| {
        if wanted > 0 && wanted > has.saturating_sub(used) {
            refusal.reasons.push(format!("Insufficient {name}"));
            refusal.unresolvable |= wanted > has;
        }
    };
    compare("cpu", wanted.milli_cpu, has.milli_cpu, used.milli_cpu);
    compare("memory", wanted.memory, has.memory, used.memory);
    compare("ephemeral-storage", wanted.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &wanted.scalar {
        compare(name, *amount, has.scalar(name), used.scalar(name));
    }
    (!refusal.reasons.is_empty()).then_some(refusal)
}
