//! A pod as the checks see it, and the words with which they speak of it
//! (upstream: pod-security-admission `policy/visitor.go`, `policy/helpers.go`).

use meta::object;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Metadata and spec of a pod, or of a template of one.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    /// The object or template: what has `metadata` and `spec`.
    tree: &'a Value,
}

impl<'a> Pod<'a> {
    pub fn new(tree: &'a Value) -> Self {
        Self { tree }
    }

    pub fn spec(&self) -> &'a Value {
        &self.tree["spec"]
    }

    pub fn annotations(&self) -> Option<&'a Map<String, Value>> {
        object::meta_map(self.tree, "annotations")
    }

    /// All containers: init, ordinary, ephemeral.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec();
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| list_of(&spec[list]))
    }

    /// The names of the containers for which the test holds, in the order of [`Pod::containers`].
    pub fn containers_where(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(|c| text(&c["name"])).collect()
    }

    /// Who breaks a rule that both the pod's spec and each container can break: `pod and containers "a", "b"`; empty
    /// when nobody does.
    pub fn culprits(&self, mut bad: impl FnMut(&'a Value) -> bool) -> String {
        let mut all = Vec::new();
        if bad(self.spec()) {
            all.push("pod".to_owned());
        }
        let containers = self.containers_where(bad);
        if !containers.is_empty() {
            all.push(containers_named(&containers));
        }
        all.join(" and ")
    }

    pub fn is_windows(&self) -> bool {
        self.spec()["os"]["name"] == "windows"
    }

    /// Whether root in the pod is nobody on the host.
    pub fn in_user_namespace(&self) -> bool {
        self.spec()["hostUsers"] == false
    }
}

/// The items of a list, none where there is no list.
pub fn list_of(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// A string, empty where there is none.
pub fn text(v: &Value) -> &str {
    v.as_str().unwrap_or("")
}

/// `"a", "b"`; what is inside is not escaped.
pub fn join_quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect();
    items.join(", ")
}

pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub fn containers_named<S: AsRef<str>>(names: &[S]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), join_quoted(names))
}

/// Values in the order that upstream's string sets are listed in.
pub type Values<'a> = BTreeSet<&'a str>;
