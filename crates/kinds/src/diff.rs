//! The difference of two texts as upstream shows it in errors of immutable fields
//! (upstream: apimachinery `pkg/util/diff#Diff`, Python's `difflib` in Go).
//!
//! The cost is bounded: longer texts have no difference shown.

use std::collections::HashMap;

/// Most lines of a text.
const LINES_MAX: usize = 2000;
/// Lines of a text from which on those that are in it often start no match.
const OFTEN_FROM_LINES: usize = 200;
/// Lines shown around a change.
const CONTEXT: usize = 3;

/// A run of lines that both texts have (`same`) or that `a` has instead of `b`'s.
#[derive(Clone, Copy)]
struct Run {
    same: bool,
    a: (usize, usize),
    b: (usize, usize),
}

/// A unified difference with three lines of context; empty when the texts are the same or too long.
pub fn unified(a: &str, b: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split('\n').collect(), b.split('\n').collect());
    if a == b || a.len() > LINES_MAX || b.len() > LINES_MAX {
        return String::new();
    }
    let mut out = String::new();
    for group in groups(runs(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (left, right) = (range(first.a.0, last.a.1), range(first.b.0, last.b.1));
        out.push_str(&format!("@@ -{left} +{right} @@\n"));
        for run in &group {
            let mark = if run.same { ' ' } else { '-' };
            a[run.a.0..run.a.1].iter().for_each(|line| out.push_str(&format!("{mark}{line}\n")));
            let added = if run.same { &[][..] } else { &b[run.b.0..run.b.1] };
            added.iter().for_each(|line| out.push_str(&format!("+{line}\n")));
        }
    }
    out
}

fn range(start: usize, stop: usize) -> String {
    match stop - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

/// Where the lines of `b` are that may start a match.
fn places<'a>(b: &[&'a str]) -> HashMap<&'a str, Vec<usize>> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in b.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    if b.len() >= OFTEN_FROM_LINES {
        let often = b.len() / 100 + 1;
        places.retain(|_, at| at.len() <= often);
    }
    places
}

/// The longest run of equal lines within two ranges, the first of several: where it starts and its length.
fn longest(
    (a, b): (&[&str], &[&str]),
    places: &HashMap<&str, Vec<usize>>,
    ra: (usize, usize),
    rb: (usize, usize),
) -> (usize, usize, usize) {
    let mut best = (ra.0, rb.0, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, line) in a.iter().enumerate().take(ra.1).skip(ra.0) {
        let mut next = HashMap::new();
        let at = places.get(line).map(Vec::as_slice).unwrap_or_default();
        for j in at.iter().copied().filter(|j| (rb.0..rb.1).contains(j)) {
            let length = 1 + j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0);
            next.insert(j, length);
            if length > best.2 {
                best = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = next;
    }
    // lines that are there often may be within it
    let (mut i, mut j, mut n) = best;
    while i > ra.0 && j > rb.0 && a[i - 1] == b[j - 1] {
        (i, j, n) = (i - 1, j - 1, n + 1);
    }
    while i + n < ra.1 && j + n < rb.1 && a[i + n] == b[j + n] {
        n += 1;
    }
    (i, j, n)
}

fn runs(a: &[&str], b: &[&str]) -> Vec<Run> {
    let places = places(b);
    let mut todo = vec![((0, a.len()), (0, b.len()))];
    let mut matches = Vec::new();
    while let Some((ra, rb)) = todo.pop() {
        let (i, j, n) = longest((a, b), &places, ra, rb);
        if n > 0 {
            matches.push((i, j, n));
            todo.push(((ra.0, i), (rb.0, j)));
            todo.push(((i + n, ra.1), (j + n, rb.1)));
        }
    }
    matches.sort_unstable();
    matches.push((a.len(), b.len(), 0));
    let mut out: Vec<Run> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (x, y, n) in matches {
        if i < x || j < y {
            out.push(Run { same: false, a: (i, x), b: (j, y) });
        }
        match out.last_mut().filter(|r| r.same) {
            Some(r) if n > 0 => (r.a.1, r.b.1) = (x + n, y + n),
            _ if n > 0 => out.push(Run { same: true, a: (x, x + n), b: (y, y + n) }),
            _ => {}
        }
        (i, j) = (x + n, y + n);
    }
    out
}

/// Runs near each other, each with its context.
fn groups(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    let tail = |r: Run| Run {
        a: (r.a.0.max(r.a.1.saturating_sub(CONTEXT)), r.a.1),
        b: (r.b.0.max(r.b.1.saturating_sub(CONTEXT)), r.b.1),
        ..r
    };
    let head =
        |r: Run| Run { a: (r.a.0, r.a.1.min(r.a.0 + CONTEXT)), b: (r.b.0, r.b.1.min(r.b.0 + CONTEXT)), ..r };
    if let Some(first) = runs.first_mut().filter(|r| r.same) {
        *first = tail(*first);
    }
    if let Some(last) = runs.last_mut().filter(|r| r.same) {
        *last = head(*last);
    }
    let mut out = Vec::new();
    let mut group = Vec::new();
    for run in runs {
        if run.same && run.a.1 - run.a.0 > 2 * CONTEXT {
            group.push(head(run));
            out.push(std::mem::take(&mut group));
            group.push(tail(run));
        } else {
            group.push(run);
        }
    }
    if group.iter().any(|r| !r.same) {
        out.push(group);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_has_three_around_it() {
        let (a, b) = ("1\n2\n3\n4\n5\n6\n7\n8\n9", "1\n2\n3\n4\nfive\n6\n7\n8\n9");
        assert_eq!(unified(a, b), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
        assert_eq!(unified(a, a), "");
    }

    #[test]
    fn far_changes_are_apart_and_ends_are_right() {
        let a: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let mut b = a.clone();
        b[0] = "x".to_owned();
        b.push("y".to_owned());
        assert_eq!(
            unified(&a.join("\n"), &b.join("\n")),
            "@@ -1,4 +1,4 @@\n-0\n+x\n 1\n 2\n 3\n@@ -18,3 +18,4 @@\n 17\n 18\n 19\n+y\n"
        );
        assert_eq!(unified("a", "a\nb"), "@@ -1 +1,2 @@\n a\n+b\n");
    }

    #[test]
    fn lines_that_are_there_often_start_no_match() {
        let text = |middle: &str| {
            let lines: Vec<String> = (0..120).flat_map(|n| [n.to_string(), "null".to_owned()]).collect();
            format!("{}\n{middle}\nend", lines.join("\n"))
        };
        let shown = "@@ -238,6 +238,5 @@\n null\n 119\n null\n-a\n-null\n+b\n end\n";
        assert_eq!(unified(&text("a\nnull"), &text("b")), shown);
    }
}
