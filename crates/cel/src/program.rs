//! Running an expression (cel-go: `interpreter`), and what that costs (cel-go: `interpreter/runtimecost.go`).
//!
//! Invariant: each step is paid from the budget before the next one begins.

use crate::ast::{ACCUMULATOR, Call, Element, Entry, Expr, Field, Fold, Id, Kind};
use crate::check::Checked;
use crate::cost::{self, CostEstimate, Sizes};
use crate::functions::{self, Failure, Function};
use crate::library::regexes;
use crate::runtime_cost;
use crate::types::Type;
use crate::value::{Key, Object, Value};
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The values of variables.
pub trait Activation {
    /// The value of a variable; `None` fails the expression that reads it.
    fn get(&self, name: &str) -> Option<Value>;
}

/// What evaluations may cost, in CEL's units.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limit: u64,
    spent: u64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }

    /// What was spent, which may be one step more than the limit.
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

/// Why an expression gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    text: String,
    exceeded: bool,
}

impl EvalError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), exceeded: false }
    }

    /// It cost more than it may.
    pub fn is_cost_exceeded(&self) -> bool {
        self.exceeded
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for EvalError {}

/// A checked expression.
pub struct Program {
    root: Expr,
    checked: Checked,
    /// Patterns that are literals, by the id of the call.
    patterns: BTreeMap<Id, Regex>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("output", &self.output().to_string()).finish_non_exhaustive()
    }
}

impl Program {
    pub(crate) fn new(root: Expr, checked: Checked) -> Self {
        let mut patterns = BTreeMap::new();
        let mut todo = vec![&root];
        while let Some(e) = todo.pop() {
            if let Kind::Call(c) = &e.kind
                && matches!(&*c.function, "matches" | "find" | "findAll")
                && let Some(Expr { kind: Kind::Literal(Value::String(pattern)), .. }) =
                    c.args.get(usize::from(c.target.is_none()))
                && let Ok(regex) = regexes::compile(pattern)
            {
                patterns.insert(e.id, regex);
            }
            todo.extend(e.children());
        }
        Self { root, checked, patterns }
    }

    /// The type of its value.
    pub fn output(&self) -> &Type {
        &self.checked.types[self.root.id]
    }

    /// The variables that it reads.
    pub fn references(&self) -> &[String] {
        &self.checked.references
    }

    /// The least and the most that one evaluation costs.
    pub fn cost(&self, sizes: &dyn Sizes) -> CostEstimate {
        cost::estimate(&self.root, &self.checked, sizes)
    }

    /// # Errors
    /// The expression fails, or costs more than the budget has.
    pub fn eval(&self, names: &dyn Activation, budget: &mut Budget) -> Result<Value, EvalError> {
        Machine { program: self, names, budget, locals: Vec::new() }.eval(&self.root)
    }
}

type Eval = Result<Value, EvalError>;

struct Local {
    name: Arc<str>,
    value: Eval,
}

struct Machine<'a> {
    program: &'a Program,
    names: &'a dyn Activation,
    budget: &'a mut Budget,
    locals: Vec<Local>,
}

