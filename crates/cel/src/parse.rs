//! From tokens to the tree (cel-go: `parser/parser.go`).
//!
//! Invariant: neither the nesting of the text nor the depth of the tree exceeds its bound, so that walks over the tree
//! may call themselves.

use crate::ast::{Call, Element, Entry, Expr, Field, Id, Kind};
use crate::error::{CompileError, Issue};
use crate::lexer::{self, Placed, Token};
use crate::macros;
use crate::value::Value;
use std::sync::Arc;

/// The longest text, in characters (cel-go: `expressionSizeCodePointLimit`).
const CHARS_MAX: usize = 100_000;
/// Deepest nesting of brackets (cel-go: `maxRecursionDepth`).
const NESTING_MAX: usize = 250;
/// Deepest tree; `a + b + …` makes one that is deep without nesting.
const DEPTH_MAX: u16 = 400;
/// The most nodes that a macro may still copy from.
const NODES_MAX: usize = 200_000;

const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const AFTER: &str =
    "{<EOF>, '==', '!=', 'in', '<', '<=', '>=', '>', '&&', '||', '[', '.', '-', '?', '+', '*', '/', '%'}";

/// A tree, and where in the text each node is.
pub struct Parsed {
    pub root: Expr,
    /// By id, in characters.
    pub places: Vec<usize>,
}

/// # Errors
/// What does not belong there.
pub fn parse(text: &str) -> Result<Parsed, CompileError> {
    let chars = text.chars().count();
    if chars > CHARS_MAX {
        let message = format!("expression code point size exceeds limit: size: {chars}, limit {CHARS_MAX}");
        return Err(CompileError::new("", vec![Issue { at: 0, message }]));
    }
    let (tokens, mut issues) = lexer::tokens(text);
    let mut parser = Parser { tokens, next: 0, nodes: Nodes::default(), nesting: 0 };
    let root = parser
        .expr()
        .and_then(|root| if parser.peek() == &Token::End { Ok(root) } else { Err(parser.unexpected(AFTER)) });
    match root {
        Ok(root) if issues.is_empty() => {
            if let Some(message) = parser.nodes.cut {
                return Err(CompileError::new(text, vec![Issue { at: 0, message }]));
            }
            Ok(Parsed { root, places: parser.nodes.places })
        }
        Ok(_) => Err(CompileError::new(text, issues)),
        Err(issue) => {
            issues.push(issue);
            Err(CompileError::new(text, issues))
        }
    }
}

/// Makes nodes and remembers their places. What would become too deep or too large is cut, and told at the end.
#[derive(Default)]
pub struct Nodes {
    places: Vec<usize>,
    depths: Vec<u16>,
    cut: Option<String>,
}

impl Nodes {
    pub fn id(&mut self, at: usize) -> Id {
        self.places.push(at);
        self.depths.push(1);
        self.places.len() - 1
    }

    /// Whether there is room for more copies of what is there.
    pub fn may_copy(&mut self) -> bool {
        if self.places.len() > NODES_MAX {
            self.cut = Some(format!("expression exceeds {NODES_MAX} nodes"));
        }
        self.cut.is_none()
    }

    /// A new id for a copy of a node.
    pub fn copied(&mut self, of: Id) -> Id {
        let id = self.id(self.place(of));
        self.depths[id] = self.depths.get(of).copied().unwrap_or(1);
        id
    }

    pub fn place(&self, id: Id) -> usize {
        self.places.get(id).copied().unwrap_or(0)
    }

    pub fn make(&mut self, at: usize, kind: Kind) -> Expr {
        let mut made = Expr { id: self.id(at), kind };
        let below = made.children().iter().filter_map(|e| self.depths.get(e.id)).max().copied().unwrap_or(0);
        if below >= DEPTH_MAX {
            self.cut = Some(format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            made.kind = Kind::Literal(Value::Null);
        } else {
            self.depths[made.id] = below + 1;
        }
        made
    }

    pub fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call(Call { function: function.into(), target: None, args }))
    }
}

