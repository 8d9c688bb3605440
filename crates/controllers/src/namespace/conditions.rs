//! What a namespace says about its deletion (upstream: `status_condition_utils.go`).

use crate::common::time;
use client::ApiResource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use meta::Status;
use std::collections::BTreeMap;

/// Type, reason and message of each condition when all is well, in the order in which they are shown.
const WELL: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// What one pass found.
#[derive(Default)]
pub(super) struct Findings {
    discovery: Vec<String>,
    failures: Vec<Status>,
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Findings {
    pub(super) fn discovery(&mut self, failures: &[(String, Status)]) {
        self.discovery.extend(failures.iter().map(|(at, e)| format!("{at}: {e}")));
    }

    pub(super) fn failed(&mut self, e: Status) {
        self.failures.push(e);
    }

    pub(super) fn remaining(&mut self, r: &ApiResource, count: usize, finalizers: BTreeMap<String, usize>) {
        if count > 0 {
            self.remaining.insert(format!("{}.{}", r.plural, r.group), count);
        }
        for (f, n) in finalizers {
            *self.finalizers.entry(f).or_default() += n;
        }
    }

    /// A pass that stopped at pods says nothing about the rest.
    pub(super) fn only_failures(&mut self) {
        self.remaining.clear();
        self.finalizers.clear();
    }

    fn of(&self, kind: &str) -> Option<(&'static str, String)> {
        let list = |map: &BTreeMap<String, usize>, what: &dyn Fn(&str, usize) -> String| {
            let mut all: Vec<String> = map.iter().map(|(k, n)| what(k, *n)).collect();
            all.sort();
            all.join(", ")
        };
        match kind {
            "NamespaceDeletionDiscoveryFailure" if !self.discovery.is_empty() => {
                let (n, all) = (self.discovery.len(), self.discovery.join(", "));
                let text = format!(
                    "Discovery failed for some groups, {n} failing: unable to retrieve the complete list of server APIs: {all}"
                );
                Some(("DiscoveryFailed", text))
            }
            "NamespaceDeletionContentFailure" if !self.failures.is_empty() => {
                let mut texts: Vec<String> = self.failures.iter().map(Status::to_string).collect();
                texts.sort();
                let (n, all) = (texts.len(), texts.join(", "));
                Some((
                    "ContentDeletionFailed",
                    format!("Failed to delete all resource types, {n} remaining: {all}"),
                ))
            }
            "NamespaceContentRemaining" if !self.remaining.is_empty() => {
                let all = list(&self.remaining, &|k, n| format!("{k} has {n} resource instances"));
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {all}")))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let all = list(&self.finalizers, &|k, n| format!("{k} in {n} resource instances"));
                Some((
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {all}"),
                ))
            }
            _ => None,
        }
    }

    /// Brings the conditions up to date and says whether any changed.
    pub(super) fn write(&self, ns: &mut Namespace, now: Timestamp) -> bool {
        let all = ns.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut changed = false;
        for (kind, reason, message) in WELL {
            let (status, reason, message) = match self.of(kind) {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", reason, message.to_owned()),
            };
            let new = NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(time(now)),
            };
            match all.iter_mut().find(|c| c.type_ == kind) {
                None => {
                    all.push(new);
                    changed = true;
                }
                Some(old) if old.status != new.status => {
                    *old = new;
                    changed = true;
                }
                Some(old) if old.reason != new.reason || old.message != new.message => {
                    (old.reason, old.message) = (new.reason, new.message);
                    changed = true;
                }
                Some(_) => {}
            }
        }
        changed
    }

    /// The first failure, when there was any.
    pub(super) fn into_error(self) -> Option<Status> {
        let discovery = self.discovery.first().map(|t| Status::unavailable(t.clone()));
        self.failures.into_iter().next().or(discovery)
    }
}
