//! How large files and functions are. Tests do not count.

use super::lexer::{Source, closing, is_word};

/// Lines of a file, tests not counted.
pub const FILE_LINES_MAX: usize = 800;
/// Lines of a function, from `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 110;

/// A file, or a function of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub path: String,
    /// `None` is the file itself.
    pub function: Option<String>,
    pub line: usize,
    pub lines: usize,
}

impl Size {
    /// The most that it may be without an exception.
    pub fn limit(&self) -> usize {
        if self.function.is_some() { FUNCTION_LINES_MAX } else { FILE_LINES_MAX }
    }
}

pub fn measure(source: &Source) -> Vec<Size> {
    if source.is_test() {
        return Vec::new();
    }
    let tests = test_modules(&source.code);
    let lines_in = |from: usize, to: usize| source.line_of(to) - source.line_of(from) + 1;
    let in_tests: usize = tests.iter().map(|(from, to)| lines_in(*from, *to - 1)).sum();
    let all = source.text.lines().count();
    let mut sizes = vec![Size {
        path: source.path.clone(),
        function: None,
        line: 0,
        lines: all.saturating_sub(in_tests),
    }];
    for (name, from, to) in functions(&source.code) {
        if tests.iter().any(|(start, end)| (*start..*end).contains(&from)) {
            continue;
        }
        sizes.push(Size {
            path: source.path.clone(),
            function: Some(name),
            line: source.line_of(from),
            lines: lines_in(from, to - 1),
        });
    }
    sizes
}

/// Where each `#[cfg(test)] mod name { … }` starts and ends.
fn test_modules(code: &[char]) -> Vec<(usize, usize)> {
    let attribute: Vec<char> = "#[cfg(test)]".chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = code[at..].windows(attribute.len()).position(|w| w == attribute) {
        let start = at + offset;
        at = start + attribute.len();
        let item: String = code[at..].iter().take_while(|c| !matches!(c, '{' | ';')).collect();
        if !item.split_whitespace().any(|word| word == "mod") {
            continue;
        }
        let open = at + item.chars().count();
        if let Some(end) = closing(code, open) {
            found.push((start, end));
            at = end;
        }
    }
    found
}

/// Name, start and end of every function that has a body.
fn functions(code: &[char]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in 0..code.len().saturating_sub(3) {
        let keyword = code[at] == 'f' && code[at + 1] == 'n' && code[at + 2] == ' ';
        if !keyword || (at > 0 && is_word(code[at - 1])) {
            continue;
        }
        let name: String = code[at + 3..].iter().take_while(|c| is_word(**c)).collect();
        if name.is_empty() {
            continue;
        }
        if let Some(end) = body(code, at).and_then(|open| closing(code, open)) {
            found.push((name, at, end));
        }
    }
    found
}

/// Where the body of the function at `at` opens; `None` for a declaration.
fn body(code: &[char], at: usize) -> Option<usize> {
    let mut i = at;
    loop {
        match code.get(i)? {
            '(' | '[' => i = closing(code, i)?,
            '{' => return Some(i),
            ';' => return None,
            _ => i += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(path: &str, text: &str) -> Vec<(Option<String>, usize, usize)> {
        measure(&Source::new(path.into(), text)).into_iter().map(|s| (s.function, s.line, s.lines)).collect()
    }

    #[test]
    fn functions_are_measured_whole() {
        let text = "trait T {\n    fn a(x: [u8; 2]) -> u8;\n    fn b(\n        f: fn(u8),\n    ) where\n        u8: Copy,\n    {\n        f(1);\n    }\n}\n";
        assert_eq!(sizes("a.rs", text), [(None, 0, 10), (Some("b".into()), 3, 7)]);
    }

    #[test]
    fn tests_do_not_count() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\n#[cfg(test)]\nmod more;\n";
        assert_eq!(sizes("a.rs", text), [(None, 0, 3), (Some("a".into()), 1, 1)]);
        assert_eq!(sizes("a/tests.rs", text), []);
    }
}
