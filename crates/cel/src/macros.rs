//! Calls that are written short for loops and tests (cel-go: `parser/macro.go`, `cel/library.go`, `ext/comprehensions.go`,
//! `ext/lists.go`).

use crate::ast::{ACCUMULATOR, Call, Element, Expr, Fold, Kind};
use crate::error::Issue;
use crate::parse::Nodes;
use crate::value::Value;
use std::sync::Arc;

type Made = Result<Expr, Issue>;

/// A name that no text can have, for a loop variable that is not read.
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// A call without target.
pub fn global(nodes: &mut Nodes, at: usize, name: &str, mut args: Vec<Expr>) -> Made {
    if name == "has" && args.len() == 1 {
        let arg = args.swap_remove(0);
        return match arg.kind {
            Kind::Select { operand, field, test: false } => {
                Ok(nodes.make(at, Kind::Select { operand, field, test: true }))
            }
            _ => Err(issue(nodes, &arg, "invalid argument to has() macro")),
        };
    }
    Ok(nodes.call(at, name, args))
}

/// A call on a target.
pub fn member(nodes: &mut Nodes, at: usize, name: &str, target: Expr, args: Vec<Expr>) -> Made {
    let mut m = Maker { nodes, at };
    match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2 | 3) => m.quantifier(name, target, args),
        ("map", 2 | 3) => m.map(target, args),
        ("filter", 2) => m.filter(target, args),
        ("transformList", 3 | 4) => m.transform_list(target, args),
        ("transformMap", 3 | 4) => m.transform_map(target, args, false),
        ("transformMapEntry", 3 | 4) => m.transform_map(target, args, true),
        ("optMap" | "optFlatMap", 2) => m.optional(name, target, args),
        ("sortBy", 2) => m.sort_by(target, args),
        _ => Ok(m.member(name, target, args)),
    }
}

fn issue(nodes: &Nodes, at: &Expr, message: &str) -> Issue {
    Issue { at: nodes.place(at.id), message: message.to_owned() }
}

struct Maker<'a> {
    nodes: &'a mut Nodes,
    at: usize,
}

/// The variables of a loop and what it is over.
struct Loop {
    range: Expr,
    var: Arc<str>,
    var2: Option<Arc<str>>,
}

