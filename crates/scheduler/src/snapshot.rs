//! The cluster as decisions see it: nodes with the pods that are, or are about to be, on them.
//!
//! Invariant: a node's sums are those of its pods. A pod counts on the node it was assumed to go to until the watch shows
//! where it is, or the assumption is taken back.

use crate::pod::PodInfo;
use crate::resources::Resources;
use client::Kind;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node and what is on it.
#[derive(Debug, Default)]
pub struct NodeInfo {
    /// `None` for one that pods name but that is not there.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub counted: Resources,
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// Sizes of the images on the node, by normal name.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.counted.add(&pod.counted);
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.requested.sub(&pod.requests);
            self.counted.sub(&pod.counted);
        }
    }
}

/// Upstream: `normalizedImageName`.
pub fn image_name(name: &str) -> String {
    let tagged = name.rfind(':') > name.rfind('/');
    if tagged { name.to_owned() } else { format!("{name}:latest") }
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// Node of each pod, and whether that is an assumption.
    places: HashMap<String, (String, bool)>,
    /// Nodes that have each image.
    image_nodes: HashMap<String, usize>,
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
}

impl Snapshot {
    /// The nodes that are there, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeInfo)> {
        self.nodes.values().filter_map(|n| n.node.as_ref().map(|node| (node, n)))
    }

    pub fn get(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    /// How many nodes have an image, by normal name.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let info = self.nodes.entry(node.name().to_owned()).or_default();
        for image in info.images.keys() {
            if let Some(n) = self.image_nodes.get_mut(image) {
                *n -= 1;
            }
        }
        let status = node.status.as_ref();
        info.allocatable = Resources::of(status.and_then(|s| s.allocatable.as_ref()));
        info.images.clear();
        for image in status.iter().flat_map(|s| s.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                if info.images.insert(image_name(name), image.size_bytes.unwrap_or(0)).is_none() {
                    *self.image_nodes.entry(image_name(name)).or_default() += 1;
                }
            }
        }
        info.node = Some(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        for image in info.images.drain() {
            if let Some(n) = self.image_nodes.get_mut(&image.0) {
                *n -= 1;
            }
        }
        info.node = None;
        if info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// A pod is on a node, as the server says.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node, false);
    }

    /// A pod is about to be bound to a node.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node, true);
    }

    /// The binding failed. A pod that the server has shown on a node stays.
    pub fn forget(&mut self, uid: &str) {
        if self.places.get(uid).is_some_and(|(_, assumed)| *assumed) {
            self.remove_pod(uid);
        }
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.places.get(uid).is_some_and(|(_, assumed)| *assumed)
    }

    pub fn has_pod(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Uids of all pods that have a node.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    pub fn remove_pod(&mut self, uid: &str) {
        let Some((node, _)) = self.places.remove(uid) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        self.remove_pod(pod.uid());
        self.places.insert(pod.uid().to_owned(), (node.to_owned(), assumed));
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }
}
