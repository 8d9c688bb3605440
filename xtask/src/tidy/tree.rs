//! The Rust sources that the house rules are about: `crates/*/src` and `xtask/src`, in the order of their paths.

use super::read;
use std::fs;
use std::path::{Path, PathBuf};

pub struct File {
    /// From the root of the repository, with `/`.
    pub path: String,
    pub content: String,
}

pub fn rust_files(root: &Path) -> Result<Vec<File>, String> {
    let mut dirs: Vec<PathBuf> = crates(root)?.into_iter().map(|dir| dir.join("src")).collect();
    dirs.push(root.join("xtask/src"));
    let mut paths = Vec::new();
    while let Some(dir) = dirs.pop() {
        for path in entries(&dir)? {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(File { path: relative(root, path), content: read(path)? })).collect()
}

/// The folders of the crates.
pub fn crates(root: &Path) -> Result<Vec<PathBuf>, String> {
    Ok(entries(&root.join("crates"))?.into_iter().filter(|dir| dir.join("Cargo.toml").is_file()).collect())
}

pub fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("cannot list {}: {e}", dir.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        all.push(entry.map_err(failed)?.path());
    }
    all.sort();
    Ok(all)
}
