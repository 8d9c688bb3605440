//! What expressions see of a request, and their evaluation (upstream: `plugin/cel/{activation,composition,condition}.go`).
//!
//! Nothing of a request is converted before an expression asks for it; variables are evaluated when they are first used.

use super::authorizer::{Check, Who};
use super::is_other;
use crate::chain::Attributes;
use crate::webhook::kind_of;
use auth::Authorizer;
use kinds::KindDef;
use kinds::declared::admission::{
    AUTHORIZER, Compiler, Has, NAMESPACE, OBJECT, OLD_OBJECT, PARAMS, REQUEST, REQUEST_RESOURCE, Returns,
    VARIABLES,
};
use kinds::declared::engine::{self, Activation, Program};
use serde_json::{Value, json};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;

/// What one expression may cost (upstream: `PerCallLimit`).
const CALL_COST_MAX: u64 = 1_000_000;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression, compiled or not.
#[derive(Debug)]
pub struct Expression {
    pub text: String,
    pub program: Result<Program, String>,
}

impl Expression {
    pub fn new(text: &str, compiler: &Compiler, returns: Returns, has: Has) -> Self {
        Self { text: text.to_owned(), program: compiler.compile(text, returns, has) }
    }
}

/// The variables of a policy, by name.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<String, Expression>);

impl Variables {
    /// Compiles the variables of a policy's spec; with the compiler for all that may use them.
    pub fn compile(spec: &Value, has: Has) -> (Self, Compiler) {
        let (mut compiler, mut out) = (Compiler::new(true), BTreeMap::new());
        for v in spec["variables"].as_array().into_iter().flatten() {
            let text = |field: &str| v[field].as_str().unwrap_or("");
            let program = compiler.variable(text("name"), text("expression"), has);
            out.insert(text("name").to_owned(), Expression { text: text("expression").to_owned(), program });
        }
        (Self(out), compiler)
    }
}

/// A request, in the version that a policy wants.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub a: &'a Attributes<'a>,
    pub row: &'a KindDef,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub params: Option<&'a Value>,
    /// Null where there is none.
    pub namespace: &'a Value,
}

/// A request as values of CEL.
pub struct Facts<'a> {
    seen: Seen<'a>,
    authorizer: &'a Authorizer,
    object: OnceCell<engine::Value>,
    old: OnceCell<engine::Value>,
    params: OnceCell<engine::Value>,
    namespace: OnceCell<engine::Value>,
    request: OnceCell<engine::Value>,
}

impl<'a> Facts<'a> {
    pub fn new(seen: Seen<'a>, authorizer: &'a Authorizer) -> Self {
        Self {
            seen,
            authorizer,
            object: OnceCell::new(),
            old: OnceCell::new(),
            params: OnceCell::new(),
            namespace: OnceCell::new(),
            request: OnceCell::new(),
        }
    }

    fn get(&self, name: &str) -> Option<engine::Value> {
        let s = &self.seen;
        let of = |cell: &OnceCell<engine::Value>, v: Option<&Value>| {
            Some(cell.get_or_init(|| engine::value(v.unwrap_or(&Value::Null))).clone())
        };
        match name {
            OBJECT => of(&self.object, s.object),
            OLD_OBJECT => of(&self.old, s.old),
            PARAMS => of(&self.params, s.params),
            NAMESPACE => of(&self.namespace, Some(s.namespace)),
            REQUEST => Some(self.request.get_or_init(|| engine::value(&request(s))).clone()),
            AUTHORIZER => Some(Who::new(s.a.user, self.authorizer).value()),
            REQUEST_RESOURCE => Some(Check::of_request(s.a, self.authorizer).value()),
            _ => None,
        }
    }
}

/// Upstream: `CreateAdmissionRequest`.
fn request(s: &Seen<'_>) -> Value {
    let (a, row) = (s.a, s.row);
    let resource =
        |row: &KindDef| json!({"group": row.group, "version": row.version, "resource": row.plural});
    let kind = kind_of(s.object.or(s.old), row);
    let own = match is_other(row, a.kind) {
        true => json!({"group": a.kind.group, "version": a.kind.version, "kind": a.kind.kind}),
        false => kind.clone(),
    };
    let mut user = a.user.to_value();
    if let Some(map) = user.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    let mut request = json!({
        "kind": kind,
        "resource": resource(row),
        "requestKind": own,
        "requestResource": resource(a.kind),
        "operation": a.operation.as_str(),
        "userInfo": user,
        "dryRun": a.dry_run,
        "options": a.options,
    });
    let texts = [
        ("name", a.name),
        ("namespace", a.namespace),
        ("subResource", a.subresource),
        ("requestSubResource", a.subresource),
    ];
    for (field, value) in texts.into_iter().filter(|(_, v)| !v.is_empty()) {
        request[field] = value.into();
    }
    request
}

