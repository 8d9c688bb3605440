//! A pod as decisions see it: parsed once, compared often.

use crate::resources::Requests;
use crate::selector::{self, Labels, NodeTerm, RequiredNode};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm};
use meta::selector::LabelSelector;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Upstream: `framework#HostPortInfo.CheckConflict`.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

/// One term of an affinity or anti-affinity between pods.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) topology_key: String,
    selector: LabelSelector,
    namespaces: BTreeSet<String>,
    namespace_selector: LabelSelector,
}

impl Term {
    fn compile(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: selector::compile(term.label_selector.as_ref()),
            namespaces,
            namespace_selector: selector::compile(term.namespace_selector.as_ref()),
        }
    }

    /// Whether the term means a pod. `labels` are those of the pod's namespace (upstream: `AffinityTerm.Matches`).
    pub(crate) fn means(&self, pod: &PodInfo, labels: Option<&Labels>) -> bool {
        (self.namespaces.contains(pod.namespace()) || selector::matches(&self.namespace_selector, labels))
            && selector::matches(&self.selector, pod.labels())
    }

    /// Puts the namespaces that the term's selector selects now into its list.
    fn resolve(&mut self, namespaces: &[(String, Labels)]) {
        if self.namespace_selector.is_nothing() {
            return;
        }
        let selected =
            namespaces.iter().filter(|(_, l)| selector::matches(&self.namespace_selector, Some(l)));
        self.namespaces.extend(selected.map(|(name, _)| name.clone()));
        self.namespace_selector = LabelSelector::nothing();
    }
}

/// How a pod wants to be spread over a topology.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i32,
    pub(crate) min_domains: i32,
    pub(crate) selector: LabelSelector,
    pub(crate) honor_affinity: bool,
    pub(crate) honor_taints: bool,
}

/// Affinities and anti-affinities to other pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodTerms {
    pub(crate) required: Vec<Term>,
    pub(crate) required_anti: Vec<Term>,
    /// With their weights, negative for anti-affinity.
    pub(crate) preferred: Vec<(i64, Term)>,
}

impl PodTerms {
    pub(crate) fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

/// What a decision needs to know beside nodes and pods.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// All namespaces with their labels; only needed when terms between pods select namespaces.
    pub namespaces: Vec<(String, Labels)>,
    /// The pods that belong together with this one, by its services and controller.
    pub siblings: Option<LabelSelector>,
}

/// A pod, parsed.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Requests,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) node: RequiredNode,
    /// Preferred nodes with their weights.
    pub(crate) preferred_nodes: Vec<(i64, NodeTerm)>,
    pub(crate) terms: PodTerms,
    pub(crate) hard_spread: Vec<Spread>,
    pub(crate) soft_spread: Vec<Spread>,
    pub(crate) siblings: Option<LabelSelector>,
    /// Labels of the pod's namespace.
    pub(crate) namespace_labels: Option<Labels>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let preferred = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let preferred =
            preferred.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let preferred = preferred.unwrap_or_default().iter().filter(|t| t.weight != 0);
        Self {
            requests: Requests::of(&pod),
            ports: host_ports(spec),
            node: RequiredNode::of(&pod),
            preferred_nodes: preferred
                .filter_map(|t| Some((t.weight.into(), NodeTerm::compile(&t.preference)?)))
                .collect(),
            terms: pod_terms(spec, namespace),
            hard_spread: spreads(&pod, spec, "DoNotSchedule"),
            soft_spread: spreads(&pod, spec, "ScheduleAnyway"),
            siblings: None,
            namespace_labels: None,
            pod,
        }
    }

    /// The pod as one to be placed: what its terms say about namespaces is looked up.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        let Surroundings { namespaces, siblings } = surroundings;
        let own = namespaces.iter().find(|(name, _)| name == self.namespace());
        self.namespace_labels = own.map(|(_, labels)| labels.clone());
        let t = &mut self.terms;
        t.required.iter_mut().chain(&mut t.required_anti).for_each(|t| t.resolve(&namespaces));
        t.preferred.iter_mut().for_each(|(_, t)| t.resolve(&namespaces));
        self.siblings = siblings;
        self
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("")
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn priority(&self) -> i32 {
        priority(&self.pod)
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether pods that arrive elsewhere can make this one placeable.
    pub(crate) fn looks_at_others(&self) -> bool {
        !self.terms.required.is_empty() || !self.hard_spread.is_empty()
    }
}

/// A pod without a priority has 0.
pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let or =
        |t: &Option<String>, d: &str| t.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| d.to_owned());
    let taken = ports.filter_map(|p| Some((p, p.host_port.filter(|h| *h > 0)?)));
    taken
        .map(|(p, port)| HostPort { ip: or(&p.host_ip, "0.0.0.0"), protocol: or(&p.protocol, "TCP"), port })
        .collect()
}

fn pod_terms(spec: &PodSpec, namespace: &str) -> PodTerms {
    let hard = |t: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
        t.into_iter().flatten().map(|t| Term::compile(t, namespace)).collect()
    };
    let soft = |t: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, Term)> {
        let one = |t: &WeightedPodAffinityTerm| {
            (sign * i64::from(t.weight), Term::compile(&t.pod_affinity_term, namespace))
        };
        t.into_iter().flatten().map(one).collect()
    };
    let Some(affinity) = &spec.affinity else { return PodTerms::default() };
    let (to, away) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let mut preferred =
        soft(to.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
    preferred
        .extend(soft(away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
    PodTerms {
        required: hard(to.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
        required_anti: hard(
            away.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        ),
        preferred,
    }
}

/// Upstream: `podtopologyspread#filterTopologySpreadConstraints`.
fn spreads(pod: &Pod, spec: &PodSpec, when: &str) -> Vec<Spread> {
    let all = spec.topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == when);
    all.map(|c| {
        let mut selector = selector::compile(c.label_selector.as_ref());
        for key in c.match_label_keys.iter().flatten() {
            if let Some(value) = pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
                selector = selector.with(selector::equals(key, value));
            }
        }
        Spread {
            topology_key: c.topology_key.clone(),
            max_skew: c.max_skew,
            min_domains: c.min_domains.unwrap_or(1),
            selector,
            honor_affinity: c.node_affinity_policy.as_deref().unwrap_or("Honor") == "Honor",
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    })
    .collect()
}
