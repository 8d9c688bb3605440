//! What an expression costs at least and at most, before it runs (cel-go: `checker/cost.go`).

use crate::ast::{ACCUMULATOR, Call, Element, Entry, Expr, Fold, Id, Kind};
use crate::check::Checked;
use crate::estimate;
use crate::types::Type;
use crate::value::Value;
use std::sync::Arc;

/// Making a list.
pub const LIST: u64 = 10;
/// Making a map.
pub const MAP: u64 = 30;
/// Making an object.
pub const STRUCT: u64 = 40;
/// Walking over one character.
pub const STRING_FACTOR: f64 = 0.1;
/// Matching one character of a pattern.
pub const REGEX_FACTOR: f64 = 0.25;

/// What the program knows of the largest sizes of values.
pub trait Sizes {
    /// The largest size of the value at a path, which begins with a variable; `@items`, `@values` and `@keys` stand for
    /// all of a list or map. `None` when it is not known.
    fn max_size(&self, path: &[String]) -> Option<u64>;
}

/// A range, of costs or of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostEstimate {
    pub min: u64,
    pub max: u64,
}

pub(crate) type Size = CostEstimate;

/// A number times a factor, rounded up.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // saturates
pub(crate) fn scaled(n: u64, factor: f64) -> u64 {
    (n as f64 * factor).ceil() as u64
}

