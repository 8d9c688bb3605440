//! What rules cost at worst, told when a definition is written (upstream: apiextensions
//! `pkg/apis/apiextensions/validation/cel_validation.go`).

use super::compile::{self, Rule};
use crate::custom::structural::{Additional, Structural};
use crate::declared;
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// The most that one expression may cost (upstream: `StaticEstimatedCostLimit`).
const EXPRESSION_COST_MAX: u64 = 10_000_000;
/// The most that all expressions of a schema may cost (upstream: `StaticEstimatedCRDCostLimit`).
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// The expressions that are named when a schema costs too much.
const NAMED_MAX: usize = 4;

/// A node of the schema on the way down: what expressions see of it, and how many values it can have.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    schema: &'a Structural,
    /// A resource of its own.
    root: bool,
    /// `None` when nothing bounds it.
    count: Option<u64>,
}

impl<'a> Node<'a> {
    pub fn root(schema: &'a Structural) -> Self {
        Self { schema, root: true, count: Some(1) }
    }

    pub fn property(&self, name: &str) -> Option<Self> {
        self.child(self.schema.properties.get(name)?)
    }

    pub fn additional(&self) -> Option<Self> {
        self.child(self.schema.additional.as_ref().and_then(Additional::schema)?)
    }

    pub fn items(&self) -> Option<Self> {
        self.child(self.schema.items.as_ref()?)
    }

    fn child(&self, schema: &'a Structural) -> Option<Self> {
        let count = self.count.zip(most(self.schema)).map(|(a, b)| a.saturating_mul(b));
        Some(Self { schema, root: schema.embedded_resource, count })
    }

    /// Errors of the node's rules, whose texts and schema are right. `uncorrelated` is the part of the schema above
    /// whose old and new values cannot be told to be the same.
    pub fn check(
        &self,
        total: &mut TotalCost,
        uncorrelated: Option<&Path>,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        let at = path.child("x-kubernetes-validations");
        let Some(decl) = declared::of_schema(self.schema, self.root) else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            errors.push(Error::internal(&at, detail));
            return;
        };
        let rules = compile::compile(&self.schema.rules, self.schema, &decl);
        let count = self.count.unwrap_or_else(|| decl.max_cardinality());
        for (i, (compiled, rule)) in rules.iter().zip(&self.schema.rules).enumerate() {
            let cost = compiled.cost.saturating_mul(count);
            let at = at.index(i);
            total.observe(&at.child("rule"), "estimated rule cost", cost, errors);
            one(compiled, rule, total, uncorrelated, &at, errors);
        }
    }
}

fn one(
    compiled: &Rule,
    rule: &Value,
    total: &mut TotalCost,
    uncorrelated: Option<&Path>,
    at: &Path,
    errors: &mut ErrorList,
) {
    if let Some(why) = &compiled.error {
        errors.push(rule_error(&at.child("rule"), rule, why));
    }
    let message_at = at.child("messageExpression");
    match (&compiled.message_error, &compiled.message) {
        (Some(why), _) => errors.push(rule_error(&message_at, rule, why)),
        (None, Some(_)) => {
            total.observe(&message_at, "estimated messageExpression cost", compiled.message_cost, errors);
        }
        _ => {}
    }
    if compiled.uses_old {
        if let Some(part) = uncorrelated {
            let detail =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {part}");
            errors.push(Error::invalid(&at.child("rule"), text(rule, "rule"), detail));
        }
    } else if let Some(optional) = rule["optionalOldSelf"].as_bool() {
        let detail = "may not be set if oldSelf is not used in rule";
        errors.push(Error::invalid(&at.child("optionalOldSelf"), optional, detail));
    }
}

/// An error that shows the whole rule.
fn rule_error(at: &Path, rule: &Value, why: &str) -> Error {
    let mut error = Error::invalid(at, Value::Null, format!("{}: {why}", shown(rule)));
    error.bad = None;
    error
}

/// The rule as upstream prints its internal form: all fields in their order, escaped as Go's encoder does.
fn shown(rule: &Value) -> String {
    let string = |field: &str| Value::from(text(rule, field));
    let fields = [
        ("Rule", string("rule")),
        ("Message", string("message")),
        ("MessageExpression", string("messageExpression")),
        ("Reason", rule["reason"].clone()),
        ("FieldPath", string("fieldPath")),
        ("OptionalOldSelf", rule["optionalOldSelf"].clone()),
    ];
    let list: Vec<String> = fields.iter().map(|(name, v)| format!("\"{name}\":{v}")).collect();
    let json = format!("{{{}}}", list.join(","));
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// How many values a node can have for each of its own (upstream: `extractMaxElements`).
fn most(s: &Structural) -> Option<u64> {
    let limit = |n: Option<i64>| n.map(|n| u64::try_from(n).unwrap_or(0));
    match s.ty.as_str() {
        "object" if s.additional.is_some() => limit(s.values.max_properties),
        "array" => limit(s.values.max_items),
        _ => Some(1),
    }
}

/// What the rules of one schema cost together.
#[derive(Default)]
pub(crate) struct TotalCost {
    total: u64,
    /// The dearest, of those that matter.
    dearest: Vec<(u64, Path)>,
    /// Expressions that were there before are not held to their own limit.
    pub unchanged: bool,
}

impl TotalCost {
    fn observe(&mut self, at: &Path, what: &str, cost: u64, errors: &mut ErrorList) {
        if !self.unchanged && cost > EXPRESSION_COST_MAX {
            errors.push(Error::forbidden(at, too_much(what, cost, EXPRESSION_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_COST_MAX / 100 {
            self.dearest.push((cost, at.clone()));
            self.dearest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED_MAX);
        }
    }

    /// Errors of the whole.
    pub fn finish(self, path: &Path, errors: &mut ErrorList) {
        if self.total <= SCHEMA_COST_MAX {
            return;
        }
        for (_, at) in &self.dearest {
            let detail =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(Error::forbidden(at, detail));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(path, too_much(what, self.total, SCHEMA_COST_MAX)));
    }
}

/// Upstream: `getCostErrorMessage`.
#[allow(clippy::cast_precision_loss)] // a factor for people
fn too_much(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
