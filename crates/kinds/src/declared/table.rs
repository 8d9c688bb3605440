//! Declared types of the built-in kinds, from the type table (upstream: the OpenAPI definitions, by
//! `pkg/cel/openapi/resolver`).

use super::{Decl, Shape, escape};
use meta::schema::{Schema, Ty};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deepest nesting that is declared; below, objects have no fields.
const DEPTH_MAX: usize = 24;

/// The declared type of a definition of the table; `None` when the table has no such type.
pub fn of_type(types: &Schema, definition: &str) -> Option<Decl> {
    named(types, definition, &mut Vec::new())
}

fn named(types: &Schema, definition: &str, above: &mut Vec<String>) -> Option<Decl> {
    let def = types.types.get(definition)?;
    // Types that hold themselves (JSONSchemaProps) end there (upstream: `PopulateRefs`).
    if above.len() >= DEPTH_MAX || above.iter().any(|a| a == definition) {
        return Some(Decl::plain(Shape::Object(BTreeMap::new())));
    }
    above.push(definition.to_owned());
    let mut fields = BTreeMap::new();
    let mut min_bytes = 2;
    for (name, field) in &def.fields {
        let Some(decl) = of(types, &field.ty, above) else { continue };
        if field.required && field.default.is_none() {
            min_bytes += i64::try_from(name.len()).unwrap_or(0) + decl.min_bytes + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, Arc::new(decl));
        }
    }
    above.pop();
    Some(Decl::new(Shape::Object(fields), min_bytes, 0))
}

fn of(types: &Schema, ty: &Ty, above: &mut Vec<String>) -> Option<Decl> {
    Some(match ty {
        Ty::String | Ty::Duration => Decl::text("", None, None),
        // A text or a number, which has no type of its own: what holds it is not declared either.
        Ty::Quantity => return None,
        Ty::Bool => Decl::boolean(),
        Ty::Int32 | Ty::Int64 => Decl::number(Shape::Int),
        Ty::Double => Decl::number(Shape::Double),
        Ty::Bytes => Decl::text("byte", None, None),
        Ty::Time | Ty::MicroTime => Decl::text("date-time", None, None),
        Ty::IntOrString => Decl::new(Shape::Dyn, 1, 0),
        // Fields of any form are declared as objects without fields.
        Ty::Any => Decl::plain(Shape::Object(BTreeMap::new())),
        Ty::Ref(name) => named(types, name, above)?,
        Ty::List(items) => Decl::list(of(types, items, above)?, None),
        Ty::Map(values) => Decl::map(of(types, values, above)?, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_declared() {
        let decl = of_type(crate::schema::schema(), "io.k8s.api.apps.v1.Deployment").expect("declared");
        let field = |d: &Decl, name: &str| match &d.shape {
            Shape::Object(fields) => fields[name].clone(),
            _ => panic!("an object"),
        };
        let spec = field(&decl, "spec");
        assert!(matches!(field(&spec, "replicas").shape, Shape::Int));
        let pod = field(&field(&spec, "template"), "spec");
        assert!(matches!(field(&pod, "containers").shape, Shape::List(_)));
        assert!(matches!(field(&field(&decl, "metadata"), "__namespace__").shape, Shape::String));
    }
}
