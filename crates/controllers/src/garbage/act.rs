//! What is done about one object (upstream: `garbagecollector.go#attemptToDeleteItem`, `attemptToOrphan`).

use super::graph::{FOREGROUND, Graph, Identity, ORPHAN, View, Work};
use async_trait::async_trait;
use client::controller::{After, Error, Queue, Reconcile};
use client::{ApiResource, Client, DeleteOptions, Patch, Preconditions};
use meta::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Uids remembered as absent.
const ABSENT: usize = 500;
/// Wait for an owner that exists to be seen by a watch.
const UNSEEN_WAIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Absent {
    set: HashSet<String>,
    order: VecDeque<String>,
}

pub(super) struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    resources: Mutex<HashMap<(String, String), ApiResource>>,
    absent: Mutex<Absent>,
    queue: Arc<Queue<Work>>,
}

/// An owner reference, judged by the live owner.
enum Owner {
    Solid,
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

impl Collector {
    pub(super) fn new(client: Client, graph: Arc<Mutex<Graph>>, queue: Arc<Queue<Work>>) -> Self {
        Self { client, graph, resources: Mutex::default(), absent: Mutex::default(), queue }
    }

    pub(super) fn set_resources(&self, all: &[ApiResource]) {
        let mut map = self.resources.lock();
        for r in all {
            map.insert((r.api_version(), r.kind.clone()), r.clone());
        }
    }

    fn resource(&self, api_version: &str, kind: &str) -> Result<ApiResource, Error> {
        let found = self.resources.lock().get(&(api_version.to_owned(), kind.to_owned())).cloned();
        if let Some(r) = found {
            return Ok(r);
        }
        // owners may be named in another version of their group than the preferred one
        let group = |v: &str| v.rsplit_once('/').map_or(String::new(), |(g, _)| g.to_owned());
        let all = self.resources.lock();
        let same = all.values().find(|r| r.kind == kind && r.group == group(api_version)).cloned();
        same.ok_or_else(|| {
            format!("{api_version} {kind} is not served, so its objects cannot be looked up").into()
        })
    }

