//! Namespaces being deleted: everything in them goes, pods first, then the namespace's own finalizer.
//!
//! Invariant: the `kubernetes` finalizer is removed only after a pass in which nothing was left of any served kind.
//! upstream: `pkg/controller/namespace`

mod conditions;

use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{ApiResource, Client, DeleteOptions, Kind, ListOptions};
use conditions::Findings;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use meta::Status;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 10;
const FINALIZER: &str = "kubernetes";
/// Guess at how long finalizers take, in seconds (upstream: `finalizerEstimateSeconds`).
const FINALIZER_ESTIMATE: i64 = 15;

struct NamespaceController {
    client: Client,
    namespaces: Informer<Namespace>,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let namespaces = setup.informers.of::<Namespace>();
    let pods = setup.informers.of::<Pod>();
    let client = setup.client("namespace-controller");
    let this =
        Arc::new(NamespaceController { client, namespaces: namespaces.clone(), clock: setup.clock.clone() });
    let for_pods = this.clone();
    Controller::new("namespace", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&namespaces, |c, q| {
            if let Some(ns) = c.new.as_ref().filter(|n| n.is_deleting()) {
                q.add(ObjectKey::of(&**ns));
            }
        })
        // the last pod's end is what most deletions wait for
        .watches(&pods, move |c, q| {
            if let (Some(pod), None) = (&c.old, &c.new)
                && for_pods.namespaces.store().get("", pod.namespace()).is_some_and(|n| n.is_deleting())
            {
                q.add(ObjectKey::new("", pod.namespace()));
            }
        })
        .start(setup.cancel.clone())
}

/// What is left of one kind.
#[derive(Default)]
struct Remains {
    count: usize,
    finalizers: BTreeMap<String, usize>,
    /// Seconds until it may be gone.
    estimate: i64,
}

impl NamespaceController {
    /// Deletes everything of one kind and counts what is left.
    async fn empty(&self, r: &ApiResource, ns: &Namespace) -> Result<Remains, Status> {
        let api = self.client.dynamic(r);
        let name = ns.name();
        let estimate = if r.group.is_empty() && r.plural == "pods" { self.grace(ns).await? } else { 0 };
        let options =
            DeleteOptions { propagation_policy: Some("Background".into()), ..DeleteOptions::default() };
        let mut supported = r.can("deletecollection");
        if supported {
            match api.delete_collection(name, &options, &ListOptions::default()).await {
                Ok(()) => {}
                Err(e) if matches!(e.code, 404 | 405) => supported = false,
                Err(e) => return Err(e),
            }
        }
        if !r.can("list") {
            return Ok(Remains::default());
        }
        if !supported {
            for item in self.list(r, name).await? {
                match api.delete(name, meta::object::name(&item), &options).await {
                    Err(e) if !matches!(e.code, 404 | 405) => return Err(e),
                    _ => {}
                }
            }
        }
        let left = self.list(r, name).await?;
        let mut out = Remains { count: left.len(), estimate, ..Remains::default() };
        for f in left.iter().flat_map(meta::object::finalizers) {
            *out.finalizers.entry(f.to_owned()).or_default() += 1;
        }
        if left.is_empty() {
            out.estimate = 0;
        } else if estimate == 0 && !out.finalizers.is_empty() {
            out.estimate = FINALIZER_ESTIMATE;
        } else if estimate == 0 {
            let gvr = format!("{}/{}, Resource={}", r.group, r.version, r.plural);
            return Err(Status::internal(format!(
                "unexpected items still remain in namespace: {name} for gvr: {gvr}"
            )));
        }
        Ok(out)
    }

