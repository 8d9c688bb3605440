//! `ResourceQuota`: writes that would take more than a namespace's quotas allow are refused; what is taken is written to
//! the quotas' status first (upstream: apiserver `pkg/admission/plugin/resourcequota/controller.go`).
//!
//! Invariant: a write passes only after every quota that is about it has counted it, each by an update that fails when
//! somebody else counted in between.

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use base::clock::SharedClock;
use client::{ApiResource, Client};
use jiff::Timestamp;
use kinds::KindDef;
use kinds::amounts::Amounts;
use kinds::quota::Evaluator;
use meta::object;
use meta::status::{Result, Status};
use registry::{ListQuery, Match, Operation, Registry, Selectors};
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;

/// Tries of writing a status that others write too.
const TRIES: usize = 4;
/// How long one write may wait for its quotas (upstream: `Evaluate`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// Namespaces share this many locks.
const LOCKS: usize = 64;

/// The server's own client, there as soon as the server is.
pub type Loopback = Arc<OnceLock<Client>>;

pub struct ResourceQuota {
    registry: Arc<Registry>,
    loopback: Loopback,
    clock: SharedClock,
    /// One write of a namespace is counted at a time, so that they do not make each other try again.
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl ResourceQuota {
    pub fn new(registry: Arc<Registry>, loopback: Loopback, clock: SharedClock) -> Self {
        let turns = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self { registry, loopback, clock, turns, hasher: RandomState::new() }
    }

    fn row(&self) -> Result<Arc<KindDef>> {
        let row = self.registry.kinds().resource("", "v1", "resourcequotas");
        row.ok_or_else(Status::no_such_resource)
    }

    /// Whether the namespace has a quota.
    fn is_limited(&self, a: &Attributes<'_>) -> Result<bool> {
        Ok(self.registry.has_any(&a.permit, &*self.row()?, a.namespace))
    }

    async fn quotas(&self, a: &Attributes<'_>) -> Result<Vec<Value>> {
        let query = ListQuery {
            selectors: Selectors::default(),
            limit: 0,
            resume: None,
            resource_version: "0".to_owned(),
            matching: Match::Unset,
        };
        let listed = self.registry.list(&a.permit, &*self.row()?, Some(a.namespace), &query).await?;
        Ok(listed.items.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect())
    }

    /// upstream: `checkQuotas`, for one write
    async fn count(&self, a: &Attributes<'_>, write: &Write<'_>) -> Result<()> {
        let turn = self.hasher.hash_one(a.namespace) % (LOCKS as u64);
        let turn = usize::try_from(turn).unwrap_or(0);
        let _turn = match self.turns.get(turn) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        let mut left: Option<Vec<String>> = None;
        let mut last = None;
        for _ in 0..TRIES {
            let mut quotas = self.quotas(a).await?;
            // those that were written have counted it
            quotas.retain(|q| left.as_ref().is_none_or(|l| l.iter().any(|name| name == object::name(q))));
            let counted = write.check(&quotas)?;
            if a.dry_run || counted.is_empty() {
                return Ok(());
            }
            let mut failed = Vec::new();
            for (mut quota, used) in counted {
                quota["status"]["used"] = used.to_value();
                let (apart, kind) = ("resourcequotas", "ResourceQuota");
                let quotas = ApiResource::new("", "v1", kind, apart, true);
                let client =
                    self.loopback.get().ok_or_else(|| Status::internal("the server has not started"))?;
                if let Err(error) = client.dynamic(&quotas).update(&quota, "status").await {
                    failed.push(object::name(&quota).to_owned());
                    last = Some(error);
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            left = Some(failed);
        }
        Err(last.unwrap_or_else(|| Status::internal("resource quota evaluation failed")))
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let counted = matches!(a.operation, Operation::Create | Operation::Update) && a.kind.namespaced();
        phase == Phase::Validate && counted && Evaluator::is_counted(&a.kind.group, &a.kind.plural)
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let Some(new) = new else { return Ok(()) };
        let old = old.filter(|_| a.operation == Operation::Update);
        let Some(evaluator) = Evaluator::of(&a.kind.group, &a.kind.plural) else { return Ok(()) };
        if !evaluator.handles(a.subresource, new, old) || !self.is_limited(a)? {
            return Ok(());
        }
        let group_resource = a.kind.group_resource();
        let refuse = |why: &str| Status::forbidden(&group_resource, object::name(new), why);
        let now = self.clock.now();
        let write = Write { evaluator, is_status: a.subresource == "status", new, old, now, refuse: &refuse };
        match tokio::time::timeout(TIMEOUT, self.count(a, &write)).await {
            Ok(result) => result,
            Err(_) => Err(Status::internal("resource quota evaluation timed out")),
        }
    }
}

/// What is written, and to be counted.
struct Write<'a> {
    evaluator: Evaluator,
    is_status: bool,
    new: &'a Value,
    old: Option<&'a Value>,
    now: Timestamp,
    refuse: &'a (dyn Fn(&str) -> Status + Sync),
}

impl Write<'_> {
    /// The quotas that this changes, each with what is used then (upstream: `CheckRequest`).
    ///
    /// # Errors
    /// One of them has too little left, is not counted yet, or wants the object to say more.
    fn check(&self, quotas: &[Value]) -> Result<Vec<(Value, Amounts)>> {
        let mut concerned = Vec::new();
        for quota in quotas.iter().filter(|q| self.evaluator.matches(q, self.new)) {
            let (status, name) = (&quota["status"], object::name(quota));
            let hard = Amounts::of(&status["hard"]);
            let limited: Vec<&str> = hard.names().filter(|n| self.evaluator.counts(n)).collect();
            if let Err(why) = self.evaluator.constraints(&limited, self.new) {
                return Err((self.refuse)(&format!("failed quota: {name}: {why}")));
            }
            if limited.iter().any(|n| status["used"].get(*n).is_none()) {
                let limited = limited.join(",");
                return Err((self.refuse)(&format!(
                    "status unknown for quota: {name}, resources: {limited}"
                )));
            }
            concerned.push(quota);
        }
        let usage = self.evaluator.usage(self.new, self.now);
        let negative: Vec<_> = usage.iter().filter(|(_, q)| q.sign() < 0).map(|(n, _)| n.as_str()).collect();
        if !negative.is_empty() {
            let negative = negative.join(",");
            return Err((self.refuse)(&format!("quota usage is negative for resource(s): {negative}")));
        }
        let counted = concerned.into_iter().map(|quota| self.counted(quota, &usage));
        counted.filter_map(Result::transpose).collect()
    }

    /// `None`: the quota does not change.
    fn counted(&self, quota: &Value, usage: &Amounts) -> Result<Option<(Value, Amounts)>> {
        let before = self.old.filter(|old| self.evaluator.matches(quota, old));
        let before = before.map(|old| self.evaluator.usage(old, self.now)).unwrap_or_default();
        let hard = Amounts::of(&quota["status"]["hard"]);
        let used = Amounts::of(&quota["status"]["used"]);
        let more = usage.more_than(&before);
        let asked = more.only(|n| hard.get(n).is_some() && more.get(n).is_some_and(|q| !q.is_zero()));
        if asked.is_empty() {
            return Ok(None);
        }
        let mut then = used.clone();
        then.add(&asked);
        let exceeded = then.only(|n| asked.get(n).is_some()).above(&hard);
        if !exceeded.is_empty() && !self.is_status {
            let of = |list: &Amounts| list.only(|n| exceeded.iter().any(|e| e == n)).to_string();
            return Err((self.refuse)(&format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                object::name(quota),
                of(&asked),
                of(&used),
                of(&hard)
            )));
        }
        Ok(Some((quota.clone(), then)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::status::Reason;
    use serde_json::json;

    fn check(old: Option<&Value>, new: &Value, quotas: &[Value]) -> Result<Vec<String>> {
        let refuse = |why: &str| Status::new(403, Reason::Forbidden, why.to_owned());
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let evaluator = Evaluator::of("", "pods").unwrap();
        let write = Write { evaluator, is_status: false, new, old, now, refuse: &refuse };
        Ok(write.check(quotas)?.into_iter().map(|(q, used)| format!("{} {used}", object::name(&q))).collect())
    }

    fn quota(name: &str, hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn all_quotas_about_it_count_it() {
        let quotas = [
            quota("a", json!({"cpu": "2", "pods": "3"}), json!({"cpu": "1", "pods": "1"})),
            quota("b", json!({"services": "2"}), json!({"services": "0"})),
            quota("c", json!({"pods": "1"}), json!({"pods": "0"})),
        ];
        assert_eq!(check(None, &pod("1"), &quotas).unwrap(), ["a cpu=2,pods=2", "c pods=1"]);
    }

    #[test]
    fn refusals_tell_what_is_missing() {
        let why = |quota: Value, pod: Value| check(None, &pod, &[quota]).unwrap_err().message;
        let hard = json!({"cpu": "2", "pods": "1"});
        assert_eq!(
            why(quota("q", hard.clone(), json!({"cpu": "1500m", "pods": "0"})), pod("1")),
            "exceeded quota: q, requested: cpu=1, used: cpu=1500m, limited: cpu=2"
        );
        assert_eq!(
            why(quota("q", hard.clone(), json!({"cpu": "0"})), pod("1")),
            "status unknown for quota: q, resources: cpu,pods"
        );
        assert_eq!(
            why(quota("q", hard.clone(), hard), json!({"spec": {"containers": [{"name": "c"}]}})),
            "failed quota: q: must specify cpu for: c"
        );
    }

    #[test]
    fn updates_pay_the_difference() {
        let full = [quota("q", json!({"cpu": "2"}), json!({"cpu": "2"}))];
        assert_eq!(check(Some(&pod("2")), &pod("1"), &full).unwrap(), Vec::<String>::new());
        assert!(check(Some(&pod("1")), &pod("2"), &full).is_err());
        let left = [quota("q", json!({"cpu": "3"}), json!({"cpu": "2"}))];
        assert_eq!(check(Some(&pod("1")), &pod("2"), &left).unwrap(), ["q cpu=3"]);
    }
}
