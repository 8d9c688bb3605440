//! Go types to types of the table.

use super::go::{Decl, GoField, Sources};
use meta::schema::{Field, Ty, TypeDef};
use std::collections::BTreeMap;

/// Types whose JSON is not that of their Go structure.
const SPECIAL: &[(&str, Ty)] = &[
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Time", Ty::Time),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime", Ty::MicroTime),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Duration", Ty::Duration),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1", Ty::Any),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", Ty::IntOrString),
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", Ty::Quantity),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", Ty::Any),
    ("k8s.io/apimachinery/pkg/runtime.Object", Ty::Any),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON", Ty::Any),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray", Ty::Any),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool", Ty::Any),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray", Ty::Any),
];

/// A Go type, understood.
struct Resolved {
    ty: Ty,
    /// As Go's errors print it.
    go: String,
    /// Go kind struct: `omitempty` never leaves it out.
    is_struct: bool,
    /// The only values, of texts.
    values: Vec<String>,
}

/// The embedded structs between a type and a field.
#[derive(Clone, Default)]
struct Embed {
    /// Dotted.
    names: String,
    /// Protobuf numbers; those of `TypeMeta` do not exist.
    numbers: Vec<u32>,
}

impl Embed {
    fn with(&self, name: &str, number: u32) -> Self {
        let names = if self.names.is_empty() { name.to_owned() } else { format!("{}.{name}", self.names) };
        let mut numbers = self.numbers.clone();
        numbers.extend((number > 0).then_some(number));
        Self { names, numbers }
    }
}

