//! A persistent B+ tree of items in key order that knows how many live keys lie under each node.
//!
//! Invariants: a clone is a constant-time snapshot that later changes never touch (nodes are copied when shared);
//! all leaves are at the same depth; a child's `low` is at most each of its keys and greater than each key before it
//! (the first child's bounds nothing); `live` is the number of its keys whose newest version is not a deletion.

use crate::item::Item;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most slots of a node. Small, because a change copies one node for each level.
const NODE_SLOTS_MAX: usize = 32;
/// A node with fewer slots than this joins its neighbour.
const NODE_SLOTS_MIN: usize = NODE_SLOTS_MAX / 4;

/// The tree.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    root: Option<Arc<Node>>,
    live: u64,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Arc<Item>>),
    Inner(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    low: Arc<str>,
    live: u64,
    node: Arc<Node>,
}

impl Tree {
    /// Keys whose newest version is not a deletion.
    pub fn live(&self) -> u64 {
        self.live
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Item>> {
        let mut node = self.root.as_ref()?;
        loop {
            match &**node {
                Node::Leaf(items) => {
                    let found = items.binary_search_by(|i| (*i.key).cmp(key)).ok()?;
                    return items.get(found);
                }
                Node::Inner(children) => node = &children[route(children, key.as_bytes())].node,
            }
        }
    }

    /// Adds an item or replaces the one with its key.
    pub fn put(&mut self, item: Arc<Item>) {
        let Some(root) = &mut self.root else {
            self.live = live(&item);
            self.root = Some(Arc::new(Node::Leaf(vec![item])));
            return;
        };
        let low = item.key.clone();
        let (change, split) = put(root, item);
        self.live = self.live.wrapping_add_signed(change);
        if let Some(right) = split {
            let left = Child { low, live: self.live - right.live, node: root.clone() };
            self.root = Some(Arc::new(Node::Inner(vec![left, right])));
        }
    }

    /// Takes a key out, history and all.
    pub fn remove(&mut self, key: &str) {
        if self.get(key).is_none() {
            return;
        }
        let Some(root) = &mut self.root else { return };
        self.live -= remove(root, key);
        let lower = match &**root {
            Node::Leaf(items) if items.is_empty() => None,
            Node::Inner(children) if children.len() == 1 => Some(children[0].node.clone()),
            _ => return,
        };
        self.root = lower;
    }

    /// Live keys below a key, with the key itself when `inclusive`.
    pub fn rank(&self, key: &[u8], inclusive: bool) -> u64 {
        let Some(mut node) = self.root.as_ref() else { return 0 };
        let mut rank = 0;
        loop {
            match &**node {
                Node::Leaf(items) => {
                    let below = items.iter().take_while(|i| {
                        let k = i.key.as_bytes();
                        k < key || (inclusive && k == key)
                    });
                    return rank + below.map(live).sum::<u64>();
                }
                Node::Inner(children) => {
                    let i = route(children, key);
                    rank += children[..i].iter().map(|c| c.live).sum::<u64>();
                    node = &children[i].node;
                }
            }
        }
    }

    /// Visits items in key order from a key on, until told to stop.
    pub fn walk<'a>(&'a self, from: &[u8], visit: &mut dyn FnMut(&'a Arc<Item>) -> ControlFlow<()>) {
        self.walk_prefix(b"", from, visit);
    }

    /// As [`Self::walk`], of the keys that start with a prefix; `from` is not before it.
    pub fn walk_prefix<'a>(
        &'a self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&'a Arc<Item>) -> ControlFlow<()>,
    ) {
        if let Some(root) = &self.root {
            let _ = walk(root, prefix, Some(from), visit);
        }
    }
}

fn live(item: &Arc<Item>) -> u64 {
    u64::from(item.is_live())
}

/// The child in which a key is, if it is anywhere.
fn route(children: &[Child], key: &[u8]) -> usize {
    children.partition_point(|c| c.low.as_bytes() <= key).saturating_sub(1)
}

/// The change in live keys, and the right half when the node had to be split.
fn put(node: &mut Arc<Node>, item: Arc<Item>) -> (i64, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(items) => {
            let mut change = live(&item) as i64;
            match items.binary_search_by(|i| i.key.cmp(&item.key)) {
                Ok(at) => {
                    change -= live(&items[at]) as i64;
                    items[at] = item;
                }
                Err(at) => items.insert(at, item),
            }
            (change, split_leaf(items))
        }
        Node::Inner(children) => {
            let at = route(children, item.key.as_bytes());
            let child = &mut children[at];
            let (change, split) = put(&mut child.node, item);
            child.live = child.live.wrapping_add_signed(change);
            if let Some(right) = split {
                child.live -= right.live;
                children.insert(at + 1, right);
            }
            (change, split_inner(children))
        }
    }
}

fn split_leaf(items: &mut Vec<Arc<Item>>) -> Option<Child> {
    if items.len() <= NODE_SLOTS_MAX {
        return None;
    }
    let right = items.split_off(items.len() / 2);
    Some(Child {
        low: right[0].key.clone(),
        live: right.iter().map(live).sum(),
        node: Arc::new(Node::Leaf(right)),
    })
}

fn split_inner(children: &mut Vec<Child>) -> Option<Child> {
    if children.len() <= NODE_SLOTS_MAX {
        return None;
    }
    let right = children.split_off(children.len() / 2);
    Some(Child {
        low: right[0].low.clone(),
        live: right.iter().map(|c| c.live).sum(),
        node: Arc::new(Node::Inner(right)),
    })
}

