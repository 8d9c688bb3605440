//! What an expression may name (upstream: apiserver `pkg/cel/environment`).

use crate::check::{self, Checked};
use crate::error::CompileError;
use crate::literals;
use crate::parse;
use crate::program::Program;
use crate::types::Type;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The function that is there only with the types of patches.
pub(crate) const PATCH: &str = "jsonpatch.escapeKey";
const JSON_PATCH: &str = "JSONPatch";
const OBJECT: &str = "Object";

/// A type of objects, by the names of its fields.
#[derive(Clone, Debug)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

/// The variables and types of expressions.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: BTreeMap<String, Type>,
    objects: BTreeMap<String, Arc<BTreeMap<String, Type>>>,
    patches: bool,
}

impl Env {
    /// The functions that all expressions have, and no variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable. A name may have dots, and is then found before a field.
    pub fn variable(&mut self, name: &str, ty: Type) {
        self.variables.insert(name.to_owned(), ty);
    }

    pub fn object_type(&mut self, ty: ObjectType) {
        self.objects.insert(ty.name, Arc::new(ty.fields));
    }

    /// Lets expressions make `Object{}` with any fields and `JSONPatch{}` (upstream: `pkg/cel/mutation`).
    pub fn patch_types(&mut self) {
        self.patches = true;
        let string = || Type::String;
        let fields = [("op", string()), ("path", string()), ("from", string()), ("value", Type::Dyn)];
        let fields = fields.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
        self.object_type(ObjectType { name: JSON_PATCH.to_owned(), fields });
    }

    /// # Errors
    /// What is wrong with the text, as cel-go says it.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        let mut parsed = parse::parse(text)?;
        let checked: Checked = check::check(self, &mut parsed.root, &parsed.places)
            .map_err(|issues| CompileError::new(text, issues))?;
        let issues = literals::check(&parsed.root, &parsed.places, &checked.types);
        if !issues.is_empty() {
            return Err(CompileError::new(text, issues));
        }
        Ok(Program::new(parsed.root, checked))
    }

    pub(crate) fn has_patches(&self) -> bool {
        self.patches
    }

    pub(crate) fn variable_type(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    fn is_patch_object(&self, name: &str) -> bool {
        self.patches && (name == OBJECT || name.starts_with("Object."))
    }

    /// Whether an expression may make an object of the type.
    pub(crate) fn can_make(&self, name: &str) -> bool {
        self.is_patch_object(name) || (self.patches && name == JSON_PATCH)
    }

    pub(crate) fn field_type(&self, object: &str, field: &str) -> Option<Type> {
        if self.is_patch_object(object) {
            return Some(Type::Dyn);
        }
        self.objects.get(object)?.get(field).cloned()
    }

    /// The type that a name stands for.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "null_type" => Type::Null,
            "dyn" => Type::Dyn,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::Type(None),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            "net.IP" | "net.CIDR" | "kubernetes.URL" | "kubernetes.Quantity" | "kubernetes.Semver" => {
                Type::opaque(name)
            }
            name if self.can_make(name) => Type::object(name),
            _ => return None,
        })
    }
}