    async fn list(&self, r: &ApiResource, ns: &str) -> Result<Vec<Value>, Status> {
        match self.client.dynamic(r).list(ns, &ListOptions::default()).await {
            Ok(list) => Ok(list.items),
            Err(e) if matches!(e.code, 404 | 405) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The longest grace of a running pod, 0 when it has passed since the deletion.
    async fn grace(&self, ns: &Namespace) -> Result<i64, Status> {
        let pods = self.client.list::<Pod>(Some(ns.name()), &ListOptions::default()).await?;
        let running = pods.items.iter().filter(|p| !crate::common::pods::is_terminal(p));
        let grace = |p: &Pod| p.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(0);
        let longest = running.map(grace).max().unwrap_or(0);
        let since =
            ns.metadata.deletion_timestamp.as_ref().map(|t| self.clock.now().duration_since(t.0).as_secs());
        Ok(if since.is_some_and(|s| s >= longest) { 0 } else { longest })
    }

    /// One pass over all kinds; the estimate of seconds until everything is gone.
    async fn delete_content(&self, ns: &Namespace) -> Result<i64, Status> {
        let mut findings = Findings::default();
        let mut estimate = 0;
        let mut resources = Vec::new();
        match self.client.discover().await {
            Ok(found) => {
                findings.discovery(&found.failures);
                resources = found.resources;
            }
            Err(e) => findings.discovery(&[(String::new(), e)]),
        }
        resources.retain(|r| r.namespaced && r.can("delete"));
        let is_pods = |r: &ApiResource| r.group.is_empty() && r.plural == "pods";
        resources.sort_by_key(|r| !is_pods(r));
        for r in &resources {
            match self.empty(r, ns).await {
                Ok(left) => {
                    estimate = estimate.max(left.estimate);
                    findings.remaining(r, left.count, left.finalizers);
                    // what pods may need, such as secrets for stopping, stays until they are gone
                    if is_pods(r) && left.count > 0 {
                        findings.only_failures();
                        break;
                    }
                }
                Err(e) => findings.failed(e),
            }
        }
        let mut changed = ns.clone();
        if findings.write(&mut changed, self.clock.now()) {
            match self.client.update_status(&changed).await {
                Err(e) if !e.is_conflict() && !e.is_not_found() => {
                    tracing::warn!(namespace = ns.name(), "conditions not written: {e}");
                }
                _ => {}
            }
        }
        findings.into_error().map_or(Ok(estimate), Err)
    }
}

#[async_trait]
impl Reconcile for NamespaceController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let mut ns: Namespace = match self.client.get("", &key.name).await {
            Err(e) if e.is_not_found() => return Ok(After::Done),
            other => other?,
        };
        if !ns.is_deleting() {
            return Ok(After::Done);
        }
        let status = ns.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".into());
            ns = self.client.update_status(&ns).await?;
        }
        let finalizers = ns.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if finalizers.is_empty() {
            return Ok(After::Done);
        }
        let estimate = self.delete_content(&ns).await?;
        if estimate > 0 {
            return Ok(After::Again(Duration::from_secs(estimate.unsigned_abs() / 2 + 1)));
        }
        let mut fresh: Namespace = match self.client.get("", &key.name).await {
            Err(e) if e.is_not_found() => return Ok(After::Done),
            other => other?,
        };
        if fresh.uid() == ns.uid()
            && let Some(spec) = &mut fresh.spec
        {
            let left = finalizers.into_iter().filter(|f| f != FINALIZER).collect();
            spec.finalizers = Some(left);
            match self.client.update_subresource(&fresh, "finalize").await {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use client::fake::FakeApi;
    use client::informer::Informers;
    use http::Method;
    use serde_json::json;

    fn controller(api: &Arc<FakeApi>) -> NamespaceController {
        let client = Client::new(api.clone());
        let clock = SystemClock::shared();
        let namespaces = Informers::new(client.clone(), clock.clone()).of::<Namespace>();
        NamespaceController { client, namespaces, clock }
    }

    fn rig_discovery(api: &FakeApi) {
        let verbs = json!(["delete", "list", "watch"]);
        let resource = |n: &str, k: &str, namespaced| json!({"name": n, "kind": k, "namespaced": namespaced, "verbs": verbs});
        api.rig(Method::GET, "/apis", json!({"groups": []}));
        let all = [
            resource("secrets", "Secret", true),
            resource("nodes", "Node", false),
            resource("pods", "Pod", true),
        ];
        api.rig(Method::GET, "/api/v1", json!({"resources": all}));
    }

    #[tokio::test]
    async fn pods_go_first_then_the_rest_then_the_finalizer() {
        let api = Arc::new(FakeApi::new());
        api.seed(
            "/api/v1/namespaces",
            &json!({
                "metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            }),
        );
        let held = json!({"metadata": {"name": "p", "namespace": "n", "finalizers": ["hold"]}});
        api.seed("/api/v1/namespaces/n/pods", &held);
        api.seed("/api/v1/namespaces/n/secrets", &json!({"metadata": {"name": "s", "namespace": "n"}}));
        let c = controller(&api);
        let key = ObjectKey::new("", "n");
        rig_discovery(&api);
        assert_eq!(c.reconcile(&key).await.unwrap(), After::Again(Duration::from_secs(8)));
        assert_eq!(api.objects("/api/v1/namespaces/n/secrets").len(), 1, "secrets wait for pods");
        let patch = client::Patch::Merge(json!({"metadata": {"finalizers": null}}));
        c.client.patch::<Pod>("n", "p", None, patch).await.unwrap();
        rig_discovery(&api);
        assert_eq!(c.reconcile(&key).await.unwrap(), After::Done);
        assert!(api.objects("/api/v1/namespaces/n/secrets").is_empty());
        let ns = api.object("/api/v1/namespaces/n").unwrap();
        assert_eq!(ns["spec"]["finalizers"], json!([]));
        let conditions = ns["status"]["conditions"].as_array().unwrap();
        let of = |t: &str| conditions.iter().find(|c| c["type"] == t).unwrap()["status"].clone();
        assert_eq!(
            (of("NamespaceDeletionContentFailure"), of("NamespaceContentRemaining")),
            (json!("False"), json!("False"))
        );
    }
}
