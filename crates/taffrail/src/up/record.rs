//! The audit record of the cluster: policy, trail, log, what a crash left open, and the way to ask it.

use super::control_plane::text;
use crate::config::UpOptions;
use crate::config::audit::Backend;
use apiserver::context::Context;
use apiserver::extension::Extension;
use apiserver::filters::audit::AuditLog;
use apiserver::filters::audit::webhook::{Settings, Webhook};
use apiserver::reply::Reply;
use async_trait::async_trait;
use audit::Policy;
use audit::log::{LogBackend, LogOptions};
use base::clock::SharedClock;
use base::rng::Rng;
use bytes::Bytes;
use client::Client;
use client::https::HttpsApi;
use http::Method;
use meta::status::{Result as ApiResult, Status};
use serde_json::{Value, json};
use std::sync::Arc;
use store::Store;
use tracing::{info, warn};
use trail::Trail;
use trail::query::{self, Filter, Order, Pattern};

/// Where queries are answered: a path of the API server, so that asking is authenticated, authorised and recorded.
pub const PREFIX: &str = "/audit/v1/";
/// Where the hash of the policy in force is kept, so that a change of it is a recorded write.
const STATE: &str = "audit-configuration";

/// Opens the trail and completes what a crash left open.
pub fn open(
    options: &UpOptions,
    store: &Arc<dyn Store>,
    clock: &SharedClock,
    rng: &Arc<Rng>,
) -> Result<(Arc<Trail>, Arc<AuditLog>), String> {
    let policy = policy(options)?;
    for w in &policy.warnings {
        warn!(warning = %w, "the audit policy has something odd in it");
    }
    let finishing = store.clone();
    let trail = Trail::open(
        &options.data_dir.join("trail"),
        clock.clone(),
        Box::new(move |r| finishing.finish_record(r)),
    )
    .map_err(text)?;
    let log = log_backend(options)?;
    let audit = AuditLog::new(policy, trail.clone(), log, webhook(options, rng)?, clock.clone());
    for (number, _, core) in store.unfinished_records() {
        if trail.has_record(number) {
            store.finish_record(number);
            continue;
        }
        if let Some(event) = audit::context::recover(&core, clock.now()) {
            info!(audit_id = %event.audit_id, "completing the record of a write that a crash interrupted");
            audit.write(&event, Some(number)).forget();
        }
    }
    Ok((trail, audit))
}

fn policy(options: &UpOptions) -> Result<Policy, String> {
    let Some(path) = &options.audit.audit_policy_file else { return Ok(Policy::built_in()) };
    let bytes =
        std::fs::read(path).map_err(|e| format!("cannot read the audit policy {}: {e}", path.display()))?;
    Policy::parse(&bytes).map_err(|e| format!("the audit policy {}: {e}", path.display()))
}

fn log_backend(options: &UpOptions) -> Result<Option<LogBackend>, String> {
    let o = &options.audit.log;
    let Some(path) = &o.audit_log_path else { return Ok(None) };
    let Backend { mode, batch, limits } = o.backend()?;
    let settings = LogOptions {
        path: path.clone(),
        max_event_bytes: limits.map(|(event, _)| event),
        max_age_days: o.audit_log_maxage,
        max_backups: o.audit_log_maxbackup,
        max_size_mib: o.audit_log_maxsize,
        legacy: o.audit_log_format == "legacy",
        compress: o.audit_log_compress,
        mode,
        batch,
    };
    LogBackend::open(settings).map(Some)
}

fn webhook(options: &UpOptions, rng: &Arc<Rng>) -> Result<Option<Webhook>, String> {
    let o = &options.audit.webhook;
    let Some(file) = &o.audit_webhook_config_file else { return Ok(None) };
    let wrong = |e: String| format!("--audit-webhook-config-file {}: {e}", file.display());
    let Backend { mode, batch, limits } = o.backend()?;
    let mut config = client::kubeconfig::load(file, None).map_err(|e| wrong(text(e)))?;
    // The server's URL is the whole address: what stands after its host is the path of every request. Its query is not
    // sent, but upstream's own is.
    let host_end = config.server.match_indices('/').nth(2).map_or(config.server.len(), |(at, _)| at);
    let path = config.server.split_off(host_end);
    let path = path.split('?').next().unwrap_or("").trim_end_matches('/');
    let path = format!("{}?timeout=30s", if path.is_empty() { "/" } else { path });
    let api = HttpsApi::new(&config).map_err(|e| wrong(text(e)))?;
    let settings = Settings { mode, batch, initial_backoff: o.audit_webhook_initial_backoff, limits };
    Ok(Some(Webhook::start(Arc::new(api), path, settings, rng.clone())))
}

