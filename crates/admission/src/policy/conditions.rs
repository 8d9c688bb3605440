//! Match conditions, of policies and of webhooks (upstream: `plugin/webhook/matchconditions`).

use super::scope::{Expression, Scope};
use kinds::declared::admission::{Compiler, Has, Returns};
use kinds::declared::engine;
use meta::object;
use serde_json::Value;

/// What all conditions of one webhook or policy may cost for one object (upstream:
/// `RuntimeCELCostBudgetMatchConditions`).
const COST_MAX: u64 = 2_500_000;

/// The conditions of a webhook or policy, all of which must hold.
#[derive(Debug, Default)]
pub struct Conditions {
    list: Vec<Expression>,
    /// `failurePolicy: Fail`.
    fails: bool,
}

/// Whether a request is for who has the conditions.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    No,
    /// Conditions could not be told, and that counts as failure.
    Unknown(String),
}

impl Conditions {
    /// Of a webhook, or of the spec of a policy, whose variables the compiler knows.
    pub fn parse(owner: &Value, compiler: &Compiler, has: Has) -> Self {
        let list = owner["matchConditions"].as_array().into_iter().flatten();
        let text = |c: &Value| c["expression"].as_str().unwrap_or("").to_owned();
        Self {
            list: list.map(|c| Expression::new(&text(c), compiler, Returns::Bool, has)).collect(),
            fails: owner["failurePolicy"] != "Ignore",
        }
    }

    /// Of a webhook.
    pub fn of_webhook(webhook: &Value) -> Self {
        if object::at(webhook, &["matchConditions"]).is_none() {
            return Self::default();
        }
        Self::parse(webhook, &Compiler::new(false), Has::AUTHORIZER)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One that does not hold decides, even where others cannot be told.
    pub fn matches(&self, scope: &Scope<'_>) -> Matched {
        let (mut budget, mut errors) = (COST_MAX, Vec::new());
        for condition in &self.list {
            match scope.evaluate(condition, &mut budget) {
                Ok(Ok(engine::Value::Bool(false))) => return Matched::No,
                Ok(Ok(_)) => {}
                Ok(Err(why)) => errors.push(why),
                Err(why) if self.fails => return Matched::Unknown(why),
                Err(_) => return Matched::No,
            }
        }
        match errors.is_empty() {
            true => Matched::Yes,
            false if self.fails => Matched::Unknown(aggregate(&errors)),
            false => Matched::No,
        }
    }
}

/// Upstream: `utilerrors.NewAggregate(…).Error()`.
fn aggregate(errors: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for e in errors {
        if !once.contains(&e.as_str()) {
            once.push(e);
        }
    }
    match once.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}
