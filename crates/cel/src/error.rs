//! What is wrong with a text, shown with the place (cel-go: `common/error.go`).

use std::fmt;

/// The longest line that is shown with an error, in bytes.
const SNIPPET_MAX: usize = 16_384;
/// The most errors that are told.
const ERRORS_MAX: usize = 100;

/// All that is wrong with an expression. Its `Display` is what cel-go prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    source: String,
    issues: Vec<Issue>,
}

/// One error and its place, in characters from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub at: usize,
    pub message: String,
}

impl CompileError {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|i| i.at);
        Self { source: source.to_owned(), issues }
    }

    /// The messages alone.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.issues.iter().map(|i| i.message.as_str())
    }

    /// The line and column, both from 1, and the text of the line.
    fn place(&self, at: usize) -> (usize, usize, &str) {
        let mut left = at;
        let mut number = 1;
        for line in self.source.split('\n') {
            let chars = line.chars().count();
            if left <= chars {
                return (number, left + 1, line);
            }
            left -= chars + 1;
            number += 1;
        }
        (number, left + 1, "")
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().take(ERRORS_MAX).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let (line, column, text) = self.place(issue.at);
            write!(f, "ERROR: <input>:{line}:{column}: {}", issue.message)?;
            if text.len() > SNIPPET_MAX {
                continue;
            }
            let text = text.replace('\t', " ");
            write!(f, "\n | {text}\n | ")?;
            let mut chars = text.chars();
            for c in chars.by_ref().take(column - 1) {
                f.write_str(if c.is_ascii() { "." } else { "\u{ff0e}" })?;
            }
            f.write_str(if chars.next().is_none_or(|c| c.is_ascii()) { "^" } else { "\u{ff3e}" })?;
        }
        if self.issues.len() > ERRORS_MAX {
            write!(f, "\n{} more errors were truncated", self.issues.len() - ERRORS_MAX)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}
