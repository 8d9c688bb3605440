//! Types of a tree: each node gets one, each call its overloads, or the text is refused (cel-go: `checker/checker.go`).

use crate::ast::{Call, Element, Entry, Expr, Field, Fold, Id, Kind};
use crate::env::{Env, PATCH};
use crate::error::Issue;
use crate::functions::{self, Function};
use crate::types::{Bindings, Type, most_general};
use crate::value::Value;
use std::sync::Arc;

/// What was found out about a tree.
pub struct Checked {
    /// By id.
    pub types: Vec<Type>,
    /// The ids of the overloads that a call may be, by id of the call.
    pub overloads: Vec<Vec<Arc<str>>>,
    /// Variables that are read, each once.
    pub references: Vec<String>,
}

/// Checks the tree, and writes names in it as they were resolved.
pub fn check(env: &Env, root: &mut Expr, places: &[usize]) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        places,
        types: vec![Type::Dyn; places.len()],
        overloads: vec![Vec::new(); places.len()],
        references: Vec::new(),
        bindings: Bindings::default(),
        unknowns: 0,
        locals: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = checker.types.iter().map(|t| checker.bindings.substitute(t, true)).collect();
    Ok(Checked { types, overloads: checker.overloads, references: checker.references })
}

struct Checker<'a> {
    env: &'a Env,
    places: &'a [usize],
    types: Vec<Type>,
    overloads: Vec<Vec<Arc<str>>>,
    references: Vec<String>,
    bindings: Bindings,
    unknowns: usize,
    locals: Vec<(Arc<str>, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.push(Issue { at: self.places.get(id).copied().unwrap_or(0), message });
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn unknown(&mut self) -> Type {
        self.unknowns += 1;
        Type::param(&format!("_var{}", self.unknowns - 1))
    }

    fn ty(&self, e: &Expr) -> Type {
        self.types[e.id].clone()
    }

    fn resolved(&self, e: &Expr) -> Type {
        self.bindings.substitute(&self.types[e.id], false)
    }

    fn check(&mut self, e: &mut Expr) {
        let id = e.id;
        let ty = match &mut e.kind {
            Kind::Literal(v) => v.type_of(),
            Kind::Ident(name) => {
                let name = name.clone();
                match self.ident(&name) {
                    Some((ty, kind)) => {
                        e.kind = kind;
                        ty
                    }
                    None => {
                        self.undeclared(id, &name);
                        Type::Error
                    }
                }
            }
            Kind::Select { .. } => self.select(e),
            Kind::Call(_) => self.call(e),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => {
                let name = name.clone();
                self.object(id, &name, fields)
            }
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[id] = ty;
    }

    /// The type of a name, and the node that stands for it.
    fn ident(&mut self, name: &str) -> Option<(Type, Kind)> {
        if let Some((_, ty)) = self.locals.iter().rev().find(|(n, _)| &**n == name) {
            return Some((ty.clone(), Kind::Ident(name.into())));
        }
        if let Some(ty) = self.env.variable_type(name) {
            if !self.references.iter().any(|r| r == name) {
                self.references.push(name.to_owned());
            }
            return Some((ty.clone(), Kind::Ident(name.into())));
        }
        let ty = self.env.type_named(name)?;
        Some((Type::of(ty.clone()), Kind::Literal(Value::Type(ty))))
    }

    fn select(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let local = |e: &Expr, locals: &[(Arc<str>, Type)]| {
            e.qualified_name().is_some_and(|q| {
                let first = q.split('.').next().unwrap_or_default();
                locals.iter().any(|(n, _)| &**n == first)
            })
        };
        if let Some(name) = e.qualified_name()
            && !local(e, &self.locals)
            && let Some((ty, kind)) = self.ident(&name)
        {
            e.kind = kind;
            return ty;
        }
        let Kind::Select { operand, field, test } = &mut e.kind else { return Type::Error };
        let (field, test) = (field.clone(), *test);
        self.check(operand);
        let of = self.resolved(operand);
        let ty = self.field(id, &of, &field, false);
        if test { Type::Bool } else { self.bindings.substitute(&ty, false) }
    }

    fn field(&mut self, id: Id, of: &Type, field: &str, optional: bool) -> Type {
        let (target, wrapped) = of.unwrapped().map_or((of, optional), |t| (t, true));
        let ty = match target {
            Type::Map(_, values) => (**values).clone(),
            Type::Object(name) => match self.env.field_type(name, field) {
                Some(ty) => ty,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.bindings.assign(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let message = format!("type '{other}' does not support field selection");
                self.report(id, message);
                Type::Dyn
            }
        };
        if wrapped { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let Kind::Call(call) = &mut e.kind else { return Type::Error };
        if &*call.function == "_?._" {
            return self.optional_select(id, call);
        }
        for arg in &mut call.args {
            self.check(arg);
        }
        let known =
            |name: &str, env: &Env| functions::find(name).filter(|f| f.name != PATCH || env.has_patches());
        if let Some(target) = &mut call.target {
            if let Some(prefix) = target.qualified_name()
                && let Some(function) = known(&format!("{prefix}.{}", call.function), self.env)
            {
                call.function = function.name.into();
                call.target = None;
                return self.resolve(id, function, call);
            }
            self.check(target);
        }
        match known(&call.function, self.env) {
            Some(function) => self.resolve(id, function, call),
            None => {
                let name = call.function.clone();
                self.undeclared(id, &name);
                Type::Error
            }
        }
    }

    fn optional_select(&mut self, id: Id, call: &mut Call) -> Type {
        let [operand, field] = call.args.as_mut_slice() else { return Type::Error };
        self.check(operand);
        self.check(field);
        let Kind::Literal(Value::String(name)) = &field.kind else {
            let at = field.id;
            self.report(at, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        let (of, name) = (self.resolved(operand), name.clone());
        self.overloads[id] = vec!["select_optional_field".into()];
        let ty = self.field(id, &of, &name, true);
        self.bindings.substitute(&ty, false)
    }

    fn resolve(&mut self, id: Id, function: &Function, call: &Call) -> Type {
        let args: Vec<Type> =
            call.target.iter().map(|t| &**t).chain(&call.args).map(|e| self.ty(e)).collect();
        let mut found: Vec<Arc<str>> = Vec::new();
        let mut result: Option<Type> = None;
        for overload in &function.overloads {
            if overload.member != call.target.is_some() {
                continue;
            }
            let mut fresh = Bindings::default();
            for param in &overload.params {
                let unknown = self.unknown();
                fresh.bind(param, unknown);
            }
            let wanted: Vec<Type> = overload.args.iter().map(|t| fresh.substitute(t, false)).collect();
            if !self.bindings.assign_all(&args, &wanted) {
                continue;
            }
            found.push(overload.id.clone());
            let made = self.bindings.substitute(&fresh.substitute(&overload.result, false), false);
            result = Some(match result {
                None => made,
                Some(before) if before.is_dyn() || before == made => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let mut texts = args.iter().map(|t| self.bindings.substitute(t, true).to_string());
            let target = call.target.as_ref().and_then(|_| texts.next());
            let rest = texts.collect::<Vec<_>>().join(", ");
            let signature = target.map_or_else(|| format!("({rest})"), |t| format!("{t}.({rest})"));
            self.report(
                id,
                format!("found no matching overload for '{}' applied to '{signature}'", function.name),
            );
            return Type::Error;
        };
        self.overloads[id] = found;
        result
    }

    /// What an optional element is of; others must not be marked as such.
    fn element(&mut self, e: &Expr, optional: bool) -> Type {
        let ty = self.ty(e);
        if !optional {
            return ty;
        }
        match ty.unwrapped() {
            Some(of) => of.clone(),
            None => {
                if !ty.is_dyn() {
                    self.mismatch(e.id, &Type::optional(ty.clone()), &ty);
                }
                ty
            }
        }
    }

    fn join(&mut self, id: Id, before: Option<Type>, ty: Type) -> Type {
        match before {
            None => ty,
            Some(before) if self.bindings.assign(&before, &ty) => most_general(&before, &ty).clone(),
            Some(before) => {
                self.mismatch(id, &before, &ty);
                Type::Error
            }
        }
    }

    fn list(&mut self, elements: &mut [Element]) -> Type {
        let mut items = None;
        for element in elements {
            self.check(&mut element.value);
            let ty = self.element(&element.value, element.optional);
            items = Some(self.join(element.value.id, items, ty));
        }
        let items = items.unwrap_or_else(|| self.unknown());
        Type::list(items)
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let ty = self.ty(&entry.key);
            keys = Some(self.join(entry.key.id, keys, ty));
            self.check(&mut entry.value);
            let ty = self.element(&entry.value, entry.optional);
            values = Some(self.join(entry.value.id, values, ty));
        }
        let keys = keys.unwrap_or_else(|| self.unknown());
        let values = values.unwrap_or_else(|| self.unknown());
        Type::map(keys, values)
    }

    fn object(&mut self, id: Id, name: &str, fields: &mut [Field]) -> Type {
        if !self.env.can_make(name) {
            self.undeclared(id, name);
            return Type::Error;
        }
        for field in fields {
            self.check(&mut field.value);
            let Some(wanted) = self.env.field_type(name, &field.name) else {
                self.report(field.id, format!("undefined field '{}'", field.name));
                continue;
            };
            let ty = self.element(&field.value, field.optional);
            if !self.bindings.assign(&wanted, &ty) {
                let message = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{ty}'",
                    field.name
                );
                self.report(field.id, message);
            }
        }
        Type::object(name)
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        self.check(&mut fold.range);
        self.check(&mut fold.init);
        let range = self.resolved(&fold.range);
        let accu = self.ty(&fold.init);
        let (var, var2) = match &range {
            Type::List(items) if fold.var2.is_some() => (Type::Int, (**items).clone()),
            Type::List(items) => ((**items).clone(), Type::Dyn),
            Type::Map(keys, values) => ((**keys).clone(), (**values).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let depth = self.locals.len();
        self.locals.push((fold.accu.clone(), accu.clone()));
        self.locals.push((fold.var.clone(), var));
        if let Some(name) = &fold.var2 {
            self.locals.push((name.clone(), var2));
        }
        self.check(&mut fold.condition);
        self.must_be(&fold.condition, &Type::Bool);
        self.check(&mut fold.step);
        self.must_be(&fold.step, &accu);
        self.locals.truncate(depth + 1);
        self.check(&mut fold.result);
        self.locals.truncate(depth);
        self.resolved(&fold.result)
    }

    fn must_be(&mut self, e: &Expr, wanted: &Type) {
        let ty = self.ty(e);
        if !self.bindings.assign(wanted, &ty) {
            self.mismatch(e.id, wanted, &ty);
        }
    }
}
