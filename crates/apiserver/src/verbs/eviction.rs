//! Eviction of pods: a delete that asks the pod's disruption budget first.
//!
//! Invariant: a healthy pod that a budget covers is deleted only after the budget's status counts its disruption.
//! upstream: `pkg/registry/core/pod/storage/eviction.go`

use super::body;
use crate::context::{Admission, Context};
use crate::inprocess::InProcess;
use crate::reply::Reply;
use async_trait::async_trait;
use auth::identity::Identity;
use client::Client;
use client::kind::path;
use http::Method;
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object;
use meta::selector::LabelSelector;
use meta::status::{Cause, Result, Status};
use meta::{GroupKind, GroupResource};
use registry::{Admit, DeleteOptions, ListQuery, Match, Operation, Selectors};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Granted evictions that the controller has not yet seen come true (upstream: `MaxDisruptedPodSize`).
const DISRUPTED_PODS_MAX: usize = 2000;
/// Tries against changing objects, and the wait between them (upstream: `EvictionsRetry`).
const TRIES: usize = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// Seconds after which to ask again about a budget that is behind.
const BEHIND_RETRY_SECONDS: u32 = 10;

/// What follows an eviction that was admitted is not admitted again.
pub(super) struct Admitted;

#[async_trait]
impl Admit for Admitted {
    async fn mutate(&self, _: Operation, _: &str, _: &mut Value, _: Option<&Value>) -> Result<()> {
        Ok(())
    }

    async fn validate(&self, _: Operation, _: &str, _: Option<&Value>, _: Option<&Value>) -> Result<()> {
        Ok(())
    }
}

/// Answers `POST pods/NAME/eviction`; `kind` is the row of pods.
pub async fn create(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    crate::negotiate::without_table(&ctx.headers)?;
    super::check_create(ctx)?;
    let mut eviction = body::of_type(ctx, version(&ctx.body), "Eviction", "io.k8s.api.policy.v1.Eviction")?;
    body::record_request(ctx, &eviction);
    let ns = object::namespace(&eviction);
    if !ns.is_empty() && ns != ctx.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let dry_run = ctx.dry_run();
    let admit = Admission { ctx, kind, dry_run };
    admit.mutate(Operation::Create, &ctx.info.name, &mut eviction, None).await?;
    check(&eviction, &ctx.info.name)?;
    let options = delete_options(&eviction["deleteOptions"], dry_run)?;
    admit.validate(Operation::Create, &ctx.info.name, Some(&eviction), None).await?;
    let eviction = Eviction { ctx, kind, options };
    let Some(pod) = eviction.without_budget().await? else { return Ok(done()) };
    match eviction.permitted(&pod).await? {
        Verdict::Many => return Ok(many_budgets()),
        Verdict::Granted => eviction.delete(&eviction.options).await?,
        Verdict::Unhealthy(budget) => {
            let unpinned = eviction.options.preconditions.resource_version.is_none();
            // only as the unhealthy pod that was looked at
            let mut options = eviction.options.clone();
            options.preconditions.resource_version = Some(object::resource_version(&pod).to_owned());
            eviction.delete(&options).await.map_err(|e| match e.is_conflict() && unpinned {
                true => behind(&budget),
                false => e,
            })?;
        }
    }
    Ok(done())
}

/// What a budget says about a pod.
#[derive(Debug)]
enum Verdict {
    /// There is none, or its status counts the pod now.
    Granted,
    /// The pod is not among the healthy ones that the budget of this name counts.
    Unhealthy(String),
    /// More than one covers the pod.
    Many,
}

struct Eviction<'a> {
    ctx: &'a Context,
    kind: &'a Arc<KindDef>,
    options: DeleteOptions,
}

