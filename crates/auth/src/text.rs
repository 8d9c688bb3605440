//! Texts as Go prints them.

/// A list as `%q` prints it: `["a" "b"]`.
pub(crate) fn quoted<S: AsRef<str>>(list: &[S]) -> String {
    let all: Vec<String> = list.iter().map(|s| format!("{:?}", s.as_ref())).collect();
    format!("[{}]", all.join(" "))
}

/// Errors as an aggregate prints them: one alone, several in brackets, each once.
pub(crate) fn aggregate(errors: &[String]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for e in errors {
        if !seen.contains(&e.as_str()) {
            seen.push(e);
        }
    }
    match seen.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Keeps a message from reading as HTML (upstream: `responsewriters.sanitizer`).
pub(crate) fn sanitized(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
