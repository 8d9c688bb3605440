//! One mistake in an object: a value of the right type that is wrong, or a wrong shape.
//!
//! Invariant: values are bounded in size, see [`LONG_MAX`] and [`NESTED_LEVELS`].

use super::dice::Dice;
use super::schema::{Form, Place, Schemas, escape};
use serde_json::{Map, Value, json};

/// Characters of the longest string that is made.
const LONG_MAX: usize = 70_000;
/// Levels of what is nested on purpose.
const NESTED_LEVELS: usize = 40;

/// What was made of an object.
pub struct Mutated {
    pub value: Value,
    /// The changed place.
    pub at: String,
    /// The member at this place is written twice.
    pub twice: Option<String>,
}

#[derive(Clone, Copy)]
enum Mistake {
    Value,
    Type,
    Null,
    Missing,
    Unknown,
    Twice,
    Case,
    Nested,
    Kind,
}

/// Makes one mistake; `None` when the object has no place for it.
pub fn mutate(schemas: Schemas<'_>, schema: &Value, mut value: Value, dice: &Dice) -> Option<Mutated> {
    let mistake = dice.weighted(&[
        (60, Mistake::Value),
        (7, Mistake::Type),
        (5, Mistake::Null),
        (8, Mistake::Missing),
        (4, Mistake::Unknown),
        (2, Mistake::Twice),
        (2, Mistake::Case),
        (1, Mistake::Nested),
        (2, Mistake::Kind),
    ])?;
    // what every kind has is tried less often than what only this one has
    let common = |p: &Place<'_>| {
        p.at.starts_with("/metadata") || p.at.len() < 2 || p.at == "/kind" || p.at == "/apiVersion"
    };
    let places = schemas.places(schema, &value);
    let rare = dice.one_in(10);
    let places: Vec<_> = places.iter().filter(|p| !p.at.is_empty() && common(p) == rare).collect();
    let place = dice.pick_of(&places)?;
    let (parent, name) = place.at.rsplit_once('/')?;
    let mut at = place.at.clone();
    let mut twice = None;
    match mistake {
        Mistake::Value => {
            let there = value.pointer_mut(&at)?;
            *there = wrong(place, there, dice);
        }
        Mistake::Type => *value.pointer_mut(&at)? = other(place.form, dice),
        Mistake::Null => *value.pointer_mut(&at)? = Value::Null,
        Mistake::Missing => {
            let name = name.replace("~1", "/").replace("~0", "~");
            value.pointer_mut(parent)?.as_object_mut()?.remove(&name)?;
        }
        Mistake::Unknown => {
            let unknown = dice.pick(&["nope", "Nope", "nöpe", ""]);
            value.pointer_mut(parent)?.as_object_mut()?.insert(unknown.into(), odd(dice));
            at = format!("{parent}/{}", escape(unknown));
        }
        Mistake::Twice => {
            value.pointer(parent)?.as_object()?;
            twice = Some(at.clone());
        }
        Mistake::Case => {
            let fields = value.pointer_mut(parent)?.as_object_mut()?;
            let moved = fields.remove(name)?;
            let other = flipped(name);
            at = format!("{parent}/{}", escape(&other));
            fields.insert(other, moved);
        }
        Mistake::Nested => *value.pointer_mut(&at)? = nested(dice.one_in(2)),
        Mistake::Kind => {
            at = dice.pick(&["/kind", "/apiVersion"]).to_owned();
            let wrong = dice.pick(&["", "Nope", "v1", "Pod", "apps/v1", "a/b/c", "v0"]);
            value.as_object_mut()?.insert(at[1..].into(), wrong.into());
        }
    }
    Some(Mutated { value, at, twice })
}

