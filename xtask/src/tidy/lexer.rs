//! Just enough of Rust's lexical structure to tell code from comments and literals.
//!
//! Invariant: the code view has the same number of characters and the same line breaks as the source, so that
//! positions mean the same in both.

/// A file, seen as text and as code.
pub struct Source {
    pub path: String,
    pub text: String,
    /// The text with what stands in comments, strings and character literals replaced by spaces.
    pub code: Vec<char>,
    /// Characters of each line that stand in string literals.
    pub quoted: Vec<usize>,
}

impl Source {
    pub fn new(path: String, text: &str) -> Self {
        let (code, quoted) = Masker::run(text);
        Self { path, text: text.to_owned(), code, quoted }
    }

    /// The lines of the code view.
    pub fn code_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.code.split(|c| *c == '\n').map(|line| line.iter().collect())
    }

    /// The line, counted from 1, of a position in the code view.
    pub fn line_of(&self, position: usize) -> usize {
        1 + self.code[..position.min(self.code.len())].iter().filter(|c| **c == '\n').count()
    }

    /// Whether the whole file is a test or serves tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        let name = name.strip_suffix(".rs").unwrap_or(name);
        let folder = self.path.contains("/tests/") || self.path.contains("/suite/");
        folder || matches!(name, "tests" | "testing" | "suite") || name.ends_with("_tests")
    }
}

/// The position after the bracket that closes the one at `open`.
pub fn closing(code: &[char], open: usize) -> Option<usize> {
    let (up, down) = match code.get(open)? {
        '{' => ('{', '}'),
        '(' => ('(', ')'),
        '[' => ('[', ']'),
        _ => return None,
    };
    let mut depth = 0_usize;
    for (i, c) in code.iter().enumerate().skip(open) {
        if *c == up {
            depth += 1;
        } else if *c == down {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(i + 1);
            }
        }
    }
    None
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Code,
    Comment,
    Quoted,
}

struct Masker {
    chars: Vec<char>,
    at: usize,
    code: Vec<char>,
    quoted: Vec<usize>,
}

impl Masker {
    fn run(text: &str) -> (Vec<char>, Vec<usize>) {
        let mut m = Self { chars: text.chars().collect(), at: 0, code: Vec::new(), quoted: vec![0] };
        while m.at < m.chars.len() {
            m.step();
        }
        (m.code, m.quoted)
    }

    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn take(&mut self, how: As) {
        let Some(c) = self.chars.get(self.at).copied() else { return };
        self.at += 1;
        if c == '\n' {
            self.quoted.push(0);
        } else if how == As::Quoted
            && let Some(count) = self.quoted.last_mut()
        {
            *count += 1;
        }
        self.code.push(if how == As::Code || c == '\n' { c } else { ' ' });
    }

    /// Takes one token's worth: a comment, a literal, or one character of code.
    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.take(As::Comment);
                }
            }
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('r', '"' | '#') if !self.after_word() => self.raw_string(),
            ('b' | 'c', 'r') if !self.after_word() && matches!(self.peek(2), '"' | '#') => {
                self.take(As::Code);
                self.raw_string();
            }
            ('\'', _) => self.character(),
            _ => self.take(As::Code),
        }
    }

    fn after_word(&self) -> bool {
        self.code.last().is_some_and(|c| is_word(*c))
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.chars.len() {
            let pair = (self.peek(0), self.peek(1));
            match pair {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.take(As::Comment);
                    continue;
                }
            }
            self.take(As::Comment);
            self.take(As::Comment);
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.take(As::Code);
        while self.at < self.chars.len() && self.peek(0) != '"' {
            if self.peek(0) == '\\' {
                self.take(As::Quoted);
            }
            self.take(As::Quoted);
        }
        self.take(As::Code);
    }

    /// `r"…"`, `r#"…"#`; `r#name` is code.
    fn raw_string(&mut self) {
        let hashes = self.chars[self.at + 1..].iter().take_while(|c| **c == '#').count();
        if self.peek(1 + hashes) != '"' {
            return self.take(As::Code);
        }
        for _ in 0..hashes + 2 {
            self.take(As::Code);
        }
        while self.at < self.chars.len() {
            if self.peek(0) == '"' && (1..=hashes).all(|i| self.peek(i) == '#') {
                break;
            }
            self.take(As::Quoted);
        }
        for _ in 0..=hashes {
            self.take(As::Code);
        }
    }

    /// `'x'`, `'\n'`; a lifetime is code.
    fn character(&mut self) {
        let escaped = self.peek(1) == '\\';
        if !escaped && self.peek(2) != '\'' {
            return self.take(As::Code);
        }
        self.take(As::Code);
        if escaped {
            self.take(As::Quoted);
        }
        self.take(As::Quoted);
        while self.at < self.chars.len() && self.peek(0) != '\'' {
            self.take(As::Quoted);
        }
        self.take(As::Code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("x.rs".into(), text).code.into_iter().collect()
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(code("a // {\nb"), "a     \nb");
        assert_eq!(code("a /* x /* y */ { */ b"), format!("a {} b", " ".repeat(17)));
        assert_eq!(code(r#"f("a\"{", '{', '\'', 'a)"#), r#"f("    ", ' ', '  ', 'a)"#);
        assert_eq!(code("r#\"a\"{\"# + r#type"), "r#\"   \"# + r#type");
        assert_eq!(code("br\"\\\" var\""), "br\" \" var\"");
    }

    #[test]
    fn quoted_characters_are_counted_by_line() {
        assert_eq!(Source::new("x.rs".into(), "(\"ab\ncde\")\n1").quoted, [2, 3, 0]);
    }

    #[test]
    fn brackets_close() {
        let chars: Vec<char> = "a{b{c}d}e".chars().collect();
        assert_eq!(closing(&chars, 1), Some(8));
        assert_eq!(closing(&chars, 0), None);
        assert_eq!(closing(&chars[..6], 1), None);
    }
}
