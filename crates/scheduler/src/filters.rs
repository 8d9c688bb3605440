//! Which nodes can take a pod. The rows are asked in upstream's order; the first that objects speaks for the node.

mod affinity;
mod basic;
mod spread;

use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use k8s_openapi::api::core::v1::Node;

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    pub plugin: &'static str,
    pub reasons: Vec<String>,
    /// Whether the node stays unfit whatever pods leave it.
    pub unresolvable: bool,
}

type Verdict = Result<(), (Vec<String>, bool)>;

fn no(reason: &str, unresolvable: bool) -> Verdict {
    Err((vec![reason.to_owned()], unresolvable))
}

/// A filter for one pod, with what it worked out about the cluster beforehand.
type Filter<'a> = Box<dyn Fn(&Node, &NodeInfo) -> Verdict + 'a>;

/// All filters for one pod.
pub struct Filters<'a>(Vec<(&'static str, Filter<'a>)>);

impl<'a> Filters<'a> {
    pub fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Self {
        let spread = spread::Spread::new(snapshot, pod);
        let affinity = affinity::Affinity::new(snapshot, pod);
        Self(vec![
            ("NodeUnschedulable", Box::new(|n, _| basic::unschedulable(pod, n))),
            ("NodeName", Box::new(|n, _| basic::name(pod, n))),
            ("TaintToleration", Box::new(|n, _| basic::taints(pod, n))),
            ("NodeAffinity", Box::new(|n, _| basic::node_affinity(pod, n))),
            ("NodePorts", Box::new(|_, i| basic::ports(pod, i))),
            ("NodeResourcesFit", Box::new(|_, i| basic::resources(pod, i))),
            ("PodTopologySpread", Box::new(move |n, _| spread.check(n))),
            ("InterPodAffinity", Box::new(move |n, _| affinity.check(n))),
        ])
    }

    pub fn check(&self, node: &Node, info: &NodeInfo) -> Result<(), Objection> {
        for (plugin, filter) in &self.0 {
            filter(node, info).map_err(|(reasons, unresolvable)| Objection { plugin, reasons, unresolvable })?;
        }
        Ok(())
    }
}

pub(crate) use spread::{count as spread_count, includes as spread_includes, selector as spread_selector};
