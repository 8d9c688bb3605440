//! DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize and DefaultIngressClass: classes that
//! objects get when they name none, and what keeps volumes in use from going or growing.
//!
//! upstream: `plugin/pkg/admission/storage`, `plugin/pkg/admission/network/defaultingressclass`

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::object;
use meta::permit::Permit;
use meta::quantity::Quantity;
use meta::status::{Result, Status};
use registry::{ListQuery, Match, Operation, Registry, Selectors};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::sync::Arc;

/// Says that a class is the default one; the second is the older name.
const DEFAULT_STORAGE: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const DEFAULT_INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// A claim's and a volume's class, and an ingress's, as they were named before there was a field.
const CLAIM_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// All classes of a kind.
async fn classes(registry: &Registry, permit: &Permit, group: &str, plural: &str) -> Result<Vec<Value>> {
    let Some(row) = registry.kinds().resource(group, "v1", plural) else { return Ok(Vec::new()) };
    let query = ListQuery {
        selectors: Selectors::default(),
        limit: 0,
        resume: None,
        resource_version: String::new(),
        matching: Match::Unset,
    };
    let listed = registry.list(permit, &row, None, &query).await?;
    Ok(listed.items.iter().filter_map(|b| serde_json::from_slice(b).ok()).collect())
}

/// The newest of those that claim to be the default, the first by name of several (upstream: `GetDefaultClass`).
fn default_class<'a>(all: &'a [Value], annotations: &[&str]) -> Option<&'a str> {
    let claims = |c: &&Value| annotations.iter().any(|a| object::annotation(c, a) == Some("true"));
    let made = |c: &'a Value| object::meta_str(c, "creationTimestamp");
    let better = |a: &&'a Value, b: &&'a Value| -> Ordering {
        made(b).cmp(made(a)).then_with(|| object::name(a).cmp(object::name(b)))
    };
    all.iter().filter(claims).min_by(better).map(object::name)
}

/// Whether a request is about a resource itself.
fn is_itself(a: &Attributes<'_>, operation: Operation, group: &str, plural: &str) -> bool {
    a.operation == operation && a.is(group, plural) && a.subresource.is_empty()
}

pub struct DefaultStorageClass {
    registry: Arc<Registry>,
}

impl DefaultStorageClass {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit && is_itself(a, Operation::Create, "", "persistentvolumeclaims")
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        if claim_class(new).is_some() {
            return Ok(());
        }
        let all = classes(&self.registry, &a.permit, "storage.k8s.io", "storageclasses").await?;
        if let Some(name) = default_class(&all, &DEFAULT_STORAGE) {
            new["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}

/// The class that a claim names, which may be the empty one (upstream: `GetPersistentVolumeClaimClass`).
fn claim_class(claim: &Value) -> Option<&str> {
    object::annotation(claim, CLAIM_CLASS).or_else(|| claim["spec"]["storageClassName"].as_str())
}

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit && protection(a).is_some()
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        if let Some(finalizer) = protection(a) {
            hold(new, finalizer);
        }
        Ok(())
    }
}

/// The finalizer of what is made.
fn protection(a: &Attributes<'_>) -> Option<&'static str> {
    let finalizers = [
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
    ];
    let of = |(group, plural, finalizer)| is_itself(a, Operation::Create, group, plural).then_some(finalizer);
    finalizers.into_iter().find_map(of)
}

/// Adds a finalizer that is not there.
fn hold(obj: &mut Value, finalizer: &str) {
    if object::finalizers(obj).contains(&finalizer) {
        return;
    }
    if let Some(meta) = object::metadata_mut(obj) {
        let list = meta.entry("finalizers").or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut() {
            list.push(finalizer.into());
        }
    }
}

pub struct PersistentVolumeClaimResize {
    registry: Arc<Registry>,
}

impl PersistentVolumeClaimResize {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn allows(&self, a: &Attributes<'_>, class: &str) -> bool {
        let row = self.registry.kinds().resource("storage.k8s.io", "v1", "storageclasses");
        let class = row.and_then(|row| self.registry.get_value(&a.permit, &row, "", class).ok());
        class.is_some_and(|c| c["allowVolumeExpansion"] == true)
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate && is_itself(a, Operation::Update, "", "persistentvolumeclaims")
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        let refuse = |why: &str| Err(Status::forbidden(&a.kind.group_resource(), a.name, why));
        if old["status"]["phase"] != "Bound" {
            return refuse("Only bound persistent volume claims can be expanded");
        }
        match (claim_class(new), claim_class(old)) {
            (Some(class), Some(before)) if class == before && !class.is_empty() && self.allows(a, class) => {
                Ok(())
            }
            _ => refuse(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ),
        }
    }
}

/// What a claim asks for; nothing, or what is no quantity, is 0.
fn size(claim: &Value) -> Quantity {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or("0");
    text.parse().unwrap_or_default()
}

pub struct DefaultIngressClass {
    registry: Arc<Registry>,
}

impl DefaultIngressClass {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Admit && is_itself(a, Operation::Create, "networking.k8s.io", "ingresses")
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        let named =
            !new["spec"]["ingressClassName"].is_null() || object::annotation(new, INGRESS_CLASS).is_some();
        if named {
            return Ok(());
        }
        let all = classes(&self.registry, &a.permit, "networking.k8s.io", "ingressclasses").await?;
        if let Some(name) = default_class(&all, &DEFAULT_INGRESS) {
            new["spec"]["ingressClassName"] = name.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_class_is_it() {
        let class = |name: &str, made: &str, annotation: &str, value: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {annotation: value}}});
        let [ga, beta] = DEFAULT_STORAGE;
        let all = [
            class("a", "2026-01-01T00:00:00Z", ga, "true"),
            class("c", "2026-01-02T00:00:00Z", beta, "true"),
            class("b", "2026-01-02T00:00:00Z", ga, "true"),
            class("d", "2026-01-03T00:00:00Z", ga, "false"),
        ];
        assert_eq!(default_class(&all, &DEFAULT_STORAGE), Some("b"));
        assert_eq!(default_class(&all[..1], &DEFAULT_STORAGE), Some("a"));
        assert_eq!(default_class(&all[3..], &DEFAULT_STORAGE), None);
        assert_eq!(default_class(&all, &DEFAULT_INGRESS), None);
    }

    #[test]
    fn what_a_claim_names_and_asks_for() {
        assert_eq!(claim_class(&json!({"spec": {}})), None);
        assert_eq!(claim_class(&json!({"spec": {"storageClassName": ""}})), Some(""));
        let old = json!({"metadata": {"annotations": {CLAIM_CLASS: "x"}}, "spec": {"storageClassName": "y"}});
        assert_eq!(claim_class(&old), Some("x"));
        let asks = |s: &str| json!({"spec": {"resources": {"requests": {"storage": s}}}});
        assert!(size(&asks("2Gi")) > size(&asks("2G")) && size(&asks("1000Mi")) < size(&asks("1Gi")));
        assert!(size(&json!({})) < size(&asks("1")));
    }

    #[test]
    fn finalizers_are_added_once() {
        let mut obj = json!({"metadata": {"finalizers": ["x"]}});
        hold(&mut obj, "f");
        hold(&mut obj, "f");
        assert_eq!(obj["metadata"]["finalizers"], json!(["x", "f"]));
        let mut bare = json!({"metadata": {}});
        hold(&mut bare, "f");
        assert_eq!(bare["metadata"]["finalizers"], json!(["f"]));
    }
}
