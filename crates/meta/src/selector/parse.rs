//! The grammar of label selectors (upstream: `pkg/labels/selector.go#Lexer`, `#Parser`).

use super::{Operator, Requirement};
use crate::field::{Error, Path};
use crate::names;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn keyword(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Cuts the text into tokens; the last is always [`Token::End`]. A NUL byte ends the text, as upstream.
fn scan(text: &str) -> Vec<(Token, String)> {
    let bytes = text.as_bytes();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let mut out = Vec::new();
    let mut i = 0;
    loop {
        while i < end && is_space(bytes[i]) {
            i += 1;
        }
        if i >= end {
            out.push((Token::End, String::new()));
            return out;
        }
        let start = i;
        if is_special(bytes[i]) {
            let mut found = None;
            while i < end && is_special(bytes[i]) {
                match keyword(&text[start..=i]) {
                    Some(t) => found = Some((t, i + 1)),
                    None if found.is_some() => break,
                    None => {}
                }
                i += 1;
            }
            match found {
                Some((t, stop)) => {
                    i = stop;
                    out.push((t, text[start..stop].to_owned()));
                }
                None => {
                    out.push((Token::Error, format!("error expected: keyword found '{}'", &text[start..i])))
                }
            }
        } else {
            while i < end && !is_special(bytes[i]) && !is_space(bytes[i]) {
                i += 1;
            }
            let word = &text[start..i];
            out.push((keyword(word).unwrap_or(Token::Identifier), word.to_owned()));
        }
    }
}

struct Parser {
    items: Vec<(Token, String)>,
    at: usize,
}

/// Parses all requirements, in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut p = Parser { items: scan(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match p.peek() {
            (Token::Identifier | Token::Not, _) => {
                out.push(p.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                match p.next() {
                    (Token::End, _) => return Ok(out),
                    (Token::Comma, _) => {
                        let (t, lit) = p.peek();
                        if !matches!(t, Token::Identifier | Token::Not) {
                            return Err(format!("found '{lit}', expected: identifier after ','"));
                        }
                    }
                    (_, lit) => return Err(format!("found '{lit}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => return Ok(out),
            (_, lit) => return Err(format!("found '{lit}', expected: !, identifier, or 'end of string'")),
        }
    }
}

impl Parser {
    /// The current token; words that could be operators count as identifiers.
    fn peek(&self) -> (Token, String) {
        let (t, lit) = self.raw();
        (if matches!(t, Token::In | Token::NotIn) { Token::Identifier } else { t }, lit)
    }

    fn raw(&self) -> (Token, String) {
        self.items.get(self.at).cloned().unwrap_or((Token::End, String::new()))
    }

    fn next(&mut self) -> (Token, String) {
        let item = self.peek();
        self.at += 1;
        item
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let errors = names::label_key_errors(&key);
        if !errors.is_empty() {
            return Err(Error::invalid(&Path::root(), key.as_str(), errors.join("; ")).to_string());
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        Requirement::new(&key, operator, values.into_iter().collect())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (t, lit) = self.raw();
        self.at += 1;
        Ok(match t {
            Token::In => Operator::In,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            Token::NotIn => Operator::NotIn,
            Token::NotEquals => Operator::NotEquals,
            _ => return Err(format!("found '{lit}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, lit) => Ok(lit),
            (_, lit) => Err(format!("found '{lit}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (t, lit) = self.next();
        if t != Token::Open {
            return Err(format!("found '{lit}' expected: '('"));
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, first) => {
                let set = self.identifiers()?;
                if self.next().0 != Token::Close {
                    return Err(format!("found '{first}', expected: ')'"));
                }
                Ok(set)
            }
            (Token::Close, _) => {
                self.at += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            (_, lit) => Err(format!("found '{lit}', expected: ',', ')' or identifier")),
        }
    }

    /// A list whose members may be empty: `(a,,b)`.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut set = BTreeSet::new();
        loop {
            match self.next() {
                (Token::Identifier, lit) => {
                    set.insert(lit);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(set),
                        (_, lit) => return Err(format!("found '{lit}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if set.is_empty() {
                        set.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            set.insert(String::new());
                            return Ok(set);
                        }
                        Token::Comma => {
                            set.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, lit) => return Err(format!("found '{lit}', expected: ',', or identifier")),
            }
        }
    }
}