impl Eviction<'_> {
    async fn pod(&self) -> Result<Value> {
        let ctx = self.ctx;
        let (ns, name) = (&ctx.info.namespace, &ctx.info.name);
        let bytes = ctx.server.registry.get(&ctx.permit, self.kind, ns, name, "").await?;
        serde_json::from_slice(&bytes).map_err(Status::internal)
    }

    /// Deletes a pod that no budget protects; any other is returned.
    async fn without_budget(&self) -> Result<Option<Value>> {
        let pinned = self.options.preconditions.resource_version.is_some();
        let mut tries = 0;
        loop {
            let pod = self.pod().await?;
            if !can_ignore_budget(&pod) {
                return Ok(Some(pod));
            }
            let mut options = self.options.clone();
            if must_not_change(&pod) && !pinned {
                options.preconditions.resource_version = Some(object::resource_version(&pod).to_owned());
            }
            tries += 1;
            match self.delete(&options).await {
                Err(e) if e.is_conflict() && !pinned && tries < TRIES => {
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                other => return other.map(|()| None),
            }
        }
    }

    async fn permitted(&self, pod: &Value) -> Result<Verdict> {
        let mut budgets = self.budgets(pod).await?;
        if budgets.len() > 1 {
            return Ok(Verdict::Many);
        }
        let Some(mut budget) = budgets.pop() else { return Ok(Verdict::Granted) };
        let name = object::name(&budget).to_owned();
        if !is_ready(pod) && may_lose_unhealthy(&budget) {
            return Ok(Verdict::Unhealthy(name));
        }
        // the budget's status is written by the server itself: an eviction needs no permission for that
        let identity = Identity::system("system:apiserver", &["system:masters"]);
        let client = Client::new(InProcess::new(self.ctx.server.clone(), identity, "apiserver"));
        let at =
            |sub: &str| path("policy", "v1", "poddisruptionbudgets", &self.ctx.info.namespace, &name, sub);
        let mut tries = 0;
        loop {
            let now = meta::time::rfc3339(self.ctx.server.clock.now());
            decrement(&mut budget, object::name(pod), &now)?;
            if self.options.dry_run {
                return Ok(Verdict::Granted);
            }
            tries += 1;
            match client.raw(Method::PUT, &at("status"), Some(&budget)).await {
                Ok(_) => return Ok(Verdict::Granted),
                Err(e) if e.is_conflict() && tries < TRIES => tokio::time::sleep(BETWEEN_TRIES).await,
                Err(e) => return Err(e),
            }
            budget = client.raw(Method::GET, &at(""), None).await?;
        }
    }

    /// The budgets that cover the pod.
    async fn budgets(&self, pod: &Value) -> Result<Vec<Value>> {
        let registry = &self.ctx.server.registry;
        let Some(row) = registry.kinds().resource("policy", "v1", "poddisruptionbudgets") else {
            return Ok(Vec::new());
        };
        let query = ListQuery {
            selectors: Selectors::default(),
            limit: 0,
            resume: None,
            resource_version: String::new(),
            matching: Match::Unset,
        };
        let listed = registry.list(&self.ctx.permit, &row, Some(&self.ctx.info.namespace), &query).await?;
        let mut out = Vec::new();
        for bytes in &listed.items {
            let budget = registry.decode(&row, bytes).await?;
            if covers(&budget, pod) {
                out.push(budget);
            }
        }
        Ok(out)
    }

    /// Tells in the pod's status why it goes, and deletes it (upstream: `addConditionAndDeletePod`).
    async fn delete(&self, options: &DeleteOptions) -> Result<()> {
        let (ctx, kind) = (self.ctx, self.kind);
        let mut options = options.clone();
        let admission = Admission { ctx, kind, dry_run: options.dry_run };
        let mut request = ctx.write(kind, &ctx.info.name, &admission);
        request.admit = &Admitted;
        request.subresource = "status";
        if !options.dry_run {
            let wanted = options.preconditions.clone();
            let now = meta::time::rfc3339(ctx.server.clock.now());
            let transform = |old: Option<&Value>| {
                let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &ctx.info.name))?;
                precondition(old, &wanted)?;
                Ok(announced(old, &now))
            };
            let written = ctx.server.registry.update(&request, &transform, false).await?;
            if options.preconditions.resource_version.is_some() {
                let pod: Value = serde_json::from_slice(&written.bytes).map_err(Status::internal)?;
                options.preconditions.resource_version = Some(object::resource_version(&pod).to_owned());
            }
        }
        ctx.server.registry.delete(&request, &options).await.map(drop)
    }
}

/// The options of the delete. Upstream does not look for mistakes in them, but for two opinions about dry runs
/// (upstream: `propagateDryRun`).
fn delete_options(sent: &Value, dry_run: bool) -> Result<DeleteOptions> {
    let mut options = if sent.is_object() { sent.clone() } else { json!({}) };
    let own = object::strings(&options["dryRun"]);
    if dry_run && !own.is_empty() && own != ["All"] {
        let text =
            format!("Non-matching dry-run options in request and content: [All] and [{}]", own.join(" "));
        return Err(Status::new(500, meta::Reason::Unknown, text));
    }
    if dry_run || !own.is_empty() {
        options["dryRun"] = json!(["All"]);
    }
    if !matches!(options["propagationPolicy"].as_str(), Some("Orphan" | "Background" | "Foreground")) {
        options["propagationPolicy"] = Value::Null;
    }
    DeleteOptions::from_value(&options)
}

