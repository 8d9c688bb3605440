//! What expressions give, what is refused, what they cost.

use crate::{Activation, Budget, Env, ObjectType, Sizes, Type, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

struct Vars(Json);

impl Activation for Vars {
    fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name).map(Value::from_json)
    }
}

struct Any;

impl Sizes for Any {
    fn max_size(&self, _: &[String]) -> Option<u64> {
        None
    }
}

fn env() -> Env {
    let mut env = Env::new();
    let fields = [
        ("x", Type::Int),
        ("name", Type::String),
        ("list", Type::list(Type::Int)),
        ("map", Type::map(Type::String, Type::String)),
    ];
    let fields: BTreeMap<String, Type> = fields.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
    env.object_type(ObjectType { name: "selfType".to_owned(), fields });
    env.variable("self", Type::object("selfType"));
    env.variable("any", Type::Dyn);
    env.variable("variables.foo", Type::Int);
    env
}

fn run(text: &str) -> Result<Value, String> {
    let vars = json!({"self": {"x": 3, "name": "abc", "list": [3, 1, 2], "map": {"a": "b"}}, "any": {"k": [1, "s"]},
        "variables.foo": 7});
    let program = env().compile(text).map_err(|e| e.to_string())?;
    program.eval(&Vars(vars), &mut Budget::new(1_000_000)).map_err(|e| e.to_string())
}

#[test]
fn expressions_hold() {
    for text in [
        "1 + 2 * 3 == 7 && -5 % 3 == -2 && 7 / 2 == 3",
        "self.x > 2 && self.name.startsWith('a') || false",
        "self.list.all(i, i > 0) && self.list.exists(i, i == 2) && self.list.exists_one(i, i == 2)",
        "self.list.map(i, i * 2) == [6, 2, 4] && self.list.filter(i, i > 1) == [3, 2]",
        "self.list.map(i, i > 1, i + 1) == [4, 3]",
        "has(self.map.a) && !has(self.map.b) && 'a' in self.map && self.map['a'] == 'b'",
        "self.?name.orValue('x') == 'abc' && any.?nope.hasValue() == false",
        "any.k[0] == 1 && any.k[1] == 's' && size(any.k) == 2",
        "[1, 2, 3].sum() == 6 && [1, 2].isSorted() && [3, 1].max() == 3 && ['a', 'b'].join('-') == 'a-b'",
        "[3, 1, 2].sort() == [1, 2, 3] && ['bb', 'a'].sortBy(e, e.size()) == ['a', 'bb']",
        "'tacocat'.indexOf('co') == 2 && 'a,b'.split(',') == ['a', 'b'] && 'abc'.substring(1, 2) == 'b'",
        "'%s-%d-%.1f'.format([dyn('a'), 1, 2.5]) == 'a-1-2.5' && 'hello'.find('l+') == 'll'",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('50k').asInteger() == 50000",
        "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && !isIP('x')",
        "url('https://a.b:80/p?q=1').getPort() == '80' && url('https://a.b:80/p').getHostname() == 'a.b'",
        "semver('1.2.3').isLessThan(semver('1.3.0')) && isSemver('v1', true)",
        "timestamp('2024-01-02T03:04:05Z').getHours() == 3 && duration('90m').getHours() == 1",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [1, 2].all(i, v, i + 1 == v)",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
        "optional.of(1).optMap(v, v + 1).value() == 2 && optional.none().or(optional.of(2)).orValue(0) == 2",
        "format.dns1123Label().validate('a').hasValue() == false && format.named('nope').hasValue() == false",
        "variables.foo == 7 && (false && 1 / 0 == 1) == false && (1 / 0 == 1 || true)",
        "string(1.5) == '1.5' && int('12') == 12 && b'ab'.size() == 2 && \"\\u00e9\" == 'é' && r'\\d' == '\\\\d'",
        "dyn(1) == dyn(1.0) && dyn(1) != dyn('1') && 1 < 2.5 && 'b' > 'a' && [[1], [2]].flatten() == [1, 2]",
        "'abc'.matches('^a.c$') && 'x' in ['x', 'y'] && !(3 in [1, 2]) && [1, 2, 3].slice(1, 2) == [2]",
        "true ? true : 1 / 0 == 0",
    ] {
        assert!(matches!(run(text), Ok(Value::Bool(true))), "{text}: {:?}", run(text));
    }
}

#[test]
fn failures_say_why() {
    for (text, why) in [
        ("1 / (self.x - 3)", "division by zero"),
        ("self.list[7]", "index out of bounds: 7"),
        ("any.nope", "no such key: nope"),
        ("any.k + 'a'", "no such overload: _+_(list, string)"),
        ("9223372036854775807 + self.x", "integer overflow"),
        ("[].max() == self.x", "max called on empty list"),
    ] {
        assert_eq!(run(text).expect_err(text), why, "{text}");
    }
}

