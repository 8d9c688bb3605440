//! The order of a merged list: what the patch names comes in the patch's order, what only the server has keeps
//! its place as well as may be (upstream: `strategicpatch/patch.go#normalizeElementOrder`).

use serde_json::Value;
use std::collections::HashMap;

/// The merge key's value of an element, or the element itself in a list of scalars.
pub(super) fn identity<'a>(v: &'a Value, merge_key: &str) -> Option<&'a Value> {
    if merge_key.is_empty() { Some(v) } else { v.get(merge_key) }
}

/// Positions in a reference list, by identity.
struct Positions(HashMap<String, usize>);

impl Positions {
    fn of(list: &[Value], merge_key: &str) -> Self {
        let mut map = HashMap::with_capacity(list.len());
        for (i, v) in list.iter().enumerate() {
            if let Some(id) = identity(v, merge_key) {
                map.entry(id.to_string()).or_insert(i);
            }
        }
        Self(map)
    }

    fn get(&self, v: &Value, merge_key: &str) -> Option<usize> {
        self.0.get(&identity(v, merge_key)?.to_string()).copied()
    }
}

/// Orders and interleaves the two parts of a merged list.
pub(super) fn normalize(
    patch: Vec<Value>,
    server_only: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Vec<Value> {
    let in_patch = Positions::of(patch_order, merge_key);
    let in_server = Positions::of(server_order, merge_key);
    let right = sort(patch, &in_patch, merge_key);
    let left = sort(server_only, &in_server, merge_key);
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => match (in_server.get(l, merge_key), in_server.get(r, merge_key)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
        };
        out.extend(if take_left { left.next() } else { right.next() });
    }
}

/// Sorts by position. An element without one goes before its left neighbours, as upstream's comparison has it.
fn sort(list: Vec<Value>, positions: &Positions, merge_key: &str) -> Vec<Value> {
    let mut keyed: Vec<(Option<usize>, Value)> =
        list.into_iter().map(|v| (positions.get(&v, merge_key), v)).collect();
    if keyed.iter().all(|(p, _)| p.is_some()) {
        keyed.sort_by_key(|(p, _)| *p);
    } else {
        let less = |a: Option<usize>, b: Option<usize>| !matches!((a, b), (Some(a), Some(b)) if a >= b);
        for i in 1..keyed.len() {
            let mut j = i;
            while j > 0 && less(keyed[j].0, keyed[j - 1].0) {
                keyed.swap(j, j - 1);
                j -= 1;
            }
        }
    }
    keyed.into_iter().map(|(_, v)| v).collect()
}