/// Takes out a key that is there; gives how many live keys that were.
fn remove(node: &mut Arc<Node>, key: &str) -> u64 {
    match Arc::make_mut(node) {
        Node::Leaf(items) => match items.binary_search_by(|i| (*i.key).cmp(key)) {
            Ok(at) => live(&items.remove(at)),
            Err(_) => 0,
        },
        Node::Inner(children) => {
            let at = route(children, key.as_bytes());
            let child = &mut children[at];
            let gone = remove(&mut child.node, key);
            child.live -= gone;
            if child.node.slots() < NODE_SLOTS_MIN && children.len() > 1 {
                join(children, at.saturating_sub(1));
            }
            gone
        }
    }
}

/// Joins a child with the next one, and splits them again when they are too many.
fn join(children: &mut Vec<Child>, at: usize) {
    let right = children.remove(at + 1);
    let left = &mut children[at];
    left.live += right.live;
    let split = match (Arc::make_mut(&mut left.node), &*right.node) {
        (Node::Leaf(to), Node::Leaf(from)) => {
            to.extend(from.iter().cloned());
            split_leaf(to)
        }
        (Node::Inner(to), Node::Inner(from)) => {
            let first = to.len();
            to.extend(from.iter().cloned());
            // The first child's own `low` bounds nothing, its parent's does.
            to[first].low = right.low;
            split_inner(to)
        }
        // Siblings are at the same depth.
        _ => None,
    };
    if let Some(right) = split {
        left.live -= right.live;
        children.insert(at + 1, right);
    }
}

/// `from` is `None` behind the first leaf. A key is looked at only where keys with the prefix may end: it is seldom in a cache.
fn walk<'a>(
    node: &'a Node,
    prefix: &[u8],
    from: Option<&[u8]>,
    visit: &mut dyn FnMut(&'a Arc<Item>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(items) => {
            let first = from.map_or(0, |from| items.partition_point(|i| i.key.as_bytes() < from));
            let items = &items[first..];
            let within = |item: &&Arc<Item>| item.key.as_bytes().starts_with(prefix);
            if items.last().is_some_and(|last| within(&last)) {
                return items.iter().try_for_each(visit);
            }
            items.iter().take_while(within).try_for_each(visit)?;
            if items.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        Node::Inner(children) => {
            let first = from.map_or(0, |from| route(children, from));
            let from = |at| if at == 0 { from } else { None };
            let mut children = children[first..].iter().enumerate();
            children.try_for_each(|(at, c)| walk(&c.node, prefix, from(at), visit))
        }
    }
}

impl Node {
    fn slots(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn check(node: &Node, top: bool, low: &str, depth: usize) -> (u64, usize) {
        if !top {
            assert!(node.slots() >= 1, "an empty node");
        }
        assert!(node.slots() <= NODE_SLOTS_MAX);
        match node {
            Node::Leaf(items) => {
                assert!(items.is_sorted_by(|a, b| a.key < b.key));
                assert!(items.first().is_none_or(|i| &*i.key >= low));
                (items.iter().map(live).sum(), depth)
            }
            Node::Inner(children) => {
                let mut total = 0;
                let mut deep = None;
                for (i, c) in children.iter().enumerate() {
                    let bound = if i == 0 { low } else { &c.low };
                    let (n, d) = check(&c.node, false, bound, depth + 1);
                    assert_eq!(n, c.live);
                    assert_eq!(*deep.get_or_insert(d), d, "leaves at different depths");
                    total += n;
                }
                (total, deep.unwrap_or(depth))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn behaves_as_a_sorted_map(ops in prop::collection::vec((0u8..4, 0u32..700), 1..3000)) {
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            let mut old: Option<(Tree, BTreeMap<String, bool>)> = None;
            for (n, (kind, k)) in ops.iter().enumerate() {
                let key = format!("/k/{k}");
                match kind {
                    0 => {
                        tree.remove(&key);
                        map.remove(&key);
                    }
                    1 => {
                        tree.put(Arc::new(Item::new(key.as_str().into(), 1, Bytes::new()).with(2, None)));
                        map.insert(key, false);
                    }
                    _ => {
                        tree.put(Arc::new(Item::new(key.as_str().into(), 1, Bytes::new())));
                        map.insert(key, true);
                    }
                }
                if n == ops.len() / 2 {
                    old = Some((tree.clone(), map.clone()));
                }
            }
            let (old_tree, old_map) = old.unwrap_or_default();
            for (tree, map) in [(&tree, &map), (&old_tree, &old_map)] {
                if let Some(root) = &tree.root {
                    check(root, true, "", 0);
                }
                prop_assert_eq!(tree.live(), map.values().filter(|l| **l).count() as u64);
                for from in ["", "/k/3", "/k/35", "/k/9", "/z"] {
                    let mut seen = Vec::new();
                    tree.walk(from.as_bytes(), &mut |i| { seen.push(i.key.to_string()); ControlFlow::Continue(()) });
                    let want: Vec<_> = map.range(from.to_owned()..).map(|(k, _)| k.clone()).collect();
                    prop_assert_eq!(seen, want);
                    let below = map.iter().filter(|(k, l)| k.as_str() < from && **l).count() as u64;
                    prop_assert_eq!(tree.rank(from.as_bytes(), false), below);
                    let at = u64::from(map.get(from).copied().unwrap_or(false));
                    prop_assert_eq!(tree.rank(from.as_bytes(), true), below + at);
                    prop_assert_eq!(tree.get(from).map(|i| i.is_live()), map.get(from).copied());
                }
            }
        }
    }
}
