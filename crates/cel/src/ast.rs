//! What an expression is once it is read: a tree whose macros are already expanded.
//!
//! Invariant: each node has an id of its own, by which its place in the text, its type and its overloads are known.

use crate::value::Value;
use std::sync::Arc;

/// The number of a node, from 0.
pub type Id = usize;

/// The variable that macros gather their result in; no text can name it.
pub const ACCUMULATOR: &str = "@result";

#[derive(Clone, Debug)]
pub struct Expr {
    pub id: Id,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Value),
    Ident(Arc<str>),
    /// `operand.field`, or whether it is there.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    Call(Call),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub struct Call {
    pub function: Arc<str>,
    pub target: Option<Box<Expr>>,
    pub args: Vec<Expr>,
}

#[derive(Clone, Debug)]
pub struct Element {
    pub value: Expr,
    /// `?value`: left out when it is an optional without a value.
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub id: Id,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A loop over a list or map that gathers a result (cel-go: `ComprehensionExpr`).
#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    /// The element or key; with a second variable, the index or key.
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Fold {
    /// A name for a value rather than a loop (cel-go: `coster.isBind`).
    pub fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(l) if l.is_empty())
            && matches!(&self.condition.kind, Kind::Literal(Value::Bool(false)))
            && &*self.accu != ACCUMULATOR
    }
}

impl Expr {
    /// The nodes right below.
    pub fn children(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call(c) => c.target.iter().map(|t| &**t).chain(&c.args).collect(),
            Kind::List(l) => l.iter().map(|e| &e.value).collect(),
            Kind::Map(m) => m.iter().flat_map(|e| [&e.key, &e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
            Kind::Fold(f) => vec![&f.range, &f.init, &f.condition, &f.step, &f.result],
        }
    }

    /// `a`, or `a.b.c` of names alone.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => {
                Some(format!("{}.{field}", operand.qualified_name()?))
            }
            _ => None,
        }
    }
}