/// Operators and their functions, the loosest row first.
const LEVELS: [&[(&str, &str)]; 5] = [
    &[("||", "_||_")],
    &[("&&", "_&&_")],
    &[
        ("<", "_<_"),
        ("<=", "_<=_"),
        (">=", "_>=_"),
        (">", "_>_"),
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];
/// The last row whose chains become balanced trees.
const LOGICAL: usize = 1;

type Parse<T> = Result<T, Issue>;

struct Parser {
    tokens: Vec<Placed>,
    next: usize,
    nodes: Nodes,
    nesting: usize,
}

impl Parser {
    fn placed(&self) -> &Placed {
        // The last is the end, which is never passed.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.placed().token
    }

    fn at(&self) -> usize {
        self.placed().at
    }

    fn advance(&mut self) -> Placed {
        let placed = self.placed().clone();
        self.next += 1;
        placed
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(s) if *s == symbol)
    }

    /// Takes the symbol if it is next; where it was.
    fn take(&mut self, symbol: &str) -> Option<usize> {
        self.is(symbol).then(|| self.advance().at)
    }

    fn need(&mut self, symbol: &str) -> Parse<usize> {
        self.take(symbol).ok_or_else(|| {
            let placed = self.placed();
            // One token that is not there is told as missing when the text goes on as if it were.
            let message = if placed.token == Token::End {
                format!("Syntax error: missing '{symbol}' at '<EOF>'")
            } else {
                format!("Syntax error: mismatched input '{}' expecting '{symbol}'", placed.text)
            };
            Issue { at: placed.at, message }
        })
    }

    fn unexpected(&self, expecting: &str) -> Issue {
        let placed = self.placed();
        let last = self.tokens.len() - 1;
        let message = if expecting == AFTER && self.next + 1 == last {
            format!("Syntax error: extraneous input '{}' expecting <EOF>", placed.text)
        } else if expecting == AFTER {
            format!("Syntax error: mismatched input '{}' expecting <EOF>", placed.text)
        } else {
            format!("Syntax error: mismatched input '{}' expecting {expecting}", placed.text)
        };
        Issue { at: placed.at, message }
    }

    fn expr(&mut self) -> Parse<Expr> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            let message = format!("expression recursion limit exceeded: {NESTING_MAX}");
            return Err(Issue { at: self.at(), message });
        }
        let mut out = self.binary(0)?;
        if let Some(at) = self.take("?") {
            let yes = self.binary(0)?;
            self.need(":")?;
            let no = self.expr()?;
            out = self.nodes.call(at, "_?_:_", vec![out, yes, no]);
        }
        self.nesting -= 1;
        Ok(out)
    }

    /// Operators that bind at least as tightly as `level`, the first row of [`LEVELS`] loosest. One function for all rows,
    /// so that a bracket costs few frames.
    fn binary(&mut self, level: usize) -> Parse<Expr> {
        let mut out = self.unary()?;
        // From the tightest row outwards: each takes what is left of it as its first operand.
        for row in (level..LEVELS.len()).rev() {
            out = self.row(row, out)?;
        }
        Ok(out)
    }

    /// The rest of a chain of one row's operators, whose first operand is there.
    fn row(&mut self, row: usize, first: Expr) -> Parse<Expr> {
        let symbols = LEVELS[row];
        if row > LOGICAL {
            let mut out = first;
            while let Some((symbol, function)) = symbols.iter().find(|(s, _)| self.is(s)) {
                let at = self.need(symbol)?;
                let right = self.binary(row + 1)?;
                out = self.nodes.call(at, function, vec![out, right]);
            }
            return Ok(out);
        }
        let (mut terms, mut places) = (vec![first], Vec::new());
        let (symbol, function) = symbols[0];
        while let Some(at) = self.take(symbol) {
            places.push(at);
            terms.push(self.binary(row + 1)?);
        }
        Ok(self.balanced(function, terms, &places))
    }

    /// A chain of `||` or `&&`, as a balanced tree.
    fn balanced(&mut self, function: &str, mut terms: Vec<Expr>, places: &[usize]) -> Expr {
        if places.is_empty() {
            // There is one term more than places.
            return terms.swap_remove(0);
        }
        let middle = places.len() / 2;
        let right = terms.split_off(middle + 1);
        let left = self.balanced(function, terms, &places[..middle]);
        let right = self.balanced(function, right, &places[middle + 1..]);
        self.nodes.call(places[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Parse<Expr> {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            if !self.is(symbol) {
                continue;
            }
            let (first, mut count) = (self.at(), 0);
            while self.is(symbol) {
                let number = matches!(
                    self.tokens.get(self.next + 1).map(|p| &p.token),
                    Some(Token::Int(_) | Token::Double(_))
                );
                if symbol == "-" && number {
                    // The sign of a number.
                    break;
                }
                self.advance();
                count += 1;
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 {
                operand
            } else {
                self.nodes.call(first, function, vec![operand])
            });
        }
        self.member()
    }

    fn member(&mut self) -> Parse<Expr> {
        let mut out = self.primary()?;
        loop {
            if let Some(at) = self.take(".") {
                let optional = self.take("?").is_some();
                let named = self.advance();
                let (name, escaped) = match named.token {
                    Token::Ident(name) => (name, false),
                    Token::Escaped(name) => (name, true),
                    _ => {
                        self.next -= 1;
                        return Err(self.unexpected("IDENTIFIER"));
                    }
                };
                if !optional && !escaped && self.is("(") {
                    let open = self.need("(")?;
                    let args = self.arguments()?;
                    out = macros::member(&mut self.nodes, open, &name, out, args)?;
                } else if optional {
                    let field = self.nodes.make(named.at, Kind::Literal(Value::String(name)));
                    out = self.nodes.call(at, "_?._", vec![out, field]);
                } else {
                    let operand = Box::new(out);
                    out = self.nodes.make(at, Kind::Select { operand, field: name, test: false });
                }
            } else if let Some(at) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.need("]")?;
                out = self.nodes.call(at, function, vec![out, index]);
            } else if self.is("{")
                && let Some(name) = out.qualified_name()
            {
                out = self.object(&name)?;
            } else {
                return Ok(out);
            }
        }
    }

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(",").is_none() {
                self.need(")")?;
                return Ok(args);
            }
        }
    }

    fn object(&mut self, name: &str) -> Parse<Expr> {
        let at = self.need("{")?;
        let mut fields = Vec::new();
        while self.take("}").is_none() {
            if self.peek() == &Token::End {
                self.need("}")?;
            }
            let optional = self.take("?").is_some();
            let named = self.advance();
            let (Token::Ident(name) | Token::Escaped(name)) = named.token else {
                self.next -= 1;
                return Err(self.unexpected("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"));
            };
            let colon = self.need(":")?;
            let id = self.nodes.id(colon);
            fields.push(Field { id, name, value: self.expr()?, optional });
            if self.take(",").is_none() {
                self.need("}")?;
                break;
            }
        }
        Ok(self.nodes.make(at, Kind::Struct { name: name.into(), fields }))
    }

    fn primary(&mut self) -> Parse<Expr> {
        let placed = self.advance();
        let at = placed.at;
        let literal = |p: &mut Self, v: Value| Ok(p.nodes.make(at, Kind::Literal(v)));
        match placed.token {
            Token::Symbol("true") => literal(self, Value::Bool(true)),
            Token::Symbol("false") => literal(self, Value::Bool(false)),
            Token::Symbol("null") => literal(self, Value::Null),
            Token::Symbol("-") => {
                let number = self.advance().token;
                self.number(&number, "-", at)
            }
            Token::Int(_) | Token::Uint(_) | Token::Double(_) => self.number(&placed.token, "", at),
            Token::Text(text) => literal(self, Value::String(text)),
            Token::Bytes(bytes) => literal(self, Value::Bytes(bytes)),
            Token::Symbol("(") => {
                let inner = self.expr()?;
                self.need(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list(at),
            Token::Symbol("{") => self.map(at),
            Token::Symbol(".") => {
                let named = self.advance();
                let Token::Ident(name) = named.token else {
                    self.next -= 1;
                    return Err(self.unexpected("IDENTIFIER"));
                };
                self.named(name, named.at)
            }
            Token::Ident(name) => self.named(name, at),
            _ => {
                self.next -= 1;
                Err(self.unexpected(PRIMARY))
            }
        }
    }

    fn named(&mut self, name: Arc<str>, at: usize) -> Parse<Expr> {
        if RESERVED.contains(&&*name) {
            return Err(Issue { at, message: format!("reserved identifier: {name}") });
        }
        if self.is("(") {
            let open = self.need("(")?;
            let args = self.arguments()?;
            return macros::global(&mut self.nodes, open, &name, args);
        }
        Ok(self.nodes.make(at, Kind::Ident(name)))
    }

    fn number(&mut self, token: &Token, sign: &str, at: usize) -> Parse<Expr> {
        let invalid = |what: &str| Issue { at, message: format!("invalid {what} literal") };
        let value = match token {
            Token::Int(digits) => {
                let value = match digits.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16),
                    None => format!("{sign}{digits}").parse(),
                };
                Value::Int(value.map_err(|_| invalid("int"))?)
            }
            Token::Uint(digits) => {
                let value = match digits.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                Value::Uint(value.map_err(|_| invalid("uint"))?)
            }
            Token::Double(digits) => {
                let value: f64 = format!("{sign}{digits}").parse().map_err(|_| invalid("double"))?;
                Value::Double(value)
            }
            _ => {
                self.next -= 1;
                return Err(self.unexpected(PRIMARY));
            }
        };
        Ok(self.nodes.make(at, Kind::Literal(value)))
    }

    fn list(&mut self, at: usize) -> Parse<Expr> {
        let mut elements = Vec::new();
        while self.take("]").is_none() {
            if self.peek() == &Token::End {
                self.need("]")?;
            }
            let optional = self.take("?").is_some();
            elements.push(Element { value: self.expr()?, optional });
            if self.take(",").is_none() {
                self.need("]")?;
                break;
            }
        }
        Ok(self.nodes.make(at, Kind::List(elements)))
    }

    fn map(&mut self, at: usize) -> Parse<Expr> {
        let mut entries = Vec::new();
        while self.take("}").is_none() {
            if self.peek() == &Token::End {
                self.need("}")?;
            }
            let optional = self.take("?").is_some();
            let key = self.expr()?;
            self.need(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            if self.take(",").is_none() {
                self.need("}")?;
                break;
            }
        }
        Ok(self.nodes.make(at, Kind::Map(entries)))
    }
}