/// The version that a body is in: upstream still reads the beta one, which it no longer serves.
fn version(body: &[u8]) -> &'static str {
    match body::json(body) {
        Ok(v) if v["apiVersion"] == "policy/v1beta1" => "policy/v1beta1",
        _ => "policy/v1",
    }
}

fn done() -> Reply {
    let value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Reply::Document { code: 201, value }
}

/// Upstream answers 201 with a failure in the body; clients look at the body.
fn many_budgets() -> Reply {
    let message =
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": 500});
    Reply::Document { code: 201, value }
}

fn check(eviction: &Value, name: &str) -> Result<()> {
    if object::name(eviction) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let unsafe_option = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if eviction["deleteOptions"][unsafe_option] == true {
        let detail = "can not be set for pod eviction, try after removing the option";
        let error = Error::invalid(&Path::new("deleteOptions").child(unsafe_option), true, detail);
        let gk = GroupKind { group: "policy".into(), kind: "Eviction".into() };
        return Err(Status::invalid(&gk, name, &vec![error]));
    }
    Ok(())
}

/// Not yet running, ended or going already.
fn can_ignore_budget(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || object::is_deleting(pod)
}

/// Whether a pod that no budget protects now could become one that it protects.
fn must_not_change(pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !ended && !object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let all = pod["status"]["conditions"].as_array();
    all.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    !selector.is_null() && LabelSelector::from_value(selector).is_ok_and(|s| s.matches_object(pod))
}

/// Whether pods that are not ready may go without being counted.
fn may_lose_unhealthy(budget: &Value) -> bool {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || current >= desired && desired > 0
}

fn with_cause(mut status: Status, message: String) -> Status {
    let cause = Cause { reason: "DisruptionBudget".into(), message, ..Cause::default() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

const WOULD_VIOLATE: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// The controller has not yet seen the budget as it is.
fn behind(budget: &str) -> Status {
    let status = Status::too_many_requests(WOULD_VIOLATE, BEHIND_RETRY_SECONDS);
    with_cause(status, format!("The disruption budget {budget} is still being processed by the server."))
}

/// Counts the disruption of a pod in the budget's status (upstream: `checkAndDecrement`).
fn decrement(budget: &mut Value, pod: &str, now: &str) -> Result<()> {
    let name = object::name(budget).to_owned();
    let status = &budget["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if number("observedGeneration") < object::generation(budget) {
        return Err(behind(&name));
    }
    let allowed = number("disruptionsAllowed");
    let forbidden = |why: &str, shown: &str| {
        let status = Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), &name, why);
        let text = format!("The disruption budget {name} does not allow evicting pods currently: {shown}");
        Err(with_cause(status, text))
    };
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return forbidden(why, why);
    }
    if status["disruptedPods"].as_object().is_some_and(|d| d.len() > DISRUPTED_PODS_MAX) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            "too many pending evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        return Err(with_cause(Status::too_many_requests(WOULD_VIOLATE, 0), refusal(&name, status)));
    }
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        kinds::policy::tell_disruption_allowed(status, now);
    }
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.into();
    Ok(())
}

/// Why a budget allows no disruption.
fn refusal(name: &str, status: &Value) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let known = conditions.into_iter().find(|c| c["type"] == kinds::policy::DISRUPTION_ALLOWED);
    let told = known
        .filter(|c| c["status"] == "False")
        .map(|c| (c["reason"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")));
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let base = format!("The disruption budget {name} does not allow evicting pods currently");
    match told.filter(|(_, message)| !message.is_empty()) {
        // the numbers of a failed sync are not to be trusted
        Some(("SyncFailed", message)) => format!("{base} because it failed sync: {message}"),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some((reason, message)) => format!("{base} ({reason}): {message}"),
        None => base,
    }
}

fn precondition(pod: &Value, wanted: &registry::Preconditions) -> Result<()> {
    let conflict =
        |why: String| Err(Status::conflict(&GroupResource::new("", "Pod"), object::name(pod), &why));
    let (uid, version) = (object::uid(pod), object::resource_version(pod));
    if let Some(asked) = wanted.uid.as_deref().filter(|u| *u != uid) {
        return conflict(format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    if let Some(asked) = wanted.resource_version.as_deref().filter(|v| *v != version) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// The pod with the condition that tells why it goes.
fn announced(pod: &Value, now: &str) -> Value {
    let mut pod = pod.clone();
    // what the caller asked of the version was checked; the condition itself goes onto whatever is there
    object::remove_meta(&mut pod, "resourceVersion");
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null});
    if let Some(status) = object::map_at(&mut pod, &["status"]) {
        let list = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            kinds::policy::set_condition(list, condition, now);
        }
    }
    pod
}

#[cfg(test)]
mod tests;
