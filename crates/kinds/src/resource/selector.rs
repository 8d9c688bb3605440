//! What a selector's expression in CEL knows of a device, and whether it can be taken
//! (upstream: dynamic-resource-allocation `cel/compile.go`).

use super::common::Found;
use crate::declared::engine::{self, Env, Program, Type};
use meta::field::{Error, Path};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The longest expression, in bytes.
const BYTES_MAX: usize = 10 * 1024;
/// What one evaluation may cost, in CEL's units (upstream: `CELSelectorExpressionMaxCost`).
const COST_MAX: u64 = 1_000_000;
const DEVICE: &str = "device";
const DEVICE_TYPE: &str = "kubernetes.DRADevice";

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let by_domain = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let fields = [
        ("driver", Type::String),
        ("allowMultipleAllocations", Type::Bool),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::opaque("kubernetes.Quantity"))),
    ];
    let fields: BTreeMap<String, Type> = fields.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
    let mut env = Env::new();
    engine::object_type(&mut env, DEVICE_TYPE, fields);
    engine::variable(&mut env, DEVICE, Type::object(DEVICE_TYPE));
    env
});

/// Checks an expression that is new.
pub fn check(expression: &str, at: &Path, found: &mut Found) {
    if expression.len() > BYTES_MAX {
        found.errors.push(Error::too_long(at, BYTES_MAX));
        return;
    }
    match engine::compile(&ENV, expression) {
        Err(why) => found.errors.push(Error::invalid(at, expression, format!("compilation failed: {why}"))),
        Ok(program) if !matches!(program.output(), Type::Bool | Type::Dyn) => {
            let output = match program.output() {
                Type::Null => "null_type".to_owned(),
                other => other.to_string(),
            };
            let detail = format!("must evaluate to bool or the unknown type, not {output}");
            found.errors.push(Error::invalid(at, expression, detail));
        }
        Ok(program) if cost(&program) > COST_MAX => {
            found.errors.push(Error::forbidden(at, "too complex, exceeds cost limit"));
        }
        Ok(_) => {}
    }
}

/// The most that an evaluation costs: all parts of a device have a largest size.
fn cost(program: &Program) -> u64 {
    engine::max_cost(program, &|path| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Some(match path.as_slice() {
            [DEVICE, "driver"] => 63,
            [DEVICE, "allowMultipleAllocations"] => 1,
            [DEVICE, "attributes" | "capacity"] => 32,
            [DEVICE, "attributes" | "capacity", "@keys"] => 63,
            [DEVICE, "attributes" | "capacity", "@values"] => 32,
            [DEVICE, "attributes" | "capacity", "@values", "@keys"] => 32,
            [DEVICE, "attributes", "@values", "@values"] => 64,
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(expression: &str) -> Vec<String> {
        let mut found = Found::default();
        check(expression, &Path::new("e"), &mut found);
        found.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn expressions_are_compiled() {
        for good in [
            "true",
            r#"device.driver == "gpu.example.com" && device.attributes["gpu.example.com"].healthy"#,
            r#"device.capacity["gpu.example.com"].memory.isGreaterThan(quantity("10Gi"))"#,
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(errors(good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(
            errors("device.driver"),
            ["e: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"]
        );
        assert!(
            errors("device.nope")[0]
                .contains("compilation failed: ERROR: <input>:1:7: undefined field 'nope'")
        );
        assert!(errors("")[0].starts_with("e: Invalid value: \"\": compilation failed: "));
        assert!(errors(&"x".repeat(BYTES_MAX + 1))[0].starts_with("e: Too long"));
    }
}