/// One series of evaluations, which share their variables.
pub struct Scope<'a> {
    facts: &'a Facts<'a>,
    variables: &'a Variables,
    has_namespace: bool,
    known: RefCell<BTreeMap<String, Result<engine::Value, String>>>,
    /// What variables cost in the running evaluation.
    cost: Cell<u64>,
    /// Why a variable had no value in the running evaluation.
    failed: RefCell<Option<String>>,
    /// Variables under evaluation, each inside the one before.
    depth: Cell<usize>,
}

/// Variables that use each other; each sees only those before it, so this is never reached.
const DEPTH_MAX: usize = 64;

impl<'a> Scope<'a> {
    pub fn new(facts: &'a Facts<'a>, variables: &'a Variables) -> Self {
        Self {
            facts,
            variables,
            has_namespace: true,
            known: RefCell::default(),
            cost: Cell::new(0),
            failed: RefCell::default(),
            depth: Cell::new(0),
        }
    }

    /// For match conditions, which know no namespace.
    pub fn without_namespace(facts: &'a Facts<'a>, variables: &'a Variables) -> Self {
        Self { has_namespace: false, ..Self::new(facts, variables) }
    }

    /// Evaluates an expression; what it cost is taken from the budget. An error of the expression itself is inside.
    ///
    /// # Errors
    /// The budget is gone.
    pub fn evaluate(
        &self,
        e: &Expression,
        budget: &mut u64,
    ) -> Result<Result<engine::Value, String>, String> {
        let program = match &e.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        self.cost.set(0);
        self.failed.replace(None);
        let (outcome, cost) = engine::eval(program, self, CALL_COST_MAX);
        let cost = cost.saturating_add(self.cost.get());
        if cost > *budget {
            return Err(OUT_OF_BUDGET.to_owned());
        }
        *budget -= cost;
        Ok(outcome.map_err(|why| {
            let why = self.failed.take().unwrap_or(why.text);
            format!("expression '{}' resulted in error: {why}", e.text)
        }))
    }

    fn variable(&self, name: &str) -> Option<engine::Value> {
        if let Some(known) = self.known.borrow().get(name) {
            return self.told(known.clone());
        }
        let expression = self.variables.0.get(name)?;
        let made = self.make(name, expression);
        self.known.borrow_mut().insert(name.to_owned(), made.clone());
        self.told(made)
    }

    fn told(&self, made: Result<engine::Value, String>) -> Option<engine::Value> {
        made.map_err(|why| self.failed.replace(Some(why))).ok()
    }

    fn make(&self, name: &str, e: &Expression) -> Result<engine::Value, String> {
        let program = e
            .program
            .as_ref()
            .map_err(|why| format!("composited variable {name:?} fails to compile: {why}"))?;
        if self.depth.get() >= DEPTH_MAX {
            return Err(format!("composited variable {name:?} fails to evaluate: nested too deep"));
        }
        self.depth.set(self.depth.get() + 1);
        let (outcome, cost) = engine::eval(program, self, CALL_COST_MAX);
        self.depth.set(self.depth.get() - 1);
        self.cost.set(self.cost.get().saturating_add(cost));
        outcome.map_err(|why| {
            let why = self.failed.take().unwrap_or(why.text);
            format!("composited variable {name:?} fails to evaluate: {why}")
        })
    }
}

impl Activation for Scope<'_> {
    fn get(&self, name: &str) -> Option<engine::Value> {
        if let Some(variable) = name.strip_prefix(VARIABLES).and_then(|n| n.strip_prefix('.')) {
            return self.variable(variable);
        }
        match name {
            // Asked for as a whole: those that can be had.
            VARIABLES => {
                let known = |n: &String| Some((n.clone(), self.variable(n)?));
                Some(engine::map(self.variables.0.keys().filter_map(known)))
            }
            NAMESPACE if !self.has_namespace => Some(engine::Value::Null),
            name => self.facts.get(name),
        }
    }
}
