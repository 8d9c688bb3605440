//! A persistent B+ tree of items in key order that knows how many live keys lie under each node.
//!
//! Invariants: a clone is a constant-time snapshot that later changes never touch (nodes are copied when shared);
//! all leaves are at the same depth; a child's `low` is at most each of its keys and greater than each key before it
//! (the first child's bounds nothing); `live` is the number of its keys whose newest version is not a deletion; a slot's
//! bits are at least those of each version of its item.

use crate::Bloom;
use crate::item::Item;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most slots of a node. Small, because a change copies one node for each level.
const NODE_SLOTS_MAX: usize = 32;
/// A node with fewer slots than this joins its neighbour.
const NODE_SLOTS_MIN: usize = NODE_SLOTS_MAX / 4;

/// The tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Option<Arc<Node>>,
    live: u64,
    bloom: Bloom,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: None, live: 0, bloom: |_| u64::MAX }
    }
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Slot>),
    Inner(Vec<Child>),
}

/// An item with its key, and what its values may have in them: told here, as the item itself is seldom in a cache.
#[derive(Clone, Debug)]
struct Slot {
    key: Arc<str>,
    bloom: u64,
    item: Arc<Item>,
}

impl Slot {
    /// The slot after its item got a new version.
    fn replaced(&self, new: Slot) -> Slot {
        let history = if new.item.newest.older.is_some() { self.bloom } else { 0 };
        Slot { bloom: new.bloom | history, ..new }
    }
}

#[derive(Clone, Debug)]
struct Child {
    low: Arc<str>,
    live: u64,
    node: Arc<Node>,
}

impl Tree {
    /// The same tree, whose values are told by these bits from now on.
    pub fn with_bloom(mut self, bloom: Bloom) -> Self {
        self.bloom = bloom;
        if let Some(root) = &mut self.root {
            tell(root, bloom);
        }
        self
    }

