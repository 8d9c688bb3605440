//! Literals that could only fail are refused with the text (cel-go: `cel/validator.go`).

use crate::ast::{Expr, Kind};
use crate::error::Issue;
use crate::functions;
use crate::library::regexes;
use crate::types::Type;
use crate::value::Value;

pub fn check(root: &Expr, places: &[usize], types: &[Type]) -> Vec<Issue> {
    let mut out = Vec::new();
    walk(root, false, &mut |e, in_format| {
        if let Some((id, message)) = wrong(e, in_format, types) {
            out.push(Issue { at: places.get(id).copied().unwrap_or(0), message });
        }
    });
    out
}

fn walk(e: &Expr, in_format: bool, f: &mut impl FnMut(&Expr, bool)) {
    f(e, in_format);
    let below = in_format || matches!(&e.kind, Kind::Call(c) if &*c.function == "format");
    for child in e.children() {
        walk(child, below, f);
    }
}

fn wrong(e: &Expr, in_format: bool, types: &[Type]) -> Option<(usize, String)> {
    match &e.kind {
        Kind::Call(c) => {
            let arg = c.args.first()?;
            let Kind::Literal(v) = &arg.kind else { return None };
            let good = match (&*c.function, v) {
                (name @ ("duration" | "timestamp"), v) => {
                    functions::find(name)?.call(std::slice::from_ref(v)).is_ok()
                }
                ("matches", Value::String(pattern)) => regexes::compile(pattern).is_ok(),
                _ => true,
            };
            (!good).then(|| (arg.id, format!("invalid {} argument", c.function)))
        }
        Kind::List(l) if !in_format => {
            let elements = l.iter().map(|x| (&x.value, x.optional));
            mixed(elements, types)
        }
        Kind::Map(m) if !in_format => mixed(m.iter().map(|x| (&x.key, false)), types)
            .or_else(|| mixed(m.iter().map(|x| (&x.value, x.optional)), types)),
        _ => None,
    }
}

/// Elements of different types.
fn mixed<'a>(elements: impl Iterator<Item = (&'a Expr, bool)>, types: &[Type]) -> Option<(usize, String)> {
    let mut first: Option<Type> = None;
    for (e, optional) in elements {
        let ty = types.get(e.id)?;
        let ty = if optional { ty.unwrapped().unwrap_or(ty) } else { ty };
        match &first {
            None => first = Some(ty.clone()),
            Some(before) if before == ty || before.is_dyn() || ty.is_dyn() => {}
            Some(before) => return Some((e.id, format!("expected type '{before}' but found '{ty}'"))),
        }
    }
    None
}
