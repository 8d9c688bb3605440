//! Values against the rules of their schema (upstream: `validation.go`).

use super::compile::{self, OLD_SELF, Rule, SELF};
use super::{CALL_COST_MAX, message, value};
use crate::custom::list_type;
use crate::custom::structural::{Additional, Structural};
use crate::custom::validate::Correlated;
use crate::declared::engine::{self, Activation, Failure, Program};
use crate::declared::{self, Decl};
use meta::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a node of a schema and of all below it.
pub struct Validator {
    schema: Arc<Structural>,
    rules: Vec<Value>,
    compiled: Vec<Rule>,
    /// The node has no type that rules could be about.
    undeclared: bool,
    /// The root of a resource: its type and name can be seen.
    root: bool,
    items: Option<Box<Self>>,
    properties: BTreeMap<String, Self>,
    additional: Option<Box<Self>>,
    all_of: Vec<Self>,
}

/// What came of a check.
#[derive(Default)]
pub struct Outcome {
    pub errors: ErrorList,
    /// Errors of parts that did not change, which are only told.
    pub warnings: Vec<String>,
}

/// The evaluation ended: nothing more is checked.
struct Stop;

struct Run {
    out: Outcome,
    budget: u64,
}

impl Run {
    /// Evaluates within what is left; `None` when it was more.
    fn eval(&mut self, program: &Program, names: &Names<'_>) -> Option<Result<engine::Value, Failure>> {
        let (outcome, cost) = engine::eval(program, names, CALL_COST_MAX);
        self.budget = self.budget.checked_sub(cost)?;
        Some(outcome)
    }
}

/// A value with what it was, as far as that can be told.
#[derive(Clone, Copy)]
struct Old<'a> {
    value: Option<&'a Value>,
    /// The part as ratcheting sees it; `None` below what cannot be told.
    here: Option<Correlated<'a>>,
    /// The nearest part above that can be.
    above: Option<Correlated<'a>>,
}

impl<'a> Old<'a> {
    /// Whether errors here are forgiven (upstream: `shouldRatchetError`).
    fn forgives(&self) -> bool {
        self.here.as_ref().or(self.above.as_ref()).is_some_and(Correlated::same)
    }

    fn below(
        self,
        value: Option<&'a Value>,
        child: impl Fn(&Correlated<'a>) -> Option<Correlated<'a>>,
    ) -> Self {
        match &self.here {
            None => Self { value, ..self },
            Some(here) => Self { value, here: child(here), above: self.here },
        }
    }

    fn field(self, name: &str, value: Option<&'a Value>) -> Self {
        // A change of type is not visible: both are in one version.
        if self.here.is_some() && self.above.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self { value, here: None, above: None };
        }
        self.below(value, |c| c.field(name))
    }
}

impl Validator {
    /// Compiles the rules of a version's schema; `None` when it has none.
    pub fn new(schema: &Arc<Structural>) -> Option<Self> {
        Self::of_node(schema, true)
    }

    /// As [`Self::new`], of a part of a schema, which may be the `root` of a resource.
    pub(crate) fn of_node(schema: &Structural, root: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        Self::of(schema, &Arc::new(schema.clone()), root, declared::of_schema(schema, root).map(Arc::new))
    }

    /// Errors of a default: as one that stays, and as one that is new (upstream: `defaulting/validation.go`).
    pub(crate) fn check_default(&self, default: &Value, at: &Path) -> ErrorList {
        let check = |old: Option<&Value>| {
            let mut run = Run { out: Outcome::default(), budget: super::OBJECT_COST_MAX };
            let _ = self.node(default, Old { value: old, here: None, above: None }, at, &mut run);
            run.out.errors
        };
        let found = check(Some(default));
        if found.is_empty() { check(None) } else { found }
    }

