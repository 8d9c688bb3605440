//! `cargo xtask schema`: the type table from the OpenAPI documents and Go sources of Kubernetes.
//!
//! Field order, JSON names, zero-value rules, protobuf numbers and patch tags come from the Go structs; what is
//! required, list and map types and defaults from OpenAPI. Only types that the kinds reach are written, sorted,
//! one a line, so that a change of version reads well as a diff.

mod descriptions;
mod go;
mod openapi;
mod types;

use clap::Args as ClapArgs;
use meta::schema::{Schema, Ty};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Types from which the table is grown beyond the kinds: what requests and answers are made of.
const ROOTS: &[&str] = &[
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Table",
    "io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

/// Group versions beside the `v1` ones that are served by default (upstream: `DefaultAPIResourceConfigSource`).
const BESIDE_V1: &[(&str, &str)] = &[("autoscaling", "v2")];

#[derive(ClapArgs)]
pub struct Args {
    /// Root of the k8s.io/kubernetes source, which holds api/openapi-spec
    #[arg(long)]
    k8s: PathBuf,
    /// Roots of the k8s.io/api, apimachinery, apiextensions-apiserver and kube-aggregator sources
    #[arg(long, required = true)]
    api: Vec<PathBuf>,
    /// Where the table goes
    #[arg(long, default_value = "crates/kinds/schema/v1.37.json")]
    out: PathBuf,
    /// The k8s-openapi crate's folder of the same version (src/v1_37), for descriptions beside the table
    #[arg(long)]
    descriptions: Option<PathBuf>,
    /// Only compare with what is there
    #[arg(long)]
    check: bool,
}

/// Builds the table and writes or compares it.
///
/// # Errors
/// What could not be read or does not fit, and where.
pub fn run(args: &Args) -> Result<(), String> {
    let sources = go::Sources::new(&args.api)?;
    let docs = openapi::Docs::read(&args.k8s.join("api/openapi-spec"))?;
    let mut schema = Schema::default();
    let mut waiting: BTreeSet<String> = ROOTS.iter().map(|s| (*s).to_owned()).collect();
    waiting.extend(docs.kinds(|group, version| version == "v1" || BESIDE_V1.contains(&(group, version))));
    while let Some(name) = waiting.pop_first() {
        if schema.types.contains_key(&name) {
            continue;
        }
        let mut def = types::build(&sources, &name)?;
        docs.enrich(&name, &mut def);
        def.fields.values().for_each(|f| refs(&f.ty, &mut waiting));
        schema.types.insert(name, def);
    }
    let types = schema.types.iter().map(|(name, def)| (name, serde_json::to_string(def)));
    put(args, &args.out, &format!("{{\"types\":{}}}\n", render(types)?))?;
    if let Some(dir) = &args.descriptions {
        let texts = descriptions::read(dir, &schema)?;
        let lines = texts.iter().map(|(name, t)| (name, serde_json::to_string(t)));
        put(args, &args.out.with_file_name("descriptions.json"), &format!("{}\n", render(lines)?))?;
    }
    Ok(())
}

/// Writes a file, or compares it.
fn put(args: &Args, out: &Path, text: &str) -> Result<(), String> {
    if args.check {
        let old = std::fs::read_to_string(out).map_err(|e| format!("{}: {e}", out.display()))?;
        let stale = || format!("{} is not what the sources give; run without --check", out.display());
        return if old == text { Ok(()) } else { Err(stale()) };
    }
    std::fs::write(out, text).map_err(|e| format!("{}: {e}", out.display()))?;
    println!("{}: {} bytes", out.display(), text.len());
    Ok(())
}

fn refs(ty: &Ty, out: &mut BTreeSet<String>) {
    match ty {
        Ty::Ref(name) => {
            out.insert(name.clone());
        }
        Ty::List(inner) | Ty::Map(inner) => refs(inner, out),
        _ => {}
    }
}

/// A JSON map with one entry a line.
fn render<'a>(
    entries: impl Iterator<Item = (&'a String, serde_json::Result<String>)>,
) -> Result<String, String> {
    let mut lines = Vec::new();
    for (name, json) in entries {
        lines.push(format!("{name:?}:{}", json.map_err(|e| format!("{name}: {e}"))?));
    }
    Ok(format!("{{\n{}\n}}", lines.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed table is what the sources give; skipped where the Go module cache does not hold them.
    #[test]
    fn the_table_is_reproducible() {
        let root = std::env::home_dir().unwrap_or_default().join("go/pkg/mod/k8s.io");
        let args = Args {
            k8s: root.join("kubernetes@v1.37.2"),
            api: ["api", "apimachinery", "apiextensions-apiserver", "kube-aggregator"]
                .map(|module| root.join(format!("{module}@v0.37.2")))
                .into(),
            out: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/kinds/schema/v1.37.json"),
            descriptions: None,
            check: true,
        };
        if !args.k8s.exists() || !args.api.iter().all(|d| d.exists()) {
            println!("skipped: the Kubernetes sources are not in the Go module cache");
            return;
        }
        assert_eq!(run(&args), Ok(()));
    }
}
