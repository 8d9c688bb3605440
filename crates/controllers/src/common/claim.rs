//! Adoption and release: which objects an owner manages, should manage and must let go
//! (upstream: `pkg/controller/controller_ref_manager.go`).

use super::select;
use client::kind::controller_of;
use client::{Client, Kind, Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use meta::Status;
use meta::selector::LabelSelector;
use serde_json::json;
use std::sync::Arc;

/// Candidates sorted by what is to be done with them.
#[derive(Debug)]
pub struct Claims<K> {
    pub owned: Vec<Arc<K>>,
    pub adopt: Vec<Arc<K>>,
    pub release: Vec<Arc<K>>,
}

/// Sorts candidates. An owner that is being deleted adopts nothing and releases nothing.
pub fn plan<K: Kind>(owner: &ObjectMeta, selector: &LabelSelector, candidates: Vec<Arc<K>>) -> Claims<K> {
    let mut out = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let deleting = owner.deletion_timestamp.is_some();
    for candidate in candidates {
        let meta = candidate.metadata();
        let matches = select::matches(selector, meta.labels.as_ref());
        match controller_of(meta) {
            Some(c) if Some(&c.uid) != owner.uid.as_ref() => {}
            Some(_) if matches => out.owned.push(candidate),
            Some(_) if !deleting => out.release.push(candidate),
            Some(_) => {}
            None if matches && !deleting && meta.deletion_timestamp.is_none() => out.adopt.push(candidate),
            None => {}
        }
    }
    out
}

/// Does what was planned and returns all that is owned then. Before an adoption the owner is looked up live, so that a
/// deleted or replaced owner adopts nothing.
///
/// # Errors
/// The owner could not be read, is gone, or a patch failed for another reason than the candidate having gone.
pub async fn apply<O: Kind, K: Kind>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, Status> {
    apply_with(client, owner, claims, None).await
}

/// As [`apply`]; what is adopted also gets a finalizer, and what is released loses it.
///
/// # Errors
/// As [`apply`].
pub async fn apply_with<O: Kind, K: Kind>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, Status> {
    let mut owned = claims.owned;
    if !claims.adopt.is_empty() {
        let fresh: O = client.get(owner.namespace(), owner.name()).await?;
        if fresh.uid() != owner.uid() || fresh.is_deleting() {
            let (kind, name) = (O::KIND, owner.name());
            return Err(Status::internal(format!(
                "can't adopt for {kind} {name}: it was deleted or replaced"
            )));
        }
    }
    for candidate in claims.adopt {
        let patch = adoption(&owner.controller_ref(), candidate.uid(), finalizer);
        match client.patch::<K>(candidate.namespace(), candidate.name(), None, patch).await {
            Ok(adopted) => owned.push(Arc::new(adopted)),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    for candidate in claims.release {
        let patch = release(owner.uid(), candidate.uid(), finalizer);
        match client.patch::<K>(candidate.namespace(), candidate.name(), None, patch).await {
            // invalid: its owner references or uid changed meanwhile, so it is no longer ours
            Err(e) if e.is_not_found() || e.code == 422 => {}
            Err(e) => return Err(e),
            Ok(_) => {}
        }
    }
    Ok(owned)
}

fn adoption(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> Patch {
    let mut meta = json!({"ownerReferences": [owner], "uid": uid});
    if let Some(f) = finalizer {
        meta["finalizers"] = json!([f]);
    }
    Patch::Strategic(json!({"metadata": meta}))
}

fn release(owner_uid: &str, uid: &str, finalizer: Option<&str>) -> Patch {
    let mut meta = json!({"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": uid});
    if let Some(f) = finalizer {
        meta["$deleteFromPrimitiveList/finalizers"] = json!([f]);
    }
    Patch::Strategic(json!({"metadata": meta}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    #[test]
    fn who_is_claimed() {
        let owner: ObjectMeta = serde_json::from_value(json!({"uid": "me"})).unwrap();
        let refs = |uid: &str| json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}]);
        let pod = |name: &str, labels: Value, refs: Value| -> Arc<Pod> {
            let meta = json!({"name": name, "labels": labels, "ownerReferences": refs});
            Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
        };
        let all = vec![
            pod("mine", json!({"a": "1"}), refs("me")),
            pod("stray", json!({"a": "2"}), refs("me")),
            pod("orphan", json!({"a": "1"}), json!([])),
            pod("foreign", json!({"a": "1"}), refs("other")),
        ];
        let selector = LabelSelector::parse("a=1").unwrap();
        let names = |v: &[Arc<Pod>]| v.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
        let c = plan(&owner, &selector, all.clone());
        assert_eq!(
            (names(&c.owned), names(&c.adopt), names(&c.release)),
            (vec!["mine".into()], vec!["orphan".into()], vec!["stray".into()])
        );
        let deleted =
            ObjectMeta { deletion_timestamp: Some(super::super::time(jiff::Timestamp::UNIX_EPOCH)), ..owner };
        let c = plan(&deleted, &selector, all);
        assert!(c.adopt.is_empty() && c.release.is_empty() && c.owned.len() == 1);
    }
}
