//! [`NodeApi`] over the typed client.

mod tracked;

use crate::ports::{ApiResult, NodeApi, PodChange, Reference};
use async_trait::async_trait;
use base::clock::SharedClock;
use client::events::{EventType, Flavor, Recorder};
use client::informer::{Event, Informer, Informers};
use client::typed::{DeleteOptions, Preconditions};
use client::{Client, Patch};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, Pod, Secret, Service, ServiceAccount};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc};
use tracked::{Object, Tracker};

/// Pod changes that wait for the agent.
const CHANGES: usize = 1024;

/// The API through a client that acts as `system:node:<name>`.
pub struct ClientApi {
    client: Client,
    pods: Informer<Pod>,
    services: Informer<Service>,
    recorder: Recorder,
    tracker: Tracker,
}

impl ClientApi {
    /// Starts the watches on the node's pods and on services. Needs a tokio runtime.
    pub fn new(client: Client, informers: &Informers, node_name: &str, clock: SharedClock) -> Self {
        Self {
            pods: informers.of_selected(&format!("spec.nodeName={node_name}")),
            services: informers.of(),
            recorder: Recorder::new(client.clone(), "kubelet", node_name, Flavor::Core, clock),
            tracker: Tracker::new(client.clone()),
            client,
        }
    }
}

#[async_trait]
impl NodeApi for ClientApi {
    async fn synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.store().list()
    }

    fn pod_changes(&self) -> mpsc::Receiver<PodChange> {
        let (tx, rx) = mpsc::channel(CHANGES);
        let mut changes = self.pods.subscribe();
        tokio::spawn(async move {
            while let Some(event) = changes.next().await {
                let change = match event {
                    Event::Applied(pod) => PodChange::Applied(pod),
                    Event::Deleted(pod) => PodChange::Deleted(pod),
                    Event::Resync => PodChange::Resync,
                };
                if tx.send(change).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    fn services(&self) -> Vec<Arc<Service>> {
        self.services.store().list()
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> ApiResult<Pod> {
        self.client.get(namespace, name).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> ApiResult<Arc<ConfigMap>> {
        let reference = Reference::ConfigMap { namespace: namespace.into(), name: name.into() };
        if let Some(Object::ConfigMap(known)) = self.tracker.known(&reference) {
            return Ok(known);
        }
        let object: ConfigMap = self.client.get(namespace, name).await?;
        self.tracker.seen(&reference, object.metadata.resource_version.as_deref());
        Ok(Arc::new(object))
    }

    async fn secret(&self, namespace: &str, name: &str) -> ApiResult<Arc<Secret>> {
        let reference = Reference::Secret { namespace: namespace.into(), name: name.into() };
        if let Some(Object::Secret(known)) = self.tracker.known(&reference) {
            return Ok(known);
        }
        let object: Secret = self.client.get(namespace, name).await?;
        self.tracker.seen(&reference, object.metadata.resource_version.as_deref());
        Ok(Arc::new(object))
    }

    fn track(&self, pod_uid: &str, references: BTreeSet<Reference>) {
        self.tracker.track(pod_uid, references);
    }

    fn object_changes(&self) -> broadcast::Receiver<Reference> {
        self.tracker.changes()
    }

    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> ApiResult<Pod> {
        self.client.patch(namespace, name, Some("status"), Patch::Strategic(patch.clone())).await
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> ApiResult<()> {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteOptions::default()
        };
        self.client.delete::<Pod>(namespace, name, &options).await
    }

    async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        request: &TokenRequest,
    ) -> ApiResult<TokenRequest> {
        let mut body = serde_json::to_value(request).map_err(meta::Status::internal)?;
        body["apiVersion"] = "authentication.k8s.io/v1".into();
        body["kind"] = "TokenRequest".into();
        let answer = self
            .client
            .create_subresource::<ServiceAccount>(namespace, service_account, "token", &body)
            .await?;
        serde_json::from_value(answer).map_err(meta::Status::internal)
    }

    fn event(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        let object =
            format!("{}/{}", about.namespace.as_deref().unwrap_or(""), about.name.as_deref().unwrap_or(""));
        tracing::info!(kind = about.kind.as_deref(), object, reason, "{message}");
        self.recorder.event(about, kind, reason, message);
    }

    async fn get_node(&self, name: &str) -> ApiResult<Node> {
        self.client.get("", name).await
    }

    async fn create_node(&self, node: &Node) -> ApiResult<Node> {
        self.client.create(node).await
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> ApiResult<Node> {
        self.client.patch("", name, None, Patch::Strategic(patch.clone())).await
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> ApiResult<Node> {
        self.client.patch("", name, Some("status"), Patch::Strategic(patch.clone())).await
    }

    async fn get_lease(&self, namespace: &str, name: &str) -> ApiResult<Lease> {
        self.client.get(namespace, name).await
    }

    async fn create_lease(&self, lease: &Lease) -> ApiResult<Lease> {
        self.client.create(lease).await
    }

    async fn update_lease(&self, lease: &Lease) -> ApiResult<Lease> {
        self.client.update(lease).await
    }
}
