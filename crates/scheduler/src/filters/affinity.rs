//! Pods that must, or must not, share a domain with other pods (upstream: `plugins/interpodaffinity/filtering.go`).

use super::{Verdict, no};
use crate::pod::PodInfo;
use crate::select;
use crate::snapshot::Snapshot;
use client::Kind;
use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm};
use meta::selector::{LabelSelector, Operator, Requirement};
use std::collections::{BTreeMap, HashSet};

/// A domain: label key and value of nodes.
type Domain = (String, String);

/// A term, ready to be matched.
pub(crate) struct Term<'a> {
    pub(crate) key: &'a str,
    namespaces: HashSet<&'a str>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
}

impl<'a> Term<'a> {
    /// `owner` is the pod whose spec has the term.
    pub(crate) fn new(term: &'a PodAffinityTerm, owner: &'a Pod) -> Self {
        let mut namespaces: HashSet<&str> = term.namespaces.iter().flatten().map(String::as_str).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(owner.namespace());
        }
        let mut selector = select::pods(term.label_selector.as_ref());
        let keys = [(&term.match_label_keys, Operator::In), (&term.mismatch_label_keys, Operator::NotIn)];
        for (keys, operator) in keys {
            for key in keys.iter().flatten() {
                if let Some(v) = owner.label(key) {
                    selector = selector.with(Requirement { key: key.clone(), operator, values: vec![v.to_owned()] });
                }
            }
        }
        let namespace_selector = select::pods(term.namespace_selector.as_ref());
        Self { key: &term.topology_key, namespaces, namespace_selector, selector }
    }

    pub(crate) fn matches(&self, pod: &Pod, namespaces: &std::collections::HashMap<String, BTreeMap<String, String>>) -> bool {
        let named = self.namespaces.contains(pod.namespace());
        let selected = || select::matches(&self.namespace_selector, namespaces.get(pod.namespace()));
        (named || selected()) && select::matches(&self.selector, pod.metadata.labels.as_ref())
    }
}

pub(super) struct Affinity<'a> {
    /// Domains that pods there do not want this pod in.
    refused: HashSet<Domain>,
    wanted: Vec<&'a str>,
    /// Domains with a pod that matches all required terms.
    near: HashSet<Domain>,
    /// The pod matches its own terms, so that the first of a group finds a place.
    own: bool,
    avoided: Vec<&'a str>,
    far: HashSet<Domain>,
}

impl<'a> Affinity<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Self {
        let terms = |list: &'a [PodAffinityTerm]| list.iter().map(|t| Term::new(t, &pod.pod)).collect::<Vec<_>>();
        let (wanted, avoided) = (terms(pod.required_affinity()), terms(pod.required_anti_affinity()));
        let spaces = &snapshot.namespaces;
        let all = |p: &Pod| !wanted.is_empty() && wanted.iter().all(|t| t.matches(p, spaces));
        let mut out = Self {
            refused: HashSet::new(),
            wanted: wanted.iter().map(|t| t.key).collect(),
            near: HashSet::new(),
            own: all(&pod.pod),
            avoided: avoided.iter().map(|t| t.key).collect(),
            far: HashSet::new(),
        };
        for (node, info) in snapshot.nodes() {
            let domain = |key: &str| node.label(key).map(|v| (key.to_owned(), v.to_owned()));
            for other in info.pods.values() {
                for term in other.required_anti_affinity() {
                    if Term::new(term, &other.pod).matches(&pod.pod, spaces) {
                        out.refused.extend(domain(&term.topology_key));
                    }
                }
                if all(&other.pod) {
                    out.near.extend(wanted.iter().filter_map(|t| domain(t.key)));
                }
                let avoid = avoided.iter().filter(|t| t.matches(&other.pod, spaces));
                out.far.extend(avoid.filter_map(|t| domain(t.key)));
            }
        }
        out
    }

    pub(super) fn check(&self, node: &Node) -> Verdict {
        let at = |key: &str| node.label(key).map(|v| (key.to_owned(), v.to_owned()));
        let missing = self.wanted.iter().any(|k| at(k).is_none());
        let near = self.wanted.iter().all(|k| at(k).is_some_and(|d| self.near.contains(&d)));
        if missing || (!near && !(self.near.is_empty() && self.own)) {
            return no("node(s) didn't match pod affinity rules", true);
        }
        if self.avoided.iter().any(|k| at(k).is_some_and(|d| self.far.contains(&d))) {
            return no("node(s) didn't match pod anti-affinity rules", false);
        }
        if self.refused.iter().any(|(k, v)| node.label(k) == Some(v)) {
            return no("node(s) didn't satisfy existing pods anti-affinity rules", false);
        }
        Ok(())
    }
}
