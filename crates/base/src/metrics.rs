//! Numbers for whoever watches the program, in the Prometheus text format.
//!
//! Invariant: values of labels come from a bounded set: what is counted is named by the program or by its tables.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One metric, with a number for each set of labels.
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    series: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Family {
    /// A number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", series: Mutex::new(BTreeMap::new()) }
    }

    /// A number as it is now.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", series: Mutex::new(BTreeMap::new()) }
    }

    /// One more.
    pub fn add(&self, labels: &[(&str, &str)]) {
        self.of(labels).fetch_add(1, Ordering::Relaxed);
    }

    pub fn set(&self, labels: &[(&str, &str)], value: u64) {
        self.of(labels).store(value, Ordering::Relaxed);
    }

    /// The number itself, for where it changes often.
    pub fn of(&self, labels: &[(&str, &str)]) -> Arc<AtomicU64> {
        self.series.lock().entry(text(labels)).or_default().clone()
    }

    /// Forgets all of it, before a gauge is set anew.
    pub fn clear(&self) {
        self.series.lock().clear();
    }

    /// Nothing, while nothing was counted.
    pub fn render(&self, out: &mut String) {
        let series = self.series.lock();
        if series.is_empty() {
            return;
        }
        // Writing to a text cannot fail.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, self.kind);
        for (labels, value) in &*series {
            let _ = writeln!(out, "{}{labels} {}", self.name, value.load(Ordering::Relaxed));
        }
    }
}

fn text(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_and_escaped() {
        let family = Family::counter("x_total", "How many.");
        let mut out = String::new();
        family.render(&mut out);
        assert_eq!(out, "");
        family.add(&[("a", "1"), ("b", "say \"x\"\\")]);
        family.add(&[("a", "1"), ("b", "say \"x\"\\")]);
        family.add(&[]);
        family.render(&mut out);
        let wanted = "# HELP x_total How many.\n# TYPE x_total counter\nx_total 1\nx_total{a=\"1\",b=\"say \\\"x\\\"\\\\\"} 2\n";
        assert_eq!(out, wanted);
    }
}