#[test]
fn what_is_wrong_is_shown_with_its_place() {
    for (text, message) in [
        ("self.z == 1", "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 1\n | ....^"),
        (
            "nope == 1",
            "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope == 1\n | ^",
        ),
        (
            "self.x + 'a'",
            "ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(int, string)'\n | self.x + 'a'\n | .......^",
        ),
        (
            "self = 42",
            "ERROR: <input>:1:6: Syntax error: token recognition error at: '= '\n | self = 42\n | .....^\nERROR: <input>:1:8: Syntax error: extraneous input '42' expecting <EOF>\n | self = 42\n | .......^",
        ),
        ("foo(1)", "ERROR: <input>:1:4: undeclared reference to 'foo' (in container '')\n | foo(1)\n | ...^"),
        ("duration('x')", "ERROR: <input>:1:10: invalid duration argument\n | duration('x')\n | .........^"),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        ("has(1)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(1)\n | ....^"),
    ] {
        assert_eq!(run(text).expect_err(text), message, "{text}");
    }
}

#[test]
fn objects_of_patches_are_made() {
    let mut env = Env::new();
    env.patch_types();
    let eval = |text: &str| {
        let program = env.compile(text).map_err(|e| e.to_string()).expect(text);
        program.eval(&Vars(json!({})), &mut Budget::new(1000)).expect(text)
    };
    let v = eval("Object{spec: Object.spec{replicas: 2, list: [Object.spec.list{a: 'b'}]}}");
    assert_eq!(v.to_json().expect("json"), json!({"spec": {"replicas": 2, "list": [{"a": "b"}]}}));
    assert!(v.check_type_names().is_ok());
    assert!(eval("Object{spec: Object.other{}}").check_type_names().is_err());
    let v = eval("[JSONPatch{op: 'add', path: '/' + jsonpatch.escapeKey('a/b'), value: 1}]");
    assert_eq!(v.to_json().expect("json"), json!([{"op": "add", "path": "/a~1b", "value": 1}]));
    assert!(Env::new().compile("Object{}").is_err());
}

#[test]
fn costs_are_counted_and_bounded() {
    let mut budget = Budget::new(1000);
    let program = env().compile("self.list.all(a, self.list.all(b, a == b || true))").expect("compiles");
    let vars = Vars(json!({"self": {"list": (0..100).collect::<Vec<_>>()}}));
    let failed = program.eval(&vars, &mut budget).expect_err("too dear");
    assert!(failed.is_cost_exceeded() && budget.spent() > 1000);

    let spent = |text: &str| {
        let mut budget = Budget::new(1000);
        let vars = Vars(json!({"self": {"x": 1, "name": "abc", "list": [1, 2, 3]}}));
        env().compile(text).expect(text).eval(&vars, &mut budget).expect(text);
        budget.spent()
    };
    assert_eq!(spent("self.x > 0"), 3);
    assert_eq!(spent("self.x == 1 && self.name == 'abc'"), 6);
    assert_eq!(spent("'abc' == 'abd'"), 1);
    assert_eq!(spent("[1, 2]"), 0);
}

/// Costs by cel-go's rules (`checker/cost_test.go` has most of them).
#[test]
fn estimates_are_those_of_upstream() {
    struct Input;
    impl Sizes for Input {
        fn max_size(&self, path: &[String]) -> Option<u64> {
            match path.join(".").as_str() {
                "input" => Some(100),
                "input.@items" => Some(10),
                "str" => Some(500),
                _ => None,
            }
        }
    }
    let mut env = Env::new();
    env.variable("input", Type::list(Type::String));
    env.variable("str", Type::String);
    env.variable("rt", Type::object("Root"));
    let fields = [("f", Type::Bool)].into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
    env.object_type(ObjectType { name: "Root".to_owned(), fields });
    let cost = |text: &str| env.compile(text).map_err(|e| e.to_string()).expect(text).cost(&Input).max;
    for (text, max) in [
        ("'Hello World!'", 0),
        ("input", 1),
        ("rt.f", 2),
        ("has(rt.f)", 1),
        ("{'a': 1}", 30),
        ("[]", 10),
        ("input.all(x, true)", 302),
        ("input.all(x, [1, 2, 3].all(y, true))", 2302),
        ("5 + 7 == 12", 2),
        ("str.contains(str)", 2502),
        ("str.startsWith(str)", 52),
        ("str.matches('[0-9]+')", 103),
        ("str + str", 102),
        ("true ? 1 : 2 + 2", 1),
    ] {
        assert_eq!(cost(text), max, "{text}");
    }
    assert_eq!(env.compile("input.all(x, x == str)").expect("compiles").cost(&Any).max, u64::MAX);
}

#[test]
fn deep_and_large_texts_are_refused() {
    let nested = format!("{}1{}", "(".repeat(300), ")".repeat(300));
    let chained = vec!["1"; 5000].join(" + ");
    let copied = format!("optional.of(1){}", ".optMap(x, x)".repeat(60));
    for text in [nested, chained, copied, " ".repeat(100_001)] {
        assert!(run(&text).is_err());
    }
    assert!(run(&vec!["true"; 5000].join(" && ")).is_ok());
}
