//! What is known of nodes and placed pods, with pods that are about to be placed already counted.
//!
//! Invariant: a pod is on at most one node; what the API says replaces what was assumed.

use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Node;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

/// Nodes and placed pods.
#[derive(Default)]
pub(crate) struct Cache {
    snapshot: Snapshot,
    /// By uid.
    pods: HashMap<String, Placed>,
    /// Uids by node name, also of nodes that are not there yet.
    by_node: HashMap<String, HashSet<String>>,
}

impl Cache {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let known = self.snapshot.get(&name).is_some();
        self.snapshot.set_node(node);
        if let (false, Some(info)) = (known, self.snapshot.get_mut(&name)) {
            let waiting = self.by_node.get(&name).into_iter().flatten();
            waiting.filter_map(|uid| self.pods.get(uid)).for_each(|p| info.add(p.pod.clone()));
        }
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        self.snapshot.remove_node(name);
    }

    /// Counts a pod on a node before the API knows.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, true);
    }

    /// What the API says about a placed pod.
    pub(crate) fn confirm(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, false);
    }

    /// Takes back an assumption; a pod that the API has confirmed stays.
    pub(crate) fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove(uid);
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some(old) = self.pods.remove(uid) else { return false };
        if let Some(info) = self.snapshot.get_mut(&old.node) {
            info.remove(uid);
        }
        if let Some(uids) = self.by_node.get_mut(&old.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.by_node.remove(&old.node);
            }
        }
        true
    }

    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|p| p.assumed)
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|p| &p.pod)
    }

    /// Uids of the pods that the API has confirmed.
    pub(crate) fn confirmed(&self) -> Vec<String> {
        self.pods.iter().filter(|(_, p)| !p.assumed).map(|(uid, _)| uid.clone()).collect()
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        let uid = pod.uid().to_owned();
        self.remove(&uid);
        if let Some(info) = self.snapshot.get_mut(node) {
            info.add(pod.clone());
        }
        self.by_node.entry(node.to_owned()).or_default().insert(uid.clone());
        self.pods.insert(uid, Placed { pod, node: node.to_owned(), assumed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str) -> Arc<PodInfo> {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let pod = json!({"metadata": {"name": uid, "uid": uid, "namespace": "n"}, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap())
    }

    fn used(cache: &Cache, node: &str) -> Option<i64> {
        cache.snapshot().get(node).map(|n| n.requested.milli_cpu)
    }

    #[test]
    fn assumed_pods_count_until_forgotten() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        cache.set_node(node("b"));
        cache.assume(pod("x"), "a");
        assert_eq!(used(&cache, "a"), Some(1000));
        cache.forget("x");
        assert_eq!(used(&cache, "a"), Some(0));
        // the API knows better: another node, and then no taking back
        cache.assume(pod("x"), "a");
        cache.confirm(pod("x"), "b");
        cache.forget("x");
        assert_eq!((used(&cache, "a"), used(&cache, "b")), (Some(0), Some(1000)));
    }

    #[test]
    fn pods_may_come_before_and_stay_after_their_node() {
        let mut cache = Cache::default();
        cache.confirm(pod("x"), "a");
        cache.set_node(node("a"));
        cache.set_node(node("b"));
        assert_eq!(used(&cache, "a"), Some(1000));
        cache.remove_node("a");
        assert_eq!(used(&cache, "a"), None);
        cache.set_node(node("a"));
        cache.set_node(node("a"));
        assert_eq!(used(&cache, "a"), Some(1000));
        assert!(cache.remove("x") && !cache.remove("x"));
        assert_eq!(used(&cache, "a"), Some(0));
    }
}
