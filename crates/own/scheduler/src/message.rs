//! Texts that say why a pod has no node.

use crate::decide::Preemption;
use std::collections::BTreeMap;

/// Every term of a node affinity names nodes that another of its requirements excludes.
pub(crate) const TERMS_CONFLICT: &str = "pod affinity terms conflict";
/// Nodes that a node affinity by name leaves out.
pub(crate) const PINNED_ELSEWHERE: &str = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
/// Longest event message, in bytes (upstream: `validation.NoteLengthLimit`).
const MAX_NOTE: usize = 1024;

/// Upstream: `framework/types.go#FitError.Error`.
pub(crate) fn fit_error(total: usize, reasons: &BTreeMap<String, usize>, preemption: &Preemption) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut out = if reasons.contains_key(TERMS_CONFLICT) {
        format!("0/{total} nodes are available: {TERMS_CONFLICT}.")
    } else {
        histogram(total, reasons)
    };
    match preemption {
        Preemption::NotEligible => out.push_str(" preemption: not eligible due to preemptionPolicy=Never."),
        Preemption::NotHelpful(why) => {
            out.push_str(" preemption: ");
            out.push_str(&histogram(total, why));
        }
        Preemption::Unknown => {}
    }
    out
}

fn histogram(total: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    let mut out = format!("0/{total} nodes are available:");
    if !parts.is_empty() {
        out.push(' ');
        out.push_str(&parts.join(", "));
        out.push('.');
    }
    out
}

/// Upstream: `schedule_one.go#truncateMessage`.
pub(crate) fn truncated(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= MAX_NOTE {
        return message.to_owned();
    }
    let cut = (0..=MAX_NOTE - SUFFIX.len()).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
    format!("{}{SUFFIX}", &message[..cut])
}
