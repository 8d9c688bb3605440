//! The nodes and what runs on them, as one state that decisions are made from.
//!
//! Invariant: a node's totals are the sums over its pods.

use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Taint};
use std::collections::HashMap;
use std::sync::Arc;

/// A node with its pods.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub(crate) node: Arc<Node>,
    pub(crate) allocatable: Resources,
    /// Most pods at a time.
    pub(crate) max_pods: i64,
    pub(crate) requested: Resources,
    /// As `requested`, with defaults for absent requests.
    pub(crate) requested_with_defaults: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) pods: Vec<Arc<PodInfo>>,
    /// Those of the pods that have terms about other pods.
    pub(crate) pods_with_terms: Vec<Arc<PodInfo>>,
    /// Sizes of the images that are there, by name, in bytes.
    pub(crate) images: HashMap<String, i64>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let mut out = Self {
            node: node.clone(),
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            requested_with_defaults: Resources::default(),
            ports: Vec::new(),
            pods: Vec::new(),
            pods_with_terms: Vec::new(),
            images: HashMap::new(),
        };
        out.set_node(node);
        out
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = Resources::from_list(allocatable);
        let pods = allocatable.and_then(|a| a.get("pods"));
        self.max_pods =
            pods.and_then(|q| meta::quantity::Quantity::parse(&q.0).ok()).map_or(0, |q| q.value());
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default().iter();
        let named =
            images.flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))));
        self.images = named.collect();
        self.node = node;
    }

    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or("")
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true))
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.exact);
        self.requested_with_defaults.add(&pod.requests.with_defaults);
        self.ports.extend(pod.ports.iter().cloned());
        if !pod.terms.is_empty() {
            self.pods_with_terms.push(pod.clone());
        }
        self.pods.push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|p| p.uid() == uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.pods_with_terms.retain(|p| p.uid() != uid);
        self.requested.sub(&pod.requests.exact);
        self.requested_with_defaults.sub(&pod.requests.with_defaults);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// On how many nodes an image is.
    image_nodes: HashMap<String, usize>,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn get(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|i| self.nodes.get(*i))
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.by_name.get(name).and_then(|i| self.nodes.get_mut(*i))
    }

    /// Adds a node or replaces what is known of it; its pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.by_name.get(&name) {
            Some(&i) => {
                let old = std::mem::take(&mut self.nodes[i].images);
                self.count_images(&old, -1);
                self.nodes[i].set_node(node);
                let new = self.nodes[i].images.clone();
                self.count_images(&new, 1);
            }
            None => {
                let info = NodeInfo::new(node);
                let images = info.images.clone();
                self.by_name.insert(name, self.nodes.len());
                self.nodes.push(info);
                self.count_images(&images, 1);
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(i) = self.by_name.remove(name) else { return };
        let gone = self.nodes.swap_remove(i);
        if let Some(moved) = self.nodes.get(i) {
            self.by_name.insert(moved.name().to_owned(), i);
        }
        self.count_images(&gone.images, -1);
    }

    fn count_images(&mut self, images: &HashMap<String, i64>, by: isize) {
        for name in images.keys() {
            let count = self.image_nodes.entry(name.clone()).or_default();
            *count = count.saturating_add_signed(by);
            if *count == 0 {
                self.image_nodes.remove(name);
            }
        }
    }

    /// On how many nodes an image is.
    pub(crate) fn nodes_with_image(&self, name: &str) -> usize {
        self.image_nodes.get(name).copied().unwrap_or(0)
    }
}
