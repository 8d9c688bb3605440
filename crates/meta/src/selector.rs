//! Label and field selectors (upstream: apimachinery `pkg/labels`, `pkg/fields`).
//!
//! A selector is parsed once and then matched many times; parsing is the only part that can fail, with
//! upstream's error texts.

mod fields;
mod parse;

pub use fields::FieldSelector;

use crate::field::{self, Error, Path, quoted};
use crate::names;
use serde_json::{Map, Value};
use std::fmt;

/// How a requirement relates a label to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    GreaterThan,
    LessThan,
    Exists,
    DoesNotExist,
}

impl Operator {
    fn is_equality(self) -> bool {
        matches!(self, Self::In | Self::Equals | Self::DoubleEquals)
    }
}

/// One condition on one label. Values are sorted when they come from text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key and values (upstream: `labels.NewRequirement`).
    ///
    /// # Errors
    /// The aggregated field errors as one text.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let root = Path::root();
        let key_errors = names::label_key_errors(key);
        if !key_errors.is_empty() {
            errors.push(Error::invalid(&root.child("key"), key, key_errors.join("; ")));
        }
        let at = root.child("values");
        let wrong = |why: &str| Error::invalid(&at, Value::from(values.clone()), why);
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.push(wrong("for 'in', 'notin' operators, values set can't be empty"));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.push(wrong("exact-match compatibility requires one single value"));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.push(wrong("values set must be empty for exists and does not exist"));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(wrong("for 'Gt', 'Lt' operators, exactly one value is required"));
                }
                for (i, v) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                    errors.push(Error::invalid(&at.index(i), v.as_str(), why));
                }
            }
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            let value_errors = names::label_value_errors(v);
            if !value_errors.is_empty() {
                errors.push(Error::invalid(&at.index(i).key(key), v.as_str(), value_errors.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(field::aggregate(&errors))
        }
    }

    /// Whether a label's value, or its absence, meets the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |s: &str| s.parse::<i64>().ok();
                match (value.and_then(number), self.values.first().and_then(|v| number(v))) {
                    (Some(a), Some(b)) if self.operator == Operator::GreaterThan => a > b,
                    (Some(a), Some(b)) => a < b,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Conditions on labels, all of which must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Selects no object at all (a `LabelSelector` object that is null).
    nothing: bool,
}

impl LabelSelector {
    /// Labels that every selected object has, with their value where there can be but one.
    pub fn asked_for(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.requirements.iter().filter_map(|r| match (r.operator, &*r.values) {
            (op, [value]) if op.is_equality() => Some((&*r.key, Some(&**value))),
            (Operator::NotIn | Operator::NotEquals | Operator::DoesNotExist, _) => None,
            _ => Some((&*r.key, None)),
        })
    }

    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads `a=b,c!=d,e in (f,g),!h` (upstream: `labels.Parse`).
    ///
    /// # Errors
    /// Upstream's complete text; a request's 400 shows it without anything in front.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::of(parse::parse(text)?))
    }

    /// From a `LabelSelector` object: null or absent selects nothing, an empty one everything
    /// (upstream: `metav1.LabelSelectorAsSelector`).
    ///
    /// # Errors
    /// Upstream's text for a bad operator, key or value.
    pub fn from_value(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (k, v) in selector["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement::new(
                k,
                Operator::Equals,
                vec![v.as_str().unwrap_or("").to_owned()],
            )?);
        }
        for e in selector["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match e["operator"].as_str().unwrap_or("") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(format!(
                        "{other} is not a valid label selector operator",
                        other = quoted(other)
                    ));
                }
            };
            let values = crate::object::strings(&e["values"]);
            requirements.push(Requirement::new(e["key"].as_str().unwrap_or(""), operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Adds a condition.
    #[must_use]
    pub fn with(mut self, requirement: Requirement) -> Self {
        if !self.nothing {
            self.requirements.push(requirement);
            self.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        }
        self
    }

    /// Whether every object is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether no object can be selected.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Matches labels that `get` looks up by key.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Matches a map of labels; `None` is an object without labels.
    pub fn matches_map(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(|k| labels.and_then(|m| m.get(k)).and_then(Value::as_str))
    }

    /// Matches `metadata.labels` of a whole object.
    pub fn matches_object(&self, obj: &Value) -> bool {
        self.matches_map(crate::object::meta_map(obj, "labels"))
    }

    /// The one value that the label must have, if the selector says so.
    pub fn requires_exact(&self, key: &str) -> Option<&str> {
        let r = self.requirements.iter().find(|r| r.key == key)?;
        (r.operator.is_equality() && r.values.len() == 1).then(|| r.values[0].as_str())
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            r.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `selector_test.go#TestSelectorParse`.
    #[test]
    fn texts_that_parse() {
        let good = [
            ("", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("x!=a,y=b", "x!=a,y=b"),
            ("x=", "x="),
            ("x= ", "x="),
            ("x=,z= ", "x=,z="),
            ("!x", "!x"),
            ("x>1", "x>1"),
            ("x>1,z<5", "x>1,z<5"),
            ("x in (foo)", "x in (foo)"),
            ("x in (b,a)", "x in (a,b)"),
            ("x notin ()", "x notin ()"),
            ("x in (,a)", "x in (,a)"),
            ("b,a", "a,b"),
            ("x==a", "x==a"),
            ("in in (in)", "in in (in)"),
            ("x in (a),y", "x in (a),y"),
            ("\tx\n=\r a", "x=a"),
        ];
        for (text, want) in good {
            assert_eq!(LabelSelector::parse(text).map(|s| s.to_string()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn texts_that_do_not() {
        let bad = [
            ("x=a||y=b", ""),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("!x=a", "found '=', expected: ',' or"),
            ("x<a", "for 'Gt', 'Lt' operators, the value must be an integer"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("x,", "found '', expected: identifier after ','"),
            ("x in", "unable to parse requirement: found '' expected: '('"),
            ("x in (a", "found '', expected: ',' or ')'"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
            ("-x=a", "unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist of"),
            ("x=a b", "found 'b', expected: ',' or 'end of string'"),
            ("x=-a", "unable to parse requirement: values[0][x]: Invalid value: \"-a\""),
        ];
        for (text, want) in bad {
            let e = LabelSelector::parse(text).unwrap_err();
            assert!(e.contains(want), "{text}: {e}");
        }
    }

    #[test]
    fn matching() {
        let labels = json!({"a": "1", "b": "x"});
        let is = |s: &str| LabelSelector::parse(s).unwrap().matches_map(labels.as_object());
        for yes in ["", "a", "a=1", "a in (1,2)", "c notin (1)", "c!=1", "!c", "a>0,b=x", "a<2"] {
            assert!(is(yes), "{yes}");
        }
        for no in ["c", "a=2", "a notin (1)", "!a", "b>0", "c>0", "a>1"] {
            assert!(!is(no), "{no}");
        }
    }

    #[test]
    fn objects() {
        let of = |v: Value| LabelSelector::from_value(&v);
        assert!(of(Value::Null).unwrap().is_nothing());
        assert!(of(json!({})).unwrap().is_empty());
        let s = of(
            json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}),
        );
        let s = s.unwrap();
        assert_eq!(s.to_string(), "a in (x,y),b=1");
        assert_eq!(s.requires_exact("b"), Some("1"));
        assert_eq!(
            of(json!({"matchExpressions": [{"key": "a", "operator": "x"}]})).unwrap_err(),
            "\"x\" is not a valid label selector operator"
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(s in "\\PC{0,60}", t in "[a-c!=<>,() innot]{0,40}") {
            for x in [&s, &t] {
                let _ = (LabelSelector::parse(x), FieldSelector::parse(x));
            }
        }
    }
}