/// A value of the place's type that may not do.
fn wrong(place: &Place<'_>, there: &Value, dice: &Dice) -> Value {
    match place.form {
        Form::Text => text(place.schema, dice).into(),
        Form::Integer => dice.pick_of(&integers()).cloned().unwrap_or_default(),
        Form::Number => {
            dice.pick_of(&[json!(-1), json!(0), json!(1e30), json!(0.1)]).cloned().unwrap_or_default()
        }
        Form::Boolean => json!(there != &json!(true)),
        Form::Quantity => dice
            .pick(&[
                "",
                "x",
                "-1",
                "0",
                "1.5",
                "1e3",
                "100m",
                "1Ki",
                "1KI",
                "0.0000000001",
                "9999999999999999999999",
                " 1",
                "1 ",
                "+1",
                "1e",
                ".5",
                "5.",
                "-0",
                "1n",
                "2Ei",
                "1E20",
                "--1",
            ])
            .into(),
        Form::IntOrText if dice.one_in(2) => {
            dice.pick_of(&[json!(0), json!(-1), json!(65_536), json!(70_000)]).cloned().unwrap_or_default()
        }
        Form::IntOrText => dice
            .pick(&[
                "",
                "a_b",
                "a",
                "80",
                "50%",
                "101%",
                "-5%",
                "%",
                "1.5%",
                "http-name-too-long-x",
                "--",
                "x-",
            ])
            .into(),
        Form::Time => dice
            .pick(&[
                "",
                "x",
                "2026-01-01",
                "2026-13-01T00:00:00Z",
                "2026-01-01T00:00:00.5Z",
                "2026-01-01T00:00:00+25:00",
            ])
            .into(),
        Form::Bytes => dice.pick(&["", "x", "AA", "AA==\n", "_-==", "AAAA"]).into(),
        Form::List => list(there, dice),
        Form::Map => {
            let mut map: Map<String, Value> = there.as_object().cloned().unwrap_or_default();
            let item = map.values().next().cloned().unwrap_or_else(|| "b".into());
            if dice.one_in(4) {
                map.clear();
            } else {
                let long = "k".repeat(dice.pick_of(&[64, 254]).copied().unwrap_or(64));
                let keys =
                    ["", "A b", "-a", "a/b/c", "A/b", "..", "a.b/", "/a", "kubernetes.io/x", "A_b", &long];
                map.insert(dice.pick(&keys).into(), item);
            }
            Value::Object(map)
        }
        Form::Object => json!({}),
        Form::Any => odd(dice),
    }
}

fn integers() -> [Value; 13] {
    let whole =
        [-1, 0, 2, 80, 1000, 65_536, 2_147_483_647, 2_147_483_648, i64::MAX, i64::MIN].map(Value::from);
    let [a, b, c, d, e, f, g, h, i, j] = whole;
    [a, b, c, d, e, f, g, h, i, j, json!(1.5), json!(1e3), json!(1e30)]
}

fn text(schema: &Value, dice: &Dice) -> String {
    if let Some(value) =
        schema["enum"].as_array().and_then(|values| dice.pick_of(values)).and_then(Value::as_str)
        && dice.one_in(2)
    {
        return if dice.one_in(3) { value.to_owned() } else { flipped(value) };
    }
    if dice.one_in(6) {
        let length = dice.pick_of(&[16, 33, 64, 129, 254, 300, 1025, 2049, LONG_MAX]).copied().unwrap_or(64);
        return "x".repeat(length);
    }
    dice.pick(&[
        "",
        "x",
        "y",
        "UPPER_case",
        "a b",
        "-x",
        "x-",
        "a/b",
        "a/b/c",
        "a.b",
        "a..b",
        "ü",
        " x",
        "x ",
        "x\n",
        "a=b",
        "a:b",
        "..",
        "/x",
        "../x",
        "0",
        "5",
        "0x1",
        "1.2.3.4",
        "010.0.0.1",
        "1.2.3.4/33",
        "1.2.3.4/24",
        "::1",
        "fe80::1/64",
        "::ffff:1.2.3.4",
        "http://x",
        "https://x:y/",
        "*",
        "*.example.com",
        "x.example.com",
        "example.com/x",
        "Example.com/X",
        "true",
        "null",
        "self.x",
        "\"",
        "\u{7f}",
        "%41",
        "kubernetes.io/x",
        "v1",
        "5s",
        "-5s",
        "TCP",
        "x_y.z",
        "$(X)",
        "{}",
    ])
    .into()
}

