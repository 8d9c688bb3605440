//! Sets of field paths, as trees.
//!
//! A node is in the tree only if it is a member or has members below it.

use crate::element::Element;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How deep a set may be. FieldsV1 deeper than this is refused; no JSON or YAML body is as deep.
pub const MAX_DEPTH: usize = 256;

/// A set of field paths (upstream: structured-merge-diff `fieldpath/set.go#Set`). The empty path is never a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Element, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    /// The set of these paths of field names, dotted (`metadata.name`).
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<_> = path.split('.').map(Element::field).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds the path. Its parents do not become members.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut set = self;
        for element in parents {
            set = &mut set.nodes.entry(element.clone()).or_default().below;
        }
        set.nodes.entry(last.clone()).or_default().member = true;
    }

    /// Adds the element as a member (if `member`) with all of `below` under it.
    pub(crate) fn attach(&mut self, element: Element, member: bool, below: Self) {
        if !member && below.is_empty() {
            return;
        }
        let node = self.nodes.entry(element).or_default();
        node.member |= member;
        node.below.absorb(below);
    }

    /// Whether the path itself is a member.
    pub fn contains(&self, path: &[Element]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut set = self;
        for element in parents {
            match set.nodes.get(element) {
                Some(node) => set = &node.below,
                None => return false,
            }
        }
        set.has(last)
    }

    /// Whether the element is a member at the top.
    pub fn has(&self, element: &Element) -> bool {
        self.nodes.get(element).is_some_and(|n| n.member)
    }

    /// What is below the element, if anything is.
    pub fn below(&self, element: &Element) -> Option<&Self> {
        self.nodes.get(element).map(|n| &n.below).filter(|s| !s.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds all of `other`, taking it over.
    pub fn absorb(&mut self, other: Self) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for (element, node) in other.nodes {
            let own = self.nodes.entry(element).or_default();
            own.member |= node.member;
            own.below.absorb(node.below);
        }
    }

    /// The paths in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.absorb(other.clone());
        out
    }

    /// The paths in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, node) in &self.nodes {
            if let Some(theirs) = other.nodes.get(element) {
                out.attach(
                    element.clone(),
                    node.member && theirs.member,
                    node.below.intersection(&theirs.below),
                );
            }
        }
        out
    }

    /// The paths in `self` and not in `other`; a member of `other` does not take what is below it.
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    /// [`Self::difference`] in place.
    pub fn subtract(&mut self, other: &Self) {
        self.take(other, false);
    }

    /// The paths in `self` that neither are in `other` nor are below a member of it.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.take(other, true);
        out
    }

    /// [`Self::recursive_difference`] in place.
    pub fn subtract_recursive(&mut self, other: &Self) {
        self.take(other, true);
    }

    fn take(&mut self, other: &Self, recursive: bool) {
        for (element, theirs) in &other.nodes {
            let Some(node) = self.nodes.get_mut(element) else { continue };
            if theirs.member {
                node.member = false;
                if recursive {
                    node.below = Self::default();
                }
            }
            node.below.take(&theirs.below, recursive);
            if !node.member && node.below.is_empty() {
                self.nodes.remove(element);
            }
        }
    }

    /// The members that have no members below them.
    pub fn leaves(&self) -> Self {
        let mut out = Self::default();
        for (element, node) in &self.nodes {
            out.attach(element.clone(), node.member && node.below.is_empty(), node.below.leaves());
        }
        out
    }

    /// The elements at the top: whether each is a member, and what is below it.
    pub fn entries(&self) -> impl Iterator<Item = (&Element, bool, &Self)> {
        self.nodes.iter().map(|(e, n)| (e, n.member, &n.below))
    }

    /// Shows each element at the top, whether it is a member and what is below it, to be changed. Afterwards no element
    /// may be neither a member nor have any below it.
    pub(crate) fn each_mut(&mut self, mut change: impl FnMut(&Element, &mut bool, &mut Self)) {
        for (element, node) in &mut self.nodes {
            change(element, &mut node.member, &mut node.below);
        }
    }

    /// Each member as text (`.spec.containers[name="a"].image`), members of a level before what is below them, as
    /// upstream goes through a set.
    pub fn texts(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        out.extend(self.nodes.iter().filter(|(_, n)| n.member).map(|(e, _)| format!("{prefix}{e}")));
        let mut path = prefix.to_owned();
        for (element, node) in self.nodes.iter().filter(|(_, n)| !n.below.is_empty()) {
            let _ = write!(path, "{element}");
            node.below.collect(&path, out);
            path.truncate(prefix.len());
        }
    }

    /// FieldsV1 (upstream: structured-merge-diff `fieldpath/serialize.go#ToJSON`).
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            let mut inner = node.below.to_json();
            if node.member
                && let Value::Object(inner) = &mut inner
                && !inner.is_empty()
            {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element.encode(), inner);
        }
        Value::Object(map)
    }

    /// Reads FieldsV1. Elements of an unknown kind are left out.
    ///
    /// # Errors
    /// It is no object, an element cannot be read, or it is deeper than [`MAX_DEPTH`].
    pub fn from_json(json: &Value) -> Result<Self, String> {
        Self::read(json, 0).map(|(set, _)| set)
    }

    fn read(json: &Value, depth: usize) -> Result<(Self, bool), String> {
        if depth > MAX_DEPTH {
            return Err(format!("fields are nested deeper than {MAX_DEPTH}"));
        }
        let Value::Object(map) = json else {
            return Err("ReadMapCB: expect { or n".to_owned());
        };
        let mut out = Self::default();
        let mut member = false;
        for (key, value) in map {
            if key == "." {
                member = true;
                continue;
            }
            if let Some(element) = Element::decode(key)? {
                let (below, is_member) = Self::read(value, depth + 1)?;
                out.attach(element, is_member, below);
            }
        }
        let member = member || out.is_empty();
        Ok((out, member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(json: Value) -> FieldSet {
        FieldSet::from_json(&json).unwrap()
    }

    #[test]
    fn json_goes_in_and_out_in_upstreams_form() {
        let json = json!({
            "f:a": {".": {}, "f:b": {}},
            "f:list": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
            "f:set": {"v:\"x\"": {}, "v:1": {}},
            "f:at": {"i:3": {}},
        });
        assert_eq!(set(json.clone()).to_json(), json);
        assert_eq!(set(json!({"x:new": {}, "f:a": {}})).to_json(), json!({"f:a": {}}));
        assert!(FieldSet::from_json(&json!({"f": {}})).is_err());
        assert!(FieldSet::from_json(&json!({"fa": {}})).is_err());
        assert!(FieldSet::from_json(&json!([])).is_err());
        let mut deep = json!({});
        for _ in 0..300 {
            deep = json!({"f:a": deep});
        }
        assert!(FieldSet::from_json(&deep).is_err());
    }

    #[test]
    fn parents_and_children_are_apart_in_set_operations() {
        let all = set(json!({"f:a": {".": {}, "f:b": {".": {}, "f:c": {}}}, "f:z": {}}));
        let b = set(json!({"f:a": {"f:b": {}}}));
        assert_eq!(all.difference(&b), set(json!({"f:a": {".": {}, "f:b": {"f:c": {}}}, "f:z": {}})));
        assert_eq!(all.recursive_difference(&b), set(json!({"f:a": {}, "f:z": {}})));
        assert_eq!(all.intersection(&b), b);
        assert_eq!(b.union(&all), all);
        assert_eq!(all.leaves(), set(json!({"f:a": {"f:b": {"f:c": {}}}, "f:z": {}})));
        assert!(all.difference(&all).is_empty());
        assert!(all.contains(&[Element::field("a"), Element::field("b")]));
        assert!(!b.contains(&[Element::field("a")]));
    }

    #[test]
    fn texts_name_members_before_what_is_below() {
        let all = set(
            json!({"f:a": {".": {}, "k:{\"n\":\"x\",\"p\":1}": {"f:c": {}}}, "f:z": {"v:\"s\"": {}}, "f:b": {}}),
        );
        assert_eq!(all.texts(), [".a", ".b", ".a[n=\"x\",p=1].c", ".z[=\"s\"]"]);
    }
}
