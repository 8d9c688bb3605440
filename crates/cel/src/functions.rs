//! The table of functions: names, overloads and what runs them.
//!
//! Invariant: a function is one row in a file of `library`; the checker and the evaluation both read it from here.

use crate::library;
use crate::types::Type;
use crate::value::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Why a call gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// No overload takes values of these types.
    NoOverload,
    Other(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Other(text.to_owned())
    }
}

pub type Outcome = Result<Value, Failure>;

/// A row. The target of a member call is the first of the arguments.
pub struct Row {
    pub name: &'static str,
    pub run: fn(&[Value]) -> Outcome,
    /// Ids and signatures: `(int, int) -> bool`, or `string.(int) -> string` of a member. A capital letter is a type
    /// parameter; `{C}` stands for each type that has an order, `{S}` for each that has sums.
    pub overloads: &'static [(&'static str, &'static str)],
}

/// All rows of a name, read.
pub struct Function {
    pub name: &'static str,
    runs: Vec<fn(&[Value]) -> Outcome>,
    pub overloads: Vec<Overload>,
}

impl Function {
    /// # Errors
    /// No row of the function takes the values, or the one that does failed.
    pub fn call(&self, args: &[Value]) -> Outcome {
        for run in &self.runs {
            match run(args) {
                Err(Failure::NoOverload) => {}
                outcome => return outcome,
            }
        }
        Err(Failure::NoOverload)
    }
}

#[derive(Clone, Debug)]
pub struct Overload {
    pub id: Arc<str>,
    pub member: bool,
    /// With the target first.
    pub args: Vec<Type>,
    pub result: Type,
    pub params: Vec<Arc<str>>,
}

const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
const SUMMED: [&str; 4] = ["int", "uint", "double", "duration"];

static TABLE: LazyLock<BTreeMap<&'static str, Function>> = LazyLock::new(|| {
    let mut table: BTreeMap<&'static str, Function> = BTreeMap::new();
    for row in library::rows() {
        let overloads = row.overloads.iter().flat_map(|(id, text)| expand(id, text));
        let function = table.entry(row.name).or_insert_with(|| Function {
            name: row.name,
            runs: Vec::new(),
            overloads: Vec::new(),
        });
        function.runs.push(row.run);
        function.overloads.extend(overloads);
    }
    table
});

pub fn find(name: &str) -> Option<&'static Function> {
    TABLE.get(name)
}

fn expand(id: &str, text: &str) -> Vec<Overload> {
    for (mark, types) in [("{C}", &ORDERED[..]), ("{S}", &SUMMED[..])] {
        if text.contains(mark) {
            return types
                .iter()
                .filter_map(|t| overload(&id.replace(mark, t), &text.replace(mark, t)))
                .collect();
        }
    }
    overload(id, text).into_iter().collect()
}

fn overload(id: &str, text: &str) -> Option<Overload> {
    let mut reader = Reader { text, params: Vec::new() };
    let mut args = Vec::new();
    let member = !text.starts_with('(');
    if member {
        args.push(reader.ty()?);
        reader.take(".")?;
    }
    reader.take("(")?;
    while reader.take(")").is_none() {
        args.push(reader.ty()?);
        let _ = reader.take(", ");
    }
    reader.take(" -> ")?;
    let result = reader.ty()?;
    Some(Overload { id: id.into(), member, args, result, params: reader.params })
}

/// Reads a signature.
struct Reader<'a> {
    text: &'a str,
    params: Vec<Arc<str>>,
}

impl Reader<'_> {
    fn take(&mut self, mark: &str) -> Option<()> {
        self.text = self.text.strip_prefix(mark)?;
        Some(())
    }

    fn ty(&mut self) -> Option<Type> {
        let bytes = self.text.as_bytes();
        let in_name = |i: usize| {
            let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            bytes.get(i).is_some_and(word) || (bytes[i] == b'.' && bytes.get(i + 1).is_some_and(word))
        };
        let len = (0..bytes.len()).take_while(|i| in_name(*i)).count();
        let (name, rest) = self.text.split_at(len);
        self.text = rest;
        let simple = match name {
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "list" | "map" | "optional" | "type" => {
                self.take("(")?;
                let first = self.ty()?;
                let made = match name {
                    "list" => Type::list(first),
                    "optional" => Type::optional(first),
                    "type" => Type::of(first),
                    _ => {
                        self.take(", ")?;
                        Type::map(first, self.ty()?)
                    }
                };
                self.take(")")?;
                made
            }
            name if name.len() == 1 => {
                let param: Arc<str> = name.into();
                if !self.params.contains(&param) {
                    self.params.push(param.clone());
                }
                Type::Param(param)
            }
            "" => return None,
            name => Type::opaque(name),
        };
        Some(simple)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signatures_can_be_read() {
        for row in library::rows() {
            for (id, text) in row.overloads {
                assert!(!expand(id, text).is_empty(), "{id}: {text}");
            }
        }
    }

    #[test]
    fn signatures_tell_types_and_parameters() {
        let read = overload("x", "map(A, net.IP).(optional(list(B)), int) -> type(A)").expect("a signature");
        assert!(read.member);
        assert_eq!(
            read.args.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["map(A, net.IP)", "optional_type(list(B))", "int"]
        );
        assert_eq!(read.params, ["A".into(), "B".into()]);
        assert_eq!(read.result.to_string(), "type(A)");
    }
}