    async fn live(&self, id: &Identity) -> Result<Option<(ApiResource, Value)>, Error> {
        let r = self.resource(&id.api_version, &id.kind)?;
        match self.client.dynamic(&r).get(&id.namespace, &id.name).await {
            Ok(v) => Ok(Some((r, v))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn gone(&self, uid: &str) {
        let work = self.graph.lock().remove(uid);
        work.into_iter().for_each(|w| self.queue.add(w));
        let mut absent = self.absent.lock();
        if absent.set.insert(uid.to_owned()) {
            absent.order.push_back(uid.to_owned());
            if absent.order.len() > ABSENT
                && let Some(oldest) = absent.order.pop_front()
            {
                absent.set.remove(&oldest);
            }
        }
    }

    async fn attempt_delete(&self, uid: &str) -> Result<After, Error> {
        let Some(view) = self.graph.lock().view(uid) else { return Ok(After::Done) };
        if view.deleting && !view.waits_for_dependents {
            return Ok(After::Done);
        }
        if !view.seen
            && view.identity.namespace.is_empty()
            && self.resource(&view.identity.api_version, &view.identity.kind)?.namespaced
        {
            // a cluster-scoped object cannot have a namespaced owner; upstream leaves both alone
            tracing::debug!(owner = ?view.identity, "a cluster-scoped object refers to a namespaced owner");
            return Ok(After::Done);
        }
        let Some((resource, live)) = self.live(&view.identity).await? else {
            self.gone(uid);
            return Ok(After::Done);
        };
        if meta::object::uid(&live) != uid {
            self.gone(uid);
            return Ok(After::Done);
        }
        if !view.seen {
            return Ok(After::Again(UNSEEN_WAIT));
        }
        if view.waits_for_dependents {
            return self.finish_foreground(&view, &resource, &live).await;
        }
        self.judge(&view, &resource, &live).await
    }

    /// Removes the foreground finalizer once nothing blocks; otherwise sees to what does.
    async fn finish_foreground(&self, view: &View, r: &ApiResource, live: &Value) -> Result<After, Error> {
        let blocking: Vec<_> = view.dependents.iter().filter(|d| d.blocks).collect();
        if blocking.is_empty() {
            self.remove_finalizer(r, live, FOREGROUND).await?;
        }
        let idle = blocking.into_iter().filter(|d| !d.waits_for_dependents);
        idle.for_each(|d| self.queue.add(Work::Delete(d.identity.uid.clone())));
        Ok(After::Done)
    }

    async fn judge(&self, view: &View, r: &ApiResource, live: &Value) -> Result<After, Error> {
        let refs = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        if refs.is_empty() {
            return Ok(After::Done);
        }
        let (mut solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &refs {
            let uid = owner["uid"].as_str().unwrap_or("").to_owned();
            match self.owner(owner, meta::object::namespace(live)).await? {
                None => return Ok(After::Done),
                Some(Owner::Solid) => solid += 1,
                Some(Owner::Dangling) => dangling.push(uid),
                Some(Owner::Waiting) => waiting.push(uid),
            }
        }
        if solid > 0 {
            let drop: HashSet<String> = dangling.into_iter().chain(waiting).collect();
            if !drop.is_empty() {
                self.remove_references(r, live, &drop).await?;
            }
            return Ok(After::Done);
        }
        if !waiting.is_empty() && !view.dependents.is_empty() {
            if view.dependents.iter().any(|d| d.waits_for_dependents) {
                // two that wait for each other would wait forever
                self.unblock_owners(r, live).await?;
            }
            return self.delete(r, live, "Foreground").await;
        }
        let finalizers = meta::object::finalizers(live);
        let policy = match () {
            () if finalizers.contains(&ORPHAN) => "Orphan",
            () if finalizers.contains(&FOREGROUND) => "Foreground",
            () => "Background",
        };
        self.delete(r, live, policy).await
    }

    /// Looks an owner up live. `None` when the reference can never be valid.
    async fn owner(&self, reference: &Value, ns: &str) -> Result<Option<Owner>, Error> {
        let text = |k: &str| reference[k].as_str().unwrap_or("");
        if self.absent.lock().set.contains(text("uid")) {
            return Ok(Some(Owner::Dangling));
        }
        let r = self.resource(text("apiVersion"), text("kind"))?;
        if r.namespaced && ns.is_empty() {
            return Ok(None);
        }
        let owner = match self.client.dynamic(&r).get(ns, text("name")).await {
            Err(e) if e.is_not_found() => {
                return Ok(Some(Owner::Dangling));
            }
            other => other?,
        };
        if meta::object::uid(&owner) != text("uid") {
            return Ok(Some(Owner::Dangling));
        }
        let waits =
            meta::object::is_deleting(&owner) && meta::object::finalizers(&owner).contains(&FOREGROUND);
        Ok(Some(if waits { Owner::Waiting } else { Owner::Solid }))
    }

    async fn delete(&self, r: &ApiResource, live: &Value, policy: &str) -> Result<After, Error> {
        let version = meta::object::resource_version(live);
        let options = DeleteOptions {
            propagation_policy: Some(policy.to_owned()),
            preconditions: Some(Preconditions {
                uid: Some(meta::object::uid(live).to_owned()),
                // what was judged is what goes
                resource_version: Some(version.to_owned()).filter(|v| !v.is_empty()),
            }),
            ..DeleteOptions::default()
        };
        match self
            .client
            .dynamic(r)
            .delete(meta::object::namespace(live), meta::object::name(live), &options)
            .await
        {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(After::Done),
        }
    }

    async fn patch_meta(&self, r: &ApiResource, live: &Value, mut fields: Value) -> Result<(), Error> {
        // lists are replaced whole, so only on the version that was read
        fields["resourceVersion"] = meta::object::resource_version(live).into();
        fields["uid"] = meta::object::uid(live).into();
        let patch = Patch::Merge(json!({"metadata": fields}));
        let (ns, name) = (meta::object::namespace(live), meta::object::name(live));
        match self.client.dynamic(r).patch(ns, name, "", &patch).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }

    async fn remove_references(
        &self,
        r: &ApiResource,
        live: &Value,
        uids: &HashSet<String>,
    ) -> Result<(), Error> {
        let refs = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let left: Vec<Value> =
            refs.into_iter().filter(|o| !o["uid"].as_str().is_some_and(|u| uids.contains(u))).collect();
        self.patch_meta(r, live, json!({"ownerReferences": left})).await
    }

    async fn unblock_owners(&self, r: &ApiResource, live: &Value) -> Result<(), Error> {
        let mut refs = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let blocking = |o: &&mut Value| o["blockOwnerDeletion"] == true;
        refs.iter_mut().filter(blocking).for_each(|o| o["blockOwnerDeletion"] = false.into());
        self.patch_meta(r, live, json!({"ownerReferences": refs})).await
    }

    async fn remove_finalizer(&self, r: &ApiResource, live: &Value, which: &str) -> Result<(), Error> {
        let all = meta::object::finalizers(live);
        if !all.contains(&which) {
            return Ok(());
        }
        let left: Vec<&str> = all.into_iter().filter(|f| *f != which).collect();
        self.patch_meta(r, live, json!({"finalizers": left})).await
    }

    /// Takes the owner out of its dependents' references, then lets it go.
    async fn attempt_orphan(&self, uid: &str) -> Result<After, Error> {
        let Some(view) = self.graph.lock().view(uid) else { return Ok(After::Done) };
        let owner = HashSet::from([uid.to_owned()]);
        for d in &view.dependents {
            if let Some((r, live)) = self.live(&d.identity).await?
                && meta::object::uid(&live) == d.identity.uid
                && live["metadata"]["ownerReferences"]
                    .as_array()
                    .is_some_and(|a| a.iter().any(|o| o["uid"] == uid))
            {
                self.remove_references(&r, &live, &owner).await?;
            }
        }
        if let Some((r, live)) = self.live(&view.identity).await?
            && meta::object::uid(&live) == uid
        {
            self.remove_finalizer(&r, &live, ORPHAN).await?;
        }
        Ok(After::Done)
    }
}

/// A conflict only means that the object changed since it was read.
pub(super) fn is_conflict(e: &Error) -> bool {
    e.downcast_ref::<Status>().is_some_and(Status::is_conflict)
}

#[async_trait]
impl Reconcile for Collector {
    type Key = Work;

    async fn reconcile(&self, key: &Work) -> Result<After, Error> {
        let result = match key {
            Work::Delete(uid) => self.attempt_delete(uid).await,
            Work::Orphan(uid) => self.attempt_orphan(uid).await,
        };
        match result {
            Err(e) if is_conflict(&e) => Ok(After::Again(Duration::from_millis(20))),
            other => other,
        }
    }
}