/// A text with the case of its first letter changed.
fn flipped(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(c) if c.is_lowercase() => c.to_uppercase().chain(chars).collect(),
        Some(c) => c.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn list(there: &Value, dice: &Dice) -> Value {
    let mut list = there.as_array().cloned().unwrap_or_default();
    match (dice.below(5), list.first().cloned()) {
        (0 | 1, Some(first)) => list.push(first),
        (2, _) => list.clear(),
        (3, Some(first)) => list.extend(std::iter::repeat_n(first, 20)),
        (3, None) => list.push(odd(dice)),
        (_, _) => list.push(Value::Null),
    }
    list.into()
}

/// A value of another type.
fn other(form: Form, dice: &Dice) -> Value {
    for _ in 0..8 {
        let value = odd(dice);
        let same = match form {
            Form::Text | Form::Time | Form::Bytes => value.is_string(),
            Form::Integer | Form::Number => value.is_number(),
            Form::Boolean => value.is_boolean(),
            Form::List => value.is_array(),
            Form::Object | Form::Map => value.is_object(),
            Form::Quantity | Form::IntOrText => value.is_string() || value.is_i64(),
            Form::Any => false,
        };
        if !same {
            return value;
        }
    }
    Value::Null
}

fn odd(dice: &Dice) -> Value {
    let all = [
        json!("x"),
        json!(""),
        json!("5"),
        json!(5),
        json!(-1.5),
        json!(true),
        json!([]),
        json!(["x"]),
        json!({}),
        json!({"a": "b"}),
        json!([{}]),
        json!(18_446_744_073_709_551_615_u64),
    ];
    dice.pick_of(&all).cloned().unwrap_or_default()
}

fn nested(lists: bool) -> Value {
    (0..NESTED_LEVELS).fold(json!("x"), |inner, _| if lists { json!([inner]) } else { json!({"a": inner}) })
}

/// The object's text, with the member at `twice` written twice.
pub fn write(value: &Value, twice: Option<&str>) -> String {
    let mut out = String::new();
    member(value, twice, "", &mut out);
    out
}

fn member(value: &Value, twice: Option<&str>, at: &str, out: &mut String) {
    let (Some(fields), true) = (value.as_object(), twice.is_some_and(|t| t.starts_with(at))) else {
        if let (Some(list), true) = (value.as_array(), twice.is_some_and(|t| t.starts_with(at))) {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                member(item, twice, &format!("{at}/{i}"), out);
            }
            out.push(']');
            return;
        }
        out.push_str(&value.to_string());
        return;
    };
    out.push('{');
    for (i, (key, inner)) in fields.iter().enumerate() {
        let here = format!("{at}/{}", escape(key));
        for n in 0..if twice == Some(here.as_str()) { 2 } else { 1 } {
            out.push_str(if i + n > 0 { "," } else { "" });
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push(':');
            member(inner, twice, &here, out);
        }
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_change_what_they_name() {
        let document = json!({"components": {"schemas": {"Toy": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}}}}}});
        let schemas = Schemas::of(&document);
        let value = json!({"spec": {"n": 1, "s": "x"}});
        let mut changed = 0;
        for seed in 0..200 {
            let dice = Dice::seeded(seed);
            let Some(made) = mutate(schemas, schemas.named("Toy"), value.clone(), &dice) else { continue };
            assert!(made.at.starts_with('/'), "{}", made.at);
            changed += usize::from(made.value != value || made.twice.is_some());
        }
        assert!(changed > 100, "{changed}");
    }

    #[test]
    fn a_member_is_written_twice() {
        let value = json!({"a": {"b": 1, "c": [{"d": 2}]}});
        assert_eq!(write(&value, None), value.to_string());
        assert_eq!(write(&value, Some("/a/b")), r#"{"a":{"b":1,"b":1,"c":[{"d":2}]}}"#);
        assert_eq!(write(&value, Some("/a/c/0/d")), r#"{"a":{"b":1,"c":[{"d":2,"d":2}]}}"#);
    }

    #[test]
    fn case_is_flipped() {
        assert_eq!([flipped("Always"), flipped("x"), flipped("")], ["always", "X", ""]);
    }
}
