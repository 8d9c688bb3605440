//! One authorised request, as the verbs see it.

use crate::filters::audit::AuditScope;
use crate::filters::latency::Layer;
use crate::negotiate::Accepted;
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::verbs::owners;
use admission::{Attributes, Call, Notes};
use async_trait::async_trait;
use auth::identity::Identity;
use bytes::Bytes;
use http::HeaderMap;
use kinds::KindDef;
use meta::permit::Permit;
use meta::status::{Result, Status};
use parking_lot::Mutex;
use registry::{Admit, Operation, Recorder};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Warnings sent with one response, and their bytes in all (upstream: `pkg/endpoints/filters/warning.go`).
const WARNINGS_MAX: usize = 64;
const WARNING_BYTES_MAX: usize = 4 << 10;

pub struct Context {
    pub server: Arc<Server>,
    pub info: RequestInfo,
    /// The effective user (after impersonation).
    pub user: Arc<Identity>,
    pub permit: Permit,
    pub headers: HeaderMap,
    pub accepted: Accepted,
    /// Why nothing can be answered in a form that the client takes.
    pub unacceptable: Option<Status>,
    pub audit: Arc<AuditScope>,
    pub body: Bytes,
    pub warnings: Warnings,
    /// The client's connection can be taken over after a 101.
    pub upgrade: Mutex<Option<crate::splice::Upgrade>>,
    pub peer: std::net::IpAddr,
}

/// Warnings for the client, each once.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub fn add(&self, text: &str) {
        let mut all = self.0.lock();
        let bytes: usize = all.iter().map(String::len).sum();
        let fits = all.len() < WARNINGS_MAX && bytes + text.len() <= WARNING_BYTES_MAX;
        if fits && !text.is_empty() && !all.iter().any(|w| w == text) {
            all.push(text.to_owned());
        }
    }

    /// The `Warning` header values.
    pub fn headers(&self) -> Vec<String> {
        self.0
            .lock()
            .iter()
            .map(|w| format!("299 - {:?}", w.replace(|c: char| c.is_control(), " ")))
            .collect()
    }
}

impl Context {
    pub fn content_type(&self) -> &str {
        let value = self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        value.split(';').next().unwrap_or("").trim()
    }

    /// The namespace of the request's objects; `None` for all namespaces or cluster-scoped kinds.
    pub fn namespace(&self, kind: &KindDef) -> Option<&str> {
        (kind.namespaced() && !self.info.namespace.is_empty()).then_some(self.info.namespace.as_str())
    }

    pub fn dry_run(&self) -> bool {
        self.info.query.has("dryRun")
    }

    /// The request's options as webhooks and policies see them.
    fn options(&self, op: Operation) -> Value {
        let q = &self.info.query;
        let kind = match (op, self.info.verb.as_str()) {
            (Operation::Connect, _) => return Value::Null,
            (Operation::Delete, "delete" | "deletecollection") => {
                let mut options: Value = serde_json::from_slice(&self.body).unwrap_or_default();
                if !options.is_object() {
                    options = serde_json::json!({});
                }
                options["kind"] = "DeleteOptions".into();
                options["apiVersion"] = "meta.k8s.io/v1".into();
                return options;
            }
            (_, "patch") => "PatchOptions",
            (Operation::Create, _) => "CreateOptions",
            _ => "UpdateOptions",
        };
        let mut options = serde_json::json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        for field in ["fieldManager", "fieldValidation"] {
            if !q.get(field).is_empty() {
                options[field] = q.get(field).into();
            }
        }
        let dry_run: Vec<&str> = q.all("dryRun").collect();
        if !dry_run.is_empty() {
            options["dryRun"] = dry_run.into();
        }
        if kind == "PatchOptions" && q.has("force") {
            options["force"] = q.flag("force").into();
        }
        options
    }

    /// Asks admission about a connection; `options` is what the client asks for (`PodExecOptions` and its siblings).
    pub async fn admit_connect(&self, kind: &KindDef, mut options: Value) -> Result<()> {
        let admit = Admission { ctx: self, kind, dry_run: false };
        admit.mutate(Operation::Connect, &self.info.name, &mut options, None).await?;
        admit.validate(Operation::Connect, &self.info.name, Some(&options), None).await
    }

    /// The registry's view of a write by this request.
    pub fn write<'a>(
        &'a self,
        kind: &'a KindDef,
        name: &'a str,
        admit: &'a Admission<'a>,
    ) -> registry::Request<'a> {
        registry::Request {
            permit: self.permit,
            kind,
            namespace: if kind.namespaced() { &self.info.namespace } else { "" },
            name,
            subresource: &self.info.subresource,
            dry_run: admit.dry_run,
            is_patch: self.info.verb == "patch",
            requester: kinds::Requester {
                name: &self.user.name,
                uid: &self.user.uid,
                groups: &self.user.groups,
                extra: &self.user.extra,
            },
            admit,
            recorder: self,
        }
    }
}

impl Recorder for Context {
    fn core(&self) -> Option<Bytes> {
        self.audit.core()
    }

    fn committed(&self, record: u64) {
        self.audit.committed(record);
    }

    fn stored(&self, time: Duration) {
        self.audit.latency.spent(Layer::Storage, time);
    }

    fn warn(&self, text: &str) {
        self.warnings.add(text);
    }
}

impl Notes for Context {
    fn annotate(&self, key: &str, value: &str) {
        self.audit.annotate(key, value);
    }

    fn annotate_at_request(&self, key: &str, value: &str) {
        if self.audit.wants_request() {
            self.audit.annotate(key, value);
        }
    }

    fn warn(&self, text: &str) {
        self.warnings.add(text);
    }

    fn webhook_took(&self, mutating: bool, time: Duration) {
        let layer = if mutating { Layer::MutatingWebhook } else { Layer::ValidatingWebhook };
        self.audit.latency.spent(layer, time);
    }
}

/// The admission chain bound to a request and a kind.
pub struct Admission<'a> {
    pub ctx: &'a Context,
    pub kind: &'a KindDef,
    pub dry_run: bool,
}

impl Admission<'_> {
    fn attributes<'b>(
        &'b self,
        operation: Operation,
        name: &'b str,
        options: &'b Value,
        call: &'b Call,
    ) -> Attributes<'b> {
        Attributes {
            user: &self.ctx.user,
            kind: self.kind,
            namespace: &self.ctx.info.namespace,
            name,
            subresource: &self.ctx.info.subresource,
            operation,
            dry_run: self.dry_run,
            options,
            call,
            notes: self.ctx,
            permit: self.ctx.permit,
        }
    }
}

#[async_trait]
impl Admit for Admission<'_> {
    async fn mutate(&self, op: Operation, name: &str, new: &mut Value, old: Option<&Value>) -> Result<()> {
        let (options, call) = (self.ctx.options(op), Call::default());
        let attributes = self.attributes(op, name, &options, &call);
        self.ctx.server.admission.admit(&attributes, new, old).await?;
        if let Some(warning) = owners::dedup(new, owners::When::Admitted) {
            self.ctx.warnings.add(&warning);
        }
        Ok(())
    }

    async fn validate(
        &self,
        op: Operation,
        name: &str,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        let (options, call) = (self.ctx.options(op), Call::default());
        let attributes = self.attributes(op, name, &options, &call);
        self.ctx.server.admission.validate(&attributes, new, old).await
    }
}