    /// `rules` is the schema whose rules apply: the node itself, or what stands under its `allOf`.
    fn of(rules: &Structural, node: &Arc<Structural>, root: bool, decl: Option<Arc<Decl>>) -> Option<Self> {
        let compiled = match &decl {
            Some(decl) if !rules.rules.is_empty() => compile::compile(&rules.rules, node, decl),
            _ => Vec::new(),
        };
        let own = |s: &Structural| declared::of_schema(s, s.embedded_resource).map(Arc::new);
        let child = |rules: &Structural, node: &Arc<Structural>| {
            Self::of(rules, node, node.embedded_resource, own(node))
        };
        let boxed = |pair: Option<(&Arc<Structural>, &Arc<Structural>)>| {
            pair.and_then(|(rules, node)| child(rules, node)).map(Box::new)
        };
        let mut properties = BTreeMap::new();
        for (name, rules) in &rules.properties {
            if let Some(node) = node.properties.get(name)
                && has_rules(rules)
                && let Some(v) = child(rules, node)
            {
                properties.insert(name.clone(), v);
            }
        }
        let schema_of = |s: &'_ Structural| s.additional.as_ref().and_then(Additional::schema).cloned();
        let additional = schema_of(rules).zip(schema_of(node));
        let this = Self {
            undeclared: decl.is_none() && !rules.rules.is_empty(),
            rules: rules.rules.clone(),
            compiled,
            root,
            items: boxed(rules.items.as_ref().zip(node.items.as_ref())),
            additional: boxed(additional.as_ref().map(|(a, b)| (a, b))),
            all_of: rules
                .values
                .all_of
                .iter()
                .filter_map(|nested| Self::of(nested, node, root, decl.clone()))
                .collect(),
            properties,
            schema: node.clone(),
        };
        (!this.is_empty()).then_some(this)
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.items.is_none()
            && self.additional.is_none()
            && self.properties.is_empty()
            && self.all_of.is_empty()
    }

    /// Checks a value that was `old` before, within [`super::OBJECT_COST_MAX`].
    pub fn check(&self, new: &Value, old: Option<&Value>, budget: u64) -> Outcome {
        let mut run = Run { out: Outcome::default(), budget };
        let here = old.map(|old| Correlated::new(new, old, &self.schema));
        let _ = self.node(new, Old { value: old, here, above: None }, &Path::root(), &mut run);
        run.out
    }

    fn node(&self, v: &Value, old: Old<'_>, path: &Path, run: &mut Run) -> Result<(), Stop> {
        if v.is_null() {
            return Ok(());
        }
        self.expressions(v, old, path, run)?;
        for nested in &self.all_of {
            // As the schema's own checks, those under `allOf` are not ratcheted.
            nested.node(v, Old { here: None, ..old }, path, run)?;
        }
        match v {
            Value::Array(list) => self.array(list, old, path, run),
            Value::Object(map) => self.object(map, old, path, run),
            _ => Ok(()),
        }
    }

    fn object(&self, map: &Map<String, Value>, old: Old<'_>, path: &Path, run: &mut Run) -> Result<(), Stop> {
        let was = |name: &str| old.value.and_then(|o| o.get(name)).filter(|v| !v.is_null());
        if let Some(values) = &self.additional {
            for (name, v) in map {
                values.node(v, old.field(name, was(name)), &path.key(name), run)?;
            }
        }
        for (name, v) in map {
            if let Some(property) = self.properties.get(name) {
                property.node(v, old.field(name, was(name)), &path.child(name), run)?;
            }
        }
        Ok(())
    }

