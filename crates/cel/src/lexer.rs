//! From the text of an expression to its tokens (cel-go: `parser/gen/CEL.g4`, `parser/unescape.go`).

use crate::error::Issue;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(Arc<str>),
    /// `` `a-b` ``, for fields with names that are no identifiers.
    Escaped(Arc<str>),
    /// Digits without sign; `0x` is kept.
    Int(String),
    Uint(String),
    Double(String),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    /// An operator, bracket or one of `in`, `true`, `false`, `null`.
    Symbol(&'static str),
    End,
}

/// A token, its place and its text, in characters.
#[derive(Clone, Debug)]
pub struct Placed {
    pub token: Token,
    pub at: usize,
    pub text: String,
}

const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%",
];
const WORDS: [&str; 4] = ["in", "true", "false", "null"];

struct Lexer {
    chars: Vec<char>,
    at: usize,
    out: Vec<Placed>,
    issues: Vec<Issue>,
}

/// All tokens, the last of which is the end, and what is none.
pub fn tokens(text: &str) -> (Vec<Placed>, Vec<Issue>) {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0, out: Vec::new(), issues: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.next();
    }
    let at = lexer.chars.len();
    lexer.out.push(Placed { token: Token::End, at, text: "<EOF>".to_owned() });
    (lexer.out, lexer.issues)
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn push(&mut self, token: Token, len: usize) {
        let text = self.chars[self.at..self.at + len].iter().collect();
        self.out.push(Placed { token, at: self.at, text });
        self.at += len;
    }

    fn unknown(&mut self, len: usize) {
        let end = (self.at + len).min(self.chars.len());
        let text: String = self.chars[self.at..end].iter().collect();
        let shown = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
        let message = format!("Syntax error: token recognition error at: '{shown}'");
        self.issues.push(Issue { at: self.at, message });
        self.at = end;
    }

    fn next(&mut self) {
        let c = self.peek(0);
        match c {
            ' ' | '\t' | '\r' | '\n' | '\u{c}' => self.at += 1,
            '/' if self.peek(1) == '/' => {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.at += 1;
                }
            }
            '"' | '\'' => self.text(0, false, false),
            'r' | 'R' if matches!(self.peek(1), '"' | '\'') => self.text(1, true, false),
            'b' | 'B' if matches!(self.peek(1), '"' | '\'') => self.text(1, false, true),
            'b' | 'B' if matches!(self.peek(1), 'r' | 'R') && matches!(self.peek(2), '"' | '\'') => {
                self.text(2, true, true);
            }
            '0'..='9' => self.number(),
            '.' if self.peek(1).is_ascii_digit() => self.number(),
            '`' => self.escaped(),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let rest = &self.chars[self.at..];
                let len = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').count();
                let word: String = rest[..len].iter().collect();
                let token = match WORDS.into_iter().find(|w| *w == word) {
                    Some(word) => Token::Symbol(word),
                    None => Token::Ident(word.into()),
                };
                self.push(token, len);
            }
            _ => match SYMBOLS.into_iter().find(|s| s.chars().enumerate().all(|(i, c)| self.peek(i) == c)) {
                Some(symbol) => self.push(Token::Symbol(symbol), symbol.len()),
                // A token was begun, and ends with the character that does not belong to it.
                None => self.unknown(if matches!(c, '=' | '&' | '|') { 2 } else { 1 }),
            },
        }
    }

    fn number(&mut self) {
        let digits = |from: usize, s: &Self| (from..).take_while(|i| s.peek(*i).is_ascii_digit()).count();
        if self.peek(0) == '0' && self.peek(1) == 'x' && self.peek(2).is_ascii_hexdigit() {
            let len = 2 + (2..).take_while(|i| self.peek(*i).is_ascii_hexdigit()).count();
            let text: String = self.chars[self.at..self.at + len].iter().collect();
            return self.end_of_int(text, len);
        }
        let mut len = digits(0, self);
        let mut whole = true;
        if self.peek(len) == '.' && self.peek(len + 1).is_ascii_digit() {
            whole = false;
            len += 1 + digits(len + 1, self);
        }
        if matches!(self.peek(len), 'e' | 'E') {
            let sign = usize::from(matches!(self.peek(len + 1), '+' | '-'));
            let exponent = digits(len + 1 + sign, self);
            if exponent > 0 {
                whole = false;
                len += 1 + sign + exponent;
            }
        }
        let text: String = self.chars[self.at..self.at + len].iter().collect();
        if whole { self.end_of_int(text, len) } else { self.push(Token::Double(text), len) }
    }

    fn end_of_int(&mut self, text: String, len: usize) {
        if matches!(self.peek(len), 'u' | 'U') {
            self.push(Token::Uint(text), len + 1);
        } else {
            self.push(Token::Int(text), len);
        }
    }

    fn escaped(&mut self) {
        let word = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
        let len = (1..).take_while(|i| word(self.peek(*i))).count();
        if len > 0 && self.peek(len + 1) == '`' {
            let name: String = self.chars[self.at + 1..=self.at + len].iter().collect();
            self.push(Token::Escaped(name.into()), len + 2);
        } else {
            self.unknown(len + 2);
        }
    }

    /// A text in quotes, after a prefix of so many characters.
    fn text(&mut self, prefix: usize, raw: bool, bytes: bool) {
        let quote = self.peek(prefix);
        let triple = self.peek(prefix + 1) == quote && self.peek(prefix + 2) == quote;
        let marks = if triple { 3 } else { 1 };
        let mut at = prefix + marks;
        let mut out = Decoded { text: String::new(), bytes: Vec::new(), as_bytes: bytes };
        loop {
            let c = self.peek(at);
            let ended = self.at + at >= self.chars.len();
            if ended || (!triple && matches!(c, '\n' | '\r')) {
                return self.unknown(at + usize::from(!ended));
            }
            if c == quote && (!triple || (self.peek(at + 1) == quote && self.peek(at + 2) == quote)) {
                break;
            }
            if c == '\\' && !raw {
                let Some(len) = out.escape(&self.chars[self.at + at + 1..]) else {
                    return self.unknown(at + 2);
                };
                at += 1 + len;
            } else {
                out.push(c);
                at += 1;
            }
        }
        let token = if bytes { Token::Bytes(out.bytes.into()) } else { Token::Text(out.text.into()) };
        self.push(token, at + marks);
    }
}

