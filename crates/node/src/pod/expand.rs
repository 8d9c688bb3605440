//! `$(NAME)` references in environment values, commands and arguments
//! (upstream: `third_party/forked/golang/expansion`).

/// Replaces each `$(NAME)` by what `lookup` answers; an unknown name stays as written, `$$` is a dollar sign.
pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        out.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            None => {
                out.push('$');
                rest = "";
            }
            Some('$') => {
                out.push('$');
                rest = &after[1..];
            }
            Some('(') => match after.find(')') {
                Some(end) => {
                    let name = &after[1..end];
                    match lookup(name) {
                        Some(value) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &after[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = &after[1..];
                }
            },
            Some(c) => {
                out.push('$');
                out.push(c);
                rest = chars.as_str();
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream() {
        let get = |n: &str| match n {
            "VAR_A" => Some("A"),
            "VAR_EMPTY" => Some(""),
            "VAR_REF" => Some("$(VAR_A)"),
            "odd name!" => Some("odd"),
            _ => None,
        };
        for (input, want) in [
            ("$(VAR_A)", "A"),
            ("$(VAR_A) $(NONE)", "A $(NONE)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("foo$$var", "foo$var"),
            ("f000-$(VAR_REF)", "f000-$(VAR_A)"),
            ("$(VAR_EMPTY)", ""),
            ("$(VAR_A", "$(VAR_A"),
            ("$VAR_A)$", "$VAR_A)$"),
            ("$(odd name!)", "odd"),
            ("$()", "$()"),
            ("$ü$(VAR_A)", "$üA"),
            ("$($(VAR_A))", "$($(VAR_A))"),
        ] {
            assert_eq!(expand(input, get), want, "{input}");
        }
    }
}
