//! The house's layers: a crate depends on lower ones only, but for the exceptions that `xtask/layers.toml` gives a
//! reason for.

use super::{Finding, read, tree};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const TABLE: &str = "xtask/layers.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    layers: BTreeMap<String, u32>,
    #[serde(default)]
    exception: Vec<Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Exception {
    #[serde(rename = "crate")]
    of: String,
    on: String,
    reason: String,
}

/// A crate's name, the path of its manifest, and what it names as dependencies of any sort.
struct Manifest {
    name: String,
    path: String,
    dependencies: BTreeSet<String>,
}

pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let table: Table = toml::from_str(&read(&root.join(TABLE))?).map_err(|e| format!("{TABLE}: {e}"))?;
    let mut dirs = tree::crates(root)?;
    dirs.push(root.join("xtask"));
    let mut manifests = Vec::new();
    for dir in dirs {
        let path = dir.join("Cargo.toml");
        manifests.push(manifest(&tree::relative(root, &path), &read(&path)?)?);
    }
    Ok(compare(&table, &manifests))
}

fn manifest(path: &str, content: &str) -> Result<Manifest, String> {
    let all: toml::Table = content.parse().map_err(|e| format!("{path}: {e}"))?;
    let name = all.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
    let mut dependencies = BTreeSet::new();
    collect(&all, &mut dependencies);
    for (_, of_target) in all.get("target").and_then(toml::Value::as_table).into_iter().flatten() {
        if let Some(table) = of_target.as_table() {
            collect(table, &mut dependencies);
        }
    }
    let name = name.ok_or_else(|| format!("{path}: no package name"))?.to_owned();
    Ok(Manifest { name, path: path.to_owned(), dependencies })
}

fn collect(table: &toml::Table, into: &mut BTreeSet<String>) {
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        into.extend(
            table.get(section).and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned()),
        );
    }
}

fn compare(table: &Table, manifests: &[Manifest]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for m in manifests {
        let Some(layer) = table.layers.get(&m.name) else {
            findings.push(Finding::new(&m.path, 0, format!("the crate {} has no layer in {TABLE}", m.name)));
            continue;
        };
        for on in &m.dependencies {
            let Some(below) = table.layers.get(on) else { continue };
            if below < layer {
                continue;
            }
            match table.exception.iter().position(|e| e.of == m.name && e.on == *on) {
                Some(i) => drop(used.insert(i)),
                None => findings.push(Finding::new(
                    &m.path,
                    0,
                    format!(
                        "{} (layer {layer}) depends on {on} (layer {below}); only lower layers may be",
                        m.name
                    ),
                )),
            }
        }
    }
    for name in table.layers.keys().filter(|name| !manifests.iter().any(|m| m.name == **name)) {
        findings.push(Finding::new(TABLE, 0, format!("there is no crate {name}")));
    }
    for (i, e) in table.exception.iter().enumerate() {
        if !used.contains(&i) {
            findings.push(Finding::new(
                TABLE,
                0,
                format!("the exception of {} on {} is not needed", e.of, e.on),
            ));
        }
        if e.reason.trim().is_empty() {
            findings.push(Finding::new(
                TABLE,
                0,
                format!("the exception of {} on {} has no reason", e.of, e.on),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &str, manifests: &[&str]) -> Vec<String> {
        let table: Table = toml::from_str(table).unwrap();
        let manifests: Vec<Manifest> = manifests.iter().map(|m| manifest("Cargo.toml", m).unwrap()).collect();
        compare(&table, &manifests).into_iter().map(|f| f.what).collect()
    }

    const LOW: &str = "[package]\nname = 'low'\n";

    #[test]
    fn only_lower_layers_may_be_depended_on() {
        let table = "[layers]\nlow = 0\nhigh = 1\nside = 1\n";
        let high = "[package]\nname = 'high'\n[dependencies]\nlow.workspace = true\nserde = '1'\n";
        let side =
            "[package]\nname = 'side'\n[target.'cfg(unix)'.dev-dependencies]\nhigh = { path = '../high' }\n";
        assert_eq!(
            found(table, &[LOW, high, side]),
            ["side (layer 1) depends on high (layer 1); only lower layers may be"]
        );
    }

    #[test]
    fn an_exception_needs_a_use_and_a_reason() {
        let table = "[layers]\nlow = 0\n[[exception]]\ncrate = 'low'\non = 'low'\nreason = ' '\n";
        assert_eq!(
            found(table, &[LOW]),
            ["the exception of low on low is not needed", "the exception of low on low has no reason"]
        );
    }

    #[test]
    fn table_and_crates_name_each_other() {
        assert_eq!(
            found("[layers]\ngone = 1\n", &[LOW]),
            ["the crate low has no layer in xtask/layers.toml", "there is no crate gone"]
        );
    }
}