impl Maker<'_> {
    fn make(&mut self, kind: Kind) -> Expr {
        self.nodes.make(self.at, kind)
    }

    fn literal(&mut self, v: Value) -> Expr {
        self.make(Kind::Literal(v))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.nodes.call(self.at, function, args)
    }

    fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        let call = Call { function: function.into(), target: Some(Box::new(target)), args };
        self.make(Kind::Call(call))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.make(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn list(&mut self, values: Vec<Expr>) -> Expr {
        self.make(Kind::List(values.into_iter().map(|value| Element { value, optional: false }).collect()))
    }

    fn name(&self, arg: &Expr, why: &str) -> Result<Arc<str>, Issue> {
        match &arg.kind {
            Kind::Ident(name) if &**name == "__result__" => {
                Err(issue(self.nodes, arg, "iteration variable overwrites accumulator variable"))
            }
            Kind::Ident(name) => Ok(name.clone()),
            _ => Err(issue(self.nodes, arg, why)),
        }
    }

    fn two(&self, args: &[Expr]) -> Result<(Arc<str>, Arc<str>), Issue> {
        let why = "argument must be a simple name";
        let (a, b) = (self.name(&args[0], why)?, self.name(&args[1], why)?);
        if a == b {
            return Err(issue(self.nodes, &args[1], "duplicate variable name: "));
        }
        Ok((a, b))
    }

    fn fold(&mut self, over: Loop, init: Expr, condition: Expr, step: Expr, result: Expr) -> Expr {
        let Loop { range, var, var2 } = over;
        self.make(Kind::Fold(Box::new(Fold {
            range,
            var,
            var2,
            accu: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        })))
    }

    fn quantifier(&mut self, name: &str, range: Expr, mut args: Vec<Expr>) -> Made {
        let (var, var2) = if args.len() == 3 {
            let (a, b) = self.two(&args)?;
            (a, Some(b))
        } else {
            (self.name(&args[0], "argument must be a simple name")?, None)
        };
        let predicate = args.swap_remove(args.len() - 1);
        let accu = self.accu();
        let (init, condition, step, result) = match name {
            "all" => {
                let condition = self.call("@not_strictly_false", vec![accu]);
                let accu = self.accu();
                let step = self.call("_&&_", vec![accu, predicate]);
                (self.literal(Value::Bool(true)), condition, step, self.accu())
            }
            "exists" => {
                let not = self.call("!_", vec![accu]);
                let condition = self.call("@not_strictly_false", vec![not]);
                let accu = self.accu();
                let step = self.call("_||_", vec![accu, predicate]);
                (self.literal(Value::Bool(false)), condition, step, self.accu())
            }
            _ => {
                let one = self.literal(Value::Int(1));
                let more = self.call("_+_", vec![accu, one]);
                let same = self.accu();
                let step = self.call("_?_:_", vec![predicate, more, same]);
                let (total, one) = (self.accu(), self.literal(Value::Int(1)));
                let result = self.call("_==_", vec![total, one]);
                (self.literal(Value::Int(0)), self.literal(Value::Bool(true)), step, result)
            }
        };
        Ok(self.fold(Loop { range, var, var2 }, init, condition, step, result))
    }

    /// A loop that adds to a list, if there is a filter only where it holds.
    fn gathered(&mut self, over: Loop, filter: Option<Expr>, item: Expr) -> Expr {
        let (accu, items) = (self.accu(), self.list(vec![item]));
        let step = self.call("_+_", vec![accu, items]);
        let step = self.filtered(filter, step);
        let (init, condition, result) = (self.list(Vec::new()), self.literal(Value::Bool(true)), self.accu());
        self.fold(over, init, condition, step, result)
    }

    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            Some(filter) => {
                let same = self.accu();
                self.call("_?_:_", vec![filter, step, same])
            }
            None => step,
        }
    }

    fn map(&mut self, range: Expr, mut args: Vec<Expr>) -> Made {
        let var = self.name(&args[0], "argument is not an identifier")?;
        let item = args.swap_remove(args.len() - 1);
        let filter = (args.len() == 2).then(|| args.swap_remove(1));
        Ok(self.gathered(Loop { range, var, var2: None }, filter, item))
    }

    fn filter(&mut self, range: Expr, mut args: Vec<Expr>) -> Made {
        let var = self.name(&args[0], "argument is not an identifier")?;
        let filter = args.swap_remove(1);
        let item = args.swap_remove(0);
        Ok(self.gathered(Loop { range, var, var2: None }, Some(filter), item))
    }

    fn transform_list(&mut self, range: Expr, mut args: Vec<Expr>) -> Made {
        let (var, var2) = self.two(&args)?;
        let item = args.swap_remove(args.len() - 1);
        let filter = (args.len() == 3).then(|| args.swap_remove(2));
        Ok(self.gathered(Loop { range, var, var2: Some(var2) }, filter, item))
    }

    fn transform_map(&mut self, range: Expr, mut args: Vec<Expr>, entry: bool) -> Made {
        let (var, var2) = self.two(&args)?;
        let item = args.swap_remove(args.len() - 1);
        let filter = (args.len() == 3).then(|| args.swap_remove(2));
        let accu = self.accu();
        let args = if entry { vec![accu, item] } else { vec![accu, self.ident(&var), item] };
        let step = self.call("cel.@mapInsert", args);
        let step = self.filtered(filter, step);
        let (init, condition, result) =
            (self.make(Kind::Map(Vec::new())), self.literal(Value::Bool(true)), self.accu());
        Ok(self.fold(Loop { range, var, var2: Some(var2) }, init, condition, step, result))
    }

    /// A name for a value.
    fn bind(&mut self, name: Arc<str>, value: Expr, result: Expr) -> Expr {
        let (range, condition, step) =
            (self.list(Vec::new()), self.literal(Value::Bool(false)), self.ident(&name));
        self.make(Kind::Fold(Box::new(Fold {
            range,
            var: UNUSED.into(),
            var2: None,
            accu: name,
            init: value,
            condition,
            step,
            result,
        })))
    }

    fn optional(&mut self, name: &str, target: Expr, mut args: Vec<Expr>) -> Made {
        let Kind::Ident(var) = &args[0].kind else {
            let why = format!("{name}() variable name must be a simple identifier");
            return Err(issue(self.nodes, &args[0], &why));
        };
        let var = var.clone();
        let again = self.copy(&target);
        let has = self.member("hasValue", target, Vec::new());
        let value = self.member("value", again, Vec::new());
        let mut made = self.bind(var, value, args.swap_remove(1));
        if name == "optMap" {
            made = self.call("optional.of", vec![made]);
        }
        let none = self.call("optional.none", Vec::new());
        Ok(self.call("_?_:_", vec![has, made, none]))
    }

    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Made {
        let input = self.ident(SORT_INPUT);
        let keys = self.map(input, args)?;
        let input = self.ident(SORT_INPUT);
        let sorted = self.member("@sortByAssociatedKeys", input, vec![keys]);
        Ok(self.bind(SORT_INPUT.into(), target, sorted))
    }

    /// The same tree with ids of its own.
    fn copy(&mut self, e: &Expr) -> Expr {
        if !self.nodes.may_copy() {
            return self.literal(Value::Null);
        }
        let mut out = e.clone();
        self.renumber(&mut out);
        out
    }

    fn renumber(&mut self, e: &mut Expr) {
        e.id = self.nodes.copied(e.id);
        match &mut e.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call(c) => {
                c.target.iter_mut().map(|t| &mut **t).chain(&mut c.args).for_each(|e| self.renumber(e))
            }
            Kind::List(l) => l.iter_mut().for_each(|e| self.renumber(&mut e.value)),
            Kind::Map(m) => {
                for entry in m {
                    self.renumber(&mut entry.key);
                    self.renumber(&mut entry.value);
                }
            }
            Kind::Struct { fields, .. } => {
                for field in fields {
                    field.id = self.nodes.id(self.nodes.place(field.id));
                    self.renumber(&mut field.value);
                }
            }
            Kind::Fold(f) => {
                for e in [&mut f.range, &mut f.init, &mut f.condition, &mut f.step, &mut f.result] {
                    self.renumber(e);
                }
            }
        }
    }
}
