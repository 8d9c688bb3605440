//! What may stand on a line: no leftovers, no tabs, no trailing blanks, not too wide; and a first line that says what
//! the module is.

use super::Finding;
use super::lexer::{Source, is_word};

/// Columns of a line, not counting what stands in string literals.
const COLUMNS_MAX: usize = 140;
/// Macros of unfinished work.
const BANNED: &[&str] = &["todo", "unimplemented", "dbg"];

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: String| findings.push(Finding::new(&source.path, line, what));
    if !source.text.starts_with("//! ") {
        find(1, "the first line is no module doc (`//! what this is`)".to_owned());
    }
    for (i, (line, code)) in source.text.split('\n').zip(source.code_lines()).enumerate() {
        let quoted = source.quoted.get(i).copied().unwrap_or(0);
        let columns = line.chars().count() - quoted;
        if columns > COLUMNS_MAX {
            find(i + 1, format!("{columns} columns; at most {COLUMNS_MAX} outside of strings"));
        }
        // Inside a literal a tab or blank may be meant.
        if code.contains('\t') || (line.contains('\t') && quoted == 0) {
            find(i + 1, "a tab".to_owned());
        }
        if line.ends_with([' ', '\r']) && quoted == 0 {
            find(i + 1, "blanks at the end of the line".to_owned());
        }
        for name in BANNED.iter().filter(|name| calls(&code, name)) {
            find(i + 1, format!("`{name}!`"));
        }
    }
    findings
}

/// Whether the macro `name!` is called.
fn calls(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        code[at + name.len()..].starts_with('!') && !code[..at].chars().next_back().is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        check(&Source::new("x.rs".into(), text)).into_iter().map(|f| (f.line, f.what)).collect()
    }

    #[test]
    fn leftovers_are_found_in_code_only() {
        let text = "//! A module.\n// todo!()\nlet a = \"dbg!(x)\";\nmy_dbg!(x);\nx = dbg!(y);\n";
        assert_eq!(found(text), [(5, "`dbg!`".to_owned())]);
    }

    #[test]
    fn lines_are_clean() {
        let text = "use x;\n\ta\nb \nlet s = \"\t\n \n\";\n";
        let lines: Vec<usize> = found(text).into_iter().map(|f| f.0).collect();
        assert_eq!(lines, [1, 2, 3]);
    }

    #[test]
    fn strings_do_not_widen_a_line() {
        let wide = "x".repeat(COLUMNS_MAX);
        assert_eq!(found(&format!("//! A module.\nf(\"{wide}\");\n")), []);
        assert_eq!(found(&format!("//! A module.\nf({wide});\n")).len(), 1);
    }
}