/// Records a change of the audit configuration since the last start: a write to a ConfigMap, by the server itself.
pub async fn changes(options: &UpOptions, client: &Client, policy_hash: &str) {
    let source = options
        .audit
        .audit_policy_file
        .as_ref()
        .map_or_else(|| "built-in".to_owned(), |p| p.display().to_string());
    let data = json!({
        "policy": source, "policySHA256": policy_hash,
        "log": options.audit.log.audit_log_path.clone().unwrap_or_default(), "logMode": options.audit.log.audit_log_mode,
        "webhook": options.audit.webhook.audit_webhook_config_file.as_ref().map_or_else(String::new, |p| p.display().to_string()),
    });
    let collection = "/api/v1/namespaces/kube-system/configmaps";
    let path = format!("{collection}/{STATE}");
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": STATE, "namespace": "kube-system"}, "data": data,
    });
    let result = match client.raw(Method::GET, &path, None).await {
        Ok(existing) if existing["data"] == data => return,
        Ok(_) => client.raw(Method::PUT, &path, Some(&wanted)).await,
        Err(_) => client.raw(Method::POST, collection, Some(&wanted)).await,
    };
    match result {
        Ok(_) => info!(policy = %source, hash = policy_hash, "the audit configuration changed"),
        Err(error) => warn!(%error, "the change of the audit configuration could not be recorded"),
    }
}

/// Answers queries.
pub fn queries(trail: Arc<Trail>) -> Arc<dyn Extension> {
    Arc::new(Queries { trail })
}

struct Queries {
    trail: Arc<Trail>,
}

#[async_trait]
impl Extension for Queries {
    fn prefix(&self) -> &str {
        PREFIX
    }

    async fn serve(&self, ctx: &Context) -> ApiResult<Reply> {
        let dir = self.trail.dir().to_owned();
        if let Err(error) = self.trail.flush() {
            tracing::warn!(%error, "audit events could not be written");
        }
        match ctx.info.path.strip_prefix(PREFIX).unwrap_or("") {
            "events" => {
                let filter = filter(ctx)?;
                let found = tokio::task::spawn_blocking(move || query::run(&dir, &filter))
                    .await
                    .map_err(Status::internal)?
                    .map_err(Status::internal)?;
                let mut body = found.join("\n");
                body.push('\n');
                Ok(Reply::Text { code: 200, content_type: "application/jsonl", body: Bytes::from(body) })
            }
            "verify" => {
                let checked = tokio::task::spawn_blocking(move || trail::verify(&dir))
                    .await
                    .map_err(Status::internal)?;
                let value = match checked {
                    Ok(report) => json!({"valid": true, "report": report}),
                    Err(broken) => json!({"valid": false, "problem": broken.to_string()}),
                };
                Ok(Reply::Document { code: 200, value })
            }
            "tail" => {
                let after = ctx.info.query.get("after").parse().unwrap_or_else(|_| self.trail.last());
                let trail = self.trail.clone();
                let wait = std::time::Duration::from_secs(20);
                let lines = tokio::task::spawn_blocking(move || trail.follow(after, wait))
                    .await
                    .map_err(Status::internal)?;
                let entries: Vec<Value> =
                    lines.iter().filter_map(|(_, line)| serde_json::from_slice(line).ok()).collect();
                Ok(Reply::Document {
                    code: 200,
                    value: json!({"entries": entries, "last": lines.last().map_or(after, |l| l.0)}),
                })
            }
            _ => Err(Status::no_such_resource()),
        }
    }
}

fn filter(ctx: &Context) -> ApiResult<Filter> {
    let q = &ctx.info.query;
    let now = ctx.server.clock.now();
    let pattern = |name: &str| match q.get(name) {
        "" => Ok(None),
        text => Pattern::new(text).map(Some).map_err(Status::bad_request),
    };
    let time = |name: &str| match q.get(name) {
        "" => Ok(None),
        text => query::time(text, now).map(Some).map_err(Status::bad_request),
    };
    let number = |name: &str| match q.get(name) {
        "" => Ok(None),
        text => text
            .parse::<usize>()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("{name}={text:?} is not a number"))),
    };
    Ok(Filter {
        user: pattern("user")?,
        verb: pattern("verb")?,
        resource: pattern("resource")?,
        namespace: pattern("namespace")?,
        name: pattern("name")?,
        source_ip: pattern("source-ip")?,
        status: number("status")?.and_then(|n| u16::try_from(n).ok()),
        since: time("since")?,
        until: time("until")?,
        limit: number("limit")?.unwrap_or(0),
        order: if q.get("order") == "newest" { Order::NewestFirst } else { Order::OldestFirst },
    })
}