    /// Keys whose newest version is not a deletion.
    pub fn live(&self) -> u64 {
        self.live
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Item>> {
        let mut node = self.root.as_ref()?;
        loop {
            match &**node {
                Node::Leaf(slots) => {
                    let found = slots.binary_search_by(|s| (*s.key).cmp(key)).ok()?;
                    return slots.get(found).map(|s| &s.item);
                }
                Node::Inner(children) => node = &children[route(children, key.as_bytes())].node,
            }
        }
    }

    /// Adds an item, or replaces the one with its key; one with history replaces the one that has the rest of it.
    pub fn put(&mut self, item: Arc<Item>) {
        let bloom = item.newest.value.as_deref().map_or(0, self.bloom);
        let slot = Slot { key: item.key.clone(), bloom, item };
        let Some(root) = &mut self.root else {
            self.live = live(&slot);
            self.root = Some(Arc::new(Node::Leaf(vec![slot])));
            return;
        };
        let low = slot.key.clone();
        let (change, split) = put(root, slot);
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
                Node::Leaf(slots) => {
                    let below = slots.iter().take_while(|s| {
                        let k = s.key.as_bytes();
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
        self.walk_where(b"", from, 0, visit);
    }

    /// As [`Self::walk`], of the keys that start with a prefix and have a version with all bits of `bloom`, as far as bits
    /// tell; `from` is not before the prefix.
    pub fn walk_where<'a>(
        &'a self,
        prefix: &[u8],
        from: &[u8],
        bloom: u64,
        visit: &mut dyn FnMut(&'a Arc<Item>) -> ControlFlow<()>,
    ) {
        if let Some(root) = &self.root {
            let _ = walk(root, (prefix, bloom), Some(from), visit);
        }
    }
}

fn live(slot: &Slot) -> u64 {
    u64::from(slot.item.is_live())
}

/// Tells all values anew, those of the past too.
fn tell(node: &mut Arc<Node>, bloom: Bloom) {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => {
            for slot in slots {
                let mut next = Some(&slot.item.newest);
                slot.bloom = 0;
                while let Some(version) = next {
                    slot.bloom |= version.value.as_deref().map_or(0, bloom);
                    next = version.older.as_deref();
                }
            }
        }
        Node::Inner(children) => children.iter_mut().for_each(|c| tell(&mut c.node, bloom)),
    }
}

/// The child in which a key is, if it is anywhere.
fn route(children: &[Child], key: &[u8]) -> usize {
    children.partition_point(|c| c.low.as_bytes() <= key).saturating_sub(1)
}

/// The change in live keys, and the right half when the node had to be split.
fn put(node: &mut Arc<Node>, slot: Slot) -> (i64, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => {
            let mut change = live(&slot) as i64;
            match slots.binary_search_by(|s| s.key.cmp(&slot.key)) {
                Ok(at) => {
                    change -= live(&slots[at]) as i64;
                    slots[at] = slots[at].replaced(slot);
                }
                Err(at) => slots.insert(at, slot),
            }
            (change, split_leaf(slots))
        }
        Node::Inner(children) => {
            let at = route(children, slot.key.as_bytes());
            let child = &mut children[at];
            let (change, split) = put(&mut child.node, slot);
            child.live = child.live.wrapping_add_signed(change);
            if let Some(right) = split {
                child.live -= right.live;
                children.insert(at + 1, right);
            }
            (change, split_inner(children))
        }
    }
}

fn split_leaf(slots: &mut Vec<Slot>) -> Option<Child> {
    if slots.len() <= NODE_SLOTS_MAX {
        return None;
    }
    let right = slots.split_off(slots.len() / 2);
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
        Node::Leaf(slots) => match slots.binary_search_by(|s| (*s.key).cmp(key)) {
            Ok(at) => live(&slots.remove(at)),
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
    (prefix, bloom): (&[u8], u64),
    from: Option<&[u8]>,
    visit: &mut dyn FnMut(&'a Arc<Item>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(slots) => {
            let first = from.map_or(0, |from| slots.partition_point(|s| s.key.as_bytes() < from));
            let slots = &slots[first..];
            let within = |slot: &&Slot| slot.key.as_bytes().starts_with(prefix);
            let may_have = |slot: &&Slot| slot.bloom & bloom == bloom;
            if slots.last().is_some_and(|last| within(&last)) {
                return slots.iter().filter(may_have).try_for_each(|slot| visit(&slot.item));
            }
            let mut last = slots.iter().take_while(within).filter(may_have);
            last.try_for_each(|slot| visit(&slot.item))?;
            if slots.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        Node::Inner(children) => {
            let first = from.map_or(0, |from| route(children, from));
            let from = |at| if at == 0 { from } else { None };
            let mut children = children[first..].iter().enumerate();
            children.try_for_each(|(at, c)| walk(&c.node, (prefix, bloom), from(at), visit))
        }
    }
}

impl Node {
    fn slots(&self) -> usize {
        match self {
            Node::Leaf(slots) => slots.len(),
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

    /// Bits of a value of digits: one for each.
    fn digits(value: &[u8]) -> u64 {
        value.iter().map(|d| 1 << (d - b'0')).fold(0, |a, b| a | b)
    }

    #[test]
    fn bits_are_those_of_every_version() {
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let mut tree = Tree::default().with_bloom(digits);
        for i in 0..100 {
            tree.put(Arc::new(Item::new(format!("/k/{i:02}").into(), 1, Bytes::from((i % 10).to_string()))));
        }
        let item = |tree: &Tree| tree.get("/k/07").cloned().expect("it is there");
        let found = |tree: &Tree, bloom: u64| {
            let mut keys = Vec::new();
            tree.walk_where(b"/k/", b"/k/", bloom, &mut |i| {
                keys.push(i.key.to_string());
                ControlFlow::Continue(())
            });
            keys
        };
        assert_eq!(found(&tree, 1 << 7).len(), 10);
        assert_eq!(found(&tree, 1 << 7 | 1 << 6), [""; 0]);
        tree.put(Arc::new(item(&tree).with(3, None)));
        assert_eq!(found(&tree, 1 << 7).len(), 10, "its past still has the bit");
        tree.put(Arc::new(item(&tree).with(4, value("13"))));
        tree.put(Arc::new(item(&tree).with(5, value("2"))));
        assert_eq!(found(&tree, 1 << 1 | 1 << 3), ["/k/07"]);
        let told = tree.clone().with_bloom(digits);
        assert_eq!(found(&told, 1 << 1 | 1 << 3), ["/k/07"]);
        tree.put(Arc::new(item(&tree).compacted(5).0.expect("it is live")));
        assert_eq!(found(&tree, 1 << 7).len(), 9, "nothing is left of its past");
        assert_eq!(found(&tree, 0).len(), 100);
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