impl Machine<'_> {
    fn pay(&mut self, cost: u64) -> Result<(), EvalError> {
        self.budget.spent = self.budget.spent.saturating_add(cost);
        if self.budget.spent > self.budget.limit {
            let text = "operation cancelled: actual cost limit exceeded".to_owned();
            return Err(EvalError { text, exceeded: true });
        }
        Ok(())
    }

    fn eval(&mut self, e: &Expr) -> Eval {
        match &e.kind {
            Kind::Literal(v) => Ok(v.clone()),
            Kind::Ident(name) => {
                self.pay(1)?;
                if let Some(local) = self.locals.iter().rev().find(|l| l.name == *name) {
                    return local.value.clone();
                }
                self.names.get(name).ok_or_else(|| EvalError::new(format!("no such attribute(s): {name}")))
            }
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call(call) => self.call(e.id, call),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(name, fields),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    /// What is read from something that is no variable is a step of its own.
    fn pay_for_access(&mut self, operand: &Expr) -> Result<(), EvalError> {
        let attribute = match &operand.kind {
            Kind::Ident(_) | Kind::Select { test: false, .. } => true,
            Kind::Call(c) => matches!(&*c.function, "_[_]" | "_[?_]" | "_?._"),
            _ => false,
        };
        self.pay(1 + u64::from(!attribute))
    }

    fn select(&mut self, operand: &Expr, field: &Arc<str>, test: bool) -> Eval {
        let of = self.eval(operand)?;
        if !test {
            self.pay_for_access(operand)?;
        }
        let found = |of: &Value| match of {
            Value::Map(map) => Ok(map.get(&Key::String(field.clone())).cloned()),
            Value::Object(o) => Ok(o.fields.get(field).cloned()),
            _ => Err(EvalError::new("no such overload")),
        };
        let (value, wrapped) = match &of {
            Value::Optional(None) => (None, true),
            Value::Optional(Some(v)) => (found(v)?, true),
            other => (found(other)?, false),
        };
        match (test, wrapped, value) {
            (true, _, value) => Ok(Value::Bool(value.is_some())),
            (false, true, value) => Ok(Value::Optional(value.map(Arc::new))),
            (false, false, Some(value)) => Ok(value),
            (false, false, None) => Err(EvalError::new(format!("no such key: {field}"))),
        }
    }

    fn call(&mut self, id: Id, call: &Call) -> Eval {
        let args = &call.args;
        match (&*call.function, args.as_slice()) {
            ("_&&_", [a, b]) => return self.logical(a, b, false),
            ("_||_", [a, b]) => return self.logical(a, b, true),
            ("_?_:_", [condition, yes, no]) => {
                return match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::new("no such overload")),
                };
            }
            ("@not_strictly_false", [a]) => {
                let value = self.eval(a);
                self.pay(1)?;
                return match value {
                    Err(e) if e.exceeded => Err(e),
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    _ => Ok(Value::Bool(true)),
                };
            }
            ("_[_]" | "_[?_]" | "_?._", [operand, at]) => return self.index(&call.function, operand, at),
            ("or" | "orValue", [other]) => {
                if let Some(target) = &call.target {
                    return self.or(&call.function, target, other);
                }
            }
            ("_+_", [Expr { kind: Kind::Ident(name), .. }, more]) if &**name == ACCUMULATOR => {
                return self.gather(more);
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in call.target.iter().map(|t| &**t).chain(args) {
            values.push(self.eval(arg)?);
        }
        let function = functions::find(&call.function)
            .ok_or_else(|| EvalError::new(format!("no such function: {}", call.function)))?;
        let made = match self.program.patterns.get(&id) {
            Some(regex) => regexes::with(&call.function, regex, &values),
            None => function.call(&values),
        };
        let made = made.map_err(|why| failed(function, &values, why));
        let overloads = &self.program.checked.overloads[id];
        let overload = if let [one] = overloads.as_slice() { one } else { "" };
        self.pay(runtime_cost::of_call(&call.function, overload, &values, made.as_ref().ok()))?;
        made
    }

    /// `&&` ends with the first that is false, `||` with the first that is true; an error counts only when none is.
    fn logical(&mut self, a: &Expr, b: &Expr, ends_with: bool) -> Eval {
        let mut error = None;
        for e in [a, b] {
            match self.eval(e) {
                Ok(Value::Bool(v)) if v == ends_with => return Ok(Value::Bool(v)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or_else(|| Some(EvalError::new("no such overload"))),
                Err(e) if e.exceeded => return Err(e),
                Err(e) => error = error.or(Some(e)),
            }
        }
        error.map_or(Ok(Value::Bool(!ends_with)), Err)
    }

    fn index(&mut self, function: &str, operand: &Expr, at: &Expr) -> Eval {
        let of = self.eval(operand)?;
        let at = self.eval(at)?;
        self.pay_for_access(operand)?;
        let function = functions::find(function).ok_or_else(|| EvalError::new("no such function"))?;
        let args = [of, at];
        function.call(&args).map_err(|why| failed(function, &args, why))
    }

    fn or(&mut self, function: &str, target: &Expr, other: &Expr) -> Eval {
        let value = self.eval(target)?;
        match value {
            Value::Optional(Some(v)) if function == "orValue" => Ok((*v).clone()),
            Value::Optional(Some(_)) => Ok(value),
            Value::Optional(None) => self.eval(other),
            _ => Err(EvalError::new("no such overload")),
        }
    }

    /// Adds to what a loop gathers, in place: the loop's step is the only reader.
    fn gather(&mut self, more: &Expr) -> Eval {
        self.pay(1)?;
        let more = self.eval(more)?;
        let accu = self.locals.iter_mut().rev().find(|l| &*l.name == ACCUMULATOR);
        let before = match accu {
            Some(local) => std::mem::replace(&mut local.value, Ok(Value::Null))?,
            None => return Err(EvalError::new("no such attribute")),
        };
        self.pay(1)?;
        match (before, more) {
            (Value::List(mut list), Value::List(more)) => {
                Arc::make_mut(&mut list).extend(more.iter().cloned());
                Ok(Value::List(list))
            }
            (a, b) => {
                let add = functions::find("_+_").ok_or_else(|| EvalError::new("no such function"))?;
                let args = [a, b];
                add.call(&args).map_err(|why| failed(add, &args, why))
            }
        }
    }

    fn list(&mut self, elements: &[Element]) -> Eval {
        let constant = elements.iter().all(|e| matches!(e.value.kind, Kind::Literal(_)));
        let mut out = Vec::with_capacity(elements.len());
        for element in elements {
            match (self.eval(&element.value)?, element.optional) {
                (Value::Optional(v), true) => out.extend(v.map(|v| (*v).clone())),
                (_, true) => {
                    return Err(EvalError::new(
                        "cannot initialize optional list element from non-optional value",
                    ));
                }
                (v, false) => out.push(v),
            }
        }
        if !constant {
            self.pay(cost::LIST)?;
        }
        Ok(Value::list(out))
    }

    fn map(&mut self, entries: &[Entry]) -> Eval {
        let literal = |e: &Expr| matches!(e.kind, Kind::Literal(_));
        let constant = entries.iter().all(|e| literal(&e.key) && literal(&e.value));
        let mut out = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let key = Key::of(&key).ok_or_else(|| {
                EvalError::new(format!("unsupported key type: {}", key.type_of().runtime_name()))
            })?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(v)), true) => (*v).clone(),
                (_, true) => {
                    return Err(EvalError::new("cannot initialize optional entry from non-optional value"));
                }
                (v, false) => v,
            };
            if out.insert(key.clone(), value).is_some() {
                return Err(EvalError::new(format!("Failed with repeated key: {}", key.value())));
            }
        }
        if !constant {
            self.pay(cost::MAP)?;
        }
        Ok(Value::Map(Arc::new(out)))
    }

    fn object(&mut self, name: &Arc<str>, fields: &[Field]) -> Eval {
        let mut out = BTreeMap::new();
        for field in fields {
            let value = match (self.eval(&field.value)?, field.optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(v)), true) => (*v).clone(),
                (v, _) => v,
            };
            out.insert(field.name.clone(), value);
        }
        self.pay(cost::STRUCT)?;
        Ok(Value::Object(Arc::new(Object { name: name.clone(), fields: out })))
    }

    fn fold(&mut self, fold: &Fold) -> Eval {
        let range = self.eval(&fold.range)?;
        let depth = self.locals.len();
        let init = self.eval(&fold.init);
        if let Err(e) = &init
            && e.exceeded
        {
            return init;
        }
        self.locals.push(Local { name: fold.accu.clone(), value: init });
        let outcome = self.run_loop(fold, &range, depth);
        self.locals.truncate(depth + 1);
        let out = outcome.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(depth);
        out
    }

    fn run_loop(&mut self, fold: &Fold, range: &Value, depth: usize) -> Result<(), EvalError> {
        let count = match range {
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            _ => return Err(EvalError::new("got 'non-iterable', expected iterable type")),
        };
        let mut entries = if let Value::Map(map) = range { Some(map.iter()) } else { None };
        for i in 0..count {
            let (first, second) = match (range, entries.as_mut().and_then(Iterator::next)) {
                (Value::List(list), _) if fold.var2.is_some() => {
                    (Value::Int(i64::try_from(i).unwrap_or(i64::MAX)), Some(list[i].clone()))
                }
                (Value::List(list), _) => (list[i].clone(), None),
                (_, Some((key, value))) => (key.value(), fold.var2.is_some().then(|| value.clone())),
                _ => break,
            };
            self.locals.truncate(depth + 1);
            self.locals.push(Local { name: fold.var.clone(), value: Ok(first) });
            if let (Some(name), Some(value)) = (&fold.var2, second) {
                self.locals.push(Local { name: name.clone(), value: Ok(value) });
            }
            match self.eval(&fold.condition) {
                Ok(Value::Bool(false)) => break,
                Err(e) if e.exceeded => return Err(e),
                _ => {}
            }
            let step = self.eval(&fold.step);
            if let Err(e) = &step
                && e.exceeded
            {
                return Err(e.clone());
            }
            self.locals[depth].value = step;
        }
        Ok(())
    }
}

fn failed(function: &Function, args: &[Value], why: Failure) -> EvalError {
    match why {
        Failure::Other(text) => EvalError::new(text),
        Failure::NoOverload => {
            let types: Vec<String> = args.iter().map(|v| v.type_of().runtime_name().to_owned()).collect();
            EvalError::new(format!("no such overload: {}({})", function.name, types.join(", ")))
        }
    }
}
