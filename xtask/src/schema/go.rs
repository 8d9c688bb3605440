//! Just enough of Go's syntax: type declarations, struct fields with tags, imports.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A declared type.
#[derive(Clone, Debug)]
pub enum Decl {
    Struct(Vec<GoField>),
    /// `type A B`: the text of B.
    Named(String),
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct GoField {
    /// Empty for embedded structs.
    pub name: String,
    pub ty: String,
    pub tag: String,
}

impl GoField {
    /// A key of the tag: `json:"a,omitempty"`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        let start = format!("{key}:\"");
        let rest = &self.tag[self.tag.find(&start)? + start.len()..];
        rest.split('"').next()
    }
}

/// A package: its types, and the import paths of each file's aliases (merged, since the API's packages agree).
#[derive(Debug, Default)]
pub struct Package {
    pub types: BTreeMap<String, Decl>,
    pub imports: HashMap<String, String>,
    /// Types marked `+enum`.
    enums: HashSet<String>,
    /// Constants: name, type, and value; a value of another package stands as it is written.
    constants: Vec<(String, String, String)>,
}

impl Package {
    /// The values of a type marked `+enum`, sorted.
    ///
    /// # Errors
    /// A value is another package's that cannot be read.
    pub fn values(&self, ty: &str, sources: &Sources) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        let own = self.constants.iter().filter(|(_, of, _)| of == ty && self.enums.contains(ty));
        for (_, _, value) in own {
            out.push(match value.strip_prefix('"') {
                Some(text) => text.to_owned(),
                None => self.elsewhere(value, sources)?,
            });
        }
        out.sort();
        out.dedup();
        Ok(out)
    }

    fn elsewhere(&self, value: &str, sources: &Sources) -> Result<String, String> {
        let (alias, name) = value.split_once('.').ok_or_else(|| format!("{value} is no constant"))?;
        let path = self.imports.get(alias).ok_or_else(|| format!("{alias} is not imported"))?;
        let package = sources.package(path)?;
        let found = package.constants.iter().find(|(own, _, _)| own == name);
        let text = found.and_then(|(_, _, value)| value.strip_prefix('"'));
        text.map(str::to_owned).ok_or_else(|| format!("{path} has no constant {name}"))
    }
}

/// The source trees, read package by package when asked.
pub struct Sources {
    /// Import path of the module root and where it is.
    roots: Vec<(String, PathBuf)>,
    cache: RefCell<HashMap<String, Rc<Package>>>,
}

impl Sources {
    /// Each root is a directory such as `…/k8s.io/api@v0.37.2`.
    pub fn new(dirs: &[PathBuf]) -> Result<Self, String> {
        let mut roots = Vec::new();
        for dir in dirs {
            let name = dir
                .file_name()
                .and_then(|n| n.to_str())
                .ok_or_else(|| format!("{}: no directory name", dir.display()))?;
            let module = name.split('@').next().unwrap_or(name);
            roots.push((format!("k8s.io/{module}"), dir.clone()));
        }
        Ok(Self { roots, cache: RefCell::default() })
    }

    /// The package of an import path.
    pub fn package(&self, import: &str) -> Result<Rc<Package>, String> {
        if let Some(p) = self.cache.borrow().get(import) {
            return Ok(p.clone());
        }
        let dir = self
            .roots
            .iter()
            .find_map(|(module, dir)| {
                import.strip_prefix(module.as_str())?.strip_prefix('/').map(|rest| dir.join(rest))
            })
            .ok_or_else(|| format!("{import}: in none of the directories given by --api"))?;
        let package = Rc::new(read_package(&dir)?);
        self.cache.borrow_mut().insert(import.to_owned(), package.clone());
        Ok(package)
    }
}

fn read_package(dir: &Path) -> Result<Package, String> {
    let mut package = Package::default();
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.sort();
    for file in files {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let generated =
            name.starts_with("zz_generated") || name.contains("generated.") || name.ends_with("_test.go");
        if name.ends_with(".go") && !generated {
            let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            read_file(&text, &mut package);
        }
    }
    Ok(package)
}

fn read_file(text: &str, package: &mut Package) {
    let mut lines = text.lines();
    let mut importing = false;
    let mut comment = false;
    let mut marked = false;
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        if let Some(said) = line.trim_start().strip_prefix("//") {
            marked |= said.trim() == "+enum";
            continue;
        }
        package.constants.extend(constant(line));
        if comment || line.starts_with("/*") {
            comment = !line.contains("*/");
            continue;
        }
        if importing || line.starts_with("import ") {
            importing = (importing || line.starts_with("import (")) && line != ")";
            if let Some((alias, path)) = import(line) {
                package.imports.insert(alias, path);
            }
            continue;
        }
        let was_marked = std::mem::take(&mut marked);
        let Some(rest) = line.strip_prefix("type ") else { continue };
        let Some((name, rest)) = rest.split_once(' ') else { continue };
        if was_marked {
            package.enums.insert(name.to_owned());
        }
        if name.contains('[') || name == "(" {
            continue;
        }
        let decl = if rest == "struct{}" || rest.starts_with("struct {") && rest.ends_with('}') {
            Decl::Struct(Vec::new())
        } else if rest.starts_with("struct {") {
            Decl::Struct(fields(&mut lines))
        } else if rest.starts_with("interface") || rest.starts_with("func") {
            continue;
        } else {
            Decl::Named(rest.trim_start_matches("= ").split("//").next().unwrap_or("").trim().to_owned())
        };
        package.types.insert(name.to_owned(), decl);
    }
}

/// `Name Type = "value"` or `Name = Type("value")`, in a block or after `const`.
fn constant(line: &str) -> Option<(String, String, String)> {
    let line = line.trim_start();
    let (declared, value) = line.strip_prefix("const ").unwrap_or(line).split_once('=')?;
    let words: Vec<&str> = declared.split_whitespace().collect();
    let (name, ty, value) = match words[..] {
        [name, ty] => (name, ty, value.trim()),
        [name] => {
            let (ty, value) = value.trim().split_once('(')?;
            (name, ty, value)
        }
        _ => return None,
    };
    // the quote before a text stays, to tell it from a name
    let value = match value.strip_prefix('"') {
        Some(text) => format!("\"{}", text.split('"').next()?),
        None => value.split(')').next()?.to_owned(),
    };
    Some((name.to_owned(), ty.to_owned(), value))
}

fn import(line: &str) -> Option<(String, String)> {
    let mut parts = line.split('"');
    let before = parts.next()?.trim_start_matches("import").trim();
    let path = parts.next()?;
    let alias = if before.is_empty() { path.rsplit('/').next()? } else { before };
    Some((alias.to_owned(), path.to_owned()))
}

fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<GoField> {
    let mut out = Vec::new();
    let mut comment = false;
    for line in lines {
        if line == "}" {
            break;
        }
        let line = line.trim();
        if comment || line.starts_with("/*") {
            comment = !line.contains("*/");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let mut parts = line.split('`');
        let decl = parts.next().unwrap_or("").split("//").next().unwrap_or("").trim();
        let tag = parts.next().unwrap_or("").to_owned();
        let (name, ty) = match decl.split_once(char::is_whitespace) {
            Some((name, ty)) => (name, ty.trim()),
            None => ("", decl),
        };
        // Unexported fields are none of JSON.
        if !name.starts_with(|c: char| c.is_lowercase()) {
            out.push(GoField { name: name.to_owned(), ty: ty.to_owned(), tag });
        }
    }
    out
}
