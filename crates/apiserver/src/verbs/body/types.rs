//! What a body says of its own type, and why it is not the one that is asked for.

use super::go_kind;
use kinds::KindDef;
use meta::GroupVersion;
use meta::field::quoted;
use serde_json::Value;

/// The body's own type, where it tells one (upstream: apimachinery `json.SimpleMetaFactory.Interpret`). Letters may be
/// small or large here, though nowhere else in a body.
pub fn type_of(value: &Value) -> Result<(String, String), String> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    for (key, value) in value.as_object().into_iter().flatten() {
        let (name, text) = match key {
            key if is_same_field(key, "apiVersion") => ("apiVersion", &mut api_version),
            key if is_same_field(key, "kind") => ("kind", &mut kind),
            _ => continue,
        };
        match value {
            Value::Null => {}
            Value::String(s) => s.clone_into(text),
            other => {
                return Err(format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{name} of type string",
                    go_kind(other)
                ));
            }
        }
    }
    if GroupVersion::parse(&api_version).is_none() && !api_version.is_empty() {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    Ok((api_version, kind))
}

/// Whether Go's reader takes a key for a field, which it does whatever the case (upstream: `encoding/json#foldName`).
fn is_same_field(key: &str, field: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(field.chars().map(|c| c.to_ascii_lowercase()))
}

/// What is no object has no type.
pub fn no_object(value: &Value) -> String {
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        go_kind(value)
    )
}

/// A kind that is not known.
pub fn unregistered(kind: &str, api_version: &str) -> String {
    // upstream reads the version first, which takes a slash before it away
    let version = api_version.strip_prefix('/').unwrap_or(api_version);
    format!(
        "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
        quoted(kind),
        quoted(version)
    )
}

/// Two kinds that do not become each other.
pub fn conversion(version: &str, name: &str, kind: &KindDef) -> String {
    let package = match kind.group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("converting ({version}.{name}) to ({package}.{}): unknown conversion", kind.kind)
}

/// Why an object of another type cannot be taken. Built-in kinds are looked for in all that are known, and read as what
/// they call themselves; custom ones are only compared.
pub fn other_type(kind: &KindDef, api_version: &str, name: &str, value: Value) -> String {
    let expected = kind.group_version();
    let version_in_data = || {
        format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )
    };
    let name = if name.is_empty() { &*kind.kind } else { name };
    let api_version = if api_version.is_empty() { expected.to_string() } else { api_version.to_owned() };
    let Some(gv) = GroupVersion::parse(&api_version) else { return version_in_data() };
    if kind.is_custom() {
        return match gv == expected {
            false => version_in_data(),
            true => format!(
                "{name} in version {:?} cannot be handled as a {}: {}",
                gv.version,
                kind.kind,
                unregistered(name, &api_version)
            ),
        };
    }
    let head = format!("{name} in version {} cannot be handled as a {}:", quoted(&gv.version), kind.kind);
    let row = kinds::KINDS.iter().map(|row| row()).find(|r| r.group_version() == gv && r.kind == name);
    let Some(row) = row else {
        return format!("{head} {}", unregistered(name, &gv.to_string()));
    };
    if let Err(why) = row.retype(value) {
        return format!("{head} {why}");
    }
    if gv.group == expected.group && name == kind.kind {
        return version_in_data();
    }
    format!("{head} {}", conversion(&gv.version, name, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_are_named_in_any_case() {
        let of = |v: Value| type_of(&v);
        let found = |version: &str, kind: &str| Ok((version.to_owned(), kind.to_owned()));
        assert_eq!(of(json!({"ApiVersion": "v1", "\u{212a}ind": "Pod"})), found("v1", "Pod"));
        assert_eq!(of(json!({"Kind": "X", "kind": "Pod", "kinds": 5})), found("", "Pod"));
        let wrong = of(json!({"APIVERSION": [{}]})).expect_err("an array");
        assert!(
            wrong.ends_with("cannot unmarshal array into Go struct field .apiVersion of type string"),
            "{wrong}"
        );
    }

    #[test]
    fn what_is_of_another_type_is_read_as_that_first() {
        let row = kinds::KINDS.iter().map(|row| row()).find(|r| r.kind == "PodTemplate").expect("a row");
        let why = |pod: Value| other_type(&row, "v1", "Pod", pod);
        let head = "Pod in version \"v1\" cannot be handled as a PodTemplate:";
        let unknown = format!("{head} converting (v1.Pod) to (core.PodTemplate): unknown conversion");
        assert_eq!(why(json!({"metadata": {}})), unknown);
        let unread = "json: cannot unmarshal string into Go struct field Pod.metadata of type v1.ObjectMeta";
        assert_eq!(why(json!({"metadata": "5"})), format!("{head} {unread}"));
    }
}
