//! Sets of completion indexes as ordered intervals, in the compressed text of a job's status (`0,2-5,7,8`).
//!
//! Invariant: intervals are in order, do not overlap and do not touch.
//! upstream: `pkg/controller/job/indexed_job_utils.go#orderedIntervals`

use std::fmt;

/// First and last index, both in the set.
type Interval = (usize, usize);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<Interval>);

impl Indexes {
    /// Reads the text of a status or a rule. Indexes of `completions` and beyond are left out, as is what cannot be read.
    pub fn parse(text: &str, completions: usize) -> Self {
        let mut out: Vec<Interval> = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let mut limits = part.split('-').map(|t| t.parse::<usize>().ok());
            let Some(Some(first)) = limits.next() else { continue };
            if first >= completions {
                break;
            }
            let last = match limits.next() {
                None => first,
                Some(Some(last)) => last.min(completions - 1),
                Some(None) => continue,
            };
            match out.last_mut() {
                Some(l) if l.1 + 1 == first => l.1 = last,
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    /// With more indexes, in any order.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = usize>) -> Self {
        self.union(&Self(more.into_iter().map(|i| (i, i)).collect()))
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Interval> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut out: Vec<Interval> = Vec::with_capacity(all.len());
        for i in all {
            match out.last_mut() {
                Some(l) if i.0 <= l.1 + 1 => l.1 = l.1.max(i.1),
                _ => out.push(i),
            }
        }
        Self(out)
    }

    /// How many indexes are in the set.
    pub fn total(&self) -> usize {
        self.0.iter().map(|(a, b)| b - a + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, index: usize) -> bool {
        let at = self.0.partition_point(|i| i.1 < index);
        self.0.get(at).is_some_and(|i| i.0 <= index)
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub fn first_missing(&self, count: usize, completions: usize) -> Vec<usize> {
        let mut out = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let end = first.min(completions);
            out.extend((candidate..end.max(candidate)).take(count - out.len()));
            candidate = candidate.max(last + 1);
        }
        out
    }

    /// How many indexes both sets have.
    pub fn common(&self, other: &Self) -> usize {
        let (mut a, mut b, mut total) = (self.0.iter().peekable(), other.0.iter().peekable(), 0);
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            total += (x.1.min(y.1) + 1).saturating_sub(x.0.max(y.0));
            if x.1 <= y.1 {
                a.next();
            } else {
                b.next();
            }
        }
        total
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, completions, want, total) in [
            ("", 5, "", 0),
            ("0", 5, "0", 1),
            ("0,1", 5, "0,1", 2),
            ("0-2,5,6,7", 10, "0-2,5-7", 6),
            ("0,2-9,12", 5, "0,2-4", 4),
            ("0,1,2", 5, "0-2", 3),
            ("x,3", 5, "3", 1),
            ("1-y,3", 5, "3", 1),
            ("7", 5, "", 0),
        ] {
            let i = Indexes::parse(text, completions);
            assert_eq!((i.to_string().as_str(), i.total()), (want, total), "{text}");
        }
    }

    #[test]
    fn sets() {
        let i = Indexes::parse("1,3-5,9", 20);
        assert_eq!(i.with([2, 0, 7]).to_string(), "0-5,7,9");
        assert_eq!(i.union(&Indexes::parse("2,4-10", 20)).to_string(), "1-10");
        let has: Vec<_> = (0..11).filter(|n| i.has(*n)).collect();
        assert_eq!(has, [1, 3, 4, 5, 9]);
        assert_eq!(i.first_missing(3, 20), [0, 2, 6]);
        assert_eq!(i.first_missing(30, 8), [0, 2, 6, 7]);
        assert_eq!(Indexes::default().first_missing(2, 1), [0]);
        assert_eq!(Indexes::parse("0-9", 20).first_missing(2, 5), Vec::<usize>::new());
        assert_eq!(i.common(&Indexes::parse("0-3,5-9", 20)), 4);
        assert_eq!(i.common(&Indexes::default()), 0);
    }
}