impl CostEstimate {
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(crate) const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub(crate) fn add(self, o: Self) -> Self {
        Self { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }

    pub(crate) fn multiply(self, o: Self) -> Self {
        Self { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }

    pub(crate) fn scale(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub(crate) fn union(self, o: Self) -> Self {
        Self { min: self.min.min(o.min), max: self.max.max(o.max) }
    }
}

/// The sizes of what a list or map holds.
#[derive(Clone, Copy)]
pub(crate) struct EntrySize {
    list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A node as estimates of calls see it.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub path: Vec<String>,
    pub ty: Type,
    pub expr: Option<&'a Expr>,
    pub size: Option<Size>,
}

/// What a call costs, without its arguments unless `with_args`, and how large its result is.
pub(crate) struct CallEstimate {
    pub cost: CostEstimate,
    pub result: Option<Size>,
}

struct Local {
    name: Arc<str>,
    path: Vec<String>,
    size: Option<Size>,
    entry: Option<EntrySize>,
}

pub(crate) struct Coster<'a> {
    checked: &'a Checked,
    sizes: &'a dyn Sizes,
    paths: Vec<Vec<String>>,
    computed: Vec<Option<Size>>,
    entries: Vec<Option<EntrySize>>,
    locals: Vec<Local>,
}

/// The cost of a tree.
pub fn estimate(root: &Expr, checked: &Checked, sizes: &dyn Sizes) -> CostEstimate {
    let n = checked.types.len();
    let mut coster = Coster {
        checked,
        sizes,
        paths: vec![Vec::new(); n],
        computed: vec![None; n],
        entries: vec![None; n],
        locals: Vec::new(),
    };
    coster.cost(root)
}

const ACCESS: CostEstimate = CostEstimate::fixed(1);

impl<'a> Coster<'a> {
    fn ty(&self, e: &Expr) -> &Type {
        &self.checked.types[e.id]
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| &*l.name == name)
    }

    fn path(&self, e: &Expr) -> Vec<String> {
        match &e.kind {
            Kind::Ident(name) => {
                self.local(name).map_or_else(|| self.paths[e.id].clone(), |local| local.path.clone())
            }
            _ => self.paths[e.id].clone(),
        }
    }

    fn below(&self, e: &Expr, name: &str) -> Vec<String> {
        let mut path = self.path(e);
        path.push(name.to_owned());
        path
    }

    fn node(&mut self, e: &'a Expr) -> Node<'a> {
        let mut path = self.path(e);
        if path.first().is_some_and(|p| p == ACCUMULATOR) {
            path.clear();
        }
        Node { path, ty: self.ty(e).clone(), expr: Some(e), size: self.size(e) }
    }

    /// The size of a node, where it is known.
    fn size(&mut self, e: &Expr) -> Option<Size> {
        if let Some(size) = self.computed[e.id].or_else(|| of_expr(e)) {
            return Some(size);
        }
        if let Some(size) = self.size_at(&self.path(e)) {
            self.computed[e.id] = Some(size);
            return Some(size);
        }
        if self.ty(e).is_scalar() {
            return Some(Size::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    pub fn size_at(&self, path: &[String]) -> Option<Size> {
        if path.is_empty() {
            return None;
        }
        self.sizes.max_size(path).map(|max| Size { min: 0, max })
    }

    fn entry(&self, e: &Expr) -> Option<EntrySize> {
        self.entries[e.id].or_else(|| match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.entry),
            _ => None,
        })
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Size {
        self.size(e).unwrap_or(Size::UNKNOWN)
    }

    fn cost(&mut self, e: &'a Expr) -> CostEstimate {
        match &e.kind {
            // The name of a type is read like a variable.
            Kind::Literal(Value::Type(ty)) => {
                self.paths[e.id] = vec![ty.runtime_name().to_owned()];
                ACCESS
            }
            Kind::Literal(_) => CostEstimate::fixed(0),
            Kind::Ident(name) => {
                self.paths[e.id] =
                    self.local(name).map_or_else(|| vec![name.to_string()], |l| l.path.clone());
                ACCESS
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let mut sum = self.cost(operand);
                if matches!(self.ty(operand), Type::Map(..) | Type::Object(_) | Type::Param(_)) {
                    sum = sum.add(ACCESS);
                }
                self.paths[e.id] = self.below(operand, field);
                sum
            }
            Kind::Call(call) => self.call(e, call),
            Kind::List(elements) => self.list(e.id, elements),
            Kind::Map(entries) => self.map(e.id, entries),
            Kind::Struct { fields, .. } => {
                fields.iter().fold(CostEstimate::fixed(STRUCT), |sum, f| sum.add(self.cost(&f.value)))
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(e.id, fold),
            Kind::Fold(fold) => self.fold(e.id, fold),
        }
    }

    fn call(&mut self, e: &'a Expr, call: &'a Call) -> CostEstimate {
        if let ("dyn", [arg]) = (&*call.function, call.args.as_slice()) {
            let cost = self.cost(arg).add(ACCESS);
            self.computed[e.id] = self.size(arg).or(self.computed[e.id]);
            self.entries[e.id] = self.entry(arg).or(self.entries[e.id]);
            return cost;
        }
        let costs: Vec<CostEstimate> = call.args.iter().map(|a| self.cost(a)).collect();
        let args: Vec<Node<'a>> = call.args.iter().map(|a| self.node(a)).collect();
        let mut sum = CostEstimate::fixed(0);
        let target = call.target.as_deref().map(|t| {
            sum = self.cost(t);
            self.node(t)
        });
        let mut range = CostEstimate { min: u64::MAX, max: 0 };
        let mut result: Option<Size> = None;
        let checked = self.checked;
        for overload in &checked.overloads[e.id] {
            let made = self.one_call(e, call, overload, target.as_ref(), &args, &costs);
            range = range.union(made.cost);
            result = match (result, made.result) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            let below = match &**overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(below), Some(of)) = (below, call.args.first()) {
                result = self.entry(of).map(|s| s.value);
                self.paths[e.id] = self.below(of, below);
            }
            if result.is_none() {
                result = self.size(e);
            }
        }
        self.computed[e.id] = result.or(self.computed[e.id]);
        sum.add(range)
    }

    /// One overload of a call, with the cost of its arguments (cel-go: `coster.functionCost`).
    fn one_call(
        &mut self,
        e: &'a Expr,
        call: &'a Call,
        overload: &str,
        target: Option<&Node<'a>>,
        args: &[Node<'a>],
        costs: &[CostEstimate],
    ) -> CallEstimate {
        let all = costs.iter().fold(CostEstimate::fixed(0), |sum, c| sum.add(*c));
        if let Some(made) = estimate::of_call(self, &call.function, overload, target, args) {
            return CallEstimate { cost: made.cost.add(all), result: made.result };
        }
        match (overload, costs) {
            ("logical_or" | "logical_and", [a, b]) => {
                CallEstimate { cost: CostEstimate { min: a.min, max: a.add(*b).max }, result: None }
            }
            ("conditional", [condition, yes, no]) => {
                let (x, y) = (&call.args[1], &call.args[2]);
                let size = self.size_or_unknown(x).union(self.size_or_unknown(y));
                self.entries[e.id] = EntrySize::union(self.entry(x), self.entry(y)).or(self.entries[e.id]);
                CallEstimate { cost: condition.add(yes.union(*no)), result: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", [_, _]) => {
                let (x, y) = (&call.args[0], &call.args[1]);
                let size = self.size_or_unknown(x).add(self.size_or_unknown(y));
                self.entries[e.id] = EntrySize::union(self.entry(x), self.entry(y)).or(self.entries[e.id]);
                let own = if overload == "add_list" { ACCESS } else { size.scale(STRING_FACTOR) };
                CallEstimate { cost: own.add(all), result: Some(size) }
            }
            _ => {
                let made = estimate::of_overload(overload, target, args);
                CallEstimate { cost: made.cost.add(all), result: made.result }
            }
        }
    }

    fn list(&mut self, id: Id, elements: &'a [Element]) -> CostEstimate {
        let mut sum = CostEstimate::fixed(LIST);
        let mut size = Size { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
        for element in elements {
            sum = sum.add(self.cost(&element.value));
            size = size.union(self.size_or_unknown(&element.value));
        }
        self.entries[id] = Some(EntrySize { list: true, key: Size::fixed(1), value: size });
        sum
    }

    fn map(&mut self, id: Id, entries: &'a [Entry]) -> CostEstimate {
        let mut sum = CostEstimate::fixed(MAP);
        let none = Size { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let (mut keys, mut values) = (none, none);
        for entry in entries {
            sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
            keys = keys.union(self.size_or_unknown(&entry.key));
            values = values.union(self.size_or_unknown(&entry.value));
        }
        self.entries[id] = Some(EntrySize { list: false, key: keys, value: values });
        sum
    }

    fn push(&mut self, name: &Arc<str>, path: Vec<String>, size: Option<Size>, entry: Option<EntrySize>) {
        self.locals.push(Local { name: name.clone(), path, size, entry });
    }

    fn bind(&mut self, id: Id, fold: &'a Fold) -> CostEstimate {
        let sum = self.cost(&fold.range).add(self.cost(&fold.init));
        let (path, size, entry) = (self.path(&fold.init), self.size(&fold.init), self.entry(&fold.init));
        self.push(&fold.accu, path, size, entry);
        let sum = sum.add(self.cost(&fold.result));
        self.locals.pop();
        self.computed[id] = self.size(&fold.result).or(self.computed[id]);
        self.entries[id] = self.entry(&fold.result).or(self.entries[id]);
        sum
    }

    fn fold(&mut self, id: Id, fold: &'a Fold) -> CostEstimate {
        let sum = self.cost(&fold.range).add(self.cost(&fold.init));
        let (path, size, entry) = (self.path(&fold.init), self.size(&fold.init), self.entry(&fold.init));
        self.push(&fold.accu, path, size, entry);
        let of = self.entry(&fold.range);
        let list = of.map_or_else(|| matches!(self.ty(&fold.range), Type::List(_)), |of| of.list);
        let (key, value) = if list { ("@indices", "@items") } else { ("@keys", "@values") };
        match &fold.var2 {
            Some(var2) => {
                self.push(&fold.var, self.below(&fold.range, key), of.map(|o| o.key), None);
                self.push(var2, self.below(&fold.range, value), of.map(|o| o.value), None);
            }
            None if list => self.push(&fold.var, self.below(&fold.range, value), of.map(|o| o.value), None),
            None => self.push(&fold.var, self.below(&fold.range, key), of.map(|o| o.key), None),
        }
        let turn = self.cost(&fold.condition);
        let turn = self.cost(&fold.step).add(turn);
        let inner = 1 + usize::from(fold.var2.is_some());
        self.locals.truncate(self.locals.len().saturating_sub(inner));
        let sum = sum.add(self.cost(&fold.result));
        self.locals.pop();
        let turns = self.size_or_unknown(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => self.computed[id] = self.size(&fold.init).or(self.computed[id]),
            Kind::List(_) | Kind::Map(_) => {
                self.computed[id] = Some(turns);
                self.entries[id] = self.entry(&fold.step).or(self.entries[id]);
            }
            _ => {}
        }
        sum.add(turns.multiply(turn))
    }
}

/// The size that a literal tells.
fn of_expr(e: &Expr) -> Option<Size> {
    let n = match &e.kind {
        Kind::Literal(Value::Type(_)) => return None,
        Kind::Literal(v) => v.size(),
        Kind::List(l) => l.len() as u64,
        Kind::Map(m) => m.len() as u64,
        _ => return None,
    };
    Some(Size::fixed(n))
}