    fn array(&self, list: &[Value], old: Old<'_>, path: &Path, run: &mut Run) -> Result<(), Stop> {
        let Some(items) = &self.items else { return Ok(()) };
        // Only elements with keys can be told to be the same.
        let keys = &self.schema.list_map_keys;
        let keyed = self.schema.list_type.as_deref() == Some("map");
        let known: Vec<(Value, &Value)> = old
            .value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|_| keyed)
            .map(|v| (list_type::key(v, keys), v))
            .collect();
        for (i, v) in list.iter().enumerate() {
            let was = if known.is_empty() {
                None
            } else {
                let key = list_type::key(v, keys);
                known.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
            };
            items.node(v, old.below(was, |c| c.index(i)), &path.index(i), run)?;
        }
        Ok(())
    }

    /// Upstream: `validateExpressions`.
    fn expressions(&self, v: &Value, old: Old<'_>, path: &Path, run: &mut Run) -> Result<(), Stop> {
        let ty = self.schema.ty.as_str();
        if self.undeclared {
            let detail =
                "rule compiler initialization error: failed to convert to declType for CEL validation rules";
            run.out.errors.push(Error::invalid(path, ty, detail));
            return Ok(());
        }
        if self.compiled.is_empty() {
            return Ok(());
        }
        if run.budget == 0 {
            run.out.errors.push(Error::invalid(path, ty, OUT_OF_BUDGET));
            return Err(Stop);
        }
        let scope = Scope {
            new: value::of(v, &self.schema, self.root),
            old: old.value.map(|o| value::of(o, &self.schema, self.root)),
        };
        for (rule, compiled) in self.rules.iter().zip(&self.compiled) {
            if let Some(why) = &compiled.error {
                run.out.errors.push(Error::invalid(path, ty, format!("rule compile error: {why}")));
                continue;
            }
            let Some(program) = &compiled.program else { continue };
            let optional = rule["optionalOldSelf"] == true;
            if compiled.uses_old && scope.old.is_none() && !optional {
                continue;
            }
            match run.eval(program, &Names { scope: &scope, optional }) {
                None => {
                    run.out.errors.push(Error::invalid(path, ty, OUT_OF_BUDGET));
                    return Err(Stop);
                }
                Some(Ok(engine::Value::Bool(true))) => {}
                Some(Ok(_)) => self.failed(rule, compiled, v, &scope, old, path, run)?,
                Some(Err(e)) => self.erred(rule, &e, path, run)?,
            }
        }
        Ok(())
    }

    fn erred(&self, rule: &Value, e: &Failure, path: &Path, run: &mut Run) -> Result<(), Stop> {
        let (ty, name, text) = (self.schema.ty.as_str(), message::name(rule), &e.text);
        if e.over_limit {
            let detail = format!(
                "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {name}"
            );
            run.out.errors.push(Error::invalid(path, ty, detail));
            return Err(Stop);
        }
        let detail = if text.starts_with("no such overload") {
            format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {name}"
            )
        } else {
            format!("{text} evaluating rule: {name}")
        };
        run.out.errors.push(Error::invalid(path, ty, detail));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn failed(
        &self,
        rule: &Value,
        compiled: &Rule,
        v: &Value,
        scope: &Scope,
        old: Old<'_>,
        path: &Path,
        run: &mut Run,
    ) -> Result<(), Stop> {
        let ty = self.schema.ty.as_str();
        let at = match compiled.field_path.as_str() {
            "" => path.clone(),
            // A path in brackets is joined as upstream's `Child` joins it.
            below => path.child(below.strip_prefix('.').unwrap_or(below)),
        };
        let mut stop = false;
        let error = match compiled.message.as_ref().map(|m| made(m, rule, scope, run)) {
            Some(Err(detail)) => {
                stop = true;
                Error::invalid(&at, ty, detail)
            }
            other => {
                let detail =
                    other.and_then(Result::unwrap_or_default).unwrap_or_else(|| message::default(rule));
                message::error(rule, ty, v, detail, &at)
            }
        };
        if !compiled.uses_old && old.forgives() {
            run.out.warnings.push(error.to_string());
        } else {
            run.out.errors.push(error);
        }
        if stop { Err(Stop) } else { Ok(()) }
    }
}

/// The message that a rule's expression makes; `Err` when the budget is gone (upstream: `evalMessageExpression`).
fn made(program: &Program, rule: &Value, scope: &Scope, run: &mut Run) -> Result<Option<String>, String> {
    // The optional form of oldSelf is not offered here, as upstream does not.
    match run.eval(program, &Names { scope, optional: false }) {
        None => Err(
            "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                .to_owned(),
        ),
        Some(Ok(value)) => Ok(engine::as_text(&value).and_then(|text| message::made(&text))),
        Some(Err(e)) if e.over_limit => Err(format!(
            "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
            crate::validate::text(rule, "messageExpression")
        )),
        Some(Err(_)) => Ok(None),
    }
}

struct Scope {
    new: engine::Value,
    old: Option<engine::Value>,
}

struct Names<'a> {
    scope: &'a Scope,
    /// What was is told as an optional value.
    optional: bool,
}

impl Activation for Names<'_> {
    fn get(&self, name: &str) -> Option<engine::Value> {
        match name {
            SELF => Some(self.scope.new.clone()),
            OLD_SELF if self.optional => Some(engine::optional(self.scope.old.clone())),
            OLD_SELF => self.scope.old.clone(),
            _ => None,
        }
    }
}

/// Upstream: `hasXValidations`.
fn has_rules(s: &Structural) -> bool {
    !s.rules.is_empty()
        || s.items.as_deref().is_some_and(has_rules)
        || s.additional.as_ref().and_then(Additional::schema).is_some_and(|s| has_rules(s))
        || s.properties.values().any(|p| has_rules(p))
}