fn proto_number(f: &GoField) -> u32 {
    f.tag("protobuf").and_then(|t| t.split(',').nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The definition of a type named as in OpenAPI.
pub fn build(sources: &Sources, name: &str) -> Result<TypeDef, String> {
    let (package, ty) = name.rsplit_once('.').ok_or_else(|| format!("{name}: no package"))?;
    let import = import_path(package);
    let (mut fields, mut order) = (BTreeMap::new(), Vec::new());
    collect(sources, &import, ty, &Embed::default(), &mut fields, &mut order)
        .map_err(|e| format!("{name}: {e}"))?;
    let mut def = TypeDef { fields, go_name: ty.to_owned(), ..TypeDef::default() };
    if def.in_order().map(|(name, _)| name).ne(&order) {
        def.order = order;
    }
    Ok(def)
}

/// `io.k8s.api.core.v1` to `k8s.io/api/core/v1`.
fn import_path(package: &str) -> String {
    format!("k8s.io/{}", package.trim_start_matches("io.k8s.").replace('.', "/"))
}

fn definition(import: &str, ty: &str) -> String {
    format!("io.k8s.{}.{ty}", import.trim_start_matches("k8s.io/").replace('/', "."))
}

fn collect(
    sources: &Sources,
    import: &str,
    ty: &str,
    embed: &Embed,
    out: &mut BTreeMap<String, Field>,
    order: &mut Vec<String>,
) -> Result<(), String> {
    let package = sources.package(import)?;
    let Some(Decl::Struct(fields)) = package.types.get(ty) else {
        return Err(format!("{import}.{ty} is no struct"));
    };
    for f in fields {
        let json = f.tag("json").unwrap_or("");
        let mut options = json.split(',');
        let key = options.next().unwrap_or("");
        if key == "-" {
            continue;
        }
        if f.name.is_empty() && key.is_empty() {
            let (import, ty) = locate(sources, import, f.ty.trim_start_matches('*'))?;
            collect(sources, &import, &ty, &embed.with(&ty, proto_number(f)), out, order)?;
            continue;
        }
        let key = if key.is_empty() { f.name.as_str() } else { key };
        let options: Vec<&str> = options.collect();
        let field = field(sources, import, f, &options, embed).map_err(|e| format!("field {key}: {e}"))?;
        out.insert(key.to_owned(), field);
        order.push(key.to_owned());
    }
    Ok(())
}

fn field(
    sources: &Sources,
    import: &str,
    f: &GoField,
    options: &[&str],
    embed: &Embed,
) -> Result<Field, String> {
    let pointer = f.ty.starts_with('*');
    let r = resolve(sources, import, f.ty.trim_start_matches('*'))?;
    let proto = proto_number(f);
    let omitempty =
        options.contains(&"omitzero") || (options.contains(&"omitempty") && (pointer || !r.is_struct));
    let go = if r.go == r.ty.go() { String::new() } else { r.go };
    Ok(Field {
        pointer,
        omitempty,
        patch_strategy: f.tag("patchStrategy").unwrap_or("").to_owned(),
        patch_merge_key: f.tag("patchMergeKey").unwrap_or("").to_owned(),
        proto,
        go,
        values: r.values,
        embed: embed.names.clone(),
        embed_proto: embed.numbers.clone(),
        ..Field::of(r.ty)
    })
}

/// Import path and name of a type as written in a package.
fn locate(sources: &Sources, import: &str, text: &str) -> Result<(String, String), String> {
    match text.split_once('.') {
        None => Ok((import.to_owned(), text.to_owned())),
        Some((alias, name)) => {
            let package = sources.package(import)?;
            let path = package.imports.get(alias).ok_or_else(|| format!("{alias} is not imported"))?;
            Ok((path.clone(), name.to_owned()))
        }
    }
}

fn resolve(sources: &Sources, import: &str, text: &str) -> Result<Resolved, String> {
    let plain =
        |ty: Ty, go: &str| Ok(Resolved { ty, go: go.to_owned(), is_struct: false, values: Vec::new() });
    match text {
        "string" => return plain(Ty::String, text),
        "bool" => return plain(Ty::Bool, text),
        "int32" | "uint32" => return plain(Ty::Int32, text),
        "int64" | "int" | "uint64" => return plain(Ty::Int64, text),
        "float64" | "float32" => return plain(Ty::Double, text),
        "[]byte" => return plain(Ty::Bytes, "[]uint8"),
        "interface{}" | "any" => return plain(Ty::Any, "interface {}"),
        _ => {}
    }
    if let Some(inner) = text.strip_prefix('*') {
        let r = resolve(sources, import, inner)?;
        return Ok(Resolved { go: format!("*{}", r.go), ..r });
    }
    if let Some(inner) = text.strip_prefix("[]") {
        let r = resolve(sources, import, inner)?;
        return Ok(Resolved {
            ty: Ty::List(Box::new(r.ty)),
            go: format!("[]{}", r.go),
            is_struct: false,
            ..r
        });
    }
    if let Some((key, value)) = text.strip_prefix("map[").and_then(|r| r.split_once(']')) {
        let (key, value) = (resolve(sources, import, key)?, resolve(sources, import, value)?);
        let go = format!("map[{}]{}", key.go, value.go);
        return Ok(Resolved { ty: Ty::Map(Box::new(value.ty)), go, is_struct: false, values: value.values });
    }
    let (path, name) = locate(sources, import, text)?;
    let go = format!("{}.{name}", path.rsplit('/').next().unwrap_or(""));
    let full = format!("{path}.{name}");
    if let Some((_, ty)) = SPECIAL.iter().find(|(n, _)| *n == full) {
        return Ok(Resolved { ty: ty.clone(), go, is_struct: true, values: Vec::new() });
    }
    let package = sources.package(&path)?;
    match package.types.get(&name) {
        Some(Decl::Struct(_)) => {
            Ok(Resolved { ty: Ty::Ref(definition(&path, &name)), go, is_struct: true, values: Vec::new() })
        }
        Some(Decl::Named(under)) => {
            let r = resolve(sources, &path, under)?;
            let own = package.values(&name, sources)?;
            let values = if own.is_empty() { r.values } else { own };
            Ok(Resolved { ty: r.ty, go, is_struct: r.is_struct, values })
        }
        None => Err(format!("{full} is not declared")),
    }
}
