//! Claims of volumes and of devices (upstream: `pkg/quota/v1/evaluator/core/{persistent_volume_claims,resource_claims}.go`).

use super::{Scope, whole};
use crate::amounts::Amounts;
use crate::core::persistent_volume::CLASS_ANNOTATION;
use crate::resources;
use crate::validate::{items, text};
use meta::object;
use meta::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
const COUNT_CLAIMS: &str = "count/resourceclaims.resource.k8s.io";
/// Devices that an allocation can have at most (upstream: `AllocationResultsMaxSize`).
const DEVICES_MAX: i64 = 32;

pub(super) fn counts(name: &str) -> bool {
    let of_class = |n: &str| name.strip_suffix(n).is_some_and(|rest| rest.ends_with(CLASS));
    name == "count/persistentvolumeclaims" || NAMES.contains(&name) || NAMES.into_iter().any(of_class)
}

pub(super) fn usage(claim: &Value) -> Amounts {
    let class = object::annotation(claim, CLASS_ANNOTATION);
    let class = class.unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    let mut out = Amounts::default();
    out.set("count/persistentvolumeclaims", whole(1));
    let mut charge = |name: &str, amount: Quantity| {
        if !class.is_empty() {
            out.set(format!("{class}{CLASS}{name}"), amount.clone());
        }
        out.set(name, amount);
    };
    charge(NAMES[0], whole(1));
    let storage = |list: &Value| resources::amount(&list["storage"]);
    if let Some(asked) = storage(&claim["spec"]["resources"]["requests"]) {
        let allocated = storage(&claim["status"]["allocatedResources"]);
        let most = allocated.filter(|a| *a > asked).unwrap_or(asked);
        // counted in whole bytes, as quotas are
        let whole_bytes = resources::is_whole(&most);
        charge(NAMES[1], if whole_bytes { most } else { Quantity::new(most.value(), most.format()) });
    }
    out
}

/// Upstream: `pvcMatchesScopeFunc`.
pub(super) fn in_scope(claim: &Value, scope: &Scope<'_>) -> bool {
    if scope.name != "VolumeAttributesClass" {
        return false;
    }
    let classes = attribute_classes(claim);
    match classes.is_empty() {
        true => scope.accepts(None),
        false => classes.iter().any(|c| scope.accepts(Some(c))),
    }
}

/// The classes that the claim has, had or is to get (upstream: `getReferencedVolumeAttributesClassNames`).
fn attribute_classes(claim: &Value) -> BTreeSet<&str> {
    let status = &claim["status"];
    let named = [
        text(&claim["spec"], "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
    ];
    named.into_iter().filter(|n| !n.is_empty()).collect()
}

/// Upstream: `RequiresQuotaReplenish`.
pub(super) fn needs_recount(new: &Value, old: &Value) -> bool {
    let allocated = |c: &Value| resources::amount(&c["status"]["allocatedResources"]["storage"]);
    allocated(new) != allocated(old) || attribute_classes(new) != attribute_classes(old)
}

pub(super) fn counts_devices(name: &str) -> bool {
    name == COUNT_CLAIMS || name.ends_with(DEVICES)
}

/// Upstream: `claimEvaluator.Usage`. Of alternatives, each class counts with the most that one of them takes.
pub(super) fn devices(claim: &Value) -> Amounts {
    let mut out = Amounts::default();
    out.set(COUNT_CLAIMS, whole(1));
    for request in items(&claim["spec"]["devices"], "requests") {
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        let alternatives = items(request, "firstAvailable");
        let exactly = Some(&request["exactly"]).filter(|e| e.is_object() && alternatives.is_empty());
        for asked in alternatives.iter().chain(exactly) {
            let count = match text(asked, "allocationMode") {
                "ExactCount" => asked["count"].as_i64().unwrap_or(0),
                "All" => DEVICES_MAX,
                _ => 0,
            };
            let own = most.entry(text(asked, "deviceClassName")).or_default();
            *own = count.max(*own);
        }
        for (class, count) in most {
            out.add(&[(format!("{class}{DEVICES}"), whole(count))].into_iter().collect());
        }
    }
    out
}
