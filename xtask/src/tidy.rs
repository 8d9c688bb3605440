//! `cargo xtask tidy`: the rules of the house that the compiler does not know; what it finds names file, line and rule.

mod layers;
mod lexer;
mod ratchet;
mod shape;
mod text;
mod tree;

use clap::Args as ClapArgs;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(ClapArgs)]
pub struct Args {
    /// Only what needs no compiler: neither rustfmt nor clippy
    #[arg(long)]
    fast: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// Counted from 1; 0 is the file as a whole.
    pub line: usize,
    pub what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Runs every check. Findings go to standard output, one a line.
pub fn run(args: &Args) -> Result<(), String> {
    let root = root();
    let findings = fast(&root)?;
    for finding in &findings {
        println!("{finding}");
    }
    let mut failed = Vec::new();
    if !findings.is_empty() {
        failed.push(format!("{} findings", findings.len()));
    }
    if !args.fast {
        for command in [&["fmt", "--all", "--check"][..], &["clippy", "--workspace", "--", "-D", "warnings"]]
        {
            if !cargo(&root, command)? {
                failed.push(format!("`cargo {}` failed", command.join(" ")));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not tidy: {}", failed.join(", "))) }
}

/// The checks that read files only, in a fixed order.
fn fast(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = layers::check(root)?;
    let mut sizes = Vec::new();
    for file in tree::rust_files(root)? {
        let source = lexer::Source::new(file.path, &file.content);
        findings.extend(text::check(&source));
        sizes.extend(shape::measure(&source));
    }
    findings.extend(ratchet::check(root, &sizes)?);
    findings.sort();
    Ok(findings)
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Whether cargo succeeded; its output is the user's.
fn cargo(root: &Path, args: &[&str]) -> Result<bool, String> {
    #[allow(clippy::disallowed_methods)] // cargo tells its tasks which cargo they run under
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(&program).args(args).current_dir(root).status();
    status.map(|s| s.success()).map_err(|e| format!("cannot run {program}: {e}"))
}

/// Reads a file of the repository.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidy_fast() {
        let findings = fast(&root()).unwrap();
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "`cargo xtask tidy --fast` finds:\n{}", lines.join("\n"));
    }
}