struct Decoded {
    text: String,
    bytes: Vec<u8>,
    as_bytes: bool,
}

impl Decoded {
    fn push(&mut self, c: char) {
        if self.as_bytes {
            self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            self.text.push(c);
        }
    }

    /// Takes what comes after a backslash; how long it is, or `None` when it is no escape.
    fn escape(&mut self, rest: &[char]) -> Option<usize> {
        let plain = match rest.first()? {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            c @ ('"' | '\'' | '\\' | '?' | '`') => *c,
            'x' | 'X' => return self.coded(rest, 1, 2, 16, false),
            'u' if !self.as_bytes => return self.coded(rest, 1, 4, 16, true),
            'U' if !self.as_bytes => return self.coded(rest, 1, 8, 16, true),
            '0'..='3' => return self.coded(rest, 0, 3, 8, false),
            _ => return None,
        };
        self.push(plain);
        Some(1)
    }

    fn coded(&mut self, rest: &[char], from: usize, digits: usize, radix: u32, point: bool) -> Option<usize> {
        let text: String = rest.get(from..from + digits)?.iter().collect();
        let code = u32::from_str_radix(&text, radix).ok()?;
        if self.as_bytes && !point {
            self.bytes.push(u8::try_from(code).ok()?);
        } else {
            self.push(char::from_u32(code)?);
        }
        Some(from + digits)
    }
}
